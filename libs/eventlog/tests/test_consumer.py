"""Another service's log, taken once in effect, whatever happens to the bus, the store, a rival or the handler."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from throughline.eventlog.v1.eventlog_pb2 import Envelope, EventChunk, LoggedEvent
from throughline_eventlog import (
    POISON,
    BusError,
    Connection,
    Consumer,
    NatsServer,
    NewEvent,
    Reader,
    Relay,
    Schemas,
    Store,
    StoreSettings,
    Writer,
    open_store,
    read_steps,
)
from throughline_eventlog.streams import END_HEADER, EVENTS_HEADER, stream_config
from throughline_kernel import Recorded, UnavailableError
from throughline_testkit import eventually
from throughline_testkit.logs import NOTED, Noting, noted, stream_of
from throughline_testkit.plugin import OpenStore


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Store]:
    """The log that is consumed."""
    store = open_store(StoreSettings.sqlite("up", tmp_path / "up.db"))
    yield store
    store.close()


@pytest.fixture
def down(tmp_path: Path) -> Iterator[Store]:
    """The store of who consumes."""
    store = open_store(StoreSettings.sqlite("down", tmp_path / "down.db"), tables=("things",))
    yield store
    store.close()


@pytest_asyncio.fixture
async def writer(down: Store) -> AsyncIterator[Writer]:
    writer = Writer(down)
    yield writer
    await writer.close()


@asynccontextmanager
async def running(*those: Relay | Consumer) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(one.run()) for one in those]
    try:
        yield
        assert not any(task.done() for task in tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def append(store: Store, first: int, count: int) -> None:
    with store.transaction() as tx:
        tx.append([noted(number) for number in range(first, first + count)])


def taken_in_order(store: Store, count: int) -> None:
    """The consumer's own log is the upstream's, in order, each event once; its rows say the same."""
    with store.snapshot() as reader:
        assert [event.payload for event in reader.read()] == [str(number).encode() for number in range(count)]
        assert reader.count("things") == count


def steps_tell_what_was_taken(upstream: Reader, reader: Reader, stream: str) -> None:
    """Each step names the upstream events that led to its own, and together they lead to all there are."""
    own: list[bytes] = []
    for step in read_steps(reader):
        assert step.name == stream
        led_to = [event.payload for event in reader.read(step.before, until=step.after)]
        assert led_to == [event.payload for event in upstream.read(step.first - 1, until=step.last)]
        own += led_to
    assert own == [event.payload for event in reader.read()]


async def publish_chunk(connection: Connection, subject: str, start: int, numbers: range, schema: int = 1) -> None:
    """A chunk made by hand; position n + 1 is event n."""
    events = [
        LoggedEvent(
            position=number + 1,
            stream_id=stream_of(number),
            version=1,
            type=NOTED,
            envelope=Envelope(
                event_id=b"e" * 16, schema_version=schema, payload=str(number).encode()
            ).SerializeToString(),
        )
        for number in numbers
    ]
    chunk = EventChunk(service="up", start=start, end=numbers[-1] + 1, events=events)
    headers = {END_HEADER: str(chunk.end), EVENTS_HEADER: str(len(events))}
    await connection.publish(subject, chunk.SerializeToString(), headers)


async def make_stream(connection: Connection, prefix: str) -> tuple[str, str]:
    stream, subject = f"{prefix}_UP_0", f"{prefix.lower()}.up.v1.0"
    await connection.make_stream(stream_config(stream, subject, 1))
    return stream, subject


async def test_a_log_is_taken_whole_and_in_order(
    open_test_store: OpenStore, nats: Connection, stream_prefix: str
) -> None:
    """From before the start and after it, in batches, with the inbox in the same store."""
    up, down = open_test_store(service="up"), open_test_store(service="down", tables=("things",))
    append(up, 0, 3_000)
    writer, handler = Writer(down), Noting()
    relay = Relay(up, nats, "up", prefix=stream_prefix)
    consumer = Consumer(writer, nats, relay.stream, handler)
    async with running(relay, consumer):
        await eventually(lambda: consumer.taken == 3_000)
        append(up, 3_000, 5)
        await eventually(lambda: consumer.taken == 3_005)
        assert (consumer.health(), consumer.degraded()) == (None, None)
        await eventually(lambda: consumer.lag == 0)
    taken_in_order(down, 3_005)
    assert max(handler.batches) <= 2_000
    with up.snapshot() as upstream, down.snapshot() as reader:
        inbox = reader.inbox(relay.stream)
        assert inbox is not None
        assert inbox.position == consumer.position == upstream.last_position()
        assert inbox.created == (await nats.stream(relay.stream)).created
        steps_tell_what_was_taken(upstream, reader, relay.stream)
    await writer.close()


async def test_what_is_here_together_is_taken_together(
    up: Store, down: Store, writer: Writer, nats: Connection, stream_prefix: str
) -> None:
    """Many small chunks make one transaction."""
    relay = Relay(up, nats, "up", prefix=stream_prefix, chunk_events=100)
    append(up, 0, 1_500)
    async with running(relay):
        await eventually(lambda: relay.published_position == 1_500)
    handler = Noting()
    consumer = Consumer(writer, nats, relay.stream, handler)
    async with running(consumer):
        await eventually(lambda: consumer.taken == 1_500)
    assert len(handler.batches) < 15
    taken_in_order(down, 1_500)


async def test_a_consumer_continues_from_its_own_store(
    up: Store, down: Store, writer: Writer, nats: Connection, stream_prefix: str
) -> None:
    """Each new one begins behind what the last one committed."""
    relay = Relay(up, nats, "up", prefix=stream_prefix)
    async with running(relay):
        for turn in range(4):
            append(up, 25 * turn, 25)
            consumer = Consumer(writer, nats, relay.stream, Noting())
            async with running(consumer):
                await eventually(lambda consumer=consumer: consumer.taken == 25)
    taken_in_order(down, 100)


async def test_the_bus_is_left_tidy(up: Store, writer: Writer, nats: Connection, stream_prefix: str) -> None:
    """A consumer that stops takes its pull consumer along; one that is cut off leaves one that dies by itself."""
    relay = Relay(up, nats, "up", prefix=stream_prefix)
    append(up, 0, 1)
    consumer = Consumer(writer, nats, relay.stream, Noting())
    async with running(relay, consumer):
        await eventually(lambda: consumer.taken == 1)
        (info,) = (await nats.request(f"CONSUMER.LIST.{relay.stream}"))["consumers"]
        assert info["config"]["inactive_threshold"] == 60_000_000_000
        assert info["config"]["ack_policy"] == "none"
    assert (await nats.request(f"CONSUMER.LIST.{relay.stream}"))["consumers"] in (None, [])


async def test_rival_consumers_take_each_event_once(
    open_test_store: OpenStore, nats_server: NatsServer, nats: Connection, stream_prefix: str
) -> None:
    """Two of one service: one loses each race and steps back, the log is as if there were one."""
    up = open_test_store(service="up")
    relay = Relay(up, nats, "up", prefix=stream_prefix, chunk_events=5)
    stores = [open_test_store(service="down", tables=("things",)) for _ in range(2)]
    writers = [Writer(store) for store in stores]
    connections = [Connection(nats_server.url, name=f"rival-{number}") for number in range(2)]
    for connection in connections:
        connection.start()
    rivals = [
        Consumer(writer, connection, relay.stream, Noting(), batch_events=20)
        for writer, connection in zip(writers, connections, strict=True)
    ]
    async with running(relay, *rivals):
        for turn in range(20):
            await asyncio.to_thread(append, up, 30 * turn, 30)
        await eventually(lambda: sum(rival.taken for rival in rivals) >= 600, 40)
    assert sum(rival.taken for rival in rivals) == 600
    taken_in_order(stores[0], 600)
    for writer, connection in zip(writers, connections, strict=True):
        await writer.close()
        await connection.close()


async def test_a_stream_made_anew_brings_nothing_twice(
    up: Store, down: Store, writer: Writer, nats: Connection, stream_prefix: str
) -> None:
    """The relay publishes the whole log again, chunked otherwise; what was taken is skipped, by position."""
    append(up, 0, 100)
    relay = Relay(up, nats, "up", prefix=stream_prefix, chunk_events=8, poll=0.02)
    consumer = Consumer(writer, nats, relay.stream, Noting())
    async with running(consumer):
        async with running(relay):
            await eventually(lambda: consumer.taken == 100)
        await nats.request(f"STREAM.DELETE.{relay.stream}")
        append(up, 100, 30)
        again = Relay(up, nats, "up", prefix=stream_prefix, chunk_events=33)
        async with running(again):
            await eventually(lambda: consumer.taken == 130, 30)
        assert consumer.health() is None
    taken_in_order(down, 130)


async def test_a_stream_that_lost_its_end_is_read_again(
    up: Store, down: Store, nats: Connection, stream_prefix: str
) -> None:
    """The bus came back with less than it had given out: sequences mean other messages now, positions do not."""
    stream, subject = await make_stream(nats, stream_prefix)
    created = (await nats.stream(stream)).created
    await publish_chunk(nats, subject, 0, range(10))
    with down.transaction() as tx:
        handler = Noting()
        handler(tx, [recorded(number) for number in range(10)])
        from throughline_eventlog import InboxPosition

        tx.set_inbox(InboxPosition(stream, created, 7, 10))
    await publish_chunk(nats, subject, 10, range(10, 20))
    writer = Writer(down)
    consumer = Consumer(writer, nats, stream, handler)
    async with running(consumer):
        await eventually(lambda: consumer.taken == 10)
        await publish_chunk(nats, subject, 20, range(20, 25))
        await eventually(lambda: consumer.taken == 15)
    again = Consumer(writer, nats, stream, handler)
    async with running(again):
        await publish_chunk(nats, subject, 25, range(25, 26))
        await eventually(lambda: again.taken == 1)
    taken_in_order(down, 26)
    await writer.close()


async def test_a_hole_in_the_stream_is_said_and_nothing_behind_it_is_taken(
    down: Store, writer: Writer, nats: Connection, stream_prefix: str
) -> None:
    """Positions that the stream does not have anywhere stop the consumer; once they are there it goes on."""
    stream, subject = await make_stream(nats, stream_prefix)
    await publish_chunk(nats, subject, 0, range(3))
    await publish_chunk(nats, subject, 5, range(5, 8))
    consumer = Consumer(writer, nats, stream, Noting())
    async with running(consumer):
        await eventually(lambda: "lacks positions 4 to 5" in (consumer.health() or ""), 30)
        assert consumer.taken == 3
        await nats.request(f"STREAM.DELETE.{stream}")
        await make_stream(nats, stream_prefix)
        await publish_chunk(nats, subject, 0, range(8))
        await eventually(lambda: consumer.taken == 8, 30)
        await eventually(lambda: consumer.health() is None)
    taken_in_order(down, 8)


async def test_repeats_are_skipped(down: Store, writer: Writer, nats: Connection, stream_prefix: str) -> None:
    """The same run twice, or a run that overlaps what was taken, is taken once."""
    stream, subject = await make_stream(nats, stream_prefix)
    for start, numbers in ((0, range(5)), (0, range(5)), (0, range(8)), (3, range(3, 4)), (6, range(6, 12))):
        await publish_chunk(nats, subject, start, numbers)
    consumer = Consumer(writer, nats, stream, Noting())
    async with running(consumer):
        await eventually(lambda: consumer.taken == 12)
    taken_in_order(down, 12)


async def test_a_killed_bus_is_waited_for(up: Store, down: Store, writer: Writer, tmp_path: Path) -> None:
    """The bus dies again and again while events flow; the consumer's log is whole."""
    with NatsServer(tmp_path / "nats") as server, pytest.MonkeyPatch.context():
        async with Connection(server.url, name="line") as connection:
            relay = Relay(up, connection, "up", chunk_events=10)
            consumer = Consumer(writer, connection, relay.stream, Noting(), stuck_after=0.3)
            async with running(relay, consumer):
                for turn in range(4):
                    append(up, 50 * turn, 50)
                    await eventually(lambda turn=turn: consumer.taken >= 50 * turn + 10, 30)
                    server.kill()
                    await eventually(lambda: "nothing moved" in (consumer.health() or ""))
                    server.start()
                await eventually(lambda: consumer.taken == 200, 30)
                await eventually(lambda: consumer.health() is None)
    taken_in_order(down, 200)


