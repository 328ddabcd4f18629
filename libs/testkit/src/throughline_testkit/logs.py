"""Events, work and handlers that tests of logs need again and again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from throughline.eventlog.v1.eventlog_pb2 import EventChunk
from throughline_eventlog import Connection, NewEvent, Transaction
from throughline_kernel import Recorded

NOTED = "throughline.testing.v1.Noted"


def stream_of(name: str | int) -> bytes:
    """A stream id, always the same for a name."""
    return blake2b(str(name).encode(), digest_size=16).digest()


def noted(name: str | int, version: int = 1, *, payload: bytes | None = None, occurred_at: int = 1) -> NewEvent:
    """An event in the stream of that name, saying its name."""
    return NewEvent(stream_of(name), version, NOTED, str(name).encode() if payload is None else payload, occurred_at)


class Appending:
    """Work that appends its items, each an event, and gives their positions."""

    def __init__(self) -> None:
        self.calls = 0
        self.rollbacks = 0

    def __call__(self, tx: Transaction, items: Sequence[NewEvent], /) -> Sequence[int]:
        """The positions."""
        self.calls += 1
        return tx.append(items)

    def rolled_back(self) -> None:
        """Counts."""
        self.rollbacks += 1


@dataclass
class Noting:
    """A handler that notes each upstream event once: an event of its own and a row, keyed by the upstream stream."""

    table: str = "things"
    spoil: Callable[[Recorded], None] | None = None
    batches: list[int] = field(default_factory=list[int])
    rollbacks: int = 0

    def __call__(self, tx: Transaction, events: Sequence[Recorded], /) -> None:
        """Notes them, or whatever `spoil` raises."""
        for event in events:
            if self.spoil is not None:
                self.spoil(event)
        tx.append([NewEvent(event.stream_id, 1, NOTED, event.payload, event.occurred_at) for event in events])
        tx.put_many(self.table, {event.stream_id: event.payload for event in events})
        self.batches.append(len(events))

    def rolled_back(self) -> None:
        """Counts."""
        self.rollbacks += 1


async def chunks_of(connection: Connection, stream: str) -> list[EventChunk]:
    """Every chunk in a stream on the bus, in order."""
    state = await connection.stream(stream)
    found = [
        await connection.message(stream, sequence)
        for sequence in range(max(1, state.first_sequence), state.last_sequence + 1)
    ]
    return [EventChunk.FromString(message.data) for message in found if message is not None]
