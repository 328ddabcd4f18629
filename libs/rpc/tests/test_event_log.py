"""A service's log, checkpoint and state, read over a real connection from a real store of each kind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from served import EVENT_TYPE, STREAM, CountedState

from throughline.eventlog.v1 import eventlog_pb2 as pb
from throughline.eventlog.v1.eventlog_pb2_grpc import EventLogServiceStub
from throughline_eventlog import InboxPosition, NewEvent, Store
from throughline_kernel import combine_digests, hex_id
from throughline_rpc import (
    EventLogServicer,
    HostSettings,
    Progress,
    RemoteRefusal,
    ServiceHost,
    decode_error,
    hosted_event_log,
    open_channel,
)
from throughline_rpc.event_log import CHUNK_BYTES, CHUNK_EVENTS

CLIENT = hex_id("client")


class Served:
    """The log service of one store, running."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.state = CountedState(store)
        self.lags = {"TL_IDENTITY_0": 7}
        self.published = 0
        self.put_aside = {"TL_IDENTITY_0": 2}
        progress = Progress(lambda: self.lags, lambda: self.published, lambda: self.put_aside)
        self.servicer = EventLogServicer(store, "testing", 3, self.state, progress)
        self.host = ServiceHost(HostSettings("testing"), [hosted_event_log(self.servicer)])
        self.stub: Any = None

    def append(self, *payloads: bytes) -> int:
        """Appends in one commit; answers its recorded_at."""
        with self.store.transaction() as tx:
            version = tx.last_version(STREAM)
            tx.append([NewEvent(STREAM, version + n, EVENT_TYPE, each, 1_000) for n, each in enumerate(payloads, 1)])
            return tx.now

    async def read(self, **request: Any) -> list[pb.LoggedEvent]:
        return [event for response in await self.responses(**request) for event in response.events]

    async def responses(self, **request: Any) -> list[pb.ReadEventsResponse]:
        return [response async for response in self.stub.ReadEvents(pb.ReadEventsRequest(**request))]


@pytest_asyncio.fixture
async def served(open_test_store: Any) -> AsyncIterator[Served]:
    served = Served(open_test_store())
    port = await served.host.start()
    async with open_channel(f"127.0.0.1:{port}") as channel:
        served.stub = EventLogServiceStub(channel)
        yield served
    await served.host.stop()


def payloads(events: list[pb.LoggedEvent]) -> list[bytes]:
    return [pb.Envelope.FromString(event.envelope).payload for event in events]


async def refused(call: Any) -> RemoteRefusal:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return decode_error(error.value)


async def test_the_log_is_read_in_order_and_whole(served: Served) -> None:
    """Every event once, as it was stored, in answers of at most 500."""
    written = [b"%d" % number for number in range(1_203)]
    served.append(*written)
    responses = await served.responses()
    assert [len(response.events) for response in responses] == [500, 500, 203]
    events = [event for response in responses for event in response.events]
    assert payloads(events) == written
    with served.store.snapshot() as reader:
        for event, recorded in zip(events, reader.read(), strict=True):
            envelope = pb.Envelope.FromString(event.envelope)
            assert (event.position, event.stream_id, event.version, event.type) == (
                recorded.position,
                recorded.stream_id,
                recorded.version,
                recorded.type,
            )
            assert (envelope.event_id, envelope.recorded_at) == (recorded.event_id, recorded.recorded_at)


async def test_an_empty_log_has_nothing_to_read(served: Served) -> None:
    """And says so without an error."""
    assert await served.responses() == []


async def test_a_range_is_kept_to(served: Served) -> None:
    """after, until, limit and as_of, each and together, also across answers."""
    first = served.append(*[b"%d" % number for number in range(600)])
    served.append(*[b"%d" % number for number in range(600, 1_100)])
    everything = await served.read()
    at = [event.position for event in everything]
    assert payloads(await served.read(after=at[599], limit=2)) == [b"600", b"601"]
    assert payloads(await served.read(until=at[1])) == [b"0", b"1"]
    assert payloads(await served.read(until=at[-1] + 1_000, limit=1_050)) == payloads(everything)[:1_050]
    assert payloads(await served.read(as_of=first)) == payloads(everything)[:600]
    assert await served.read(as_of=first - 1) == []
    assert await served.read(after=at[-1]) == []
    assert payloads(await served.read(after=at[10], until=at[20], as_of=first, limit=3)) == [b"11", b"12", b"13"]


