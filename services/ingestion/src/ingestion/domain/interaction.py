"""An interaction as a channel system reports it, with every default filled in.

Named tuples, not dataclasses: one is made for every event offered, and a tuple takes a third of the time and can be
serialised as it stands.
"""

from __future__ import annotations

from enum import IntEnum
from functools import lru_cache
from hashlib import blake2b
from typing import Final, NamedTuple


class Assurance(IntEnum):
    """How sure the source is of an identifier."""

    CLAIMED = 1
    VERIFIED = 2


class SubjectType(IntEnum):
    """Whose interaction it is."""

    CLIENT = 1
    STAFF = 2


class Sensitivity(IntEnum):
    """Whether a value may leave the sealed part of an event."""

    PERSONAL = 1
    OPERATIONAL = 2


class FeedbackKind(IntEnum):
    """What kind of answer, rating or remark it is."""

    NPS = 1
    CSAT = 2
    CES = 3
    REVIEW = 4
    VERBATIM = 5
    COMPLAINT = 6


# The scale of a kind where none is given. Words have no scale of their own.
OWN_SCALE: Final[dict[int, tuple[int, int]]] = {
    FeedbackKind.NPS: (0, 10),
    FeedbackKind.CSAT: (1, 5),
    FeedbackKind.CES: (1, 7),
    FeedbackKind.REVIEW: (1, 5),
}

WEIGHT_OF_ONE: Final = 1_000_000


class Identifier(NamedTuple):
    """An identifier as the channel saw it; `assurance` is an Assurance."""

    type: str
    value: str
    assurance: int


class Money(NamedTuple):
    """Millionths of the currency's unit."""

    micros: int
    currency: str


class Exchange(NamedTuple):
    """What the client was asked and what they said; `sensitivity` is a Sensitivity."""

    question: str
    answer: str
    sensitivity: int


class PromiseMade(NamedTuple):
    """Something the organisation said that it would do; `due_at` in microseconds, 0 where no time was named."""

    promise_id: str
    text: str
    due_at: int


class Feedback(NamedTuple):
    """One answer, rating or remark; `kind` is a FeedbackKind, the scale is the kind's own where none was given."""

    kind: int
    score: int | None
    scale_min: int
    scale_max: int
    verbatim: str
    topic: str
    aspect: str
    solicited: bool
    weight_micros: int


class Interaction(NamedTuple):
    """What happened, in the order of the contract's fields. Times and durations in microseconds.

    The order is part of what content is compared by: new fields are added at the end, never between.
    """

    source: str
    source_interaction_id: str
    channel: str
    touchpoint: str
    kind: str
    occurred_at: int
    identifiers: tuple[Identifier, ...]
    session_id: str
    conversation_id: str
    case_id: str
    campaign_id: str
    staff_id: str
    location_id: str
    matter: str
    outcome: str
    value: Money | None
    cost: Money | None
    wait_time: int
    handling_time: int
    exchanges: tuple[Exchange, ...]
    promises: tuple[PromiseMade, ...]
    promises_kept: tuple[str, ...]
    attributes: bytes
    personal_attributes: bytes
    subject_type: int
    feedback: tuple[Feedback, ...]
    sequence: int


def interaction_id_of(source: str, source_interaction_id: str) -> str:
    """Names an interaction for ever: 32 hex digits, from the source and the source's own id alone.

    It is `hex_id("interaction", source, source_interaction_id)`; what the ids of a source begin with is hashed once.
    """
    hashed = _hashed_source(source).copy()
    raw = source_interaction_id.encode()
    hashed.update(len(raw).to_bytes(4, "big") + raw)
    return hashed.hexdigest()


@lru_cache(maxsize=1_024)
def _hashed_source(source: str) -> blake2b:
    hashed = blake2b(digest_size=16)
    for raw in (b"interaction", source.encode()):
        hashed.update(len(raw).to_bytes(4, "big") + raw)
    return hashed
