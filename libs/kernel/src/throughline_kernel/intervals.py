"""An interval of event time: when things happened in the world."""

from __future__ import annotations

from typing import Final, NamedTuple

from throughline_kernel.refusals import InvalidError, Violation


class Interval(NamedTuple):
    """From `start` on, before `end`; microseconds since epoch, UTC. 0 leaves that side open."""

    start: int = 0
    end: int = 0

    @staticmethod
    def between(start: int, end: int, field: str = "between") -> Interval:
        """The interval that a request names in `field`. Raises: InvalidError where it would hold nothing."""
        if start and end and end <= start:
            raise InvalidError.of(
                Violation(f"{field}.end", "later than the start", "name when it begins, then when it is over")
            )
        return Interval(start, end)

    def holds(self, at: int) -> bool:
        """Whether what happened at that time lies in it."""
        return (not self.start or at >= self.start) and (not self.end or at < self.end)


ALWAYS: Final = Interval()
"""No interval: all event time."""
