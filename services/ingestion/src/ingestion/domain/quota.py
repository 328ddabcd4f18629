"""How much a source may offer: so many events and bytes a second, with room for bursts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

DEFAULT_BURST: Final = 10.0


@dataclass(frozen=True, slots=True)
class Quota:
    """What one source may offer in a second on the average, 0 for no bound; `burst` seconds' worth of it at once."""

    events: float = 0.0
    bytes: float = 0.0
    burst: float = DEFAULT_BURST


UNBOUNDED: Final = Quota()


def spent(until: float, amount: float, rate: float, burst: float, now: float) -> tuple[float, float]:
    """Takes an amount out of a bucket that `rate` fills, in seconds.

    A bucket is one number: until when what was taken lasts (the generic cell rate algorithm, ITU-T I.371). Answers that
    number after the taking, and how many seconds too early the taking is, 0 where it is not. More than a full bucket
    holds may be taken from a full one: else it could never be.

    >>> spent(0.0, 20, 2.0, 10.0, 100.0)
    (110.0, 0.0)
    >>> spent(110.0, 2, 2.0, 10.0, 100.0)
    (111.0, 1.0)
    >>> spent(0.0, 200, 2.0, 10.0, 100.0)
    (200.0, 0.0)
    """
    if rate <= 0:
        return until, 0.0
    lasts = max(until, now) + amount / rate
    early = min(lasts - now - burst, until - now)
    return lasts, max(early, 0.0)
