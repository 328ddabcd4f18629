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
from throughline.identity.v1 import identity_pb2
from throughline.journey.v1 import journey_pb2
from throughline.scoring.v1 import events_pb2, scoring_pb2

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


def questions(line: Line, client_ids: list[str]) -> dict[str, Callable[[int], Awaitable[Any]]]:
    """Everything that can be asked as of an instant, alone and with an interval."""
    asked: dict[str, Callable[[int], Awaitable[Any]]] = {}
    for name, between in (("ever", EVER), ("in the middle", MIDDLE)):
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
