"""Law 3: late events re-state; earlier answers stay reproducible as of then."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import pytest
from line import DAY, START, Line, identifier, scattered_history

from throughline.eventlog.v1 import eventlog_pb2
from throughline.feedback.v1 import feedback_pb2
from throughline.identity.v1 import identity_pb2
from throughline.journey.v1 import journey_pb2
from throughline.scoring.v1 import events_pb2, scoring_pb2
from throughline_kernel import hex_id

pytestmark = pytest.mark.e2e

PEOPLE = 8
STEPS = 9
MIDDLE = eventlog_pb2.Interval(start=START + 15 * DAY, end=START + 40 * DAY)
EVER = eventlog_pb2.Interval()

Answer = tuple[str, Any]


async def told(call: Awaitable[Any]) -> Answer:
    """What is answered, or why not."""
    try:
        return "answered", await call
    except grpc.aio.AioRpcError as refused:
        return refused.code().name, None


def who_is_who(line: Line, client_ids: list[str]) -> dict[str, Callable[[int], Awaitable[Any]]]:
    """What identity can be asked as of an instant."""
    stub = line.identity
    asked: dict[str, Callable[[int], Awaitable[Any]]] = {
        "proposals": lambda at: stub.ListProposals(identity_pb2.ListProposalsRequest(as_of=at)),
        "to be forgotten": lambda at: stub.ListForgettings(identity_pb2.ListForgettingsRequest(as_of=at)),
    }
    for client_id in client_ids:
        asked[f"client {client_id}"] = lambda at, c=client_id: stub.GetClient(
            identity_pb2.GetClientRequest(client_id=c, as_of=at)
        )
        asked[f"meaning of {client_id}"] = lambda at, c=client_id: stub.ResolveClient(
            identity_pb2.ResolveClientRequest(client_id=c, as_of=at)
        )
        for name, between in (("ever", EVER), ("in the middle", MIDDLE)):
            asked[f"interactions of {client_id} {name}"] = lambda at, c=client_id, b=between: (
                stub.ListClientInteractions(
                    identity_pb2.ListClientInteractionsRequest(client_id=c, as_of=at, between=b, page_size=1_000)
                )
            )
    for person in range(PEOPLE):
        for each in (identifier("loyalty_card", f"92{person:06}"), identifier("cookie", f"c{person}")):
            asked[f"meaning of {each.type} {person}"] = lambda at, i=each: stub.ResolveClient(
                identity_pb2.ResolveClientRequest(identifiers=[i], as_of=at)
            )
            asked[f"reasons of {each.type} {person}"] = lambda at, i=each: stub.ExplainLink(
                identity_pb2.ExplainLinkRequest(identifier=i, as_of=at)
            )
    for number in range(0, 90, 9):
        interaction_id = hex_id("interaction", "web", str(number))
        asked[f"reasons of interaction {number}"] = lambda at, i=interaction_id: stub.ExplainLink(
            identity_pb2.ExplainLinkRequest(interaction_id=i, as_of=at)
        )
    return asked


def inboxes(line: Line) -> dict[str, Callable[[int], Awaitable[Any]]]:
    """What feedback can be asked as of an instant, of all cases and items of the history."""
    stub = line.feedback
    asked: dict[str, Callable[[int], Awaitable[Any]]] = {}
    states = [number for number in feedback_pb2.CaseState.values() if number]
    for name, between in (("ever", EVER), ("in the middle", MIDDLE)):
        asked[f"departments {name}"] = lambda at, b=between: stub.GetDepartmentStats(
            feedback_pb2.GetDepartmentStatsRequest(as_of=at, between=b)
        )
        for department in ("customer_care", "delivery", "billing"):
            asked[f"inbox of {department} {name}"] = lambda at, d=department, b=between: stub.ListInbox(
                feedback_pb2.ListInboxRequest(department=d, states=states, as_of=at, between=b, page_size=500)
            )
    for number in range(90):
        feedback_id = hex_id("feedback", hex_id("interaction", "web", str(number)), "0")
        asked[f"item {number}"] = lambda at, i=feedback_id: stub.GetFeedback(
            feedback_pb2.GetFeedbackRequest(feedback_id=i, as_of=at)
        )
    return asked


def questions(line: Line, client_ids: list[str]) -> dict[str, Callable[[int], Awaitable[Any]]]:
    """Everything that can be asked as of an instant, alone and with an interval."""
    asked = who_is_who(line, client_ids) | inboxes(line)
    for name, between in (("ever", EVER), ("in the middle", MIDDLE)):
        for journey in ("", "social_to_store", "service_request"):
            asked[f"variants of {journey} {name}"] = lambda at, j=journey, b=between: line.journey.GetVariants(
                journey_pb2.GetVariantsRequest(journey=j, as_of=at, between=b)
            )
            asked[f"stages of {journey} {name}"] = lambda at, j=journey, b=between: line.journey.GetJourneyStats(
                journey_pb2.GetJourneyStatsRequest(journey=j, as_of=at, between=b)
            )
        for client_id in client_ids:
            asked[f"history of {client_id} {name}"] = lambda at, c=client_id, b=between: line.journey.GetTimeline(
                journey_pb2.GetTimelineRequest(client_id=c, as_of=at, between=b, page_size=1_000)
            )
            asked[f"scorecard of {client_id} {name}"] = lambda at, c=client_id, b=between: line.scoring.GetScorecard(
                scoring_pb2.GetScorecardRequest(
                    subject_kind=events_pb2.SUBJECT_KIND_CLIENT, subject=c, as_of=at, between=b
                )
            )
            asked[f"credit of {client_id} {name}"] = lambda at, c=client_id, b=between: line.scoring.GetAttribution(
                scoring_pb2.GetAttributionRequest(client_id=c, as_of=at, between=b)
            )
        for kind in (events_pb2.SUBJECT_KIND_ALL, events_pb2.SUBJECT_KIND_CHANNEL, events_pb2.SUBJECT_KIND_DEPARTMENT):
            asked[f"board of {kind} {name}"] = lambda at, k=kind, b=between: line.scoring.ListScorecards(
                scoring_pb2.ListScorecardsRequest(subject_kind=k, as_of=at, between=b)
            )
        asked[f"credit of all {name}"] = lambda at, b=between: line.scoring.GetAttribution(
            scoring_pb2.GetAttributionRequest(as_of=at, between=b)
        )
    return asked


@pytest.mark.timeout(300)
async def test_law_03_as_of_answers_equal_what_was_recorded_at_that_time(line: Line) -> None:
    """While late events, merges and undone merges arrive every answer is kept; in the end each comes back."""
    rng = random.Random(5)
    history = scattered_history(seed=5, people=PEOPLE, events=90)
    # Late by chance: what happened last is not what arrives last.
    rng.shuffle(history)
    cards = [identifier("loyalty_card", f"92{person:06}") for person in range(PEOPLE)]
    client_ids: list[str] = []
    merges: list[str] = []
    undone = 0
    kept: list[tuple[str, int, Answer]] = []
    for step in range(STEPS):
        await line.record(history[step * 10 : step * 10 + 10])
        if len(client_ids) > 2 and step % 2:
            one, other = rng.sample(client_ids, 2)
            request = identity_pb2.MergeClientsRequest(
                client_id=one, other_client_id=other, decided_by="test", reason="by chance"
            )
            outcome, merged = await told(line.identity.MergeClients(request))
            if outcome == "answered":
                merges.append(merged.merge_id)
        elif merges:
            undo = identity_pb2.UndoMergeRequest(
                merge_id=merges.pop(rng.randrange(len(merges))), decided_by="test", reason="by chance"
            )
            undone += (await told(line.identity.UndoMerge(undo)))[0] == "answered"
        await line.settled()
        for card in cards:
            request = identity_pb2.ResolveClientRequest(identifiers=[card])
            outcome, resolved = await told(line.identity.ResolveClient(request))
            if outcome == "answered" and resolved.client_id not in client_ids:
                client_ids.append(resolved.client_id)
        for question, ask in questions(line, client_ids).items():
            answer = await told(ask(0))
            if answer[1] is not None:
                kept.append((question, answer[1].as_of, answer))
    assert undone > 1
    assert len({str(answer) for _, _, answer in kept}) > len(kept) // 2, "the answers change as the stream goes on"
    asked = questions(line, client_ids)
    for question, instant, answer in kept:
        again = await told(asked[question](instant))
        assert again == answer, f"{question} as of {instant}"