async def test_big_events_are_sent_in_small_answers(served: Served) -> None:
    """A caller with gRPC's default limit of 4 MB reads a log of big events."""
    served.append(*[bytes([number]) * 900_000 for number in range(7)])
    responses = await served.responses()
    assert sum(len(response.events) for response in responses) == 7
    assert all(response.ByteSize() <= CHUNK_BYTES + 1_000 for response in responses)
    assert CHUNK_EVENTS == 500


async def test_events_of_a_client_or_of_interactions_are_found(served: Served) -> None:
    """What the service says concerns them, within the range asked for."""
    names = [hex_id(str(number)) for number in range(10)]
    recorded_at = served.append(*[name.encode() for name in names])
    served.append(b"later", b"later still")
    everything = await served.read()
    mine = [event for event in everything if event.position % 2 == 0]
    assert await served.read(client_id=CLIENT) == mine
    assert await served.read(client_id=CLIENT, after=mine[0].position, limit=2) == mine[1:3]
    assert await served.read(client_id=CLIENT, until=mine[1].position) == mine[:2]
    assert await served.read(client_id=CLIENT, as_of=recorded_at) == mine[:5]
    assert payloads(await served.read(interaction_ids=names[3:5])) == [names[3].encode(), names[4].encode()]


@pytest.mark.parametrize(
    ("request_", "fields"),
    [
        ({"after": -1, "limit": -5}, ["after", "limit"]),
        ({"until": -1, "as_of": -1}, ["until", "as_of"]),
        ({"client_id": "Anna"}, ["client_id"]),
        ({"interaction_ids": [CLIENT, "x"]}, ["interaction_ids[1]"]),
        ({"interaction_ids": [CLIENT] * 1_001}, ["interaction_ids"]),
    ],
)
async def test_what_cannot_be_read_is_named(served: Served, request_: dict[str, Any], fields: list[str]) -> None:
    """Each broken field, its rule and its remedy."""
    remote = await refused(served.responses(**request_))
    assert remote.code is grpc.StatusCode.INVALID_ARGUMENT
    assert [violation.field for violation in remote.violations] == fields
    assert all(violation.rule and violation.remedy for violation in remote.violations)


async def test_a_checkpoint_tells_where_everything_stands(served: Served) -> None:
    """Log, state, inbox with lag, and what is not on the bus yet."""
    empty = await served.stub.GetCheckpoint(pb.GetCheckpointRequest(digest=True))
    assert (empty.service, empty.partition, empty.position, empty.events) == ("testing", 3, 0, 0)
    assert empty.digest == combine_digests([])
    assert empty.outbox_age == 0

    first = served.append(b"one", b"two")
    recorded_at = served.append(b"three")
    with served.store.transaction() as tx:
        tx.set_inbox(InboxPosition("TL_IDENTITY_0", 1, 12, 5_000))
    with served.store.snapshot() as reader:
        last = reader.last_position()
    _, digests = await served.state.digests()

    plain = await served.stub.GetCheckpoint(pb.GetCheckpointRequest())
    assert plain.digest == ""
    full = await served.stub.GetCheckpoint(pb.GetCheckpointRequest(digest=True))
    assert (full.position, full.recorded_at, full.events) == (last, recorded_at, 3)
    assert full.digest == combine_digests(digests)
    assert list(full.inbox) == [pb.InboxPosition(stream="TL_IDENTITY_0", sequence=12, position=5_000, lag=7)]
    assert full.published_position == 0
    assert full.outbox_age >= recorded_at - first

    served.published = last
    done = await served.stub.GetCheckpoint(pb.GetCheckpointRequest())
    assert (done.published_position, done.outbox_age) == (last, 0)


async def test_digest_and_position_belong_together_while_the_log_grows(served: Served) -> None:
    """A comparison with a replay to this position must not fail for events that came in between."""
    served.append(b"first")
    grown = iter(range(100))
    served.state.before_digests = lambda: served.append(b"%d" % next(grown))
    checkpoint = await served.stub.GetCheckpoint(pb.GetCheckpointRequest(digest=True))
    served.state.before_digests = lambda: None
    served.append(b"last")
    events = await served.read(until=checkpoint.position)
    assert checkpoint.events == len(events)
    assert checkpoint.recorded_at == pb.Envelope.FromString(events[-1].envelope).recorded_at
    _, digests = await served.state.digests()
    assert checkpoint.digest == combine_digests(digests[: len(events)])


