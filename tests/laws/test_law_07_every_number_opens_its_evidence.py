"""Law 7: a score, count or claim names the formula version and the event ids it stands on."""

from __future__ import annotations

import pytest
from line import Line, scattered_history

from throughline.eventlog.v1 import eventlog_pb2
from throughline.scoring.v1 import events_pb2, metrics_pb2, scoring_pb2

pytestmark = pytest.mark.e2e


async def test_law_07_every_number_opens_its_evidence(line: Line) -> None:
    """Each score names a formula that is published, and events that exist, n of them."""
    await line.record(scattered_history(seed=7, people=30, events=900))
    await line.settled()
    cards = [await line.scoring.GetScorecard(_card(events_pb2.SUBJECT_KIND_ALL, ""))]
    cards += [
        await line.scoring.GetScorecard(_card(events_pb2.SUBJECT_KIND_CHANNEL, channel))
        for channel in ("web", "store", "phone")
    ]
    seen: set[str] = set()
    for score in (score for card in cards for score in card.scores):
        assert score.formula
        assert score.formula_version >= 1
        assert score.HasField("value") or score.note, score
        evidence, formula = await _evidence(line, score.score_id)
        assert formula.text
        assert formula.source
        assert len(evidence) == len(set(evidence))
        if score.metric in {"nps", "csat", "ces", "volume", "fcr", "measurement_coverage"}:
            assert len(evidence) == score.n, score
        seen.update(evidence)
    assert seen
    logged = await _logged_ids(line)
    assert seen <= logged


async def _logged_ids(line: Line) -> set[str]:
    """The ids of all events in the logs that scores stand on."""
    found: set[str] = set()
    for service in ("ingestion", "feedback", "journey"):
        async for page in line.logs[service].ReadEvents(eventlog_pb2.ReadEventsRequest()):
            found.update(eventlog_pb2.Envelope.FromString(event.envelope).event_id.hex() for event in page.events)
    return found


def _card(kind: events_pb2.SubjectKind.ValueType, subject: str) -> scoring_pb2.GetScorecardRequest:
    return scoring_pb2.GetScorecardRequest(subject_kind=kind, subject=subject)


async def _evidence(line: Line, score_id: str) -> tuple[list[str], metrics_pb2.Formula]:
    found: list[str] = []
    token = ""
    while True:
        page = await line.scoring.ExplainScore(
            scoring_pb2.ExplainScoreRequest(score_id=score_id, page_size=200, page_token=token)
        )
        found.extend(page.event_ids)
        token = page.next_page_token
        if not token:
            return found, page.formula
