"""Many callers, one writer: what each of them may rely on."""

from __future__ import annotations

import asyncio
import resource
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from typing import Any

import pytest
import pytest_asyncio

from throughline_eventlog import NewEvent, Store, StoreSettings, StreamConflictError, Transaction, Writer, open_store
from throughline_eventlog.sqlite import SQLiteStore
from throughline_kernel import NotFoundError, Refusal, UnavailableError
from throughline_testkit import PostgresServer, eventually, postgres_settings
from throughline_testkit.logs import Appending, noted, stream_of
from throughline_testkit.plugin import OpenStore


@pytest_asyncio.fixture
async def writer(store: Store) -> AsyncIterator[Writer]:
    writer = Writer(store)
    yield writer
    await writer.close()


class Doing:
    """Work made of a function for each item."""

    def __init__(self, do: Callable[[Transaction, Any], Any]) -> None:
        self.do = do
        self.groups: list[int] = []
        self.rollbacks = 0

    def __call__(self, tx: Transaction, items: Sequence[Any], /) -> list[Any]:
        self.groups.append(len(items))
        return [self.do(tx, item) for item in items]

    def rolled_back(self) -> None:
        self.rollbacks += 1


class Gate:
    """Holds the writer's thread, so that a test decides what queues up behind it."""

    def __init__(self) -> None:
        self.entered, self.open = threading.Event(), threading.Event()

    def __call__(self, tx: Transaction, items: Sequence[None], /) -> Sequence[None]:
        self.entered.set()
        assert self.open.wait(30)
        return [None] * len(items)

    def rolled_back(self) -> None: ...

    async def hold(self, writer: Writer) -> asyncio.Task[None]:
        task = asyncio.create_task(writer.submit(self, None))
        await eventually(self.entered.is_set)
        return task


async def test_a_caller_that_hears_back_can_count_on_it(store: Store, writer: Writer) -> None:
    """When submit returns, another connection sees the event."""
    position = await writer.submit(Appending(), noted("a"))
    with store.snapshot() as reader:
        assert [e.position for e in reader.read()] == [position]


async def test_what_waits_together_is_written_together(store: Store, writer: Writer) -> None:
    """A hundred callers share one transaction, each gets its own result, and order within a kind of work is kept."""
    gate, work = Gate(), Appending()
    held = await gate.hold(writer)
    callers = [asyncio.create_task(writer.submit(work, noted(number))) for number in range(100)]
    await eventually(lambda: writer.depth == 100)
    gate.open.set()
    positions = await asyncio.gather(*callers)
    await held
    assert (work.calls, positions) == (1, sorted(positions))
    with store.snapshot() as reader:
        assert [e.payload for e in reader.read()] == [str(number).encode() for number in range(100)]


async def test_a_refusal_reaches_its_caller_alone(store: Store, writer: Writer) -> None:
    """One of a group is refused by the work; the others are written."""
    refusal = NotFoundError("CLIENT_NOT_FOUND", "no such client")

    def do(tx: Transaction, name: str) -> Refusal | int:
        return refusal if name == "bad" else tx.append([noted(name)])[0]

    gate, work = Gate(), Doing(do)
    held = await gate.hold(writer)
    answers = asyncio.gather(*(writer.submit(work, name) for name in ("a", "bad", "b")), return_exceptions=True)
    await eventually(lambda: writer.depth == 3)
    gate.open.set()
    first, second, third = await answers
    await held
    assert (second, work.groups, work.rollbacks) == (refusal, [3], 0)
    with store.snapshot() as reader:
        assert [e.position for e in reader.read()] == [first, third]


async def test_one_bad_item_fails_alone(store: Store, writer: Writer) -> None:
    """A group that fails is undone, caches are dropped, and each item is tried by itself, once."""
    gate, work, other = Gate(), Appending(), Appending()
    held = await gate.hold(writer)
    offered = [noted("a"), noted("b"), noted("a"), noted("c")]
    answers = asyncio.gather(
        *(writer.submit(work, event) for event in offered), writer.submit(other, noted("d")), return_exceptions=True
    )
    await eventually(lambda: writer.depth == 5)
    gate.open.set()
    a, b, again, c, d = await answers
    await held
    assert isinstance(again, StreamConflictError)
    assert work.rollbacks >= 1
    assert other.rollbacks == 1
    with store.snapshot() as reader:
        assert [e.position for e in reader.read()] == [a, b, c, d]
        assert [e.payload for e in reader.read()] == [b"a", b"b", b"c", b"d"]


