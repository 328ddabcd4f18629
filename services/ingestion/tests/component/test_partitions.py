"""Two partitions, asked at either: what one would answer that has everything, or UNAVAILABLE and nothing lost."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from ingestion_world import CONFLICT, DUPLICATE, QUARANTINED, RECORDED, REFUSED, STORE, StartIngestion, World, event

from ingestion.domain.quota import Quota
from throughline.ingestion.v1 import ingestion_pb2, interaction_pb2, partition_pb2, partition_pb2_grpc
from throughline_client.sdk.ingestion import IngestionClient
from throughline_eventlog import Partitioning, SettingsError
from throughline_eventlog.nats_server import free_port
from throughline_eventlog.partitions import owner
from throughline_rpc import Caller, HostSettings, RemoteRefusal, decode_error, open_channel

# What is passed on is not the store's affair: tests/e2e/test_partitions.py has partitions on both.
pytestmark = pytest.mark.parametrize("store_kind", ["sqlite"])

TWO = Partitioning.parse("ingestion=1:2")
HERE = next(name for name in ("till", "web", "app", "kiosk") if owner(name, 2) == 0)
THERE = next(name for name in ("till", "web", "app", "kiosk") if owner(name, 2) == 1)


class Pair:
    """Two partitions, each of which can be started again at its address."""

    def __init__(self, start: StartIngestion) -> None:
        self._start = start
        self.peers = [f"127.0.0.1:{free_port()}" for _ in range(2)]
        self.worlds: list[World] = []

    async def start(self, number: int, **more: Any) -> World:
        """Serves one of them."""
        host = HostSettings(
            "ingestion",
            TWO.in_force("ingestion")[number],
            TWO,
            port=int(self.peers[number].rpartition(":")[2]),
            health_interval_seconds=0.05,
        )
        return await self._start(publish=False, host=host, peers=self.peers, **more)

    async def register(self) -> Pair:
        """Starts both; the channel `store` and the sources are registered at either, and stand in both."""
        self.worlds = [await self.start(0), await self.start(1)]
        await self.worlds[1].ingestion.RegisterChannel(
            ingestion_pb2.RegisterChannelRequest(channel="store", traits=STORE)
        )
        for world, source in zip(self.worlds, (THERE, HERE), strict=True):
            await world.ingestion.RegisterSource(ingestion_pb2.RegisterSourceRequest(source=source, name=source))
        return self


@pytest_asyncio.fixture
async def pair(start: StartIngestion) -> AsyncIterator[Pair]:
    """Both partitions, without a bus, with the channel `store` and a source of each."""
    yield await Pair(start).register()


async def refused(call: Awaitable[object]) -> RemoteRefusal:
    """What a call is refused with."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return decode_error(error.value)


def both(numbers: Sequence[int], **fields: Any) -> list[interaction_pb2.Interaction]:
    """Of each source in turn."""
    return [event(number, source=source, **fields) for number in numbers for source in (HERE, THERE)]


async def test_a_batch_is_answered_in_its_order_wherever_it_is_sent(pair: Pair) -> None:
    """Each event is decided where its source is, once for both who ask; of each source there is one account."""
    first, second = pair.worlds
    batch = both([1, 2])
    batch[1:1] = [event(9, source="not a name"), event(9, source=THERE, occurred_at=0)]
    results = await first.record(*batch)
    assert [each.verdict for each in results] == [RECORDED, REFUSED, REFUSED, RECORDED, RECORDED, RECORDED]
    assert [each.verdict for each in await second.record(*batch)] == [
        DUPLICATE,
        REFUSED,
        REFUSED,
        DUPLICATE,
        DUPLICATE,
        DUPLICATE,
    ]
    assert await second.verdicts(*both([1], outcome="returned")) == [CONFLICT, CONFLICT]
    assert [world.logged().count("InteractionRecorded") for world in pair.worlds] == [2, 2]
    assert [world.logged().count("ChannelRegistered") for world in pair.worlds] == [1, 1]
    accounts = {HERE: (2, 2, 1, 0, 0), THERE: (2, 2, 1, 0, 2), "": (0, 0, 0, 0, 2)}
    assert [await world.tallies() for world in pair.worlds] == [accounts, accounts]
    for world in pair.worlds:
        assert await world.replays_to_itself()


