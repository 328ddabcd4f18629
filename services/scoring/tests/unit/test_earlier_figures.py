"""Figures as of an instant and for an interval of event time, alone and together."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scoring_stories import CLIENTS, STEPS, Step, story
from scoring_upstream import DAY, START, Ears, MemoryStore, Upstream, client_id, interaction_id, sqlite

from scoring.application.commands import DefineMetrics
from scoring.application.queries import Queries
from scoring.application.scores import AsOf, ScoreName, parse_score_id, score_id
from scoring.domain.dimensions import Kind
from throughline.eventlog.v1 import eventlog_pb2
from throughline.feedback.v1 import events_pb2 as feedback
from throughline.identity.v1 import events_pb2 as identity
from throughline.journey.v1 import events_pb2 as journey
from throughline.scoring.v1 import events_pb2 as pb
from throughline.scoring.v1 import metrics_pb2
from throughline.scoring.v1 import scoring_pb2 as api
from throughline_eventlog import Reader, Store, Transaction
from throughline_kernel import ALWAYS, Interval, NotFoundError, PreconditionError, Refusal

MINIMUM = 1
KINDS = (
    pb.SUBJECT_KIND_ALL,
    pb.SUBJECT_KIND_CHANNEL,
    pb.SUBJECT_KIND_JOURNEY,
    pb.SUBJECT_KIND_DEPARTMENT,
)
MIDDLE = Interval(START + 5 * DAY, START + 15 * DAY)


def define(ears: Ears, version: int, unit: int, kind: str) -> None:
    """A version of one metric of one's own."""
    definition = metrics_pb2.MetricDefinition(
        metric="mine", version=version, name="Mine", definition="d", unit=metrics_pb2.Unit.ValueType(unit)
    )
    definition.numerator.kinds.append(kind)
    request = api.DefineMetricRequest(definition=definition, defined_by="t")
    with ears.store.transaction() as tx:
        (answer,) = DefineMetrics(ears.book)(cast("Transaction", tx), [request])
    assert not isinstance(answer, Refusal)


