"""Commands about intake: channels, sources, the quarantine, recording by hand."""

from __future__ import annotations

import base64
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, cast

import click
import orjson
from google.protobuf import json_format

from throughline.ingestion.v1 import interaction_pb2
from throughline_client.client import Throughline
from throughline_client.commands.running import BAD_INPUT, REFUSED, connected, output_option, tell
from throughline_client.commands.showing import plain, print_facts, print_json, print_table, when
from throughline_client.sdk.recording import VERDICTS, Verdicts, in_batches


@click.group(invoke_without_command=True)
@click.pass_context
def channels(ctx: click.Context) -> None:
    """List the channels, or register one.

    \b
    Examples:
      throughline channels
      throughline channels add kiosk --name Kiosk --physical --automated --group store
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_channels, output="table")


@channels.command("list")
@output_option
@connected
async def list_channels(client: Throughline, *, output: str) -> None:
    """List the registered channels.

    \b
    Example:
      throughline channels list --output json
    """
    found = await client.ingestion.channels()
    if output == "json":
        print_json([plain(each) for each in found])
        return
    print_table(
        ["channel", "name", "medium", "served by", "group"],
        [
            [
                each.channel,
                each.traits.name,
                "physical" if each.traits.physical else "digital",
                "a person" if each.traits.assisted else "itself",
                each.traits.group,
            ]
            for each in found
        ],
    )


@channels.command("add")
@click.argument("channel")
@click.option("--name", required=True, help="Name for people.")
@click.option("--physical/--digital", required=True, help="What it is.")
@click.option("--assisted/--automated", required=True, help="Whether a person assists.")
@click.option("--group", default="", help="Channels reported together.")
@click.option("--replace", is_flag=True, help="Change the traits it has.")
@output_option
@connected
async def add_channel(
    client: Throughline,
    *,
    channel: str,
    name: str,
    physical: bool,
    assisted: bool,
    group: str,
    replace: bool,
    output: str,
) -> None:
    """Register a channel. What waits in quarantine for it can be redriven then.

    \b
    Example:
      throughline channels add kiosk --name Kiosk --physical --automated
    """
    traits = interaction_pb2.ChannelTraits(name=name, physical=physical, assisted=assisted, group=group)
    answer = await client.ingestion.register_channel(channel, traits, replace=replace)
    if output == "json":
        print_json(plain(answer))
    else:
        print_facts({"channel": answer.channel.channel, "new": answer.created})


@click.group(invoke_without_command=True)
@click.pass_context
def sources(ctx: click.Context) -> None:
    """List the sources, or register one.

    \b
    Examples:
      throughline sources
      throughline sources add kiosks --name "Kiosk fleet" --channel kiosk
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_sources, output="table")


@sources.command("list")
@output_option
@connected
async def list_sources(client: Throughline, *, output: str) -> None:
    """List the registered sources.

    \b
    Example:
      throughline sources list --output json
    """
    found = await client.ingestion.sources()
    if output == "json":
        print_json([plain(each) for each in found])
        return
    print_table(
        ["source", "name", "channels"],
        [[each.source, each.name, list(each.channels) or "(any)"] for each in found],
    )


@sources.command("add")
@click.argument("source")
@click.option("--name", required=True, help="Name for people.")
@click.option("--channel", "allowed", multiple=True, help="A channel it may report; any where left out.")
@click.option("--replace", is_flag=True, help="Change what is registered.")
@output_option
@connected
async def add_source(
    client: Throughline, *, source: str, name: str, allowed: tuple[str, ...], replace: bool, output: str
) -> None:
    """Register a source.

    \b
    Example:
      throughline sources add kiosks --name "Kiosk fleet" --channel kiosk
    """
    answer = await client.ingestion.register_source(source, name, allowed, replace=replace)
    if output == "json":
        print_json(plain(answer))
    else:
        print_facts({"source": answer.source.source, "new": answer.created})


@click.group()
def quarantine() -> None:
    """Look at what waits in quarantine, and offer it again.

    \b
    Examples:
      throughline quarantine list
      throughline quarantine redrive --channel kiosk
    """


@quarantine.command("list")
@output_option
@connected
async def list_quarantine(client: Throughline, *, output: str) -> None:
    """List what waits in quarantine, oldest first.

    \b
    Example:
      throughline quarantine list --output json
    """
    found = [each async for each in client.ingestion.quarantine()]
    if output == "json":
        print_json([plain(each) for each in found])
        return
    print_table(
        ["interaction", "source", "source's id", "channel", "reason", "remedy", "recorded"],
        [
            [
                each.interaction_id,
                each.source,
                each.source_interaction_id,
                each.channel,
                each.reason,
                each.remedy,
                when(each.recorded_at),
            ]
            for each in found
        ],
    )


