"""Interactions that tests offer."""

from __future__ import annotations

from typing import Any

from ingestion.domain.deciding import Offer
from ingestion.domain.interaction import Identifier, Interaction, interaction_id_of
from ingestion.domain.registry import ChannelTraits, Registry, Source

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
    return Offer(interaction.source, interaction_id, bytes.fromhex(interaction_id), mac, interaction)


def registered(*channels: str, sources: tuple[str, ...] = ("till",)) -> Registry:
    """A registry of these channels, which these sources may report."""
    return Registry(
        {channel: ChannelTraits(channel) for channel in channels},
        {source: Source(source, source) for source in sources},
    )
