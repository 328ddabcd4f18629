"""What every store promises: each test runs on SQLite and on PostgreSQL."""

from __future__ import annotations

import threading
from collections.abc import Callable
from uuid import UUID

import pytest

from throughline.eventlog.v1.eventlog_pb2 import Envelope
from throughline_eventlog import (
    Commit,
    InboxConflictError,
    InboxPosition,
    NewerLogError,
    NewEvent,
    Schemas,
    SettingsError,
    Store,
    StoreSettings,
    StreamConflictError,
    Transaction,
    note_step,
    open_store,
    read_steps,
)
from throughline_eventlog.application import StoredEnvelope
from throughline_eventlog.store import Tail
from throughline_kernel import hex_id
from throughline_testkit.logs import NOTED, noted, stream_of
from throughline_testkit.plugin import OpenStore

Settings = Callable[[str], StoreSettings]


def append(store: Store, *events: NewEvent) -> list[int]:
    with store.transaction() as tx:
        return tx.append(events)


def test_what_was_appended_is_read_back_whole(store: Store) -> None:
    """Every field of an event comes back, with its position and recording time."""
    given = NewEvent(stream_of("a"), 1, NOTED, b"\x00\xff", 7, b"e" * 16, "corr", "cause", "00-trace-span-01")
    with store.transaction() as tx:
        (position,) = tx.append([given])
        now = tx.now
    with store.snapshot() as reader:
        (event,) = reader.read()
    assert (event.position, event.recorded_at) == (position, now)
    assert (event.stream_id, event.version, event.type, event.payload) == (stream_of("a"), 1, NOTED, b"\x00\xff")
    assert (event.occurred_at, event.event_id, event.schema_version) == (7, b"e" * 16, 1)
    assert (event.correlation_id, event.causation_id, event.traceparent) == ("corr", "cause", "00-trace-span-01")


def test_an_event_without_an_id_gets_one_that_follows_from_its_place(store: Store) -> None:
    """The id is blake2b-128 over service, stream and version, so a replay derives the same."""
    append(store, noted("a"))
    with store.snapshot() as reader:
        (event,) = reader.read()
    assert event.event_id.hex() == hex_id("testing", stream_of("a"), "1")


def test_positions_increase_and_reads_can_be_cut(store: Store) -> None:
    """after, until and limit cut the log by position."""
    positions = append(store, *(noted(number) for number in range(10)))
    assert positions == sorted(set(positions))
    with store.snapshot() as reader:
        assert [e.position for e in reader.read()] == positions
        assert [e.position for e in reader.read(positions[2])] == positions[3:]
        assert [e.position for e in reader.read(positions[2], until=positions[5])] == positions[3:6]
        assert [e.position for e in reader.read(limit=4)] == positions[:4]
        assert reader.read(positions[-1]) == []
        assert reader.read(positions[5], until=positions[2]) == []
        assert reader.last_position() == positions[-1]
        assert reader.count_events() == 10


def test_a_log_made_again_beside_another_has_its_positions(store: Store) -> None:
    """Given positions are kept, gaps and all, in whatever order they come; what is appended then stands behind them."""
    append(store, noted("a"))
    with store.transaction() as tx:
        assert tx.append([noted(1), noted(2)], [20, 9]) == [20, 9]
        assert tx.append([noted(3)], [12]) == [12]
        assert tx.last_position() == 20
    (behind,) = append(store, noted("b"))
    with store.snapshot() as reader:
        assert [each.position for each in reader.read()] == [1, 9, 12, 20, behind]
        assert behind > 20
        assert reader.commit_at().position == behind
    with pytest.raises(StreamConflictError, match=stream_of(2).hex()), store.transaction() as tx:
        tx.append([noted(4), noted(2), noted(5)], [40, 41, 50])


