"""Commands about journeys: definitions, figures, channel sequences, hand-offs."""

from __future__ import annotations

from pathlib import Path

import click

from throughline.journey.v1 import definitions_pb2, journey_pb2
from throughline_client.client import Throughline
from throughline_client.commands.clients import print_context
from throughline_client.commands.definitions import read_definition
from throughline_client.commands.running import TakesToken, as_of_option, between_option, connected, output_option
from throughline_client.commands.showing import (
    exactly,
    how_long,
    plain,
    print_facts,
    print_json,
    print_table,
    when,
)
from throughline_kernel import Interval


@click.group(invoke_without_command=True)
@click.pass_context
def journeys(ctx: click.Context) -> None:
    """List the journeys, look at one, or define one.

    \b
    Examples:
      throughline journeys
      throughline journeys show social_to_store
      throughline journeys define returns.yaml --by ana
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_journeys, as_of=0, output="table")


@journeys.command("list")
@as_of_option
@output_option
@connected
async def list_journeys(client: Throughline, *, as_of: int, output: str) -> None:
    """List the journeys that are defined, or were at an instant.

    \b
    Examples:
      throughline journeys list --output json
      throughline journeys list --as-of 2026-05-03T14:00:00+02:00
    """
    found = await client.journey.journeys(as_of=as_of)
    if output == "json":
        print_json([plain(each) for each in found])
        return
    print_table(
        ["journey", "version", "name", "owner", "stages", "goals", "time-out"],
        [
            [
                each.journey,
                each.version,
                each.name,
                each.owner,
                [stage.stage for stage in each.stages],
                list(each.goal_stages),
                how_long(each.timeout),
            ]
            for each in found
        ],
    )


@journeys.command("show")
@click.argument("journey")
@as_of_option
@between_option
@output_option
@connected
async def show_journey(client: Throughline, *, journey: str, as_of: int, between: Interval, output: str) -> None:
    """Show how many started, are open, completed, were abandoned, by stage.

    --as-of shows it as it was known at an instant, under the definition of then; --between what was started in an
    interval.

    \b
    Examples:
      throughline journeys show social_to_store
      throughline journeys show social_to_store --between 2026-04-01 2026-05-01 --as-of 2026-05-03
    """
    found = await client.journey.stats(journey, as_of=as_of, between=between)
    if output == "json":
        print_json(plain(found))
        return
    print_facts(
        {
            "journey": f"{found.journey} v{found.version}",
            "owner": found.owner,
            "started": found.started,
            "open": found.open,
            "completed": found.completed,
            "abandoned": found.abandoned,
            "channel switches": found.channel_switches,
            "median duration": how_long(found.median_duration),
        }
    )
    print_table(
        ["stage", "reached", "loops", "abandoned", "open"],
        [[each.stage, each.reached, each.loops, each.abandoned, each.open] for each in found.stages],
        title="\nstages",
    )
    _as_known(found)


def _as_known(answer: journey_pb2.GetJourneyStatsResponse | journey_pb2.GetVariantsResponse) -> None:
    click.echo(f"\nAs journey knew it at {exactly(answer.as_of)}, position {answer.position}.")


@journeys.command("define")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("--by", required=True, help="Who defines it.")
@output_option
@connected
async def define_journey(client: Throughline, *, file: Path, by: str, output: str) -> None:
    """Publish a journey: a YAML or JSON file in the form of throughline.journey.v1.JourneyDefinition.

    \b
    Example:
      throughline journeys define returns.yaml --by ana
    """
    answer = await client.journey.define(read_definition(file, definitions_pb2.JourneyDefinition()), defined_by=by)
    if output == "json":
        print_json(plain(answer))
    else:
        print_facts({"journey": answer.journey, "version": answer.version, "clients told again": answer.clients})


@click.command()
@click.argument("journey", default="")
@click.option("--top", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many to list.")
@as_of_option
@between_option
@output_option
@connected
async def variants(client: Throughline, *, journey: str, top: int, as_of: int, between: Interval, output: str) -> None:
    """Count the channel sequences that clients took, exactly: of one journey, or of whole histories.

    --as-of counts what was known at an instant; --between journeys that were started in an interval, or what of
    histories happened in it.

    \b
    Examples:
      throughline variants
      throughline variants --between 2026-04-01 2026-05-01
      throughline variants social_to_store --top 5
    """
    answer = await client.journey.variants(journey, top=top, as_of=as_of, between=between)
    if output == "json":
        print_json(plain(answer))
        return
    print_table(
        ["channels", "count", "completed", "abandoned", "median duration"],
        [
            [" > ".join(each.channels), each.count, each.completed, each.abandoned, how_long(each.median_duration)]
            for each in answer.variants
        ],
    )
    print_facts({"all others": answer.others, "other variants": answer.other_variants, "total": answer.total})
    _as_known(answer)


@click.group()
def handoff() -> None:
    """Hand a client over from one channel to another.

    \b
    Examples:
      throughline handoff offer 5f0c... --from web --to store --note "wants to try size M"
      throughline handoff accept TOKEN --channel store --by till-4
    """


@handoff.command("offer")
@click.argument("client_id")
@click.option("--from", "from_channel", required=True, help="The channel that lets go.")
@click.option("--to", "to_channel", required=True, help="The channel that takes over.")
@click.option("--note", default="", help="What it should know besides; no personal values.")
@output_option
@connected
async def offer(
    client: Throughline, *, client_id: str, from_channel: str, to_channel: str, note: str, output: str
) -> None:
    """Offer a client to another channel. The token is told once and works once.

    \b
    Example:
      throughline handoff offer 5f0c... --from web --to store
    """
    answer = await client.journey.offer_handoff(client_id, from_channel=from_channel, to_channel=to_channel, note=note)
    if output == "json":
        print_json(plain(answer))
    else:
        print_facts({"token": answer.token, "good until": when(answer.expires_at), "hand-off": answer.handoff_id})


@handoff.command("accept", cls=TakesToken)
@click.argument("token")
@click.option("--channel", required=True, help="The channel that takes over.")
@click.option("--by", default="", help="Who takes over.")
@output_option
@connected
async def accept(client: Throughline, *, token: str, channel: str, by: str, output: str) -> None:
    """Take a client over, with all that the channel should know.

    \b
    Example:
      throughline handoff accept TOKEN --channel store --by till-4
    """
    answer = await client.journey.accept_handoff(token, channel=channel, accepted_by=by)
    if output == "json":
        print_json(plain(answer))
        return
    print_facts({"hand-off": answer.handoff_id, "note": answer.note})
    print_context(answer.context)