async def test_a_dead_pull_is_noticed(up: Store, writer: Writer, nats: Connection, stream_prefix: str) -> None:
    """The server forgets this consumer without a word: silence is taken as an end, and it subscribes anew."""
    relay = Relay(up, nats, "up", prefix=stream_prefix)
    append(up, 0, 1)
    consumer = Consumer(writer, nats, relay.stream, Noting(), silence=0.5)
    async with running(relay, consumer):
        await eventually(lambda: consumer.taken == 1)
        (info,) = (await nats.request(f"CONSUMER.LIST.{relay.stream}"))["consumers"]
        await nats.request(f"CONSUMER.DELETE.{relay.stream}.{info['name']}")
        append(up, 1, 1)
        await eventually(lambda: consumer.taken == 2)


def spoiling(*payloads: bytes) -> Any:
    """Fails on events with these payloads."""

    def spoil(event: Recorded) -> None:
        if event.payload in payloads:
            raise ValueError(f"cannot take {event.payload.decode()}")

    return spoil


async def test_a_poison_event_is_put_aside_alone(
    open_test_store: OpenStore, nats: Connection, stream_prefix: str
) -> None:
    """All others of its batch are taken, in order; it is kept whole, counted, and redriven at the next start."""
    up, down = open_test_store(service="up"), open_test_store(service="down", tables=("things",))
    append(up, 0, 700)
    writer = Writer(down)
    relay = Relay(up, nats, "up", prefix=stream_prefix)
    consumer = Consumer(writer, nats, relay.stream, Noting(spoil=spoiling(b"0", b"333", b"334", b"699")))
    async with running(relay, consumer):
        await eventually(lambda: consumer.taken == 700, 40)
        assert consumer.poisoned == 4
        assert consumer.health() is None
        assert "4 events are in the table poison" in (consumer.degraded() or "")
    with down.snapshot() as reader:
        payloads = [event.payload for event in reader.read()]
        assert payloads == [str(n).encode() for n in range(700) if n not in (0, 333, 334, 699)]
        kept = [json.loads(value) for _, value in reader.scan(POISON)]
    with up.snapshot() as upstream:
        positions = [row.position for row in upstream.read_logged()]
    assert [record["position"] for record in kept] == [positions[n] for n in (0, 333, 334, 699)]
    assert kept[1]["error"] == "ValueError: cannot take 333"
    event = LoggedEvent.FromString(base64.b64decode(kept[1]["event"]))
    assert (event.stream_id, Envelope.FromString(event.envelope).payload) == (stream_of(333), b"333")

    mended = Consumer(writer, nats, relay.stream, Noting(spoil=spoiling(b"334")))
    async with running(mended):
        await eventually(lambda: mended.poisoned == 1)
    with up.snapshot() as upstream, down.snapshot() as reader:
        steps_tell_what_was_taken(upstream, reader, relay.stream)
        assert reader.count("things") == 699
        assert [json.loads(value)["position"] for _, value in reader.scan(POISON)] == [positions[334]]
    await writer.close()


