"""The Python SDK against the real suite."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from throughline.feedback.v1 import feedback_pb2
from throughline.ingestion.v1 import events_pb2, ingestion_pb2, interaction_pb2
from throughline.journey.v1 import journey_pb2
from throughline.scoring.v1 import events_pb2 as scoring_events_pb2
from throughline_client import EndpointError, Endpoints, RemoteRefusal, Throughline
from throughline_client.sdk.recording import in_batches
from throughline_client.suite import Suite
from throughline_testkit import eventually

MakeVisit = Callable[..., interaction_pb2.Interaction]
START = 1_700_000_000_000_000

ANSWER = interaction_pb2.SENSITIVITY_OPERATIONAL
SOON = 60.0


async def client_of(client: Throughline, mail: str) -> str:
    """The client id of a mail address, once identity has heard of it."""

    async def known() -> str:
        identifier = interaction_pb2.Identifier(type="email", value=mail)
        try:
            return (await client.identity.resolve(identifiers=[identifier])).client_id
        except RemoteRefusal as refusal:
            if refusal.code is not grpc.StatusCode.NOT_FOUND:
                raise
            return ""

    return await eventually(known, SOON)


async def context_of(client: Throughline, client_id: str, interactions: int) -> journey_pb2.ResumeContextResponse:
    """What a channel is told, once journey knows so many interactions."""

    async def told() -> journey_pb2.ResumeContextResponse | None:
        try:
            context = await client.resume(client_id, channel="phone")
        except RemoteRefusal as refusal:
            if refusal.code is not grpc.StatusCode.NOT_FOUND:
                raise
            return None
        return context if context.interactions >= interactions else None

    return await eventually(told, SOON)  # pyright: ignore[reportReturnType] -- never None


async def test_recording_twice_counts_once(client: Throughline, visit: MakeVisit) -> None:
    """The second time everything is known, in single calls and in batches."""
    offered = [visit(number, mail="twice@shop.eu") for number in range(2_500)]
    first = await client.record_many(offered)
    assert first.as_dict() == {
        "offered": 2_500,
        "recorded": 2_500,
        "duplicate": 0,
        "conflict": 0,
        "quarantined": 0,
        "refused": 0,
    }
    again = await client.record_many(offered)
    assert (again.duplicate, again.offered) == (2_500, 2_500)
    assert (await client.record(offered[0])).verdict == events_pb2.VERDICT_DUPLICATE


async def test_each_verdict_comes_back_in_order(client: Throughline, visit: MakeVisit) -> None:
    """A bad one harms no other, and says field, rule and remedy."""
    good = visit(1, mail="order@shop.eu")
    changed = visit(1, mail="order@shop.eu", touchpoint="other")
    elsewhere = visit(2, mail="order@shop.eu", channel="carrier_pigeon")
    broken = visit(3, mail="order@shop.eu")
    broken.kind = "Not Snake"
    batches = in_batches([good, good, changed, elsewhere, broken, visit(4, mail="order@shop.eu")])
    (answered,) = [each async for each in client.ingestion.record_batches(batches)]
    assert [each.verdict for each in answered.results] == [
        events_pb2.VERDICT_RECORDED,
        events_pb2.VERDICT_DUPLICATE,
        events_pb2.VERDICT_CONFLICT,
        events_pb2.VERDICT_QUARANTINED,
        events_pb2.VERDICT_REFUSED,
        events_pb2.VERDICT_RECORDED,
    ]
    assert answered.results[4].violations[0].field == "kind"
    assert answered.results[4].violations[0].remedy


async def test_a_refusal_carries_its_reason_and_fields(client: Throughline) -> None:
    """RemoteRefusal: code, reason, domain, metadata, violations."""
    with pytest.raises(RemoteRefusal) as caught:
        await client.identity.client("nonsense")
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert (caught.value.reason, caught.value.domain) == ("FIELD_INVALID", "throughline.identity")
    assert caught.value.violations[0].field == "client_id"
    with pytest.raises(RemoteRefusal) as caught:
        await client.ingestion.interaction("0" * 32)
    assert caught.value.reason == "INTERACTION_NOT_FOUND"


async def test_a_stream_of_batches_survives_the_death_of_ingestion(
    suite: Suite, client: Throughline, visit: MakeVisit
) -> None:
    """Killed in the middle and started again: every batch is answered, in order, nothing is lost and nothing twice."""
    interrupted: list[RemoteRefusal] = []
    total = 20_000

    def offered() -> Iterator[interaction_pb2.Interaction]:
        for number in range(total):
            yield visit(number, mail="crash@shop.eu", touchpoint=f"t{number % 7}")

    answered = 0
    counted: list[int] = []
    killed = False
    batches = client.ingestion.record_batches(in_batches(offered()), interrupted=interrupted.append, patience=90.0)
    async for each in batches:
        answered += len(each.results)
        counted += [result.verdict for result in each.results]
        if answered >= 5_000 and not killed:
            killed = True
            suite.kill("ingestion")
            suite.restart("ingestion", wait=False)
    assert answered == total
    assert interrupted
    assert set(counted) <= {events_pb2.VERDICT_RECORDED, events_pb2.VERDICT_DUPLICATE}
    again = await client.record_many(offered())
    assert again.duplicate == total


async def test_what_is_offered_may_fail_in_the_middle(client: Throughline, visit: MakeVisit) -> None:
    """An error of whoever makes the interactions reaches the caller as it is."""

    def offered() -> Iterator[interaction_pb2.Interaction]:
        yield from (visit(number, mail="source@shop.eu") for number in range(1_500))
        raise LookupError("the file is gone")

    with pytest.raises(LookupError, match="the file is gone"):
        await client.record_many(offered())


async def test_nobody_there_is_told_when_patience_is_over(visit: MakeVisit) -> None:
    """UNAVAILABLE, after the time that was given."""
    async with Throughline({"ingestion": "127.0.0.1:1"}) as nobody:
        with pytest.raises(RemoteRefusal) as caught:
            await nobody.ingestion.record_many([visit(1)], patience=0.2)
        assert caught.value.code is grpc.StatusCode.UNAVAILABLE
        with pytest.raises(RemoteRefusal):
            await nobody.ingestion.record(visit(1), patience=0.2)
        assert await nobody.log("ingestion").health() == "UNREACHABLE"


async def test_resume_reads_what_was_said_in_another_channel(client: Throughline, visit: MakeVisit) -> None:
    """Operational answers come with the context; personal ones are read from ingestion, unless told not to."""
    first = visit(1, mail="resume@shop.eu")
    first.exchanges.add(question="party_size", answer="4", sensitivity=ANSWER)
    first.exchanges.add(question="allergy", answer="peanuts")
    later = visit(2, mail="resume@shop.eu", channel="phone")
    later.exchanges.add(question="allergy", answer="peanuts and eggs")
    await client.record_many([first, later])
    client_id = await client_of(client, "resume@shop.eu")
    context = await context_of(client, client_id, 2)
    said = {answer.question: answer.answer for answer in context.answers}
    assert said == {"party_size": "4", "allergy": "peanuts and eggs"}
    closed = await client.resume(client_id, channel="web", personal=False)
    assert {answer.question: answer.answer for answer in closed.answers} == {"party_size": "4", "allergy": ""}
    compact = await client.resume(client_id, channel="web", compact=True, personal=False)
    assert compact.ByteSize() <= 4096


async def test_timeline_watch_and_handoff(client: Throughline, visit: MakeVisit) -> None:
    """The history, what is new in it, and a token that works once."""
    await client.record(visit(1, mail="hand@shop.eu"))
    client_id = await client_of(client, "hand@shop.eu")
    context = await context_of(client, client_id, 1)
    seen: list[journey_pb2.TimelineEntry] = []

    async def listen() -> None:
        async for entry in client.watch(client_id, after_position=context.position):
            seen.append(entry)
            return

    listening = asyncio.create_task(listen())
    await client.record(visit(2, mail="hand@shop.eu", channel="phone"))
    await asyncio.wait_for(listening, SOON)
    assert seen[0].event_id
    await context_of(client, client_id, 2)
    entries = [entry async for entry in client.journey.timeline(client_id, page_size=1)]
    steps = [entry.interaction.channel for entry in entries if entry.type == "interaction"]
    assert steps == ["web", "phone"]
    offered = await client.journey.offer_handoff(client_id, from_channel="web", to_channel="phone", note="size M")
    accepted = await client.journey.accept_handoff(offered.token, channel="phone", accepted_by="ana")
    assert (accepted.client_id, accepted.note) == (client_id, "size M")
    with pytest.raises(RemoteRefusal) as caught:
        await client.journey.accept_handoff(offered.token, channel="phone", accepted_by="ben")
    assert caught.value.reason == "HANDOFF_ALREADY_ACCEPTED"


async def test_feedback_becomes_a_case_that_is_resolved(client: Throughline) -> None:
    """Submitted twice it is one item; its case goes through acknowledged to resolved."""
    request = feedback_pb2.SubmitFeedbackRequest(
        source="desk",
        source_feedback_id="f-1",
        channel="web",
        occurred_at=START,
        feedback=interaction_pb2.Feedback(
            kind=interaction_pb2.FEEDBACK_KIND_COMPLAINT, verbatim="the parcel never came", topic="delivery"
        ),
        identifiers=[interaction_pb2.Identifier(type="email", value="angry@shop.eu")],
    )
    submitted = await client.feedback.submit(request)
    assert not submitted.duplicate
    assert (await client.feedback.submit(request)).duplicate
    item = await client.feedback.item(submitted.feedback_id)
    assert item.verbatim == "the parcel never came"
    (assignment,) = submitted.assignments
    case = await client.feedback.case(assignment.case_id)
    listed = [each.case_id async for each in client.feedback.inbox(assignment.department)]
    assert case.case_id in listed
    acknowledged = await client.feedback.acknowledge(case.case_id, by="ana")
    assert acknowledged.state == feedback_pb2.CASE_STATE_ACKNOWLEDGED
    resolved = await client.feedback.resolve(case.case_id, by="ana", resolution="sent again", root_cause="lost")
    assert resolved.state == feedback_pb2.CASE_STATE_RESOLVED
    reopened = await client.feedback.reopen(case.case_id, by="ana", reason="lost again")
    assert reopened.reopened == 1
    assert {each.department for each in await client.feedback.departments()} >= {assignment.department}


async def test_scores_open_their_evidence(client: Throughline, visit: MakeVisit) -> None:
    """A figure leads to the ids of the interactions that it counts."""
    await client.record_many([visit(number, mail="scored@shop.eu", matter="m") for number in range(3)])
    client_id = await client_of(client, "scored@shop.eu")

    async def volume() -> scoring_events_pb2.Score | None:
        try:
            card = await client.scoring.scorecard(scoring_events_pb2.SUBJECT_KIND_CLIENT, client_id)
        except RemoteRefusal as refusal:
            if refusal.code is not grpc.StatusCode.NOT_FOUND:
                raise
            return None
        found = {score.metric: score for score in card.scores}
        return found["volume"] if found["volume"].n >= 3 else None

    score = await eventually(volume, SOON)
    assert score is not None
    evidence = [each async for each in client.scoring.evidence(score.score_id, page_size=2)]
    ids = [each async for each in client.identity.interactions(client_id, page_size=2)]
    assert sorted(evidence) == sorted(ids)
    assert len(ids) == 3
    assert (await client.scoring.metrics()).formulas


async def test_a_log_can_be_read_and_is_digested(client: Throughline, visit: MakeVisit) -> None:
    """Positions increase, the checkpoint knows the last one, the digest is there when asked for."""
    result = await client.record(visit(1, mail="log@shop.eu"))
    (event,) = [each async for each in client.log("ingestion").read(after=result.position - 1, limit=1)]
    assert event.position == result.position
    assert event.type == "throughline.ingestion.v1.InteractionRecorded"
    checkpoint = await client.log("ingestion").checkpoint(digest=True)
    assert checkpoint.position >= result.position
    assert len(checkpoint.digest) == 64
    keys = [each.key async for each in client.log("ingestion").digests(page_size=3)]
    assert all(one < two for one, two in itertools.pairwise(keys))


async def test_registering_twice_is_fine_and_otherwise_is_a_conflict(client: Throughline) -> None:
    """The same traits: known already. Others: refused, unless they are to replace."""
    traits = interaction_pb2.ChannelTraits(name="Web", group="site")
    assert not (await client.ingestion.register_channel("web", traits)).created
    with pytest.raises(RemoteRefusal) as caught:
        await client.ingestion.register_channel("web", interaction_pb2.ChannelTraits(name="Net"))
    assert caught.value.reason == "CHANNEL_CONFLICT"
    known = {each.channel: each.traits.name for each in await client.ingestion.channels()}
    assert known["web"] == "Web"
    assert "desk" in {each.source for each in await client.ingestion.sources()}


def test_addresses_are_found_in_their_order(tmp_path: Path, suite: Suite) -> None:
    """Given, then the data folder if it was given, then the environment; nobody says: a clear error."""
    environment = {"THROUGHLINE_JOURNEY_ADDRESS": "far:1", "THROUGHLINE_DATA": str(suite.folder)}
    assert Endpoints.find(env=environment).address("journey") == "far:1"
    assert Endpoints.find(env=environment).address("scoring") == suite.addresses["scoring"]
    assert Endpoints.find(data=suite.folder, env=environment).address("journey") == suite.addresses["journey"]
    assert Endpoints.find({"journey": "near:2"}, env=environment).address("journey") == "near:2"
    with pytest.raises(EndpointError, match="THROUGHLINE_FEEDBACK_ADDRESS"):
        Endpoints.find(data=tmp_path, env={}).address("feedback")


def test_batches_are_cut_by_number_and_by_size(visit: MakeVisit) -> None:
    """At most 1,000, and no more than fit into a message."""
    small = [visit(number) for number in range(2_100)]
    assert [len(batch) for batch in in_batches(small)] == [1_000, 1_000, 100]
    big = [visit(number, attributes=b'{"a":"' + b"x" * 50_000 + b'"}') for number in range(10)]
    assert [len(batch) for batch in in_batches(big, limit=150_000)] == [3, 3, 3, 1]
    assert ingestion_pb2.StreamInteractionsRequest(interactions=big[:3]).ByteSize() < 200_000
