"""What scoring knows of a client: contacts, answers, cases and journeys, as small immutable records."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

ASSISTED = 1
STAFF = 2
IDENTIFIED = 4


class FeedbackKind(IntEnum):
    """The kinds of feedback, by their numbers in the contract."""

    NPS = 1
    CSAT = 2
    CES = 3
    REVIEW = 4
    VERBATIM = 5
    COMPLAINT = 6


class Contact(NamedTuple):
    """One interaction. The first four fields are its canonical order; times are microseconds, amounts millionths."""

    at: int
    source: str
    sequence: int
    interaction_id: str
    channel: str
    touchpoint: str
    kind: str
    campaign: str
    case_id: str
    matter: str
    outcome: str
    value: int
    # Empty where the contact carries no value.
    value_currency: str
    cost: int
    cost_currency: str
    # 0 where not measured.
    wait: int
    handling: int
    # ASSISTED, STAFF, IDENTIFIED, added up.
    flags: int
    # A JSON object, or empty.
    attributes: bytes


class FeedbackItem(NamedTuple):
    """One answer, rating or remark, with the departments that own it."""

    at: int
    feedback_id: str
    interaction_id: str
    source: str
    channel: str
    touchpoint: str
    # 1 assisted, 0 automated, -1 not known.
    assisted: int
    kind: int
    score: int | None
    scale_min: int
    scale_max: int
    # Empty for the overall question.
    aspect: str
    weight: int
    departments: tuple[str, ...]


class CaseItem(NamedTuple):
    """A case as it stands; a time is 0 where it did not happen."""

    case_id: str
    department: str
    channel: str
    state: str
    opened_at: int
    acknowledged_at: int
    resolved_at: int
    opened_event: str
    acknowledged_event: str
    resolved_event: str


class JourneyItem(NamedTuple):
    """A journey as it stands, with the interactions on it."""

    journey_id: str
    journey: str
    # started, completed, abandoned.
    state: str
    started_at: int
    ended_at: int
    interaction_ids: tuple[str, ...]
    channels: tuple[str, ...]
    started_event: str
    ended_event: str
