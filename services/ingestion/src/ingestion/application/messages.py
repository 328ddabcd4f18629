"""Small values in the words of the contract, as events and as answers have them."""

from __future__ import annotations

from ingestion.domain.accounting import Tally
from ingestion.domain.registry import ChannelTraits
from throughline.eventlog.v1 import eventlog_pb2
from throughline.ingestion.v1 import interaction_pb2


def write_tally(source: str, tally: Tally) -> eventlog_pb2.Tally:
    """One source's line of the account."""
    return eventlog_pb2.Tally(
        source=source,
        offered=tally.offered,
        recorded=tally.recorded,
        duplicate=tally.duplicate,
        conflict=tally.conflict,
        quarantined=tally.quarantined,
        refused=tally.refused,
    )


def write_traits(traits: ChannelTraits) -> interaction_pb2.ChannelTraits:
    """A channel's traits."""
    return interaction_pb2.ChannelTraits(
        name=traits.name, physical=traits.physical, assisted=traits.assisted, group=traits.group
    )
