"""The production store: one schema of a PostgreSQL database for each service's log."""

# ruff: noqa: S608 # table names are checked when the store is opened, and no value is ever put into a statement

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Final, cast
from uuid import UUID

import psycopg
import psycopg.errors
from eventsourcing import postgres as library
from eventsourcing.persistence import PersistenceError, StoredEvent, Tracking
from eventsourcing.utils import Environment, EnvType
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow, tuple_row
from psycopg.sql import SQL, Composed, Identifier, Literal

from throughline_eventlog.application import EventLog
from throughline_eventlog.archive import Bookkeeping, StoreNotEmptyError
from throughline_eventlog.codec import Codec
from throughline_eventlog.errors import LogGrewError, SealedLogError, SettingsError, log_unavailable
from throughline_eventlog.records import Commit, InboxPosition, LoggedRow
from throughline_eventlog.schemas import Schemas
from throughline_eventlog.sessions import BaseReader, BaseTransaction, TypeVersions
from throughline_eventlog.settings import UNSAFE, StoreSettings
from throughline_eventlog.sqlite import inbox_conflict, stream_conflict
from throughline_eventlog.store import LOG_FORMAT, SEALED, Clock, Store, check_meta, checked_tables
from throughline_kernel import UnavailableError

DEFAULTS: Final = {
    "POSTGRES_POOL_SIZE": "2",
    "POSTGRES_MAX_OVERFLOW": "14",
    "POSTGRES_CONNECT_TIMEOUT": "5",
    "POSTGRES_PASSWORD": "",
    # A writer that hangs inside its transaction holds everybody up: after this long the server lets it go.
    "POSTGRES_IDLE_IN_TRANSACTION_SESSION_TIMEOUT": "60",
    "POSTGRES_LOCK_TIMEOUT": "30",
}

_SWITCHES: Final = ("fsync", "synchronous_commit", "full_page_writes")
_OWN_TABLES: Final = (
    "CREATE TABLE IF NOT EXISTS {schema}.tl_meta (name text PRIMARY KEY, value text NOT NULL)",
    (
        "CREATE TABLE IF NOT EXISTS {schema}.tl_types (type text, schema_version integer, "
        "PRIMARY KEY (type, schema_version))"
    ),
    "CREATE TABLE IF NOT EXISTS {schema}.tl_commits (recorded_at bigint PRIMARY KEY, position bigint NOT NULL)",
    (
        "CREATE TABLE IF NOT EXISTS {schema}.tl_inbox (stream text PRIMARY KEY, created bigint NOT NULL, "
        "sequence bigint NOT NULL, position bigint NOT NULL) WITH (fillfactor = 50)"
    ),
)
# Bytes, whatever the database's collation is; room on each page, so that an update stays on it.
_TABLE: Final = (
    "CREATE TABLE IF NOT EXISTS {schema}.{table} (key bytea PRIMARY KEY, value bytea NOT NULL) WITH (fillfactor = 80)"
)
_COLUMNS: Final = "notification_id, uuid_send(originator_id), originator_version, topic, state"
_HEAD: Final = "SELECT recorded_at, position FROM {schema}.tl_commits ORDER BY recorded_at DESC LIMIT 1"
_SEALED: Final = f"SELECT value FROM {{schema}}.tl_meta WHERE name = '{SEALED}'"
# What a writer must know first, in one trip to the server.
_START: Final = (
    f"SELECT ({_SEALED}), head.recorded_at, head.position FROM (SELECT 1) AS one LEFT JOIN ({_HEAD}) AS head ON true"
)
_TAKEN: Final = re.compile(r"=\(([0-9a-f-]{36}), (\d+)\)")

Cursor = psycopg.Cursor[TupleRow]


def is_outage(error: BaseException) -> bool:
    """Tells whether the database itself is away or full, rather than what was asked of it being wrong."""
    cause = error.__cause__ if isinstance(error, PersistenceError) else error
    return isinstance(cause, psycopg.OperationalError | psycopg.InterfaceError | psycopg.errors.ReadOnlySqlTransaction)


