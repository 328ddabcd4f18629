"""A log on the bus: whole, in order, once, whatever happens to the bus or to a rival."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from throughline_eventlog import Connection, NatsServer, Relay, Store, StoreSettings, open_store
from throughline_eventlog.relay import _Tail
from throughline_eventlog.streams import stream_config
from throughline_testkit import eventually
from throughline_testkit.logs import chunks_of, noted
from throughline_testkit.plugin import OpenStore


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[NatsServer]:
    """A server that this test may treat as it likes."""
    server = NatsServer(tmp_path / "nats")
    server.start()
    yield server
    server.kill()


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Store]:
    store = open_store(StoreSettings.sqlite("up", tmp_path / "up.db"))
    yield store
    store.close()


@asynccontextmanager
async def running(*relays: Relay) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(relay.run()) for relay in relays]
    try:
        yield
        assert not any(task.done() for task in tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def append(store: Store, first: int, count: int, size: int = 10) -> None:
    with store.transaction() as tx:
        tx.append([noted(number, payload=b"x" * size) for number in range(first, first + count)])


async def assert_published_whole(connection: Connection, stream: str, store: Store) -> None:
    """The stream's chunks are the log, in order, each event once, each chunk where the one before it ended."""
    chunks = await chunks_of(connection, stream)
    with store.snapshot() as reader:
        rows = reader.read_logged()
    assert [chunk.start for chunk in chunks] == [0, *(chunk.end for chunk in chunks)][:-1]
    published = [(e.position, e.stream_id, e.version, e.type, e.envelope) for chunk in chunks for e in chunk.events]
    assert published == [tuple(row) for row in rows]


async def test_the_log_arrives_whole_and_in_chunks(store: Store, nats: Connection, stream_prefix: str) -> None:
    """Events from before the start and after it, in messages of at most 500, woken by the log itself."""
    append(store, 0, 1_200)
    relay = Relay(store, nats, "testing", 3, prefix=stream_prefix, poll=30)
    assert (relay.stream, relay.subject) == (f"{stream_prefix}_TESTING_3", f"{stream_prefix.lower()}.testing.v1.3")
    async with running(relay):
        await eventually(lambda: relay.events == 1_200)
        assert relay.chunks == 3
        append(store, 1_200, 1)
        await eventually(lambda: relay.events == 1_201)
        assert (relay.health(), relay.outbox_age()) == (None, 0)
    await assert_published_whole(nats, relay.stream, store)
    state = await nats.stream(relay.stream)
    assert {key: state.config[key] for key in ("storage", "retention", "max_age", "deny_delete", "deny_purge")} == {
        "storage": "file",
        "retention": "limits",
        "max_age": 0,
        "deny_delete": True,
        "deny_purge": True,
    }


async def test_a_relay_continues_where_the_stream_ends(log: Store, nats: Connection, stream_prefix: str) -> None:
    """A new relay keeps nothing of the old one, and publishes nothing twice."""
    append(log, 0, 10)
    for turn in range(1, 4):
        relay = Relay(log, nats, "up", prefix=stream_prefix)
        async with running(relay):
            await eventually(lambda relay=relay, turn=turn: relay.published_position == 10 * turn)
        append(log, 10 * turn, 10)
    assert relay.events == 10
    chunks = await chunks_of(nats, relay.stream)
    assert [event.position for chunk in chunks for event in chunk.events] == list(range(1, 31))


async def test_rivals_do_not_fork_the_stream(
    open_test_store: OpenStore, nats_server: NatsServer, nats: Connection, stream_prefix: str
) -> None:
    """Three relays of one log, each with its own connection and chunk size, while the log grows."""
    stores = [open_test_store() for _ in range(3)]
    connections = [Connection(nats_server.url, name=f"rival-{number}") for number in range(3)]
    relays = [
        Relay(store, connection, "testing", prefix=stream_prefix, chunk_events=size, poll=0.02)
        for store, connection, size in zip(stores, connections, (7, 11, 23), strict=True)
    ]
    for connection in connections:
        connection.start()
    async with running(*relays):
        for turn in range(60):
            await asyncio.to_thread(append, stores[turn % 3], 20 * turn, 20)
        with stores[0].snapshot() as reader:
            end = reader.last_position()
        await eventually(lambda: all(relay.published_position == end for relay in relays), 40)
    assert sum(relay.events for relay in relays) == 1_200
    await assert_published_whole(nats, relays[0].stream, stores[0])
    for connection in connections:
        await connection.close()


