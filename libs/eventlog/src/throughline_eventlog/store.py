"""What a store is: consistent readers, one transaction at a time, and a bell that rings when the log grows."""

from __future__ import annotations

import re
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from typing import Final, Protocol

from throughline_eventlog.application import EventLog
from throughline_eventlog.archive import ArchiveReader, Restoration
from throughline_eventlog.codec import Codec
from throughline_eventlog.errors import NewerLogError, SealedLogError, SettingsError
from throughline_eventlog.records import Commit, InboxPosition, LoggedRow, NewEvent
from throughline_eventlog.schemas import SCHEMAS, Schemas
from throughline_eventlog.settings import SQLITE, StoreSettings
from throughline_kernel import Recorded

LOG_FORMAT: Final = 1
SEALED: Final = "sealed"
"""Under which name a store keeps which partitions follow its log: it then takes nothing more."""
TAIL_BYTES: Final = 8 * 1024 * 1024
POISON: Final = "poison"
"""Events that a handler could not take, kept whole to be redriven."""
STEPS: Final = "steps"
"""Which upstream events were taken together, and when: see `steps`."""

_TABLE: Final = re.compile(r"[a-z][a-z0-9_]{0,40}\Z")

Clock = Callable[[], int]


def wall_clock() -> int:
    """The time now: microseconds since epoch, UTC."""
    return time.time_ns() // 1_000


class Reader(Protocol):
    """One consistent view of a service's log, its tables and its inbox."""

    def get(self, table: str, key: bytes) -> bytes | None:
        """The row's value, None where there is none."""
        ...

    def get_many(self, table: str, keys: Collection[bytes]) -> dict[bytes, bytes]:
        """The values of those of the keys that have one."""
        ...

    def scan(
        self,
        table: str,
        *,
        prefix: bytes = b"",
        after: bytes = b"",
        limit: int | None = None,
        reverse: bool = False,
    ) -> Iterator[tuple[bytes, bytes]]:
        """Rows in key order, bytewise, within the prefix and strictly after `after` (a whole key).

        With `reverse`, from the last down, strictly before `after` where it is given. Rows put or deleted while
        scanning may or may not be seen.
        """
        ...

    def count(self, table: str) -> int:
        """The number of rows."""
        ...

    def read(
        self, after: int = 0, *, until: int | None = None, as_of: int | None = None, limit: int | None = None
    ) -> list[Recorded]:
        """Events in log order with position > after, position <= until and recorded_at <= as_of (microseconds)."""
        ...

    def read_logged(
        self, after: int = 0, *, until: int | None = None, as_of: int | None = None, limit: int | None = None
    ) -> list[LoggedRow]:
        """As `read`, with envelopes left unopened."""
        ...

    def read_stream(self, stream_id: bytes, *, after_version: int = 0, limit: int | None = None) -> list[Recorded]:
        """One stream's events in version order."""
        ...

    def read_streams(self, stream_ids: Collection[bytes]) -> dict[bytes, list[Recorded]]:
        """Several streams at once, each in version order; streams without events are left out."""
        ...

    def last_version(self, stream_id: bytes) -> int:
        """Version of the stream's last event, 0 where it is empty."""
        ...

    def last_versions(self, stream_ids: Collection[bytes]) -> dict[bytes, int]:
        """Version of each stream's last event, 0 where it is empty."""
        ...

    def last_position(self) -> int:
        """Position of the log's last event, 0 where it is empty."""
        ...

    def commit_at(self, as_of: int | None = None) -> Commit:
        """The last commit with recorded_at <= as_of (microseconds), the last of all where it is None.

        Whoever asks for its instant again gets the same one for ever. Commit(0, 0) before the first.
        """
        ...

    def count_events(self) -> int:
        """The number of events in the log."""
        ...

    def inbox(self, stream: str) -> InboxPosition | None:
        """How far this service has got in a stream on the bus, None where it has not begun."""
        ...

    def inboxes(self) -> list[InboxPosition]:
        """How far this service has got in every stream it consumes, by stream name."""
        ...


