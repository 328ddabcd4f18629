"""The command about access: who read whose data."""

from __future__ import annotations

import click

from throughline_client.client import Throughline
from throughline_client.commands.clients import Identifiers, identifier_option
from throughline_client.commands.running import (
    connected,
    output_option,
    whom,
)
from throughline_client.commands.showing import plain, print_line, print_table, when
from throughline_rpc import EVERYBODY


@click.command()
@click.argument("client_id", default="")
@identifier_option
@output_option
@connected
async def access(client: Throughline, *, client_id: str, identifiers: Identifiers, output: str) -> None:
    """Show who read a client's data, or anybody's: when, as what, for what and from where. For auditors and admins.

    A read of a whole log is one of everybody's. As JSON: one read a line.

    \b
    Examples:
      throughline access -i loyalty_card=2322
      throughline access 5f0c... --output json
      throughline access
    """
    if client_id and identifiers:
        raise click.UsageError("name the client by CLIENT_ID or by --identifier TYPE=VALUE, or nobody for all reads")
    if identifiers:
        client_id = await whom(client, client_id, identifiers)
    found = await client.accesses(client_id)
    if output == "json":
        for service, entry in found:
            print_line({"service": service, **plain(entry)})
        return
    print_table(
        ["at", "who", "as", "for", "from", "what", "of", "refused"],
        [
            [
                when(entry.at),
                " for ".join(each for each in (entry.access.caller, entry.access.on_behalf_of) if each),
                ", ".join(entry.access.roles),
                entry.access.purpose,
                entry.access.peer,
                f"{service} {entry.access.method.rpartition('/')[2]}",
                _whose(list(entry.access.ids)),
                entry.access.refused,
            ]
            for service, entry in found
        ],
    )


def _whose(ids: list[str]) -> str:
    if ids == [EVERYBODY]:
        return "everybody"
    return ", ".join(ids[:2]) + (f" and {len(ids) - 2} more" if len(ids) > 2 else "")