async def test_a_rival_that_slept_is_fenced(log: Store, nats: Connection, stream_prefix: str) -> None:
    """A relay that still believes the stream to be empty cannot publish, though the server knows its ids no more."""
    append(log, 0, 10)
    relay = Relay(log, nats, "up", prefix=stream_prefix)
    config = stream_config(relay.stream, relay.subject, 1) | {"duplicate_window": 100_000_000}
    await nats.make_stream(config)
    async with running(relay):
        await eventually(lambda: relay.published_position == 10)
    awake = time.monotonic() + 0.3
    await eventually(lambda: time.monotonic() > awake)
    sleeper = Relay(log, nats, "up", prefix=stream_prefix)
    chunk = sleeper._read(0)
    assert chunk is not None
    assert await sleeper._publish(chunk, _Tail(0, "", 0)) is None
    assert await sleeper._publish(chunk, _Tail(0, "up.0:7", 1)) is None
    await assert_published_whole(nats, relay.stream, log)


async def test_a_killed_bus_is_waited_for(log: Store, own_server: NatsServer) -> None:
    """Events are appended while the bus is gone; when it is back everything is there, once."""
    append(log, 0, 20)
    async with Connection(own_server.url, name="relay") as connection:
        relay = Relay(log, connection, "up", stuck_after=0.2)
        async with running(relay):
            await eventually(lambda: relay.events == 20)
            for turn in range(1, 4):
                own_server.kill()
                append(log, 20 * turn, 20)
                await eventually(lambda: "not on the bus" in (relay.health() or ""))
                assert relay.outbox_age() > 0
                own_server.start()
                await eventually(lambda turn=turn: relay.published_position == 20 * (turn + 1), 30)
                await eventually(lambda: relay.health() is None)
        await assert_published_whole(connection, relay.stream, log)


async def test_a_service_may_start_before_the_bus(log: Store, tmp_path: Path) -> None:
    """Nothing is needed of the bus but that it comes."""
    server = NatsServer(tmp_path / "late")
    server.start()
    server.stop()
    append(log, 0, 5)
    async with Connection(server.url, name="early") as connection:
        relay = Relay(log, connection, "up", stuck_after=0.1)
        async with running(relay):
            await eventually(lambda: relay.health() is not None)
            assert not connection.connected
            server.start()
            await eventually(lambda: relay.published_position == 5)
    server.kill()


async def test_a_deleted_stream_is_made_anew(log: Store, nats: Connection, stream_prefix: str) -> None:
    """The bus is only a bus: the whole log goes out again, also where the log is quiet."""
    append(log, 0, 30)
    relay = Relay(log, nats, "up", prefix=stream_prefix, poll=0.02, chunk_events=8)
    async with running(relay):
        await eventually(lambda: relay.published_position == 30)
        first = await nats.stream(relay.stream)
        await nats.request(f"STREAM.DELETE.{relay.stream}")
        await eventually(lambda: relay.events == 60, 30)
        await eventually(lambda: relay.health() is None)
    assert (await nats.stream(relay.stream)).created > first.created
    await assert_published_whole(nats, relay.stream, log)


async def test_a_foreign_message_does_not_confuse_it(log: Store, nats: Connection, stream_prefix: str) -> None:
    """Somebody published to the log's subject: the relay finds its own last message behind it and goes on."""
    append(log, 0, 5)
    relay = Relay(log, nats, "up", prefix=stream_prefix, poll=0.02)
    async with running(relay):
        await eventually(lambda: relay.published_position == 5)
        await nats.publish(relay.subject, b"who am I", {})
        append(log, 5, 5)
        await eventually(lambda: relay.published_position == 10)
    assert relay.events == 10


async def test_a_log_that_lost_events_is_not_hidden(
    log: Store, nats: Connection, stream_prefix: str, tmp_path: Path
) -> None:
    """A stream that is ahead of its log means that the log was put back: a person must decide."""
    append(log, 0, 10)
    relay = Relay(log, nats, "up", prefix=stream_prefix)
    async with running(relay):
        await eventually(lambda: relay.published_position == 10)
    older = open_store(StoreSettings.sqlite("up", tmp_path / "older.db"))
    append(older, 0, 4)
    relay = Relay(older, nats, "up", prefix=stream_prefix, stuck_after=0.1)
    async with running(relay):
        await eventually(lambda: "ends at position 10 and the log at 4" in (relay.health() or ""))
    older.close()