@quarantine.command("redrive")
@click.option("--channel", default="", help="Only those of this channel.")
@click.option("--reason", default="", help="Only those quarantined for this, e.g. CHANNEL_UNKNOWN.")
@click.option("--interaction", "interaction_id", default="", help="Only this one.")
@output_option
@connected
async def redrive(client: Throughline, *, channel: str, reason: str, interaction_id: str, output: str) -> None:
    """Offer quarantined interactions again: all, or those that match.

    \b
    Example:
      throughline quarantine redrive --channel kiosk
    """
    answer = await client.ingestion.redrive(interaction_id=interaction_id, channel=channel, reason=reason)
    if output == "json":
        print_json(plain(answer))
    else:
        print_facts({name.replace("_", " "): value for name, value in plain(answer).items()})


# Recording by hand.

_SHORT: Final = {
    "assurance": "ASSURANCE_",
    "sensitivity": "SENSITIVITY_",
    "subject_type": "SUBJECT_TYPE_",
    "kind": "FEEDBACK_KIND_",
}


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False, allow_dash=True))
@output_option
@connected
async def record(client: Throughline, *, file: Path, output: str) -> None:
    """Record interactions from NDJSON, one throughline.ingestion.v1.Interaction a line (- reads standard input).

    Attributes are JSON objects, times microseconds; enums may be short ("verified", "nps"). Lines that cannot be read
    are told and harm no other; running it again counts nothing twice.

    \b
    Examples:
      throughline record interactions.ndjson
      echo '{"source":"desk","source_interaction_id":"1","channel":"phone","kind":"call",
             "occurred_at":1763800000000000}' | throughline record -

    \b
    Exit codes: 0 all recorded or known before; 1 ingestion refused, quarantined or found in conflict some;
    2 a line could not be read; 3 ingestion cannot be reached.
    """
    unreadable: list[dict[str, object]] = []
    troubles: list[dict[str, object]] = []
    verdicts = Verdicts()
    batches = in_batches(_interactions(file, unreadable))
    async for answered in client.ingestion.record_batches(batches, patience=60.0):
        verdicts.add(answered.results)
        for offered, given in zip(answered.interactions, answered.results, strict=True):
            if given.violations:
                troubles.append(
                    {
                        "verdict": VERDICTS.get(given.verdict, "refused"),
                        "source": offered.source,
                        "source_interaction_id": offered.source_interaction_id,
                        "violations": [plain(each) for each in given.violations],
                    }
                )
    if output == "json":
        print_json({**verdicts.as_dict(), "unreadable": unreadable, "not_recorded": troubles})
    else:
        print_facts(verdicts.as_dict())
        for trouble in troubles:
            for each in cast("list[dict[str, str]]", trouble["violations"]):
                tell(
                    f"{trouble['verdict']}: {trouble['source']} {trouble['source_interaction_id']}: "
                    f"{each['field']}: {each['rule']}; {each['remedy']}"
                )
        for line in unreadable:
            tell(f"line {line['line']}: {line['rule']}; {line['remedy']}")
    if unreadable:
        raise click.exceptions.Exit(BAD_INPUT)
    if verdicts.offered != verdicts.recorded + verdicts.duplicate:
        raise click.exceptions.Exit(REFUSED)


def _interactions(file: Path, unreadable: list[dict[str, object]]) -> Iterator[interaction_pb2.Interaction]:
    with sys.stdin.buffer if str(file) == "-" else file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                yield read_interaction(line)
            except ValueError as error:
                remedy = "write one throughline.ingestion.v1.Interaction in JSON"
                unreadable.append({"line": number, "rule": str(error), "remedy": remedy})


def read_interaction(line: bytes) -> interaction_pb2.Interaction:
    """Reads one interaction from JSON. Raises: ValueError saying what does not fit."""
    try:
        found: Any = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError("is no JSON object")  # noqa: TRY004 -- what is wrong is the input, not a type of ours
    try:
        return json_format.ParseDict(_expanded(cast("dict[str, Any]", found)), interaction_pb2.Interaction())
    except json_format.ParseError as error:
        raise ValueError(str(error)) from None


def _expanded(fields: dict[str, Any]) -> dict[str, Any]:
    """Attributes as bytes, and enums under their full names, as the JSON form of messages wants them."""
    expanded = dict(fields)
    for name in ("attributes", "personal_attributes"):
        value = expanded.get(name)
        if isinstance(value, dict):
            expanded[name] = base64.b64encode(orjson.dumps(value)).decode()
    _expand_enum(expanded, "subject_type")
    for name, enum in (("identifiers", "assurance"), ("exchanges", "sensitivity"), ("feedback", "kind")):
        entries = expanded.get(name)
        if isinstance(entries, list):
            copies: list[Any] = [
                dict(cast("dict[str, Any]", each)) if isinstance(each, dict) else each
                for each in cast("list[object]", entries)
            ]
            for copy in copies:
                if isinstance(copy, dict):
                    _expand_enum(cast("dict[str, Any]", copy), enum)
            expanded[name] = copies
    return expanded


def _expand_enum(fields: dict[str, Any], name: str) -> None:
    value = fields.get(name)
    if isinstance(value, str) and not value.startswith(_SHORT[name]):
        fields[name] = _SHORT[name] + value.upper()
