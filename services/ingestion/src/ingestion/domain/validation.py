"""Which rules an offered interaction must keep. All that are broken are reported together."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final

from ingestion.domain.interaction import (
    OWN_SCALE,
    Assurance,
    Exchange,
    Feedback,
    FeedbackKind,
    Identifier,
    Interaction,
    Money,
    PromiseMade,
    Sensitivity,
    SubjectType,
)
from throughline_kernel import Violation

MAX_BATCH: Final = 1_000
MAX_NAME: Final = 64
MAX_ID: Final = 256
MAX_IDENTIFIERS: Final = 32
MAX_IDENTIFIER_VALUE: Final = 512
MAX_EXCHANGES: Final = 64
MAX_ANSWER: Final = 4_096
MAX_PROMISES: Final = 64
MAX_PROMISE_TEXT: Final = 4_096
MAX_FEEDBACK: Final = 64
MAX_VERBATIM: Final = 65_536
MAX_ATTRIBUTES_BYTES: Final = 64 * 1_024
MAX_ATTRIBUTES_DEPTH: Final = 16

DAY: Final = 86_400_000_000
# 1990-01-01T00:00:00Z. What claims to be older is a time in another unit, or none.
ANCIENT: Final = 631_152_000_000_000
MAX_AHEAD: Final = DAY

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_.-]*\Z")
_SNAKE: Final = re.compile(r"[a-z0-9][a-z0-9_]*\Z")
_CURRENCY: Final = re.compile(r"[A-Z]{3}\Z")
_REMEMBERED: Final = 4_096

_NAME_RULE: Final = f"lower-case letters, digits, `_`, `-` and `.`, at most {MAX_NAME} characters"
_SNAKE_RULE: Final = f"snake_case, at most {MAX_NAME} characters"
_FREE_TEXT: Final = (
    "touchpoint",
    "session_id",
    "conversation_id",
    "case_id",
    "campaign_id",
    "staff_id",
    "location_id",
    "matter",
)

CanonicalJson = Callable[[bytes], bytes]
"""Writes a JSON object in its one canonical form, nested at most MAX_ATTRIBUTES_DEPTH deep.

Raises: ValueError, with the rule that the bytes break.
"""


@lru_cache(maxsize=_REMEMBERED)
def is_name(text: str) -> bool:
    """Tells whether the text can name a source or a channel."""
    return len(text) <= MAX_NAME and _NAME.match(text) is not None


@lru_cache(maxsize=_REMEMBERED)
def is_snake_case(text: str) -> bool:
    """Tells whether the text can name a kind, an outcome or a type of identifier."""
    return len(text) <= MAX_NAME and _SNAKE.match(text) is not None


def is_source_interaction_id(text: str) -> bool:
    """Tells whether the text can be a source's own id of an interaction."""
    return 0 < len(text) <= MAX_ID and "\0" not in text


def required(field: str, remedy: str) -> Violation:
    """The field must be given."""
    return Violation(field, "must be given", remedy, "FIELD_REQUIRED")


def name_violations(field: str, text: str, remedy: str) -> list[Violation]:
    """What is wrong with the name of a source or channel."""
    if not text:
        return [required(field, remedy)]
    if not is_name(text):
        return [Violation(field, _NAME_RULE, f"{remedy}, in that form")]
    return []


def text_violations(field: str, text: str, limit: int = MAX_ID) -> list[Violation]:
    """What is wrong with a free text."""
    found: list[Violation] = []
    if len(text) > limit:
        found.append(Violation(field, f"at most {limit} characters", f"shorten it: it has {len(text)}"))
    if "\0" in text:
        found.append(Violation(field, "no NUL character", "leave NUL characters out"))
    return found


