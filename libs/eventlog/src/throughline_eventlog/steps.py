"""In which order a service did what it did: kept beside the log, in the transaction that did it.

A log says what was decided. To decide again one must know as well which upstream events were taken together, between
which of the service's own decisions, and when: an event that a person asked for needs no step, it is in the log itself.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from throughline_eventlog.store import STEPS, Reader, Transaction

_PLACE: Final = struct.Struct(">QQQ")
_VALUE: Final = struct.Struct(">qq")


class Step(NamedTuple):
    """What was done at `now` (microseconds) and put the own events in `before` < position <= `after` into the log.

    `name` is the upstream stream on the bus of which the positions `first` to `last` were taken, or the name of a work
    that the service does by itself, with the number that it was given as `first`.
    """

    now: int
    before: int
    after: int
    name: str
    first: int
    last: int

    @property
    def key(self) -> bytes:
        """Where the step stands: keys sort in the order in which things were done."""
        return _PLACE.pack(self.now, self.before, self.after) + self.name.encode()


def note_step(tx: Transaction, name: str, before: int, first: int, last: int = 0) -> None:
    """Keeps that the step was taken. `before` is the log's last position when it began; called when it is over."""
    step = Step(tx.now, before, tx.last_position(), name, first, last)
    tx.put(STEPS, step.key, _VALUE.pack(first, last))


def read_steps(reader: Reader, after: bytes = b"") -> Iterator[Step]:
    """The steps in order, behind the one with the key `after`."""
    for key, value in reader.scan(STEPS, after=after):
        now, before, after_it = _PLACE.unpack_from(key)
        first, last = _VALUE.unpack(value)
        yield Step(now, before, after_it, key[_PLACE.size :].decode(), first, last)
