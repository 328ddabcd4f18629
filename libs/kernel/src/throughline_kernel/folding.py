"""A logged event as folds see it, and the fold itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol


class Recorded(NamedTuple):
    """An event at its place in a log. Times are microseconds since epoch, UTC."""

    position: int
    stream_id: bytes
    version: int
    type: str
    event_id: bytes
    schema_version: int
    occurred_at: int
    recorded_at: int
    correlation_id: str
    causation_id: str
    traceparent: str
    payload: bytes


class Fold(Protocol):
    """Rebuilds one service's state from its log alone: a left fold, without I/O, clock or randomness."""

    @property
    def service(self) -> str:
        """Name of the service whose log this folds."""
        ...

    def apply(self, event: Recorded) -> None:
        """Takes the next event of the log. Never refuses: history already happened."""
        ...

    def aggregates(self) -> Iterator[tuple[str, bytes]]:
        """The state: (key, canonical JSON) in key order, without positions or recording times (law 3)."""
        ...

    def describe(self, event: Recorded) -> str:
        """One sentence about the event, for histories that people read."""
        ...
