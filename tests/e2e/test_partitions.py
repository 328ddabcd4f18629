"""The number of ingestion's partitions changed in the middle of a history: nothing is lost, and nothing comes twice."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from click.testing import CliRunner, Result
from line import drop_schemas, identifier, interaction, postgres_environment
from parted import KEYS, Place, Verdicts, environment_with_keys, history

from ingestion.application.recording import PARTITION_STREAM
from throughline.ingestion.v1 import events_pb2, interaction_pb2
from throughline.proof.v1.proof_pb2 import CheckpointSigned
from throughline_client.commands import main
from throughline_client.preparing import Admin, prepare_schemas
from throughline_client.suite import hold_folder
from throughline_eventlog import (
    POISON,
    BusSettings,
    InboxPosition,
    LogGrewError,
    NatsServer,
    NewEvent,
    Partitioning,
    SealedLogError,
    Writer,
    open_store,
)
from throughline_portability.parting import PartitionsError
from throughline_privacy import create_keys
from throughline_proof import LogSummary, open_checkpoint, open_proofs
from throughline_proof.notary import CHECKPOINTS
from throughline_replay import Replayed, make_folds
from throughline_testkit import eventually
from throughline_testkit.postgres import PostgresServer

pytestmark = pytest.mark.e2e

RECORDED, DUPLICATE, CONFLICT, QUARANTINED, REFUSED = range(1, 6)
FIRST, SECOND, THIRD = history(0, 48), history(40, 24), history(60, 24)
MakePlace = Callable[[str], Place]
Offered = Sequence[interaction_pb2.Interaction]


@pytest.fixture
def make_place(store_kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakePlace]:
    """Installations with the same keys, on the store whose turn it is."""
    runs: list[str] = []
    create_keys(tmp_path / "keys.json")

    def make(name: str) -> Place:
        folder = tmp_path / name
        folder.mkdir()
        shutil.copy2(tmp_path / "keys.json", folder / "keys.json")
        if store_kind == "sqlite":
            return Place(folder)
        runs.append(f"t_{uuid4().hex[:12]}")
        return Place(folder, postgres_environment(request.getfixturevalue("postgres"), runs[-1]))

    yield make
    for run in runs:
        server: PostgresServer = request.getfixturevalue("postgres")
        drop_schemas(server, run)


async def filled(place: Place) -> Place:
    """An installation with one partition, its first history, and an identity that has taken it."""
    async with place.served() as ends:
        await ends.register("web")
        await ends.offer(FIRST)
    place.taken_by_identity()
    return place


@pytest.mark.timeout(300)
async def test_split_and_joined_it_is_what_it_would_be_had_it_never_been(make_place: MakePlace) -> None:
    """1, 2, 3 and 1 partitions: the same verdicts, accounts, quarantine and registry as one that stays whole."""
    whole, parted = make_place("whole"), make_place("parted")
    for place in (whole, parted):
        await filled(place)

    async def same(*histories: Offered, redriven: bool = False) -> list[Verdicts]:
        """Offers the same to both; what became of it, in both."""
        came: list[tuple[list[Verdicts], int, dict[str, tuple[int, ...]]]] = []
        for place in (whole, parted):
            async with place.served() as ends:
                verdicts = [await ends.offer(each) for each in histories]
                if redriven:
                    await ends.register("booth")
                came.append((verdicts, await ends.redrive() if redriven else 0, await ends.tallies()))
        assert came[0] == came[1]
        assert parted.state() == whole.state()
        return came[0][0]

    changed = parted.change(2)
    assert (changed.followed, [each.number for each in changed.opened]) == ((0,), [100, 101])
    assert parted.state() == whole.state()
    # What was reported before is known, and so is what conflicts with it or waits.
    assert RECORDED not in (await same(FIRST, SECOND))[0]
    parted.taken_by_identity()
    parted.change(3)
    assert parted.numbers == (200, 201, 202)
    assert parted.state() == whole.state()
    await same(FIRST, SECOND, THIRD, redriven=True)
    parted.taken_by_identity()
    parted.change(1)
    assert parted.numbers == (300,)
    assert parted.state() == whole.state()
    assert set((await same(FIRST, THIRD))[0]) == {DUPLICATE, CONFLICT, REFUSED}


async def test_a_log_that_was_followed_is_kept_and_refuses_writers(make_place: MakePlace) -> None:
    """Whoever still has the old number is refused with the new ones; the old log and its proofs stay as they were."""
    place = await filled(make_place("parted"))
    log = place.open(0)
    with log.snapshot() as reader:
        before = reader.read_logged()
    place.change(2)
    with log.snapshot() as reader:
        assert reader.read_logged() == before
    with pytest.raises(SealedLogError, match="partitions 100, 101 follow it"), log.transaction() as tx:
        tx.put("sources", b"late", b"late")
    with pytest.raises(SealedLogError, match="100, 101"):
        Writer(log)
    log.close()


async def test_events_keep_what_they_are(make_place: MakePlace) -> None:
    """Position, stream, version, id, times, bytes; only an account of several sources is parted, and says of what."""
    place = await filled(make_place("parted"))
    log = place.open(0)
    with log.snapshot() as reader:
        before = {row.position: row for row in reader.read_logged()}
        events = {event.position: event for event in reader.read()}
    log.close()
    place.change(2)
    seen: dict[int, int] = {}
    offered = 0
    for number in place.numbers:
        store = place.open(number)
        with store.snapshot() as reader:
            rows, last = reader.read_logged(), reader.read()[-1]
            opened = {event.position: event for event in reader.read()}
            for event in opened.values():
                at = reader.commit_at(event.recorded_at)
                assert at.position >= event.position
                assert not reader.commit_at(event.recorded_at - 1).position >= event.position
        store.close()
        assert last.type.endswith("PartitionOpened")
        for row in rows[:-1]:
            seen[row.position] = seen.get(row.position, 0) + 1
            if row == before[row.position]:
                continue
            was, part = events[row.position], opened[row.position]
            assert row.type.endswith("OffersTallied")
            assert part._replace(event_id=b"", causation_id="", payload=b"") == was._replace(
                event_id=b"", causation_id="", payload=b""
            )
            assert part.causation_id == was.event_id.hex()
            assert part.event_id != was.event_id
        offered += sum(
            tally.offered
            for event in opened.values()
            if event.type.endswith("OffersTallied")
            for tally in events_pb2.OffersTallied.FromString(event.payload).tallies
        )
    assert seen.keys() == before.keys()
    assert offered == len(FIRST)
    registered = [row.position for row in before.values() if row.type.endswith("Registered")]
    assert all(seen[position] == 2 for position in registered)


@pytest.mark.parametrize("store_kind", ["sqlite"])
async def test_an_auditor_goes_from_a_new_log_to_the_one_before(make_place: MakePlace) -> None:
    """PartitionOpened names the root of the old log's last checkpoint; the new log's checkpoints have its own name."""
    place = await filled(make_place("parted"))
    place.change(2)
    async with place.served():
        pass
    for number in place.numbers:
        store = place.open(number)
        with store.snapshot() as reader:
            (event,) = reader.read_stream(PARTITION_STREAM)
        opened = events_pb2.PartitionOpened.FromString(event.payload)
        assert (opened.number, opened.count) == (number, 2)
        (before,) = opened.predecessors
        old, proofs = place.open(0), place.installation.store("ingestion", 0)
        with old.snapshot() as reader:
            summary = LogSummary()
            summary.take(reader.read_logged())
        kept = open_proofs(proofs, old.clock)
        with kept.snapshot() as reader:
            signed = CheckpointSigned.FromString(reader.read_stream(CHECKPOINTS)[-1].payload)
        kept.close()
        old.close()
        said = open_checkpoint(signed.note, KEYS.public)
        assert (before.origin, before.size, before.root, before.position) == (
            said.origin,
            said.size,
            said.root,
            said.position,
        )
        assert (summary.size, summary.root) == (before.size, before.root)
        own = open_proofs(place.installation.store("ingestion", number), store.clock)
        with own.snapshot() as reader:
            newest = CheckpointSigned.FromString(reader.read_stream(CHECKPOINTS)[-1].payload)
        own.close()
        store.close()
        assert open_checkpoint(newest.note, KEYS.public).origin == f"test/ingestion/{number}"
        assert newest.position == event.position


@pytest.mark.parametrize("store_kind", ["sqlite"])
async def test_identity_begins_behind_what_it_has_taken(make_place: MakePlace) -> None:
    """In each new stream at the end of what was taken over, whatever stream of that name there will be."""
    place = await filled(make_place("parted"))
    changed = place.change(2)
    store = open_store(place.installation.stores["identity"])
    with store.snapshot() as reader:
        begins = {each.stream: each for each in reader.inboxes()}
    store.close()
    for each in changed.opened:
        stream = f"TL_INGESTION_{each.number}"
        assert begins[stream] == InboxPosition(stream, 0, 0, each.position)
        assert changed.positions[stream] == each.position


def test_what_ingestion_takes_of_identity_goes_on(make_place: MakePlace) -> None:
    """Also of a log without events: of whom to forget each new partition hears from where the old one was."""
    place = make_place("parted")
    for number, reached in ((0, 40), (100, 50), (101, 45)):
        if number == 100:
            place.change(2)
        log = place.open(number)
        with log.transaction() as tx:
            if number == 0:
                tx.put(POISON, b"late", b"what could not be taken")
            else:
                assert tx.inbox("TL_IDENTITY_0") == InboxPosition("TL_IDENTITY_0", 5, 4, 40)
            assert tx.get(POISON, b"late")
            tx.set_inbox(InboxPosition("TL_IDENTITY_0", 5, reached // 10, reached))
        log.close()
    place.taken_by_identity()
    place.change(1)
    log = place.open(200)
    with log.snapshot() as reader:
        assert reader.inboxes() == [InboxPosition("TL_IDENTITY_0", 5, 4, 45)]
        assert reader.get(POISON, b"late")
    with log.transaction() as tx:
        tx.set_inbox(InboxPosition("TL_IDENTITY_0", 5, 5, 50))
    log.close()


@pytest.mark.parametrize("store_kind", ["postgres"])
def test_a_role_that_may_make_no_schema_is_told_who_makes_it(make_place: MakePlace, postgres: PostgresServer) -> None:
    """With the fewest rights the new schemas are made ahead, and the change is made in them."""
    given = make_place("parted")
    role = f"t_{uuid4().hex[:12]}"
    environment = {**given.environment, "INGESTION_POSTGRES_USER": role, "INGESTION_POSTGRES_PASSWORD": "secret"}
    place = Place(given.folder, environment)
    admin, keys = Admin(postgres.user, postgres.password), environment["THROUGHLINE_KEY_STORE_SCHEMA"]

    def prepare(text: str) -> None:
        stores = [place.installation.stores["ingestion"]]
        prepare_schemas(stores, admin, keys, partitioning=Partitioning.parse(text), make_roles=True)

    prepare("")
    place.open(0).close()
    with pytest.raises(
        PartitionsError, match="throughline prepare --admin ROLE` where THROUGHLINE_PARTITIONS is ingest"
    ):
        place.change(2)
    prepare("ingestion=1:2")
    place.change(2)
    assert place.numbers == (100, 101)
    with postgres.connect() as connection:
        connection.execute(f'DROP OWNED BY "{role}" CASCADE'.encode())
        connection.execute(f'DROP ROLE "{role}"'.encode())


@pytest.mark.timeout(300)
@pytest.mark.parametrize("store_kind", ["sqlite"])
async def test_clients_are_what_they_would_be_had_it_never_been_parted(
    make_place: MakePlace, nats_server: NatsServer
) -> None:
    """Over a real bus, through a split and a join: identity takes each interaction once, and ends in the same state."""
    whole, parted = make_place("whole"), make_place("parted")
    nats_server.start()
    states: list[tuple[str, int]] = []
    for place in (whole, parted):
        bus = BusSettings(nats_server.url, prefix=f"T{uuid4().hex[:12].upper()}")
        for offered, count in ((FIRST, 2), ([*FIRST, *SECOND], 1), ([*SECOND, *THIRD], 0)):
            async with place.served(bus) as ends, place.attributed(bus) as identity:
                await ends.register("web")
                await ends.offer(offered)
                await eventually(partial(place.reached, identity, bus), 60, why="identity has not taken everything")
            if place is parted and count:
                place.change(count)
        store = open_store(place.installation.stores["identity"])
        replayed = Replayed(make_folds(["identity"])["identity"])
        with store.snapshot() as reader:
            events = reader.read()
        store.close()
        replayed.take(events)
        attributed = sum(event.type.endswith("InteractionAttributed") for event in events)
        states.append((replayed.digest(), attributed))
    assert states[0] == states[1]
    assert parted.numbers == (200,)
    assert parted.state() == whole.state()


@pytest.mark.parametrize("store_kind", ["sqlite"])
async def test_what_grows_meanwhile_is_not_sealed(make_place: MakePlace) -> None:
    """A service that was not stopped: nothing is changed, and what it recorded is there the next time."""
    place = await filled(make_place("parted"))
    late = interaction("late", identifier("email", "late@post.eu"), source="app")

    def meanwhile(step: str, _: int) -> None:
        if step.startswith("sealing"):
            log = place.open(0)
            with log.transaction() as tx:
                tx.put("sources", b"late", tx.get("sources", b"app") or b"")
            log.close()

    with pytest.raises(LogGrewError, match="still runs"):
        place.change(2, meanwhile)
    assert place.numbers == (0,)
    async with place.served() as ends:
        assert await ends.offer([late]) == [RECORDED]
    with pytest.raises(PartitionsError, match="throughline status --wait"):
        place.change(2)
    place.taken_by_identity()
    log = place.open(0)
    with log.transaction() as tx:
        tx.delete("sources", b"late")
    log.close()
    place.change(2)
    async with place.served() as ends:
        assert await ends.offer([late]) == [DUPLICATE]


@pytest.mark.parametrize("store_kind", ["sqlite"])
async def test_what_grows_while_it_is_read_is_told_as_that(make_place: MakePlace) -> None:
    """What was recorded between the look at the tables and that at the log is no sign that either is wrong."""
    place = await filled(make_place("parted"))
    for file in place.folder.glob("ingestion-proofs.db*"):
        # No checkpoint says all of it: one is signed now, of what is there by now.
        file.unlink()

    def meanwhile(step: str, _: int) -> None:
        if step == "proving partition 0":
            log = place.open(0)
            with log.transaction() as tx:
                last = tx.read(0)[-1]
                version = tx.last_version(last.stream_id) + 1
                tx.append([NewEvent(last.stream_id, version, last.type, last.payload, last.occurred_at)])
            log.close()

    with pytest.raises(LogGrewError, match="ingestion still runs; stop it and begin again"):
        place.change(2, meanwhile)
    assert place.numbers == (0,)


KILLED_AT = """
import os, signal
from pathlib import Path
from throughline_client.installation import Installation
from throughline_portability.parting import change_partitions
from throughline_proof import SigningKeys
def told(step, _):
    if step == {step!r}:
        os.kill(os.getpid(), signal.SIGKILL)
