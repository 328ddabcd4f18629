"""`make bench`: one run, one table, and the same as JSON in .throughline/bench.json. Nothing here is asserted."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
import pytest
from bench import floors
from bench.loads import CHANNELS, SOURCES, clients_of, email_of, load, probe, write_requests
from bench.measuring import ROOT, Cpu, Figure, Report, memory_mb, percentile
from bench.privacy import forgetting, sealing
from bench.proving import evidence, proving
from line import Line, connect, identifier, postgres_environment

from throughline.eventlog.v1 import eventlog_pb2
from throughline.ingestion.v1 import ingestion_pb2, ingestion_pb2_grpc
from throughline.journey.v1 import journey_pb2
from throughline_client.endpoints import SERVICES
from throughline_client.installation import KEYS_FILE, Installation
from throughline_client.sdk.settling import taken_of
from throughline_client.suite.suite import Suite
from throughline_eventlog import StoreSettings, open_store
from throughline_kernel import UPSTREAMS
from throughline_replay import StoredLog, Unit, derive, make_folds, replay_log
from throughline_replay.units import derivable
from throughline_rpc import open_channel
from throughline_testkit.postgres import PostgresServer

pytestmark = pytest.mark.bench

SETTLING: Final = 3_600.0
FRESHNESS_RATE: Final = 500
PROBED_CLIENTS: Final = 40
PROBES_AT_ONCE: Final = 4
LOOK_AGAIN: Final = 0.004
# Interactions of the client whose evidence is packed: some five events each, over all logs.
WITNESSED: Final = 250
SECTIONS: Final = ("ingestion", "postgres", "consumers", "line", "proofs", "privacy")


@dataclass(frozen=True, slots=True)
class Size:
    """Events of each load."""

    floor: int
    unary: int
    batches: int
    backlog: int
    line: int
    probes: int
    reads: int
    interactions: int


SIZES: Final = {
    "tiny": Size(5_000, 500, 5_000, 3_000, 3_000, 40, 100, 6_000),
    "small": Size(50_000, 4_000, 30_000, 30_000, 30_000, 400, 500, 100_000),
    "full": Size(200_000, 20_000, 200_000, 100_000, 100_000, 1_000, 2_000, 300_000),
}


@dataclass
class Bench:
    """One run: its sizes, its folder on the repository's disk, its report."""

    size: Size
    folder: Path
    report: Report
    seeds: Iterator[int]

    def requests(self, events: int, size: int, seed: int | None = None) -> Path:
        """A file of requests of `size` interactions each (0: unary), of ids that nothing else in the run has."""
        chosen = next(self.seeds) if seed is None else seed
        file = self.folder / f"load-{chosen}.{'unary' if not size else 'batches'}"
        write_requests(file, load(chosen, events), size)
        return file

    @contextmanager
    def suite(self, name: str, services: Iterable[str] = SERVICES, **environment: str) -> Iterator[Suite]:
        """A suite of its own, deleted afterwards."""
        suite = Suite(self.folder / name, services=tuple(services), environment=environment)
        try:
            with suite:
                yield suite
        finally:
            shutil.rmtree(suite.folder, ignore_errors=True)


def test_bench(request: pytest.FixtureRequest) -> None:
    """Measures all of it."""
    name = str(request.config.getoption("--bench-size"))
    size = SIZES[name]
    only: list[str] = request.config.getoption("--only") or list(SECTIONS)
    interactions: int = request.config.getoption("--interactions") or size.interactions
    folder = ROOT / ".throughline" / "bench"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    bench = Bench(size, folder, Report(name), iter(range(1, 1_000)))
    try:
        if "ingestion" in only:
            ingestion_on_sqlite(bench)
        if "postgres" in only:
            ingestion_on_postgres(bench)
        if "consumers" in only:
            consumers(bench)
        if "line" in only:
            whole_line(bench, max(interactions, size.line))
        if "proofs" in only:
            proofs(bench)
        if "privacy" in only:
            privacy(bench)
    finally:
        bench.report.print()
        bench.report.write(ROOT / ".throughline" / "bench.json")
        shutil.rmtree(folder, ignore_errors=True)


