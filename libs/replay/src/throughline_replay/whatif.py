"""What other rules would have decided: in the service that they are of, and in all that take from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Final

from throughline_eventlog import Derivation
from throughline_replay.beside import Again
from throughline_replay.deriving import Deriver, Progress, open_derivation, open_stores
from throughline_replay.divergences import Derived
from throughline_replay.units import Unit

FOLLOWING: Final[Mapping[str, tuple[str, ...]]] = {
    "identity": ("feedback", "journey", "scoring"),
    "feedback": ("journey", "scoring"),
    "journey": ("scoring",),
}
"""Whose decisions hang on a service's, each behind those that it takes from itself."""
LOOKED_AT: Final = 1_000
"""Aggregates that are compared before progress is heard of again."""


def what_if(unit: Unit, progress: Progress | None = None) -> tuple[Derived, ...]:
    """Decides a service's log again with `instead` in force, then the logs of those that take from it, on what came of
    it. The outcome of each, in that order.

    All are cut at one moment. Goes on where it was interrupted, if the code and `instead` are the same. Raises: as
    `derive`.
    """
    units = _units(unit)
    with ExitStack() as open_things:
        derivations = {each.service: open_derivation(open_things, each) for each in units}
        stores = open_stores(open_things, unit, derivations.values())
        # The last one's view first: whatever it had taken by then was in the logs before it, whose views are later.
        views = {each.service: open_things.enter_context(stores[each.service].snapshot()) for each in reversed(units)}

        def hear(events: int) -> None:
            if progress is not None:
                progress(events)
            # A view that nobody looks at for long is closed by the server that gave it.
            for view in views.values():
                view.last_position()

        again: dict[str, Again] = {}
        found: list[Derived] = []
        for each in units:
            derivation, own = derivations[each.service], views[each.service]
            deriver = Deriver(open_things, derivation, each, stores, dict(again))
            deriver.advance(own, hear)
            deriver.settle(own, hear)
            found.append(deriver.compared(own, each.named, _Attentive(derivation, hear).parts))
            reader = open_things.enter_context(deriver.beside.store.snapshot())
            again[each.service] = Again(deriver.beside, reader)
        return tuple(found)


class _Attentive:
    """Parts of aggregates, with a word now and then of how it goes on."""

    def __init__(self, derivation: Derivation, progress: Progress) -> None:
        self._derivation = derivation
        self._progress = progress
        self._looked_at = 0

    def parts(self, key: str, state: Any) -> Iterator[tuple[str, str, Any]]:
        """As the derivation's."""
        self._looked_at += 1
        if self._looked_at % LOOKED_AT == 0:
            self._progress(0)
        return self._derivation.parts(key, state)


def _units(first: Unit) -> tuple[Unit, ...]:
    units = [first]
    for service in FOLLOWING[first.service]:
        work = first.work.with_name(f"{service}.db")
        units.append(replace(first, log=service, work=work, instead=b"", after=tuple(units)))
    return tuple(units)
