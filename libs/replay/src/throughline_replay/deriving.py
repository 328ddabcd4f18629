"""A service's decisions taken again from its upstream logs, beside what it logged: where do they first differ?

The handlers that the running service runs decide again on a store of their own, in the order that the log proves: which
upstream events were taken together is kept with what was decided on them (`throughline_eventlog.steps`), and what
people asked for is in the log in its place. Times are those of the log, never the clock's. Nothing that sends is there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Final, cast

from google.protobuf import descriptor_pool, json_format, message_factory
from google.protobuf.message import DecodeError

from throughline_eventlog import (
    POISON,
    Codec,
    Commit,
    Derivation,
    NewEvent,
    Reader,
    Step,
    Store,
    StoreSettings,
    Transaction,
    collecting_seldom,
    open_store,
    read_steps,
)
from throughline_kernel import Recorded, Refusal
from throughline_replay.comparing import differing_paths
from throughline_replay.replaying import UnknownServiceError, code_of
from throughline_replay.states import Standing, compare_states

PAGE: Final = 1_000
AT_ONCE: Final = 2_000
"""Events decided on in one transaction of the store beside."""
GROUPS_AT_ONCE: Final = 500
PROGRESS: Final = "derived"
SHOWN: Final = 200

Progress = Callable[[int], None]
"""Hears of every so many events of the log that were decided again."""


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first event that was decided otherwise: what the log has and what the code at hand makes of it.

    Ids in hex. `logged` and `derived` are the values at `path` within the event, as JSON, or "absent" where one side
    has no such event. `taken` says what was decided on: an upstream log and the positions taken together, a work of the
    service's own, or what was asked for.
    """

    service: str
    position: int
    type: str
    event_id: str
    derived_event_id: str
    causation_id: str
    taken: str
    path: str
    logged: str
    derived: str

    def __str__(self) -> str:
        name = self.type.rpartition(".")[2]
        event = self.event_id or self.derived_event_id
        cause = f", caused by {self.causation_id}" if self.causation_id else ""
        return (
            f"{name} {event} at position {self.position} ({self.taken}{cause}): {self.path or 'the event'} was "
            f"{self.logged}, would be {self.derived}"
        )


@dataclass(frozen=True, slots=True)
class Derived:
    """What came of deciding one service's log again, up to `position`.

    `events` are those of the log, `derived` those decided now, `taken` the upstream events; `differing` counts commits
    that decided otherwise, `refused` what people had asked for and would be refused now. `kinds` counts events by type:
    (logged, derived).
    """

    service: str
    position: int = 0
    events: int = 0
    derived: int = 0
    taken: int = 0
    differing: int = 0
    refused: int = 0
    first: Divergence | None = None
    kinds: Mapping[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    standing: Standing | None = None

    @property
    def same(self) -> bool:
        """Every event was decided as it was, and the states are the same to the last bit."""
        return self.first is None and (self.standing is None or self.standing.same)


@dataclass(frozen=True, slots=True)
class Unit:
    """One service's log of one partition to decide again, with all that is needed for it.

    `stores` are the logs by service; `env` has the installation's keys as the service's own environment would; `work`
    is the file of the store beside; `instead` a serialised rule to try (see the service's `derivation`); `named` the
    keys of state (by their ends) to look at alone, all where it is empty.
    """

    service: str
    stores: Mapping[str, StoreSettings]
    env: Mapping[str, str] = field(repr=False)
    work: Path
    instead: bytes = b""
    named: tuple[str, ...] = ()


class DerivationError(Exception):
    """Deciding again cannot go on; the message says where and why."""


class StoreAwayError(DerivationError):
    """A store cannot be reached."""


def _offered() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group="throughline.derivations")}


def derivable() -> tuple[str, ...]:
    """The services that can decide again: those that decide on the logs of others."""
    return tuple(sorted(_offered()))


def make_derivation(service: str, env: Mapping[str, str], instead: bytes = b"") -> Derivation:
    """A service's derivation, found through the entry point group `throughline.derivations`.

    Raises: UnknownServiceError; what the service raises for settings or rules that it cannot follow.
    """
    offered = _offered()
    if service not in offered:
        raise UnknownServiceError(service)
    return cast("Derivation", offered[service].load()(env, instead))


def derive(unit: Unit, progress: Progress | None = None) -> Derived:
    """Decides a service's log again and compares events and standing states.

    Goes on where it was interrupted, if the code and `instead` are the same. Raises: DerivationError where the log
    cannot be decided again; UnavailableError, NewerLogError, SettingsError from the stores.
    """
    with ExitStack() as open_things:
        derivation = make_derivation(unit.service, unit.env, unit.instead)
        deriver = Deriver.open(open_things, derivation, unit)
        # One view from the beginning to the end: the cut at which events and states are compared.
        own = open_things.enter_context(deriver.own.snapshot())
        deriver.advance(own, progress)
        return deriver.compared(own, unit.named)