async def test_what_cannot_be_decoded_is_refused_where_its_source_is(pair: Pair) -> None:
    """The bytes are passed on as they came, and harm no other event."""
    good = both([1])
    broken = event(2, source=THERE, matter="~~~~").SerializeToString().replace(b"~~~~", b"\xff\xfe\xff\xfe")
    pieces = [each.SerializeToString() for each in good] + [broken]
    raw = b"".join(b"\x0a" + bytes([len(piece)]) + piece for piece in pieces)
    assert max(map(len, pieces)) < 128
    record = pair.worlds[0].channel.unary_unary(
        "/throughline.ingestion.v1.IngestionService/RecordInteractions",
        response_deserializer=ingestion_pb2.RecordInteractionsResponse.FromString,
    )
    answer: ingestion_pb2.RecordInteractionsResponse = await record(raw)
    assert [each.verdict for each in answer.results] == [RECORDED, RECORDED, REFUSED]
    assert [each.field for each in answer.results[2].violations] == ["matter"]
    assert (await pair.worlds[1].tallies())[THERE] == (1, 0, 0, 0, 1)
    refusal = await refused(record(b"\x0a\x7f"))
    assert (refusal.code, refusal.violations[0].field) == (grpc.StatusCode.INVALID_ARGUMENT, "request")


async def test_one_event_or_too_many(pair: Pair) -> None:
    """A refused one ends its call; a batch of the wrong size is refused whole, by both, and counted by each."""
    world = pair.worlds[0]
    one = ingestion_pb2.RecordInteractionRequest(interaction=event(1, source=THERE))
    assert (await world.ingestion.RecordInteraction(one)).result.verdict == RECORDED
    one.interaction.occurred_at = 0
    refusal = await refused(world.ingestion.RecordInteraction(one))
    assert (refusal.reason, [each.field for each in refusal.violations]) == ("FIELD_REQUIRED", ["occurred_at"])
    many = ingestion_pb2.RecordInteractionsRequest(interactions=both(range(501)))
    refusal = await refused(world.ingestion.RecordInteractions(many))
    assert (refusal.reason, refusal.metadata["events"]) == ("BATCH_SIZE_INVALID", "1002")
    nothing = ingestion_pb2.RecordInteractionsRequest()
    assert (await refused(world.ingestion.RecordInteractions(nothing))).reason == "BATCH_SIZE_INVALID"
    assert await world.tallies() == {HERE: (0, 0, 0, 0, 501), THERE: (1, 0, 0, 0, 502)}