def lock_key(schema: str, table: str) -> int:
    """The advisory lock that keeps one log in order: a signed 64-bit number for its schema and table."""
    return int.from_bytes(blake2b(f"{schema}.{table}".encode(), digest_size=8).digest(), "big", signed=True)


class PostgresLogRecorder(library.PostgresProcessRecorder):
    """A process recorder that sends a batch as four arrays and keeps order with an advisory lock.

    The lock lasts until the transaction ends, so positions become visible in order and a reader of the log's tail
    misses nothing; unlike the library's table lock it lets VACUUM and ANALYZE run beside appends.
    """

    def __init__(
        self,
        datastore: library.PostgresDatastore,
        *,
        events_table_name: str = "stored_events",
        tracking_table_name: str = "notification_tracking",
    ) -> None:
        super().__init__(datastore, events_table_name=events_table_name, tracking_table_name=tracking_table_name)
        # The composite type and the function serve ways of appending that this recorder does not use.
        self.sql_create_statements = [
            statement
            for statement in self.sql_create_statements
            if not re.match(r"CREATE (TYPE|OR REPLACE FUNCTION)", statement.as_string())
        ]
        self.insert_events_statement = SQL(
            "INSERT INTO {}.{} (originator_id, originator_version, topic, state) "
            "SELECT * FROM unnest(%b::text[]::uuid[], %b::bigint[], %b::text[], %b::bytea[]) RETURNING notification_id"
        ).format(Identifier(datastore.schema), Identifier(events_table_name))
        self.place_events_statement = SQL(
            "INSERT INTO {}.{} (notification_id, originator_id, originator_version, topic, state) "
            "SELECT * FROM unnest(%b::bigint[], %b::text[]::uuid[], %b::bigint[], %b::text[], %b::bytea[])"
        ).format(Identifier(datastore.schema), Identifier(events_table_name))
        self.go_on_behind_statement = SQL(
            "SELECT setval(pg_get_serial_sequence({}, 'notification_id'), max(notification_id)) FROM {}.{}"
        ).format(
            Literal(f'"{datastore.schema}"."{events_table_name}"'),
            Identifier(datastore.schema),
            Identifier(events_table_name),
        )
        self.lock_table_statements = [
            SQL("SET LOCAL lock_timeout = '{0}s'").format(datastore.lock_timeout),
            SQL("SELECT pg_advisory_xact_lock({0})").format(Literal(lock_key(datastore.schema, events_table_name))),
        ]

    def _insert_stored_events(self, curs: psycopg.Cursor[Any], stored_events: Sequence[StoredEvent], **_: Any) -> None:
        self._lock_table(curs)
        self._notify_channel(curs)
        self.insert_rows(
            curs,
            [(_stream_bytes(e.originator_id), e.originator_version, e.topic, e.state) for e in stored_events],
        )

    def insert_rows(self, cursor: psycopg.Cursor[Any], rows: Sequence[tuple[bytes, int, str, bytes]]) -> None:
        """Appends inside the cursor's transaction, which must hold the lock; the cursor then has the positions."""
        streams, versions, topics, states = zip(*rows, strict=True)
        cursor.execute(
            self.insert_events_statement,
            ([stream.hex() for stream in streams], list(versions), list(topics), list(states)),
            prepare=True,
        )

    def place_rows(
        self, cursor: psycopg.Cursor[Any], rows: Sequence[tuple[bytes, int, str, bytes]], positions: Sequence[int]
    ) -> None:
        """As `insert_rows`, at positions behind all of earlier transactions; the next ones are behind these."""
        streams, versions, topics, states = zip(*rows, strict=True)
        cursor.execute(
            self.place_events_statement,
            (list(positions), [stream.hex() for stream in streams], list(versions), list(topics), list(states)),
        )
        cursor.execute(self.go_on_behind_statement)

    def track(self, cursor: Cursor, tracking: Tracking) -> bool:
        """Moves a position forward inside the transaction that the cursor is in; False where it is there already."""
        cursor.execute(
            self.insert_tracking_statement,
            {
                "application_name": tracking.application_name,
                "notification_id": tracking.notification_id,
            },
        )
        return cursor.fetchone() is not None


