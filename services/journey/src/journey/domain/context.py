"""What the next channel must know: read from a client's record, each fact with the event ids it stands on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

from journey.domain.facts import Case, Fact, Handoff
from journey.domain.record import Record
from journey.domain.telling import Answer, Journey
from throughline_kernel import LeftOut

LAST_STEPS: Final = 20
_LONG_AGO: Final = 1 << 62


class Who(NamedTuple):
    """Who the client is, as identity told."""

    client_id: str
    known_person: bool = False
    alias_ids: tuple[str, ...] = ()


class OpenMatter(NamedTuple):
    """Something that waits: a journey, case, promise, hand-off or conversation."""

    kind: str
    id: str
    summary: str
    stage: str
    owner: str
    since: int
    due_at: int
    event_ids: tuple[str, ...]


class Step(NamedTuple):
    """One interaction of the latest."""

    at: int
    channel: str
    touchpoint: str
    kind: str
    matter: str
    outcome: str
    summary: str
    event_ids: tuple[str, ...]


class GivenAnswer(NamedTuple):
    """What need not be asked again."""

    question: str
    answer: str
    sealed: bool
    at: int
    channel: str
    times_asked: int
    event_ids: tuple[str, ...]


class Promise(NamedTuple):
    """What the organisation said it would do and has not done."""

    promise_id: str
    text: str
    due_at: int
    overdue: bool
    channel: str
    at: int
    event_ids: tuple[str, ...]


class CampaignSeen(NamedTuple):
    """What the client was sent, and whether they answered."""

    campaign_id: str
    last_at: int
    times: int
    responded: bool
    event_ids: tuple[str, ...]


class NextStep(NamedTuple):
    """What the journey's definition says to offer."""

    text: str
    journey: str
    stage: str
    event_ids: tuple[str, ...]


class Loyalty(NamedTuple):
    """The last score of a kind."""

    kind: int
    score: int
    at: int
    event_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Context:
    """All of it, each list with the most urgent first."""

    who: Who
    first_seen_at: int
    last_seen_at: int
    interactions: int
    channels_used: tuple[str, ...]
    open_matters: tuple[OpenMatter, ...]
    last_steps: tuple[Step, ...]
    answers: tuple[GivenAnswer, ...]
    promises: tuple[Promise, ...]
    campaigns: tuple[CampaignSeen, ...]
    next_steps: tuple[NextStep, ...]
    loyalty: tuple[Loyalty, ...]
    # By the client's consents.
    left_out: tuple[LeftOut, ...] = ()


def tell(record: Record, who: Who, channel: str, now: int, handoffs: Iterable[Handoff] = ()) -> Context:
    """What `channel` should know now. `handoffs` are pending ones offered under ids that are aliases now."""
    telling = record.telling
    pending = [handoff for handoff in (*record.handoffs.values(), *handoffs) if handoff.pending(now)]
    open_journeys = sorted(
        (journey for journey in telling.open.values() if journey.status_at(now) == "open"),
        key=lambda journey: (-journey.last_at, journey.journey_id),
    )
    return Context(
        who,
        telling.first_at,
        telling.last_at,
        telling.interactions,
        tuple(telling.channels),
        _matters(record, channel, now, pending, open_journeys),
        _steps(record.facts),
        _answers(telling.answers),
        _promises(record, now),
        tuple(
            CampaignSeen(
                name,
                seen.last_at,
                seen.times,
                bool(seen.answered_in),
                _ids((seen.answered_in, *reversed(seen.shown_in))),
            )
            for name, seen in sorted(telling.campaigns.items(), key=lambda item: (-item[1].last_at, item[0]))
        ),
        tuple(
            NextStep(text, journey.definition.journey, journey.stage_name, _ids((journey.last_id,)))
            for journey in open_journeys
            if (text := journey.definition.steps.get(journey.stage_name, ""))
        ),
        tuple(
            Loyalty(kind, score.score, score.at, (score.event_id,)) for kind, score in sorted(record.loyalty().items())
        ),
    )


def describe(fact: Fact) -> str:
    """An interaction in one plain sentence."""
    parts = [f"{_words(fact.kind).capitalize()} by {_words(fact.channel)}"]
    if fact.touchpoint:
        parts.append(f"at {_words(fact.touchpoint)}")
    if fact.location_id:
        parts.append(f"in {fact.location_id}")
    if fact.matter:
        parts.append(f"about {_words(fact.matter)}")
    sentence = " ".join(parts)
    return f"{sentence}: {_words(fact.outcome)}." if fact.outcome else f"{sentence}."