async def test_of_a_stream_the_first_content_stands(pair: Pair) -> None:
    """Its batches reach the other partition in the order in which they came, however many are under way."""

    async def batches() -> AsyncIterator[ingestion_pb2.StreamInteractionsRequest]:
        for number in range(40):
            # Some long, some short: what is read sooner must not overtake.
            fill = b'{"a":"%s"}' % (b"x" * (9_000 if number % 3 else 1))
            # And what one partition takes alone must not overtake what both do.
            sources = (HERE, THERE) if number % 2 == 0 else (HERE,)
            interactions = [
                event(number // 8, source=source, matter=f"{number}", attributes=fill) for source in sources
            ]
            yield ingestion_pb2.StreamInteractionsRequest(batch_id=f"{number}", interactions=interactions)

    world = pair.worlds[0]
    answers = [answer async for answer in world.ingestion.StreamInteractions(batches())]
    assert [answer.batch_id for answer in answers] == [str(number) for number in range(40)]
    verdicts = [[result.verdict for result in answer.results] for answer in answers]
    assert verdicts == [[CONFLICT if number % 8 else RECORDED] * (2 - number % 2) for number in range(40)]
    for source in (HERE, THERE):
        request = ingestion_pb2.GetInteractionRequest(source=source, source_interaction_id="r3")
        found = await world.ingestion.GetInteraction(request)
        assert found.facts.matter == "24"
        step = 1 if source == HERE else 2
        assert [each.facts.matter for each in found.conflicts] == [f"{number}" for number in range(24 + step, 32, step)]


async def test_what_is_read_at_one_is_read_of_all(pair: Pair) -> None:
    """Interactions by id or by name, quarantine page by page in the order of recording, redriven by id or all."""
    first, second = pair.worlds
    (here, there) = await first.record(*both([1]))
    for world in pair.worlds:
        for result, source in ((here, HERE), (there, THERE)):
            by_id = ingestion_pb2.GetInteractionRequest(interaction_id=result.interaction_id)
            found = await world.ingestion.GetInteraction(by_id)
            assert found.facts.source == source
            assert found.personal.identifiers[0].value == "card-1"
            named = ingestion_pb2.GetInteractionRequest(source=source, source_interaction_id="r1")
            assert await world.ingestion.GetInteraction(named) == found
    absent = ingestion_pb2.GetInteractionRequest(interaction_id="0" * 32)
    assert (await refused(first.ingestion.GetInteraction(absent))).reason == "INTERACTION_NOT_FOUND"
    for number in range(2, 6):
        assert await second.verdicts(*both([number], channel="kiosk")) == [QUARANTINED, QUARANTINED]
    for world in pair.worlds:
        for size in (1, 3, 100):
            rows: list[ingestion_pb2.QuarantinedInteraction] = []
            token, pages = "", 0
            while token or not pages:
                request = ingestion_pb2.ListQuarantineRequest(page_size=size, page_token=token)
                page = await world.ingestion.ListQuarantine(request)
                rows += page.interactions
                token, pages = page.next_page_token, pages + 1
            assert len({row.interaction_id for row in rows}) == len(rows) == 8
            assert [row.recorded_at for row in rows] == sorted(row.recorded_at for row in rows)
            assert pages == {1: 8, 3: 3, 100: 1}[size]
    waits = rows[-1]
    waiting = ingestion_pb2.GetInteractionRequest(interaction_id=waits.interaction_id)
    assert "quarantine" in (await refused(first.ingestion.GetInteraction(waiting))).message
    await first.ingestion.RegisterChannel(ingestion_pb2.RegisterChannelRequest(channel="kiosk", traits=STORE))
    for world in pair.worlds:
        assert "kiosk" in {
            each.channel for each in (await world.ingestion.ListChannels(ingestion_pb2.ListChannelsRequest())).channels
        }
    assert await first.redrive(interaction_id=waits.interaction_id) == (1, 0, 0, 0, 0)
    again = ingestion_pb2.RedriveQuarantineRequest(interaction_id=waits.interaction_id)
    assert (await refused(first.ingestion.RedriveQuarantine(again))).reason == "QUARANTINE_NOT_FOUND"
    assert await second.redrive() == (7, 0, 0, 0, 0)
    other = interaction_pb2.ChannelTraits(name="Other")
    conflict = ingestion_pb2.RegisterChannelRequest(channel="kiosk", traits=other)
    assert (await refused(second.ingestion.RegisterChannel(conflict))).reason == "CHANNEL_CONFLICT"
    foreign = ingestion_pb2.ListQuarantineRequest(page_token="cQAAAAAAAAAB")
    assert (await refused(first.ingestion.ListQuarantine(foreign))).reason == "PAGE_TOKEN_INVALID"


async def test_where_one_is_away_the_call_is_to_be_sent_again(pair: Pair) -> None:
    """What the other recorded is known when it comes again; its own sources are served all the while."""
    first, second = pair.worlds
    await second.stop()
    request = ingestion_pb2.RecordInteractionsRequest(interactions=both([1]))
    refusal = await refused(first.ingestion.RecordInteractions(request))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "PARTITION_UNAVAILABLE")
    assert refusal.metadata["partition"] == "101"
    assert await first.verdicts(event(2, source=HERE)) == [RECORDED]
    assert (await refused(first.ingestion.GetTallies(ingestion_pb2.GetTalliesRequest()))).metadata["partition"] == "101"
    pair.worlds[1] = await pair.start(1)
    counted = await IngestionClient(first.channel).record_many(both([1, 2]), batch=4)
    assert (counted.recorded, counted.duplicate) == (2, 2)
    assert await first.tallies() == {HERE: (2, 2, 0, 0, 0), THERE: (2, 0, 0, 0, 0)}