def validate(  # noqa: C901, PLR0912 -- one line per rule reads better than a maze of functions, and is the hot path
    interaction: Interaction, now: int
) -> list[Violation]:
    """Holds an interaction against every rule at time `now`; nothing where it keeps them all.

    Its JSON objects are held against theirs by `json_object`, before.
    """
    (
        source,
        source_interaction_id,
        channel,
        touchpoint,
        kind,
        occurred_at,
        identifiers,
        session_id,
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
        _,
        _,
        subject_type,
        feedback,
        sequence,
    ) = interaction
    found: list[Violation] = []
    if not is_name(source):
        found += name_violations("source", source, "name the registered system that reports")
    if not is_source_interaction_id(source_interaction_id):
        found += _source_interaction_id_violations(source_interaction_id)
    if not is_name(channel):
        found += name_violations("channel", channel, "name a registered channel")
    if not is_snake_case(kind):
        found.append(_kind_violation(kind))
    if not ANCIENT <= occurred_at <= now + MAX_AHEAD:
        found.append(_occurred_at_violation(occurred_at))
    free_text = (touchpoint, session_id, conversation_id, case_id, campaign_id, staff_id, location_id, matter)
    for number, text in enumerate(free_text):
        if text and (len(text) > MAX_ID or "\0" in text):
            found += text_violations(_FREE_TEXT[number], text)
    if outcome and not is_snake_case(outcome):
        found.append(Violation("outcome", _SNAKE_RULE, "write it like `resolved` or `on_time`, or leave it out"))
    if identifiers:
        found += _identifiers_violations(identifiers)
    if value is not None:
        found += _money_violations("value", value)
    if cost is not None:
        found += _money_violations("cost", cost)
    if wait_time < 0:
        found.append(_negative("wait_time", wait_time))
    if handling_time < 0:
        found.append(_negative("handling_time", handling_time))
    if sequence < 0:
        found.append(Violation("sequence", "not negative", "number from 1, or leave it out"))
    if exchanges:
        found += _exchanges_violations(exchanges)
    if promises:
        found += _promises_violations(promises)
    if promises_kept:
        found += _promises_kept_violations(promises_kept)
    if subject_type not in _SUBJECT_TYPES:
        found.append(
            Violation("subject_type", "CLIENT or STAFF", f"{subject_type} is neither; leave it out for CLIENT")
        )
    if feedback:
        found += _feedback_violations(feedback)
    return found


def json_object(field: str, raw: bytes, canonical: CanonicalJson, found: list[Violation]) -> bytes:
    """A JSON object in canonical form; as it was where it breaks a rule, which is added to `found`."""
    if len(raw) > MAX_ATTRIBUTES_BYTES:
        rule = f"at most {MAX_ATTRIBUTES_BYTES} bytes"
        found.append(Violation(field, rule, f"keep large content elsewhere and send its address: it has {len(raw)}"))
        return raw
    try:
        return canonical(raw)
    except ValueError as error:
        found.append(Violation(field, str(error), 'send an object in UTF-8, e.g. {"basket": 3}'))
        return raw


def _source_interaction_id_violations(text: str) -> list[Violation]:
    if not text:
        return [required("source_interaction_id", "give the source's own id: it makes a retry safe for ever")]
    return text_violations("source_interaction_id", text)


def _kind_violation(kind: str) -> Violation:
    if not kind:
        return required("kind", "say what happened, e.g. `purchase`")
    return Violation("kind", _SNAKE_RULE, "write it like `coupon_redeemed`")


def _occurred_at_violation(occurred_at: int) -> Violation:
    if occurred_at == 0:
        return required("occurred_at", "give microseconds since 1970-01-01T00:00:00Z")
    if occurred_at >= ANCIENT:
        return Violation("occurred_at", "at most 24 h in the future", "check the clock and the time zone of the source")
    for factor, unit in ((1_000, "milliseconds"), (1_000_000, "seconds")):
        if occurred_at * factor >= ANCIENT:
            remedy = f"give microseconds since 1970-01-01T00:00:00Z; this looks like {unit}"
            return Violation("occurred_at", "not before 1990-01-01", remedy)
    return Violation("occurred_at", "not before 1990-01-01", "give microseconds since 1970-01-01T00:00:00Z")


def _negative(field: str, value: int) -> Violation:
    return Violation(field, "not negative, in microseconds", f"{value} is negative; leave it out where it is unknown")


def _too_many(field: str, count: int, limit: int) -> Violation:
    return Violation(field, f"at most {limit}", f"split the interaction, or send less: it has {count}")


def _identifiers_violations(identifiers: tuple[Identifier, ...]) -> list[Violation]:
    if len(identifiers) > MAX_IDENTIFIERS:
        return [_too_many("identifiers", len(identifiers), MAX_IDENTIFIERS)]
    found: list[Violation] = []
    for number, (type_, value, assurance) in enumerate(identifiers):
        if not is_snake_case(type_):
            field = f"identifiers[{number}].type"
            found.append(
                Violation(field, _SNAKE_RULE, "write it like `loyalty_card`")
                if type_
                else required(field, "say what it is, e.g. `email`")
            )
        if len(value) > MAX_IDENTIFIER_VALUE or "\0" in value:
            found += text_violations(f"identifiers[{number}].value", value, MAX_IDENTIFIER_VALUE)
        if assurance not in _ASSURANCES:
            remedy = f"{assurance} is neither; leave it out for CLAIMED"
            found.append(Violation(f"identifiers[{number}].assurance", "CLAIMED or VERIFIED", remedy))
    return found


def _money_violations(field: str, money: Money) -> list[Violation]:
    if not money.currency:
        return [required(f"{field}.currency", "give the ISO 4217 code, e.g. USD")]
    if not _CURRENCY.match(money.currency):
        return [Violation(f"{field}.currency", "an ISO 4217 code: three capital letters", "write it like USD")]
    return []