async def test_a_failure_that_passes_is_no_poison(
    up: Store, down: Store, writer: Writer, nats: Connection, stream_prefix: str
) -> None:
    """What fails in a batch, and once more alone, and then not again, is taken."""
    failures = iter([True] * 3)

    def spoil(event: Recorded) -> None:
        if event.payload == b"1" and next(failures, False):
            raise ValueError("for now")

    append(up, 0, 4)
    relay = Relay(up, nats, "up", prefix=stream_prefix)
    consumer = Consumer(writer, nats, relay.stream, Noting(spoil=spoil))
    async with running(relay, consumer):
        await eventually(lambda: consumer.taken == 4)
    assert consumer.poisoned == 0
    taken_in_order(down, 4)


async def test_something_the_handler_needs_is_away(
    up: Store, down: Store, writer: Writer, nats: Connection, stream_prefix: str
) -> None:
    """A handler that says unavailable is asked again later: nothing is put aside, nothing is skipped."""
    away = True

    def spoil(event: Recorded) -> None:
        if away and event.payload == b"2":
            raise UnavailableError("KEY_STORE_UNAVAILABLE", "the key store is away")

    append(up, 0, 5)
    relay = Relay(up, nats, "up", prefix=stream_prefix)
    consumer = Consumer(writer, nats, relay.stream, Noting(spoil=spoil), stuck_after=0.3)
    async with running(relay, consumer):
        await eventually(lambda: "the key store is away" in (consumer.health() or ""))
        assert (consumer.taken, consumer.poisoned) == (0, 0)
        away = False
        await eventually(lambda: consumer.taken == 5)
        await eventually(lambda: consumer.health() is None)
    taken_in_order(down, 5)


