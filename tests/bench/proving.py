"""What proving costs: tree and map an event, a checkpoint, a client's proof."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from bench.measuring import Figure

from throughline.journey.v1 import events_pb2 as journey
from throughline_client.suite.suite import Suite
from throughline_eventlog import NewEvent, Store, StoreSettings, open_store
from throughline_proof import Notary, SigningKey, SigningKeys, open_proofs
from throughline_proof.tree import Frontier
from throughline_proof.verifier import leaf_hash, leaf_of, unpack, verify_pack

SECTION: Final = "proofs"
COMMIT: Final = 1_000
# Events a client: what a checkpoint costs depends on how often it hears of the same people.
HISTORIES: Final = (("busy clients", 500), ("each event another client's", 1))
TYPE: Final = journey.StageReached.DESCRIPTOR.full_name


def proving(folder: Path, events: int) -> Iterator[Figure]:
    """Figures over logs of so many events of journey."""
    for what, per_client in HISTORIES:
        yield from _proved(folder / f"proved-{per_client}.db", events, what, per_client)


def _proved(file: Path, events: int, what: str, per_client: int) -> Iterator[Figure]:
    with ExitStack() as stack:
        settings = StoreSettings.sqlite("journey", file)
        log = open_store(settings)
        stack.callback(log.close)
        clients = [number.to_bytes(16, "big") for number in range(max(1, events // per_client))]
        _fill(log, clients, events)
        if per_client == HISTORIES[0][1]:
            yield _tree(log, events)
        proofs = open_proofs(settings, log.clock)
        stack.callback(proofs.close)
        notary = Notary(log, proofs, SigningKeys((SigningKey.new("bench"),)), "bench/journey/0")
        seconds, cpu = _timed(notary.checkpoint)
        yield Figure(
            SECTION,
            f"tree, map and checkpoints, {what}",
            seconds * 1e6 / events,
            "us an event",
            "SQLite",
            cpu_micros=cpu * 1e6 / events,
        )
        if per_client > 1:
            seconds, _ = _timed(lambda: notary.complete(clients[0]))
            note = f"about {per_client} events of {events:,}"
            yield Figure(SECTION, "all events of a client, with their proof", seconds * 1e3, "ms", "SQLite", note=note)


def evidence(suite: Suite, email: str) -> Iterator[Figure]:
    """A pack of a client whom some thousand events concern, over all five logs: made by the command, and verified."""
    file = suite.folder / "evidence.zip"
    keys = SigningKeys.of_file(suite.folder / "signing.keys").public
    whom = ["audit", "client", "--identifier", f"email={email}", "--to", str(file), "--data", str(suite.folder)]
    command = [str(Path(sys.executable).parent / "throughline"), *whom]
    seconds, _ = _timed(lambda: subprocess.run(command, check=True, capture_output=True))
    raw = file.read_bytes()
    events = sum(content.count(b"\n") for name, content in unpack(raw).items() if name.endswith("/events.ndjson"))
    note = f"{events:,} events, {len(raw) / 1e6:.1f} MB"
    yield Figure(SECTION, "a client's pack made, the command's start in it", seconds, "s", "SQLite", note=note)
    held: list[bool] = []
    seconds, _ = _timed(lambda: held.append(verify_pack(raw, keys).holds))
    assert held == [True]
    yield Figure(SECTION, "that pack verified", seconds, "s", "memory", expected=1, at_least=False, note=note)


def _tree(log: Store, events: int) -> Figure:
    """The RFC 6962 tree alone, in steps as a notary takes them."""
    with log.snapshot() as reader:
        rows = reader.read_logged()

    def grow() -> None:
        tree = Frontier()
        for size in range(0, events, COMMIT):
            tree.grow(leaf_hash(leaf_of(*row)) for row in rows[size : size + COMMIT])

    seconds, cpu = _timed(grow)
    return Figure(
        SECTION,
        "tree upkeep",
        seconds * 1e6 / events,
        "us an event",
        "memory",
        cpu_micros=cpu * 1e6 / events,
        expected=5,
        at_least=False,
        note=f"{events:,} events",
    )


def _fill(log: Store, clients: list[bytes], events: int) -> None:
    chance, versions = random.Random(1), dict[bytes, int]()
    for _ in range(0, events, COMMIT):
        with log.transaction() as tx:
            some: list[NewEvent] = []
            for client in chance.choices(clients, k=COMMIT):
                versions[client] = versions.get(client, 0) + 1
                reached = journey.StageReached(client_id=client.hex(), stage="reserved", interaction_id=client.hex())
                some.append(NewEvent(client, versions[client], TYPE, reached.SerializeToString(), 1))
            tx.append(some)


def _timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds, and seconds of CPU."""
    began, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - began, time.process_time() - cpu