async def test_what_one_work_lacks_is_not_the_logs_fault(store: Store, writer: Writer) -> None:
    """A work that says unavailable (its key store is away) fails alone; the log is healthy and others are served."""

    def do(tx: Transaction, name: str) -> int:
        raise UnavailableError("KEY_STORE_UNAVAILABLE", "the key store is away")

    gate = Gate()
    held = await gate.hold(writer)
    answers = asyncio.gather(
        writer.submit(Appending(), noted("a")),
        writer.submit(Doing(do), "b"),
        writer.submit(Appending(), noted("c")),
        return_exceptions=True,
    )
    await eventually(lambda: writer.depth == 3)
    gate.open.set()
    first, second, third = await answers
    await held
    assert isinstance(second, UnavailableError)
    assert second.reason == "KEY_STORE_UNAVAILABLE"
    assert writer.health() is None
    with store.snapshot() as reader:
        assert [e.position for e in reader.read()] == [first, third]


async def test_work_that_miscounts_is_undone(store: Store, writer: Writer) -> None:
    """A work that gives fewer results than items is a mistake that must not be committed."""

    class Short:
        def __call__(self, tx: Transaction, items: Sequence[NewEvent], /) -> Sequence[int]:
            tx.append(items)
            return []

        def rolled_back(self) -> None: ...

    with pytest.raises(RuntimeError, match="0 results for 1 items"):
        await writer.submit(Short(), noted("a"))
    with store.snapshot() as reader:
        assert reader.count_events() == 0


async def test_a_caller_that_leaves_does_not_stop_the_commit(store: Store, writer: Writer) -> None:
    """The deadline of a call does not decide what is in the log."""
    gate = Gate()
    held = await gate.hold(writer)
    gone = asyncio.create_task(writer.submit(Appending(), noted("a")))
    await eventually(lambda: writer.depth == 1)
    gone.cancel()
    with suppress(asyncio.CancelledError):
        await gone
    gate.open.set()
    await held
    await writer.flush()
    with store.snapshot() as reader:
        assert [e.payload for e in reader.read()] == [b"a"]


async def test_a_full_queue_makes_callers_wait(store: Store) -> None:
    """What waits in memory is bounded; nobody is dropped, and a caller that leaves lets the next one in."""
    writer, gate, work = Writer(store, group_weight=2, queue_weight=3), Gate(), Appending()
    held = await gate.hold(writer)
    callers = [asyncio.create_task(writer.submit(work, noted(number))) for number in range(8)]
    await eventually(lambda: len(writer._waiting) == 5)
    assert writer.depth == 3
    callers[3].cancel()
    gate.open.set()
    answers = await asyncio.gather(*callers, return_exceptions=True)
    await held
    assert isinstance(answers[3], asyncio.CancelledError)
    with store.snapshot() as reader:
        assert [e.payload for e in reader.read()] == [b"0", b"1", b"2", b"4", b"5", b"6", b"7"]
    await writer.close()


async def test_closing_writes_what_is_queued_and_refuses_the_rest(store: Store) -> None:
    """A graceful stop loses nothing that was accepted."""
    writer, gate, work = Writer(store, queue_weight=3), Gate(), Appending()
    held = await gate.hold(writer)
    callers = [asyncio.create_task(writer.submit(work, noted(number))) for number in range(5)]
    await eventually(lambda: len(writer._waiting) == 2)
    closing = asyncio.create_task(writer.close())
    await eventually(callers[4].done)
    gate.open.set()
    await closing
    await held
    answers = await asyncio.gather(*callers, return_exceptions=True)
    assert [isinstance(answer, UnavailableError) for answer in answers] == [False] * 3 + [True] * 2
    with pytest.raises(UnavailableError, match="stopping"):
        await writer.submit(work, noted("late"))
    with store.snapshot() as reader:
        assert reader.count_events() == 3


