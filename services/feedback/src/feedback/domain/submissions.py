"""What may be submitted directly, and what is wrong with what may not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from feedback.domain.items import OWN_SCALES, Kind, scale_of
from throughline_kernel import InvalidError, Violation, hex_id, is_hex_id

MAX_NAME: Final = 64
MAX_TEXT: Final = 256
MAX_VERBATIM: Final = 65_536
MAX_ATTRIBUTES: Final = 64 * 1024
MAX_ATTRIBUTES_DEPTH: Final = 16
MAX_IDENTIFIERS: Final = 32
MAX_IDENTIFIER_VALUE: Final = 512
MAX_BY: Final = 200
MAX_RESOLUTION: Final = 4_096

DAY: Final = 86_400_000_000
# 1990-01-01T00:00:00Z. What claims to be older is a time in another unit, or none.
ANCIENT: Final = 631_152_000_000_000
MAX_AHEAD: Final = DAY

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_.-]*\Z")
_SNAKE: Final = re.compile(r"[a-z0-9][a-z0-9_]*\Z")
_STRING: Final = re.compile(rb'"(?:[^"\\]|\\.)*"')
_BRACKET: Final = re.compile(rb"[\[\]{}]")
_ASSURANCES: Final = range(3)


@dataclass(frozen=True, slots=True)
class Named:
    """An identifier in the clear, as the submitter gave it."""

    type: str
    value: str = field(repr=False)
    assurance: int = 0


@dataclass(frozen=True, slots=True)
class Submission:
    """One item as it is offered. Times in microseconds; `kind` as numbered in the contract; `attributes` is None where
    they are no JSON object.
    """

    source: str
    source_feedback_id: str
    channel: str
    touchpoint: str
    matter: str
    occurred_at: int
    kind: int
    score: int | None
    scale_min: int
    scale_max: int
    verbatim: str = field(repr=False)
    topic: str
    aspect: str
    solicited: bool
    weight_micros: int
    client_id: str
    identifiers: tuple[Named, ...] = field(repr=False)
    interaction_id: str
    attributes: bytes | None

    @property
    def feedback_id(self) -> str:
        """Names the item for ever."""
        return hex_id("feedback", self.source, self.source_feedback_id)


def check_submission(submission: Submission, now: int) -> None:
    """Raises InvalidError with every rule that the submission breaks at time `now` (microseconds)."""
    found = [
        *_names(submission),
        *_texts(submission),
        *_answer(submission),
        *_who(submission),
    ]
    if not ANCIENT <= submission.occurred_at <= now + MAX_AHEAD:
        found.append(_occurred_at(submission.occurred_at))
    if submission.attributes is None:
        found.append(Violation("attributes", "a JSON object", 'write them like {"party_size": 4}'))
    elif len(submission.attributes) > MAX_ATTRIBUTES:
        found.append(Violation("attributes", f"at most {MAX_ATTRIBUTES} bytes", "keep large content elsewhere"))
    elif _is_deeper(submission.attributes, MAX_ATTRIBUTES_DEPTH):
        rule = f"nested at most {MAX_ATTRIBUTES_DEPTH} deep"
        found.append(Violation("attributes", rule, 'write them flat, like {"party_size": 4}'))
    if found:
        raise InvalidError.of(*found)


def _is_deeper(json: bytes, most: int) -> bool:
    """Whether a JSON value has more than `most` objects and lists within one another, itself among them."""
    depth = 0
    for bracket in _BRACKET.findall(_STRING.sub(b"", json)):
        depth += 1 if bracket in b"{[" else -1
        if depth > most:
            return True
    return False


def check_by(by: str) -> None:
    """Raises InvalidError where nobody is named who does something to a case."""
    if not by.strip():
        raise InvalidError.of(required("by", "name the person or system that does this"))
    if len(by) > MAX_BY:
        raise InvalidError.of(Violation("by", f"at most {MAX_BY} characters", "shorten it"))


def check_text(name: str, text: str, limit: int = MAX_RESOLUTION) -> None:
    """Raises InvalidError where a text is longer than it may be."""
    if len(text) > limit or "\0" in text:
        raise InvalidError.of(Violation(name, f"at most {limit} characters, no NUL", "shorten it"))


def check_id(name: str, text: str) -> None:
    """Raises InvalidError where an id does not have the form of one."""
    if not text:
        raise InvalidError.of(required(name, "give the id"))
    if not is_hex_id(text):
        raise InvalidError.of(Violation(name, "32 lowercase hex digits", "give the id as it was answered"))


def required(name: str, remedy: str) -> Violation:
    """The field must be given."""
    return Violation(name, "must be given", remedy, "FIELD_REQUIRED")


def _names(submission: Submission) -> Iterator[Violation]:
    for name, text, remedy in (
        ("source", submission.source, "name the system that reports"),
        ("channel", submission.channel, "name the channel, e.g. `survey`"),
    ):
        if not text:
            yield required(name, remedy)
        elif len(text) > MAX_NAME or not _NAME.match(text):
            rule = f"lower-case letters, digits, `_`, `-` and `.`, at most {MAX_NAME} characters"
            yield Violation(name, rule, f"{remedy}, in that form")
    if not submission.source_feedback_id:
        yield required("source_feedback_id", "give the source's own id: it makes a retry safe for ever")


def _texts(submission: Submission) -> Iterator[Violation]:
    for name, text, limit in (
        ("source_feedback_id", submission.source_feedback_id, MAX_TEXT),
        ("touchpoint", submission.touchpoint, MAX_TEXT),
        ("matter", submission.matter, MAX_TEXT),
        ("feedback.topic", submission.topic, MAX_TEXT),
        ("feedback.aspect", submission.aspect, MAX_TEXT),
        ("feedback.verbatim", submission.verbatim, MAX_VERBATIM),
    ):
        if len(text) > limit:
            yield Violation(name, f"at most {limit} characters", f"shorten it: it has {len(text)}")
        if "\0" in text:
            yield Violation(name, "no NUL character", "leave NUL characters out")


def _answer(submission: Submission) -> Iterator[Violation]:
    kinds = ", ".join(kind.name for kind in Kind if kind)
    if not submission.kind:
        yield required("feedback.kind", f"say whether it is {kinds}")
        return
    if submission.kind not in {int(kind) for kind in Kind}:
        yield Violation("feedback.kind", f"one of {kinds}", f"{submission.kind} is none of them")
        return
    kind = Kind(submission.kind)
    low, high = scale_of(kind, submission.scale_min, submission.scale_max)
    if kind is Kind.NPS and (low, high) != OWN_SCALES[kind]:
        yield Violation("feedback.scale_min", "NPS is asked from 0 to 10", "leave the scale out, or report it as CSAT")
    elif low >= high:
        yield Violation("feedback.scale_max", "greater than scale_min", "give both ends, or neither for the kind's own")
    elif submission.score is None:
        if not submission.verbatim:
            yield required("feedback.score", "give a score, words (feedback.verbatim), or both")
    elif not low <= submission.score <= high:
        yield Violation(
            "feedback.score",
            f"from {low} to {high}",
            f"{submission.score} is outside; give scale_min and scale_max where the scale is another",
        )
    if submission.weight_micros < 0:
        yield Violation("feedback.weight_micros", "not negative", "give millionths, or leave it out")


def _who(submission: Submission) -> Iterator[Violation]:
    for name, text in (("client_id", submission.client_id), ("interaction_id", submission.interaction_id)):
        if text and not is_hex_id(text):
            yield Violation(name, "32 lowercase hex digits", "give the id as it was answered, or leave it out")
    if len(submission.identifiers) > MAX_IDENTIFIERS:
        yield Violation("identifiers", f"at most {MAX_IDENTIFIERS}", "send the strongest ones")
        return
    for number, each in enumerate(submission.identifiers):
        at = f"identifiers[{number}]"
        if not each.type:
            yield required(f"{at}.type", "say what it is, e.g. `email`")
        elif len(each.type) > MAX_NAME or not _SNAKE.match(each.type):
            yield Violation(f"{at}.type", f"snake_case, at most {MAX_NAME} characters", "write it like `loyalty_card`")
        if len(each.value) > MAX_IDENTIFIER_VALUE or "\0" in each.value:
            yield Violation(f"{at}.value", f"at most {MAX_IDENTIFIER_VALUE} characters, no NUL", "shorten it")
        if each.assurance not in _ASSURANCES:
            yield Violation(f"{at}.assurance", "CLAIMED or VERIFIED", "leave it out for CLAIMED")


def _occurred_at(occurred_at: int) -> Violation:
    if occurred_at == 0:
        return required("occurred_at", "give microseconds since 1970-01-01T00:00:00Z")
    if occurred_at >= ANCIENT:
        return Violation("occurred_at", "at most 24 h in the future", "check the clock and the time zone of the source")
    for factor, unit in ((1_000, "milliseconds"), (1_000_000, "seconds")):
        if occurred_at * factor >= ANCIENT:
            remedy = f"give microseconds since 1970-01-01T00:00:00Z; this looks like {unit}"
            return Violation("occurred_at", "not before 1990-01-01", remedy)
    return Violation("occurred_at", "not before 1990-01-01", "give microseconds since 1970-01-01T00:00:00Z")
