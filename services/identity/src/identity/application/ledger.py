"""The rows of one transaction: read once, changed in memory, written together at the end."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from hashlib import blake2b
from typing import Any, Final, Generic, TypeVar

import msgspec

from identity.application.records import (
    CLIENTS,
    CLIENTS_UNTIL,
    CONSENTS,
    CONSTRAINTS,
    FORGETTINGS,
    FORGETTINGS_UNTIL,
    IDENTIFIERS,
    IDENTIFIERS_UNTIL,
    MERGES,
    MERGES_UNTIL,
    PERSONAS,
    PROPOSALS,
    PROPOSALS_UNTIL,
    ClientRow,
    ConsentRow,
    ConstraintRow,
    ForgettingRow,
    IdentifierRow,
    MergeRow,
    PersonaRow,
    ProposalRow,
    until_key,
)
from throughline_eventlog import NewEvent, Reader, Transaction
from throughline_kernel import Recorded

Row = TypeVar("Row")
Told = TypeVar("Told", ClientRow, IdentifierRow)

_ENCODE: Final = msgspec.msgpack.Encoder().encode


def stream_of(kind: str, key: bytes) -> bytes:
    """A name of 16 bytes: the stream of a `client`, `persona` or `identifier`, or of the `rules`; also an event's id.

    `kind` has at most 16 letters.
    """
    return blake2b(key, digest_size=16, person=kind.encode()).digest()


class Table(Generic[Row]):
    """A table of typed rows as they stand in one consistent view."""

    def __init__(self, reader: Reader, name: str, row: type[Row]) -> None:
        self.name = name
        self._reader = reader
        self.decode: Callable[[bytes], Row] = _decoder(row)

    def get(self, key: bytes) -> Row | None:
        """The row, None where there is none."""
        raw = self._reader.get(self.name, key)
        return None if raw is None else self.decode(raw)

    def get_many(self, keys: Collection[bytes]) -> dict[bytes, Row]:
        """Those of the rows that exist."""
        found = self._reader.get_many(self.name, keys) if keys else {}
        return {key: self.decode(raw) for key, raw in found.items()}

    def scan(self, prefix: bytes = b"", after: bytes = b"", limit: int | None = None) -> Iterator[tuple[bytes, Row]]:
        """Rows in key order."""
        for key, raw in self._reader.scan(self.name, prefix=prefix, after=after, limit=limit):
            yield key, self.decode(raw)


class Tables:
    """The tables that are read, each as it stands in one consistent view."""

    def __init__(self, reader: Reader) -> None:
        self.clients = Table(reader, CLIENTS, ClientRow)
        self.personas = Table(reader, PERSONAS, PersonaRow)
        self.identifiers = Table(reader, IDENTIFIERS, IdentifierRow)
        self.merges = Table(reader, MERGES, MergeRow)
        self.proposals = Table(reader, PROPOSALS, ProposalRow)
        self.consents = Table(reader, CONSENTS, ConsentRow)
        self.forgettings = Table(reader, FORGETTINGS, ForgettingRow)


class WorkingTable(Generic[Row]):
    """Rows that one transaction works on. Scanning a table that is worked on needs a flush first."""

    def __init__(self, tx: Transaction, name: str, row: type[Row]) -> None:
        self.stored = Table(tx, name, row)
        self._tx = tx
        self._rows: dict[bytes, Row | None] = {}
        self._changed: set[bytes] = set()

    def get(self, key: bytes) -> Row | None:
        """The row as this transaction sees it; tell `put` after changing it."""
        if key not in self._rows:
            self._rows[key] = self._taken(key, self._tx.get(self.stored.name, key))
        return self._rows[key]

    def must(self, key: bytes) -> Row:
        """The row that has to be there. Raises: LookupError where the tables contradict each other."""
        row = self.get(key)
        if row is None:
            raise LookupError(f"{self.stored.name} lacks {key.hex()}")
        return row

    def load(self, keys: Collection[bytes]) -> None:
        """Reads rows ahead, in one question to the store."""
        missing = [key for key in keys if key not in self._rows]
        if missing:
            found = self._tx.get_many(self.stored.name, missing)
            for key in missing:
                self._rows[key] = self._taken(key, found.get(key))

    def _taken(self, _key: bytes, raw: bytes | None) -> Row | None:
        return None if raw is None else self.stored.decode(raw)

    def put(self, key: bytes, row: Row) -> None:
        """Sets the row, or says that it was changed."""
        self._rows[key] = row
        self._changed.add(key)

    def delete(self, key: bytes) -> None:
        """Removes the row."""
        self._rows[key] = None
        self._changed.add(key)

    def flush(self) -> None:
        """Writes what was changed."""
        puts: dict[bytes, bytes] = {}
        for key in self._changed:
            row = self._rows[key]
            if row is None:
                self._tx.delete(self.stored.name, key)
            else:
                puts[key] = _ENCODE(row)
        self._tx.put_many(self.stored.name, puts)
        self._changed.clear()

    def drop(self) -> None:
        """Writes what was changed and lets go of the rows."""
        self.flush()
        self._rows.clear()


class _KeptTable(WorkingTable[Row]):
    """Rows whose former states are kept: under `until`, what each was until a commit changed it, and an empty row where
    it was not there.
    """

    def __init__(self, tx: Transaction, name: str, row: type[Row], until: str) -> None:
        super().__init__(tx, name, row)
        self._until = until
        self._stored: dict[bytes, bytes] = {}
        self._forgotten: set[bytes] = set()

    def forget(self, key: bytes) -> None:
        """What the row was is not to be found any more, nor what it is until this commit."""
        self._forgotten.add(key)
        for former, _ in list(self._tx.scan(self._until, prefix=key)):
            self._tx.delete(self._until, former)

    def flush(self) -> None:
        """Writes what was changed, and what it was."""
        unread = self._changed - self._stored.keys()
        if unread:
            found = self._tx.get_many(self.stored.name, unread)
            self._stored.update({key: found.get(key, b"") for key in unread})
        now = self._tx.now
        kept = [key for key in self._changed - self._forgotten if self._changes(key)]
        former = {until_key(key, now): self._stored[key] for key in kept}
        self._stored = {}
        super().flush()
        if former:
            # Of several changes in one commit the first one knows what was before it.
            known = self._tx.get_many(self._until, former)
            self._tx.put_many(self._until, {key: raw for key, raw in former.items() if key not in known})

    def _taken(self, key: bytes, raw: bytes | None) -> Row | None:
        self._stored[key] = raw or b""
        return super()._taken(key, raw)

    def _changes(self, key: bytes) -> bool:
        row = self._rows[key]
        return (b"" if row is None else _ENCODE(row)) != self._stored[key]


class _ToldTable(_KeptTable[Told]):
    """Of rows that begin with an event of their own, and change in what nobody is told: those that are told otherwise
    now.
    """

    def blank(self, key: bytes, of: Callable[[Told], bool]) -> None:
        """Where the row was such a one it is nothing, at every instant before this commit."""
        former = dict(self._tx.scan(self._until, prefix=key))
        former.setdefault(until_key(key, self._tx.now), self._tx.get(self.stored.name, key) or b"")
        kept = {each: b"" if raw and of(self.stored.decode(raw)) else raw for each, raw in former.items()}
        self._tx.put_many(self._until, kept)

    def _changes(self, key: bytes) -> bool:
        row, raw = self._rows[key], self._stored[key]
        return bool(raw) and row is not None and self.stored.decode(raw).told != row.told


class Ledger:
    """Everything identity reads and writes in one transaction."""

    def __init__(self, tx: Transaction) -> None:
        self.tx = tx
        self.personas = WorkingTable(tx, PERSONAS, PersonaRow)
        self.identifiers = _ToldTable(tx, IDENTIFIERS, IdentifierRow, IDENTIFIERS_UNTIL)
        self.clients = _ToldTable(tx, CLIENTS, ClientRow, CLIENTS_UNTIL)
        self.merges = _KeptTable(tx, MERGES, MergeRow, MERGES_UNTIL)
        self.proposals = _KeptTable(tx, PROPOSALS, ProposalRow, PROPOSALS_UNTIL)
        self.constraints = WorkingTable(tx, CONSTRAINTS, ConstraintRow)
        self.consents = WorkingTable(tx, CONSENTS, ConsentRow)
        self.forgettings = _KeptTable(tx, FORGETTINGS, ForgettingRow, FORGETTINGS_UNTIL)
        self._events: list[NewEvent] = []

    def emit(self, event: NewEvent) -> None:
        """Appends the event with the next flush; order is kept."""
        self._events.append(event)

    def index(self, table: str, key: bytes, value: bytes = b"") -> None:
        """Sets an index row."""
        self.tx.put(table, key, value)

    def unindex(self, table: str, key: bytes) -> None:
        """Removes an index row."""
        self.tx.delete(table, key)

    def suffixes(self, table: str, prefix: bytes) -> list[bytes]:
        """What stands behind the prefix in the keys of an index."""
        size = len(prefix)
        return [key[size:] for key, _ in self.tx.scan(table, prefix=prefix)]

    def streams(self, stream_ids: Collection[bytes]) -> dict[bytes, list[Recorded]]:
        """Streams as they are, with what was emitted so far."""
        self._append()
        return self.tx.read_streams(stream_ids)

    def flush(self) -> None:
        """Writes events and rows."""
        self._append()
        for table in self._tables():
            table.flush()

    def drop(self) -> None:
        """Writes events and rows, and lets go of the rows: keeps memory flat over a whole history."""
        self._append()
        for table in self._tables():
            table.drop()

    def _tables(self) -> tuple[WorkingTable[Any], ...]:
        return (
            self.personas,
            self.identifiers,
            self.clients,
            self.merges,
            self.proposals,
            self.constraints,
            self.consents,
            self.forgettings,
        )

    def _append(self) -> None:
        if self._events:
            self.tx.append(self._events)
            self._events = []


_DECODERS: dict[type[Any], Callable[[bytes], Any]] = {}


def _decoder(row: type[Row]) -> Callable[[bytes], Row]:
    if row not in _DECODERS:
        _DECODERS[row] = msgspec.msgpack.Decoder(row).decode
    return _DECODERS[row]


def encode_row(row: object) -> bytes:
    """A row as it is stored."""
    return _ENCODE(row)