def describe_case(case: Case) -> str:
    """A case in one plain sentence."""
    about = f" about {_words(case.topic)}" if case.topic else ""
    return f"Case{about} with {_words(case.department)} is {_words(case.state)}."


def _matters(
    record: Record,
    channel: str,
    now: int,
    pending: list[Handoff],
    journeys: list[Journey],
) -> tuple[OpenMatter, ...]:
    matters: list[tuple[tuple[int, int, str], OpenMatter]] = []

    def add(rank: int, matter: OpenMatter) -> None:
        overdue = 0 < matter.due_at < now and matter.kind != "journey"
        place = 0 if overdue else rank
        matters.append(((place, (matter.due_at if rank < 5 else 0) or _LONG_AGO, matter.id), matter))

    for handoff in pending:
        note = f": {handoff.note}" if handoff.note else "."
        summary = f"Handed over from {_words(handoff.from_channel)} to {_words(handoff.to_channel)}{note}"
        add(
            1 if handoff.to_channel == channel else 2,
            OpenMatter(
                "handoff",
                handoff.handoff_id,
                summary,
                "",
                handoff.to_channel,
                handoff.at,
                handoff.expires_at,
                (handoff.event_id,),
            ),
        )
    for case in record.cases.values():
        if case.is_open:
            add(
                3,
                OpenMatter(
                    "case",
                    case.case_id,
                    describe_case(case),
                    case.state,
                    case.department,
                    case.since,
                    case.due_at,
                    (case.event_id,),
                ),
            )
    for promise in _promises(record, now):
        late = " It is overdue." if promise.overdue else ""
        summary = f"Promised by {_words(promise.channel)}: {promise.text}.{late}"
        add(
            4,
            OpenMatter(
                "promise",
                promise.promise_id,
                summary,
                "",
                promise.channel,
                promise.at,
                promise.due_at,
                promise.event_ids,
            ),
        )
    for name, conversation in record.telling.conversations.items():
        about = f" about {_words(conversation.matter)}" if conversation.matter else ""
        summary = f"Conversation by {_words(conversation.channel)}{about} is {_words(conversation.outcome)}."
        add(
            5,
            OpenMatter(
                "conversation",
                name,
                summary,
                conversation.outcome,
                conversation.channel,
                conversation.since,
                0,
                _ids((conversation.said_in,)),
            ),
        )
    for journey in journeys:
        definition = journey.definition
        stage = definition.stages[journey.stage]
        following = definition.steps.get(stage.stage, "")
        summary = f"{definition.name or definition.journey}: {stage.name or _words(stage.stage)}"
        summary += f", last by {_words(journey.channels[-1])}." + (f" Next: {following}." if following else "")
        add(
            6,
            OpenMatter(
                "journey",
                journey.journey_id,
                summary,
                stage.stage,
                definition.owner,
                journey.started_at,
                journey.deadline,
                _ids((journey.last_id, journey.started_by)),
            ),
        )
    return tuple(matter for _, matter in sorted(matters, key=lambda item: item[0]))


def _promises(record: Record, now: int) -> tuple[Promise, ...]:
    found = [
        Promise(name, p.text, p.due_at, 0 < p.due_at < now, p.channel, p.at, _ids((p.made_in,)))
        for name, p in record.telling.promises.items()
    ]
    return tuple(sorted(found, key=lambda p: (p.due_at or _LONG_AGO, p.at, p.promise_id)))


def _steps(facts: list[Fact]) -> tuple[Step, ...]:
    latest: list[Step] = []
    for fact in reversed(facts):
        if fact.staff:
            continue
        latest.append(
            Step(
                fact.occurred_at,
                fact.channel,
                fact.touchpoint,
                fact.kind,
                fact.matter,
                fact.outcome,
                describe(fact),
                (fact.id,),
            )
        )
        if len(latest) == LAST_STEPS:
            break
    return tuple(latest)


def _answers(answers: dict[str, Answer]) -> tuple[GivenAnswer, ...]:
    found = [
        GivenAnswer(
            question,
            a.answer,
            a.sealed,
            a.at,
            a.channel,
            a.times,
            _ids((a.given_in, *reversed(a.asked_in))),
        )
        for question, a in answers.items()
    ]
    return tuple(sorted(found, key=lambda a: (-a.at, a.question)))


def _ids(ids: Iterable[bytes]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(each.hex() for each in ids if each))


def _words(name: str) -> str:
    return name.replace("_", " ")
