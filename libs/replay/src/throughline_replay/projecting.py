"""A service's tables made again from its own log, where it decides on what is in no log: ingestion's."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import replace
from importlib.metadata import EntryPoint, entry_points
from typing import Final, cast

from throughline_eventlog import Projection, Reader, Store, StoreSettings, open_store
from throughline_replay.beside import AT_ONCE, PROGRESS
from throughline_replay.deriving import Progress
from throughline_replay.divergences import Derived
from throughline_replay.states import compare_states
from throughline_replay.units import DerivationError, Unit

_KEY: Final = b"progress"


def _offered() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group="throughline.projections")}


def projectable() -> tuple[str, ...]:
    """The services whose tables follow from their own log alone."""
    return tuple(sorted(_offered()))


class Projector:
    """Makes the tables in a store beside, going on where it was interrupted. Belongs to one thread."""

    def __init__(self, open_things: ExitStack, unit: Unit) -> None:
        self.projection = cast("Projection", _offered()[unit.service].load()())
        self.own = self._open(open_things, unit.stores[unit.log], ())
        beside = StoreSettings.sqlite(unit.service, unit.work)
        self.beside = self._open(open_things, beside, (PROGRESS,))
        self._code = unit.code
        self._done = Derived(unit.log)
        with self.beside.snapshot() as reader:
            kept = reader.get(PROGRESS, _KEY)
        if kept is not None:
            code, position, events = json.loads(kept)
            if code != self._code:
                raise DerivationError(f"the store beside {unit.log} was begun by other code: begin anew, with --fresh")
            self._done = Derived(unit.log, position, events, events)

    def advance(self, own: Reader, progress: Progress | None = None) -> Derived:
        """Goes on, up to where this view of the log ends."""
        while events := own.read(self._done.position, limit=AT_ONCE):
            done = self._done
            count = done.events + len(events)
            self._done = replace(done, position=events[-1].position, events=count, derived=count)
            with self.beside.transaction() as tx:
                self.projection.project(tx, events)
                tx.put(PROGRESS, _KEY, json.dumps([self._code, self._done.position, count]).encode())
            if progress is not None:
                progress(len(events))
        return self._done

    def compared(self, own: Reader) -> Derived:
        """What was made, and the state that stands in this view held against it."""
        with self.beside.snapshot() as beside:
            standing = compare_states(self.projection.aggregates(own), self.projection.aggregates(beside))
        return replace(self._done, standing=standing)

    def _open(self, open_things: ExitStack, settings: StoreSettings, more: tuple[str, ...]) -> Store:
        store = open_store(settings, tables=(*self.projection.tables, *more))
        open_things.callback(store.close)
        return store
