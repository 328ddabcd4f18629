"""The words of the log and of the bus, translated into the domain's and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from sys import intern
from typing import Final, TypeAlias

from google.protobuf.message import Message

from journey.domain.definitions import JourneyDefinition, Match, MatterKey, Stage
from journey.domain.facts import Case, Exchange, Fact, FeedbackItem, Handoff, PromiseMade, Score
from journey.domain.transitions import (
    ChannelSwitched,
    JourneyAbandoned,
    JourneyCompleted,
    JourneyStarted,
    StageReached,
    Transition,
)
from throughline.identity.v1 import consent_pb2
from throughline.ingestion.v1 import interaction_pb2
from throughline.journey.v1 import definitions_pb2, events_pb2
from throughline_kernel import Consent, Consents, InvalidError, Recorded, Violation, hex_id

_PACKAGE: Final = "throughline.journey.v1."
INTERACTION_NOTED: Final = _PACKAGE + "InteractionNoted"
INTERACTION_WITHDRAWN: Final = _PACKAGE + "InteractionWithdrawn"
FEEDBACK_NOTED: Final = _PACKAGE + "FeedbackNoted"
FEEDBACK_WITHDRAWN: Final = _PACKAGE + "FeedbackWithdrawn"
CASE_NOTED: Final = _PACKAGE + "CaseNoted"
TRANSITION_RETRACTED: Final = _PACKAGE + "TransitionRetracted"
HANDOFF_OFFERED: Final = _PACKAGE + "HandoffOffered"
HANDOFF_ACCEPTED: Final = _PACKAGE + "HandoffAccepted"
JOURNEY_DEFINED: Final = _PACKAGE + "JourneyDefined"
CONSENT_NOTED: Final = _PACKAGE + "ConsentNoted"
CLIENT_DROPPED: Final = _PACKAGE + "ClientDropped"
TRANSITIONS: Final[Mapping[str, type[Transition]]] = {
    _PACKAGE + kind.__name__: kind
    for kind in (JourneyStarted, StageReached, ChannelSwitched, JourneyCompleted, JourneyAbandoned)
}

_OfClient: TypeAlias = (
    events_pb2.FeedbackNoted
    | events_pb2.FeedbackWithdrawn
    | events_pb2.CaseNoted
    | events_pb2.HandoffOffered
    | events_pb2.HandoffAccepted
    | events_pb2.ConsentNoted
)
_OfJourney: TypeAlias = (
    events_pb2.JourneyStarted
    | events_pb2.StageReached
    | events_pb2.ChannelSwitched
    | events_pb2.JourneyCompleted
    | events_pb2.JourneyAbandoned
)
_OfClients: TypeAlias = (
    _OfClient
    | _OfJourney
    | events_pb2.InteractionNoted
    | events_pb2.InteractionWithdrawn
    | events_pb2.TransitionRetracted
    | events_pb2.ClientDropped
)
_OfInteraction: TypeAlias = (
    events_pb2.InteractionWithdrawn
    | events_pb2.FeedbackNoted
    | events_pb2.JourneyStarted
    | events_pb2.StageReached
    | events_pb2.ChannelSwitched
    | events_pb2.JourneyCompleted
)


@lru_cache(65_536)
def stream_of(client_id: str) -> bytes:
    """The stream of a client's record."""
    return bytes.fromhex(hex_id("journey.client", client_id))


def definition_stream(journey: str) -> bytes:
    """The stream of a journey's definitions."""
    return bytes.fromhex(hex_id("journey.definition", journey))