def _exchanges_violations(exchanges: tuple[Exchange, ...]) -> list[Violation]:
    if len(exchanges) > MAX_EXCHANGES:
        return [_too_many("exchanges", len(exchanges), MAX_EXCHANGES)]
    found: list[Violation] = []
    for number, (question, answer, sensitivity) in enumerate(exchanges):
        at = f"exchanges[{number}]"
        if not question:
            found.append(required(f"{at}.question", "name the question, e.g. `party_size`"))
        found += text_violations(f"{at}.question", question)
        found += text_violations(f"{at}.answer", answer, MAX_ANSWER)
        if sensitivity not in _SENSITIVITIES:
            remedy = f"{sensitivity} is neither; leave it out for PERSONAL"
            found.append(Violation(f"{at}.sensitivity", "PERSONAL or OPERATIONAL", remedy))
    return found


def _promises_violations(promises: tuple[PromiseMade, ...]) -> list[Violation]:
    if len(promises) > MAX_PROMISES:
        return [_too_many("promises", len(promises), MAX_PROMISES)]
    found: list[Violation] = []
    for number, (promise_id, text, due_at) in enumerate(promises):
        at = f"promises[{number}]"
        if not promise_id:
            found.append(required(f"{at}.promise_id", "give the source's own id: `promises_kept` names it later"))
        found += text_violations(f"{at}.promise_id", promise_id)
        found += text_violations(f"{at}.text", text, MAX_PROMISE_TEXT)
        if due_at < 0 or 0 < due_at < ANCIENT:
            remedy = "give microseconds since 1970-01-01T00:00:00Z, or 0 where no time was named"
            found.append(Violation(f"{at}.due_at", "not before 1990-01-01", remedy))
    return found


def _promises_kept_violations(promises_kept: tuple[str, ...]) -> list[Violation]:
    if len(promises_kept) > MAX_PROMISES:
        return [_too_many("promises_kept", len(promises_kept), MAX_PROMISES)]
    found: list[Violation] = []
    for number, promise_id in enumerate(promises_kept):
        if not promise_id:
            found.append(required(f"promises_kept[{number}]", "name the promise, or leave it out"))
        found += text_violations(f"promises_kept[{number}]", promise_id)
    return found


def _feedback_violations(feedback: tuple[Feedback, ...]) -> list[Violation]:
    if len(feedback) > MAX_FEEDBACK:
        return [_too_many("feedback", len(feedback), MAX_FEEDBACK)]
    found: list[Violation] = []
    for number, item in enumerate(feedback):
        at = f"feedback[{number}]"
        if item.kind not in _FEEDBACK_KINDS:
            kinds = "NPS, CSAT, CES, REVIEW, VERBATIM or COMPLAINT"
            found.append(
                Violation(f"{at}.kind", kinds, f"{item.kind} is none of them")
                if item.kind
                else required(f"{at}.kind", f"say whether it is {kinds}")
            )
        else:
            found += _score_violations(at, item)
        found += text_violations(f"{at}.verbatim", item.verbatim, MAX_VERBATIM)
        found += text_violations(f"{at}.topic", item.topic)
        found += text_violations(f"{at}.aspect", item.aspect)
        if item.weight_micros < 0:
            remedy = "give millionths, or leave it out where each answer counts once"
            found.append(Violation(f"{at}.weight_micros", "not negative", remedy))
    return found


def _score_violations(at: str, item: Feedback) -> list[Violation]:
    lowest, highest = item.scale_min, item.scale_max
    own = OWN_SCALE.get(item.kind)
    if item.kind == FeedbackKind.NPS and (lowest, highest) != own:
        return [Violation(f"{at}.scale_min", "NPS is asked from 0 to 10", "leave the scale out, or report it as CSAT")]
    if own is None and (lowest, highest) == (0, 0):
        if item.score is None:
            return []
        return [Violation(f"{at}.score", "a scale of its own", "give scale_min and scale_max: this kind has none")]
    if lowest >= highest:
        return [Violation(f"{at}.scale_max", "greater than scale_min", "give both ends, or neither for the kind's own")]
    if item.score is not None and not lowest <= item.score <= highest:
        remedy = f"{item.score} is outside; give scale_min and scale_max where the scale is another"
        return [Violation(f"{at}.score", f"from {lowest} to {highest}", remedy)]
    return []


_ASSURANCES: Final = frozenset(map(int, Assurance))
_SUBJECT_TYPES: Final = frozenset(map(int, SubjectType))
_SENSITIVITIES: Final = frozenset(map(int, Sensitivity))
_FEEDBACK_KINDS: Final = frozenset(map(int, FeedbackKind))
