"""`throughline log read`: any service's log as it is."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

import click
from google.protobuf import symbol_database
from google.protobuf.message import DecodeError, Message

import throughline
from throughline.eventlog.v1 import eventlog_pb2
from throughline_client.client import Throughline
from throughline_client.commands.running import LOG, as_of_option, connected, output_option
from throughline_client.commands.showing import plain, print_line, print_table, when


@click.group()
def log() -> None:
    """Read the event log of a service.

    \b
    Examples:
      throughline log read ingestion --limit 10
      throughline log read identity --client 5f0c... --output json
    """


@log.command("read")
@click.argument("log", type=LOG)
@click.option("--after", type=click.IntRange(0), default=0, help="Only positions after this one.")
@click.option("--until", type=click.IntRange(0), default=0, help="Only positions up to this one.")
@as_of_option
@click.option("--client", "client_id", default="", help="Only what concerns this client (id or alias).")
@click.option("--interaction", "interaction_ids", multiple=True, help="Only what concerns this interaction.")
@click.option("--limit", type=click.IntRange(0), default=0, help="At most this many events.")
@output_option
@connected
async def read(
    client: Throughline,
    *,
    log: str,
    after: int,
    until: int,
    as_of: int,
    client_id: str,
    interaction_ids: tuple[str, ...],
    limit: int,
    output: str,
) -> None:
    """Read a LOG in order: a service's, or that of a partition of ingestion (ingestion-101).

    As JSON: one event a line, with its content; personal values stay sealed.

    \b
    Examples:
      throughline log read ingestion --after 1000 --limit 50
      throughline log read journey --client 5f0c... --output json
    """
    events = client.log(log).read(
        after=after, until=until, as_of=as_of, client_id=client_id, interaction_ids=interaction_ids, limit=limit
    )
    if output == "json":
        decode = EventDecoder()
        async for event in events:
            print_line(decode(event))
        return
    rows: list[list[object]] = []
    async for event in events:
        envelope = eventlog_pb2.Envelope.FromString(event.envelope)
        rows.append(
            [
                f"{event.position}",
                event.type.rpartition(".")[2],
                when(envelope.occurred_at),
                when(envelope.recorded_at),
                event.stream_id.hex(),
                f"{event.version}",
                envelope.event_id.hex(),
            ]
        )
    print_table(["position", "event", "occurred", "recorded", "stream", "version", "event id"], rows)


class EventDecoder:
    """Turns logged events into plain values; knows the published events of every service."""

    def __init__(self) -> None:
        for module in pkgutil.walk_packages(throughline.__path__, "throughline."):
            if module.name.endswith("events_pb2"):
                importlib.import_module(module.name)
        self._symbols = symbol_database.Default()

    def __call__(self, event: eventlog_pb2.LoggedEvent) -> dict[str, Any]:
        """One event with its envelope; a payload of a type that is not known here stays bytes in hex."""
        envelope = eventlog_pb2.Envelope.FromString(event.envelope)
        told = {**plain(event), **plain(envelope)}
        del told["envelope"]
        told["payload"] = self._payload(event.type, envelope.payload)
        return told

    def _payload(self, name: str, payload: bytes) -> Any:
        try:
            kind: type[Message] = self._symbols.GetSymbol(name)
            return plain(kind.FromString(payload))
        except (KeyError, DecodeError):
            return payload.hex()