def test_a_log_can_be_read_as_of_an_instant(open_test_store: OpenStore, store_settings: Settings) -> None:
    """as_of gives what was recorded by then, and nothing of a later commit."""
    now = [1_000]
    store = open_store(store_settings("clocked"), clock=lambda: now[0])
    try:
        first = append(store, noted("a"), noted("b"))
        now[0] = 2_000
        second = append(store, noted("c"))
        with store.snapshot() as reader:
            assert reader.commit_at(999) == Commit(0, 0)
            assert reader.commit_at(1_000) == reader.commit_at(1_999) == Commit(1_000, first[-1])
            assert reader.commit_at(2_000) == reader.commit_at() == Commit(2_000, second[-1])
            assert [e.position for e in reader.read(as_of=1_500)] == first
            assert reader.read(as_of=10) == []
            assert [e.position for e in reader.read(until=first[0], as_of=5_000)] == first[:1]
    finally:
        store.close()


def test_a_commit_that_appends_nothing_is_an_instant_of_its_own(store: Store) -> None:
    """What only tables hold changes between two instants too, whatever the clock says."""
    (position,) = append(store, noted("a"))
    with store.snapshot() as reader:
        before = reader.commit_at()
    with store.transaction() as tx:
        tx.put("things", b"k", b"v")
        now = tx.now
    with store.snapshot() as reader:
        assert reader.commit_at() == Commit(now, position)
        assert reader.commit_at(now - 1) == before


def test_recording_times_never_go_back(open_test_store: OpenStore, store_settings: Settings) -> None:
    """A clock that is put back does not put the log back, also not after the store was opened anew."""
    times = iter([5_000, 4_000, 4_500, 10, 6_000])
    settings = store_settings("clocked")
    for _ in range(5):
        store = open_store(settings, clock=lambda: next(times))
        append(store, noted(f"{_}"))
        store.close()
    store = open_store(settings)
    with store.snapshot() as reader:
        recorded = [event.recorded_at for event in reader.read()]
    store.close()
    assert recorded == [5_000, 5_001, 5_002, 5_003, 6_000]


def test_streams_are_read_by_version(store: Store) -> None:
    """One stream or many, each in version order, however they were mixed in the log."""
    append(store, noted("a", 1), noted("b", 1), noted("a", 2))
    append(store, noted("b", 2), noted("a", 3))
    with store.snapshot() as reader:
        assert [e.version for e in reader.read_stream(stream_of("a"))] == [1, 2, 3]
        assert [e.version for e in reader.read_stream(stream_of("a"), after_version=1)] == [2, 3]
        assert [e.version for e in reader.read_stream(stream_of("a"), after_version=1, limit=1)] == [2]
        many = reader.read_streams([stream_of("b"), stream_of("a"), stream_of("nobody"), stream_of("a")])
        assert {key: [e.version for e in events] for key, events in many.items()} == {
            stream_of("a"): [1, 2, 3],
            stream_of("b"): [1, 2],
        }
        assert reader.read_streams([]) == {}
        assert reader.last_version(stream_of("a")) == 3
        assert reader.last_version(stream_of("nobody")) == 0
        assert reader.last_versions([stream_of("b"), stream_of("nobody")]) == {
            stream_of("b"): 2,
            stream_of("nobody"): 0,
        }


def test_many_streams_are_read_at_once(store: Store) -> None:
    """More streams than fit into one statement's parameters."""
    append(store, *(noted(number) for number in range(1_200)))
    with store.snapshot() as reader:
        many = reader.read_streams([stream_of(number) for number in range(1_200)])
        assert len(many) == 1_200
        assert sum(map(len, many.values())) == 1_200


def test_a_version_is_taken_once(store: Store) -> None:
    """The second to append a version is told which stream and version, and nothing of its transaction stays."""
    append(store, noted("a", 1), noted("b", 1))

    def again() -> None:
        with store.transaction() as tx:
            tx.put("things", b"k", b"v")
            tx.append([noted("c", 1), noted("b", 1), noted("d", 1)])

    with pytest.raises(StreamConflictError) as refused:
        again()
    assert refused.value.metadata == {"stream_id": stream_of("b").hex(), "version": "1"}
    assert refused.value.reason == "CONCURRENT_CHANGE"
    with store.snapshot() as reader:
        assert reader.count_events() == 2
        assert reader.get("things", b"k") is None