class PostgresLogFactory(library.PostgresFactory):
    """The library's factory, with the recorder of this module."""

    process_recorder_class = PostgresLogRecorder

    def __init__(self, env: Environment | EnvType | None) -> None:
        super().__init__(env)
        if self.datastore.enable_db_functions:
            raise SettingsError("POSTGRES_ENABLE_DB_FUNCTIONS appends without a lock: unset it")


class _Statements:
    """Statements with the schema's names in them, each put together once."""

    def __init__(self, schema: str, events: str) -> None:
        self.schema = schema
        self.events = events
        self.of: Callable[[str, str], bytes] = lru_cache(maxsize=1_024)(self._of)

    def _of(self, template: str, table: str) -> bytes:
        composed = SQL(cast("Any", template)).format(
            schema=Identifier(self.schema), events=Identifier(self.schema, self.events), table=Identifier(table)
        )
        return composed.as_bytes(None)


class _Session(BaseReader):
    """What PostgreSQL is asked, on one cursor."""

    cursor: Cursor
    statements: _Statements

    def _ask(self, template: str, values: Sequence[object] = (), table: str = "") -> list[tuple[Any, ...]]:
        return self.cursor.execute(self.statements.of(template, table), values, prepare=True).fetchall()

    def _do(self, template: str, values: Sequence[object] = (), table: str = "") -> None:
        self.cursor.execute(self.statements.of(template, table), values, prepare=True)

    def _number(self, template: str, values: Sequence[object] = (), table: str = "") -> int:
        found = self._ask(template, values, table)
        return found[0][0] or 0 if found else 0

    def _log_rows(self, after: int, until: int | None, limit: int | None) -> list[LoggedRow]:
        found = self._ask(
            f"SELECT {_COLUMNS} FROM {{events}} WHERE notification_id > %s AND notification_id <= %s "
            "ORDER BY notification_id LIMIT %s",
            (after, 2**62 if until is None else until, limit),
        )
        return list(map(LoggedRow._make, found))

    def _stream_rows(self, stream_id: bytes, after_version: int, limit: int | None) -> list[LoggedRow]:
        found = self._ask(
            f"SELECT {_COLUMNS} FROM {{events}} WHERE originator_id = %s::uuid AND originator_version > %s "
            "ORDER BY originator_version LIMIT %s",
            (stream_id.hex(), after_version, limit),
        )
        return list(map(LoggedRow._make, found))

    def _streams_rows(self, stream_ids: Sequence[bytes]) -> list[LoggedRow]:
        found = self._ask(
            f"SELECT {_COLUMNS} FROM {{events}} WHERE originator_id = ANY(%b::text[]::uuid[]) "
            "ORDER BY originator_id, originator_version",
            ([stream_id.hex() for stream_id in stream_ids],),
        )
        return list(map(LoggedRow._make, found))

    def _stored(self, table: str, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        if not keys:
            return {}
        return dict(
            cast(
                "list[tuple[bytes, bytes]]",
                self._ask(
                    "SELECT key, value FROM {schema}.{table} WHERE key = ANY(%b::bytea[])", (list(keys),), f"t_{table}"
                ),
            )
        )

    def _postgres_page(
        self, table: str, low: bytes, high: bytes | None, limit: int, reverse: bool
    ) -> list[tuple[bytes, bytes]]:
        order = "DESC" if reverse else "ASC"
        below = "" if high is None else "AND key < %b "
        bounds = (low, limit) if high is None else (low, high, limit)
        return cast(
            "list[tuple[bytes, bytes]]",
            self._ask(
                f"SELECT key, value FROM {{schema}}.{{table}} WHERE key >= %b {below}ORDER BY key {order} LIMIT %s",
                bounds,
                f"t_{table}",
            ),
        )

    def _postgres_count(self, table: str) -> int:
        return self._number("SELECT count(*) FROM {schema}.{table}", (), f"t_{table}")

    def last_versions(self, stream_ids: Collection[bytes]) -> dict[bytes, int]:
        versions = dict.fromkeys(stream_ids, 0)
        versions.update(
            cast(
                "list[tuple[bytes, int]]",
                self._ask(
                    "SELECT uuid_send(originator_id), max(originator_version) FROM {events} "
                    "WHERE originator_id = ANY(%b::text[]::uuid[]) GROUP BY originator_id",
                    ([stream_id.hex() for stream_id in versions],),
                ),
            )
        )
        return versions

    def last_position(self) -> int:
        return self._number("SELECT max(notification_id) FROM {events}")

    def commit_at(self, as_of: int | None = None) -> Commit:
        found = self._ask(
            "SELECT recorded_at, position FROM {schema}.tl_commits WHERE recorded_at <= %s "
            "ORDER BY recorded_at DESC LIMIT 1",
            (2**62 if as_of is None else as_of,),
        )
        return Commit(*found[0]) if found else Commit(0, 0)

    def count_events(self) -> int:
        return self._number("SELECT count(*) FROM {events}")

    def inbox(self, stream: str) -> InboxPosition | None:
        found = self._ask(
            "SELECT stream, created, sequence, position FROM {schema}.tl_inbox WHERE stream = %s", (stream,)
        )
        return InboxPosition(*found[0]) if found else None

    def inboxes(self) -> list[InboxPosition]:
        found = self._ask(
            'SELECT stream, created, sequence, position FROM {schema}.tl_inbox ORDER BY stream COLLATE "C"'
        )
        return [InboxPosition(*row) for row in found]


class PostgresReader(_Session):
    """A view of the database as it was when the view was opened."""

    def __init__(self, cursor: Cursor, statements: _Statements, codec: Codec, tables: frozenset[str]) -> None:
        super().__init__(codec, tables)
        self.cursor = cursor
        self.statements = statements

    def _page(self, table: str, low: bytes, high: bytes | None, limit: int, reverse: bool) -> list[tuple[bytes, bytes]]:
        return self._postgres_page(table, low, high, limit, reverse)

    def _count(self, table: str) -> int:
        return self._postgres_count(table)


class PostgresArchive(PostgresReader):
    """As a reader, of all that the schema holds."""

    def __init__(
        self,
        cursor: Cursor,
        statements: _Statements,
        codec: Codec,
        tables: frozenset[str],
        recorder: PostgresLogRecorder,
    ) -> None:
        super().__init__(cursor, statements, codec, tables)
        self._tracking = recorder.tracking_table_name

    def commits(self, after: int, limit: int) -> list[Commit]:
        found = self._ask(
            "SELECT recorded_at, position FROM {schema}.tl_commits WHERE recorded_at > %s "
            "ORDER BY recorded_at LIMIT %s",
            (after, limit),
        )
        return list(map(Commit._make, found))

    def bookkeeping(self) -> Bookkeeping:
        types = self._ask("SELECT type, schema_version FROM {schema}.tl_types")
        trackings = self._ask(
            "SELECT application_name, notification_id FROM {schema}.{table} WHERE application_name LIKE '%%@%%'",
            (),
            self._tracking,
        )
        tables = self._ask(
            "SELECT tablename::text FROM pg_tables WHERE schemaname = %s AND tablename LIKE 't\\_%%'",
            (self.statements.schema,),
        )
        # In the order of the bytes, whatever the database's collation is.
        return Bookkeeping(
            tuple(sorted((type_, version) for type_, version in types)),
            tuple(sorted((stream, sequence) for stream, sequence in trackings)),
            tuple(self.inboxes()),
            tuple(sorted(name.removeprefix("t_") for (name,) in tables)),
            "".join(value for (value,) in self._ask(_SEALED)),
        )

    def rows(self, table: str, after: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        return self._postgres_page(table, after + b"\x00" if after else b"", None, limit, reverse=False)


class PostgresRestoration:
    """Writes a schema that holds nothing yet."""

    def __init__(self, cursor: Cursor, statements: _Statements, recorder: PostgresLogRecorder) -> None:
        self._cursor = cursor
        self._statements = statements
        self._tracking = recorder.tracking_table_name

    def add_events(self, rows: Sequence[LoggedRow]) -> None:
        self._copy(
            "COPY {events} (notification_id, originator_id, originator_version, topic, state) "
            "FROM STDIN (FORMAT BINARY)",
            ("int8", "uuid", "int8", "text", "bytea"),
            [(position, UUID(bytes=stream), version, type_, state) for position, stream, version, type_, state in rows],
        )
        # The next event comes behind these.
        self._do(
            "SELECT setval(pg_get_serial_sequence(%s, 'notification_id'), %s)", (self._events(), rows[-1].position)
        )

    def add_commits(self, commits: Sequence[Commit]) -> None:
        self._copy("COPY {schema}.tl_commits FROM STDIN (FORMAT BINARY)", ("int8", "int8"), commits)

    def add_bookkeeping(self, kept: Bookkeeping) -> None:
        self._copy("COPY {schema}.tl_types FROM STDIN (FORMAT BINARY)", ("text", "int4"), kept.types)
        self._copy("COPY {schema}.{table} FROM STDIN (FORMAT BINARY)", ("text", "int8"), kept.trackings, self._tracking)
        self._copy(
            "COPY {schema}.tl_inbox FROM STDIN (FORMAT BINARY)",
            ("text", "int8", "int8", "int8"),
            [(each.stream, each.created, each.sequence, each.position) for each in kept.inboxes],
        )
        for table in checked_tables(kept.tables):
            self._do(_TABLE, (), f"t_{table}")
        if kept.sealed:
            self._do("INSERT INTO {schema}.tl_meta VALUES (%s, %s)", (SEALED, kept.sealed))

    def add_rows(self, table: str, rows: Sequence[tuple[bytes, bytes]]) -> None:
        self._copy("COPY {schema}.{table} FROM STDIN (FORMAT BINARY)", ("bytea", "bytea"), rows, f"t_{table}")

    def _events(self) -> str:
        return self._statements.of("{events}", "").decode()

    def _do(self, template: str, values: Sequence[object] = (), table: str = "") -> None:
        self._cursor.execute(self._statements.of(template, table), values)

    def _copy(self, template: str, types: Sequence[str], rows: Sequence[Sequence[object]], table: str = "") -> None:
        with self._cursor.copy(self._statements.of(template, table)) as copy:
            copy.set_types(types)
            for row in rows:
                copy.write_row(row)


class PostgresTransaction(BaseTransaction, _Session):
    """The one transaction that writes, behind the log's lock."""

    def __init__(
        self,
        cursor: Cursor,
        statements: _Statements,
        recorder: PostgresLogRecorder,
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
        self.statements = statements
        self._recorder = recorder

    def _append_rows(self, rows: Sequence[tuple[bytes, int, str, bytes]], positions: Sequence[int] | None) -> list[int]:
        try:
            if positions is None:
                self._recorder.insert_rows(self.cursor, rows)
            else:
                self._recorder.place_rows(self.cursor, rows, positions)
        except psycopg.errors.UniqueViolation as error:
            taken = _TAKEN.search(error.diag.message_detail or "")
            stream_id, version = (UUID(taken[1]).bytes, int(taken[2])) if taken else rows[0][:2]
            raise stream_conflict(stream_id, version) from error
        return [row[0] for row in self.cursor.fetchall()] if positions is None else list(positions)

    def _add_types(self, types: Collection[tuple[str, int]]) -> None:
        for type_, schema_version in sorted(types):
            self._do(
                "INSERT INTO {schema}.tl_types VALUES (%s, %s) ON CONFLICT DO NOTHING",
                (type_, schema_version),
            )

    def _write(self, table: str, puts: Sequence[tuple[bytes, bytes]], deletes: Sequence[bytes]) -> None:
        if puts:
            keys, values = zip(*puts, strict=True)
            self._do(
                "INSERT INTO {schema}.{table} SELECT * FROM unnest(%b::bytea[], %b::bytea[]) "
                "ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                (list(keys), list(values)),
                f"t_{table}",
            )
        if deletes:
            self._do("DELETE FROM {schema}.{table} WHERE key = ANY(%b::bytea[])", (list(deletes),), f"t_{table}")

    def _stored_page(
        self, table: str, low: bytes, high: bytes | None, limit: int, reverse: bool
    ) -> list[tuple[bytes, bytes]]:
        return self._postgres_page(table, low, high, limit, reverse)

    def _stored_count(self, table: str) -> int:
        return self._postgres_count(table)

    def _track(self, upstream: str, sequence: int) -> None:
        if not self._recorder.track(self.cursor, Tracking(upstream, sequence)):
            raise inbox_conflict(upstream, sequence)

    def _write_inbox(self, position: InboxPosition) -> None:
        self._do(
            "INSERT INTO {schema}.tl_inbox VALUES (%s, %s, %s, %s) ON CONFLICT (stream) DO UPDATE SET "
            "created = excluded.created, sequence = excluded.sequence, position = excluded.position",
            (position.stream, position.created, position.sequence, position.position),
        )


class PostgresStore(Store):
    """A service's store in one schema."""

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
        recorder = self._recorder = cast("PostgresLogRecorder", log.recorder)
        self._datastore = recorder.datastore
        self._statements = _Statements(recorder.datastore.schema, recorder.events_table_name)
        # One trip to the server for all three; what is read after the lock sees every earlier commit.
        self._begin = SQL(
            "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = {}; SELECT pg_advisory_xact_lock({})"
        ).format(
            Literal(f"{recorder.datastore.lock_timeout}s"),
            Literal(lock_key(recorder.datastore.schema, recorder.events_table_name)),
        )
        self._known_types = known_types
        self._head = head

    @classmethod
    def open(cls, settings: StoreSettings, tables: Sequence[str], clock: Clock, schemas: Schemas) -> PostgresStore:
        """Makes what is missing in the schema, the schema included, and refuses what it must not touch."""
        environment = {**DEFAULTS, **settings.environment}
        schema = environment["POSTGRES_SCHEMA"]
        codec = Codec(settings.service, schemas)
        log: EventLog | None = None
        try:
            with _connect(environment) as connection, connection.cursor(row_factory=tuple_row) as cursor:
                if not settings.unsafe_allowed:
                    _refuse_forgetful(cursor)
                # Held until this connection closes: two processes that start at once do not make tables twice.
                cursor.execute("SELECT pg_advisory_lock(%s)", (lock_key(schema, "open"),))
                _make_schema(cursor, schema)
                _refuse_foreign(cursor, schema, settings.service)
                log = EventLog(settings.service, environment, PostgresLogFactory)
                make = [SQL(cast("Any", statement)) for statement in _OWN_TABLES]
                statements: list[Composed] = [each.format(schema=Identifier(schema)) for each in make]
                statements += [
                    SQL(_TABLE).format(schema=Identifier(schema), table=Identifier(f"t_{table}")) for table in tables
                ]
                for statement in statements:
                    cursor.execute(statement)
                cursor.execute(
                    SQL("INSERT INTO {}.tl_meta VALUES (%s, %s), (%s, %s) ON CONFLICT DO NOTHING").format(
                        Identifier(schema)
                    ),
                    ("log_format", str(LOG_FORMAT), "service", settings.service),
                )
                cursor.execute(SQL("SELECT type, schema_version FROM {}.tl_types").format(Identifier(schema)))
                types = {(row[0], row[1]) for row in cursor.fetchall()}
                head = cursor.execute(SQL(_HEAD).format(schema=Identifier(schema))).fetchone()
            for type_, schema_version in sorted(types):
                codec.check(type_, schema_version, f"the log of {settings.service}")
        except BaseException as error:
            if log is not None:
                log.close()
            if isinstance(error, psycopg.Error | PersistenceError):
                raise log_unavailable(error, f"opening schema {schema}") from error
            raise
        return cls(log, codec, tables, clock, known_types=types, head=0 if head is None else head[0])

    @contextmanager
    def snapshot(self) -> Generator[PostgresReader]:
        """A view of the database as it is now."""
        with self._view() as cursor:
            yield PostgresReader(cursor, self._statements, self.codec, self.tables)

    @contextmanager
    def archive(self) -> Generator[PostgresArchive]:
        """A view of all that the schema holds now."""
        with self._view() as cursor:
            yield PostgresArchive(cursor, self._statements, self.codec, self.tables, self._recorder)

    @contextmanager
    def restoration(self) -> Generator[PostgresRestoration]:
        """Fills a schema that holds nothing yet."""
        with self._connection("writing") as connection:
            cursor = connection.cursor(binary=True, row_factory=tuple_row)
            connection.execute(self._begin, prepare=False)
            if self._start(cursor) != Commit(0, 0):
                raise StoreNotEmptyError(self.service)
            yield PostgresRestoration(cursor, self._statements, self._recorder)
            cursor.execute("COMMIT")

    @contextmanager
    def _view(self) -> Generator[Cursor]:
        with self._connection("reading") as connection:
            cursor = connection.cursor(binary=True, row_factory=tuple_row)
            # The view begins with the first statement, not with BEGIN; one trip to the server for both.
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT 1", prepare=False)
            yield cursor
            cursor.execute("ROLLBACK")

    @contextmanager
    def transaction(self) -> Generator[PostgresTransaction]:
        """The one transaction that writes, in this process or any other."""
        with self._connection("writing") as connection:
            cursor = connection.cursor(binary=True, row_factory=tuple_row)
            connection.execute(self._begin, prepare=False)
            head, position = self._start(cursor)
            transaction = PostgresTransaction(
                cursor,
                self._statements,
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
                cursor.execute(
                    self._statements.of("INSERT INTO {schema}.tl_commits VALUES (%s, %s)", ""),
                    (transaction.now, transaction.head_position),
                    prepare=True,
                )
                cursor.execute("COMMIT")
            else:
                cursor.execute("ROLLBACK")
        self._head = transaction.now if transaction.touched else head
        self._known_types |= transaction.new_types
        self._committed(position, transaction.appended)

    def _start(self, cursor: Cursor) -> Commit:
        """The last commit, behind the log's lock. Raises SealedLogError."""
        successors, head, position = cast(
            "tuple[str | None, int | None, int | None]",
            cursor.execute(self._statements.of(_START, ""), prepare=True).fetchone(),
        )
        if successors:
            raise SealedLogError(self.service, successors)
        return Commit(head or 0, position or 0)

    def sealed(self) -> str:
        """See `Store`."""
        with self._view() as cursor:
            found = cursor.execute(self._statements.of(_SEALED, "")).fetchone()
            return "" if found is None else found[0]

    def seal(self, successors: str, last: Commit) -> None:
        """See `Store`."""
        if self.sealed():
            return
        with self._connection("sealing") as connection:
            cursor = connection.cursor(binary=True, row_factory=tuple_row)
            connection.execute(self._begin, prepare=False)
            if self._start(cursor) != last:
                raise LogGrewError(self.service)
            cursor.execute(
                self._statements.of("INSERT INTO {schema}.tl_meta VALUES (%s, %s)", ""), (SEALED, successors)
            )
            cursor.execute("COMMIT")

    @contextmanager
    def _connection(self, doing: str) -> Generator[psycopg.Connection[Any]]:
        """A connection out of the pool; what was begun on it and not ended is rolled back."""
        try:
            with self._datastore.get_connection() as connection:
                try:
                    yield connection
                finally:
                    if connection.info.transaction_status in {
                        TransactionStatus.INTRANS,
                        TransactionStatus.INERROR,
                    }:
                        connection.execute("ROLLBACK")
        except UnavailableError:
            raise
        except (psycopg.Error, PersistenceError) as error:
            if not is_outage(error):
                raise
            with suppress(psycopg.Error):
                # Connections that died with the server would fail one caller each.
                self._datastore.pool.check()
            raise log_unavailable(error, doing) from error

    @property
    def switches(self) -> tuple[str, ...]:
        """Those that opening it refuses where they are off."""
        return _SWITCHES

    def switched_on(self, switch: str) -> bool:
        """Asks the server, in a session of this service's."""
        if switch not in _SWITCHES:
            raise KeyError(switch)
        with self._view() as cursor:
            row = cursor.execute("SELECT current_setting(%s)", (switch,)).fetchone()
        return row is not None and row[0] != "off"

    def close(self) -> None:
        """Closes every connection."""
        self.log.close()


def discard_schema(settings: StoreSettings) -> None:
    """Removes every table of a store; the schema itself may be somebody else's. Raises UnavailableError."""
    environment = {**DEFAULTS, **settings.environment}
    schema = environment["POSTGRES_SCHEMA"]
    try:
        with _connect(environment) as connection, connection.transaction(), connection.cursor() as cursor:
            cursor.execute("SELECT tablename::text FROM pg_tables WHERE schemaname = %s", (schema,))
            for (table,) in cursor.fetchall():
                cursor.execute(SQL("DROP TABLE {}").format(Identifier(schema, table)))
    except psycopg.Error as error:
        raise log_unavailable(error, f"removing the tables of schema {schema}") from error


def _stream_bytes(stream_id: UUID | str) -> bytes:
    return stream_id.bytes if isinstance(stream_id, UUID) else UUID(stream_id).bytes


def _connect(environment: dict[str, str]) -> psycopg.Connection[Any]:
    return psycopg.connect(
        host=environment["POSTGRES_HOST"],
        port=environment.get("POSTGRES_PORT") or "5432",
        dbname=environment["POSTGRES_DBNAME"],
        user=environment["POSTGRES_USER"],
        password=environment["POSTGRES_PASSWORD"],
        connect_timeout=int(environment["POSTGRES_CONNECT_TIMEOUT"]),
        autocommit=True,
    )


def _refuse_forgetful(cursor: Cursor) -> None:
    """Raises SettingsError for a server that acknowledges what it has not synced."""
    cursor.execute(
        "SELECT name, setting FROM pg_settings WHERE name = ANY(%s) AND setting = 'off' ORDER BY name",
        (list(_SWITCHES),),
    )
    weak = [row[0] for row in cursor.fetchall()]
    if weak:
        raise SettingsError(
            f"the PostgreSQL server runs with {', '.join(f'{name}=off' for name in weak)}: it would lose what was "
            f"acknowledged; switch it on (a test that does not mind may set {UNSAFE}=yes)"
        )


def _make_schema(cursor: Cursor, schema: str) -> None:
    if cursor.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (schema,)).fetchone() is None:
        cursor.execute(SQL("CREATE SCHEMA IF NOT EXISTS {}").format(Identifier(schema)))


def _refuse_foreign(cursor: Cursor, schema: str, service: str) -> None:
    """Looks before anything is made: a newer log is not to be touched."""
    found = cursor.execute(
        "SELECT 1 FROM pg_tables WHERE schemaname = %s AND tablename = 'tl_meta'", (schema,)
    ).fetchone()
    if found is not None:
        cursor.execute(SQL("SELECT name, value FROM {}.tl_meta").format(Identifier(schema)))
        check_meta(dict(cast("list[tuple[str, str]]", cursor.fetchall())), service)
