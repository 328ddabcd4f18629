"""A client's history over all channels, as entries that people read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from journey.application import codec
from journey.domain.context import describe, describe_case
from throughline.ingestion.v1 import interaction_pb2
from throughline.journey.v1 import events_pb2
from throughline_kernel import Recorded

# What happened at one instant is shown in the order in which it follows.
_RANKS: Final = {
    "interaction": 0,
    "feedback": 1,
    "case": 2,
    "journey_started": 3,
    "channel_switched": 4,
    "stage_reached": 5,
    "journey_completed": 6,
    "journey_abandoned": 7,
    "handoff_offered": 8,
    "handoff_accepted": 9,
}
_TAKEN_BACK: Final = frozenset({"interaction_withdrawn", "feedback_withdrawn", "transition_retracted"})


class Entry(NamedTuple):
    """One line of the history; `interaction` where it is one."""

    type: str
    occurred_at: int
    recorded_at: int
    event_id: str
    position: int
    summary: str
    channel: str = ""
    journey_id: str = ""
    journey: str = ""
    stage: str = ""
    interaction: interaction_pb2.InteractionFacts | None = None
    # Orders interactions of one instant: source, sequence.
    tie: tuple[str, int] = ("", 0)
    # Other channels that the line speaks of, and the interaction that an item of feedback came with.
    channels: tuple[str, ...] = ()
    given_in: str = ""


def entry_of(event: Recorded) -> Entry | None:
    """The entry for a logged event, None for what is no part of a history."""
    head = (event.occurred_at, event.recorded_at)
    match event.type:
        case codec.INTERACTION_NOTED:
            facts = events_pb2.InteractionNoted.FromString(event.payload).interaction
            return Entry(
                "interaction",
                *head,
                facts.interaction_id,
                event.position,
                describe(codec.fact_from(facts)),
                facts.channel,
                interaction=facts,
                tie=(facts.source, facts.sequence),
            )
        case codec.FEEDBACK_NOTED:
            item = codec.item_of(event.payload, event.occurred_at)
            kind = interaction_pb2.FeedbackKind.Name(interaction_pb2.FeedbackKind.ValueType(item.kind))
            named = kind.removeprefix("FEEDBACK_KIND_").lower().replace("_", " ")
            given = "" if item.score is None else f" {item.score}"
            about = f" about {', '.join(item.topics)}" if item.topics else ""
            return Entry(
                "feedback",
                *head,
                item.feedback_id,
                event.position,
                f"Feedback: {named}{given}{about}.",
                given_in=item.interaction_id,
            )
        case codec.CASE_NOTED:
            case = codec.case_of(event.payload, event.occurred_at, event.causation_id)
            return Entry("case", *head, case.event_id, event.position, describe_case(case))
        case codec.HANDOFF_OFFERED:
            handoff = codec.handoff_from(event)
            return Entry(
                "handoff_offered",
                *head,
                event.event_id.hex(),
                event.position,
                f"Offered by {handoff.from_channel} to {handoff.to_channel}.",
                handoff.from_channel,
                handoff.journey_id,
                channels=(handoff.to_channel,),
            )
        case codec.HANDOFF_ACCEPTED:
            accepted = events_pb2.HandoffAccepted.FromString(event.payload)
            by = f" ({accepted.accepted_by})" if accepted.accepted_by else ""
            return Entry(
                "handoff_accepted",
                *head,
                event.event_id.hex(),
                event.position,
                f"Taken over by {accepted.channel}{by}.",
                accepted.channel,
            )
        case _:
            return _transition(event) if event.type in codec.TRANSITIONS else None


def _transition(event: Recorded) -> Entry:
    head = (event.occurred_at, event.recorded_at, event.event_id.hex(), event.position)
    match codec.TRANSITIONS[event.type].__name__:
        case "JourneyStarted":
            started = events_pb2.JourneyStarted.FromString(event.payload)
            said = f"{started.journey} begins at {started.stage} by {started.channel}."
            return Entry(
                "journey_started",
                *head,
                said,
                started.channel,
                started.journey_id,
                started.journey,
                started.stage,
            )
        case "StageReached":
            stage = events_pb2.StageReached.FromString(event.payload)
            how = "goes back" if stage.loop else "goes on"
            said = f"{stage.journey} {how} from {stage.from_stage} to {stage.stage} by {stage.channel}."
            return Entry("stage_reached", *head, said, stage.channel, stage.journey_id, stage.journey, stage.stage)
        case "ChannelSwitched":
            switch = events_pb2.ChannelSwitched.FromString(event.payload)
            said = f"From {switch.from_channel} to {switch.to_channel}."
            return Entry(
                "channel_switched",
                *head,
                said,
                switch.to_channel,
                switch.journey_id,
                channels=(switch.from_channel,),
            )
        case "JourneyCompleted":
            done = events_pb2.JourneyCompleted.FromString(event.payload)
            said = f"{done.journey} is completed at {done.stage}, over {', '.join(done.channels)}."
            return Entry(
                "journey_completed",
                *head,
                said,
                done.channels[-1],
                done.journey_id,
                done.journey,
                done.stage,
                channels=tuple(done.channels),
            )
        case _:
            left = events_pb2.JourneyAbandoned.FromString(event.payload)
            said = f"{left.journey} is abandoned at {left.stage}, over {', '.join(left.channels)}."
            return Entry(
                "journey_abandoned",
                *head,
                said,
                left.channels[-1],
                left.journey_id,
                left.journey,
                left.stage,
                channels=tuple(left.channels),
            )


def taken_back(event: Recorded) -> Entry | None:
    """The entry that says what no longer holds, for those who watch; None for any other event."""
    match event.type:
        case codec.INTERACTION_WITHDRAWN:
            gone = events_pb2.InteractionWithdrawn.FromString(event.payload).interaction_id
            named, said = "interaction_withdrawn", "This interaction is another client's."
        case codec.FEEDBACK_WITHDRAWN:
            gone = events_pb2.FeedbackWithdrawn.FromString(event.payload).feedback_id
            named, said = "feedback_withdrawn", "This feedback is another client's."
        case codec.TRANSITION_RETRACTED:
            retracted = events_pb2.TransitionRetracted.FromString(event.payload)
            gone, named = retracted.event_id, "transition_retracted"
            said = f"{retracted.event_type} no longer holds."
        case _:
            return None
    return Entry(named, event.occurred_at, event.recorded_at, gone, event.position, said)


def standing(events: Iterable[Recorded]) -> list[Entry]:
    """The history that a client's events leave: what was withdrawn or retracted is not in it. Oldest first."""
    entries: dict[tuple[str, str], Entry] = {}
    for event in events:
        if event.type == codec.CLIENT_DROPPED:
            entries.clear()
        elif (gone := taken_back(event)) is not None:
            kind = gone.type.partition("_")[0]
            entries.pop(("transition" if kind == "transition" else kind, gone.event_id), None)
        elif (entry := entry_of(event)) is not None:
            kind = "transition" if event.type in codec.TRANSITIONS else entry.type
            # Each word on a case stays; of an item of feedback the last one holds.
            key = f"{entry.event_id}:{event.version}" if kind == "case" else entry.event_id
            entries[kind, key] = entry
    return sorted(
        entries.values(),
        key=lambda entry: (entry.occurred_at, _RANKS[entry.type], entry.tie, entry.event_id, entry.position),
    )


def handed(events: Iterable[Recorded]) -> list[Recorded]:
    """Of a client's events the hand-offs, which stay with the id they were offered under."""
    return [event for event in events if event.type in {codec.HANDOFF_OFFERED, codec.HANDOFF_ACCEPTED}]


def sentence(event: Recorded) -> str:
    """One sentence about any event of this log."""
    entry = entry_of(event) or taken_back(event)
    if entry is not None:
        return entry.summary
    match event.type:
        case codec.JOURNEY_DEFINED:
            definition = events_pb2.JourneyDefined.FromString(event.payload).definition
            return f"Journey {definition.journey} is defined, version {definition.version}."
        case codec.CONSENT_NOTED:
            said = ", ".join(map(str, codec.consents_of(event.payload).words))
            return f"What the client consents to: {said or 'nothing was said'}."
        case codec.CLIENT_DROPPED:
            return "The client was forgotten; nothing is kept of them here."
        case _:
            return f"{event.type.rpartition('.')[2]}."
