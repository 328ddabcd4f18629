"""The embedded store: one SQLite file, write-ahead logged, synced at every commit."""

# ruff: noqa: S608 # table names are checked when the store is opened, and no value is ever put into a statement

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Collection, Generator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain, repeat
from pathlib import Path
from typing import Any, Final, cast
from uuid import UUID

from eventsourcing import sqlite as library
from eventsourcing.persistence import (
    IntegrityError,
    OperationalError,
    PersistenceError,
    StoredEvent,
    Tracking,
)
from eventsourcing.utils import Environment, EnvType

from throughline_eventlog.application import EventLog
from throughline_eventlog.archive import Bookkeeping, StoreNotEmptyError
from throughline_eventlog.codec import Codec
from throughline_eventlog.errors import (
    InboxConflictError,
    LogGrewError,
    SealedLogError,
    SettingsError,
    StreamConflictError,
    log_unavailable,
)
from throughline_eventlog.records import Commit, InboxPosition, LoggedRow
from throughline_eventlog.schemas import Schemas
from throughline_eventlog.sessions import BaseReader, BaseTransaction, TypeVersions
from throughline_eventlog.settings import CACHE_KIB, StoreSettings
from throughline_eventlog.store import LOG_FORMAT, SEALED, Clock, Store, check_meta, checked_tables
from throughline_kernel import UnavailableError

WRITER_CACHE_KIB: Final = 32 * 1024
READER_CACHE_KIB: Final = 4 * 1024
READERS: Final = 32
IDLE_READERS: Final = 4
READER_SECONDS: Final = 10.0
WAL_PAGES: Final = 8_000
"""Pages (32 MiB) after which the write-ahead log is copied into the database."""
_ROWS_AT_ONCE: Final = (200, 20, 1)
KEYS: Final = 250
"""Keys looked up with one statement; one size, so that the statement is compiled once."""

_FULL: Final = 2
_MISSING: Final = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_READONLY,
    }
)

_EVENTS: Final = (
    "CREATE TABLE IF NOT EXISTS {table} ("
    # An explicit key: VACUUM renumbers rows that have none.
    "rowid INTEGER PRIMARY KEY, originator_id BLOB NOT NULL, originator_version INTEGER NOT NULL, "
    "topic TEXT NOT NULL, state BLOB NOT NULL, UNIQUE (originator_id, originator_version))"
)
_OWN_TABLES: Final = (
    "CREATE TABLE IF NOT EXISTS tl_meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    (
        "CREATE TABLE IF NOT EXISTS tl_types (type TEXT, schema_version INTEGER, "
        "PRIMARY KEY (type, schema_version)) WITHOUT ROWID"
    ),
    "CREATE TABLE IF NOT EXISTS tl_commits (recorded_at INTEGER PRIMARY KEY, position INTEGER NOT NULL)",
    (
        "CREATE TABLE IF NOT EXISTS tl_inbox (stream TEXT PRIMARY KEY, created INTEGER NOT NULL, "
        "sequence INTEGER NOT NULL, position INTEGER NOT NULL) WITHOUT ROWID"
    ),
)
_TABLE: Final = "CREATE TABLE IF NOT EXISTS t_{table} (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID"
_COLUMNS: Final = "rowid, originator_id, originator_version, topic, state"
_HEAD: Final = "SELECT recorded_at, position FROM tl_commits ORDER BY recorded_at DESC LIMIT 1"
_SEALED: Final = f"SELECT value FROM tl_meta WHERE name='{SEALED}'"


