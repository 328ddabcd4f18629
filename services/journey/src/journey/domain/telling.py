"""What a client's interactions mean when they are told in canonical order: a pure fold, one step per interaction."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple

from journey.domain.definitions import Definitions, JourneyDefinition
from journey.domain.facts import Fact
from journey.domain.transitions import (
    ChannelSwitched,
    JourneyAbandoned,
    JourneyCompleted,
    JourneyStarted,
    StageReached,
    Transition,
)
from throughline_kernel import hex_id

# How many event ids a fact that stands on many is shown with: the one that decides, and the latest.
EVIDENCE: Final = 5
# What the organisation sent or showed; anything else that names a campaign is the client's answer to it.
_SHOWN: Final = frozenset({"mailing", "impression", "ad_shown", "campaign", "campaign_shown", "campaign_seen"})
# A conversation whose last word is one of these waits for somebody.
_WAITING: Final = frozenset(
    {"open", "pending", "transferred", "escalated", "in_progress", "abandoned", "waiting", "callback"}
)
_NOTHING: Final[list[Transition]] = []


@dataclass(slots=True)
class Journey:
    """One client's way through one definition. It changes only while `status` is open."""

    journey_id: str
    definition: JourneyDefinition
    matter: str
    started_at: int
    started_by: bytes
    stage: int
    visited: set[int]
    stages: list[int]
    channels: list[str]
    last_at: int
    last_id: bytes
    status: str = "open"
    ended_at: int = 0
    interactions: int = 1
    switches: int = 0
    loops: list[int] = field(default_factory=list[int])

    @property
    def deadline(self) -> int:
        """The moment up to which a matching interaction still belongs to it."""
        return self.last_at + self.definition.timeout

    @property
    def stage_name(self) -> str:
        """Where it stands, by the stage's own name."""
        return self.definition.stages[self.stage].stage

    def status_at(self, moment: int) -> str:
        """open, completed or abandoned as of a moment not before its last interaction."""
        return "abandoned" if self.status == "open" and self.deadline < moment else self.status

    def abandonment(self) -> JourneyAbandoned:
        """What silence beyond the deadline means."""
        return JourneyAbandoned(
            self.journey_id,
            self.last_id.hex(),
            self.deadline,
            self.definition.journey,
            self.stage_name,
            tuple(self.channels),
        )

    def copy(self) -> Journey:
        """One that may go on by itself."""
        return Journey(
            self.journey_id,
            self.definition,
            self.matter,
            self.started_at,
            self.started_by,
            self.stage,
            set(self.visited),
            list(self.stages),
            list(self.channels),
            self.last_at,
            self.last_id,
            self.status,
            self.ended_at,
            self.interactions,
            self.switches,
            list(self.loops),
        )


class Answer(NamedTuple):
    """What was said last to a question; `times` counts how often it was put."""

    answer: str
    sealed: bool
    at: int
    channel: str
    times: int
    # The interaction that gave the answer, empty where none was given yet.
    given_in: bytes
    asked_in: tuple[bytes, ...]


class OpenPromise(NamedTuple):
    """Made and not kept yet."""

    text: str
    due_at: int
    channel: str
    at: int
    made_in: bytes


class Campaign(NamedTuple):
    """What of a campaign reached the client, and whether they answered."""

    last_at: int
    times: int
    shown_in: tuple[bytes, ...]
    answered_in: bytes


class LoyaltyScore(NamedTuple):
    """The last score of one kind; one about everything stands before one about an aspect."""

    score: int
    at: int
    event_id: str
    overall: bool


class Conversation(NamedTuple):
    """A conversation whose last word was not the end of it."""

    outcome: str
    channel: str
    matter: str
    since: int
    at: int
    said_in: bytes


