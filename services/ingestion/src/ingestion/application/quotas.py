"""Holds each source to its quota, before anything of a request is decided."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from math import ceil
from typing import Final, NamedTuple

from ingestion.domain.deciding import Offer
from ingestion.domain.quota import Quota, spent
from throughline_kernel import ExhaustedError

MOST: Final = 10_000
"""Sources that are remembered; those that have offered nothing for a while go first. Callers choose names."""


class Buckets(NamedTuple):
    """Until when what a source took lasts, in seconds of the clock."""

    events: float = 0.0
    bytes: float = 0.0


class Quotas:
    """What each source has left.

    `quota_of` gives a source's quota as it is now. A request's bytes are shared by its events alike. `over` is told the
    source and how many of its events were turned away.
    """

    def __init__(
        self, quota_of: Callable[[str], Quota], clock: Callable[[], float], over: Callable[[str, int], object]
    ) -> None:
        self._quota_of = quota_of
        self._clock = clock
        self._over = over
        self._left: dict[str, Buckets] = {}

    def take(self, offers: Sequence[Offer], size: int) -> None:
        """Takes a whole request of so many bytes, or nothing of it.

        Raises: ExhaustedError (QUOTA_EXCEEDED), which says in how many milliseconds the same request would be taken.
        """
        now = self._clock()
        counts = Counter(offer.source for offer in offers)
        taken: dict[str, Buckets] = {}
        for source, events in counts.items():
            quota, left = self._quota_of(source), self._left.get(source, Buckets())
            after_events, early_events = spent(left.events, events, quota.events, quota.burst, now)
            after_bytes, early_bytes = spent(left.bytes, size * events / len(offers), quota.bytes, quota.burst, now)
            if early_events or early_bytes:
                for each, count in counts.items():
                    self._over(each, count)
                raise _exceeded(source, quota, early_events, early_bytes)
            if quota.events or quota.bytes:
                taken[source] = Buckets(after_events, after_bytes)
        self._left |= taken
        if len(self._left) > MOST:
            self._left = {source: left for source, left in self._left.items() if max(left) > now}


def _exceeded(source: str, quota: Quota, early_events: float, early_bytes: float) -> ExhaustedError:
    what, bound = ("events", quota.events) if early_events >= early_bytes else ("bytes", quota.bytes)
    wait = ceil(1_000 * max(early_events, early_bytes))
    return ExhaustedError(
        "QUOTA_EXCEEDED",
        f"source {source!r} offers more than {bound:g} {what} a second; nothing of this request was taken: offer it "
        f"again in {wait} ms",
        {"source": source, "quota": what, "limit": f"{bound:g}", "retry_after_ms": str(wait)},
    )
