"""The whole service on both stores: real bus, real calls."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from throughline.eventlog.v1 import eventlog_pb2
from throughline.ingestion.v1 import interaction_pb2
from throughline.journey.v1 import definitions_pb2, error_reason_pb2
from throughline.journey.v1 import journey_pb2 as pb
from throughline_kernel import Recorded, combine_digests, digest, hex_id
from throughline_privacy import IdentifierHasher
from throughline_rpc import RemoteRefusal, decode_error, open_channel
from throughline_testkit import eventually

pytestmark = pytest.mark.timeout(90)


async def refused(call: Awaitable[Any]) -> RemoteRefusal:
    """What the call is refused with."""
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    return decode_error(failed.value)


@pytest.fixture
def ann(say: SimpleNamespace) -> str:
    return say.client("ann")


@pytest.fixture
def bob(say: SimpleNamespace) -> str:
    return say.client("bob")


@pytest.fixture
async def told(running: Any, say: SimpleNamespace, ann: str) -> Any:
    """Ann was on Instagram and on the site, days ago by the clock of now."""
    log = running.events["identity"]
    now = time.time_ns() // 1_000 - say.START
    log.opened(ann)
    say.post = say.fact(now - 2 * say.DAY, "instagram", "post", group="social")
    say.visit = say.fact(now - say.DAY, "web", "visit", group="site", exchanges=(say.Exchange("size", "M", False),))
    log.attributed(ann, say.post)
    log.attributed(ann, say.visit)
    await running.publish()
    return running


async def test_the_next_channel_learns_where_the_client_is(told: Any, say: SimpleNamespace, ann: str) -> None:
    """Given two contacts, the store is told of the open journey, steps, answer and next step, with evidence."""
    context = await told.stub.ResumeContext(pb.ResumeContextRequest(client_id=ann, channel="store"))
    assert (context.client_id, context.interactions) == (ann, 2)
    assert list(context.channels_used) == ["instagram", "web"]
    (matter,) = context.open_matters
    assert (matter.kind, matter.stage, matter.owner) == ("journey", "site", "omnichannel_sales")
    assert list(matter.event_ids) == [say.visit.id, say.post.id]
    assert [step.channel for step in context.last_steps] == ["web", "instagram"]
    assert [(a.question, a.answer, list(a.event_ids)) for a in context.answers] == [("size", "M", [say.visit.id])]
    assert context.next_steps[0].text.startswith("Offer to reserve")
    compact = await told.stub.ResumeContext(
        pb.ResumeContextRequest(client_id=ann, channel="store", form=pb.CONTEXT_FORM_COMPACT)
    )
    assert compact.ByteSize() <= 4096
    assert not compact.omitted


async def test_identifiers_in_the_clear_find_the_client(running: Any, say: SimpleNamespace, ann: str) -> None:
    """Given a linked e-mail, its owner is found however it is written."""
    from throughline.identity.v1 import events_pb2

    hasher = IdentifierHasher(say.HASH_KEY)
    log = running.events["identity"]
    log.opened(ann)
    log.add(
        events_pb2.IdentifierLinked(
            client_id=ann,
            identifier=interaction_pb2.IdentifierHash(type="email", hash=hasher.hash("email", "ann@post.eu")),
            identifies_person=True,
        )
    )
    await running.publish()
    shown = [interaction_pb2.Identifier(type="email", value=" Ann@Post.EU ")]
    context = await running.stub.ResumeContext(pb.ResumeContextRequest(identifiers=shown, channel="store"))
    assert (context.client_id, context.known_person) == (ann, True)


async def test_every_reason_is_given_where_it_belongs(told: Any, say: SimpleNamespace, ann: str, bob: str) -> None:
    """Each reason is met by a call, with its status; CONCURRENT_CHANGE needs a second writer beside the lock."""
    stub, resume = told.stub, pb.ResumeContextRequest
    met: dict[str, RemoteRefusal] = {}

    async def meet(call: Awaitable[Any], reason: str, code: grpc.StatusCode) -> RemoteRefusal:
        met[reason] = refusal = await refused(call)
        assert (refusal.reason, refusal.code, refusal.domain) == (reason, code, "throughline.journey")
        return refusal

    invalid, missing = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
    precondition = grpc.StatusCode.FAILED_PRECONDITION
    bad = await meet(stub.GetTimeline(pb.GetTimelineRequest(client_id=ann, page_size=1_001)), "FIELD_INVALID", invalid)
    assert bad.violations[0].field == "page_size"
    await meet(stub.ResumeContext(resume(client_id="nonsense", channel="store")), "FIELD_INVALID", invalid)
    await meet(stub.ResumeContext(resume(client_id=ann)), "FIELD_REQUIRED", invalid)
    await meet(stub.ResumeContext(resume(channel="store")), "FIELD_REQUIRED", invalid)
    await meet(stub.ResumeContext(resume(client_id=bob, channel="store")), "CLIENT_NOT_FOUND", missing)
    shown = [interaction_pb2.Identifier(type="email", value="no@body.eu")]
    await meet(stub.ResumeContext(resume(identifiers=shown, channel="store")), "IDENTIFIERS_UNKNOWN", missing)
    definition = definitions_pb2.JourneyDefinition(journey="empty", timeout=1)
    broken = await meet(
        stub.DefineJourney(pb.DefineJourneyRequest(definition=definition)), "DEFINITION_INVALID", invalid
    )
    assert {each.field for each in broken.violations} >= {"definition.owner", "definition.stages"}
    known = (await stub.ListJourneys(pb.ListJourneysRequest())).definitions[0]
    known.version, known.timeout = 7, 99
    await meet(
        stub.DefineJourney(pb.DefineJourneyRequest(definition=known)),
        "DEFINITION_VERSION_STALE",
        grpc.StatusCode.ABORTED,
    )
    await meet(stub.GetJourneyStats(pb.GetJourneyStatsRequest(journey="none")), "JOURNEY_NOT_FOUND", missing)
    await meet(
        stub.GetTimeline(pb.GetTimelineRequest(client_id=ann, page_token="made-up")), "PAGE_TOKEN_INVALID", invalid
    )
    accept = pb.AcceptHandoffRequest
    await meet(stub.AcceptHandoff(accept(token="none", channel="store")), "HANDOFF_NOT_FOUND", missing)
    offer = pb.OfferHandoffRequest(client_id=ann, from_channel="web", to_channel="store")
    offered = await stub.OfferHandoff(offer)
    elsewhere = accept(token=offered.token, channel="web")
    await meet(stub.AcceptHandoff(elsewhere), "HANDOFF_OTHER_CHANNEL", precondition)
    await stub.AcceptHandoff(accept(token=offered.token, channel="store"))
    await meet(
        stub.AcceptHandoff(accept(token=offered.token, channel="store")), "HANDOFF_ALREADY_ACCEPTED", precondition
    )
    offer.valid_for = 1
    short = await stub.OfferHandoff(offer)
    await meet(stub.AcceptHandoff(accept(token=short.token, channel="store")), "HANDOFF_EXPIRED", precondition)
    told.events["identity"].forgotten(ann)
    await told.publish()
    await meet(stub.ResumeContext(resume(client_id=ann, channel="store")), "CLIENT_FORGOTTEN", precondition)
    await told.journey.writer.close()
    offer.client_id = bob
    await meet(stub.OfferHandoff(offer), "LOG_UNAVAILABLE", grpc.StatusCode.UNAVAILABLE)
    reasons = {name.removeprefix("ERROR_REASON_") for name, _ in error_reason_pb2.ErrorReason.items()}
    assert reasons - set(met) == {"UNSPECIFIED", "CONCURRENT_CHANGE"}


async def test_a_token_works_once_even_for_two_who_race(told: Any, ann: str) -> None:
    """Ten calls with one token at once: one takes over, nine are refused, and the log has it once."""
    offered = await told.stub.OfferHandoff(
        pb.OfferHandoffRequest(client_id=ann, from_channel="web", to_channel="store", note="wants to try it on")
    )
    with told.journey.store.snapshot() as reader:
        kept = reader.read()
    assert not any(offered.token.encode() in event.payload for event in kept)

    async def take() -> Any:
        try:
            return await told.stub.AcceptHandoff(pb.AcceptHandoffRequest(token=offered.token, channel="store"))
        except grpc.aio.AioRpcError as error:
            return decode_error(error).reason

    answers = await asyncio.gather(*[take() for _ in range(10)])
    taken = [answer for answer in answers if not isinstance(answer, str)]
    assert len(taken) == 1
    assert answers.count("HANDOFF_ALREADY_ACCEPTED") == 9
    assert (taken[0].note, taken[0].client_id) == ("wants to try it on", ann)
    assert taken[0].context.interactions == 2
    with told.journey.store.snapshot() as reader:
        assert sum(event.type.endswith("HandoffAccepted") for event in reader.read()) == 1


async def test_the_timeline_is_paged_and_as_it_was(told: Any, say: SimpleNamespace, ann: str) -> None:
    """Pages add up to the whole; as of an earlier instant the answer of then comes back, page for page."""

    async def whole(as_of: int, size: int) -> list[Any]:
        entries, token = [], ""
        while True:
            page = await told.stub.GetTimeline(
                pb.GetTimelineRequest(client_id=ann, as_of=as_of, page_size=size, page_token=token)
            )
            entries += page.entries
            token = page.next_page_token
            if not token:
                return entries

    before = await whole(0, 2)
    assert [entry.type for entry in before] == [
        "interaction",
        "journey_started",
        "interaction",
        "channel_switched",
        "stage_reached",
    ]
    assert before[0].interaction.interaction_id == say.post.id == before[0].event_id
    instant = max(entry.recorded_at for entry in before)
    late = say.fact(say.post.occurred_at - say.START - say.HOUR, "tiktok", "post", group="social")
    told.events["identity"].attributed(ann, late)
    feedback = hex_id("feedback")
    told.events["feedback"].received(ann, feedback, say.visit.occurred_at - say.START, kind=1, score=9)
    await told.publish()
    await told.stub.OfferHandoff(pb.OfferHandoffRequest(client_id=ann, from_channel="web", to_channel="store"))
    after = await whole(0, 3)
    assert {"feedback", "handoff_offered"} <= {entry.type for entry in after}
    assert after[0].event_id == late.id
    assert await whole(instant, 2) == before
    assert after == await whole(0, 100)


async def test_who_watches_sees_the_past_then_what_comes_and_ends_cleanly(
    told: Any, say: SimpleNamespace, ann: str
) -> None:
    """Past from a position, then live; a watcher who never reads harms nobody; cancelling leaves no bell behind."""
    stuck = told.stub.WatchClient(pb.WatchClientRequest(client_id=ann, after_position=1))
    watch = told.stub.WatchClient(pb.WatchClientRequest(client_id=ann, after_position=1))
    past = sorted([(await watch.read()).entry.type for _ in range(5)])
    assert past == ["channel_switched", "interaction", "interaction", "journey_started", "stage_reached"]
    at = say.visit.occurred_at - say.START
    begun = time.monotonic()
    for index in range(600):
        told.events["identity"].attributed(ann, say.fact(at + 1 + index, "web", "visit", group="site"))
    await told.publish()
    seen = [(await watch.read()).entry for _ in range(600)]
    assert {entry.type for entry in seen} == {"interaction"}
    assert len({entry.event_id for entry in seen}) == 600
    assert [entry.position for entry in seen] == sorted(entry.position for entry in seen)
    assert time.monotonic() - begun < 30
    told.events["identity"].attributed(ann, say.fact(at + say.HOUR, "store", "visit"))
    await told.publish()
    assert (await watch.read()).entry.channel == "store"
    watch.cancel()
    stuck.cancel()
    await eventually(lambda: told.journey.servicer.watchers == 0)


async def test_a_watch_of_a_client_who_is_forgotten_says_so(told: Any, ann: str) -> None:
    """Given a watcher, forgetting the client ends the watch with the reason."""
    watch = told.stub.WatchClient(pb.WatchClientRequest(client_id=ann))
    reading = asyncio.ensure_future(watch.read())
    await eventually(lambda: told.journey.servicer.watchers == 1)
    told.events["identity"].forgotten(ann)
    await told.publish()
    assert (await refused(reading)).reason == "CLIENT_FORGOTTEN"


async def test_a_new_definition_answers_over_all_history(told: Any, say: SimpleNamespace, ann: str, bob: str) -> None:
    """Given history first, a definition published afterwards counts it when the call returns."""
    log = told.events["identity"]
    log.opened(bob)
    for index, channel in enumerate(["kiosk", "app", "kiosk"]):
        log.attributed(bob, say.fact(index, channel, "scan", id=f"scan{index}"))
    await told.publish()
    definition = definitions_pb2.JourneyDefinition(
        journey="scan_and_go",
        owner="stores",
        timeout=say.DAY,
        stages=[
            definitions_pb2.Stage(stage="kiosk", matches=[definitions_pb2.Match(channels=["kiosk"])], entry=True),
            definitions_pb2.Stage(stage="app", matches=[definitions_pb2.Match(channels=["app"])]),
        ],
        goal_stages=["app"],
    )
    answer = await told.stub.DefineJourney(pb.DefineJourneyRequest(definition=definition, defined_by="test"))
    assert (answer.version, answer.clients) == (1, 2)
    counted = await told.stub.GetVariants(pb.GetVariantsRequest(journey="scan_and_go"))
    assert [(list(v.channels), v.count, v.completed, v.abandoned) for v in counted.variants] == [
        (["kiosk"], 1, 0, 1),
        (["kiosk", "app"], 1, 1, 0),
    ]
    stats = await told.stub.GetJourneyStats(pb.GetJourneyStatsRequest(journey="scan_and_go"))
    assert (stats.owner, stats.started, stats.completed, stats.abandoned) == ("stores", 2, 1, 1)
    histories = await told.stub.GetVariants(pb.GetVariantsRequest(top=1))
    assert (histories.total, histories.others) == (2, 1)
    again = await told.stub.DefineJourney(pb.DefineJourneyRequest(definition=definition))
    assert (again.version, again.clients) == (1, 0)


async def test_the_live_state_is_that_of_a_replay(told: Any, say: SimpleNamespace, ann: str, bob: str) -> None:
    """After notes, moves, feedback, hand-offs and silence, the digest of the live state is that of the log replayed."""
    from journey.application.replay import make_fold

    log = told.events["identity"]
    log.opened(bob)
    log.reattributed(bob, ann, say.post)
    log.attributed(bob, say.fact(-90 * say.DAY, "instagram", "post", group="social"))
    told.events["feedback"].received(bob, hex_id("feedback"), 5, kind=2, score=4)
    await told.publish()
    await told.stub.OfferHandoff(pb.OfferHandoffRequest(client_id=ann, from_channel="web", to_channel="store"))
    checkpoint = await told.log.GetCheckpoint(eventlog_pb2.GetCheckpointRequest(digest=True))
    fold = make_fold()
    with told.journey.store.snapshot() as reader:
        for event in reader.read(until=checkpoint.position):
            fold.apply(event)
    assert combine_digests((key, digest(state)) for key, state in fold.aggregates()) == checkpoint.digest
    assert {inbox.stream.split("_")[-2] for inbox in checkpoint.inbox} == {"IDENTITY", "FEEDBACK"}
    for key, state in fold.aggregates():
        answer = await told.log.GetState(eventlog_pb2.GetStateRequest(key=key))
        assert answer.canonical_json == state
    assert (await refused(told.log.GetState(eventlog_pb2.GetStateRequest(key="client/x")))).reason == "STATE_NOT_FOUND"
    read: list[Recorded] = []
    async for page in told.log.ReadEvents(eventlog_pb2.ReadEventsRequest(client_id=bob)):
        read += page.events
    assert len(read) >= 5


async def test_silence_is_announced_by_the_running_service(told: Any, say: SimpleNamespace, bob: str) -> None:
    """Given an old journey and time gone by in the world, the sweeper announces its end."""
    log = told.events["identity"]
    log.attributed(bob, say.fact(0, "instagram", "post", group="social"))
    await told.publish()

    def announced() -> bool:
        with told.journey.store.snapshot() as reader:
            return any(event.type.endswith("JourneyAbandoned") for event in reader.read())

    await eventually(announced)


async def test_it_says_that_it_serves_and_offers_its_own_log(told: Any) -> None:
    """Health is serving, and the relay puts this service's log on the bus too."""
    async with open_channel(told.address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service="throughline.journey.v1.JourneyService")
        answer = await health.Check(request)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    with told.journey.store.snapshot() as reader:
        last = reader.last_position()
    await eventually(lambda: told.journey.relay.published_position >= last)


async def test_an_interrupted_telling_again_is_ended_at_the_next_start(
    told: Any, say: SimpleNamespace, ann: str
) -> None:
    """Given a definition committed by a process that died before it told all again, the sweeper ends it."""
    from journey.application import rows
    from journey.application.commands import Asked, DefineJourneys, retelling
    from journey.domain.definitions import DefineJourney

    definition = say.replace(say.shipped.get("social_to_store"), version=2, timeout=say.HOUR)
    asked = Asked(DefineJourney(definition, "test", say.START))
    await told.journey.writer.submit(DefineJourneys(told.journey.records), asked)
    with told.journey.store.snapshot() as reader:
        assert retelling(reader)
    await told.journey.servicer.tell_again()
    with told.journey.store.snapshot() as reader:
        assert not retelling(reader)
        assert reader.count(rows.JOURNEYS) == 1
    stats = await told.stub.GetJourneyStats(pb.GetJourneyStatsRequest(journey="social_to_store"))
    assert (stats.version, stats.abandoned) == (2, 1)
