"""What goes into a log and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class NewEvent(NamedTuple):
    """An event to append. `version` is its place in the stream, from 1, without gaps; times are microseconds UTC."""

    stream_id: bytes
    version: int
    type: str
    payload: bytes
    occurred_at: int
    event_id: bytes | None = None
    correlation_id: str = ""
    causation_id: str = ""
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class InboxPosition:
    """How far a consumer has got in one stream on the bus.

    `created` tells one stream from another of the same name made after it (nanoseconds), `sequence` is the last message
    taken whole, `position` the last position of the upstream log taken.
    """

    stream: str
    created: int
    sequence: int
    position: int


class LoggedRow(NamedTuple):
    """An event as it is stored: its envelope is not opened."""

    position: int
    stream_id: bytes
    version: int
    type: str
    envelope: bytes


class Commit(NamedTuple):
    """A state of the store: after the commit at `recorded_at` (microseconds), the log ending at `position`.

    Every commit has an instant of its own, later than all before it; those that append nothing are commits too.
    """

    recorded_at: int
    position: int
