"""Answers in the contract's words, among them a context that never grows over 4 KB."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Final, TypeAlias

from journey.application.queries import Told
from journey.application.timeline import Entry
from journey.domain.context import Context
from journey.domain.variants import Variants
from throughline.identity.v1 import consent_pb2
from throughline.ingestion.v1 import interaction_pb2
from throughline.journey.v1 import journey_pb2 as pb
from throughline_eventlog import Commit
from throughline_kernel import LeftOut

COMPACT_BYTES: Final = 4096
# Field names of the answer that list facts; the compact form counts what it leaves out of each.
LISTS: Final = (
    "alias_ids",
    "channels_used",
    "open_matters",
    "last_steps",
    "answers",
    "promises",
    "campaigns",
    "next_steps",
    "loyalty",
    "left_out",
)
# What the map of omissions may come to: a tag, a length, a key and a count for each field.
_OMITTED: Final = sum(len(name) + 12 for name in LISTS)
# Of a text the compact form keeps so many characters, of the event ids so many.
_TEXT: Final = 160
_EVIDENCE: Final = 2
_MATTERS_FIRST: Final = 6
_STEPS_FIRST: Final = 3

_Fact: TypeAlias = (
    pb.OpenMatter
    | pb.Step
    | pb.GivenAnswer
    | pb.Promise
    | pb.CampaignSeen
    | pb.NextStep
    | pb.Loyalty
    | consent_pb2.LeftOut
    | str
)


def full_context(told: Told) -> pb.ResumeContextResponse:
    """All of it."""
    response = _head(told)
    for name, facts in _facts(told.context).items():
        getattr(response, name).extend(facts)
    return response


def compact_context(told: Told) -> pb.ResumeContextResponse:
    """At most 4,096 bytes serialised: the most urgent first, as long as there is room; `omitted` counts the rest.

    Long texts are cut, and each fact keeps the event ids that decide. A fact that finds no room is counted,
    and smaller ones behind it may still find some.
    """
    facts = {name: [_short(fact) for fact in facts] for name, facts in _facts(told.context).items()}
    response = _head(told)
    kept: dict[str, list[_Fact]] = {name: [] for name in LISTS}
    room = COMPACT_BYTES - response.ByteSize() - _OMITTED
    for name, fact in _by_urgency(facts):
        size = len(fact.encode()) if isinstance(fact, str) else fact.ByteSize()
        # A tag of one byte, the length, the fact itself.
        size += 1 + (1 if size < 0x80 else 2 if size < 0x4000 else 5)
        if size <= room:
            room -= size
            kept[name].append(fact)
    for name in LISTS:
        getattr(response, name).extend(kept[name])
        if left_out := len(facts[name]) - len(kept[name]):
            response.omitted[name] = left_out
    return response


def _by_urgency(facts: dict[str, list[_Fact]]) -> Iterable[tuple[str, _Fact]]:
    """What may not be told first; then overdue and open matters, what to do next, what just happened, what not to ask,
    what else to know.
    """
    matters, steps, answers = facts["open_matters"], facts["last_steps"], facts["answers"]
    again = [isinstance(answer, pb.GivenAnswer) and answer.times_asked > 1 for answer in answers]
    for name, some in (
        ("left_out", facts["left_out"]),
        ("open_matters", matters[:_MATTERS_FIRST]),
        ("next_steps", facts["next_steps"]),
        ("last_steps", steps[:_STEPS_FIRST]),
        ("promises", facts["promises"]),
        ("answers", [answer for answer, amnesia in zip(answers, again, strict=True) if amnesia]),
        ("answers", [answer for answer, amnesia in zip(answers, again, strict=True) if not amnesia]),
        ("loyalty", facts["loyalty"]),
        ("open_matters", matters[_MATTERS_FIRST:]),
        ("channels_used", facts["channels_used"]),
        ("campaigns", facts["campaigns"]),
        ("last_steps", steps[_STEPS_FIRST:]),
        ("alias_ids", facts["alias_ids"]),
    ):
        for fact in some:
            yield name, fact


def _head(told: Told) -> pb.ResumeContextResponse:
    context = told.context
    return pb.ResumeContextResponse(
        client_id=context.who.client_id,
        known_person=context.who.known_person,
        first_seen_at=context.first_seen_at,
        last_seen_at=context.last_seen_at,
        interactions=context.interactions,
        position=told.position,
        withheld=told.withheld,
    )


def _facts(context: Context) -> dict[str, list[_Fact]]:
    return {
        "alias_ids": list(context.who.alias_ids),
        "channels_used": list(context.channels_used),
        "open_matters": [pb.OpenMatter(**matter._asdict()) for matter in context.open_matters],
        "last_steps": [pb.Step(**step._asdict()) for step in context.last_steps],
        "answers": [pb.GivenAnswer(**answer._asdict()) for answer in context.answers],
        "promises": [pb.Promise(**promise._asdict()) for promise in context.promises],
        "campaigns": [pb.CampaignSeen(**campaign._asdict()) for campaign in context.campaigns],
        "next_steps": [pb.NextStep(**step._asdict()) for step in context.next_steps],
        "loyalty": [
            pb.Loyalty(
                kind=interaction_pb2.FeedbackKind.ValueType(loyalty.kind),
                score=loyalty.score,
                at=loyalty.at,
                event_ids=loyalty.event_ids,
            )
            for loyalty in context.loyalty
        ],
        "left_out": [*left_out(context.left_out)],
    }


def _short(fact: _Fact) -> _Fact:
    if isinstance(fact, str | consent_pb2.LeftOut):
        return fact
    for name in ("summary", "text", "answer", "touchpoint"):
        if name in fact.DESCRIPTOR.fields_by_name:
            text: str = getattr(fact, name)
            if len(text) > _TEXT:
                setattr(fact, name, text[: _TEXT - 1] + "\u2026")
    del fact.event_ids[_EVIDENCE:]
    return fact


def left_out(parts: Iterable[LeftOut]) -> list[consent_pb2.LeftOut]:
    """What is not told by the client's consents."""
    return [consent_pb2.LeftOut(**asdict(part)) for part in parts]


def entry(line: Entry) -> pb.TimelineEntry:
    """One line of a history."""
    return pb.TimelineEntry(
        type=line.type,
        occurred_at=line.occurred_at,
        recorded_at=line.recorded_at,
        event_id=line.event_id,
        position=line.position,
        channel=line.channel,
        summary=line.summary,
        interaction=line.interaction,
        journey_id=line.journey_id,
        journey=line.journey,
        stage=line.stage,
    )


def variants(counted: Variants, commit: Commit) -> pb.GetVariantsResponse:
    """Counts of channel sequences."""
    return pb.GetVariantsResponse(
        variants=[
            pb.Variant(
                channels=variant.channels,
                count=variant.count,
                completed=variant.completed,
                abandoned=variant.abandoned,
                median_duration=variant.median_duration,
                example_ids=variant.example_ids,
            )
            for variant in counted.variants
        ],
        others=counted.others,
        other_variants=counted.other_variants,
        total=counted.total,
        position=commit.position,
        as_of=commit.recorded_at,
    )
