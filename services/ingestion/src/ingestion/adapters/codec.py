"""Between the contract's messages and the domain. Hot: every event offered passes here twice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from ingestion.adapters.json_objects import canonical_object
from ingestion.application.messages import write_tally, write_traits
from ingestion.application.ports import (
    Presence,
    Quarantined,
    SealedBox,
)
from ingestion.domain.accounting import Tally, Verdict
from ingestion.domain.deciding import Offer, Said
from ingestion.domain.interaction import (
    OWN_SCALE,
    WEIGHT_OF_ONE,
    Assurance,
    Exchange,
    Feedback,
    Identifier,
    Interaction,
    Money,
    PromiseMade,
    Sensitivity,
    SubjectType,
)
from ingestion.domain.registry import ChannelTraits, Source, Standing
from ingestion.domain.validation import json_object
from throughline.ingestion.v1 import events_pb2, interaction_pb2
from throughline_kernel import Violation
from throughline_privacy import KEY_ID_BYTES

_CLAIMED: Final = int(Assurance.CLAIMED)
_CLIENT: Final = int(SubjectType.CLIENT)
_UNMARKED: Final = int(Sensitivity.PERSONAL)
_OPERATIONAL: Final = int(Sensitivity.OPERATIONAL)

# The contract's enums are open, the domain's are not: what passed validation is in here.
ASSURANCES: Final[Mapping[int, interaction_pb2.Assurance.ValueType]] = {
    number: number for number in interaction_pb2.Assurance.values()
}
_SUBJECTS: Final[Mapping[int, interaction_pb2.SubjectType.ValueType]] = {
    number: number for number in interaction_pb2.SubjectType.values()
}
_SENSITIVITIES: Final[Mapping[int, interaction_pb2.Sensitivity.ValueType]] = {
    number: number for number in interaction_pb2.Sensitivity.values()
}
_FEEDBACK_KINDS: Final[Mapping[int, interaction_pb2.FeedbackKind.ValueType]] = {
    number: number for number in interaction_pb2.FeedbackKind.values()
}
SHAPES: Final[Mapping[int, interaction_pb2.IdentifierShape.ValueType]] = {
    number: number for number in interaction_pb2.IdentifierShape.values()
}
_VERDICTS: Final[Mapping[int, events_pb2.Verdict.ValueType]] = {
    number: number for number in events_pb2.Verdict.values()
}

_NO_SCALE: Final = (0, 0)


def read_interaction(message: interaction_pb2.Interaction, broken: list[Violation]) -> Interaction:
    """The message with defaults filled in and JSON objects in canonical form.

    Adds to `broken` what is wrong with those; all else stays as it was sent, for the domain to judge.
    """
    # Only the fields that are set are looked at, in most events a third; the domain has them in the contract's order.
    values = _UNSET.copy()
    for field, value in message.ListFields():
        number = field.number
        read = _STRUCTURED.get(number)
        values[number - 1] = value if read is None else read(value)
    for place in _JSON_OBJECTS:
        if values[place]:
            values[place] = json_object(Interaction._fields[place], values[place], canonical_object, broken)
    return Interaction._make(values)


def _identifiers(messages: Iterable[interaction_pb2.Identifier]) -> tuple[Identifier, ...]:
    make = Identifier._make
    return tuple([make((each.type, each.value, each.assurance or _CLAIMED)) for each in messages])


def _exchanges(messages: Iterable[interaction_pb2.Exchange]) -> tuple[Exchange, ...]:
    return tuple([Exchange(each.question, each.answer, each.sensitivity or _UNMARKED) for each in messages])


def _promises(messages: Iterable[interaction_pb2.PromiseMade]) -> tuple[PromiseMade, ...]:
    return tuple([PromiseMade(each.promise_id, each.text, each.due_at) for each in messages])


def _money(message: interaction_pb2.Money) -> Money:
    return Money(message.micros, message.currency)


def _feedback(message: interaction_pb2.Feedback) -> Feedback:
    scale = message.scale_min, message.scale_max
    if scale == _NO_SCALE:
        scale = OWN_SCALE.get(message.kind, _NO_SCALE)
    return Feedback(
        message.kind,
        message.score if message.HasField("score") else None,
        *scale,
        message.verbatim,
        message.topic,
        message.aspect,
        message.solicited,
        message.weight_micros or WEIGHT_OF_ONE,
    )


def _feedbacks(messages: Iterable[interaction_pb2.Feedback]) -> tuple[Feedback, ...]:
    return tuple([_feedback(each) for each in messages])


# What a field is where it is not set, by its place; and how those are read that are no plain values, by number.
_UNSET: Final[list[Any]] = [
    {
        "occurred_at": 0,
        "identifiers": (),
        "value": None,
        "cost": None,
        "wait_time": 0,
        "handling_time": 0,
        "exchanges": (),
        "promises": (),
        "promises_kept": (),
        "attributes": b"",
        "personal_attributes": b"",
        "subject_type": _CLIENT,
        "feedback": (),
        "sequence": 0,
    }.get(name, "")
    for name in Interaction._fields
]
_STRUCTURED: Final[Mapping[int, Callable[[Any], Any]]] = {
    Interaction._fields.index(name) + 1: read
    for name, read in {
        "identifiers": _identifiers,
        "value": _money,
        "cost": _money,
        "exchanges": _exchanges,
        "promises": _promises,
        "promises_kept": tuple[str, ...],
        "feedback": _feedbacks,
    }.items()
}
_JSON_OBJECTS: Final = (Interaction._fields.index("attributes"), Interaction._fields.index("personal_attributes"))


def write_personal(interaction: Interaction, identifiers: bytes) -> bytes:
    """A PersonalValues, serialised; nothing where the interaction has nothing personal.

    `identifiers` is their part of it, serialised: parts of a message put together are the message.
    """
    verbatims = [item.verbatim for item in interaction.feedback]
    exchanges = [
        interaction_pb2.Exchange(question=question, answer=answer, sensitivity=_SENSITIVITIES[sensitivity])
        for question, answer, sensitivity in interaction.exchanges
        if sensitivity != _OPERATIONAL
    ]
    said = any(verbatims)
    if not (said or exchanges or interaction.personal_attributes or interaction.session_id):
        return identifiers
    rest = interaction_pb2.PersonalValues(
        exchanges=exchanges,
        verbatims=verbatims if said else (),
        personal_attributes=interaction.personal_attributes,
        session_id=interaction.session_id,
    )
    return identifiers + rest.SerializeToString()


def write_facts(  # noqa: C901, PLR0912 -- one line per field that is set; fields at their default cost nothing
    interaction_id: str, interaction: Interaction
) -> bytes:
    """An InteractionFacts, serialised: everything of an interaction but its personal values.

    What follows from its identifiers, the channel's traits and the persona are other parts of the message.
    """
    (
        source,
        source_interaction_id,
        channel,
        touchpoint,
        kind,
        occurred_at,
        _,
        _,
        conversation_id,
        case_id,
        campaign_id,
        staff_id,
        location_id,
        matter,
        outcome,
        value,
        cost,
        wait_time,
        handling_time,
        exchanges,
        promises,
        promises_kept,
        attributes,
        _,
        subject_type,
        feedback,
        sequence,
    ) = interaction
    facts = interaction_pb2.InteractionFacts(
        interaction_id=interaction_id,
        source=source,
        source_interaction_id=source_interaction_id,
        channel=channel,
        kind=kind,
        occurred_at=occurred_at,
        subject_type=_SUBJECTS[subject_type],
    )
    if touchpoint:
        facts.touchpoint = touchpoint
    if conversation_id:
        facts.conversation_id = conversation_id
    if case_id:
        facts.case_id = case_id
    if campaign_id:
        facts.campaign_id = campaign_id
    if staff_id:
        facts.staff_id = staff_id
    if location_id:
        facts.location_id = location_id
    if matter:
        facts.matter = matter
    if outcome:
        facts.outcome = outcome
    if value is not None:
        amount = facts.value
        amount.micros, amount.currency = value
    if cost is not None:
        amount = facts.cost
        amount.micros, amount.currency = cost
    if wait_time:
        facts.wait_time = wait_time
    if handling_time:
        facts.handling_time = handling_time
    if attributes:
        facts.attributes = attributes
    if sequence:
        facts.sequence = sequence
    for question, answer, sensitivity in exchanges:
        if sensitivity == _OPERATIONAL:
            facts.exchanges.add(question=question, answer=answer)
        else:
            facts.exchanges.add(question=question, sealed=True)
    for promise_id, text, due_at in promises:
        facts.promises.add(promise_id=promise_id, text=text, due_at=due_at)
    if promises_kept:
        facts.promises_kept.extend(promises_kept)
    for item in feedback:
        facts.feedback.add(
            kind=_FEEDBACK_KINDS[item.kind],
            score=item.score,
            scale_min=item.scale_min,
            scale_max=item.scale_max,
            has_verbatim=bool(item.verbatim),
            topic=item.topic,
            aspect=item.aspect,
            solicited=item.solicited,
            weight_micros=item.weight_micros,
        )
    return facts.SerializeToString()


class ContractCodec:
    """Writes `ingestion.v1` events, and reads what waits."""

    def traits(self, traits: ChannelTraits) -> bytes:
        """The channel's part of an InteractionFacts, serialised."""
        return interaction_pb2.InteractionFacts(traits=write_traits(traits)).SerializeToString()

    def recorded(self, offer: Offer, said: Said, traits: bytes, presence: Presence) -> bytes:
        """An InteractionRecorded; `traits` is what this codec wrote."""
        return b"".join((*_facts(said, traits, presence), _CONTENT_MAC, offer.content_mac))

    def conflicted(
        self, offer: Offer, said: Said, traits: bytes, presence: Presence, *, recorded_content_mac: bytes
    ) -> bytes:
        """An InteractionConflicted; `traits` is what this codec wrote, empty where the channel is not registered."""
        # Facts, personal values and content MAC have the same numbers as in InteractionRecorded.
        rest = events_pb2.InteractionConflicted(
            content_mac=offer.content_mac, recorded_content_mac=recorded_content_mac
        ).SerializeToString()
        return b"".join((*_facts(said, traits, presence), rest))

    def quarantined(self, offer: Offer, said: Said, standing: Standing, sealed: SealedBox) -> bytes:
        """An InteractionQuarantined."""
        return events_pb2.InteractionQuarantined(
            interaction_id=offer.interaction_id,
            source=offer.source,
            source_interaction_id=interaction_pb2.Interaction.FromString(said.whole).source_interaction_id,
            channel=said.channel,
            reason=standing.reason,
            remedy=standing.remedy,
            offered=interaction_pb2.Sealed(key_id=sealed.key_id, box=sealed.box),
            content_mac=offer.content_mac,
            occurred_at=said.occurred_at,
        ).SerializeToString()

    def read_quarantined(self, payload: bytes, recorded_at: int, position: int) -> Quarantined:
        """What an InteractionQuarantined says, once it stands in the log."""
        event = events_pb2.InteractionQuarantined.FromString(payload)
        return Quarantined(
            event.interaction_id,
            event.source,
            event.source_interaction_id,
            event.channel,
            event.reason,
            event.remedy,
            event.occurred_at,
            event.content_mac,
            SealedBox(event.offered.key_id, event.offered.box),
            recorded_at,
            position,
            1,
        )

    def redriven(self, waiting: Quarantined, verdict: Verdict) -> bytes:
        """A QuarantineRedriven."""
        return events_pb2.QuarantineRedriven(
            interaction_id=waiting.interaction_id,
            verdict=_VERDICTS[verdict],
            content_mac=waiting.content_mac,
            source=waiting.source,
            offers=waiting.offers,
        ).SerializeToString()

    def tallied(self, tallies: Mapping[str, Tally], again: Mapping[bytes, int]) -> bytes:
        """An OffersTallied; `again` counts by interaction id and content MAC, 32 bytes."""
        return events_pb2.OffersTallied(
            tallies=[write_tally(source, tallies[source]) for source in sorted(tallies)],
            quarantined_again=[
                events_pb2.QuarantinedAgain(
                    interaction_id=member[:16].hex(), content_mac=member[16:], offers=again[member]
                )
                for member in sorted(again)
            ],
        ).SerializeToString()

    def channel_registered(self, channel: str, traits: ChannelTraits) -> bytes:
        """A ChannelRegistered."""
        return events_pb2.ChannelRegistered(channel=channel, traits=write_traits(traits)).SerializeToString()

    def source_registered(self, source: Source) -> bytes:
        """A SourceRegistered."""
        return events_pb2.SourceRegistered(
            source=source.source, name=source.name, channels=source.channels
        ).SerializeToString()


