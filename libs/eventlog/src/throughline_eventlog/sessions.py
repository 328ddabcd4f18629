"""What reading and writing have in common on every store; the stores bring the statements."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final

from throughline_eventlog.codec import Codec
from throughline_eventlog.records import Commit, InboxPosition, LoggedRow, NewEvent
from throughline_kernel import Recorded

PAGE: Final = 1_000
"""Rows that a scan fetches at a time."""

TypeVersions = set[tuple[str, int]]


def after_prefix(prefix: bytes) -> bytes | None:
    """The first key behind all keys with the prefix, None where there is no such key."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes((stem[-1] + 1,)) if stem else None


class BaseReader(ABC):
    """One consistent view, in terms of a handful of statements."""

    def __init__(self, codec: Codec, tables: frozenset[str]) -> None:
        self._codec = codec
        self._tables = tables

    @abstractmethod
    def _log_rows(self, after: int, until: int | None, limit: int | None) -> list[LoggedRow]: ...

    @abstractmethod
    def _stream_rows(self, stream_id: bytes, after_version: int, limit: int | None) -> list[LoggedRow]: ...

    @abstractmethod
    def _streams_rows(self, stream_ids: Sequence[bytes]) -> list[LoggedRow]: ...

    @abstractmethod
    def _stored(self, table: str, keys: Sequence[bytes]) -> dict[bytes, bytes]: ...

    @abstractmethod
    def _page(
        self, table: str, low: bytes, high: bytes | None, limit: int, reverse: bool
    ) -> list[tuple[bytes, bytes]]: ...

    @abstractmethod
    def _count(self, table: str) -> int: ...

    @abstractmethod
    def last_versions(self, stream_ids: Collection[bytes]) -> dict[bytes, int]: ...

    @abstractmethod
    def last_position(self) -> int: ...

    @abstractmethod
    def commit_at(self, as_of: int | None = None) -> Commit: ...

    @abstractmethod
    def count_events(self) -> int: ...

    @abstractmethod
    def inbox(self, stream: str) -> InboxPosition | None: ...

    @abstractmethod
    def inboxes(self) -> list[InboxPosition]: ...

    def _known(self, table: str) -> str:
        if table not in self._tables:
            raise KeyError(f"table {table!r} was not named when the store was opened")
        return table

    def get(self, table: str, key: bytes) -> bytes | None:
        return self._stored(self._known(table), (key,)).get(key)

    def get_many(self, table: str, keys: Collection[bytes]) -> dict[bytes, bytes]:
        return self._stored(self._known(table), sorted(set(keys)))

    def scan(
        self,
        table: str,
        *,
        prefix: bytes = b"",
        after: bytes = b"",
        limit: int | None = None,
        reverse: bool = False,
    ) -> Iterator[tuple[bytes, bytes]]:
        self._known(table)
        low = prefix
        high = after_prefix(prefix)
        if after and reverse:
            high = after if high is None else min(high, after)
        elif after:
            low = max(low, after + b"\x00")
        left = limit
        while left is None or left > 0:
            size = PAGE if left is None else min(PAGE, left)
            rows = self._page(table, low, high, size, reverse)
            yield from rows
            if len(rows) < size:
                return
            if left is not None:
                left -= size
            if reverse:
                high = rows[-1][0]
            else:
                low = rows[-1][0] + b"\x00"

    def count(self, table: str) -> int:
        return self._count(self._known(table))

    def read_logged(
        self, after: int = 0, *, until: int | None = None, as_of: int | None = None, limit: int | None = None
    ) -> list[LoggedRow]:
        if as_of is not None:
            last = self.commit_at(as_of).position
            until = last if until is None else min(until, last)
        if until is not None and until <= after:
            return []
        return self._log_rows(after, until, limit)

    def read(
        self, after: int = 0, *, until: int | None = None, as_of: int | None = None, limit: int | None = None
    ) -> list[Recorded]:
        return self._codec.decode(self.read_logged(after, until=until, as_of=as_of, limit=limit))

    def read_stream(self, stream_id: bytes, *, after_version: int = 0, limit: int | None = None) -> list[Recorded]:
        return self._codec.decode(self._stream_rows(stream_id, after_version, limit))

    def read_streams(self, stream_ids: Collection[bytes]) -> dict[bytes, list[Recorded]]:
        streams: dict[bytes, list[Recorded]] = {}
        for event in self._codec.decode(self._streams_rows(sorted(set(stream_ids)))):
            streams.setdefault(event.stream_id, []).append(event)
        return streams

    def last_version(self, stream_id: bytes) -> int:
        return self.last_versions((stream_id,))[stream_id]