async def test_an_event_of_a_newer_schema_stops_the_consumer(
    down: Store, writer: Writer, nats: Connection, stream_prefix: str
) -> None:
    """What came before it is taken; it and what follows are left for the version that knows them."""
    stream, subject = await make_stream(nats, stream_prefix)
    await publish_chunk(nats, subject, 0, range(3))
    await publish_chunk(nats, subject, 3, range(3, 5), schema=2)
    consumer = Consumer(writer, nats, stream, Noting())
    async with running(consumer):
        await eventually(
            lambda: f"stopped: the event at position 4 is {NOTED} in schema version 2" in (consumer.health() or "")
        )
        assert (consumer.taken, consumer.poisoned) == (3, 0)
    newer = Consumer(writer, nats, stream, Noting(), schemas=Schemas({NOTED: [bytes.upper]}))
    async with running(newer):
        await eventually(lambda: newer.taken == 2)
    taken_in_order(down, 5)


async def test_a_message_that_is_no_chunk_is_put_aside(
    down: Store, writer: Writer, nats: Connection, stream_prefix: str
) -> None:
    """Somebody published to the subject: their message is kept, and the log goes on."""
    stream, subject = await make_stream(nats, stream_prefix)
    await publish_chunk(nats, subject, 0, range(3))
    await nats.publish(subject, b"\xff\xff who am I", {})
    await publish_chunk(nats, subject, 3, range(3, 5))
    consumer = Consumer(writer, nats, stream, Noting())
    async with running(consumer):
        await eventually(lambda: consumer.taken == 5)
        assert consumer.poisoned == 1
    taken_in_order(down, 5)
    with down.snapshot() as reader:
        ((_, record),) = reader.scan(POISON)
    assert base64.b64decode(json.loads(record)["message"]) == b"\xff\xff who am I"