class World:
    """Scoring on a real store, and what it answers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store: Store = sqlite(folder / "scoring.db")
        self.ears = Ears(self.store)
        self.queries = Queries(self.store, MINIMUM)

    def instant(self) -> int:
        with self.store.snapshot() as reader:
            return reader.commit_at().recorded_at

    def answers(self, as_of: int, between: Interval) -> dict[str, Any]:
        """Everything that is told, refusals by their reason."""
        asked: dict[str, Any] = {
            "as_of": as_of,
            "between": eventlog_pb2.Interval(start=between.start, end=between.end),
        }
        told: dict[str, Any] = {}
        for kind in KINDS:
            request = api.ListScorecardsRequest(subject_kind=kind, metrics=["mine", "nps", "fcr"], **asked)
            told[pb.SubjectKind.Name(kind)] = self._told(lambda request=request: self.queries.list_scorecards(request))
        for name in CLIENTS:
            whom = client_id(name)
            card = api.GetScorecardRequest(subject_kind=pb.SUBJECT_KIND_CLIENT, subject=whom, **asked)
            told[name] = self._told(lambda card=card: self.queries.get_scorecard(card))
            credit = api.GetAttributionRequest(client_id=whom, **asked)
            told[f"{name}'s credit"] = self._told(lambda credit=credit: self.queries.get_attribution(credit))
        told["credit"] = self._told(lambda: self.queries.get_attribution(api.GetAttributionRequest(**asked)))
        return told

    @staticmethod
    def _told(ask: Any) -> Any:
        try:
            answer = ask()
        except Refusal as refusal:
            return refusal.reason
        answer.as_of = 0
        return answer

    def close(self) -> None:
        self.store.close()
        shutil.rmtree(self.folder)


@pytest.fixture
def world() -> Iterator[World]:
    opened = World(Path(tempfile.mkdtemp()))
    yield opened
    opened.close()


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(STEPS, st.data())
def test_an_answer_comes_back_as_of_the_instant_at_which_it_was_given(steps: list[Step], data: st.DataObject) -> None:
    """Late facts, moved ones, retracted journeys and new versions of a metric change no figure that was told before."""
    up = story(steps)
    world = World(Path(tempfile.mkdtemp()))
    try:
        answers: dict[int, tuple[Any, Any]] = {}
        chunks = [
            (log.service, log.events[start : start + 6])
            for log in (up.identity, up.feedback, up.journey)
            for start in range(0, len(log.events), 6)
        ]
        version = 0
        for service, events in data.draw(st.permutations(chunks)):
            world.ears.hear(service, events)
            if data.draw(st.integers(0, 4)) == 0:
                version += 1
                define(world.ears, version, data.draw(st.integers(1, 3)), data.draw(st.sampled_from(["visit", "call"])))
            answers[world.instant()] = world.answers(0, ALWAYS), world.answers(0, MIDDLE)
        # What is told of one client heeds what that client consents to now.
        spoke = {CLIENTS[who % 3] for what, who, _, _ in steps if what == "consent"}
        for instant, given_then in answers.items():
            for between, then in zip((ALWAYS, MIDDLE), given_then, strict=True):
                now = world.answers(instant, between)
                assert {key: now[key] for key in now if key.split("'")[0] not in spoke} == {
                    key: then[key] for key in then if key.split("'")[0] not in spoke
                }
    finally:
        world.close()


def summed(*parts: dict[Any, int]) -> dict[Any, int]:
    """The sums, but for what counts once over an interval: clients, and one's own metrics over clients and cases."""
    sums: dict[Any, int] = {}
    for part in parts:
        for counter, amount in part.items():
            if counter[2] not in {"clients", "mine"}:
                sums[counter] = sums.get(counter, 0) + amount
    return {counter: amount for counter, amount in sums.items() if amount}


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(STEPS, st.integers(0, 20), st.integers(1, 3))
def test_all_time_is_what_the_counters_say_and_intervals_that_meet_add_up_to_it(
    steps: list[Step], day: int, unit: int
) -> None:
    """An interval without bounds counts as the counters do; two that meet add up; the evidence is as long as n."""
    store = MemoryStore()
    ears = Ears(store)
    ears.hear_all(story(steps))
    define(ears, 1, unit, "visit")
    reader, position, cut = cast("Reader", store), store.last_position(), START + day * DAY

    def state(between: Interval) -> AsOf:
        return AsOf(reader, position, MINIMUM, between)

    whole, wide = state(ALWAYS), state(Interval(1, 0))
    before, after = state(Interval(0, cut)), state(Interval(cut, 0))
    for kind in Kind:
        assert wide.counters(kind.value) == whole.counters(kind.value)
        parts = before.counters(kind.value), after.counters(kind.value)
        assert summed(*parts) == summed(whole.counters(kind.value))
    for part in (whole, before):
        everyone = list(part.everyone())
        for kind, subject in ((Kind.ALL, ""), (Kind.CHANNEL, "web"), (Kind.CLIENT, client_id("ann"))):
            clients = [part.client(subject)] if kind is Kind.CLIENT else everyone
            for figure in part.figures((kind.value, subject)):
                of = (figure.metric, figure.aspect, figure.formula_version)
                name = ScoreName(kind.value, subject, *of, position)
                assert sum(len(part.evidence(client, name)) for client in clients) == figure.n, figure


def test_a_unit_counts_in_the_interval_in_which_it_began_with_all_that_is_known_of_it(world: World) -> None:
    """Asked again in May is not resolved in April; a touch of March has the credit of April's purchase."""
    up = Upstream()
    up.attributed("ann", "touch", 1 * DAY, kind="campaign_sent", campaign_id="spring")
    up.attributed("ann", "call", 9 * DAY, kind="call", channel="phone", matter="bill")
    up.attributed("ann", "purchase", 9 * DAY + 1, kind="purchase")
    up.attributed("ann", "again", 12 * DAY, kind="call", channel="phone", matter="bill")
    world.ears.hear_all(up)
    april = eventlog_pb2.Interval(start=START + 8 * DAY, end=START + 10 * DAY)
    request = api.GetScorecardRequest(subject_kind=pb.SUBJECT_KIND_CHANNEL, subject="phone", between=april)
    scores = {score.metric: score for score in world.queries.get_scorecard(request).scores}
    assert (scores["volume"].n, scores["fcr"].n, scores["fcr"].value) == (1, 1, 0.0)
    assert scores["fcr"].between == april
    explained = world.queries.explain_score(api.ExplainScoreRequest(score_id=scores["volume"].score_id))
    assert explained.score == scores["volume"]
    assert len(explained.event_ids) == 1
    credit = world.queries.get_attribution(api.GetAttributionRequest(model="first", between=april))
    assert [(row.campaign_id, row.conversions_micros) for row in credit.rows] == [("spring", 1_000_000)]
    up.attributed("ann", "bare", 9 * DAY + 2, kind="purchase")
    up.attributed("bob", "untouched", 9 * DAY, kind="purchase")
    world.ears.hear_all(up)
    everything = api.GetScorecardRequest(subject_kind=pb.SUBJECT_KIND_ALL, between=april)
    first = next(s for s in world.queries.get_scorecard(everything).scores if s.metric == "attribution_first")
    explained = world.queries.explain_score(api.ExplainScoreRequest(score_id=first.score_id))
    assert list(explained.event_ids) == [interaction_id("purchase"), interaction_id("bare")]
    may = eventlog_pb2.Interval(start=START + 20 * DAY)
    nothing = api.GetScorecardRequest(subject_kind=pb.SUBJECT_KIND_CHANNEL, subject="phone", between=may)
    assert {score.n for score in world.queries.get_scorecard(nothing).scores} == {0}


