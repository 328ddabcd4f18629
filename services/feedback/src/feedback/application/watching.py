"""Tells each change of a department's cases to whoever watches, in bounded memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from typing import Final, NamedTuple

from feedback.application.queries import FoundCase, check_department, listed_cases, pending
from throughline.feedback.v1 import events_pb2 as events
from throughline_eventlog import Clock, Store
from throughline_kernel import Recorded

BUFFER: Final = 1_000
"""Changed cases that may wait for one slow watcher; beyond it, the watcher is told all that stands instead."""
_READ: Final = 1_000
_POLL_SECONDS: Final = 1.0

_CHANGING: Final = {
    each.DESCRIPTOR.full_name: each
    for each in (
        events.CaseOpened,
        events.CaseJoined,
        events.CaseAcknowledged,
        events.CaseReassigned,
        events.CaseEscalated,
        events.CaseResolved,
        events.CaseReopened,
        events.CaseWithdrawn,
    )
}


class Change(NamedTuple):
    """A case as it stands, and the position of the log up to which that is so."""

    case: FoundCase
    position: int


class InboxWatch:
    """One watcher's view: what waits now, then each change. A case that leaves the department is told once more.

    What a watcher cannot keep up with is merged: of one case the latest is told, and beyond `buffer` changed cases the
    whole inbox is told again. Reads only what is committed.
    """

    def __init__(self, store: Store, clock: Clock, *, buffer: int = BUFFER) -> None:
        self._store = store
        self._clock = clock
        self._buffer = buffer

    async def watch(self, department: str) -> AsyncIterator[Change]:
        """Raises NotFoundError DEPARTMENT_UNKNOWN."""
        loop = asyncio.get_running_loop()
        grown = asyncio.Event()

        def ring() -> None:
            # A watcher whose loop is gone must not disturb the thread that commits.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(grown.set)

        unsubscribe = self._store.grew.subscribe(ring)
        try:
            position, mine, cases = await asyncio.to_thread(self._snapshot, department)
            for case in cases:
                yield Change(case, position)
            while True:
                grown.clear()
                reached, changed = await asyncio.to_thread(self._changed, position, department)
                if changed is None:
                    position, still, cases = await asyncio.to_thread(self._snapshot, department)
                    left = await asyncio.to_thread(self._cases, mine - still)
                    mine = still
                    for case in (*left, *cases):
                        yield Change(case, position)
                    continue
                if reached == position:
                    await _until(grown)
                    continue
                for case in await asyncio.to_thread(self._cases, changed):
                    case_id = case.case.case_id
                    if case.case.department == department:
                        mine.add(case_id)
                    elif case_id not in mine:
                        continue
                    else:
                        mine.discard(case_id)
                    yield Change(case, reached)
                position = reached
        finally:
            unsubscribe()

    def _snapshot(self, department: str) -> tuple[int, set[str], list[FoundCase]]:
        with self._store.snapshot() as reader:
            check_department(reader, department)
            cases = list(pending(reader, department, self._clock()))
            return reader.last_position(), {case.case.case_id for case in cases}, cases

    def _changed(self, after: int, department: str) -> tuple[int, list[str] | None]:
        """Where the log stands and which cases have changed since, oldest first; None where they are too many."""
        changed: dict[str, None] = {}
        with self._store.snapshot() as reader:
            while page := reader.read(after, limit=_READ):
                after = page[-1].position
                changed.update(dict.fromkeys(_case_ids(page)))
                if len(changed) > self._buffer:
                    return after, None
        return after, list(changed)

    def _cases(self, case_ids: Iterable[str]) -> list[FoundCase]:
        with self._store.snapshot() as reader:
            return listed_cases(reader, list(case_ids), self._clock())


def _case_ids(page: Iterable[Recorded]) -> Iterable[str]:
    for event in page:
        kind = _CHANGING.get(event.type)
        if kind is not None:
            yield kind.FromString(event.payload).case_id


async def _until(grown: asyncio.Event) -> None:
    """Waits for the log to grow; looks by itself from time to time, as another process may write to it too."""
    try:
        async with asyncio.timeout(_POLL_SECONDS):
            await grown.wait()
    except TimeoutError:
        return