async def test_a_consumer_waits_for_a_stream_that_is_not_there_yet(
    up: Store, down: Store, writer: Writer, nats: Connection, stream_prefix: str
) -> None:
    """Services start in any order, and waiting for one that has nothing to say is no illness."""
    relay = Relay(up, nats, "up", prefix=stream_prefix)
    consumer = Consumer(writer, nats, relay.stream, Noting(), stuck_after=0.05)
    async with running(consumer):
        await eventually(lambda: consumer._waiting)
        with pytest.raises(BusError):
            await nats.stream(relay.stream)
        assert consumer.health() is None
        async with running(relay):
            append(up, 0, 3)
            await eventually(lambda: consumer.taken == 3)
    taken_in_order(down, 3)


async def test_other_work_goes_on_beside_a_failing_handler(
    up: Store, down: Store, writer: Writer, nats: Connection, stream_prefix: str
) -> None:
    """A caller whose item shares a transaction with a batch that fails is served all the same."""

    class Own:
        def __call__(self, tx: Any, items: Any, /) -> list[Any]:
            return [tx.append([NewEvent(stream_of(f"own {item}"), 1, NOTED, b"own", 1)])[0] for item in items]

        def rolled_back(self) -> None: ...

    append(up, 0, 200)
    relay = Relay(up, nats, "up", prefix=stream_prefix, chunk_events=20)
    consumer = Consumer(writer, nats, relay.stream, Noting(spoil=spoiling(b"50", b"150")))
    own = Own()
    async with running(relay, consumer):
        answers = []
        while consumer.taken < 200:
            answers += await asyncio.gather(*(writer.submit(own, len(answers) + n) for n in range(5)))
    assert len(set(answers)) == len(answers)
    with down.snapshot() as reader:
        assert reader.count("things") == 198
        assert reader.count_events() == 198 + len(answers)


def recorded(number: int) -> Recorded:
    return Recorded(number + 1, stream_of(number), 1, NOTED, b"e" * 16, 1, 1, 1, "", "", "", str(number).encode())