@pytest.mark.parametrize(
    "wrong",
    [
        NewEvent(b"short", 1, NOTED, b"", 1),
        NewEvent(stream_of("a"), 0, NOTED, b"", 1),
        NewEvent(stream_of("a"), 1, "", b"", 1),
    ],
    ids=["stream id", "version", "type"],
)
def test_an_event_that_no_log_can_hold_is_refused(store: Store, wrong: NewEvent) -> None:
    """A short stream id, a version below 1 or no type is a mistake of the caller."""
    with pytest.raises(ValueError, match="an event needs"):
        append(store, wrong)


def test_events_rows_and_inbox_stand_or_fall_together(store: Store) -> None:
    """A transaction that raises leaves nothing; one that ends leaves all of it."""
    place = InboxPosition("TL_UP_0", 17, 4, 400)

    def write(*, fail: bool) -> None:
        with store.transaction() as tx:
            tx.append([noted("a")])
            tx.put("things", b"k", b"v")
            tx.set_inbox(place)
            if fail:
                raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        write(fail=True)
    with store.snapshot() as reader:
        assert (reader.count_events(), reader.get("things", b"k"), reader.inboxes()) == (0, None, [])
    write(fail=False)
    with store.snapshot() as reader:
        assert (reader.count_events(), reader.get("things", b"k")) == (1, b"v")
        assert (reader.inbox("TL_UP_0"), reader.inboxes()) == (place, [place])


def test_a_transaction_reads_what_it_wrote(store: Store) -> None:
    """Rows, counts, scans, events and the inbox include what the transaction did."""
    with store.transaction() as tx:
        tx.put_many("things", {b"a": b"1", b"b": b"2"})
    with store.transaction() as tx:
        tx.put("things", b"c", b"3")
        tx.put("things", b"a", b"9")
        tx.delete("things", b"b")
        assert (tx.get("things", b"a"), tx.get("things", b"b"), tx.get("things", b"c")) == (b"9", None, b"3")
        assert tx.get_many("things", [b"a", b"b", b"c", b"d"]) == {b"a": b"9", b"c": b"3"}
        assert list(tx.scan("things")) == [(b"a", b"9"), (b"c", b"3")]
        assert tx.count("things") == 2
        tx.append([noted("x")])
        assert [e.payload for e in tx.read()] == [b"x"]
        assert tx.last_version(stream_of("x")) == 1
        tx.set_inbox(InboxPosition("S", 1, 1, 1))
        assert tx.inbox("S") == InboxPosition("S", 1, 1, 1)


def test_a_snapshot_does_not_move(store: Store) -> None:
    """What is committed after a view was opened is not in it."""
    append(store, noted("a"))
    with store.snapshot() as reader:
        with store.transaction() as tx:
            tx.append([noted("b")])
            tx.put("things", b"k", b"v")
        assert reader.count_events() == 1
        assert reader.last_position() == reader.read()[-1].position
        assert reader.get("things", b"k") is None
    with store.snapshot() as reader:
        assert reader.count_events() == 2


def test_rows_are_in_bytewise_order_within_their_prefix(store: Store) -> None:
    """Scans go by unsigned bytes, whatever collation the database has."""
    keys = [b"", b"\x00", b"a", b"a\x00", b"a\xff", b"a\xff\xff", b"b", b"\x80", b"\xff", b"\xff\xff"]
    with store.transaction() as tx:
        tx.put_many("things", {key: key + b"!" for key in keys})
    with store.snapshot() as reader:
        assert [key for key, _ in reader.scan("things")] == sorted(keys)
        assert [key for key, _ in reader.scan("things", reverse=True)] == sorted(keys, reverse=True)
        assert [key for key, _ in reader.scan("things", prefix=b"a")] == [b"a", b"a\x00", b"a\xff", b"a\xff\xff"]
        assert [key for key, _ in reader.scan("things", prefix=b"a", after=b"a\x00")] == [b"a\xff", b"a\xff\xff"]
        assert [key for key, _ in reader.scan("things", prefix=b"\xff")] == [b"\xff", b"\xff\xff"]
        assert [key for key, _ in reader.scan("things", prefix=b"a", after=b"a\xff", reverse=True)] == [b"a\x00", b"a"]
        assert [key for key, _ in reader.scan("things", limit=2, after=b"a")] == [b"a\x00", b"a\xff"]
        assert list(reader.scan("things", limit=0)) == []
        assert list(reader.scan("others")) == []


