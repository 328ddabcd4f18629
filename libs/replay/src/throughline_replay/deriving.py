"""A service's decisions taken again from its upstream logs, beside what it logged: where do they first differ?

The handlers that the running service runs decide again on a store of their own, in the order that the log proves: which
upstream events were taken together is kept with what was decided on them (`throughline_eventlog.steps`), and what
people asked for is in the log in its place. Times are those of the log, never the clock's. Nothing that sends is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Final, cast

from throughline_eventlog import (
    POISON,
    Codec,
    Commit,
    Derivation,
    NewEvent,
    Reader,
    Step,
    Store,
    Transaction,
    collecting_seldom,
    open_store,
    read_steps,
)
from throughline_eventlog.partitions import log_name, opening_stream, service_of
from throughline_kernel import Recorded, Refusal
from throughline_replay.beside import AT_ONCE, Again, Beside, Places
from throughline_replay.divergences import Derived, compare_events
from throughline_replay.states import Parts, compare_states
from throughline_replay.units import DerivationError, Unit, make_derivation

PAGE: Final = 1_000
GROUPS_AT_ONCE: Final = 500

Progress = Callable[[int], None]
"""Hears of every so many events of the log that were decided again."""


def derive(unit: Unit, progress: Progress | None = None) -> Derived:
    """Decides a service's log again and compares events and standing states.

    Goes on where it was interrupted, if the code is the same. Raises: DerivationError where the log cannot be decided
    again; UnavailableError, NewerLogError, SettingsError from the stores.
    """
    with ExitStack() as open_things:
        derivation = open_derivation(open_things, unit)
        deriver = Deriver(open_things, derivation, unit, open_stores(open_things, unit, [derivation]))
        # One view from the beginning to the end: the cut at which events and states are compared.
        own = open_things.enter_context(deriver.own.snapshot())
        deriver.advance(own, progress)
        return deriver.compared(own, unit.named)


def open_derivation(open_things: ExitStack, unit: Unit) -> Derivation:
    """What decides the unit again; `open_things` closes it. Raises: as `make_derivation`."""
    derivation = make_derivation(unit.service, unit.env, unit.instead)
    open_things.callback(derivation.close)
    return derivation


def open_stores(open_things: ExitStack, unit: Unit, derivations: Iterable[Derivation]) -> dict[str, Store]:
    """The stores by log, with the tables of those that decide again; `open_things` closes them."""
    tables = {derivation.service: derivation.tables for derivation in derivations}
    stores: dict[str, Store] = {}
    for log, settings in unit.stores.items():
        stores[log] = open_store(settings, tables=tables.get(service_of(log), ()))
        open_things.callback(stores[log].close)
    return stores


class Deriver:
    """Decides one log again in a store beside it. Belongs to one thread.

    `again` are the upstream logs, by name, that were decided again before and are taken in the place of what was.
    """

    def __init__(
        self,
        open_things: ExitStack,
        derivation: Derivation,
        unit: Unit,
        stores: Mapping[str, Store],
        again: Mapping[str, Again] | None = None,
    ) -> None:
        self.derivation = derivation
        self.beside = Beside(derivation, unit)
        self._log = unit.log
        open_things.callback(self.beside.store.close)
        self._stores = stores
        self._again = again or {}
        self._codec = Codec(derivation.service)

    @property
    def own(self) -> Store:
        """The service's own store."""
        return self._stores[self._log]

    def advance(self, own: Reader, progress: Progress | None = None) -> Derived:
        """Decides on, up to where this view of the log ends. Raises DerivationError."""
        groups = _groups(own, self.beside.reached, self.beside.step)
        with ExitStack() as views:
            views.enter_context(collecting_seldom())
            upstreams = {
                log: views.enter_context(store.snapshot()) for log, store in self._stores.items() if log != self._log
            }
            more = True
            while more:
                before = self.beside.tally.events
                with self.beside.store.transaction() as tx:
                    more = self._some(tx, groups, own, upstreams)
                    self.beside.keep(tx)
                if progress is not None:
                    progress(self.beside.tally.events - before)
        return self.beside.tally

    def settle(self, own: Reader, progress: Progress | None = None) -> None:
        """Takes what nothing in the log says when to take, where that is decided otherwise: what upstream there would
        be more behind all that was taken, and what the service would have done by itself by now.
        """
        more = True
        while more:
            with self.beside.store.transaction() as tx:
                more = self._rest(tx, own)
                self.beside.keep(tx)
            if progress is not None:
                progress(0)

    def compared(self, own: Reader, named: Sequence[str] = (), parts: Parts | None = None) -> Derived:
        """What was found, with the states as they stand: the tables of this view, up to which was decided, and those
        beside.
        """
        with self.beside.store.snapshot() as beside:
            ours, theirs = (self.derivation.aggregates(each, again=bool(self._again)) for each in (own, beside))
            standing = compare_states(ours, theirs, named, parts)
        return replace(self.beside.tally, standing=standing)

    def _some(self, tx: Transaction, groups: Iterator[_Group], own: Reader, upstreams: Mapping[str, Reader]) -> bool:
        """Decides on some groups in one transaction; whether more may follow."""
        weight = 0
        for number, group in enumerate(groups, 1):
            weight += self._decide(tx, group, own, upstreams)
            if weight >= AT_ONCE or number == GROUPS_AT_ONCE:
                return True
        return False

    def _decide(self, tx: Transaction, group: _Group, own: Reader, upstreams: Mapping[str, Reader]) -> int:
        then = _Then(tx, group.now, own, Places(group.events, self.beside.end))
        deciding = cast("Transaction", then)
        refused: Sequence[Refusal] = ()
        step, taken, events = group.step, "asked for", 0
        try:
            if step is None:
                refused = self.derivation.ask(deciding, group.events)
            elif step.last:
                upstream = _log_of(step.name)
                taken = f"{upstream} {step.first} to {step.last}"
                for arrived in self._arrived(own, upstreams[upstream], step):
                    events += len(arrived)
                    self.derivation.take(deciding, service_of(upstream), arrived, group.events)
            else:
                taken = step.name
                self.derivation.work(deciding, step.name, step.first)
        except Exception as error:
            where = group.events[0].position if group.events else step and step.before
            raise DerivationError(
                f"{self.derivation.service} cannot decide again at position {where} ({taken}): "
                f"{type(error).__name__}: {error}"
            ) from error
        if refused:
            taken = f"asked for, refused now: {refused[0].message}"
        self._count(tx, group, then, taken, events, refused=len(refused))
        return events + len(group.events)

    def _count(self, tx: Transaction, group: _Group, then: _Then, taken: str, events: int, *, refused: int = 0) -> None:
        beside, service = self.beside, self.derivation.service
        first = compare_events(service, self._codec, group.events, then.appended, taken, moved=bool(self._again))
        beside.count(group.events, then.appended, events, first=first, refused=refused)
        beside.move(tx, then.places.end)
        if group.step is not None:
            beside.step = group.step.key

    def _arrived(self, own: Reader, upstream: Reader, step: Step) -> Iterator[list[Recorded]]:
        """The events that the step took. Raises LookupError where earlier ones were taken before steps were kept."""
        service = _log_of(step.name)
        if self.beside.fresh(step.name):
            passed = upstream.read(_taken_over(upstream, service_of(service)), until=step.first - 1, limit=1)
            # What was put aside as poison is passed over, and taken by a later step where it could be redriven.
            if passed and not own.count(POISON) and not _taken_later(own, step.name, passed[0].position):
                raise LookupError(
                    f"events up to {step.first - 1} of {service} were taken by a version of Throughline "
                    "that did not keep which were taken together: such a log cannot be decided again"
                )
        again = self._again.get(service)
        if again is None:
            yield upstream.read(step.first - 1, until=step.last)
            return
        there, here = self.beside.came.get(service, (0, 0))
        until = max(here, again.at(step.last))
        yield from again.read(here, until)
        self.beside.came[service] = (max(there, step.last), until)

    def _rest(self, tx: Transaction, own: Reader) -> bool:
        """Takes some of what is left; whether more may be."""
        now = own.commit_at().recorded_at
        then = _Then(tx, now, own, Places((), self.beside.end))
        deciding, group = cast("Transaction", then), _Group(now, None, [])
        for service, again in self._again.items():
            there, here = self.beside.came.get(service, (0, 0))
            # Where the service had not taken all of the upstream log, neither does it take what would be more.
            arrived = next(again.read(here, again.end), None) if there >= again.reached else None
            if arrived is not None:
                self.derivation.take(deciding, service, arrived, ())
                self.beside.came[service] = (there, arrived[-1].position)
                self._count(tx, group, then, f"{service}, what would be more", len(arrived))
                return True
        more = self.derivation.settle(deciding, own)
        self._count(tx, group, then, "by itself", 0)
        return more


