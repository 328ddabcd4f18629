"""The store in which a log is decided again: where its events stand, and how far that has come."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any, Final

from throughline_eventlog import Derivation, NewEvent, Reader, StoreSettings, Transaction, open_store
from throughline_kernel import Recorded
from throughline_replay.divergences import Derived, Divergence
from throughline_replay.units import DerivationError, Unit

AT_ONCE: Final = 2_000
"""Events decided on in one transaction of the store beside."""
PROGRESS: Final = "derived"
MOVED: Final = "moved"
"""Position of the log -> position of the log beside where that is further off, or nearer, than it was before."""


class Places:
    """Positions for what is decided again in one group: those of the log, behind `end` where the log beside is longer.

    As long as the same is decided every event has the position that it has in the log, gaps and all, so that what is
    told of positions is the same too.
    """

    def __init__(self, logged: Sequence[Recorded], end: int) -> None:
        self._logged = {(event.stream_id, event.version): event.position for event in logged}
        self._least = self.end = end

    def of(self, events: Sequence[NewEvent]) -> list[int]:
        """Where these go."""
        found: list[int] = []
        for event in events:
            position = self._logged.get((event.stream_id, event.version), 0)
            if position <= self._least:
                # The log has no such event, or its place is behind us: what follows is behind this one.
                position = self._least = self.end + 1
            self.end = max(self.end, position)
            found.append(position)
        return found


class Beside:
    """The store in which a log is decided again, and how far that has come: kept in the same transactions.

    `end` is the position of the last event in it; `came` says by upstream service up to which position its log was
    taken, and its log beside, where that is what is taken.
    """

    def __init__(self, derivation: Derivation, unit: Unit) -> None:
        self.store = open_store(
            StoreSettings.sqlite(unit.service, unit.work),
            tables=(*derivation.tables, PROGRESS, MOVED),
            clock=self._time,
        )
        self.reached = 0
        self.step = b""
        self.end = 0
        self.came: dict[str, tuple[int, int]] = {}
        self.tally = Derived(unit.log)
        self._ahead = 0
        self._kinds: dict[str, tuple[int, int]] = {}
        self._streams: list[str] = []
        self._code = unit.code
        with self.store.snapshot() as reader:
            kept = reader.get(PROGRESS, b"progress")
        if kept is not None:
            self._go_on(json.loads(kept))

    def fresh(self, stream: str) -> bool:
        """Whether nothing of the stream was taken yet; from now on something was."""
        if stream in self._streams:
            return False
        self._streams.append(stream)
        return True

    def count(
        self,
        logged: Sequence[Recorded],
        appended: Sequence[NewEvent],
        taken: int,
        *,
        first: Divergence | None,
        refused: int,
    ) -> None:
        """Notes what became of a group."""
        for event in logged:
            there, here = self._kinds.get(event.type, (0, 0))
            self._kinds[event.type] = (there + 1, here)
        for event in appended:
            there, here = self._kinds.get(event.type, (0, 0))
            self._kinds[event.type] = (there, here + 1)
        if logged:
            self.reached = logged[-1].position
        tally = self.tally
        self.tally = replace(
            tally,
            position=self.reached,
            events=tally.events + len(logged),
            derived=tally.derived + len(appended),
            taken=tally.taken + taken,
            differing=tally.differing + (first is not None),
            refused=tally.refused + refused,
            first=tally.first or first,
            kinds=self._kinds,
        )

    def move(self, tx: Transaction, end: int) -> None:
        """The log up to where it was decided again ends here now."""
        self.end = end
        if end - self.reached != self._ahead:
            self._ahead = end - self.reached
            tx.put(MOVED, _key(self.reached), _key(end))

    def keep(self, tx: Transaction) -> None:
        """Writes how far it has come."""
        kept = {
            "code": self._code,
            "step": self.step.hex(),
            "end": self.end,
            "ahead": self._ahead,
            "came": self.came,
            "streams": self._streams,
            **asdict(self.tally),
        }
        tx.put(PROGRESS, b"progress", json.dumps(kept).encode())

    def _go_on(self, kept: dict[str, Any]) -> None:
        if kept.pop("code") != self._code:
            raise DerivationError(
                f"the store beside {self.tally.service} was begun by other code or other rules: "
                "begin anew, with --fresh"
            )
        self.step = bytes.fromhex(kept.pop("step"))
        self.end, self._ahead = kept.pop("end"), kept.pop("ahead")
        self.came = {service: (there, here) for service, (there, here) in kept.pop("came").items()}
        self._streams = kept.pop("streams")
        self._kinds = {name: (there, here) for name, (there, here) in kept.pop("kinds").items()}
        first = kept.pop("first")
        self.tally = Derived(**kept, first=None if first is None else Divergence(**first), kinds=self._kinds)
        self.reached = self.tally.position

    def _time(self) -> int:
        """The store beside keeps no time of its own; what is decided sees the log's."""
        return 0


class Again:
    """A log as it was decided again, taken by services downstream in the place of the log that they took.

    `reached` is the position of the log up to which it was decided again, `end` that of the last event beside.
    """

    def __init__(self, beside: Beside, reader: Reader) -> None:
        self.reached, self.end = beside.reached, beside.end
        self._reader = reader

    def at(self, position: int) -> int:
        """The position beside up to which there is what was decided up to a position of the log.

        Exact where a commit of the log ends; within one whose events are others, a part of them.
        """
        there, here = 0, 0
        for key, value in self._reader.scan(MOVED, after=_key(position + 1), limit=1, reverse=True):
            there, here = _number(key), _number(value)
        most = self.end
        for _, value in self._reader.scan(MOVED, after=_key(position), limit=1):
            most = _number(value)
        return min(here + position - there, most)

    def read(self, after: int, until: int) -> Iterator[list[Recorded]]:
        """What is between two positions beside, so many events at a time."""
        while found := self._reader.read(after, until=until, limit=AT_ONCE):
            yield found
            after = found[-1].position


def _key(position: int) -> bytes:
    return position.to_bytes(8, "big")


def _number(key: bytes) -> int:
    return int.from_bytes(key, "big")