def proofs(bench: Bench) -> None:
    """What proving costs, and evidence of a client in a suite that holds others too."""
    for figure in proving(bench.folder, bench.size.floor):
        bench.report.add(figure)
    with bench.suite("proofs") as suite:
        asyncio.run(register(suite))
        offer(suite, bench.requests(bench.size.floor // 10, 500), 4)
        person = next(bench.seeds)
        run(suite, lambda line: line.record([probe(person, 0, number) for number in range(WITNESSED)]))
        run(suite, settle)
        for figure in evidence(suite, email_of(person, 0)):
            bench.report.add(figure)


# Durable ingestion.


def ingestion_on_sqlite(bench: Bench) -> None:
    """Ingestion alone, beside what the disk gives."""
    bench.report.add(*floors.sqlite_floors(bench.folder, bench.size.floor))
    with bench.suite("ingestion-sqlite", ["ingestion"]) as suite:
        durable_ingestion(bench, suite, "SQLite", floors.STOCK, 20_000)


def ingestion_on_postgres(bench: Bench) -> None:
    """The same on PostgreSQL: its own server, out of the wheel."""
    server = PostgresServer()
    server.start()
    try:
        bench.report.add(*floors.postgres_floors(server, bench.size.floor))
        with bench.suite("ingestion-postgres", ["ingestion"], **postgres_environment(server, "bench")) as suite:
            durable_ingestion(bench, suite, "PostgreSQL", floors.COPY, 15_000)
    finally:
        server.remove()


def durable_ingestion(bench: Bench, suite: Suite, store: str, floor: str, expected: float) -> None:
    """Unary at 32 in flight, then batches, from a load generator in a process of its own."""
    asyncio.run(register(suite))
    section = "durable ingestion over gRPC"
    offer(suite, bench.requests(1_000, 100), 4)
    raw = bench.report.value(floors.SECTION, floor)
    for what, events, size, in_flight in (
        ("unary, 32 in flight", bench.size.unary, 0, 32),
        ("batches of 100, 8 in flight", bench.size.batches, 100, 8),
        ("batches of 500, 4 in flight", bench.size.batches, 500, 4),
        ("batches of 1,000, 4 in flight", bench.size.batches, 1_000, 4),
    ):
        file = bench.requests(events, size)
        cpu = Cpu({"ingestion": suite.pids["ingestion"]})
        said = offer(suite, file, in_flight)
        rate = said["events"] / said["seconds"]
        assert said["recorded"] == events
        bench.report.add(
            Figure(
                section,
                what,
                rate,
                "events/s",
                store,
                cpu_micros=cpu.micros_per(events)["ingestion"],
                ratio=None if raw is None else rate / raw,
                expected=expected if size >= 500 else None,
                note=f"a call takes p50 {said['p50_ms']:.1f} ms, p99 {said['p99_ms']:.1f} ms",
            )
        )
        file.unlink()


# Consumers.


def consumers(bench: Bench) -> None:
    """Each consumer on a backlog that waits for it, one after the other, on SQLite."""
    with bench.suite("consumers") as suite:
        asyncio.run(register(suite))
        offer(suite, bench.requests(500, 100), 2)
        run(suite, settle)
        for name in SERVICES[1:]:
            suite.end(name)
        offer(suite, bench.requests(bench.size.backlog, 1_000), 4)
        for name in ("identity", "feedback", "journey", "scoring"):
            run(suite, lambda line, name=name: catch_up(bench, line, name))


async def catch_up(bench: Bench, line: Line, name: str) -> None:
    """Times a consumer from the moment before its first step to the last event that waits for it."""
    upstream = {each: (await line.logs[each].GetCheckpoint(_CHECKPOINT)).position for each in UPSTREAMS[name]}
    goal = sum(upstream.values())
    # It starts while the bus is away, so that its start is no part of what is timed.
    line.suite.end("nats")
    line.suite.restart(name, wait=False)
    pid = line.suite.pids[name]
    while (held := await held_of(line, name, upstream)) is None:
        pass
    line.suite.restart("nats")
    taken, began, cpu = held, 0.0, Cpu({name: pid})
    while taken < goal:
        taken = await held_of(line, name, upstream) or taken
        if taken == held:
            began, cpu = time.perf_counter(), Cpu({name: pid})
    seconds = time.perf_counter() - began
    events = goal - held
    bench.report.add(
        Figure(
            "consumer catching up on a backlog",
            name,
            events / seconds,
            "events/s",
            "SQLite",
            cpu_micros=cpu.micros_per(events)[name],
            note=f"{events:,} events of {' and '.join(upstream)}; its own relay is in the CPU",
        )
    )


async def held_of(line: Line, name: str, upstreams: Iterable[str]) -> int | None:
    """How far a consumer has got in all its upstreams together; None while it does not answer."""
    try:
        checkpoint = await line.logs[name].GetCheckpoint(_CHECKPOINT, timeout=5.0)
    except grpc.aio.AioRpcError:
        await asyncio.sleep(LOOK_AGAIN)
        return None
    await asyncio.sleep(LOOK_AGAIN)
    return sum(taken_of(checkpoint, upstream) for upstream in upstreams)


# The line.


def whole_line(bench: Bench, interactions: int) -> None:
    """All five services: throughput, freshness, reads, memory; then a replay of what they left."""
    with bench.suite("line") as suite:
        asyncio.run(register(suite))
        offer(suite, bench.requests(500, 100), 2)
        run(suite, settle)
        seed = next(bench.seeds)
        through_the_line(bench, suite, bench.requests(bench.size.line, 500, seed), bench.size.line, "an empty line")
        freshness(bench, suite)
        run(suite, lambda line: reads(bench, line, seed))
        more = interactions - bench.size.line
        if more > 0:
            file = bench.requests(more, 500)
            through_the_line(bench, suite, file, more, f"until {interactions:,} interactions are held")
        memory(bench, suite, interactions)
        suite.stop()
        replay(bench, suite)
        rederive(bench, suite)


def through_the_line(bench: Bench, suite: Suite, file: Path, events: int, what: str) -> None:
    """From the first interaction offered to everything taken by everyone."""
    cpu = Cpu(suite.pids)
    began = time.perf_counter()
    said = offer(suite, file, 4)
    run(suite, settle)
    seconds = time.perf_counter() - began
    file.unlink()
    each = cpu.micros_per(events)
    bench.report.add(
        Figure(
            "the line, offered until taken by all five",
            what,
            events / seconds,
            "events/s",
            "SQLite",
            cpu_micros=sum(each.values()),
            expected=3_000,
            note=f"offered in {said['seconds']:.1f} s; CPU: "
            + ", ".join(f"{name} {micros:.0f}" for name, micros in each.items()),
        )
    )


def freshness(bench: Bench, suite: Suite) -> None:
    """Acknowledged until visible in ResumeContext, while the line takes a steady load."""
    seed, batch = next(bench.seeds), 10
    file = bench.requests(PROBED_CLIENTS * 50, 500, seed)
    offer(suite, file, 2)
    run(suite, settle)
    steady = bench.requests(bench.size.probes * 30, batch)
    with offering(suite, steady, 16, FRESHNESS_RATE / batch) as under_way:
        took, missed = run(suite, lambda line: probes(bench, line, seed, under_way))
    run(suite, settle)
    took.sort()
    section = f"freshness at {FRESHNESS_RATE}/s"
    note = f"{len(took)} probes, looked for every {LOOK_AGAIN * 1_000:.0f} ms"
    if missed:
        note += f"; {missed} more after the load had ended are left out"
    for what, share, expected in (("p50", 0.5, None), ("p99", 0.99, 1_000)):
        bench.report.add(
            Figure(
                section,
                f"acknowledged until in ResumeContext, {what}",
                percentile(took, share) * 1_000,
                "ms",
                "SQLite",
                expected=expected,
                at_least=False,
                note=note,
            )
        )


async def probes(bench: Bench, line: Line, seed: int, under_way: Callable[[], bool]) -> tuple[list[float], int]:
    """Seconds that each probe took to become visible, and how many were made when the load was over already."""
    numbers = iter(range(bench.size.probes))
    took: list[float] = []
    missed: list[float] = []

    async def watch(worker: int) -> None:
        # Each worker has clients of its own, so that their counts are its own.
        people = [person for person in range(PROBED_CLIENTS) if person % PROBES_AT_ONCE == worker]
        requests = {
            person: journey_pb2.ResumeContextRequest(
                identifiers=[identifier("email", email_of(seed, person))], channel="phone"
            )
            for person in people
        }
        rng = random.Random(worker)
        for number in numbers:
            person = rng.choice(people)
            before = await _seen(line, requests[person])
            asked = ingestion_pb2.RecordInteractionRequest(interaction=probe(seed, person, number))
            await line.ingestion.RecordInteraction(asked)
            began = time.perf_counter()
            await _visible(line, requests[person], before)
            (took if under_way() else missed).append(time.perf_counter() - began)
            # The next one somewhere within the following tenth of a second: probes keep no step with the line.
            await asyncio.sleep(rng.random() * 0.1)

    await asyncio.gather(*(watch(worker) for worker in range(PROBES_AT_ONCE)))
    return took or missed, len(missed) if took else 0


async def _visible(line: Line, request: journey_pb2.ResumeContextRequest, before: int) -> None:
    while await _seen(line, request) <= before:  # noqa: ASYNC110 -- what is waited for is in another process
        await asyncio.sleep(LOOK_AGAIN)


async def _seen(line: Line, request: journey_pb2.ResumeContextRequest) -> int:
    """How many interactions of a client the journey service tells of, 0 where it knows nobody yet."""
    try:
        return (await line.journey.ResumeContext(request)).interactions
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.NOT_FOUND:
            return 0
        raise


async def reads(bench: Bench, line: Line, seed: int) -> None:
    """ResumeContext, one call at a time: clients in memory, clients read from the log, one with a long past."""
    count = min(bench.size.reads, clients_of(bench.size.line))
    everyone = [
        journey_pb2.ResumeContextRequest(identifiers=[identifier("email", email_of(seed, person))], channel="phone")
        for person in range(clients_of(bench.size.line))
    ]
    known = [request for request in everyone[: 2 * count] if await _seen(line, request)][:count]
    long = [probe(seed + 1_000, 0, number) for number in range(500)]
    await line.record(long)
    await line.settled(SETTLING)
    line.suite.restart("journey")
    # Connects again: what is timed is reading.
    await _seen(
        line,
        journey_pb2.ResumeContextRequest(identifiers=[identifier("email", "nobody@post.eu")], channel="phone"),
    )
    bench.report.add(*_reading("cold client, after a restart", await _timed(line, known)))
    bench.report.add(*_reading("warm client", await _timed(line, known)))
    one = journey_pb2.ResumeContextRequest(
        identifiers=[identifier("email", email_of(seed + 1_000, 0))], channel="phone"
    )
    bench.report.add(*_reading("client of 500 events", await _timed(line, [one] * min(200, bench.size.reads))))


async def _timed(line: Line, requests: Iterable[journey_pb2.ResumeContextRequest]) -> list[float]:
    took: list[float] = []
    for request in requests:
        began = time.perf_counter()
        await line.journey.ResumeContext(request)
        took.append(time.perf_counter() - began)
    return sorted(took)


def _reading(what: str, took: list[float]) -> list[Figure]:
    return [
        Figure(
            "ResumeContext",
            f"{what}, {name}",
            percentile(took, share) * 1_000,
            "ms",
            "SQLite",
            expected=20 if name == "p99" else None,
            at_least=False,
            note=f"{len(took)} reads",
        )
        for name, share in (("p50", 0.5), ("p99", 0.99))
    ]


def memory(bench: Bench, suite: Suite, interactions: int) -> None:
    """Resident memory of every process."""
    for name, pid in suite.pids.items():
        now, highest = memory_mb(pid)
        bench.report.add(
            Figure(
                f"memory at {interactions:,} interactions",
                name,
                now,
                "MB",
                "SQLite",
                expected=300 if name in SERVICES else None,
                at_least=False,
                note=f"at its highest {highest:.0f} MB",
            )
        )


def replay(bench: Bench, suite: Suite) -> None:
    """Every log folded from its beginning, from its file, by one process."""
    section, total, spent = "replay, read and folded", 0, 0.0
    for name, fold in make_folds().items():
        store = open_store(StoreSettings.sqlite(name, suite.folder / f"{name}.db"))
        try:
            began = time.perf_counter()
            replayed = replay_log(fold, StoredLog(store).read())
            seconds = time.perf_counter() - began
        finally:
            store.close()
        total, spent = total + replayed.events, spent + seconds
        bench.report.add(
            Figure(
                section,
                name,
                replayed.events / seconds,
                "events/s",
                "SQLite",
                expected=30_000,
                note=f"{replayed.events:,} events",
            )
        )
    bench.report.add(
        Figure(section, "all five logs", total / spent, "events/s", "SQLite", expected=30_000, note=f"{total:,} events")
    )


def rederive(bench: Bench, suite: Suite) -> None:
    """Every log that has upstream logs decided again from its beginning, by one process."""
    section, total, spent = "re-derive, decided again and compared", 0, 0.0
    installation = Installation.in_folder(suite.folder)
    env = {"THROUGHLINE_KEYS_FILE": str(suite.folder / KEYS_FILE), "THROUGHLINE_KEY_STORE": installation.key_store}
    for name in derivable():
        began = time.perf_counter()
        found = derive(Unit(name, installation.stores, env, bench.folder / "rederive" / f"{name}.db"))
        seconds = time.perf_counter() - began
        assert found.same
        total, spent = total + found.events, spent + seconds
        note = f"{found.events:,} events, on {found.taken:,} taken"
        bench.report.add(Figure(section, name, found.events / seconds, "events/s", "SQLite", note=note))
    bench.report.add(Figure(section, "all four logs", total / spent, "events/s", "SQLite", note=f"{total:,} events"))
    shutil.rmtree(bench.folder / "rederive")


# Keys.


def privacy(bench: Bench) -> None:
    """Sealing by itself, and one in ten of a loaded suite forgotten."""
    bench.report.add(*sealing(bench.folder, bench.size.batches))
    with bench.suite("privacy") as suite:
        asyncio.run(register(suite))
        seed = next(bench.seeds)
        offer(suite, bench.requests(bench.size.backlog, 500, seed), 4)
        run(suite, settle)
        run(suite, lambda line: one_in_ten(bench, line, seed))


async def one_in_ten(bench: Bench, line: Line, seed: int) -> None:
    """Forgets every tenth of those who can be found."""
    mails = [email_of(seed, person) for person in range(clients_of(bench.size.backlog))]
    known = [
        mail
        for mail in mails
        if await _seen(line, journey_pb2.ResumeContextRequest(identifiers=[identifier("email", mail)], channel="phone"))
    ]
    bench.report.add(*await forgetting(line, known[::10]))


# What they have in common.

_CHECKPOINT: Final = eventlog_pb2.GetCheckpointRequest()


def run(suite: Suite, ask: Callable[[Line], Coroutine[Any, Any, Any]]) -> Any:
    """Asks a running suite something."""

    async def asked() -> Any:
        async with connect(suite) as line:
            return await ask(line)

    return asyncio.run(asked())


async def settle(line: Line) -> None:
    """Until everyone has taken everything."""
    await line.settled(SETTLING)


async def register(suite: Suite) -> None:
    """Registers the channels and sources of the loads."""
    async with open_channel(suite.addresses["ingestion"]) as channel:
        ingestion = ingestion_pb2_grpc.IngestionServiceStub(channel)
        for name, traits in CHANNELS.items():
            await ingestion.RegisterChannel(ingestion_pb2.RegisterChannelRequest(channel=name, traits=traits))
        for source in SOURCES:
            await ingestion.RegisterSource(ingestion_pb2.RegisterSourceRequest(source=source, name=source))


def _generator(suite: Suite, file: Path, in_flight: int, rate: float = 0.0) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "bench.offering", suite.addresses["ingestion"], str(file), str(in_flight)]
    return subprocess.Popen(
        [*command, str(rate)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
    )


def offer(suite: Suite, file: Path, in_flight: int) -> dict[str, float]:
    """Sends a file from another process; what that says. Raises RuntimeError where it fails."""
    generator = _generator(suite, file, in_flight)
    said, _ = generator.communicate()
    if generator.returncode:
        raise RuntimeError(f"the load generator ended with {generator.returncode}")
    return json.loads(said)


@contextmanager
def offering(suite: Suite, file: Path, in_flight: int, rate: float) -> Iterator[Callable[[], bool]]:
    """Sends a file at a rate while the block runs; the block is given whether it is still being sent."""
    generator = _generator(suite, file, in_flight, rate)
    try:
        yield lambda: generator.poll() is None
    finally:
        generator.terminate()
        generator.communicate()
