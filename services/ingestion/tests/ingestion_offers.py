"""Interactions that tests offer."""

from __future__ import annotations

from typing import Any

from ingestion.domain.deciding import Offer, Said
from ingestion.domain.interaction import Identifier, Interaction, interaction_id_of
from ingestion.domain.registry import ChannelTraits, Registry, Source
from throughline.ingestion.v1 import interaction_pb2

NOW = 1_760_000_000_000_000
DAY = 86_400_000_000

NOTHING = Interaction(
    source="",
    source_interaction_id="",
    channel="",
    touchpoint="",
    kind="",
    occurred_at=0,
    identifiers=(),
    session_id="",
    conversation_id="",
    case_id="",
    campaign_id="",
    staff_id="",
    location_id="",
    matter="",
    outcome="",
    value=None,
    cost=None,
    wait_time=0,
    handling_time=0,
    exchanges=(),
    promises=(),
    promises_kept=(),
    attributes=b"",
    personal_attributes=b"",
    subject_type=1,
    feedback=(),
    sequence=0,
)
PURCHASE = NOTHING._replace(
    source="till",
    source_interaction_id="receipt-1",
    channel="store",
    kind="purchase",
    occurred_at=NOW - DAY,
    identifiers=(Identifier("loyalty_card", "4711", 2),),
)


def offered(interaction: Interaction = PURCHASE, content: str = "a", **changes: Any) -> Offer:
    """An offer of the interaction, whose content is told apart by one letter."""
    interaction = interaction._replace(**changes)
    interaction_id = interaction_id_of(interaction.source, interaction.source_interaction_id)
    mac = content.encode().ljust(16, b".")
    said = Said(
        interaction.channel, interaction.occurred_at, b"p" * 16, b"", b"", sent(interaction).SerializeToString()
    )
    return Offer(interaction.source, interaction_id, bytes.fromhex(interaction_id), mac, said)


def registered(*channels: str, sources: tuple[str, ...] = ("till",)) -> Registry:
    """A registry of these channels, which these sources may report."""
    return Registry(
        {channel: ChannelTraits(channel) for channel in channels},
        {source: Source(source, source) for source in sources},
    )


def _number(of: int) -> Any:
    """A number of the contract's enums, which are open."""
    return of


def sent(interaction: Interaction) -> interaction_pb2.Interaction:
    """The message in which a source reports the interaction; read, it is equal."""
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
        subject_type=_number(interaction.subject_type),
        sequence=interaction.sequence,
        identifiers=[
            interaction_pb2.Identifier(
                type=type_,
                value=value,
                assurance=_number(assurance),
            )
            for type_, value, assurance in interaction.identifiers
        ],
        exchanges=[
            interaction_pb2.Exchange(
                question=question,
                answer=answer,
                sensitivity=_number(sensitivity),
            )
            for question, answer, sensitivity in interaction.exchanges
        ],
        promises=[
            interaction_pb2.PromiseMade(promise_id=promise_id, text=text, due_at=due_at)
            for promise_id, text, due_at in interaction.promises
        ],
        feedback=[
            interaction_pb2.Feedback(
                kind=_number(item.kind),
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
    return message
