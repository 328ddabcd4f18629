"""Between the contract's messages and the domain. Hot: every event offered passes here twice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from ingestion.adapters.content import ContentMac
from ingestion.adapters.json_objects import canonical_object
from ingestion.application.messages import write_tally, write_traits
from ingestion.application.ports import (
    OfferReader,
    Presence,
    Quarantined,
    Received,
    SealedBox,
    UnreadableInteraction,
)
from ingestion.domain.accounting import Tally, Verdict
from ingestion.domain.deciding import Offer, refused
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
    interaction_id_of,
)
from ingestion.domain.registry import ChannelTraits, Source, Standing
from ingestion.domain.validation import is_name, is_source_interaction_id, json_object, validate
from throughline.ingestion.v1 import events_pb2, interaction_pb2
from throughline_kernel import Violation

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
    attributes, personal_attributes = message.attributes, message.personal_attributes
    if attributes:
        attributes = json_object("attributes", attributes, canonical_object, broken)
    if personal_attributes:
        personal_attributes = json_object("personal_attributes", personal_attributes, canonical_object, broken)
    # Most events have few of what repeats: asking whether there is any costs less than going through none.
    return Interaction._make(
        (
            message.source,
            message.source_interaction_id,
            message.channel,
            message.touchpoint,
            message.kind,
            message.occurred_at,
            _identifiers(found) if (found := message.identifiers) else (),
            message.session_id,
            message.conversation_id,
            message.case_id,
            message.campaign_id,
            message.staff_id,
            message.location_id,
            message.matter,
            message.outcome,
            _money(message.value) if message.HasField("value") else None,
            _money(message.cost) if message.HasField("cost") else None,
            message.wait_time,
            message.handling_time,
            _exchanges(asked) if (asked := message.exchanges) else (),
            _promises(made) if (made := message.promises) else (),
            tuple(kept) if (kept := message.promises_kept) else (),
            attributes,
            personal_attributes,
            message.subject_type or _CLIENT,
            tuple([_feedback(each) for each in given]) if (given := message.feedback) else (),
            message.sequence,
        )
    )


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


def write_interaction(interaction: Interaction) -> bytes:
    """The whole of a valid interaction, serialised; `read_interaction` reads it back equal."""
    message = interaction_pb2.Interaction(
        source=interaction.source,
        source_interaction_id=interaction.source_interaction_id,
        channel=interaction.channel,
        touchpoint=interaction.touchpoint,
        kind=interaction.kind,
        occurred_at=interaction.occurred_at,
        session_id=interaction.session_id,
        conversation_id=interaction.conversation_id,
        case_id=interaction.case_id,
        campaign_id=interaction.campaign_id,
        staff_id=interaction.staff_id,
        location_id=interaction.location_id,
        matter=interaction.matter,
        outcome=interaction.outcome,
        wait_time=interaction.wait_time,
        handling_time=interaction.handling_time,
        promises_kept=interaction.promises_kept,
        attributes=interaction.attributes,
        personal_attributes=interaction.personal_attributes,
        subject_type=_SUBJECTS[interaction.subject_type],
        sequence=interaction.sequence,
        identifiers=[
            interaction_pb2.Identifier(type=type_, value=value, assurance=ASSURANCES[assurance])
            for type_, value, assurance in interaction.identifiers
        ],
        exchanges=[
            interaction_pb2.Exchange(question=question, answer=answer, sensitivity=_SENSITIVITIES[sensitivity])
            for question, answer, sensitivity in interaction.exchanges
        ],
        promises=[
            interaction_pb2.PromiseMade(promise_id=promise_id, text=text, due_at=due_at)
            for promise_id, text, due_at in interaction.promises
        ],
        feedback=[
            interaction_pb2.Feedback(
                kind=_FEEDBACK_KINDS[item.kind],
                score=item.score,
                scale_min=item.scale_min,
                scale_max=item.scale_max,
                verbatim=item.verbatim,
                topic=item.topic,
                aspect=item.aspect,
                solicited=item.solicited,
                weight_micros=item.weight_micros,
            )
            for item in interaction.feedback
        ],
    )
    if interaction.value is not None:
        message.value.micros, message.value.currency = interaction.value
    if interaction.cost is not None:
        message.cost.micros, message.cost.currency = interaction.cost
    return message.SerializeToString()


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
    interaction_id: str, interaction: Interaction, traits: bytes, presence: Presence
) -> bytes:
    """An InteractionFacts, serialised: everything of an interaction but its personal values."""
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
        persona_id=presence.persona_id,
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
    return facts.SerializeToString() + traits + presence.facts


class ContractReader:
    """Reads offers from `ingestion.v1.Interaction`: validates them and names them and their content."""

    def __init__(self, content_mac: ContentMac) -> None:
        self._mac = content_mac.of

    def offer(self, received: Received, now: int) -> Offer:
        """Reads one event as of `now`. Refuses nothing: violations stand in the offer."""
        if isinstance(received, UnreadableInteraction):
            return _refused(received.source, received.source_interaction_id, received.violations)
        violations: list[Violation] = []
        interaction = read_interaction(received, violations)
        violations += validate(interaction, now)
        source, source_interaction_id = interaction.source, interaction.source_interaction_id
        if violations:
            return _refused(source, source_interaction_id, tuple(violations))
        interaction_id = interaction_id_of(source, source_interaction_id)
        return Offer(source, interaction_id, bytes.fromhex(interaction_id), self._mac(interaction), interaction)

    def refused(self, received: Received, violations: tuple[Violation, ...]) -> Offer:
        """An event of a batch that is refused whole: only its name is read."""
        return _refused(received.source, received.source_interaction_id, violations)


def _refused(source: str, source_interaction_id: str, violations: tuple[Violation, ...]) -> Offer:
    if not is_name(source):
        # What cannot name a source is accounted under no name, all of it together.
        return refused("", violations)
    named = is_source_interaction_id(source_interaction_id)
    return refused(source, violations, interaction_id_of(source, source_interaction_id) if named else "")


class ContractCodec:
    """Writes `ingestion.v1` events, and reads what waits."""

    def __init__(self, reader: OfferReader) -> None:
        self._reader = reader

    def offer_again(self, whole: bytes, now: int) -> Offer:
        """Reads an interaction that was sealed whole, and validates it as of `now`."""
        return self._reader.offer(interaction_pb2.Interaction.FromString(whole), now)

    def traits(self, traits: ChannelTraits) -> bytes:
        """The channel's part of an InteractionFacts, serialised."""
        return interaction_pb2.InteractionFacts(traits=write_traits(traits)).SerializeToString()

    def recorded(self, offer: Offer, interaction: Interaction, traits: bytes, presence: Presence) -> bytes:
        """An InteractionRecorded; `traits` is what this codec wrote."""
        facts = write_facts(offer.interaction_id, interaction, traits, presence)
        return b"".join((_FACTS, _length(facts), facts, _personal(presence.sealed), _CONTENT_MAC, offer.content_mac))

    def conflicted(
        self, offer: Offer, interaction: Interaction, traits: bytes, presence: Presence, *, recorded_content_mac: bytes
    ) -> bytes:
        """An InteractionConflicted; `traits` is what this codec wrote, empty where the channel is not registered."""
        facts = write_facts(offer.interaction_id, interaction, traits, presence)
        # Facts, personal values and content MAC have the same numbers as in InteractionRecorded.
        rest = events_pb2.InteractionConflicted(
            content_mac=offer.content_mac, recorded_content_mac=recorded_content_mac
        ).SerializeToString()
        return b"".join((_FACTS, _length(facts), facts, _personal(presence.sealed), rest))

    def quarantined(self, offer: Offer, interaction: Interaction, standing: Standing, sealed: SealedBox) -> bytes:
        """An InteractionQuarantined."""
        return events_pb2.InteractionQuarantined(
            interaction_id=offer.interaction_id,
            source=interaction.source,
            source_interaction_id=interaction.source_interaction_id,
            channel=interaction.channel,
            reason=standing.reason,
            remedy=standing.remedy,
            offered=interaction_pb2.Sealed(key_id=sealed.key_id, box=sealed.box),
            content_mac=offer.content_mac,
            occurred_at=interaction.occurred_at,
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
# hold it against the messages themselves. Key ids and content MACs have 16 bytes, which stands in their tags.
_FACTS: Final = b"\x0a"
_PERSONAL: Final = b"\x12"
_CONTENT_MAC: Final = b"\x1a\x10"
_KEY_ID: Final = b"\x0a\x10"
_BOX: Final = b"\x12"


def _personal(sealed: SealedBox | None) -> bytes:
    if sealed is None:
        return b""
    key_id, box = sealed
    content = b"".join((_KEY_ID, key_id, _BOX, _length(box), box))
    return b"".join((_PERSONAL, _length(content), content))


def _length(part: bytes) -> bytes:
    """The part's length as a varint."""
    length = len(part)
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
