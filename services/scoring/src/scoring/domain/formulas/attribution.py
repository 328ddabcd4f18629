"""Credit for a conversion over the touches before it: first, last, linear, time decay.

Source of the models: P. K. Kannan, W. Reinartz and P. C. Verhoef (2016), "The path to purchase and attribution
modeling", International Journal of Research in Marketing 33(3), 449-456. Time decay halves a touch's weight every
seven days before the conversion, the default of Google Analytics' multi-channel attribution. Credits are millionths
that add up to exactly 1000000 by the largest remainder (Hamilton's method; M. L. Balinski and H. P. Young (2001),
"Fair Representation", Brookings).

What converts, what touches and how far back are part of the formula's version: a replay must not depend on settings.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Sequence
from decimal import Context, Decimal
from typing import NamedTuple

from scoring.domain.facts import Contact

CONVERSIONS = frozenset({"coupon_redeemed", "purchase", "order", "booking"})
TOUCHES = frozenset(
    {
        "ad",
        "ad_click",
        "ad_impression",
        "call",
        "campaign_sent",
        "chat",
        "click",
        "email",
        "email_clicked",
        "email_opened",
        "email_sent",
        "message",
        "post",
        "question",
        "reservation",
        "search",
        "visit",
    }
)
# 30 days, in microseconds. A touch whose attributes name `active_until` (microseconds) counts up to that instant
# instead.
LOOKBACK = 30 * 24 * 3600 * 1_000_000
HALF_LIFE_SECONDS = 7 * 24 * 3600
# The most recent touches that share one conversion.
MOST_TOUCHES = 200
WHOLE = 1_000_000
MODELS = ("first", "last", "linear", "time_decay")

_SCALE = 1 << 60


def _powers(count: int, seconds: int) -> tuple[int, ...]:
    """2^(-i * seconds / half-life) for i below `count`, in 2^-60: the same on every machine."""
    exact = Context(prec=40)
    return tuple(
        int(
            exact.multiply(
                Decimal(_SCALE),
                exact.power(Decimal(2), exact.divide(Decimal(-i * seconds), Decimal(HALF_LIFE_SECONDS))),
            )
        )
        for i in range(count)
    )


_HOURS = _powers(HALF_LIFE_SECONDS // 3600, 3600)
_MINUTES = _powers(60, 60)
_SECONDS = _powers(60, 1)


class Share(NamedTuple):
    """A touch and its part of the conversion, in millionths, and of the conversion's value, in millionths of the
    currency.
    """

    touch: Contact
    credit: int
    value: int


def decay(age: int) -> int:
    """A weight that halves every seven days; age in microseconds, whole seconds count. In 2^-60."""
    halves, seconds = divmod(max(0, age) // 1_000_000, HALF_LIFE_SECONDS)
    hour, rest = divmod(seconds, 3600)
    minute, second = divmod(rest, 60)
    weight = (_HOURS[hour] * _MINUTES[minute] >> 60) * _SECONDS[second] >> 60
    return weight >> halves


def apportion(whole: int, weights: Sequence[int]) -> list[int]:
    """Splits a whole number by weights so that the parts add up to it exactly; ties go to the earlier part.

    Raises: ValueError where no weight is positive.
    """
    total = sum(weights)
    if total <= 0:
        raise ValueError("nothing to split by")
    sign = -1 if whole < 0 else 1
    parts: list[int] = []
    rests: list[tuple[int, int]] = []
    for index, weight in enumerate(weights):
        part, rest = divmod(abs(whole) * weight, total)
        parts.append(part)
        rests.append((-rest, index))
    rests.sort()
    for _, index in rests[: abs(whole) - sum(parts)]:
        parts[index] += 1
    return [sign * part for part in parts]


def active_until(touch: Contact) -> int:
    """Until when a touch may earn credit, in microseconds."""
    if b'"active_until"' in touch.attributes:
        named = json.loads(touch.attributes).get("active_until")
        if isinstance(named, int) and not isinstance(named, bool):
            return named
    return touch.at + LOOKBACK


def eligible(conversion: Contact, touches: Sequence[Contact]) -> list[Contact]:
    """The touches before the conversion that still count at it; `touches` in canonical order."""
    before = touches[: bisect_left(touches, conversion)]
    return [touch for touch in before[-MOST_TOUCHES:] if active_until(touch) >= conversion.at]


def _time_decay(touches: Sequence[Contact], at: int) -> list[int]:
    weights = [decay(at - touch.at) for touch in touches]
    # Where every touch is too old to weigh anything, the last one has it all.
    return weights if any(weights) else [0] * (len(touches) - 1) + [1]


def attribute(conversion: Contact, touches: Sequence[Contact]) -> dict[str, tuple[Share, ...]]:
    """Shares by model, those without credit left out; empty where no touch counts. `touches` as `eligible` gives
    them.
    """
    if not touches:
        return {}
    value = conversion.value
    return {
        "first": (Share(touches[0], WHOLE, value),),
        "last": (Share(touches[-1], WHOLE, value),),
        "linear": _split(touches, [1] * len(touches), value),
        "time_decay": _split(touches, _time_decay(touches, conversion.at), value),
    }


def _split(touches: Sequence[Contact], weights: Sequence[int], value: int) -> tuple[Share, ...]:
    if len(touches) == 1:
        return (Share(touches[0], WHOLE, value),)
    credits_ = apportion(WHOLE, weights)
    values = apportion(value, weights) if value else [0] * len(weights)
    return tuple(
        Share(touch, credit, part)
        for touch, credit, part in zip(touches, credits_, values, strict=True)
        if credit or part
    )
