"""Who withdrew the consent to being measured counts in no figure from then on, and the figures say how much that is."""

from __future__ import annotations

from typing import Any, cast

import pytest
from scoring_upstream import DAY, Ears, MemoryStore, Upstream, client_id, interaction_id, live, replayed

from scoring.application.queries import Queries
from throughline.feedback.v1 import events_pb2 as feedback
from throughline.journey.v1 import events_pb2 as journey
from throughline.scoring.v1 import events_pb2 as pb
from throughline.scoring.v1 import scoring_pb2 as api
from throughline_kernel import PreconditionError

ALL, CHANNEL, CLIENT = pb.SUBJECT_KIND_ALL, pb.SUBJECT_KIND_CHANNEL, pb.SUBJECT_KIND_CLIENT


class World:
    """Scoring over a store in memory, with ten clients who answered alike on the web, and Ann by phone too."""

    def __init__(self) -> None:
        self.up, self.store = Upstream(), MemoryStore()
        self.ears = Ears(self.store)
        self.queries = Queries(cast("Any", self.store))
        for number in range(10):
            name = f"c{number}"
            self.up.attributed(name, f"{name}-visit", number, kind="visit", campaign_id="spring", case_id="k")
            self.up.attributed(name, f"{name}-buy", number + DAY, kind="purchase", matter="order")
            self.up.received(name, name, number, f"{name}-visit", score=9)
        self.up.attributed("c0", "c0-call", 5, kind="call", channel="phone")
        self.up.case(feedback.CaseOpened, "c0", "case", 5, department="care", channel="phone")
        self.up.on_journey(journey.JourneyStarted, "c0", "journey", 5, "c0-visit", channel="web")
        self.hear()

    def hear(self) -> None:
        self.ears.hear_all(self.up)
        assert live(cast("Any", self.store)) == replayed(self.store.log)

    def consent(self, granted: bool, at: int, scope: str = "", purpose: str = "measurement") -> None:
        self.up.consented("c0", granted, at, scope, purpose)
        self.hear()

    def card(self, kind: Any = ALL, subject: str = "", purpose: str = "service") -> api.GetScorecardResponse:
        request = api.GetScorecardRequest(subject_kind=kind, subject=subject)
        return self.queries.get_scorecard(request, purpose)

    def number(self, metric: str, kind: Any = ALL, subject: str = "") -> int:
        return next(score.n for score in self.card(kind, subject).scores if score.metric == metric)

    def left_out(self, kind: Any = ALL, subject: str = "") -> dict[str, int]:
        return {part.what: part.count for part in self.card(kind, subject).left_out}

    def state(self) -> dict[str, bytes]:
        return {key: value for key, value in live(cast("Any", self.store)).items() if not key.startswith("client/")}


@pytest.fixture
def world() -> World:
    """Everyone counts."""
    return World()


def test_a_client_who_withdraws_leaves_every_figure_and_comes_back_whole(world: World) -> None:
    """Contacts, answers, cases, journeys and credit go; granted again, the figures are what they were."""
    before, everyone = world.state(), world.number("clients")
    world.consent(granted=False, at=9)
    assert (everyone, world.number("clients"), world.number("nps"), world.number("volume")) == (10, 9, 9, 18)
    assert world.number("conversions") == 9
    assert world.left_out() == {"contacts": 3, "feedback": 1, "cases": 1, "journeys": 1}
    assert world.left_out(CHANNEL, "phone") == {"contacts": 1, "cases": 1}
    world.consent(granted=True, at=10)
    assert world.state() == before
    assert world.left_out() == {}


def test_what_is_noted_after_the_withdrawal_does_not_count_either(world: World) -> None:
    """From that moment on: new contacts and answers are kept apart as they come, and late words change nothing."""
    world.consent(granted=False, at=9)
    world.up.attributed("c0", "new", DAY, kind="visit")
    world.up.received("c0", "new", DAY, "new", score=1)
    world.hear()
    assert (world.number("volume"), world.number("nps")) == (18, 9)
    assert world.left_out()["contacts"] == 4
    world.consent(granted=True, at=3)
    assert world.number("volume") == 18
    world.up.reattributed("c1", "c0", "new")
    world.hear()
    assert (world.number("volume"), world.left_out()["contacts"]) == (19, 3)


def test_one_channel_is_left_out_alone(world: World) -> None:
    """A word about the phone takes what happened by phone, and nothing else."""
    world.consent(granted=False, at=9, scope="phone")
    assert (world.number("clients"), world.number("nps"), world.number("volume")) == (10, 10, 20)
    assert world.left_out() == {"contacts": 1, "cases": 1}


def test_other_purposes_change_no_figure(world: World) -> None:
    """Scores are computed for measurement alone."""
    before = world.state()
    world.consent(granted=False, at=9, purpose="marketing")
    assert world.state() == before


def test_a_scorecard_of_the_client_heeds_what_it_is_read_for(world: World) -> None:
    """It tells nothing for a purpose that was withdrawn, says so, and answers for the others and for an audit."""
    world.consent(granted=False, at=9, purpose="marketing")
    whole = world.card(CLIENT, client_id("c0"))
    refused = world.card(CLIENT, client_id("c0"), "marketing")
    assert whole.scores
    assert not refused.scores
    assert [(part.what, part.count, part.purpose) for part in refused.left_out] == [("everything", 6, "marketing")]
    request = api.GetAttributionRequest(client_id=client_id("c0"))
    assert world.queries.get_attribution(request).conversions
    with pytest.raises(PreconditionError) as refusal:
        world.queries.get_attribution(request, "marketing")
    assert refusal.value.reason == "CONSENT_WITHDRAWN"
    assert world.queries.get_attribution(request, "audit").conversions


def test_a_score_told_before_keeps_its_number_and_shows_no_evidence_of_who_withdrew(world: World) -> None:
    """Answers given earlier stay reproducible; the event ids of who withdrew since are counted, not shown."""
    nps = next(score for score in world.card().scores if score.metric == "nps")
    world.consent(granted=False, at=9)
    told = world.queries.explain_score(api.ExplainScoreRequest(score_id=nps.score_id))
    assert (told.score.value, told.score.n, len(told.event_ids)) == (nps.value, 10, 9)
    assert told.score.note == "1 of the 10 belong to clients who were forgotten or withdrew since"
    volume = next(score for score in world.card().scores if score.metric == "volume")
    shown = world.queries.explain_score(api.ExplainScoreRequest(score_id=volume.score_id))
    assert interaction_id("c0-visit") not in shown.event_ids
    assert len(shown.event_ids) == volume.n == 18