class Deriver:
    """Decides one log again in a store beside it. Belongs to one thread."""

    def __init__(self, derivation: Derivation, upstreams: Mapping[str, Store], beside: Beside) -> None:
        self.derivation = derivation
        self.beside = beside
        self._upstreams = upstreams
        self._codec = Codec(derivation.service)

    @classmethod
    def open(cls, open_things: ExitStack, derivation: Derivation, unit: Unit) -> Deriver:
        """Opens the stores; `open_things` closes them."""
        stores = {
            service: open_store(settings, tables=derivation.tables if service == unit.service else ())
            for service, settings in unit.stores.items()
        }
        for store in stores.values():
            open_things.callback(store.close)
        beside = Beside(derivation, unit)
        open_things.callback(beside.store.close)
        return cls(derivation, stores, beside)

    @property
    def own(self) -> Store:
        """The service's own store."""
        return self._upstreams[self.derivation.service]

    def advance(self, own: Reader, progress: Progress | None = None) -> Derived:
        """Decides on, up to where this view of the log ends. Raises DerivationError."""
        groups = _groups(own, self.beside.reached, self.beside.step)
        with ExitStack() as views:
            views.enter_context(collecting_seldom())
            upstreams = {
                service: views.enter_context(store.snapshot())
                for service, store in self._upstreams.items()
                if service != self.derivation.service
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

    def compared(self, own: Reader, named: Sequence[str] = ()) -> Derived:
        """What was found, with the states as they stand: the tables of this view, up to which was decided, and those
        beside.
        """
        with self.beside.store.snapshot() as beside:
            standing = compare_states(self.derivation.aggregates(own), self.derivation.aggregates(beside), named)
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
        then = _Then(tx, group.now, own)
        deciding = cast("Transaction", then)
        refused: Sequence[Refusal] = ()
        step, taken, events = group.step, "asked for", 0
        try:
            if step is None:
                refused = self.derivation.ask(deciding, group.events)
            elif step.last:
                upstream = _service_of(step.name)
                arrived = self._arrived(own, upstreams[upstream], step)
                events, taken = len(arrived), f"{upstream} {step.first} to {step.last}"
                self.derivation.take(deciding, upstream, arrived, group.events)
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
        found, first = _compare(self._codec, self.derivation.service, group.events, then.appended, taken)
        self.beside.count(group, then.appended, events, found=found, first=first, refused=len(refused))
        return events + len(group.events)

    def _arrived(self, own: Reader, upstream: Reader, step: Step) -> list[Recorded]:
        """The events that the step took. Raises LookupError where earlier ones were taken before steps were kept."""
        if self.beside.fresh(step.name):
            passed = upstream.read(0, until=step.first - 1, limit=1)
            # What was put aside as poison is passed over, and taken by a later step where it could be redriven.
            if passed and not own.count(POISON) and not _taken_later(own, step.name, passed[0].position):
                raise LookupError(
                    f"events up to {step.first - 1} of {_service_of(step.name)} were taken by a version of Throughline "
                    "that did not keep which were taken together: such a log cannot be decided again"
                )
        return upstream.read(step.first - 1, until=step.last)


class Beside:
    """The store in which a log is decided again, and how far that has come: kept in the same transactions."""

    def __init__(self, derivation: Derivation, unit: Unit) -> None:
        self.store = open_store(
            StoreSettings.sqlite(unit.service, unit.work), tables=(*derivation.tables, PROGRESS), clock=self._time
        )
        self.reached = 0
        self.step = b""
        self.tally = Derived(unit.service)
        self._kinds: dict[str, tuple[int, int]] = {}
        self._streams: list[str] = []
        self._code = code_of(unit.service, unit.instead)
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
        group: _Group,
        appended: Sequence[NewEvent],
        taken: int,
        *,
        found: bool,
        first: Divergence | None,
        refused: int,
    ) -> None:
        """Notes what became of a group."""
        for logged in group.events:
            there, here = self._kinds.get(logged.type, (0, 0))
            self._kinds[logged.type] = (there + 1, here)
        for event in appended:
            there, here = self._kinds.get(event.type, (0, 0))
            self._kinds[event.type] = (there, here + 1)
        if group.events:
            self.reached = group.events[-1].position
        if group.step is not None:
            self.step = group.step.key
        tally = self.tally
        self.tally = replace(
            tally,
            position=self.reached,
            events=tally.events + len(group.events),
            derived=tally.derived + len(appended),
            taken=tally.taken + taken,
            differing=tally.differing + found,
            refused=tally.refused + refused,
            first=tally.first or first,
            kinds=self._kinds,
        )

    def keep(self, tx: Transaction) -> None:
        """Writes how far it has come."""
        kept = {"code": self._code, "step": self.step.hex(), "streams": self._streams, **asdict(self.tally)}
        tx.put(PROGRESS, b"progress", json.dumps(kept).encode())

    def _go_on(self, kept: dict[str, Any]) -> None:
        if kept.pop("code") != self._code:
            raise DerivationError(
                f"the store beside {self.tally.service} was begun by other code or other rules: "
                "begin anew, with --fresh"
            )
        self.step = bytes.fromhex(kept.pop("step"))
        self._streams = kept.pop("streams")
        self._kinds = {name: (there, here) for name, (there, here) in kept.pop("kinds").items()}
        first = kept.pop("first")
        self.tally = Derived(**kept, first=None if first is None else Divergence(**first), kinds=self._kinds)
        self.reached = self.tally.position

    def _time(self) -> int:
        """The store beside keeps no time of its own; what is decided sees the log's."""
        return 0


