"""A service's tables rebuilt beside the live ones, compared at one cut, and put in their place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final

from throughline_eventlog import Reader, Store, Transaction
from throughline_replay.deriving import Deriver, Progress, open_derivation, open_stores
from throughline_replay.divergences import Derived
from throughline_replay.projecting import Projector, projectable
from throughline_replay.units import Unit

ROWS_AT_ONCE: Final = 1_000

Rows = Callable[[Reader, str], Iterator[tuple[bytes, bytes]]]


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What came of a rebuild. `rows` counts by table those that were, or would be, put or taken away.

    `refused` says why the tables were left as they are; empty where they were switched, or only looked at.
    """

    derived: Derived
    rows: Mapping[str, int] = field(default_factory=dict[str, int])
    switched: bool = False
    refused: str = ""


@dataclass(frozen=True, slots=True)
class _Making:
    """What makes tables anew: by deciding again, or out of the service's own log. `rows` gives those of a table to be
    compared; `level` lays the live ones out as they are compared.
    """

    own: Store
    beside: Store
    tables: Sequence[str]
    advance: Callable[[Reader, Progress | None], Derived]
    compared: Callable[[Reader], Derived]
    rows: Rows
    level: Callable[[Transaction], None]


def rebuild(unit: Unit, progress: Progress | None = None, *, check: bool = False, repair: bool = False) -> Rebuilt:
    """Makes a service's tables anew in a store beside, and switches the live tables to those that came of it.

    Beside a service that runs: the log is decided again from a view of it, the states are compared at that view's cut,
    and only then are the tables held, while what came since is decided as well and the rows that differ are replaced in
    one transaction. Refuses where an event is decided otherwise, or where the states differ; with `repair` a live state
    that differs is replaced, for then the log has proved which one is right. With `check` nothing is written. Where a
    service decides on what is in no log, its own log is projected instead. Raises: as `derive`.
    """
    with ExitStack() as open_things:
        making = _making(open_things, unit)
        with making.own.snapshot() as own:
            making.advance(own, progress)
            found = making.compared(own)
            refused = _refused(found, repair=repair)
            if refused or check:
                return Rebuilt(found, dict(_differing(own, making)), refused=refused)
        with making.own.transaction() as live:
            # Whoever writes waits from here on.
            late = making.advance(live, progress)
            if late.first is not None:
                return Rebuilt(late, refused=_otherwise(late))
            making.level(live)
            with making.beside.snapshot() as beside:
                rows = {table: _replace(live, beside, table, making.rows) for table in making.tables}
        return Rebuilt(found, rows, switched=True)


def _making(open_things: ExitStack, unit: Unit) -> _Making:
    if unit.service in projectable():
        projector = Projector(open_things, unit)
        of = projector.projection
        return _Making(
            projector.own, projector.beside, of.tables, projector.advance, projector.compared, of.rows, of.level
        )
    derivation = open_derivation(open_things, unit)
    deriver = Deriver(open_things, derivation, unit, open_stores(open_things, unit, [derivation]))
    return _Making(
        deriver.own,
        deriver.beside.store,
        derivation.tables,
        deriver.advance,
        deriver.compared,
        lambda reader, table: reader.scan(table),
        lambda _: None,
    )


def _refused(found: Derived, *, repair: bool) -> str:
    if found.first is not None:
        return _otherwise(found)
    if found.standing is not None and not found.standing.same and not repair:
        return f"the live state differs from the rebuilt one at position {found.position}: {found.standing.first}"
    return ""


def _otherwise(found: Derived) -> str:
    return f"the code at hand decides otherwise, and its tables would contradict the log: {found.first}"


def _differing(own: Reader, making: _Making) -> Iterator[tuple[str, int]]:
    with making.beside.snapshot() as beside:
        for table in making.tables:
            yield table, sum(1 for _ in _changes(making.rows(own, table), making.rows(beside, table)))


def _replace(live: Transaction, beside: Reader, table: str, rows: Rows) -> int:
    """Makes the live table the one beside; how many rows that took."""
    changed = 0
    puts: dict[bytes, bytes] = {}
    for key, value in _changes(rows(live, table), rows(beside, table)):
        changed += 1
        if value is None:
            live.delete(table, key)
        else:
            puts[key] = value
        if len(puts) == ROWS_AT_ONCE:
            live.put_many(table, puts)
            puts = {}
    live.put_many(table, puts)
    return changed


def _changes(
    ours: Iterator[tuple[bytes, bytes]], theirs: Iterator[tuple[bytes, bytes]]
) -> Iterator[tuple[bytes, bytes | None]]:
    """The rows of a table that differ, in key order: the value beside, None where there is no such row."""
    mine, other = next(ours, None), next(theirs, None)
    while mine is not None or other is not None:
        if other is None or (mine is not None and mine[0] < other[0]):
            assert mine is not None  # noqa: S101 # one of the two is there
            yield mine[0], None
            mine = next(ours, None)
        elif mine is None or other[0] < mine[0]:
            yield other
            other = next(theirs, None)
        else:
            if mine[1] != other[1]:
                yield other
            mine, other = next(ours, None), next(theirs, None)
