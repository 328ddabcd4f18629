"""The subjects that a fact counts for."""

from __future__ import annotations

from enum import IntEnum
from functools import lru_cache

from scoring.domain.facts import ASSISTED, CaseItem, Contact, FeedbackItem, JourneyItem

Subject = tuple[int, str]


class Kind(IntEnum):
    """Kinds of subject, by their numbers in the contract; CREDIT is the board of attribution, internal."""

    CREDIT = 0
    ALL = 1
    CHANNEL = 2
    TOUCHPOINT = 3
    JOURNEY = 4
    DEPARTMENT = 5
    CLIENT = 6
    ASSISTANCE = 7
    CAMPAIGN = 8
    SOURCE = 9


ALL: Subject = (1, "")


class Dims:
    """The subjects that one fact counts for. Compared by identity: two of one content only cost an addition more."""

    __slots__ = ("subjects",)

    def __init__(self, subjects: tuple[Subject, ...]) -> None:
        self.subjects = tuple((kind, plain(subject)) for kind, subject in subjects)


def plain(text: str) -> str:
    """The text without NUL, which separates the parts of a counter's key."""
    return text.replace("\x00", "\ufffd") if "\x00" in text else text


@lru_cache(maxsize=65_536)
def single(kind: int, subject: str) -> Dims:
    """One subject alone."""
    return Dims(((kind, subject),))


@lru_cache(maxsize=65_536)
def _contact(channel: str, touchpoint: str, assisted: int, campaign: str, source: str) -> Dims:
    subjects: list[Subject] = [
        ALL,
        (Kind.CHANNEL.value, channel),
        (Kind.ASSISTANCE.value, "assisted" if assisted else "automated"),
        (Kind.SOURCE.value, source),
    ]
    if touchpoint:
        subjects.append((Kind.TOUCHPOINT.value, f"{channel}/{touchpoint}"))
    if campaign:
        subjects.append((Kind.CAMPAIGN.value, campaign))
    return Dims(tuple(subjects))


@lru_cache(maxsize=65_536)
def _feedback(channel: str, touchpoint: str, assisted: int, source: str, departments: tuple[str, ...]) -> Dims:
    subjects: list[Subject] = [ALL]
    if channel:
        subjects.append((Kind.CHANNEL.value, channel))
        if touchpoint:
            subjects.append((Kind.TOUCHPOINT.value, f"{channel}/{touchpoint}"))
    if assisted >= 0:
        subjects.append((Kind.ASSISTANCE.value, "assisted" if assisted else "automated"))
    if source:
        subjects.append((Kind.SOURCE.value, source))
    subjects.extend((Kind.DEPARTMENT.value, department) for department in departments)
    return Dims(tuple(subjects))


@lru_cache(maxsize=65_536)
def _case(channel: str, department: str) -> Dims:
    subjects: list[Subject] = [ALL]
    if channel:
        subjects.append((Kind.CHANNEL.value, channel))
    if department:
        subjects.append((Kind.DEPARTMENT.value, department))
    return Dims(tuple(subjects))


@lru_cache(maxsize=4_096)
def _journey(journey: str) -> Dims:
    return Dims((ALL, (Kind.JOURNEY.value, journey)))


def of_contact(contact: Contact) -> Dims:
    """Everything, channel, touchpoint, assistance, campaign, source; journeys are added where it lies on one."""
    return _contact(contact.channel, contact.touchpoint, contact.flags & ASSISTED, contact.campaign, contact.source)


def of_feedback(item: FeedbackItem) -> Dims:
    """Everything, channel, touchpoint, assistance, source and each owning department."""
    return _feedback(item.channel, item.touchpoint, item.assisted, item.source, item.departments)


def of_case(case: CaseItem) -> Dims:
    """Everything, channel and department."""
    return _case(case.channel, case.department)


def of_journey(journey: JourneyItem) -> Dims:
    """Everything and the journey."""
    return _journey(journey.journey)