keys = SigningKeys.of_text({keys!r}, "the test")
change_partitions(
    Installation.in_folder(Path({folder!r})), "ingestion", {count}, keys=lambda: keys, told=told, keep=print
)
"""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("store_kind", ["sqlite"])
async def test_killed_at_any_moment_it_is_begun_again(make_place: MakePlace) -> None:
    """Until the last seal the old is in force and written to; from then on the same command ends what is left."""
    whole, place = make_place("whole"), make_place("parted")
    for each in (whole, place):
        await filled(each)

    def kill(step: str, count: int) -> None:
        script = KILLED_AT.format(
            folder=str(place.folder),
            step=step,
            count=count,
            keys=KEYS.active[0].line,
        )
        ended = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, timeout=120)
        assert ended.returncode == -signal.SIGKILL, ended.stderr

    def sealed(number: int) -> str:
        store = place.open(number)
        try:
            return store.sealed()
        finally:
            store.close()

    for step in (
        "taking events over",
        "making the tables of partition 100",
        "clearing partition 101",
        "sealing partition 0",
    ):
        kill(step, 2)
        assert (place.numbers, sealed(0)) == ((0,), ""), step
    # In force means that it is written to.
    for each in (whole, place):
        async with each.served() as ends:
            await ends.offer(SECOND)
        each.taken_by_identity()
    for step in ("telling identity", "keeping the number"):
        kill(step, 2)
        assert (place.numbers, sealed(0)) == ((0,), "100, 101"), step
        with pytest.raises(PartitionsError, match="with the number 2"):
            place.change(3)
    place.change(2)
    assert place.numbers == (100, 101)
    assert place.state() == whole.state()

    kill("sealing partition 101", 3)
    assert (place.numbers, sealed(100), sealed(101)) == ((100, 101), "200, 201, 202", "")
    place.change(3)
    assert place.state() == whole.state()
    again: list[tuple[Verdicts, dict[str, tuple[int, ...]]]] = []
    for each in (whole, place):
        async with each.served() as ends:
            again.append((await ends.offer([*FIRST, *SECOND, *THIRD]), await ends.tallies()))
    assert again[0] == again[1]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs the command."""

    def running(place: Place, *arguments: object) -> Result:
        for name, value in environment_with_keys(place).items():
            monkeypatch.setenv(name, value)
        where = ["--from-environment"] if place.environment else ["--data", str(place.folder)]
        return CliRunner().invoke(main, ["partitions", *map(str, arguments), *where])

    return running