def fact_from(message: interaction_pb2.InteractionFacts) -> Fact:
    """An interaction as this domain needs it. Names that come again and again are kept once."""
    return Fact(
        message.occurred_at,
        intern(message.source),
        message.sequence,
        bytes.fromhex(message.interaction_id),
        intern(message.channel),
        intern(message.traits.group) if message.HasField("traits") else "",
        intern(message.touchpoint),
        intern(message.kind),
        message.conversation_id,
        message.case_id,
        intern(message.campaign_id),
        intern(message.location_id),
        intern(message.matter),
        intern(message.outcome),
        tuple([Exchange(intern(e.question), e.answer, e.sealed) for e in message.exchanges])
        if message.exchanges
        else (),
        tuple([PromiseMade(p.promise_id, p.text, p.due_at) for p in message.promises]) if message.promises else (),
        tuple(message.promises_kept) if message.promises_kept else (),
        tuple([Score(f.kind, f.score, intern(f.aspect)) for f in message.feedback if f.HasField("score")])
        if message.feedback
        else (),
        message.attributes,
        message.subject_type == interaction_pb2.SUBJECT_TYPE_STAFF,
    )


def noted(client_id: str, interaction: bytes, attribution_position: int, interaction_recorded_at: int) -> bytes:
    """A serialised InteractionNoted around the serialised facts, which are passed on as they came."""
    head = client_id.encode()
    rest = events_pb2.InteractionNoted(
        attribution_position=attribution_position, interaction_recorded_at=interaction_recorded_at
    ).SerializeToString()
    return b"\x0a" + _varint(len(head)) + head + b"\x12" + _varint(len(interaction)) + interaction + rest


def _varint(number: int) -> bytes:
    if number < 0x80:
        return bytes((number,))
    parts = bytearray()
    while number >= 0x80:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)


def item_of(payload: bytes, occurred_at: int) -> FeedbackItem:
    """The item of a FeedbackNoted."""
    message = events_pb2.FeedbackNoted.FromString(payload)
    fact = message.fact
    return FeedbackItem(
        message.feedback_id,
        message.interaction_id,
        occurred_at,
        fact.kind,
        fact.score if fact.HasField("score") else None,
        fact.aspect,
        tuple(message.topics),
        message.feedback_position,
    )


def case_of(payload: bytes, occurred_at: int, event_id: str) -> Case:
    """The state of a CaseNoted. It stands on the feedback event that caused it."""
    message = events_pb2.CaseNoted.FromString(payload)
    return Case(
        message.case_id,
        message.department,
        message.topic,
        message.state,
        message.due_at,
        occurred_at,
        message.feedback_position,
        event_id,
    )


_ASIDE: Final[Mapping[str, type[_OfClient]]] = {
    FEEDBACK_NOTED: events_pb2.FeedbackNoted,
    FEEDBACK_WITHDRAWN: events_pb2.FeedbackWithdrawn,
    CASE_NOTED: events_pb2.CaseNoted,
    HANDOFF_OFFERED: events_pb2.HandoffOffered,
    HANDOFF_ACCEPTED: events_pb2.HandoffAccepted,
    CONSENT_NOTED: events_pb2.ConsentNoted,
}


def subject_of(event: Recorded) -> str:
    """Whose stream an event stands in; empty for a definition."""
    kind = _OF_CLIENTS.get(event.type)
    return "" if kind is None else kind.FromString(event.payload).client_id


def client_of(event: Recorded) -> str | None:
    """Whose record an event that stands beside the interactions belongs to, None where it is no such event."""
    kind = _ASIDE.get(event.type)
    return None if kind is None else kind.FromString(event.payload).client_id


_ABOUT: Final[Mapping[str, type[_OfInteraction]]] = {
    INTERACTION_WITHDRAWN: events_pb2.InteractionWithdrawn,
    FEEDBACK_NOTED: events_pb2.FeedbackNoted,
    _PACKAGE + "JourneyStarted": events_pb2.JourneyStarted,
    _PACKAGE + "StageReached": events_pb2.StageReached,
    _PACKAGE + "ChannelSwitched": events_pb2.ChannelSwitched,
    _PACKAGE + "JourneyCompleted": events_pb2.JourneyCompleted,
}


_JOURNEYS: Final[Mapping[str, type[_OfJourney]]] = {
    _PACKAGE + kind.DESCRIPTOR.name: kind
    for kind in (
        events_pb2.JourneyStarted,
        events_pb2.StageReached,
        events_pb2.ChannelSwitched,
        events_pb2.JourneyCompleted,
        events_pb2.JourneyAbandoned,
    )
}