async def test_another_logs_stream_is_left_alone(
    log: Store, nats: Connection, stream_prefix: str, tmp_path: Path
) -> None:
    """Two installations with one prefix on one bus: the later one says so instead of going on behind the first."""
    append(log, 0, 10)
    relay = Relay(log, nats, "up", prefix=stream_prefix)
    async with running(relay):
        await eventually(lambda: relay.published_position == 10)
    other = open_store(StoreSettings.sqlite("up", tmp_path / "other.db"))
    append(other, 0, 20)
    relay = Relay(other, nats, "up", prefix=stream_prefix, stuck_after=0.1)
    async with running(relay):
        await eventually(lambda: "has another log's event at position 10" in (relay.health() or ""))
    other.close()
    await assert_published_whole(nats, relay.stream, log)


async def test_it_stops_when_told_to(log: Store, nats: Connection, stream_prefix: str) -> None:
    """A cancellation is heeded whenever it comes, also together with an answer of the bus."""
    append(log, 0, 40)
    tasks: list[asyncio.Task[None]] = []
    for turn in range(400):
        relay = Relay(log, nats, "up", prefix=stream_prefix, chunk_events=1, poll=0.001)
        tasks.append(asyncio.create_task(relay.run()))
        for _ in range(turn % 40):
            await asyncio.sleep(0)
        tasks[-1].cancel()
    _, running = await asyncio.wait(tasks, timeout=20)
    assert not running


async def test_a_cancellation_that_the_client_swallows_is_heeded(
    nats: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer and the cancellation come in one turn of the event loop."""
    client = await nats.ready()
    ask = client.request

    async def swallow(*arguments: Any, **options: Any) -> Any:
        reply = await ask(*arguments, **options)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0)
        return reply

    monkeypatch.setattr(client, "request", swallow)
    task = asyncio.create_task(nats.request("INFO"))
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_stream_that_forgets_is_refused(log: Store, nats: Connection, stream_prefix: str) -> None:
    """A stream that somebody made with limits would lose events: it is said, not used."""
    relay = Relay(log, nats, "up", prefix=stream_prefix, stuck_after=0.1)
    await nats.make_stream(stream_config(relay.stream, relay.subject, 1) | {"max_age": 3_600_000_000_000})
    append(log, 0, 1)
    async with running(relay):
        await eventually(lambda: "it has a limit, max_age" in (relay.health() or ""))
    assert relay.chunks == 0


async def test_a_stream_with_fewer_copies_than_asked_for_is_refused(
    log: Store, nats: Connection, stream_prefix: str
) -> None:
    """One made for a single server, when there is a cluster now: nobody takes it for three copies."""
    relay = Relay(log, nats, "up", prefix=stream_prefix, replicas=3, stuck_after=0.1)
    await nats.make_stream(stream_config(relay.stream, relay.subject, 1))
    append(log, 0, 1)
    async with running(relay):
        await eventually(lambda: "it has 1 of 3 replicas" in (relay.health() or ""))
    assert relay.chunks == 0


async def test_health_goes_by_the_given_clock(log: Store, own_server: NatsServer) -> None:
    """Idle is healthy however long it lasts; events that wait are not, once they wait too long."""
    now = [0.0]
    async with Connection(own_server.url, name="relay") as connection:
        relay = Relay(log, connection, "up", stuck_after=10, monotonic=lambda: now[0], poll=0.02)
        async with running(relay):
            append(log, 0, 1)
            await eventually(lambda: relay.published_position == 1)
            await eventually(lambda: relay._behind_since is None)
            now[0] = 5_000.0
            assert relay.health() is None
            own_server.kill()
            append(log, 1, 1)
            await eventually(lambda: relay._behind_since is not None)
            assert relay.health() is None
            now[0] += 10.5
            assert "nothing moved for 10 s" in (relay.health() or "")


async def test_big_events_go_in_small_chunks(log: Store, nats: Connection, stream_prefix: str) -> None:
    """A message stays below a size that the bus takes, and one event below that size always goes."""
    with log.transaction() as tx:
        tx.append([noted(number, payload=b"x" * 300_000) for number in range(7)])
        tx.append([noted(7, payload=b"x" * 3_000_000)])
    relay = Relay(log, nats, "up", prefix=stream_prefix)
    async with running(relay):
        await eventually(lambda: relay.published_position == 8)
    await assert_published_whole(nats, relay.stream, log)
    assert relay.chunks == 5


async def test_the_config_of_the_server_syncs_always(own_server: NatsServer) -> None:
    """The quoted word is in the file, and the server has not warned about it."""
    config = (own_server.folder / "nats-server.conf").read_text(encoding="utf-8")
    assert 'sync_interval: "always"' in config
    assert "sync_interval" not in own_server.log.read_text(encoding="utf-8")
    assert json.dumps(own_server.host) in config