async def test_the_command_shows_and_changes(make_place: MakePlace, run: Callable[..., Result]) -> None:
    """What there is, what becomes of it, and what is refused with what to do."""
    place = await filled(make_place("parted"))
    for service in ("journey", "feedback", "scoring"):
        open_store(place.installation.stores[service]).close()
    shown = run(place, "show")
    assert shown.exit_code == 0, shown.output
    assert "every service has one partition" in shown.stdout
    refused = {
        ("set", "identity", 2): (2, "decided in one order"),
        ("set", "ingestion", 1): (2, "give another number"),
        ("set", "ingestion", 65): (2, "1<=x<=64"),
        ("set", "billing", 2): (2, "is not one of"),
    }
    for arguments, (code, why) in refused.items():
        told = run(place, *arguments)
        assert told.exit_code == code
        assert why in told.output
    if not place.environment:
        with hold_folder(place.folder):
            busy = run(place, "set", "ingestion", 2)
        assert busy.exit_code == 2
    changed = run(place, "set", "ingestion", 2, "-o", "json")
    assert changed.exit_code == 0, changed.output
    answer = json.loads(changed.stdout)
    assert answer["partitions"] == "ingestion=1:2"
    assert answer["sealed"] == [0]
    if place.environment:
        assert "THROUGHLINE_PARTITIONS=ingestion=1:2" in changed.stderr
        # Given again by somebody whose environment is still the old one.
        assert json.loads(run(place, "set", "ingestion", 2, "-o", "json").stdout)["partitions"] == "ingestion=1:2"
        place.text = "ingestion=1:2"
    logs = json.loads(run(place, "show", "-o", "json").stdout)["logs"]
    standing = {
        log["partition"]: (log["in_force"], log["followed_by"]) for log in logs if log["service"] == "ingestion"
    }
    assert standing == {0: (False, "100, 101"), 100: (True, ""), 101: (True, "")}
    table = run(place, "show").stdout
    assert "sealed, followed by 100, 101" in table