@dataclass(frozen=True, slots=True)
class _Group:
    """What was decided together at `now`: by a step, or on what people asked for."""

    now: int
    step: Step | None
    events: list[Recorded]


class _Then:
    """A transaction at the time at which the log says that it was; what is appended is at hand."""

    def __init__(self, tx: Transaction, now: int, own: Reader) -> None:
        self._tx = tx
        self._own = own
        self.now = now
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
        return self._tx.append(events)

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


def _service_of(stream: str) -> str:
    """The service whose log a stream carries: the last part of its name but one, as in `TL_IDENTITY_0`."""
    return stream.rsplit("_", 2)[1].lower()


def _compare(
    codec: Codec, service: str, logged: Sequence[Recorded], derived: Sequence[NewEvent], taken: str
) -> tuple[bool, Divergence | None]:
    """Whether the group was decided otherwise, and where first; the order of streams among each other says nothing."""
    streams: dict[bytes, list[NewEvent]] = {}
    for event in derived:
        streams.setdefault(event.stream_id, []).append(event)
    for event in logged:
        mine = streams.get(event.stream_id)
        found = _difference(codec, event, mine.pop(0) if mine else None)
        if found is not None:
            path, there, here, other = found
            divergence = Divergence(
                service,
                event.position,
                event.type,
                event.event_id.hex(),
                other,
                event.causation_id,
                taken,
                path,
                there,
                here,
            )
            return True, divergence
    for left in streams.values():
        for event in left:
            shown = _shown(_values(event.type, event.payload))
            event_id = _event_id(codec, event).hex()
            position = logged[-1].position if logged else 0
            return True, Divergence(
                service, position, event.type, "", event_id, event.causation_id, taken, "", "absent", shown
            )
    return False, None


def _difference(codec: Codec, logged: Recorded, derived: NewEvent | None) -> tuple[str, str, str, str] | None:
    """(path, logged value, derived value, derived event id) of the first difference, None where there is none."""
    if derived is None:
        return "", _shown(_values(logged.type, logged.payload)), "absent", ""
    event_id = _event_id(codec, derived)
    for name, there, here in (
        ("type", logged.type, derived.type),
        ("version", logged.version, derived.version),
        ("event_id", logged.event_id.hex(), event_id.hex()),
        ("occurred_at", logged.occurred_at, derived.occurred_at),
        ("correlation_id", logged.correlation_id, derived.correlation_id),
        ("causation_id", logged.causation_id, derived.causation_id),
    ):
        if there != here:
            return name, _shown(there), _shown(here), event_id.hex()
    if logged.payload == derived.payload:
        return None
    # Maps are written in any order: the same values in other bytes are the same event.
    for path, there, here in differing_paths(
        _values(logged.type, logged.payload), _values(derived.type, derived.payload)
    ):
        return path, _shown(there), _shown(here), event_id.hex()
    return None


def _event_id(codec: Codec, event: NewEvent) -> bytes:
    return event.event_id or codec.event_id(event.stream_id, event.version)


def _values(type_: str, payload: bytes) -> Any:
    """The event's fields as JSON values; its bytes in hex where its message is not known."""
    try:
        descriptor = descriptor_pool.Default().FindMessageTypeByName(type_)
        message = message_factory.GetMessageClass(descriptor).FromString(payload)
    except (KeyError, DecodeError):
        return payload.hex()
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def _shown(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)[:SHOWN]