class Transaction(Reader, Protocol):
    """What is written together: all of it becomes durable, or nothing. Reads see what was written in it before."""

    @property
    def now(self) -> int:
        """The recorded_at of this commit: microseconds, increasing along the log whatever the clock does."""
        ...

    traceparent: str
    """W3C trace context that events get which bring none of their own: the commit's."""

    @property
    def overtaken(self) -> bool:
        """Whether another process wrote to this store since this store last did: what is cached may be old."""
        ...

    def append(self, events: Sequence[NewEvent], positions: Sequence[int] | None = None) -> list[int]:
        """Appends to the log and gives the positions. Raises StreamConflictError where a version is already taken.

        They are the next ones, or those given: each where no event is, and behind all of earlier transactions. To give
        them is for a log that is made again beside another.
        """
        ...

    def put(self, table: str, key: bytes, value: bytes) -> None:
        """Sets the row."""
        ...

    def put_many(self, table: str, rows: Mapping[bytes, bytes]) -> None:
        """Sets the rows."""
        ...

    def delete(self, table: str, key: bytes) -> None:
        """Removes the row where there is one."""
        ...

    def set_inbox(self, position: InboxPosition) -> None:
        """Moves forward in a stream on the bus. Raises InboxConflictError where it stands there or further already."""
        ...


class Grew:
    """Rings when a commit made the log longer. Callbacks run in the thread that committed and must return at once."""

    def __init__(self) -> None:
        self._callbacks: dict[object, Callable[[], None]] = {}
        self._lock = threading.Lock()

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Calls back after every growth until the returned function is called."""
        token = object()
        with self._lock:
            self._callbacks[token] = callback

        def unsubscribe() -> None:
            with self._lock:
                self._callbacks.pop(token, None)

        return unsubscribe

    def ring(self) -> None:
        """Tells everyone."""
        with self._lock:
            callbacks = list(self._callbacks.values())
        for callback in callbacks:
            callback()


class Tail:
    """The end of the log as this process committed it, kept in memory for whoever publishes it.

    A relay that keeps up reads every event right after it was written: asking the store for it again would cost as much
    as writing it. Holds at most `most_bytes` of envelopes; what is older, or was written by another process, the store
    has.
    """

    def __init__(self, most_bytes: int = TAIL_BYTES) -> None:
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._rows: deque[LoggedRow] = deque()
        self._bytes = 0
        # The position before the first row, and that of the last one.
        self._start = self._end = -1

    def extend(self, before: int, rows: Iterable[LoggedRow]) -> None:
        """Adds what was just committed, in order, behind the event at position `before`."""
        with self._lock:
            if before != self._end:
                self._rows.clear()
                self._bytes, self._start = 0, before
            for row in rows:
                self._rows.append(row)
                self._bytes += len(row.envelope)
            while self._bytes > self._most_bytes:
                dropped = self._rows.popleft()
                self._bytes -= len(dropped.envelope)
                self._start = dropped.position
            self._end = self._rows[-1].position if self._rows else self._start

    def take(self, after: int, limit: int) -> list[LoggedRow]:
        """The next rows after a position, at most `limit`; none where they are not at hand. Lets go of those before."""
        with self._lock:
            if not self._start <= after < self._end:
                return []
            while self._rows and self._rows[0].position <= after:
                dropped = self._rows.popleft()
                self._bytes -= len(dropped.envelope)
                self._start = dropped.position
            # Positions may have gaps: the last row before `after` was let go, or never was here.
            return list(islice(self._rows, limit)) if self._start == after else []


class Store(ABC):
    """One service's log, tables and inbox. Thread-safe; one transaction at a time."""

    def __init__(self, log: EventLog, codec: Codec, tables: Collection[str], clock: Clock) -> None:
        self.log = log
        self.codec = codec
        self.service: str = log.name
        self.tables = frozenset(tables)
        self.clock = clock
        self.grew = Grew()
        self._tail: Tail | None = None

    def follow(self) -> Tail:
        """The end of the log in memory, kept from now on. For one follower."""
        self._tail = Tail()
        return self._tail

    def _committed(self, before: int, rows: Sequence[LoggedRow]) -> None:
        """Tells who follows the log what became of it; `before` is where it ended."""
        if rows:
            if self._tail is not None:
                self._tail.extend(before, rows)
            self.grew.ring()

    @abstractmethod
    def snapshot(self) -> AbstractContextManager[Reader]:
        """A consistent view, from any thread. Raises UnavailableError where the store is away."""

    @abstractmethod
    def transaction(self) -> AbstractContextManager[Transaction]:
        """Commits durably at the end of the block, or rolls back where it raises.

        Belongs to the Writer; tests and tools may use it where no Writer runs. Raises UnavailableError where the store
        is away: a commit that was cut off may or may not have happened; SealedLogError for a log that takes nothing
        more.
        """

    @abstractmethod
    def archive(self) -> AbstractContextManager[ArchiveReader]:
        """A consistent view of everything the store holds. Raises UnavailableError where the store is away."""

    @abstractmethod
    def restoration(self) -> AbstractContextManager[Restoration]:
        """Fills an empty store, durably at the end of the block, or leaves it empty where it raises.

        Where no Writer runs. Raises StoreNotEmptyError, SealedLogError, UnavailableError.
        """

    @property
    def switches(self) -> tuple[str, ...]:
        """Settings of the server that decide whether it keeps what it acknowledges, and that may change under a running
        service; none for an embedded store, which sets its own.
        """
        return ()

    def switched_on(self, switch: str) -> bool:
        """Whether the server says now that one of `switches` is on, for this service's role.

        Raises KeyError for another, UnavailableError.
        """
        raise KeyError(switch)

    @abstractmethod
    def sealed(self) -> str:
        """The numbers of the partitions that follow this log, as a sentence names them; empty where it is not sealed.

        Raises UnavailableError.
        """

    @abstractmethod
    def seal(self, successors: str, last: Commit) -> None:
        """Ends the log for ever, where its last commit is still `last`: whoever writes is refused from here on.

        A log that is sealed already stays as it is. Raises LogGrewError, UnavailableError.
        """

    def refuse_sealed(self) -> None:
        """Raises SealedLogError where the log is sealed, UnavailableError."""
        successors = self.sealed()
        if successors:
            raise SealedLogError(self.service, successors)

    @abstractmethod
    def close(self) -> None:
        """Lets go of every connection."""