class Telling:
    """A client's state after some of their facts, in canonical order. `advance` is O(1) per fact."""

    __slots__ = (
        "answers",
        "campaigns",
        "channels",
        "closed",
        "conversations",
        "first_at",
        "interactions",
        "kept",
        "last",
        "last_at",
        "loyalty",
        "open",
        "path",
        "promises",
        "switches",
        "touched",
    )

    def __init__(self) -> None:
        self.interactions = 0
        self.first_at = 0
        self.last_at = 0
        self.last: Fact | None = None
        # Channels in the order of their first use, with counts; and in order of use, runs collapsed.
        self.channels: dict[str, int] = {}
        self.path: list[str] = []
        self.switches = 0
        self.open: dict[tuple[str, str], Journey] = {}
        self.closed: list[Journey] = []
        self.answers: dict[str, Answer] = {}
        self.promises: dict[str, OpenPromise] = {}
        self.kept: set[str] = set()
        self.campaigns: dict[str, Campaign] = {}
        self.loyalty: dict[int, LoyaltyScore] = {}
        self.conversations: dict[str, Conversation] = {}
        # Journeys that have changed; whoever keeps them elsewhere empties it.
        self.touched: list[Journey] = []

    def copy(self) -> Telling:
        """One that may go on by itself."""
        other = Telling()
        other.interactions = self.interactions
        other.first_at = self.first_at
        other.last_at = self.last_at
        other.last = self.last
        other.channels = self.channels.copy()
        other.path = self.path.copy()
        other.switches = self.switches
        other.open = {key: journey.copy() for key, journey in self.open.items()}
        other.closed = self.closed.copy()
        other.answers = self.answers.copy()
        other.promises = self.promises.copy()
        other.kept = self.kept.copy()
        other.campaigns = self.campaigns.copy()
        other.loyalty = self.loyalty.copy()
        other.conversations = self.conversations.copy()
        return other

    def journeys(self) -> list[Journey]:
        """Every journey, those that ended first."""
        return [*self.closed, *self.open.values()]

    def advance(self, client_id: str, fact: Fact, definitions: Definitions) -> list[Transition]:
        """Takes the next fact, which must stand behind all before it, and tells what follows from it."""
        if fact.staff:
            return _NOTHING
        at, channel, previous = fact.occurred_at, fact.channel, self.last
        if self.interactions == 0:
            self.first_at = at
        self.interactions += 1
        self.last_at = at
        self.channels[channel] = self.channels.get(channel, 0) + 1
        reached = definitions.reached(fact)
        said = self._travel(client_id, fact, reached) if reached else []
        if previous is None or previous.channel != channel:
            self.path.append(channel)
            if previous is not None:
                self.switches += 1
                if not any(type(transition) is ChannelSwitched for transition in said):
                    gap = at - previous.occurred_at
                    said.append(ChannelSwitched("", fact.id, at, previous.channel, channel, previous.id, gap))
        self.last = fact
        self._remember(fact)
        return said

    def _remember(self, fact: Fact) -> None:
        if fact.exchanges:
            self._hear(fact)
        if fact.promises or fact.kept:
            self._promise(fact)
        if fact.campaign_id:
            self._campaign(fact)
        if fact.scores:
            self._score(fact)
        if fact.conversation_id and fact.outcome:
            self._converse(fact)

    def _travel(
        self, client_id: str, fact: Fact, reached: tuple[tuple[JourneyDefinition, tuple[int, ...]], ...]
    ) -> list[Transition]:
        said: list[Transition] = []
        for definition, stages in reached:
            key = (definition.journey, definition.matter_of(fact))
            journey = self.open.get(key)
            if journey is not None and fact.occurred_at > journey.deadline:
                said.append(journey.abandonment())
                journey.status, journey.ended_at = "abandoned", journey.deadline
                self.closed.append(self.open.pop(key))
                self.touched.append(journey)
                journey = None
            if journey is None:
                journey = self._start(client_id, fact, definition, stages, said)
                if journey is None:
                    continue
                self.open[key] = journey
            else:
                _step(journey, fact, stages[-1], said)
            self.touched.append(journey)
            if journey.stage in definition.goals:
                said.append(
                    JourneyCompleted(
                        journey.journey_id,
                        fact.id,
                        fact.occurred_at,
                        definition.journey,
                        journey.stage_name,
                        fact.occurred_at - journey.started_at,
                        tuple(journey.channels),
                    )
                )
                journey.status, journey.ended_at = "completed", fact.occurred_at
                self.closed.append(self.open.pop(key))
        return said

    def _start(
        self,
        client_id: str,
        fact: Fact,
        definition: JourneyDefinition,
        stages: tuple[int, ...],
        said: list[Transition],
    ) -> Journey | None:
        entries = [stage for stage in stages if stage in definition.entries]
        if not entries:
            return None
        stage, matter = entries[-1], definition.matter_of(fact)
        journey_id = hex_id("journey", client_id, definition.journey, matter, fact.interaction_id)
        said.append(
            JourneyStarted(
                journey_id,
                fact.id,
                fact.occurred_at,
                definition.journey,
                definition.version,
                definition.stages[stage].stage,
                fact.channel,
                matter,
            )
        )
        return Journey(
            journey_id,
            definition,
            matter,
            fact.occurred_at,
            fact.interaction_id,
            stage,
            {stage},
            [stage],
            [fact.channel],
            fact.occurred_at,
            fact.interaction_id,
        )

    def _hear(self, fact: Fact) -> None:
        for exchange in fact.exchanges:
            known = self.answers.get(exchange.question)
            times = known.times + 1 if known else 1
            asked = ((*known.asked_in, fact.interaction_id) if known else (fact.interaction_id,))[-EVIDENCE:]
            if exchange.answer or exchange.sealed or known is None:
                self.answers[exchange.question] = Answer(
                    exchange.answer,
                    exchange.sealed,
                    fact.occurred_at,
                    fact.channel,
                    times,
                    fact.interaction_id if exchange.answer or exchange.sealed else b"",
                    asked,
                )
            else:
                self.answers[exchange.question] = known._replace(times=times, asked_in=asked)

    def _promise(self, fact: Fact) -> None:
        for promise in fact.promises:
            # Clocks of two systems differ: what was kept before it was made is kept.
            if promise.promise_id not in self.kept:
                self.promises[promise.promise_id] = OpenPromise(
                    promise.text, promise.due_at, fact.channel, fact.occurred_at, fact.interaction_id
                )
        for promise_id in fact.kept:
            self.kept.add(promise_id)
            self.promises.pop(promise_id, None)

    def _campaign(self, fact: Fact) -> None:
        known = self.campaigns.get(fact.campaign_id, Campaign(0, 0, (), b""))
        if fact.kind.endswith("_sent") or fact.kind in _SHOWN:
            shown = (*known.shown_in, fact.interaction_id)[-EVIDENCE:]
            known = Campaign(fact.occurred_at, known.times + 1, shown, known.answered_in)
        else:
            known = known._replace(answered_in=fact.interaction_id)
        self.campaigns[fact.campaign_id] = known

    def _score(self, fact: Fact) -> None:
        # Said once, in one interaction: the answer about everything counts, else the first.
        now: dict[int, LoyaltyScore] = {}
        for score in fact.scores:
            overall = score.aspect in {"", "overall"}
            if score.kind not in now or (overall and not now[score.kind].overall):
                now[score.kind] = LoyaltyScore(score.score, fact.occurred_at, fact.id, overall)
        for kind, score in now.items():
            known = self.loyalty.get(kind)
            if known is None or score.overall or not known.overall:
                self.loyalty[kind] = score

    def _converse(self, fact: Fact) -> None:
        known = self.conversations.pop(fact.conversation_id, None)
        if fact.outcome in _WAITING:
            self.conversations[fact.conversation_id] = Conversation(
                fact.outcome,
                fact.channel,
                fact.matter or (known.matter if known else ""),
                known.since if known else fact.occurred_at,
                fact.occurred_at,
                fact.interaction_id,
            )


def _step(journey: Journey, fact: Fact, stage: int, said: list[Transition]) -> None:
    definition = journey.definition
    if fact.channel != journey.channels[-1]:
        said.append(
            ChannelSwitched(
                journey.journey_id,
                fact.id,
                fact.occurred_at,
                journey.channels[-1],
                fact.channel,
                journey.last_id.hex(),
                fact.occurred_at - journey.last_at,
            )
        )
        journey.channels.append(fact.channel)
        journey.switches += 1
    # Staying where one is, is one visit; coming back to a stage that was left is a loop.
    if stage != journey.stage:
        loop = stage in journey.visited
        said.append(
            StageReached(
                journey.journey_id,
                fact.id,
                fact.occurred_at,
                definition.journey,
                definition.stages[stage].stage,
                journey.stage_name,
                fact.channel,
                loop,
            )
        )
        if loop:
            journey.loops.append(stage)
        journey.visited.add(stage)
        journey.stages.append(stage)
        journey.stage = stage
    journey.interactions += 1
    journey.last_at = fact.occurred_at
    journey.last_id = fact.interaction_id
