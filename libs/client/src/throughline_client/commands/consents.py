"""Commands about consent: what clients said about purposes."""

from __future__ import annotations

import click

from throughline_client.client import Throughline
from throughline_client.commands.clients import Identifiers, identifier_option
from throughline_client.commands.running import (
    Instant,
    as_of_option,
    connected,
    output_option,
    whom,
)
from throughline_client.commands.showing import plain, print_facts, print_json, print_table, when


@click.group()
def consent() -> None:
    """Show what a client consents to, or record what they said.

    \b
    Examples:
      throughline consent show -i loyalty_card=2322
      throughline consent record marketing -i loyalty_card=2322 --withdraw --source call_centre
    """


@consent.command()
@click.argument("client_id", default="")
@identifier_option
@as_of_option
@output_option
@connected
async def show(client: Throughline, *, client_id: str, identifiers: Identifiers, as_of: int, output: str) -> None:
    """Show the last word of a client on each purpose and channel; now, or as it was known at an instant.

    \b
    Examples:
      throughline consent show -i loyalty_card=2322
      throughline consent show -i loyalty_card=2322 --as-of 2026-05-03T14:00:00+02:00
    """
    client_id = await whom(client, client_id, identifiers, as_of)
    found = (await client.identity.client(client_id, as_of=as_of)).consents
    if output == "json":
        print_json([plain(each) for each in found])
        return
    print_table(
        ["purpose", "channel", "said", "at", "told by", "event id"],
        [
            [c.purpose, c.scope or "(all)", "granted" if c.granted else "withdrawn", when(c.at), c.source, c.event_id]
            for c in found
        ],
    )


@consent.command()
@click.argument("purpose")
@click.argument("client_id", default="")
@identifier_option
@click.option("--grant/--withdraw", "granted", required=True, help="What the client said.")
@click.option("--source", required=True, help="Who reports it, e.g. call_centre.")
@click.option("--channel", "scope", default="", help="The channel that it is about; else all.")
@click.option("--at", type=Instant(), default=0, help="When the client said so; else now.")
@output_option
@connected
async def record(
    client: Throughline,
    *,
    purpose: str,
    client_id: str,
    identifiers: Identifiers,
    granted: bool,
    source: str,
    scope: str,
    at: int,
    output: str,
) -> None:
    """Record what a client said about a purpose. The last word by time holds.

    \b
    Examples:
      throughline consent record marketing 5f0c... --withdraw --source call_centre
      throughline consent record measurement -i loyalty_card=2322 --grant --source store --channel store
      throughline consent record service 5f0c... --withdraw --source letter --at 2026-11-20
    """
    client_id = await whom(client, client_id, identifiers)
    answer = await client.identity.record_consent(
        client_id, purpose, granted=granted, source=source, scope=scope, at=at
    )
    if output == "json":
        print_json(plain(answer))
        return
    print_facts({"client": client_id, purpose: "granted" if granted else "withdrawn", "position": answer.position})