@dataclass(frozen=True, slots=True)
class _Group:
    """What was decided together at `now`: by a step, or on what people asked for."""

    now: int
    step: Step | None
    events: list[Recorded]


class _Then:
    """A transaction at the time at which the log says that it was; what is appended is at hand, and in its place."""

    def __init__(self, tx: Transaction, now: int, own: Reader, places: Places) -> None:
        self._tx = tx
        self._own = own
        self.now = now
        self.places = places
        self.appended: list[NewEvent] = []
        self.get, self.get_many, self.scan = tx.get, tx.get_many, tx.scan
        self.put, self.put_many, self.delete = tx.put, tx.put_many, tx.delete

    def commit_at(self, as_of: int | None = None) -> Commit:
        """The last commit up to an instant and before this one: the log's, since the store beside keeps no times."""
        before = self.now - 1
        return self._own.commit_at(before if as_of is None else min(as_of, before))

    def append(self, events: Sequence[NewEvent]) -> list[int]:
        """Appends to the log beside."""
        self.appended += events
        return self._tx.append(events, self.places.of(events))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tx, name)


def _groups(own: Reader, after: int, after_step: bytes) -> Iterator[_Group]:
    """The log in the order in which it was decided, behind a position and a step."""
    steps, events = read_steps(own, after_step), _events(own, after)
    step, event = next(steps, None), next(events, None)
    while step is not None or event is not None:
        together: list[Recorded] = []
        if event is not None and (step is None or event.position <= step.before):
            now, until = event.recorded_at, None if step is None else step.before
            while event is not None and event.recorded_at == now and (until is None or event.position <= until):
                together.append(event)
                event = next(events, None)
            yield _Group(now, None, together)
        elif step is not None:
            while event is not None and event.position <= step.after:
                together.append(event)
                event = next(events, None)
            yield _Group(step.now, step, together)
            step = next(steps, None)


def _events(own: Reader, after: int) -> Iterator[Recorded]:
    while page := own.read(after, limit=PAGE):
        yield from page
        after = page[-1].position


def _taken_later(own: Reader, stream: str, position: int) -> bool:
    return any(step.name == stream and step.first <= position <= step.last for step in read_steps(own))


def _log_of(stream: str) -> str:
    """The log that a stream carries: the last parts of its name, as in `TL_IDENTITY_0`."""
    _, service, number = stream.rsplit("_", 2)
    return log_name(service.lower(), int(number))


def _taken_over(upstream: Reader, service: str) -> int:
    """The position up to which a log holds what earlier ones had, and was taken from those."""
    opening = upstream.read_stream(opening_stream(service))
    return opening[-1].position if opening else 0