def test_who_was_forgotten_since_has_no_figures_at_any_instant(world: World) -> None:
    """Also where the same id is in use again: what was known before is not told."""
    up = Upstream()
    up.attributed("ann", "before", 1)
    world.ears.hear_all(up)
    then = world.instant()
    up.forgotten("ann")
    world.ears.hear_all(up)
    card = api.GetScorecardRequest(subject_kind=pb.SUBJECT_KIND_CLIENT, subject=client_id("ann"), as_of=then)
    with pytest.raises(PreconditionError, match="was forgotten"):
        world.queries.get_scorecard(card)
    up.identity.add(identity.ClientOpened(client_id=client_id("ann")), 2)
    up.attributed("ann", "after", 2)
    world.ears.hear_all(up)
    assert world.queries.get_scorecard(api.GetScorecardRequest(subject_kind=card.subject_kind, subject=card.subject))
    with pytest.raises(PreconditionError, match="was forgotten"):
        world.queries.get_scorecard(card)
    everything = api.GetScorecardRequest(subject_kind=pb.SUBJECT_KIND_ALL, as_of=then)
    volume = next(score for score in world.queries.get_scorecard(everything).scores if score.metric == "volume")
    explained = world.queries.explain_score(api.ExplainScoreRequest(score_id=volume.score_id))
    assert (volume.n, list(explained.event_ids)) == (1, [])
    assert "1 of the 1 belong to clients who were forgotten or withdrew since" in explained.score.note


def test_what_was_another_clients_for_a_while_is_forgotten_with_its_own(world: World) -> None:
    """Bob's purchase was Ann's, then his again, then he was forgotten: it is in no evidence and no card of hers."""
    up = Upstream()
    up.attributed("ann", "hers", 1)
    up.attributed("bob", "his", 2, kind="purchase")
    up.received("bob", "f1", 2, "his", score=9)
    up.reattributed("ann", "bob", "his")
    up.reassigned("ann", "bob", "f1", len(up.identity.events))
    world.ears.hear_all(up)
    then = world.instant()
    up.reattributed("bob", "ann", "his")
    up.reassigned("bob", "ann", "f1", len(up.identity.events))
    up.forgotten("bob")
    world.ears.hear_all(up)
    for kind, subject, n in ((pb.SUBJECT_KIND_CHANNEL, "web", 2), (pb.SUBJECT_KIND_CLIENT, client_id("ann"), 1)):
        card = api.GetScorecardRequest(subject_kind=kind, subject=subject, as_of=then)
        volume = next(each for each in world.queries.get_scorecard(card).scores if each.metric == "volume")
        explained = world.queries.explain_score(api.ExplainScoreRequest(score_id=volume.score_id))
        assert (volume.n, list(explained.event_ids)) == (n, [interaction_id("hers")])
        assert ("1 of the 2" in explained.score.note) == (n == 2)
    credit = api.GetAttributionRequest(client_id=client_id("ann"), as_of=then)
    assert not world.queries.get_attribution(credit).conversions


def test_before_anything_was_recorded_nobody_was_known(world: World) -> None:
    """A client of now is none then, and there are no figures."""
    up = Upstream()
    up.attributed("ann", "first", 1)
    world.ears.hear_all(up)
    card = api.GetScorecardRequest(subject_kind=pb.SUBJECT_KIND_CLIENT, subject=client_id("ann"), as_of=1)
    with pytest.raises(NotFoundError, match="no client"):
        world.queries.get_scorecard(card)
    listed = world.queries.list_scorecards(api.ListScorecardsRequest(subject_kind=pb.SUBJECT_KIND_CHANNEL, as_of=1))
    assert not listed.scorecards


