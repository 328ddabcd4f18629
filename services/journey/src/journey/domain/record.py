"""A client's record: the facts, what they mean, and what has been announced of it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from journey.domain.definitions import Definitions
from journey.domain.facts import Case, Fact, FeedbackItem, Handoff
from journey.domain.telling import Journey, LoyaltyScore, Telling
from journey.domain.transitions import Transition, transition_id
from throughline_kernel import Consents, announce

# A copy of the state every so many facts, and how many of the latest copies are kept: what a late fact costs.
_STRIDE: Final = 16
_COPIES: Final = 4


@dataclass(frozen=True, slots=True)
class Said:
    """An announced transition: what a retraction needs to name it."""

    event_id: bytes
    type: str


@dataclass(frozen=True, slots=True)
class Changes:
    """What to announce after the facts have changed: retractions first, then what holds now, in order."""

    retracted: tuple[Said, ...] = ()
    added: tuple[tuple[bytes, Transition], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.retracted or self.added)


_NO_CHANGES: Final = Changes()


@dataclass(frozen=True, slots=True)
class Rows:
    """Journeys to write, journeys that are no more (id -> definition), and open ones whose deadline is to watch."""

    changed: tuple[Journey, ...]
    vanished: Mapping[str, str]
    watched: tuple[Journey, ...]


@dataclass(slots=True)
class Record:
    """One client's state, a function of the set of their facts alone.

    Facts that come in order advance it in O(1). A late or withdrawn fact tells the history again from the last copy
    before it, and compares what had been announced with what follows now.
    """

    client_id: str
    definitions: Definitions
    # False where nobody will be told of changes, as in queries and replays: ids of transitions are not computed.
    announcing: bool = True
    version: int = 0
    facts: list[Fact] = field(default_factory=list[Fact])
    telling: Telling = field(default_factory=Telling)
    # What was announced for each fact, and by the sweeper for journeys that no fact has ended.
    said: list[tuple[Said, ...]] = field(default_factory=list[tuple[Said, ...]])
    swept: dict[str, Said] = field(default_factory=dict[str, Said])
    feedback: dict[str, FeedbackItem] = field(default_factory=dict[str, FeedbackItem])
    cases: dict[str, Case] = field(default_factory=dict[str, Case])
    handoffs: dict[str, Handoff] = field(default_factory=dict[str, Handoff])
    consents: Consents = field(default_factory=Consents)
    # Journeys whose rows are to be written, those that are no more (id -> definition), and those to watch for silence.
    _changed: dict[str, Journey] = field(default_factory=dict[str, Journey])
    _vanished: dict[str, str] = field(default_factory=dict[str, str])
    _watched: dict[str, Journey] = field(default_factory=dict[str, Journey])
    _copies: list[tuple[int, Telling]] = field(default_factory=list[tuple[int, Telling]])

    @property
    def weight(self) -> int:
        """What it costs to keep in memory, in facts."""
        words = len(self.consents.words)
        return 4 + len(self.facts) + len(self.feedback) + len(self.cases) + len(self.handoffs) + words

    @property
    def empty(self) -> bool:
        """Nothing is known of this client."""
        return not (self.facts or self.feedback or self._standing_cases() or self.handoffs or self.consents)

    def change(self, noted: Sequence[Fact], withdrawn: Collection[bytes] = ()) -> Changes:
        """Takes facts in and out, in any order, and tells what is to be announced and retracted."""
        facts = self.facts
        if not withdrawn and (not facts or min(noted) > facts[-1]):
            return self._advance(sorted(noted) if len(noted) > 1 else noted)
        gone = set(withdrawn)
        fresh = [fact for fact in noted if fact.interaction_id not in gone]
        first = min(
            [bisect_left(facts, fact) for fact in fresh]
            + [index for index, fact in enumerate(facts) if gone and fact.interaction_id in gone],
            default=len(facts),
        )
        tail = sorted([fact for fact in facts[first:] if fact.interaction_id not in gone] + fresh)
        return self._tell_again(first, tail)

    def retell(self, definitions: Definitions, announced: Mapping[bytes, str]) -> Changes:
        """Tells the whole history under these definitions and compares it with what the log has announced so far.

        `announced` is event id -> type of every transition announced and not retracted.
        """
        self.definitions = definitions
        self.said, self.swept = [], {}
        self._copies = []
        self.telling = Telling()
        facts, self.facts = self.facts, []
        derived = self._fold(facts)
        # Announced, and no fact ends the journey: the sweeper saw its deadline pass.
        standing = {event_id: type_ for event_id, type_ in announced.items() if event_id not in derived}
        self.swept = {
            journey.journey_id: Said(event_id, "JourneyAbandoned")
            for journey in self.telling.open.values()
            if (event_id := transition_id(self.client_id, journey.abandonment())) in standing
        }
        kept = {swept.event_id for swept in self.swept.values()}
        self._changed = {journey.journey_id: journey for journey in self.telling.journeys()}
        self._watched = {journey.journey_id: journey for journey in self.telling.open.values()}
        return Changes(
            tuple(Said(event_id, type_) for event_id, type_ in standing.items() if event_id not in kept),
            tuple((event_id, what) for event_id, what in derived.items() if event_id not in announced),
        )

    def vanish(self, journey_id: str, journey: str) -> None:
        """A journey of this definition was kept somewhere and is no more."""
        self._vanished[journey_id] = journey

    def drain(self) -> Rows:
        """What of the journeys is to be written since the last time it was asked."""
        vanished = {id_: name for id_, name in self._vanished.items() if id_ not in self._changed}
        rows = Rows(tuple(self._changed.values()), vanished, tuple(self._watched.values()))
        self._changed, self._vanished, self._watched = {}, {}, {}
        return rows

    def sweep(self, watermark: int) -> Changes:
        """Abandons the journeys whose deadline has passed by the watermark, once each."""
        added: list[tuple[bytes, Transition]] = []
        for journey in self.telling.open.values():
            if journey.deadline < watermark and journey.journey_id not in self.swept:
                abandonment = journey.abandonment()
                event_id = transition_id(self.client_id, abandonment)
                self.swept[journey.journey_id] = Said(event_id, "JourneyAbandoned")
                added.append((event_id, abandonment))
        return Changes((), tuple(added)) if added else _NO_CHANGES

    def note_feedback(self, item: FeedbackItem) -> None:
        """Takes an item of feedback; the one with the highest position holds."""
        known = self.feedback.get(item.feedback_id)
        if known is None or item.position >= known.position:
            self.feedback[item.feedback_id] = item

    def withdraw_feedback(self, feedback_id: str) -> None:
        """It turned out to be another client's."""
        self.feedback.pop(feedback_id, None)

    def note_case(self, case: Case) -> None:
        """Takes a case's state; the one with the highest position holds, the earliest word is its beginning."""
        known = self.cases.get(case.case_id)
        if known is None:
            self.cases[case.case_id] = case
        else:
            latest = case if case.position >= known.position else known
            self.cases[case.case_id] = latest._replace(since=min(case.since, known.since))

    def offer(self, handoff: Handoff) -> None:
        """Takes an offered hand-off."""
        self.handoffs[handoff.handoff_id] = handoff

    def accept(self, handoff_id: str, channel: str, accepted_by: str, at: int) -> None:
        """Takes the acceptance of a hand-off."""
        known = self.handoffs.get(handoff_id)
        if known is not None:
            self.handoffs[handoff_id] = known._replace(
                accepted_at=at, accepted_by=accepted_by, accepted_channel=channel
            )

    def drop(self) -> None:
        """Forgets everything."""
        self.facts, self.said, self.swept = [], [], {}
        self.telling, self._copies = Telling(), []
        self.feedback, self.cases, self.handoffs = {}, {}, {}
        self.consents = Consents()
        self._changed, self._vanished, self._watched = {}, {}, {}

    def loyalty(self) -> dict[int, LoyaltyScore]:
        """The last score of each kind, from interactions and from feedback that came without one."""
        latest = dict(self.telling.loyalty)
        for item in sorted(self.feedback.values(), key=lambda item: (item.at, item.feedback_id)):
            if item.interaction_id or item.score is None:
                continue
            known, overall = latest.get(item.kind), item.aspect in {"", "overall"}
            if known is None or (overall, item.at) >= (known.overall, known.at):
                latest[item.kind] = LoyaltyScore(item.score, item.at, item.feedback_id, overall)
        return latest

    def _standing_cases(self) -> list[Case]:
        """Cases that were not withdrawn: a withdrawn one turned out never to have had a ground."""
        return [case for case in self.cases.values() if case.state != "withdrawn"]

    def canonical(self, watermark: int) -> dict[str, object]:
        """The state as JSON values, judged at the watermark; without anything that arrival order could change."""
        telling = self.telling
        return {
            "client_id": self.client_id,
            "interactions": [fact.id for fact in self.facts],
            "contacts": telling.interactions,
            "first_seen_at": telling.first_at,
            "last_seen_at": telling.last_at,
            "channels": telling.channels,
            "path": telling.path,
            "switches": telling.switches,
            "journeys": sorted(
                (_canonical_journey(journey, watermark) for journey in telling.journeys()),
                key=lambda journey: str(journey["journey_id"]),
            ),
            "answers": {
                question: [a.answer, a.sealed, a.at, a.channel, a.times, a.given_in.hex(), _hexes(a.asked_in)]
                for question, a in telling.answers.items()
            },
            "promises": {
                name: [p.text, p.due_at, p.channel, p.at, p.made_in.hex()] for name, p in telling.promises.items()
            },
            "campaigns": {
                name: [c.last_at, c.times, _hexes(c.shown_in), c.answered_in.hex()]
                for name, c in telling.campaigns.items()
            },
            "conversations": {
                name: [c.outcome, c.channel, c.matter, c.since, c.at, c.said_in.hex()]
                for name, c in telling.conversations.items()
            },
            "loyalty": {str(kind): [s.score, s.at, s.event_id, s.overall] for kind, s in self.loyalty().items()},
            "feedback": {
                item.feedback_id: [
                    item.interaction_id,
                    item.at,
                    item.kind,
                    item.score,
                    item.aspect,
                    list(item.topics),
                ]
                for item in self.feedback.values()
            },
            "cases": {
                # Which event last spoke of the case depends on what arrived when; what it says does not.
                c.case_id: [c.department, c.topic, c.state, c.due_at, c.since]
                for c in self._standing_cases()
            },
            "handoffs": {
                h.handoff_id: [
                    h.from_channel,
                    h.to_channel,
                    h.note,
                    h.expires_at,
                    h.journey_id,
                    h.at,
                    h.accepted_at,
                    h.accepted_by,
                    h.accepted_channel,
                ]
                for h in self.handoffs.values()
            },
            "consents": [[w.purpose, w.scope, w.granted, w.at, w.source] for w in self.consents.words],
        }

    def _advance(self, facts: Sequence[Fact]) -> Changes:
        derived = self._fold(facts)
        if not self.announcing:
            return _NO_CHANGES
        if not self.swept:
            return Changes((), tuple(derived.items())) if derived else _NO_CHANGES
        swept = {said.event_id: said.type for said in self.swept.values()}
        return self._compare(swept, derived)

    def _tell_again(self, first: int, tail: Sequence[Fact]) -> Changes:
        before = {said.event_id: said.type for per_fact in self.said[first:] for said in per_fact}
        before.update({said.event_id: said.type for said in self.swept.values()})
        while self._copies and self._copies[-1][0] > first:
            self._copies.pop()
        start, copy = self._copies[-1] if self._copies else (0, Telling())
        settled, before_ = len(copy.closed), self.telling
        self.telling = copy.copy()
        for fact in self.facts[start:first]:
            self.telling.advance(self.client_id, fact, self.definitions)
        self.telling.touched.clear()
        del self.facts[first:]
        del self.said[first:]
        derived = self._fold(tail)
        if not self.announcing:
            return _NO_CHANGES
        now = self.telling.journeys()[settled:]
        for journey in before_.journeys()[settled:]:
            self._changed.pop(journey.journey_id, None)
            self._watched.pop(journey.journey_id, None)
            self._vanished[journey.journey_id] = journey.definition.journey
        for journey in now:
            self._vanished.pop(journey.journey_id, None)
            self._changed[journey.journey_id] = journey
            if journey.status == "open":
                self._watched[journey.journey_id] = journey
        return self._compare(before, derived)

    def _fold(self, facts: Sequence[Fact]) -> dict[bytes, Transition]:
        client_id, telling, definitions = self.client_id, self.telling, self.definitions
        derived: dict[bytes, Transition] = {}
        for fact in facts:
            transitions = telling.advance(client_id, fact, definitions)
            self.facts.append(fact)
            if len(self.facts) % _STRIDE == 0:
                self._copies.append((len(self.facts), telling.copy()))
                if len(self._copies) > _COPIES:
                    del self._copies[0]
            if not self.announcing:
                telling.touched.clear()
                continue
            for journey in telling.touched:
                self._changed[journey.journey_id] = journey
                if journey.interactions == 1 and journey.status == "open":
                    self._watched[journey.journey_id] = journey
            telling.touched.clear()
            if not transitions:
                self.said.append(())
                continue
            said: list[Said] = []
            for transition in transitions:
                event_id = transition_id(client_id, transition)
                derived[event_id] = transition
                said.append(Said(event_id, type(transition).__name__))
            self.said.append(tuple(said))
        return derived

    def _compare(self, before: Mapping[bytes, str], derived: Mapping[bytes, Transition]) -> Changes:
        after = {event_id: type(transition).__name__ for event_id, transition in derived.items()}
        if self.swept:
            open_: dict[str, Journey] = {j.journey_id: j for j in self.telling.open.values()}
            for journey_id, said in list(self.swept.items()):
                journey = open_.get(journey_id)
                if journey is None or transition_id(self.client_id, journey.abandonment()) != said.event_id:
                    del self.swept[journey_id]
                    if journey is not None:
                        self._watched[journey_id] = journey
                else:
                    after[said.event_id] = said.type
        said_now = announce(
            {event_id.hex(): type_ for event_id, type_ in before.items()},
            {event_id.hex(): type_ for event_id, type_ in after.items()},
        )
        return Changes(
            tuple(Said(bytes.fromhex(event_id), type_) for event_id, type_ in said_now.retracted.items()),
            tuple((key, derived[key]) for key in (bytes.fromhex(event_id) for event_id in said_now.added)),
        )


def _hexes(ids: Iterable[bytes]) -> list[str]:
    return [each.hex() for each in ids]


def _canonical_journey(journey: Journey, watermark: int) -> dict[str, object]:
    names = [stage.stage for stage in journey.definition.stages]
    status = journey.status_at(watermark)
    return {
        "journey_id": journey.journey_id,
        "journey": journey.definition.journey,
        "version": journey.definition.version,
        "matter": journey.matter,
        "status": status,
        "stage": journey.stage_name,
        "stages": [names[stage] for stage in journey.stages],
        "loops": [names[stage] for stage in journey.loops],
        "channels": journey.channels,
        "switches": journey.switches,
        "interactions": journey.interactions,
        "started_at": journey.started_at,
        "last_at": journey.last_at,
        "ended_at": journey.ended_at if journey.status != "open" else (journey.deadline if status != "open" else 0),
    }