async def test_a_quota_holds_where_the_source_is(start: StartIngestion) -> None:
    """Whoever passes it on tells the caller what the other said, and when to come back."""
    pair = Pair(start)
    pair.worlds = [await pair.start(number, quota=Quota(events=0.5, burst=20)) for number in (0, 1)]
    batch = ingestion_pb2.RecordInteractionsRequest(interactions=[event(number, source=THERE) for number in range(8)])
    await pair.worlds[0].ingestion.RecordInteractions(batch)
    refusal = await refused(pair.worlds[0].ingestion.RecordInteractions(batch))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED")
    assert refusal.metadata["source"] == THERE
    assert refusal.retry_after is not None
    assert 0 < refusal.retry_after <= 12


async def test_only_a_partition_is_passed_anything_and_only_what_is_meant_for_it(pair: Pair) -> None:
    """A channel system may not skip what its own call is held to; another number of partitions decides nothing."""
    part = partition_pb2.RecordPartRequest(interactions=[event(1, source=HERE)], size=1)
    meant = ("throughline-partition", "100/2")
    for role, metadata, code, reason in (
        ("channel", (meant,), grpc.StatusCode.PERMISSION_DENIED, "ROLE_FORBIDS"),
        ("service", (), grpc.StatusCode.FAILED_PRECONDITION, "PARTITION_MISMATCH"),
        ("service", ((meant[0], "100/3"),), grpc.StatusCode.FAILED_PRECONDITION, "PARTITION_MISMATCH"),
    ):
        async with open_channel(pair.peers[0], metadata=(*Caller("x", role).metadata(), *metadata)) as channel:
            refusal = await refused(partition_pb2_grpc.PartitionServiceStub(channel).RecordPart(part))
            assert (refusal.code, refusal.reason) == (code, reason)
    assert await pair.worlds[0].tallies() == {}
    await pair.worlds[1].stop()
    later = Partitioning.parse("ingestion=1:2:2")
    host = HostSettings("ingestion", 201, later, port=int(pair.peers[1].rpartition(":")[2]))
    await pair._start(publish=False, host=host, peers=pair.peers)
    refusal = await refused(pair.worlds[0].record(event(1, source=THERE)))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "PARTITION_MISMATCH")


async def test_a_log_that_no_change_has_made_is_not_written(start: StartIngestion) -> None:
    """Nothing would be known of what the logs before it have: what was reported there would be recorded again."""
    host, peers = HostSettings("ingestion", 101, TWO), ["127.0.0.1:1", "127.0.0.1:2"]
    with pytest.raises(
        SettingsError, match="is ingestion=1:2, and the log of partition 101 was not opened as one of 2"
    ):
        await start(publish=False, opened=False, host=host, peers=peers)
    await start(publish=False, host=host, peers=peers)
    other = HostSettings("ingestion", 101, Partitioning.parse("ingestion=1:3"))
    with pytest.raises(SettingsError, match="was not opened as one of 3: set it to what `throughline partitions show`"):
        await start(publish=False, host=other, peers=[*peers, "127.0.0.1:3"])
