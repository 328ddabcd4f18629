"""Every interaction id ever recorded, findable for ever, at a cost that stays low at millions.

Ids are hashes: put one by one into a big tree they would dirty a page each, and that page would be written twice.
So what is new goes into short runs, appended and also held in memory, one set of runs for each sixteenth of the ids; a
sixteenth that has grown long enough is merged into the big tree in key order, where several of its ids share a page.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Final

from ingestion.application.ports import IndexEntry
from throughline_eventlog import Reader, Transaction

SETTLED: Final = "interactions"
RUNS: Final = "interaction_runs"
INDEX_TABLES: Final = (SETTLED, RUNS)

SLICES: Final = 16
"""By the first four bits, so that a slice is a range of keys and shares pages."""
MERGE_AT: Final = 8_192
"""Ids in one slice's runs, beyond which they are merged: at most one slice a transaction, about 0.1 s."""

_KEY: Final = 16
_VALUE: Final = 24
_ENTRY: Final = _KEY + _VALUE


class RunIndex:
    """An exact index of interaction ids in the tables `interactions` and `interaction_runs`.

    The writer's thread alone may find and add; any thread may locate. In memory stand the ids of the runs: about 200
    bytes each, at most some SLICES * MERGE_AT of them. They are read again after a start, after a roll-back, and when
    another process has written.
    """

    def __init__(self, *, merge_at: int = MERGE_AT) -> None:
        self._merge_at = merge_at
        self._recent: list[dict[bytes, bytes]] | None = None

    def find(self, tx: Transaction, keys: Collection[bytes]) -> dict[bytes, IndexEntry]:
        """Those of the interactions that are recorded."""
        recent = self._current(tx)
        found: dict[bytes, bytes] = {}
        elsewhere: list[bytes] = []
        for key in keys:
            value = recent[key[0] >> 4].get(key)
            if value is None:
                elsewhere.append(key)
            else:
                found[key] = value
        if elsewhere:
            found.update(tx.get_many(SETTLED, elsewhere))
        return {key: _entry(value) for key, value in found.items()}

    def add(self, tx: Transaction, entries: Mapping[bytes, IndexEntry]) -> None:
        """Adds what was recorded in this transaction."""
        if not entries:
            return
        recent = self._current(tx)
        fresh: list[list[bytes]] = [[] for _ in range(SLICES)]
        for key, (position, content_mac) in entries.items():
            value = entry_value(IndexEntry(position, content_mac))
            slice_ = key[0] >> 4
            recent[slice_][key] = value
            fresh[slice_].append(key + value)
        # Positions are unique, so no run is ever written over.
        name = min(entry.position for entry in entries.values()).to_bytes(8, "big")
        tx.put_many(RUNS, {bytes((slice_,)) + name: b"".join(run) for slice_, run in enumerate(fresh) if run})
        longest = max(range(SLICES), key=lambda slice_: len(recent[slice_]))
        if len(recent[longest]) >= self._merge_at:
            self._merge(tx, longest, recent[longest])
            # Where this is rolled back everything is read again; whoever reads an older view finds it in the runs.
            recent[longest] = {}

    def locate(self, reader: Reader, key: bytes) -> IndexEntry | None:
        """One interaction, from any thread. Where it is newer than the reader's view, that has no event there."""
        slice_ = key[0] >> 4
        recent = self._recent
        value = None if recent is None else recent[slice_].get(key)
        if value is None:
            value = reader.get(SETTLED, key)
        if value is None:
            value = _in_runs(reader, slice_, key)
        return None if value is None else _entry(value)

    def rolled_back(self) -> None:
        """What was added last is not in the log: reads it all again when next asked."""
        self._recent = None

    def _current(self, tx: Transaction) -> list[dict[bytes, bytes]]:
        if self._recent is None:
            self._recent = [{} for _ in range(SLICES)]
            for key, value in read_runs(tx):
                self._recent[key[0] >> 4][key] = value
        return self._recent

    def _merge(self, tx: Transaction, slice_: int, entries: Mapping[bytes, bytes]) -> None:
        tx.put_many(SETTLED, entries)
        for name, _ in list(tx.scan(RUNS, prefix=bytes((slice_,)))):
            tx.delete(RUNS, name)


def read_runs(reader: Reader) -> Iterator[tuple[bytes, bytes]]:
    """What stands in the runs: (id, row of the big tree) each."""
    for _, run in reader.scan(RUNS):
        for at in range(0, len(run), _ENTRY):
            yield run[at : at + _KEY], run[at + _KEY : at + _ENTRY]


def entry_value(entry: IndexEntry) -> bytes:
    """An interaction's row in the big tree."""
    return entry.position.to_bytes(8, "big") + entry.content_mac


def _in_runs(reader: Reader, slice_: int, key: bytes) -> bytes | None:
    for _, run in reader.scan(RUNS, prefix=bytes((slice_,))):
        at = run.find(key)
        while at >= 0:
            if at % _ENTRY == 0:
                return run[at + _KEY : at + _ENTRY]
            at = run.find(key, at + 1)
    return None


def _entry(value: bytes) -> IndexEntry:
    return IndexEntry(int.from_bytes(value[:8], "big"), value[8:])