def checked_tables(tables: Collection[str]) -> tuple[str, ...]:
    """The tables to make, the log's own included. Raises SettingsError for a name that no table can have."""
    for table in tables:
        if not _TABLE.match(table):
            raise SettingsError(f"table {table!r}: lower-case letters, digits and _, at most 41, are allowed")
    return (POISON, STEPS, *sorted(set(tables) - {POISON, STEPS}))


def check_meta(meta: Mapping[str, str], service: str) -> None:
    """Refuses a log of another format or of another service. Raises NewerLogError, SettingsError."""
    written = int(meta.get("log_format", LOG_FORMAT))
    if written > LOG_FORMAT:
        raise NewerLogError(
            "LOG_NEWER",
            f"the log of {service} has format {written}, and this program knows formats up to {LOG_FORMAT}: "
            "start the version of Throughline that wrote it, or a later one",
            {"log_format": str(written), "known": str(LOG_FORMAT)},
        )
    owner = meta.get("service", service)
    if owner != service:
        raise SettingsError(f"this is the log of {owner}, not of {service}: give {service} a store of its own")


def discard_store(settings: StoreSettings) -> None:
    """Removes a store and all that it holds, where there is one: for what was made and is not in force.

    Raises SettingsError, UnavailableError where the store is away.
    """
    settings.check()
    if settings.module == SQLITE:
        from throughline_eventlog.sqlite import discard_file  # noqa: PLC0415 -- the other store's driver stays out

        discard_file(settings)
        return
    from throughline_eventlog.postgres import discard_schema  # noqa: PLC0415 -- the other store's driver stays out

    discard_schema(settings)


def open_store(
    settings: StoreSettings,
    *,
    tables: Collection[str] = (),
    clock: Clock = wall_clock,
    schemas: Schemas = SCHEMAS,
) -> Store:
    """Opens a service's store and makes what is missing.

    `tables` names every table that will be used; `schemas` which versions of an event this code reads. Raises
    SettingsError for settings that would weaken the log, NewerLogError for a log that this code is too old for,
    UnavailableError where the store is away.
    """
    settings.check()
    names = checked_tables(tables)
    # Each store is imported only where it is chosen.
    if settings.module == SQLITE:
        from throughline_eventlog.sqlite import SQLiteStore  # noqa: PLC0415 -- the other store's driver stays out

        return SQLiteStore.open(settings, names, clock, schemas)
    from throughline_eventlog.postgres import PostgresStore  # noqa: PLC0415 -- the other store's driver stays out

    return PostgresStore.open(settings, names, clock, schemas)