def is_outage(error: BaseException) -> bool:
    """Tells whether the database itself is away or full, rather than what was asked of it being wrong."""
    if isinstance(error, sqlite3.Error):
        return (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _MISSING
    if isinstance(error, IntegrityError):
        return False
    if isinstance(error, PersistenceError):
        return error.__cause__ is None or is_outage(error.__cause__)
    return False


class DurableConnection(library.SQLiteConnection):
    """A connection that writes ahead and syncs at every commit, or is not made at all."""

    def __init__(self, path: str, *, lock_timeout: float, cache_kib: int) -> None:
        self.raw = sqlite3.connect(
            path, timeout=lock_timeout, isolation_level=None, check_same_thread=False, cached_statements=256
        )
        super().__init__(self.raw, None)
        try:
            self._prepare(cache_kib)
        except sqlite3.Error:
            self.raw.close()
            raise
        self.raw.row_factory = sqlite3.Row

    def _prepare(self, cache_kib: int) -> None:
        pragma = self.raw.execute
        mode = pragma("PRAGMA journal_mode=WAL").fetchone()[0]
        pragma("PRAGMA synchronous=FULL")
        # Apple's fsync alone does not reach the disk; elsewhere these two change nothing.
        pragma("PRAGMA fullfsync=1")
        pragma("PRAGMA checkpoint_fullfsync=1")
        pragma(f"PRAGMA cache_size=-{cache_kib}")
        pragma(f"PRAGMA wal_autocheckpoint={WAL_PAGES}")
        pragma(f"PRAGMA journal_size_limit={WAL_PAGES * 8_192}")
        synchronous = pragma("PRAGMA synchronous").fetchone()[0]
        if mode != "wal" or synchronous < _FULL:
            self.raw.close()
            raise SettingsError(
                f"SQLite answers journal_mode={mode} and synchronous={synchronous} where wal and {_FULL} (FULL) were "
                "set: this file system or build of SQLite cannot keep what is acknowledged; use a local disk"
            )


class DurableDatastore(library.SQLiteDatastore):
    """One connection writes, so that its cache stays warm; others read, each for one thread at a time.

    Unlike the library's pool it never closes a connection that is in use, which would crash the process.
    """

    def __init__(self, db_name: str, *, lock_timeout: int | None, cache_kib: int = WRITER_CACHE_KIB) -> None:
        super().__init__(db_name, lock_timeout=lock_timeout)
        self._cache_kib = cache_kib
        self._path = db_name
        self._lock_timeout = lock_timeout or library.SQLITE3_DEFAULT_LOCK_TIMEOUT
        self._writer: DurableConnection | None = None
        self._writing = threading.RLock()
        self._idle: list[DurableConnection] = []
        self._readers = threading.BoundedSemaphore(READERS)
        self._handing_out = threading.Lock()
        self._shut = False

    @contextmanager
    def get_connection(self, *, commit: bool) -> Generator[library.SQLiteConnection]:
        """The writing connection, alone, or one of those that read. Raises OperationalError."""
        if commit:
            with self._writing:
                self._refuse_when_shut()
                if self._writer is None:
                    self._writer = self._connect(self._cache_kib)
                yield self._writer
            return
        if not self._readers.acquire(timeout=READER_SECONDS):
            raise OperationalError(f"{READERS} threads are reading already, for {READER_SECONDS} s and more")
        try:
            with self._handing_out:
                self._refuse_when_shut()
                connection = self._idle.pop() if self._idle else None
            connection = connection or self._connect(READER_CACHE_KIB)
            try:
                yield connection
            finally:
                with self._handing_out:
                    if self._shut or len(self._idle) >= IDLE_READERS:
                        connection.raw.close()
                    else:
                        self._idle.append(connection)
        finally:
            self._readers.release()

    def _connect(self, cache_kib: int) -> DurableConnection:
        try:
            return DurableConnection(self._path, lock_timeout=self._lock_timeout, cache_kib=cache_kib)
        except sqlite3.Error as error:
            raise OperationalError(str(error)) from error

    def _refuse_when_shut(self) -> None:
        if self._shut:
            raise OperationalError("the store is closed")

    @contextmanager
    def writing(self) -> Generator[DurableConnection]:
        """The writing connection inside a transaction that nobody else can be in; commits at the end of the block."""
        with self.get_connection(commit=True) as connection:
            connection = cast("DurableConnection", connection)
            try:
                # At once: a lock taken only at the first write could not be had any more behind another process's.
                connection.raw.execute("BEGIN IMMEDIATE")
                yield connection
                connection.raw.execute("COMMIT")
            except BaseException as error:
                self._undo(connection, error)
                raise

    def _undo(self, connection: DurableConnection, error: BaseException) -> None:
        """Rolls back. After an error of the disk the connection is made anew: its pages may not be what they seem."""
        with suppress(sqlite3.Error):
            if connection.raw.in_transaction:
                connection.raw.execute("ROLLBACK")
        if is_outage(error) or connection.raw.in_transaction:
            with suppress(sqlite3.Error):
                connection.raw.close()
            self._writer = None

    @contextmanager
    def transaction(self, *, commit: bool) -> Generator[library.SQLiteCursor]:
        """As the library's, with the errors it promises; a writer holds the lock from the start."""
        if not commit:
            with super().transaction(commit=False) as cursor:
                yield cursor
            return
        try:
            with self.writing() as connection:
                cursor = connection.cursor()
                with cursor:
                    yield cursor
        except sqlite3.IntegrityError as error:
            raise IntegrityError(str(error)) from error
        except sqlite3.Error as error:
            raise OperationalError(str(error)) from error

    def close(self) -> None:
        """Closes every connection; those that are in use when they are given back."""
        with self._writing, self._handing_out:
            self._shut = True
            for connection in self._idle:
                connection.raw.close()
            self._idle.clear()
            if self._writer is not None:
                with suppress(sqlite3.Error):
                    self._writer.raw.close()
                self._writer = None
        super().close()

    def __del__(self) -> None:
        """Leaves closing to whoever opened it: the garbage collector may come from any thread."""


class SQLiteLogRecorder(library.SQLiteProcessRecorder):
    """A process recorder with 16-byte stream ids, lasting row ids and one statement for a whole batch."""

    def __init__(self, datastore: library.SQLiteDatastore, *, events_table_name: str = "stored_events") -> None:
        super().__init__(datastore, events_table_name=events_table_name)
        self.insert_events_statement = f"INSERT INTO {events_table_name} ({_COLUMNS}) VALUES {{rows}}"

    def construct_create_table_statements(self) -> list[str]:
        """The library's, with an events table of our own and the tables beside it."""
        _library_events, *others = super().construct_create_table_statements()
        return [_EVENTS.format(table=self.events_table_name), *others, *_OWN_TABLES]

    def convert_originator_id(self, originator_id: str) -> UUID | str:
        """From the 16 bytes of the column."""
        raw: Any = originator_id
        return UUID(bytes=raw)

    def _insert_events(
        self, c: library.SQLiteCursor, stored_events: Sequence[StoredEvent], **kwargs: Any
    ) -> Sequence[int] | None:
        positions = self.insert_rows(
            c.sqlite_cursor,
            [(_stream_bytes(e.originator_id), e.originator_version, e.topic, e.state) for e in stored_events],
        )
        tracking: Tracking | None = kwargs.get("tracking")
        if tracking is not None:
            self._insert_tracking(c, tracking)
        return positions

    def insert_rows(
        self,
        cursor: sqlite3.Cursor,
        rows: Sequence[tuple[bytes, int, str, bytes]],
        positions: Sequence[int] | None = None,
    ) -> list[int]:
        """Appends inside the transaction that the cursor is in, behind all or at `positions`, and gives them."""
        if positions is None:
            first = (cursor.execute(self.select_max_notification_id_statement).fetchone()[0] or 0) + 1
            positions = range(first, first + len(rows))
        insert_many(
            cursor,
            self.insert_events_statement,
            [(position, *row) for position, row in zip(positions, rows, strict=True)],
        )
        return list(positions)

    def select_events(
        self,
        originator_id: UUID | str,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> Sequence[StoredEvent]:
        """One stream's events."""
        statement = (
            f"SELECT {_COLUMNS} FROM {self.events_table_name} WHERE originator_id=? AND originator_version>? "
            f"AND originator_version<=? ORDER BY originator_version {'DESC' if desc else 'ASC'} LIMIT ?"
        )
        # SQLite's integers end at 2**63 - 1, and a limit below zero is none.
        bounds = (-(2**62) if gt is None else gt, 2**62 if lte is None else lte, -1 if limit is None else limit)
        with self.datastore.transaction(commit=False) as c:
            c.execute(statement, (_stream_bytes(originator_id), *bounds))
            return [
                StoredEvent(self.convert_originator_id(stream), version, topic, state)
                for _, stream, version, topic, state in c.fetchall()
            ]

    def track(self, cursor: sqlite3.Cursor, tracking: Tracking) -> None:
        """Moves a position forward inside the transaction that the cursor is in. Raises IntegrityError."""
        self._insert_tracking(library.SQLiteCursor(cursor), tracking)


class SQLiteLogFactory(library.SQLiteFactory):
    """The library's factory, with the recorder and the connections of this module."""

    process_recorder_class = SQLiteLogRecorder

    def __init__(self, env: Environment | EnvType | None) -> None:
        super().__init__(env)
        given = self.datastore.pool
        self.datastore.close()
        cache_kib = int(self.env.get(CACHE_KIB) or WRITER_CACHE_KIB)
        self.datastore = DurableDatastore(given.db_name, lock_timeout=given.lock_timeout, cache_kib=cache_kib)


class _Statements(BaseReader):
    """What SQLite is asked, on one cursor."""

    cursor: sqlite3.Cursor

    def _log_rows(self, after: int, until: int | None, limit: int | None) -> list[LoggedRow]:
        found = self.cursor.execute(
            f"SELECT {_COLUMNS} FROM stored_events WHERE rowid>? AND rowid<=? ORDER BY rowid LIMIT ?",
            (after, 2**62 if until is None else until, -1 if limit is None else limit),
        )
        return list(map(LoggedRow._make, found))

    def _stream_rows(self, stream_id: bytes, after_version: int, limit: int | None) -> list[LoggedRow]:
        found = self.cursor.execute(
            f"SELECT {_COLUMNS} FROM stored_events WHERE originator_id=? AND originator_version>? "
            "ORDER BY originator_version LIMIT ?",
            (stream_id, after_version, -1 if limit is None else limit),
        )
        return list(map(LoggedRow._make, found))

    def _streams_rows(self, stream_ids: Sequence[bytes]) -> list[LoggedRow]:
        select = self.cursor.execute
        statement = f"SELECT {_COLUMNS} FROM stored_events WHERE originator_id=? ORDER BY originator_version"
        return [LoggedRow._make(row) for stream_id in stream_ids for row in select(statement, (stream_id,))]

    def _stored(self, table: str, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        if len(keys) == 1:
            found = self.cursor.execute(f"SELECT value FROM t_{table} WHERE key=?", (keys[0],)).fetchone()
            return {} if found is None else {keys[0]: found[0]}
        rows: dict[bytes, bytes] = {}
        for start in range(0, len(keys), KEYS):
            some = keys[start : start + KEYS]
            size = KEYS if len(some) > KEYS // 8 else KEYS // 8
            marks = ",".join("?" * size)
            rows.update(
                self.cursor.execute(
                    f"SELECT key, value FROM t_{table} WHERE key IN ({marks})",
                    (*some, *repeat(some[-1], size - len(some))),
                )
            )
        return rows

    def _sqlite_page(
        self, table: str, low: bytes, high: bytes | None, limit: int, reverse: bool
    ) -> list[tuple[bytes, bytes]]:
        order = "DESC" if reverse else "ASC"
        below = "" if high is None else "AND key<? "
        bounds = (low, limit) if high is None else (low, high, limit)
        return self.cursor.execute(
            f"SELECT key, value FROM t_{table} WHERE key>=? {below}ORDER BY key {order} LIMIT ?",
            bounds,
        ).fetchall()

    def _sqlite_count(self, table: str) -> int:
        return self._number(f"SELECT COUNT(*) FROM t_{table}")

    def _number(self, statement: str, *values: object) -> int:
        found = self.cursor.execute(statement, values).fetchone()
        return 0 if found is None else found[0] or 0

    def last_versions(self, stream_ids: Collection[bytes]) -> dict[bytes, int]:
        statement = "SELECT MAX(originator_version) FROM stored_events WHERE originator_id=?"
        return {stream_id: self._number(statement, stream_id) for stream_id in stream_ids}

    def last_position(self) -> int:
        return self._number("SELECT MAX(rowid) FROM stored_events")

    def commit_at(self, as_of: int | None = None) -> Commit:
        until = 2**62 if as_of is None else as_of
        found = self.cursor.execute(
            "SELECT recorded_at, position FROM tl_commits WHERE recorded_at<=? ORDER BY recorded_at DESC LIMIT 1",
            (until,),
        ).fetchone()
        return Commit(0, 0) if found is None else Commit(*found)

    def count_events(self) -> int:
        return self._number("SELECT COUNT(*) FROM stored_events")

    def inbox(self, stream: str) -> InboxPosition | None:
        found = self.cursor.execute(
            "SELECT stream, created, sequence, position FROM tl_inbox WHERE stream=?", (stream,)
        ).fetchone()
        return None if found is None else InboxPosition(*found)

    def inboxes(self) -> list[InboxPosition]:
        found = self.cursor.execute("SELECT stream, created, sequence, position FROM tl_inbox ORDER BY stream")
        return [InboxPosition(*row) for row in found]


class SQLiteReader(_Statements):
    """A view of the file as it was when the view was opened."""

    def __init__(self, cursor: sqlite3.Cursor, codec: Codec, tables: frozenset[str]) -> None:
        super().__init__(codec, tables)
        self.cursor = cursor

    def _page(self, table: str, low: bytes, high: bytes | None, limit: int, reverse: bool) -> list[tuple[bytes, bytes]]:
        return self._sqlite_page(table, low, high, limit, reverse)

    def _count(self, table: str) -> int:
        return self._sqlite_count(table)


class SQLiteArchive(SQLiteReader):
    """As a reader, of all that the file holds."""

    def commits(self, after: int, limit: int) -> list[Commit]:
        found = self.cursor.execute(
            "SELECT recorded_at, position FROM tl_commits WHERE recorded_at>? ORDER BY recorded_at LIMIT ?",
            (after, limit),
        )
        return list(map(Commit._make, found))

    def bookkeeping(self) -> Bookkeeping:
        ask = self.cursor.execute
        tables = ask("SELECT name FROM sqlite_master WHERE type='table' AND name GLOB 't_*' ORDER BY name").fetchall()
        return Bookkeeping(
            tuple(ask("SELECT type, schema_version FROM tl_types ORDER BY type, schema_version").fetchall()),
            tuple(ask("SELECT * FROM tracking WHERE application_name LIKE '%@%' ORDER BY application_name").fetchall()),
            tuple(self.inboxes()),
            tuple(name.removeprefix("t_") for (name,) in tables),
            sealed_by(self.cursor),
        )

    def rows(self, table: str, after: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        return self._sqlite_page(table, after + b"\x00" if after else b"", None, limit, reverse=False)


class SQLiteRestoration:
    """Writes a file that holds nothing yet."""

    def __init__(self, cursor: sqlite3.Cursor, recorder: SQLiteLogRecorder) -> None:
        self._cursor = cursor
        self._recorder = recorder

    def add_events(self, rows: Sequence[LoggedRow]) -> None:
        insert_many(self._cursor, self._recorder.insert_events_statement, rows)

    def add_commits(self, commits: Sequence[Commit]) -> None:
        self._cursor.executemany("INSERT INTO tl_commits VALUES (?,?)", commits)

    def add_bookkeeping(self, kept: Bookkeeping) -> None:
        put = self._cursor.executemany
        put("INSERT INTO tl_types VALUES (?,?)", kept.types)
        put("INSERT INTO tracking VALUES (?,?)", kept.trackings)
        put(
            "INSERT INTO tl_inbox VALUES (?,?,?,?)",
            [(each.stream, each.created, each.sequence, each.position) for each in kept.inboxes],
        )
        for table in checked_tables(kept.tables):
            self._cursor.execute(_TABLE.format(table=table))
        if kept.sealed:
            self._cursor.execute("INSERT INTO tl_meta VALUES (?,?)", (SEALED, kept.sealed))

    def add_rows(self, table: str, rows: Sequence[tuple[bytes, bytes]]) -> None:
        insert_many(self._cursor, f"INSERT INTO t_{table} VALUES {{rows}}", rows)


class SQLiteTransaction(BaseTransaction, _Statements):
    """The one transaction that writes."""

    def __init__(
        self,
        cursor: sqlite3.Cursor,
        recorder: SQLiteLogRecorder,
        codec: Codec,
        tables: frozenset[str],
        *,
        now: int,
        overtaken: bool,
        head_position: int,
        known_types: TypeVersions,
    ) -> None:
        super().__init__(
            codec,
            tables,
            now=now,
            overtaken=overtaken,
            head_position=head_position,
            known_types=known_types,
        )
        self.cursor = cursor
        self._recorder = recorder

    def _append_rows(self, rows: Sequence[tuple[bytes, int, str, bytes]], positions: Sequence[int] | None) -> list[int]:
        before = self.last_position()
        try:
            return self._recorder.insert_rows(self.cursor, rows, positions)
        except sqlite3.IntegrityError as error:
            places = positions or range(before + 1, before + 1 + len(rows))
            put = [self._number("SELECT COUNT(*) FROM stored_events WHERE rowid=?", place) for place in places]
            raise self._conflict(rows[sum(put) :]) from error

    def _conflict(self, rows: Sequence[tuple[bytes, int, str, bytes]]) -> StreamConflictError:
        """Says which of the rows, of which one cannot be put, it is."""
        for row in rows:
            try:
                self._recorder.insert_rows(self.cursor, [row])
            except sqlite3.IntegrityError:
                return stream_conflict(row[0], row[1])
        raise RuntimeError("rows that could not be put together can be put one by one")

    def _add_types(self, types: Collection[tuple[str, int]]) -> None:
        self.cursor.executemany("INSERT OR IGNORE INTO tl_types VALUES (?,?)", sorted(types))

    def _write(self, table: str, puts: Sequence[tuple[bytes, bytes]], deletes: Sequence[bytes]) -> None:
        if puts:
            insert_many(
                self.cursor,
                f"INSERT INTO t_{table} VALUES {{rows}} ON CONFLICT (key) DO UPDATE SET value=excluded.value",
                puts,
            )
        if deletes:
            self.cursor.executemany(f"DELETE FROM t_{table} WHERE key=?", [(key,) for key in deletes])

    def _stored_page(
        self, table: str, low: bytes, high: bytes | None, limit: int, reverse: bool
    ) -> list[tuple[bytes, bytes]]:
        return self._sqlite_page(table, low, high, limit, reverse)

    def _stored_count(self, table: str) -> int:
        return self._sqlite_count(table)

    def _track(self, upstream: str, sequence: int) -> None:
        try:
            self._recorder.track(self.cursor, Tracking(upstream, sequence))
        except IntegrityError as error:
            raise inbox_conflict(upstream, sequence) from error

    def _write_inbox(self, position: InboxPosition) -> None:
        self.cursor.execute(
            "INSERT INTO tl_inbox VALUES (?,?,?,?) ON CONFLICT (stream) DO UPDATE SET created=excluded.created, "
            "sequence=excluded.sequence, position=excluded.position",
            (position.stream, position.created, position.sequence, position.position),
        )


class SQLiteStore(Store):
    """A service's store in one file."""

    def __init__(
        self,
        log: EventLog,
        codec: Codec,
        tables: Collection[str],
        clock: Clock,
        *,
        known_types: TypeVersions,
        head: int,
    ) -> None:
        super().__init__(log, codec, tables, clock)
        self._recorder = cast("SQLiteLogRecorder", log.recorder)
        self._datastore = cast("DurableDatastore", self._recorder.datastore)
        self._known_types = known_types
        self._head = head

    @classmethod
    def open(cls, settings: StoreSettings, tables: Sequence[str], clock: Clock, schemas: Schemas) -> SQLiteStore:
        """Opens the file, makes what is missing in it, and refuses what it must not touch."""
        path = Path(settings.environment["SQLITE_DBNAME"])
        codec = Codec(settings.service, schemas)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _refuse_foreign(path, settings.service)
            log = EventLog(settings.service, settings.environment, SQLiteLogFactory)
            datastore = cast("DurableDatastore", cast("SQLiteLogRecorder", log.recorder).datastore)
            with datastore.writing() as connection:
                for table in tables:
                    connection.raw.execute(_TABLE.format(table=table))
                connection.raw.executemany(
                    "INSERT OR IGNORE INTO tl_meta VALUES (?,?)",
                    [("log_format", str(LOG_FORMAT)), ("service", settings.service)],
                )
                types = {
                    (row[0], row[1]) for row in connection.raw.execute("SELECT type, schema_version FROM tl_types")
                }
                head = connection.raw.execute(_HEAD).fetchone()
        except (sqlite3.Error, PersistenceError, OSError) as error:
            raise log_unavailable(error, f"opening {path.name}") from error
        try:
            for type_, schema_version in sorted(types):
                codec.check(type_, schema_version, f"the log of {settings.service}")
        except BaseException:
            log.close()
            raise
        return cls(log, codec, tables, clock, known_types=types, head=0 if head is None else head[0])

    @contextmanager
    def snapshot(self) -> Generator[SQLiteReader]:
        """A view of the file as it is now."""
        with self._view() as cursor:
            yield SQLiteReader(cursor, self.codec, self.tables)

    @contextmanager
    def archive(self) -> Generator[SQLiteArchive]:
        """A view of all that the file holds now."""
        with self._view() as cursor:
            yield SQLiteArchive(cursor, self.codec, self.tables)

    @contextmanager
    def restoration(self) -> Generator[SQLiteRestoration]:
        """Fills a file that holds nothing yet."""
        try:
            with self._datastore.writing() as connection:
                cursor = connection.raw.cursor()
                cursor.row_factory = None
                refuse_sealed(cursor, self.service)
                if cursor.execute(_HEAD).fetchone() is not None:
                    raise StoreNotEmptyError(self.service)
                yield SQLiteRestoration(cursor, self._recorder)
                cursor.close()
        except (sqlite3.Error, PersistenceError) as error:
            if is_outage(error):
                raise log_unavailable(error, "writing") from error
            raise

    @contextmanager
    def _view(self) -> Generator[sqlite3.Cursor]:
        try:
            with self._datastore.get_connection(commit=False) as connection:
                connection = cast("DurableConnection", connection)
                cursor = connection.raw.cursor()
                cursor.row_factory = None
                try:
                    cursor.execute("BEGIN")
                    # The view begins with the first read, not with BEGIN.
                    cursor.execute(_HEAD).fetchone()
                    yield cursor
                finally:
                    cursor.close()
                    with suppress(sqlite3.Error):
                        if connection.raw.in_transaction:
                            connection.raw.execute("ROLLBACK")
        except (sqlite3.Error, PersistenceError) as error:
            if is_outage(error):
                raise log_unavailable(error, "reading") from error
            raise

    @contextmanager
    def transaction(self) -> Generator[SQLiteTransaction]:
        """The one transaction that writes."""
        try:
            with self._datastore.writing() as connection:
                cursor = connection.raw.cursor()
                cursor.row_factory = None
                refuse_sealed(cursor, self.service)
                head, position = cursor.execute(_HEAD).fetchone() or (0, 0)
                transaction = SQLiteTransaction(
                    cursor,
                    self._recorder,
                    self.codec,
                    self.tables,
                    now=max(self.clock(), head + 1),
                    overtaken=head != self._head,
                    head_position=position,
                    known_types=self._known_types,
                )
                yield transaction
                transaction.flush()
                if transaction.touched:
                    cursor.execute("INSERT INTO tl_commits VALUES (?,?)", (transaction.now, transaction.head_position))
                cursor.close()
        except UnavailableError:
            raise
        except (sqlite3.Error, PersistenceError) as error:
            if is_outage(error):
                raise log_unavailable(error, "writing") from error
            raise
        self._head = transaction.now if transaction.touched else head
        self._known_types |= transaction.new_types
        self._committed(position, transaction.appended)

    def sealed(self) -> str:
        """See `Store`."""
        with self._view() as cursor:
            return sealed_by(cursor)

    def seal(self, successors: str, last: Commit) -> None:
        """See `Store`."""
        try:
            with self._datastore.writing() as connection:
                cursor = connection.raw.cursor()
                cursor.row_factory = None
                if not sealed_by(cursor):
                    if Commit(*(cursor.execute(_HEAD).fetchone() or (0, 0))) != last:
                        raise LogGrewError(self.service)
                    cursor.execute("INSERT INTO tl_meta VALUES (?,?)", (SEALED, successors))
                cursor.close()
        except (sqlite3.Error, PersistenceError) as error:
            if is_outage(error):
                raise log_unavailable(error, "sealing") from error
            raise

    def close(self) -> None:
        """Lets go of the file."""
        self.log.close()


def sealed_by(cursor: sqlite3.Cursor) -> str:
    """The partitions that follow the log, empty where it is not sealed."""
    found = cursor.execute(_SEALED).fetchone()
    return "" if found is None else found[0]


def refuse_sealed(cursor: sqlite3.Cursor, service: str) -> None:
    """Raises SealedLogError where the log takes nothing more."""
    successors = sealed_by(cursor)
    if successors:
        raise SealedLogError(service, successors)


def discard_file(settings: StoreSettings) -> None:
    """Removes the file of a store. Raises UnavailableError."""
    path = Path(settings.environment["SQLITE_DBNAME"])
    try:
        # The file first: without it SQLite passes over what is written ahead, but not the other way round.
        for ending in ("", "-wal", "-shm"):
            path.with_name(path.name + ending).unlink(missing_ok=True)
    except OSError as error:
        raise log_unavailable(error, f"removing {path.name}") from error


def insert_many(cursor: sqlite3.Cursor, statement: str, rows: Sequence[Sequence[object]]) -> None:
    """Runs an INSERT, `{rows}` standing for its rows, in as few steps as SQLite's limits allow.

    Each step lets go of the interpreter, and a thread that computes keeps it for milliseconds before it gives it back:
    a step a row would cost a writer more in waiting than in writing. Few sizes, so that statements are compiled once.
    """
    start, width = 0, len(rows[0]) if rows else 0
    marks = f"({','.join('?' * width)})"
    for size in _ROWS_AT_ONCE:
        while len(rows) - start >= size:
            some = rows[start : start + size]
            cursor.execute(statement.format(rows=",".join(repeat(marks, size))), list(chain.from_iterable(some)))
            start += size


def stream_conflict(stream_id: bytes, version: int) -> StreamConflictError:
    """Says which version of which stream was taken."""
    return StreamConflictError(
        "CONCURRENT_CHANGE",
        f"version {version} of stream {stream_id.hex()} is already taken: read the stream again and decide anew",
        {"stream_id": stream_id.hex(), "version": str(version)},
    )


def inbox_conflict(upstream: str, sequence: int) -> InboxConflictError:
    """Says which message of which stream was taken."""
    return InboxConflictError(
        "CONCURRENT_CHANGE",
        f"message {sequence} of {upstream} is already taken: continue from the inbox",
        {"stream": upstream, "sequence": str(sequence)},
    )


def _stream_bytes(stream_id: UUID | str) -> bytes:
    return stream_id.bytes if isinstance(stream_id, UUID) else UUID(stream_id).bytes


def _refuse_foreign(path: Path, service: str) -> None:
    """Looks before anything is made: a newer log is not to be touched."""
    if not path.exists() or not path.stat().st_size:
        return
    raw = sqlite3.connect(path, isolation_level=None)
    try:
        named = raw.execute("SELECT name FROM sqlite_master WHERE name='tl_meta'").fetchone()
        check_meta(dict(raw.execute("SELECT name, value FROM tl_meta")) if named else {}, service)
    finally:
        raw.close()