# Most of what is recorded is put together by hand from parts that are serialised already: tag, length, bytes. Tests
# hold it against the messages themselves. Personas, key ids and content MACs have 16 bytes, which stands in their tags.
_FACTS: Final = b"\x0a"
_PERSONAL: Final = b"\x12"
_PERSONA: Final = b"\x52\x10"
_CONTENT_MAC: Final = b"\x1a\x10"
_KEY_ID: Final = b"\x0a\x10"
_BOX: Final = b"\x12"


def _facts(said: Said, traits: bytes, presence: Presence) -> tuple[bytes, ...]:
    """The parts of facts and personal values: their numbers are the same in all events that have them."""
    facts, sealed = said.facts, presence.sealed
    length = _length(len(facts) + len(traits) + len(_PERSONA) + KEY_ID_BYTES)
    if sealed is None:
        return _FACTS, length, facts, traits, _PERSONA, presence.persona_id
    key_id, box = sealed
    boxed = _length(len(box))
    personal = _length(len(_KEY_ID) + KEY_ID_BYTES + len(_BOX) + len(boxed) + len(box))
    return (
        *(_FACTS, length, facts, traits, _PERSONA, presence.persona_id),
        *(_PERSONAL, personal, _KEY_ID, key_id, _BOX, boxed, box),
    )


def _length(length: int) -> bytes:
    """A part's length as a varint."""
    return _LENGTHS[length] if length < _COMMON else _varint(length)


def _varint(length: int) -> bytes:
    encoded = bytearray()
    while length > 0x7F:
        encoded.append(length & 0x7F | 0x80)
        length >>= 7
    encoded.append(length)
    return bytes(encoded)


_COMMON: Final = 2_048
_LENGTHS: Final = [_varint(length) for length in range(_COMMON)]