def test_a_scan_goes_past_its_pages(store: Store) -> None:
    """More rows than one statement fetches, forwards and backwards."""
    rows = {number.to_bytes(4, "big"): b"v" for number in range(2_500)}
    with store.transaction() as tx:
        tx.put_many("things", rows)
    with store.snapshot() as reader:
        assert [key for key, _ in reader.scan("things")] == sorted(rows)
        assert [key for key, _ in reader.scan("things", reverse=True, limit=2_100)] == sorted(rows)[:399:-1]
        assert reader.get_many("things", list(rows)) == rows


def test_a_table_must_be_named_at_opening(store: Store) -> None:
    """A misspelt table is a mistake, not an empty table."""
    with store.snapshot() as reader, pytest.raises(KeyError, match="thingz"):
        reader.get("thingz", b"k")
    with pytest.raises(KeyError, match="thingz"), store.transaction() as tx:
        tx.put("thingz", b"k", b"v")


def test_a_message_is_taken_once(store: Store) -> None:
    """The inbox refuses what it has, or has passed, and lets a stream that was made anew begin again."""
    with store.transaction() as tx:
        tx.set_inbox(InboxPosition("S", 100, 5, 50))
    for sequence in (5, 4):
        with pytest.raises(InboxConflictError), store.transaction() as tx:
            tx.set_inbox(InboxPosition("S", 100, sequence, 60 if sequence == 4 else 50))
    with store.transaction() as tx:
        tx.set_inbox(InboxPosition("S", 100, 5, 55))  # further within what follows message 5
        tx.set_inbox(InboxPosition("S", 100, 6, 60))
    with store.transaction() as tx:
        tx.set_inbox(InboxPosition("S", 200, 1, 61))
    with store.snapshot() as reader:
        assert reader.inbox("S") == InboxPosition("S", 200, 1, 61)


def test_the_bell_rings_for_events_only(store: Store) -> None:
    """The relay is woken by a longer log, and not by rows or by what was undone."""
    rung: list[int] = []
    forget = store.grew.subscribe(lambda: rung.append(1))
    with store.transaction() as tx:
        tx.put("things", b"k", b"v")
    with pytest.raises(StreamConflictError), store.transaction() as tx:
        tx.append([noted("a"), noted("a")])
    assert rung == []
    append(store, noted("a"))
    assert rung == [1]
    forget()
    append(store, noted("b"))
    assert rung == [1]


def test_another_writer_is_noticed(open_test_store: OpenStore) -> None:
    """A store says when somebody else wrote in between, so that caches can be dropped."""
    mine, theirs = open_test_store(tables=("things",)), open_test_store(tables=("things",))
    for _ in range(2):
        with mine.transaction() as tx:
            assert not tx.overtaken
            tx.put("things", b"k", b"v")
    with theirs.transaction() as tx:
        tx.put("things", b"k", b"w")
    with mine.transaction() as tx:
        assert tx.overtaken
        assert tx.get("things", b"k") == b"w"
    with mine.transaction() as tx:
        assert not tx.overtaken


def test_a_transaction_that_did_nothing_writes_nothing(store: Store) -> None:
    """Reading in a transaction does not cost a sync, and does not look like a change to others."""
    append(store, noted("a"))
    with store.transaction() as tx:
        tx.read()
    with store.snapshot() as reader:
        head = reader.commit_at().position
    with store.transaction() as tx:
        assert not tx.overtaken
    assert head == 1