_OF_CLIENTS: Final[Mapping[str, type[_OfClients]]] = {
    **_ASIDE,
    **_JOURNEYS,
    INTERACTION_NOTED: events_pb2.InteractionNoted,
    INTERACTION_WITHDRAWN: events_pb2.InteractionWithdrawn,
    TRANSITION_RETRACTED: events_pb2.TransitionRetracted,
    CLIENT_DROPPED: events_pb2.ClientDropped,
}


def interactions_of(event: Recorded) -> frozenset[str]:
    """The interactions that a logged event speaks of."""
    if event.type == INTERACTION_NOTED:
        return frozenset({events_pb2.InteractionNoted.FromString(event.payload).interaction.interaction_id})
    if event.type == _PACKAGE + "JourneyAbandoned":
        return frozenset({events_pb2.JourneyAbandoned.FromString(event.payload).last_interaction_id})
    kind = _ABOUT.get(event.type)
    return frozenset() if kind is None else frozenset({kind.FromString(event.payload).interaction_id})


def journey_of(event: Recorded) -> str:
    """The journey that a transition speaks of; empty where none spans it."""
    return _JOURNEYS[event.type].FromString(event.payload).journey_id


def consent_noted(client_id: str, consents: Consents, identity_position: int) -> bytes:
    """A serialised ConsentNoted."""
    return events_pb2.ConsentNoted(
        client_id=client_id,
        words=[consent_pb2.ConsentWord(**word._asdict()) for word in consents.words],
        identity_position=identity_position,
    ).SerializeToString()


def consents_of(payload: bytes) -> Consents:
    """What a ConsentNoted says that holds."""
    return Consents.of(
        Consent(word.purpose, word.scope, word.granted, word.at, word.source, word.event_id)
        for word in events_pb2.ConsentNoted.FromString(payload).words
    )


def handoff_from(event: Recorded) -> Handoff:
    """The hand-off of a HandoffOffered."""
    message = events_pb2.HandoffOffered.FromString(event.payload)
    return Handoff(
        message.handoff_id,
        message.from_channel,
        message.to_channel,
        message.note,
        message.expires_at,
        message.journey_id,
        event.occurred_at,
        event.event_id.hex(),
    )


def transition_payload(client_id: str, transition: Transition) -> tuple[str, bytes]:
    """Type and serialised message of a transition."""
    name, write = _WRITERS[type(transition)]
    return name, write(client_id, transition).SerializeToString()


def _started(client_id: str, t: JourneyStarted) -> Message:
    return events_pb2.JourneyStarted(
        client_id=client_id,
        journey_id=t.journey_id,
        journey=t.journey,
        definition_version=t.definition_version,
        stage=t.stage,
        interaction_id=t.interaction_id,
        channel=t.channel,
        matter=t.matter,
    )


def _reached(client_id: str, t: StageReached) -> Message:
    return events_pb2.StageReached(
        client_id=client_id,
        journey_id=t.journey_id,
        journey=t.journey,
        stage=t.stage,
        from_stage=t.from_stage,
        interaction_id=t.interaction_id,
        channel=t.channel,
        loop=t.loop,
    )


def _switched(client_id: str, t: ChannelSwitched) -> Message:
    return events_pb2.ChannelSwitched(
        client_id=client_id,
        journey_id=t.journey_id,
        from_channel=t.from_channel,
        to_channel=t.to_channel,
        interaction_id=t.interaction_id,
        from_interaction_id=t.from_interaction_id,
        gap=t.gap,
    )


def _completed(client_id: str, t: JourneyCompleted) -> Message:
    return events_pb2.JourneyCompleted(
        client_id=client_id,
        journey_id=t.journey_id,
        journey=t.journey,
        stage=t.stage,
        interaction_id=t.interaction_id,
        duration=t.duration,
        channels=t.channels,
    )


def _abandoned(client_id: str, t: JourneyAbandoned) -> Message:
    return events_pb2.JourneyAbandoned(
        client_id=client_id,
        journey_id=t.journey_id,
        journey=t.journey,
        stage=t.stage,
        last_interaction_id=t.interaction_id,
        channels=t.channels,
    )


