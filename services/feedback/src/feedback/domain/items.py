"""What a client said, as far as sorting and counting need it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

Order = tuple[int, int, str, int, str, int]
"""Place in a matter's history: (when, item before act, source, sequence or when, id, entry)."""


class Kind(IntEnum):
    """What was asked, numbered as in the contract."""

    UNSPECIFIED = 0
    NPS = 1
    CSAT = 2
    CES = 3
    REVIEW = 4
    VERBATIM = 5
    COMPLAINT = 6


OWN_SCALES: Final[Mapping[Kind, tuple[int, int]]] = {
    Kind.UNSPECIFIED: (1, 5),
    Kind.NPS: (0, 10),
    Kind.CSAT: (1, 5),
    Kind.CES: (1, 7),
    Kind.REVIEW: (1, 5),
    Kind.VERBATIM: (1, 5),
    Kind.COMPLAINT: (1, 5),
}
"""The ends of the scale that a score is on where the item names none."""


def scale_of(kind: Kind, scale_min: int, scale_max: int) -> tuple[int, int]:
    """The ends of the scale a score is on: both 0 means the kind's own."""
    return (scale_min, scale_max) if scale_min or scale_max else OWN_SCALES[kind]


@dataclass(frozen=True, slots=True)
class Remark:
    """One item as routes look at it. `words` are the client's own and never leave the process."""

    kind: Kind
    score: int | None = None
    scale_min: int = 0
    scale_max: int = 0
    channel: str = ""
    touchpoint: str = ""
    matter: str = ""
    topic: str = ""
    aspect: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict[str, str])
    words: str = field(default="", repr=False)

    def score_at_most(self, limit: int) -> bool:
        """Whether the score, carried over to the kind's own scale, is at most the limit; never without a score."""
        return self.score is not None and self._compared_with(limit) <= 0

    def score_at_least(self, limit: int) -> bool:
        """Whether the score, carried over to the kind's own scale, is at least the limit; never without a score."""
        return self.score is not None and self._compared_with(limit) >= 0

    def _compared_with(self, limit: int) -> int:
        """Sign of (score on the own scale - limit), in integers: a third of a scale is a third for ever."""
        low, high = scale_of(self.kind, self.scale_min, self.scale_max)
        own_low, own_high = OWN_SCALES[self.kind]
        return ((self.score or 0) - low) * (own_high - own_low) - (limit - own_low) * (high - low)


@dataclass(frozen=True, slots=True)
class Assignment:
    """A department that owns an item, and why. `opens` where it opens or joins a case."""

    department: str
    topic: str
    route: str
    because: str
    opens: bool


@dataclass(frozen=True, slots=True)
class Item:
    """One item of feedback at its place in its client's history."""

    feedback_id: str
    order: Order
    channel: str
    routes_version: int
    assignments: tuple[Assignment, ...]

    @property
    def at(self) -> int:
        """When it was said: microseconds since epoch."""
        return self.order[0]


def item_order(
    occurred_at: int, source: str, sequence: int, *, interaction_id: str, feedback_id: str, entry: int
) -> Order:
    """The canonical order, with entries of one interaction in their own order; direct items by their own id."""
    return (occurred_at, 0, source, sequence, interaction_id or feedback_id, entry)