def test_a_newer_format_of_log_is_refused_untouched(open_test_store: OpenStore, store_settings: Settings) -> None:
    """The sentence names both formats and what to do."""
    store = open_test_store(tables=("things",))
    set_meta(store, "log_format", "2")
    store.close()
    with pytest.raises(NewerLogError, match=r"format 2.*up to 1.*start the version") as refused:
        open_store(store_settings("testing"), tables=("things", "new_table"))
    assert refused.value.metadata == {"log_format": "2", "known": "1"}


def test_the_log_of_another_service_is_refused(open_test_store: OpenStore, store_settings: Settings) -> None:
    """Two services that were given one place do not mix their events."""
    open_test_store().close()
    ours = store_settings("testing")
    with pytest.raises(SettingsError, match="log of testing, not of intruder"):
        open_store(StoreSettings("intruder", ours.environment))


def test_an_event_of_a_newer_schema_is_refused_at_opening_and_reading(
    open_test_store: OpenStore, store_settings: Settings
) -> None:
    """A program that is too old for an event does not guess what it means."""
    shout, whisper = bytes.upper, bytes.lower
    store = open_store(store_settings("testing"), schemas=Schemas({NOTED: [shout, whisper]}))
    append(store, noted("a"))
    with store.snapshot() as reader:
        assert [e.schema_version for e in reader.read()] == [3]
    store.close()
    with pytest.raises(NewerLogError, match=rf"{NOTED} in schema version 3.*up to\s+2"):
        open_store(store_settings("testing"), schemas=Schemas({NOTED: [shout]}))


def test_an_old_event_is_read_as_if_it_had_been_written_today(
    open_test_store: OpenStore, store_settings: Settings
) -> None:
    """Its payload goes through every step since, wherever it is read; in the log it stays as it was."""
    first = open_store(store_settings("testing"))
    append(first, noted("one"))
    first.close()

    def with_greeting(payload: bytes) -> bytes:
        return b"hello " + payload

    second = open_store(store_settings("testing"), schemas=Schemas({NOTED: [with_greeting]}))
    append(second, noted("two"))
    second.close()
    third = open_store(store_settings("testing"), schemas=Schemas({NOTED: [with_greeting, bytes.upper]}))
    try:
        append(third, noted("three"))
        with third.snapshot() as reader:
            seen = [(event.payload, event.schema_version) for event in reader.read()]
            assert seen == [(b"HELLO ONE", 3), (b"TWO", 3), (b"three", 3)]
            assert [event.payload for event in reader.read_stream(stream_of("one"))] == [b"HELLO ONE"]
            logged = [Envelope.FromString(row.envelope) for row in reader.read_logged()]
            assert [(each.payload, each.schema_version) for each in logged] == [(b"one", 1), (b"two", 2), (b"three", 3)]
    finally:
        third.close()


def test_the_librarys_own_event_store_reads_the_same_log(store: Store) -> None:
    """What is appended here is what `eventsourcing` finds, and the other way round."""
    append(store, noted("a"))
    stream = UUID(bytes=stream_of("a"))
    (seen,) = store.log.events.get(stream)
    assert isinstance(seen, StoredEnvelope)
    assert (seen.topic, Envelope.FromString(seen.data).payload) == (NOTED, b"a")
    envelope = Envelope(event_id=b"i" * 16, schema_version=1, recorded_at=1, payload=b"theirs").SerializeToString()
    store.log.events.put([StoredEnvelope(stream, 2, NOTED, envelope)])
    with store.snapshot() as reader:
        assert [e.payload for e in reader.read_stream(stream_of("a"))] == [b"a", b"theirs"]
    with pytest.raises(StreamConflictError):
        append(store, noted("a", 2))


def test_a_reader_of_the_tail_misses_nothing(open_test_store: OpenStore) -> None:
    """While four writers append, a reader that always continues behind the last position sees every event once."""
    writers, each = 4, 60
    stores = [open_test_store() for _ in range(writers)]
    tail = open_test_store()
    written: list[int] = []

    def write(number: int) -> None:
        for turn in range(each):
            written.extend(append(stores[number], *(noted(f"{number}.{turn}.{n}") for n in range(5))))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(writers)]
    for thread in threads:
        thread.start()
    seen: list[int] = []
    while len(seen) < writers * each * 5:
        running = any(thread.is_alive() for thread in threads)
        with tail.snapshot() as reader:
            found = [row.position for row in reader.read_logged(seen[-1] if seen else 0)]
        seen += found
        if not running and not found:
            break
    for thread in threads:
        thread.join()
    assert seen == sorted(written)
    assert len(seen) == writers * each * 5