async def test_digests_are_paged_as_of_one_position(served: Served) -> None:
    """Pages of one comparison agree although the log grows between them."""
    served.append(*[b"%d" % number for number in range(25)])
    _, expected = await served.state.digests()
    found: list[tuple[str, bytes]] = []
    positions: set[int] = set()
    token, pages = "", 0
    while pages == 0 or token:
        page = await served.stub.ListStateDigests(pb.ListStateDigestsRequest(page_size=10, page_token=token))
        found += [(each.key, each.digest) for each in page.digests]
        positions.add(page.position)
        token, pages = page.next_page_token, pages + 1
        served.append(b"more")
    assert (found, pages, len(positions)) == (expected, 3, 1)
    again = await served.stub.ListStateDigests(pb.ListStateDigestsRequest())
    assert len(again.digests) == 28
    assert again.position not in positions


@pytest.mark.parametrize("token", ["x", "x:y", ":", "-1:key"])
async def test_a_page_token_of_somebody_else_is_refused(served: Served, token: str) -> None:
    """With field, rule and remedy."""
    remote = await refused(_list(served, page_token=token))
    assert [violation.field for violation in remote.violations] == ["page_token"]
    assert [each.field for each in (await refused(_list(served, page_size=-1))).violations] == ["page_size"]


async def _list(served: Served, **request: Any) -> Any:
    return await served.stub.ListStateDigests(pb.ListStateDigestsRequest(**request))


async def test_one_aggregate_is_read_by_its_key(served: Served) -> None:
    """Its canonical JSON and the position; or that there is none."""
    served.append(b"one")
    answer = await served.stub.GetState(pb.GetStateRequest(key="event/00000001"))
    assert answer.canonical_json == b'{"payload":"one"}'
    assert answer.position == 1

    async def absent() -> Any:
        return await served.stub.GetState(pb.GetStateRequest(key="event/9"))

    remote = await refused(absent())
    assert (remote.code, remote.reason, remote.metadata) == (
        grpc.StatusCode.NOT_FOUND,
        "STATE_NOT_FOUND",
        {"key": "event/9"},
    )


async def test_reading_does_not_hold_up_the_service(served: Served) -> None:
    """While a long log is read, other calls are answered."""
    served.append(*[b"%d" % number for number in range(5_000)])
    reading = asyncio.ensure_future(served.read())
    answered = 0
    while not reading.done():
        await served.stub.GetCheckpoint(pb.GetCheckpointRequest())
        answered += 1
    assert len(await reading) == 5_000
    assert answered >= 1


async def test_a_reader_who_goes_away_leaves_nothing_behind(served: Served) -> None:
    """A stream that is cancelled half-way ends its reads."""
    served.append(*[b"%d" % number for number in range(3_000)])
    stream = served.stub.ReadEvents(pb.ReadEventsRequest())
    assert len((await anext(aiter(stream))).events) == 500
    stream.cancel()
    assert len(await served.read(limit=700)) == 700


async def test_metrics_tell_where_the_log_stands(served: Served) -> None:
    """Position, outbox age, lag, what was put aside and what the server does are read when they are scraped."""
    from prometheus_client import REGISTRY

    served.append(b"one", b"two")
    assert await asyncio.to_thread(REGISTRY.get_sample_value, "throughline_log_position") == 2
    lag = await asyncio.to_thread(
        REGISTRY.get_sample_value, "throughline_consumer_lag_messages", {"stream": "TL_IDENTITY_0"}
    )
    assert lag == 7
    aside = await asyncio.to_thread(REGISTRY.get_sample_value, "throughline_poison_events", {"stream": "TL_IDENTITY_0"})
    assert aside == 2
    age = await asyncio.to_thread(REGISTRY.get_sample_value, "throughline_outbox_age_seconds")
    assert age is not None
    assert age >= 0
    for switch in served.store.switches:
        on = await asyncio.to_thread(REGISTRY.get_sample_value, "throughline_store_syncs", {"setting": switch})
        assert on == 1, switch