@pytest.mark.parametrize("store_kind", ["sqlite"])
async def test_what_says_how_it_is_parted_may_not_be_older_than_the_logs(make_place: MakePlace) -> None:
    """An old text would let a new log be thrown away, or two logs be in force: it is refused."""
    place = await filled(make_place("parted"))
    place.change(2)
    async with place.served() as ends:
        await ends.offer(SECOND)
    place.taken_by_identity()
    place.change(3)
    place.keep(place.installation.partitioning.parse(""))
    with pytest.raises(PartitionsError, match="older than its logs"):
        place.change(2)


@pytest.mark.parametrize("store_kind", ["sqlite"])
async def test_a_log_that_was_tampered_with_is_not_taken_over(make_place: MakePlace) -> None:
    """What is taken over is what the last checkpoint proves."""
    place = await filled(make_place("parted"))
    log = place.open(0)
    with log.snapshot() as reader:
        at = reader.read_logged()[-2].position
    with log.transaction() as tx:
        cursor: Any = vars(tx)["cursor"]
        cursor.execute("UPDATE stored_events SET originator_version=originator_version+900 WHERE rowid=?", (at,))
        tx.put("channels", b"touched", tx.get("channels", b"web") or b"")
        tx.delete("channels", b"touched")
    log.close()
    with pytest.raises(PartitionsError, match="last checkpoint says"):
        place.change(2)
    assert place.numbers == (0,)