async def test_caches_are_dropped_when_another_process_wrote(open_test_store: OpenStore) -> None:
    """A work hears of it before it is asked again."""
    mine, theirs = open_test_store(), open_test_store()
    writer, work = Writer(mine), Appending()
    await writer.submit(work, noted("a"))
    with theirs.transaction() as tx:
        tx.append([noted("b")])
    assert work.rollbacks == 0
    await writer.submit(work, noted("c"))
    assert work.rollbacks == 1
    await writer.submit(work, noted("d"))
    assert work.rollbacks == 1
    await writer.close()


async def test_a_full_disk_is_said_and_survived(tmp_path: Any) -> None:
    """Callers are told to retry, health says why, nothing half-written stays, and with room again all goes on."""
    store = open_store(StoreSettings.sqlite("full", tmp_path / "full.db"), tables=("things",))
    assert isinstance(store, SQLiteStore)
    writer, work = Writer(store), Appending()
    await writer.submit(work, noted("before"))

    def limit(pages: int) -> None:
        with store._datastore.get_connection(commit=True) as connection:
            connection.cursor().execute(f"PRAGMA max_page_count={pages}")

    for number in range(2):
        await asyncio.to_thread(limit, 40)
        with pytest.raises(UnavailableError) as refused:
            await writer.submit(work, noted(f"full {number}", payload=b"x" * 200_000))
        assert refused.value.reason == "LOG_UNAVAILABLE"
        assert "full" in refused.value.metadata["cause"]
        assert "full" in (writer.health() or "")
    await writer.submit(work, noted("after", payload=b"x" * 400_000))
    assert writer.health() is None
    with store.snapshot() as reader:
        assert [row.stream_id for row in reader.read_logged()] == [stream_of("before"), stream_of("after")]
    await writer.close()
    store.close()


async def test_a_file_that_cannot_grow_is_survived(tmp_path: Any) -> None:
    """The same where the operating system refuses to write (here: a limit on file size) while callers come and go."""
    store = open_store(StoreSettings.sqlite("full", tmp_path / "full.db"), tables=("things",))
    writer, work = Writer(store), Appending()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    acknowledged: list[int] = []
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
        answers = [
            await asyncio.gather(writer.submit(work, noted(number, payload=b"x" * 60_000)), return_exceptions=True)
            for number in range(25)
        ]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    acknowledged = [answer for (answer,) in answers if isinstance(answer, int)]
    refused = [answer for (answer,) in answers if isinstance(answer, UnavailableError)]
    assert acknowledged
    assert refused
    assert len(acknowledged) + len(refused) == 25
    acknowledged.append(await writer.submit(work, noted("after")))
    with store.snapshot() as reader:
        assert [row.position for row in reader.read_logged()] == acknowledged
    await writer.close()
    store.close()


async def test_a_database_that_goes_away_comes_back() -> None:
    """While PostgreSQL is killed callers are told to retry; once it is back the same writer goes on, and nothing
    acknowledged is gone."""
    server = PostgresServer()
    server.start()
    try:
        store = open_store(postgres_settings(server, "away", "away"), tables=("things",))
        writer, work = Writer(store), Appending()
        acknowledged = [await writer.submit(work, noted("before"))]
        server.kill()
        with pytest.raises(UnavailableError) as refused:
            await writer.submit(work, noted("during"))
        assert refused.value.reason == "LOG_UNAVAILABLE"
        assert writer.health()
        with pytest.raises(UnavailableError), store.snapshot() as reader:
            reader.read()
        await asyncio.to_thread(server.start)

        async def again() -> int | None:
            try:
                return await writer.submit(work, noted("after"))
            except UnavailableError:
                return None

        acknowledged.append(await eventually(again, 30) or 0)
        with store.snapshot() as reader:
            assert [e.position for e in reader.read()] == acknowledged
        assert writer.health() is None
        await writer.close()
        store.close()
    finally:
        server.remove()
