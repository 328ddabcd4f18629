"""Rules that are published whole: an event each in a stream of their own, and a row that says which are in force."""

from __future__ import annotations

from google.protobuf.message import Message

from identity.application.records import RULES
from throughline_eventlog import NewEvent, Reader, Transaction


def published_by(reader: Reader, stream_id: bytes, as_of: int) -> bytes | None:
    """The event by which the rules of an instant (microseconds) were published; None before the first."""
    position = reader.commit_at(as_of).position
    published = [each for each in reader.read_stream(stream_id) if each.position <= position]
    return published[-1].payload if published else None


def put_into_force(tx: Transaction, key: bytes, rules: Message, event: NewEvent) -> None:
    """Appends the event, whose version is that of the rules, and lets them be those in force under the key."""
    tx.append([event])
    tx.put(RULES, key, rules.SerializeToString(deterministic=True))