_WRITERS: Final[Mapping[type, tuple[str, Callable[..., Message]]]] = {
    JourneyStarted: (_PACKAGE + "JourneyStarted", _started),
    StageReached: (_PACKAGE + "StageReached", _reached),
    ChannelSwitched: (_PACKAGE + "ChannelSwitched", _switched),
    JourneyCompleted: (_PACKAGE + "JourneyCompleted", _completed),
    JourneyAbandoned: (_PACKAGE + "JourneyAbandoned", _abandoned),
}


def definition_from(message: definitions_pb2.JourneyDefinition) -> JourneyDefinition:
    """A definition as this domain needs it; what is unspecified gets its default.

    Raises: InvalidError (DEFINITION_INVALID) where the matter key is none of the contract's.
    """
    if message.matter_key not in _MATTER_KEYS:
        raise InvalidError.of(
            Violation("definition.matter_key", "is one of the listed", "use none, case, ...", "DEFINITION_INVALID")
        )
    return JourneyDefinition(
        message.journey,
        message.version,
        message.name,
        message.owner,
        tuple(
            Stage(stage.stage, stage.name, tuple(map(_match_from, stage.matches)), stage.entry)
            for stage in message.stages
        ),
        tuple(message.goal_stages),
        message.timeout,
        MatterKey(message.matter_key or MatterKey.NONE),
        tuple(sorted(message.next_steps.items())),
    )


_MATTER_KEYS: Final = frozenset({0, *(int(key) for key in MatterKey)})


def _match_from(message: definitions_pb2.Match) -> Match:
    return Match(
        frozenset(message.channels),
        frozenset(message.channel_groups),
        frozenset(message.kinds),
        frozenset(message.touchpoints),
        frozenset(message.outcomes),
        frozenset(message.matters),
        tuple(sorted(message.attributes.items())),
    )


def definition_message(definition: JourneyDefinition) -> definitions_pb2.JourneyDefinition:
    """The same in the contract's words; sets in one order."""
    return definitions_pb2.JourneyDefinition(
        journey=definition.journey,
        version=definition.version,
        name=definition.name,
        owner=definition.owner,
        stages=[
            definitions_pb2.Stage(
                stage=stage.stage,
                name=stage.name,
                matches=[_match_message(match) for match in stage.matches],
                entry=stage.entry,
            )
            for stage in definition.stages
        ],
        goal_stages=definition.goal_stages,
        timeout=definition.timeout,
        matter_key=definitions_pb2.MatterKey.ValueType(definition.matter_key),
        next_steps=dict(definition.next_steps),
    )


def _match_message(match: Match) -> definitions_pb2.Match:
    return definitions_pb2.Match(
        channels=sorted(match.channels),
        channel_groups=sorted(match.groups),
        kinds=sorted(match.kinds),
        touchpoints=sorted(match.touchpoints),
        outcomes=sorted(match.outcomes),
        matters=sorted(match.matters),
        attributes=dict(match.attributes),
    )


def definition_state(definition: JourneyDefinition) -> dict[str, object]:
    """A definition as JSON values, for digests."""
    return {
        "journey": definition.journey,
        "version": definition.version,
        "name": definition.name,
        "owner": definition.owner,
        "stages": [
            {
                "stage": stage.stage,
                "name": stage.name,
                "entry": stage.entry,
                "matches": [
                    {
                        "channels": sorted(match.channels),
                        "groups": sorted(match.groups),
                        "kinds": sorted(match.kinds),
                        "touchpoints": sorted(match.touchpoints),
                        "outcomes": sorted(match.outcomes),
                        "matters": sorted(match.matters),
                        "attributes": dict(match.attributes),
                    }
                    for match in stage.matches
                ],
            }
            for stage in definition.stages
        ],
        "goal_stages": list(definition.goal_stages),
        "timeout": definition.timeout,
        "matter_key": definition.matter_key.name,
        "next_steps": dict(definition.next_steps),
    }