class BaseTransaction(BaseReader):
    """Holds rows back until they are needed or the transaction ends, and writes each table's at once."""

    def __init__(
        self,
        codec: Codec,
        tables: frozenset[str],
        *,
        now: int,
        overtaken: bool,
        head_position: int,
        known_types: TypeVersions,
    ) -> None:
        super().__init__(codec, tables)
        self.now = now
        self.overtaken = overtaken
        self.traceparent = ""
        self.appended: list[LoggedRow] = []
        self.new_types: TypeVersions = set()
        self._head_position = head_position
        self._known_types = known_types
        self._pending: dict[str, dict[bytes, bytes | None]] = {}
        self._touched = False

    @property
    def touched(self) -> bool:
        """Whether there is anything to commit."""
        return self._touched or bool(self._pending)

    @property
    def head_position(self) -> int:
        """Position of the last event that was appended with this or any earlier commit."""
        return self._head_position

    @abstractmethod
    def _append_rows(
        self, rows: Sequence[tuple[bytes, int, str, bytes]], positions: Sequence[int] | None
    ) -> list[int]: ...

    @abstractmethod
    def _add_types(self, types: Collection[tuple[str, int]]) -> None: ...

    @abstractmethod
    def _write(self, table: str, puts: Sequence[tuple[bytes, bytes]], deletes: Sequence[bytes]) -> None: ...

    @abstractmethod
    def _track(self, upstream: str, sequence: int) -> None: ...

    @abstractmethod
    def _write_inbox(self, position: InboxPosition) -> None: ...

    def append(self, events: Sequence[NewEvent], positions: Sequence[int] | None = None) -> list[int]:
        if not events:
            return []
        encode, now, trace = self._codec.encode, self.now, self.traceparent
        rows = [(event.stream_id, event.version, event.type, encode(event, now, trace)) for event in events]
        positions = self._append_rows(rows, positions)
        self._touched = True
        self.appended += [LoggedRow(position, *row) for position, row in zip(positions, rows, strict=True)]
        self._head_position = max(self._head_position, *positions)
        types = {(type_, self._codec.schemas.present(type_)) for type_ in {event.type for event in events}}
        types -= self._known_types
        types -= self.new_types
        if types:
            self._add_types(types)
            self.new_types |= types
        return positions

    def put(self, table: str, key: bytes, value: bytes) -> None:
        try:
            self._pending[table][key] = value
        except KeyError:
            self._pending.setdefault(self._known(table), {})[key] = value

    def put_many(self, table: str, rows: Mapping[bytes, bytes]) -> None:
        if rows:
            self._pending.setdefault(self._known(table), {}).update(rows)

    def delete(self, table: str, key: bytes) -> None:
        self._pending.setdefault(self._known(table), {})[key] = None

    def get(self, table: str, key: bytes) -> bytes | None:
        pending = self._pending.get(table)
        if pending is not None and key in pending:
            return pending[key]
        return super().get(table, key)

    def get_many(self, table: str, keys: Collection[bytes]) -> dict[bytes, bytes]:
        pending = self._pending.get(table)
        if not pending:
            return super().get_many(table, keys)
        wanted = set(keys)
        found = super().get_many(table, wanted - pending.keys())
        for key in wanted & pending.keys():
            value = pending[key]
            if value is not None:
                found[key] = value
        return found

    def _page(self, table: str, low: bytes, high: bytes | None, limit: int, reverse: bool) -> list[tuple[bytes, bytes]]:
        self._flush(table)
        return self._stored_page(table, low, high, limit, reverse)

    def _count(self, table: str) -> int:
        self._flush(table)
        return self._stored_count(table)

    @abstractmethod
    def _stored_page(
        self, table: str, low: bytes, high: bytes | None, limit: int, reverse: bool
    ) -> list[tuple[bytes, bytes]]: ...

    @abstractmethod
    def _stored_count(self, table: str) -> int: ...

    def set_inbox(self, position: InboxPosition) -> None:
        """Moves forward. A step within one message keeps its sequence and moves the position alone."""
        before = self.inbox(position.stream)
        within = (
            before is not None
            and (before.created, before.sequence) == (position.created, position.sequence)
            and position.position > before.position
        )
        if not within and not (before is None and position.sequence == 0):
            self._track(f"{position.stream}@{position.created}", position.sequence)
        self._write_inbox(position)
        self._touched = True

    def flush(self) -> None:
        """Writes what was held back."""
        for table in list(self._pending):
            self._flush(table)

    def _flush(self, table: str) -> None:
        pending = self._pending.pop(table, None)
        if pending:
            puts = sorted((key, value) for key, value in pending.items() if value is not None)
            deletes = sorted(key for key, value in pending.items() if value is None)
            self._write(table, puts, deletes)
            self._touched = True
