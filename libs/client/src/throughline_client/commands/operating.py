"""`throughline up` and `throughline status`."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Self

import click
import grpc

from throughline.eventlog.v1 import eventlog_pb2
from throughline_client.client import Throughline
from throughline_client.commands.running import (
    SUITE_ENDED,
    UNAVAILABLE,
    Failure,
    connected,
    output_option,
    tell,
)
from throughline_client.commands.showing import counting, how_long, plain, print_json, print_table, when
from throughline_client.endpoints import EndpointError, data_folder
from throughline_client.sdk.settling import Behind
from throughline_client.suite import Suite
from throughline_client.suite.suite import BUS, READY_SECONDS
from throughline_eventlog.partitions import service_of
from throughline_rpc import RemoteRefusal

PORT_BASE = 7420
NO_ADDRESS = "NO ADDRESS"


@click.command()
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder that keeps logs, keys and streams (THROUGHLINE_DATA; else .throughline).",
)
@click.option(
    "--port-base",
    type=click.IntRange(0, 65_300),
    default=PORT_BASE,
    show_default=True,
    help="First port: the services in order, the bus at +5, metrics from +10, more partitions of ingestion from +20, "
    "their metrics from +100; 0 takes free ones.",
)
@click.option(
    "--wait", type=float, default=READY_SECONDS, show_default=True, help="Seconds until every service must be ready."
)
def up(*, data: Path | None, port_base: int, wait: float) -> None:
    """Run the whole suite on this machine, in the foreground.

    Starts a real nats-server (JetStream, synced before each acknowledgement) and the five services as processes, on
    the loopback only, and stops them in order on Ctrl-C or SIGTERM. All that it keeps is in one folder, and the next
    `up` on it goes on. Nothing is restarted silently: where a part ends by itself all is stopped and its last words are
    shown.

    \b
    Examples:
      throughline up
      throughline up --data /srv/throughline --port-base 9000

    \b
    Exit codes: 0 stopped as asked; 3 could not start (folder in use, port busy, a part not ready); 5 a part ended.
    """
    suite = Suite(data_folder(data).absolute(), port_base=port_base, ready_seconds=wait)
    with _Asked() as asked:
        tell(f"starting on {suite.folder} ...")
        try:
            suite.start()
            _print_suite(suite)
            _watch(suite, asked)
        except _StopAskedError:
            pass
        finally:
            asked.listening = False
            tell("stopping ...")
            suite.stop()
            tell("stopped")


class _StopAskedError(BaseException):
    """SIGINT or SIGTERM while starting."""


class _Asked:
    """Hears SIGINT and SIGTERM. While starting they break off what is being waited for."""

    def __init__(self) -> None:
        self.listening = True
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self.listening:
            self.listening = False
            raise _StopAskedError(number)


def _watch(suite: Suite, asked: _Asked) -> None:
    while asked.listening:
        deaths = suite.deaths()
        if deaths:
            raise Failure(
                "\n".join(map(str, deaths))
                + "\neverything else is stopped; start again with `throughline up`: nothing "
                "acknowledged is lost",
                SUITE_ENDED,
            )
        time.sleep(0.2)


def _print_suite(suite: Suite) -> None:
    rows = [
        [
            name,
            suite.addresses[name],
            f"http://{suite.metrics[name]}/metrics",
            suite.pids[name],
            str(suite.log_file(name)),
        ]
        for name in suite.parts
    ]
    rows.append([BUS, suite.bus.url, "", str(suite.pids[BUS]), str(suite.log_file(BUS))])
    print_table(["part", "address", "metrics", "process", "log"], rows, title="serving")
    tell("everything listens on loopback only (127.0.0.1), and believes whoever calls from this machine")
    tell("Ctrl-C stops it")


@dataclass(frozen=True, slots=True)
class _Asking:
    """What the service with a log said of itself."""

    log: str
    health: str
    checkpoint: eventlog_pb2.GetCheckpointResponse | None


async def _ask(client: Throughline, name: str, *, digest: bool) -> _Asking:
    try:
        log = client.log(name)
    except EndpointError:
        return _Asking(name, NO_ADDRESS, None)
    health = await log.health()
    if health == "UNREACHABLE":
        return _Asking(name, health, None)
    try:
        return _Asking(name, health, await log.checkpoint(digest=digest, timeout=10.0))
    except RemoteRefusal as refusal:
        if refusal.code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}:
            return _Asking(name, "UNREACHABLE", None)
        raise


@click.command()
@click.option("--digest", is_flag=True, help="Also the digest of each live state (reads the whole state).")
@click.option(
    "--wait",
    "seconds",
    type=click.FloatRange(min=0),
    help="First wait until every service has taken everything, so many seconds at most.",
)
@output_option
@connected
async def status(client: Throughline, *, digest: bool, seconds: float | None, output: str) -> None:
    """Show positions, lags, outboxes, health, and what became of what was offered.

    \b
    position   last event of the service's own log
    lag        bus messages that a consumer has not taken yet, by stream
    published  position up to which the log is on the bus
    outbox     age of the oldest event that is not on the bus yet

    \b
    Examples:
      throughline status
      throughline status --digest --output json
      throughline status --wait 60

    \b
    Exit codes: 0 all serve; 3 a service cannot be reached, does not serve, or has not taken everything in time.
    """
    late = await _settle(client, seconds) if seconds is not None else []
    asked = await asyncio.gather(*(_ask(client, log, digest=digest) for log in client.endpoints.logs))
    tallies: list[eventlog_pb2.Tally] = []
    if all(each.checkpoint is not None for each in asked if service_of(each.log) == "ingestion"):
        tallies = await client.ingestion.tallies()
    if output == "json":
        print_json(
            {
                "services": {
                    each.log: {
                        "health": each.health,
                        "address": client.endpoints.addresses.get(each.log, ""),
                        **(plain(each.checkpoint) if each.checkpoint is not None else {}),
                    }
                    for each in asked
                },
                "tallies": [plain(each) for each in tallies],
            }
        )
    else:
        _print_status(asked, tallies, digest=digest)
    if all(each.health == NO_ADDRESS for each in asked):
        tell(
            f"no suite runs on {client.endpoints.folder}: start one with `throughline up`, or say where the services "
            "are"
        )
    for each in late:
        tell(f"after {seconds:g} s {each}")
    if late or any(each.health != "SERVING" for each in asked):
        raise click.exceptions.Exit(UNAVAILABLE)


async def _settle(client: Throughline, seconds: float) -> list[Behind]:
    """Waits, and shows how many events everyone together has still to take."""
    with counting() as progress:
        task = progress.add_task("taking what is in the logs", total=None)
        most = 0

        def told(late: Sequence[Behind]) -> None:
            nonlocal most
            left = sum(each.position - each.taken for each in late)
            most = max(most, left)
            progress.update(task, total=most, completed=most - left)

        return await client.settled(seconds, told)


def _print_status(asked: list[_Asking], tallies: list[eventlog_pb2.Tally], *, digest: bool) -> None:
    columns = ["service", "health", "events", "position", "published", "outbox", "lag", "last event"]
    rows: list[list[object]] = []
    for each in asked:
        found = each.checkpoint
        if found is None:
            rows.append([each.log, each.health, *("-" for _ in columns[2:]), *(["-"] if digest else [])])
            continue
        lags = [f"{inbox.stream} {inbox.lag}" for inbox in found.inbox]
        rows.append(
            [
                each.log,
                each.health,
                f"{found.events:,}",
                f"{found.position:,}",
                f"{found.published_position:,}",
                how_long(found.outbox_age),
                lags or "-",
                when(found.recorded_at),
                *([found.digest] if digest else []),
            ]
        )
    print_table([*columns, *(["digest"] if digest else [])], rows)
    if tallies:
        ends = ["offered", "recorded", "duplicate", "conflict", "quarantined", "refused"]
        print_table(
            ["source", *ends],
            [[each.source or "(none)", *(getattr(each, end) for end in ends)] for each in tallies],
            title="\nwhat was offered, and what became of it",
        )