def set_meta(store: Store, name: str, value: str) -> None:
    """Writes what only another version of the program would."""
    with store.transaction() as tx:
        cursor = tx.cursor  # type: ignore[attr-defined]
        if hasattr(tx, "statements"):
            cursor.execute(
                tx.statements.of("UPDATE {schema}.tl_meta SET value=%s WHERE name=%s", ""),  # type: ignore[attr-defined]
                (value, name),
            )
        else:
            cursor.execute("UPDATE tl_meta SET value=? WHERE name=?", (value, name))
        tx.put("things", b"touched", b"")


def test_who_follows_the_log_has_its_end_at_hand(store: Store, open_test_store: OpenStore) -> None:
    """What this process committed, and nothing beside a gap: what another wrote in between only the store has."""
    before = append(store, noted(0))
    tail = store.follow()
    assert tail.take(before[-1], 10) == []
    positions = append(store, *(noted(number) for number in range(1, 6)))
    with store.snapshot() as reader:
        logged = reader.read_logged(before[-1])
    assert tail.take(before[-1], 10) == logged
    assert tail.take(positions[1], 2) == logged[2:4]
    assert tail.take(before[-1], 10) == []  # let go of
    assert tail.take(positions[-1], 10) == []
    other = append(open_test_store(), noted("other"))
    mine = append(store, noted("mine"))
    assert tail.take(positions[-1], 10) == []
    assert [row.position for row in tail.take(other[-1], 10)] == mine


def test_the_end_of_the_log_at_hand_is_bounded(store: Store) -> None:
    """The oldest go first, and are not missed: they are in the store."""
    tail = Tail(most_bytes=1)
    positions = append(store, noted(0), noted(1))
    with store.snapshot() as reader:
        rows = reader.read_logged()
    tail.extend(0, rows)
    assert tail.take(0, 10) == []
    assert tail.take(positions[0], 10) == []


def test_a_conflict_names_the_row_among_many(store: Store) -> None:
    """Rows are written many at once; the one whose version is taken is named all the same."""
    append(store, noted(250))
    with pytest.raises(StreamConflictError) as refused:
        append(store, *(noted(number) for number in range(300)))
    assert refused.value.metadata == {"stream_id": stream_of(250).hex(), "version": "1"}
    with store.snapshot() as reader:
        assert reader.count_events() == 1


def test_steps_come_back_in_the_order_in_which_they_were_taken(store: Store) -> None:
    """With the own events that they led to: also where two fall into one commit, or one leads to nothing."""
    taken: list[tuple[str, int, int, int, int]] = []

    def step(tx: Transaction, name: str, first: int, last: int, events: int) -> None:
        before = tx.last_position()
        tx.append([noted(f"{name} {first} {number}") for number in range(events)])
        note_step(tx, name, before, first, last)
        taken.append((name, before, tx.last_position(), first, last))

    with store.transaction() as tx:
        step(tx, "TL_UP_0", 1, 7, 3)
        tx.append([noted("asked for in between")])
        step(tx, "TL_ANOTHER_0", 1, 2, 0)
        step(tx, "TL_ANOTHER_0", 3, 3, 2)
    with store.transaction() as tx:
        step(tx, "sweep", 500, 0, 1)
        step(tx, "TL_UP_0", 8, 8, 0)
    with store.snapshot() as reader:
        found = list(read_steps(reader))
        assert [(each.name, each.before, each.after, each.first, each.last) for each in found] == taken
        assert {each.now for each in found} == {event.recorded_at for event in reader.read()}
        assert list(read_steps(reader, found[1].key)) == found[2:]
