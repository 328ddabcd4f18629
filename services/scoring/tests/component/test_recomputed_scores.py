"""Scores recomputed as an auditor does it: what the verifier makes of the log is what scoring told."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest
from scoring_upstream import DAY, MINUTE, START, Ears, Upstream, client_id, interaction_id, sqlite

from scoring.application.commands import DefineMetrics
from scoring.application.queries import Queries
from scoring.application.scores import parse_score_id, score_id
from scoring.domain.catalogue import BUILT_IN
from throughline.eventlog.v1 import eventlog_pb2
from throughline.feedback.v1 import events_pb2 as feedback
from throughline.ingestion.v1 import interaction_pb2 as interaction
from throughline.journey.v1 import events_pb2 as journey
from throughline.scoring.v1 import events_pb2 as pb
from throughline.scoring.v1 import metrics_pb2
from throughline.scoring.v1 import scoring_pb2 as api
from throughline_eventlog import Store
from throughline_kernel import NotFoundError, Refusal
from throughline_proof.figures import Fact, ScoreTold, recompute

CLIENTS = ("ann", "bob", "cy", "dee", "eve")
GONE = "bob"
EDGES = ("fay", "gus", "hal", "ivy")
KINDS = [kind for kind in pb.SubjectKind.values() if kind]
METRICS = {*BUILT_IN, "done", "cased", "last"}
MINIMUM = 2


class Story:
    """Three logs of five clients, by chance: late contacts, corrections and withdrawals of every kind."""

    def __init__(self, random: Random) -> None:
        self.up = Upstream()
        self._random = random
        self._owner: dict[str, str] = {}
        self._answered: dict[str, str] = {}
        self._transitions: list[tuple[str, Any]] = []
        self._named = 0

    def go_on(self, steps: int) -> None:
        """So much more happens."""
        chances = {
            self._contact: 8,
            self._answer: 8,
            self._case: 2,
            self._journey: 2,
            self._moved: 1,
            self._answer_moved: 1,
            self._sorted: 1,
            self._retracted: 1,
        }
        for step in self._random.choices(list(chances), list(chances.values()), k=steps):
            self._named += 1
            step(self._random.choice(CLIENTS), self._random.randrange(160) * DAY // 4)

    def edges(self) -> None:
        """What chance hardly meets: times at a formula's very edge, and touches that only their order tells apart."""
        for number, apart in enumerate((6 * DAY + DAY // 2, 7 * DAY, 7 * DAY + 1)):
            for when in ("first", "next"):
                at = apart if when == "next" else 0
                self.up.attributed("fay", f"{when}{number}", at, kind="return", matter=f"edge{number}")
        # Begun before an interval, and ended in it.
        self.up.on_journey(journey.JourneyStarted, "fay", "fay-long", DAY, channel="web")
        self.up.on_journey(journey.JourneyCompleted, "fay", "fay-long", 5 * DAY)
        active = b'{"active_until":%d}' % (START + 40 * DAY)
        sale = {"kind": "purchase", "value": interaction.Money(micros=10**10, currency="USD")}
        # So old that it has a share in the sale's value, and none in the sale.
        self.up.attributed("gus", "old", -200 * DAY, kind="ad", channel="mail", attributes=active)
        self.up.attributed("gus", "new", DAY, kind="ad", channel="radio")
        self.up.attributed("gus", "sold", 2 * DAY, **sale)
        # At one instant: the source goes before the source's running number, and both before the id.
        for client, sources, sequences in (("hal", ("till", "crm"), (1, 2)), ("ivy", ("till", "till"), (2, 1))):
            less, more = sorted(("one", "two"), key=lambda name: interaction_id(f"{client}-{name}"))
            for name, source, sequence in zip((less, more), sources, sequences, strict=True):
                where = {"source": source, "sequence": sequence, "channel": f"fair-{name}"}
                self.up.attributed(client, f"{client}-{name}", DAY, kind="visit", **where)
            self.up.attributed(client, f"{client}-sold", 2 * DAY, **sale)

    def withdraw(self) -> None:
        """Some are not to be measured any more, on all channels or one; a late word and one of the same instant too."""
        self.up.consented("cy", granted=False, at=DAY, scope="phone")
        self.up.consented("eve", granted=True, at=DAY)
        self.up.consented("eve", granted=False, at=DAY)
        self.up.consented("dee", granted=False, at=DAY, scope="web")
        self.up.consented("dee", granted=True, at=2 * DAY)
        self.up.consented("dee", granted=False, at=0)
        self.up.consented("ann", granted=False, at=DAY, purpose="marketing")

    def withdraw_more(self) -> None:
        """Others withdraw, and some grant again."""
        self.up.consented("eve", granted=True, at=2 * DAY)
        self.up.consented("cy", granted=True, at=2 * DAY, scope="phone")
        self.up.consented("ann", granted=False, at=DAY, scope="store")

    def forget(self, name: str) -> None:
        """Every log drops the client."""
        self.up.forgotten(name)
        self.up.feedback.add(feedback.ClientDropped(client_id=client_id(name), identity_position=1))
        self.up.journey.add(journey.ClientDropped(client_id=client_id(name), identity_position=1))

    def _some_contact(self) -> str:
        return self._random.choice(sorted(self._owner)) if self._owner else ""

    def _contact(self, client: str, at: int) -> None:
        name = f"i{self._named}"
        self._owner[name] = client
        self.up.attributed(client, name, at, **contact(self._random, at))

    def _moved(self, client: str, _: int) -> None:
        name = self._some_contact()
        if name:
            self.up.reattributed(client, self._owner[name], name)
            self._owner[name] = client

    def _answer(self, client: str, at: int) -> None:
        name, on = f"f{self._named}", self._some_contact() if self._random.random() < 0.8 else ""
        self._answered[name] = self._owner.get(on, client)
        self.up.received(self._answered[name], name, at, on, **answer(self._random))

    def _answer_moved(self, client: str, _: int) -> None:
        if self._answered:
            name = self._random.choice(sorted(self._answered))
            self.up.reassigned(client, self._answered[name], name, len(self.up.identity.events))
            self._answered[name] = client

    def _sorted(self, _client: str, _at: int) -> None:
        if self._answered:
            name = self._random.choice(sorted(self._answered))
            departments = self._random.sample(["desk", "shop", "lab"], self._random.randrange(3))
            self.up.classified(self._answered[name], name, *departments)

    def _case(self, client: str, at: int) -> None:
        name = f"{client}-case{self._random.randrange(3)}"
        for what, fields in self._random.choices(CASE_STEPS, k=3):
            self.up.case(what, client, name, at + self._random.randrange(DAY), **fields)

    def _journey(self, client: str, at: int) -> None:
        name = f"{client}-journey{self._random.randrange(2)}"
        for what, fields in self._random.choices(JOURNEY_STEPS, k=2):
            event = self.up.on_journey(what, client, name, at, self._some_contact(), **fields)
            self._transitions.append((client, event))

    def _retracted(self, _client: str, _at: int) -> None:
        if self._transitions:
            self.up.retracted(*self._random.choice(self._transitions))


CASE_STEPS: list[tuple[type[Any], dict[str, Any]]] = [
    (feedback.CaseOpened, {"department": "desk", "channel": "web"}),
    (feedback.CaseOpened, {"department": "shop", "channel": "phone"}),
    (feedback.CaseAcknowledged, {}),
    (feedback.CaseResolved, {}),
    (feedback.CaseReopened, {}),
    (feedback.CaseWithdrawn, {}),
    (feedback.CaseReassigned, {"department": "shop"}),
]
JOURNEY_STEPS: list[tuple[type[Any], dict[str, Any]]] = [
    (journey.JourneyStarted, {"channel": "web"}),
    (journey.JourneyStarted, {"channel": "phone"}),
    (journey.StageReached, {"channel": "store"}),
    (journey.JourneyCompleted, {}),
    (journey.JourneyAbandoned, {}),
]


def contact(random: Random, at: int) -> dict[str, Any]:
    """What one contact says."""
    chose = random.choice
    fields: dict[str, Any] = {
        "source": chose(["till", "crm"]),
        "channel": chose(["web", "phone", "store"]),
        "touchpoint": chose(["", "home", "desk"]),
        "kind": chose(["visit", "purchase", "order", "campaign_sent", "call", "email_sent", "return"]),
        "campaign_id": chose(["", "", "spring", "autumn"]),
        "matter": chose(["", "bill", "parcel"]),
        "case_id": chose(["", *(f"c{number}" for number in range(8))]),
        "outcome": chose(["", "resolved", "open"]),
        "wait_time": chose([0, -5, random.randrange(90 * MINUTE)]),
        "handling_time": chose([0, random.randrange(90 * MINUTE)]),
        "sequence": random.randrange(-2, 3),
        "subject_type": 2 if random.random() < 0.1 else 1,
        "attributes": chose([b"", b'{"size":4,"vip":true}', b'{"vip":"true"}', b'{"active_until":%d}' % (START + at)]),
    }
    if random.random() < 0.6:
        fields["value"] = interaction.Money(micros=random.randrange(-(10**7), 10**9), currency=chose(["USD", "EUR"]))
    if random.random() < 0.5:
        fields["cost"] = interaction.Money(micros=random.randrange(10**8), currency=chose(["USD", "EUR"]))
    shapes = chose([[], [interaction.IDENTIFIER_SHAPE_NORMAL], [interaction.IDENTIFIER_SHAPE_BLANK]])
    fields["identifiers"] = [interaction.IdentifierHash(type="card", hash=b"x" * 32, shape=each) for each in shapes]
    return fields


def answer(random: Random) -> dict[str, Any]:
    """What one item of feedback says."""
    fields: dict[str, Any] = {
        "kind": random.choice([1, 1, 2, 2, 3, 3, 4, 4, 5]),
        "aspect": random.choice(["", "overall", "Q7"]),
        "weight_micros": random.choice([0, 0, random.randrange(1, 3_000_000)]),
        "channel": random.choice(["web", "phone", ""]),
    }
    if random.random() < 0.9:
        fields["score"] = random.randrange(-1, 12) if random.random() < 0.5 else random.randrange(1, 6)
    if fields["kind"] != 1 and random.random() < 0.3:
        fields |= {"scale_min": 0, "scale_max": 10}
    return fields


def defined(store: Store, **fields: Any) -> None:
    """A metric of one's own comes into force."""
    definition = metrics_pb2.MetricDefinition(**({"version": 1, "name": "n", "definition": "d"} | fields))
    with store.transaction() as tx:
        (response,) = DefineMetrics(Ears(store).book)(
            tx, [api.DefineMetricRequest(definition=definition, defined_by="desk")]
        )
    assert not isinstance(response, Refusal), response


@dataclass
class Told:
    """A score as it was told, what it stands on, and the log."""

    score: ScoreTold
    evidence: list[str]
    facts: list[Fact]

    def differences(self) -> list[str]:
        return recompute(self.score, self.evidence, self.facts)


class Installation:
    """Scoring over a real store, asked as a client does."""

    def __init__(self, path: Path, seed: int, steps: int = 60) -> None:
        self.store = sqlite(path)
        self.queries = Queries(self.store, MINIMUM)
        self.story = Story(Random(seed))
        self._ears = Ears(self.store)
        self._heard: Counter[str] = Counter()
        self.story.go_on(steps)
        self.story.edges()
        self.story.withdraw()
        self.story.forget(GONE)
        self.hear()
        with self.store.snapshot() as reader:
            self.halfway = reader.last_position()
        about = metrics_pb2.Condition(matters=["bill", "parcel"])
        resolved = metrics_pb2.Condition(outcomes=["resolved"], attributes={"vip": "true"})
        visited = metrics_pb2.Condition(channels=["web", "store"], kinds=["visit", "purchase", "call"])
        self.define(metric="done", unit=metrics_pb2.UNIT_CONTACT, population=about, numerator=visited)
        self.define(metric="cased", unit=metrics_pb2.UNIT_CASE, population=about, numerator=resolved)
        self.define(metric="last", unit=metrics_pb2.UNIT_CLIENT, numerator=visited)
        with self.store.snapshot() as reader:
            self.then = reader.commit_at()
        self.story.go_on(2 * steps)
        self.story.withdraw_more()
        self.hear()
        self.define(metric="done", version=2, unit=metrics_pb2.UNIT_CONTACT, numerator=resolved)

    def hear(self) -> None:
        """Takes what is new in the upstream logs, a part of each in turn."""
        logs = (self.story.up.identity, self.story.up.feedback, self.story.up.journey)
        while any(self._heard[log.service] < len(log.events) for log in logs):
            for log in logs:
                start = self._heard[log.service]
                self._ears.hear(log.service, log.events[start : start + 25])
                self._heard[log.service] += len(log.events[start : start + 25])

    def define(self, **fields: Any) -> None:
        """A metric of one's own comes into force."""
        definition = metrics_pb2.MetricDefinition(**({"version": 1, "name": "n", "definition": "d"} | fields))
        request = api.DefineMetricRequest(definition=definition, defined_by="desk")
        with self.store.transaction() as tx:
            (response,) = DefineMetrics(self._ears.book)(tx, [request])
        assert not isinstance(response, Refusal), response

    def facts(self) -> list[Fact]:
        """Scoring's whole log."""
        with self.store.snapshot() as reader:
            return [Fact(event.position, event.type, event.payload) for event in reader.read()]

    def scores(
        self, kind: pb.SubjectKind.ValueType, between: eventlog_pb2.Interval | None = None, as_of: int = 0
    ) -> Iterator[pb.Score]:
        """Every score of every subject of the kind."""
        if kind == pb.SUBJECT_KIND_CLIENT:
            for name in (*EDGES, *(each for each in CLIENTS if each != GONE)):
                request = api.GetScorecardRequest(
                    subject_kind=kind, subject=client_id(name), between=between, as_of=as_of
                )
                yield from self.queries.get_scorecard(request).scores
        else:
            listed = api.ListScorecardsRequest(subject_kind=kind, metrics=sorted(METRICS), between=between, as_of=as_of)
            for card in self.queries.list_scorecards(listed).scorecards:
                yield from card.scores

    def explained(self, name: str, facts: list[Fact] | None = None) -> Told:
        """The score of that id, with all pages of its evidence."""
        evidence: list[str] = []
        request = api.ExplainScoreRequest(score_id=name, page_size=50)
        while True:
            response = self.queries.explain_score(request)
            evidence += response.event_ids
            if not response.next_page_token:
                return Told(told(response.score), evidence, facts or self.facts())
            request.page_token = response.next_page_token


def told(score: pb.Score) -> ScoreTold:
    """The score as the verifier takes it."""
    return ScoreTold(
        score.subject_kind,
        score.subject,
        score.metric,
        score.aspect,
        score.formula,
        score.formula_version,
        score.position,
        score.value if score.HasField("value") else None,
        score.low if score.HasField("low") else None,
        score.high if score.HasField("high") else None,
        score.n,
        dict(score.parts),
        score.unit,
        score.note,
        score.between.start,
        score.between.end,
    )


@pytest.mark.parametrize("seed", [8, 10])
def test_every_score_of_every_kind_of_subject_is_recomputed_to_the_last_digit(seed: int, tmp_path: Path) -> None:
    """Built-in metrics and one's own, with a value or too few for one, as they are and as they were halfway."""
    installation = Installation(tmp_path / "scoring.db", seed)
    facts = installation.facts()
    valued: set[tuple[int, str]] = set()
    seen: Counter[tuple[int, str, str]] = Counter()
    edges = {"mail", "fair-one", "fair-two", *map(client_id, EDGES)}
    for kind in KINDS:
        for score in installation.scores(kind):
            seen[kind, score.metric, score.aspect] += 1
            if seen[kind, score.metric, score.aspect] > 2 and score.subject not in edges:
                continue
            found = installation.explained(score.score_id, facts)
            assert found.differences() == [], found.score
            if score.HasField("value"):
                valued.add((kind, score.metric))
            if seen[kind, score.metric, score.aspect] > 1:
                continue
            before = parse_score_id(score.score_id)._replace(position=installation.halfway)
            try:
                found = installation.explained(score_id(before), facts)
            except NotFoundError:
                continue
            assert found.differences() == [], found.score
    assert {kind for kind, _ in valued} == set(KINDS)
    assert {metric for _, metric in valued} == METRICS


MIDDLE = eventlog_pb2.Interval(start=START + 3 * DAY, end=START + 30 * DAY)


def test_every_score_for_an_interval_is_recomputed_to_the_last_digit(installation: Installation) -> None:
    """Of every kind of subject, as known now and as known then; things happen at the very bounds."""
    facts = installation.facts()
    valued: set[tuple[int, str]] = set()
    then = installation.then.recorded_at
    open_ended = (eventlog_pb2.Interval(start=MIDDLE.start), eventlog_pb2.Interval(end=MIDDLE.end))
    for between, as_of in ((MIDDLE, 0), (MIDDLE, then), *((each, 0) for each in open_ended)):
        seen: Counter[tuple[int, str, str]] = Counter()
        for kind in KINDS:
            for score in installation.scores(kind, between, as_of):
                assert score.between == between
                assert not as_of or score.position == installation.then.position
                seen[kind, score.metric, score.aspect] += 1
                if seen[kind, score.metric, score.aspect] > (1 if as_of or between != MIDDLE else 2):
                    continue
                found = installation.explained(score.score_id, facts)
                assert found.differences() == [], found.score
                if score.HasField("value") and score.n:
                    valued.add((kind, score.metric))
    assert {kind for kind, _ in valued} == set(KINDS)
    assert {metric for _, metric in valued} == METRICS


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """One whose scores are bent; nothing changes it."""
    return Installation(tmp_path_factory.mktemp("bent") / "scoring.db", 10)


@pytest.fixture(scope="module")
def everything(installation: Installation) -> dict[str, Told]:
    """The scores of everything that have a value, by metric and aspect."""
    facts = installation.facts()
    return {
        f"{score.metric} {score.aspect}".strip(): installation.explained(score.score_id, facts)
        for score in installation.scores(pb.SUBJECT_KIND_ALL)
        if score.HasField("value")
    }


def only(differences: list[str], *said: str) -> None:
    """There is one difference, and it says this."""
    assert len(differences) == 1, differences
    assert all(each in differences[0] for each in said), differences


def test_a_figure_that_is_bent_by_the_least_is_named(everything: dict[str, Told]) -> None:
    """One ulp of a value or an end of its interval, one of n, one of a part, a part more or less, a unit."""
    assert {name.split()[0] for name in everything} == METRICS
    for found in everything.values():
        score, evidence, facts = found.score, found.evidence, found.facts
        for field in ("value", "low", "high"):
            number = getattr(score, field)
            bent = 1.0 if number is None else math.nextafter(number, math.inf)
            differences = recompute(score._replace(**{field: bent}), evidence, facts)
            only(differences, f"{score.metric}", f"{field} is told as {bent!r}, and the events make it {number!r}")
        only(recompute(score._replace(n=score.n + 1), evidence, facts), f"n is told as {score.n + 1}", f"it {score.n}")
        for part in score.parts:
            more = score.parts | {part: score.parts[part] + 1}
            only(recompute(score._replace(parts=more), evidence, facts), f"part {part} is told as {more[part]}")
            less = {each: score.parts[each] for each in score.parts if each != part}
            only(recompute(score._replace(parts=less), evidence, facts), f"part {part} is told as None")
        only(recompute(score._replace(parts=score.parts | {"new": 0}), evidence, facts), "part new is told as 0")
        only(recompute(score._replace(unit="points per day"), evidence, facts), "the unit is told as 'points per day'")
    volume = everything["volume"]
    only(
        recompute(volume.score._replace(aspect="Q7"), volume.evidence, volume.facts), "the aspect 'Q7', and volume has"
    )


def test_a_score_for_an_interval_is_not_taken_for_another(
    installation: Installation, everything: dict[str, Told]
) -> None:
    """A bent value, what began before or after it in the evidence, other bounds; one that holds nothing."""
    facts = installation.facts()
    interval = "of everything from 2023-11-17 22:13:20+00:00 on before 2023-12-14 22:13:20+00:00"
    named: set[str] = set()
    for each in installation.scores(pb.SUBJECT_KIND_ALL, MIDDLE):
        if not each.HasField("value"):
            continue
        found = installation.explained(each.score_id, facts)
        score, evidence = found.score, found.evidence
        named.add(score.metric)
        assert score.value is not None
        bent = score._replace(value=math.nextafter(score.value, math.inf))
        only(recompute(bent, evidence, facts), interval, f"value is told as {bent.value!r}")
        only(recompute(score, evidence[1:], facts), f"{evidence[0]} counts, and the evidence lacks it")
        always = everything[f"{score.metric} {score.aspect}".strip()]
        outside = sorted(set(always.evidence) - set(evidence))
        for event_id in outside:
            only(recompute(score, [*evidence, event_id], facts), interval, event_id, "does not count for this")
        lacking = "\n".join(recompute(score._replace(begins=0, ends=0), evidence, facts))
        assert all(f"{event_id} counts, and the evidence lacks it" in lacking for event_id in outside)
        upside_down = score._replace(begins=score.ends, ends=score.begins)
        only(recompute(upside_down, evidence, facts), "cannot be recomputed: the interval ends before it begins")
    assert {"volume", "nps", "cases", "completion_rate", "conversions", "done", "last"} <= named


def test_what_began_outside_the_interval_is_named_with_its_time(everything: dict[str, Told]) -> None:
    """To the microsecond: the interval ends where it happened, and the next one begins there."""
    volume = everything["volume"]
    first = next(
        message.interaction
        for message in (pb.ContactNoted.FromString(e.payload) for e in volume.facts if e.type.endswith("ContactNoted"))
        if message.interaction.interaction_id == volume.evidence[0]
    )
    at = first.occurred_at
    until, since = volume.score._replace(ends=at), volume.score._replace(begins=at)
    assert any(
        f"{volume.evidence[0]} in the evidence" in said and ", began at " in said
        for said in recompute(until, volume.evidence, volume.facts)
    )
    assert not any(
        volume.evidence[0] in said and ", began at " in said for said in recompute(since, volume.evidence, volume.facts)
    )


def test_evidence_that_is_left_out_or_added_is_named(everything: dict[str, Told]) -> None:
    """Event ids that lack, that are there twice, and that no event has."""
    for found in everything.values():
        score, evidence, facts = found.score, found.evidence, found.facts
        assert len(evidence) == score.n
        only(recompute(score, evidence[1:], facts), f"{evidence[0]} counts, and the evidence lacks it")
        only(recompute(score, [*evidence, evidence[0]], facts), f"the evidence names {evidence[0]} 2 times")
        only(recompute(score, [*evidence, "ab" * 16], facts), "no event here up to", "ab" * 16)


def test_evidence_that_counts_no_more_or_for_another_subject_is_named(installation: Installation) -> None:
    """A contact that became another client's, one of another channel, and an answer to another question."""
    facts = installation.facts()
    withdrawn, noted = client_contact_withdrawn(facts)
    score = next(each for each in installation.scores(pb.SUBJECT_KIND_CLIENT) if each.subject == withdrawn)
    found = installation.explained(score.score_id, facts)
    differences = recompute(told(score), [*found.evidence, noted], facts)
    only(differences, f"{noted} in the evidence counts no more", "by ContactWithdrawn at position")

    volumes = {each.subject: each for each in installation.scores(pb.SUBJECT_KIND_CHANNEL) if each.metric == "volume"}
    found, other = (installation.explained(volumes[channel].score_id, facts) for channel in ("web", "phone"))
    only(recompute(found.score, [*found.evidence, other.evidence[0]], facts), other.evidence[0], "of channel phone")
    differences = recompute(found.score._replace(subject="phone"), found.evidence, facts)
    assert any("n is told as" in each for each in differences)
    assert any("of channel web" in each for each in differences)

    every = {(each.metric, each.aspect): each.score_id for each in installation.scores(pb.SUBJECT_KIND_ALL)}
    found, other = (installation.explained(every[name], facts) for name in (("nps", ""), ("nps", "Q7")))
    only(recompute(found.score, [*found.evidence, other.evidence[0]], facts), other.evidence[0], "does not count")


def client_contact_withdrawn(facts: list[Fact]) -> tuple[str, str]:
    """A client that is there still, and a contact that it lost to nobody."""
    said = [pb.ContactWithdrawn.FromString(fact.payload) for fact in facts if fact.type.endswith(".ContactWithdrawn")]
    return next((each.client_id, each.interaction_id) for each in reversed(said) if each.client_id != client_id(GONE))


def test_an_event_that_was_changed_or_left_out_changes_what_is_recomputed(everything: dict[str, Told]) -> None:
    """The events are what counts: an answer turned round, a contact moved to another time, an event dropped."""

    def turned(payload: bytes) -> bytes:
        message = pb.FeedbackScored.FromString(payload)
        message.fact.score = 0 if message.fact.score > 6 else 10
        return message.SerializeToString()

    nps = everything["nps"]
    facts = [
        fact._replace(payload=turned(fact.payload))
        if fact.type.endswith(".FeedbackScored") and nps.evidence[0].encode() in fact.payload
        else fact
        for fact in nps.facts
    ]
    differences = recompute(nps.score, nps.evidence, facts)
    assert any("value is told as" in each for each in differences)
    assert any("the part detractors is told as" in each for each in differences)

    volume = everything["volume"]
    left = [fact for fact in volume.facts if volume.evidence[0].encode() not in fact.payload]
    differences = recompute(volume.score, volume.evidence, left)
    assert any(f"n is told as {volume.score.n}, and the events make it {volume.score.n - 1}" in e for e in differences)
    assert any("no event here up to" in each and volume.evidence[0] in each for each in differences)

    swapped = [volume.facts[1], volume.facts[0], *volume.facts[2:]]
    only(recompute(volume.score, volume.evidence, swapped), "cannot be recomputed", "not in log order")
    dropped = pb.ClientDropped(client_id=client_id("ann")).SerializeToString()
    gone = Fact(volume.score.position + 1, pb.ClientDropped.DESCRIPTOR.full_name, dropped)
    assert recompute(volume.score, volume.evidence, [*volume.facts, gone]) == []
    later = volume.score._replace(position=gone.position)
    assert any(
        "counts no more: it was withdrawn by ClientDropped" in each
        for each in recompute(later, volume.evidence, [*volume.facts, gone])
    )


def test_what_cannot_be_recomputed_is_said(everything: dict[str, Told]) -> None:
    """An unknown formula or version, a metric nobody defined, a kind of subject that there is not."""
    nps, done = everything["nps"], everything["done"]
    for bent, said in (
        (nps.score._replace(formula="nps_weighted"), "told by formula nps_weighted, version 1, and here by nps"),
        (nps.score._replace(formula_version=2), "told by formula nps, version 2, and here by nps, version 1"),
        (nps.score._replace(metric="made_up"), "no event here defines version 1 of made_up"),
        (nps.score._replace(subject_kind=0), "kind 0 has no subject ''"),
        (nps.score._replace(subject="web"), "kind 1 has no subject 'web'"),
    ):
        only(recompute(bent, nps.evidence, nps.facts), "cannot be recomputed", said)
    undefined = [fact for fact in done.facts if not fact.type.endswith(".MetricDefined")]
    only(recompute(done.score, done.evidence, undefined), "no event here defines version 2 of done")
    broken = [fact._replace(payload=fact.payload[:-1]) for fact in nps.facts]
    with pytest.raises(ValueError, match=r"at position \d+ is no such message"):
        recompute(nps.score, nps.evidence, broken)


def test_a_value_is_held_back_only_where_there_are_too_few(everything: dict[str, Told]) -> None:
    """Whoever leaves a value out has to say that n is too small, and it has to be."""
    nps = everything["nps"]
    bare = nps.score._replace(value=None, low=None, high=None, parts={})
    only(recompute(bare, nps.evidence, nps.facts), "no value is told, and the note ''")
    enough = f"{bare.n} answers, at least {bare.n} are needed"
    only(recompute(bare._replace(note=enough), nps.evidence, nps.facts), "does not say that")
    too_few = f"{bare.n} answers, at least {bare.n + 1} are needed"
    assert recompute(bare._replace(note=too_few), nps.evidence, nps.facts) == []
    only(recompute(bare._replace(note=too_few), nps.evidence[1:], nps.facts), "the evidence lacks it")
    only(recompute(bare._replace(note=too_few, low=0.0), nps.evidence, nps.facts), "yet an interval or parts")


def test_evidence_of_clients_forgotten_since_is_kept_back_and_said_so(tmp_path: Path) -> None:
    """Their events are not shown any more: the score is told as it was, and cannot be recomputed in full."""
    installation = Installation(tmp_path / "scoring.db", 3)
    before = {each.metric: each.score_id for each in installation.scores(pb.SUBJECT_KIND_ALL)}
    whole = installation.explained(before["volume"])
    installation.story.forget("eve")
    installation.hear()
    found = installation.explained(before["volume"])
    withheld = len(whole.evidence) - len(found.evidence)
    assert withheld > 0
    assert found.differences() == []
    only(recompute(found.score, found.evidence[1:], found.facts), f"{withheld} are told to be kept back", "are")
    left = [fact for fact in found.facts if client_id("eve").encode() not in fact.payload[:34]]
    said = f"cannot be recomputed: {withheld} of {whole.score.n} belong to clients forgotten since"
    only(recompute(found.score, found.evidence, left), said)
    bent = recompute(found.score, [*found.evidence[1:], "ab" * 16], left)
    assert said in bent[0]
    assert "no event here" in bent[1]
    assert "the evidence lacks it" in bent[2]