def test_score_ids_say_the_interval_and_old_ones_stay_what_they_were() -> None:
    """Without an interval an id is spelt as before there were any."""
    plain = ScoreName(2, "web", "nps", "", 1, 7)
    assert parse_score_id(score_id(plain)) == plain
    assert score_id(plain) == "-v6VMpYCo3dlYqNucHOgAQc"
    named = plain._replace(start=3, end=9)
    assert parse_score_id(score_id(named)).between == Interval(3, 9)
    assert score_id(named) != score_id(plain)


def test_a_withdrawal_is_heeded_by_what_is_told_of_one_client_whatever_instant_it_is_asked_as_of(world: World) -> None:
    """Figures over all clients are what they were; of the client nothing is told, or of one channel no event."""
    up = Upstream()
    for name in ("ann", "bob"):
        up.attributed(name, f"{name}-ad", 1, kind="ad", channel="phone")
        up.attributed(name, f"{name}-buy", 2, kind="purchase", channel="web")
    world.ears.hear_all(up)
    then = world.instant()
    before = world.answers(then, ALWAYS), world.answers(then, MIDDLE)
    ann = api.GetScorecardRequest(subject_kind=pb.SUBJECT_KIND_CLIENT, subject=client_id("ann"), as_of=then)
    volume = next(score for score in world.queries.get_scorecard(ann).scores if score.metric == "volume")
    up.consented("ann", granted=False, at=3, scope="phone")
    world.ears.hear_all(up)
    credit = world.queries.get_attribution(api.GetAttributionRequest(client_id=client_id("ann"), as_of=then))
    assert [(part.what, part.count) for part in credit.left_out] == [("contacts", 1)]
    assert (credit.unattributed, credit.conversions[0].models) == (1, [])
    explained = world.queries.explain_score(api.ExplainScoreRequest(score_id=volume.score_id))
    assert (explained.score.n, list(explained.event_ids)) == (2, [interaction_id("ann-buy")])
    assert explained.score.note == "1 of the 2 belong to clients who were forgotten or withdrew since"
    bob = api.GetScorecardRequest(subject_kind=pb.SUBJECT_KIND_CLIENT, subject=client_id("bob"), as_of=then)
    other = next(score for score in world.queries.get_scorecard(bob).scores if score.metric == "volume")
    assert not world.queries.explain_score(api.ExplainScoreRequest(score_id=other.score_id)).score.note
    up.consented("ann", granted=False, at=4)
    world.ears.hear_all(up)
    refused = world.queries.get_scorecard(ann)
    assert not refused.scores
    assert [(part.what, part.count, part.purpose) for part in refused.left_out] == [("everything", 2, "measurement")]
    with pytest.raises(PreconditionError, match="withdrew its consent"):
        world.queries.get_attribution(api.GetAttributionRequest(client_id=client_id("ann"), as_of=then))
    with pytest.raises(PreconditionError, match="withdrew its consent"):
        world.queries.explain_score(api.ExplainScoreRequest(score_id=volume.score_id))
    for between, told in zip((ALWAYS, MIDDLE), before, strict=True):
        now = world.answers(then, between)
        assert {key: now[key] for key in now if "ann" not in key} == {
            key: told[key] for key in told if "ann" not in key
        }


def test_what_is_left_out_of_an_interval_is_what_began_in_it(world: World) -> None:
    """Counted apart as it would have counted: by when it happened, was opened or was started."""
    up = Upstream()
    up.attributed("ann", "early", 0)
    for at in (6 * DAY, 7 * DAY):
        up.attributed("ann", f"i{at}", at)
    up.received("ann", "f", 8 * DAY, "early")
    up.case(feedback.CaseOpened, "ann", "case", 9 * DAY, department="desk", channel="web")
    up.on_journey(journey.JourneyStarted, "ann", "journey", 10 * DAY, "early", channel="web")
    up.consented("ann", granted=False, at=3)
    world.ears.hear_all(up)

    def left_out(**asked: Any) -> dict[str, int]:
        request = api.GetScorecardRequest(subject_kind=pb.SUBJECT_KIND_ALL, **asked)
        return {part.what: part.count for part in world.queries.get_scorecard(request).left_out}

    assert left_out() == {"contacts": 3, "feedback": 1, "cases": 1, "journeys": 1}
    middle = eventlog_pb2.Interval(start=MIDDLE.start, end=MIDDLE.end)
    assert left_out(between=middle) == {"contacts": 2, "feedback": 1, "cases": 1, "journeys": 1}
    assert left_out(between=eventlog_pb2.Interval(end=MIDDLE.start)) == {"contacts": 1}
    then = world.instant()
    up.consented("ann", granted=True, at=4)
    world.ears.hear_all(up)
    assert left_out() == {}
    assert left_out(as_of=then, between=middle)["contacts"] == 2
