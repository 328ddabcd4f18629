"""The key store in a PostgreSQL schema of its own, shared by the processes of an installation."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from threading import RLock
from typing import Any, Final, TypeVar

import psycopg
from psycopg import sql

from throughline_kernel import UnavailableError
from throughline_privacy.vault import KekRetiredError, WrappedKey

R = TypeVar("R")
_CONNECT_SECONDS: Final = 10


class PostgresKeyStore:
    """Keeps wrapped keys in the tables `wrapped_keys`, `destroyed_keys` and `retired_keks` of a schema that it
    makes where absent.

    Commits are synchronous whatever the server's default. What was deleted stays in dead rows until VACUUM,
    and in backups and archived WAL for as long as those are kept: without the key-encryption key it opens
    nothing. A lost connection is opened once more; every operation may safely be run twice.
    Raises: UnavailableError where the server cannot be reached or refuses.
    """

    def __init__(self, url: str, schema: str = "throughline_keys") -> None:
        self._url = url
        self._keys = sql.Identifier(schema, "wrapped_keys")
        self._destroyed = sql.Identifier(schema, "destroyed_keys")
        self._retired_keks = sql.Identifier(schema, "retired_keks")
        self._lock = RLock()
        self._connection: psycopg.Connection | None = None
        self._run(lambda cursor: self._create(cursor, schema))

    def fetch(self, key_ids: Collection[bytes]) -> dict[bytes, WrappedKey | None]:
        """What stands for each id: the wrapped key, None where destroyed, no entry where never seen."""
        return self._run(lambda cursor: self._fetch(cursor, key_ids))

    def add(self, keys: Mapping[bytes, WrappedKey]) -> dict[bytes, WrappedKey | None]:
        """Stores keys for ids never seen, in one commit; answers what now stands for every id.

        Raises: KekRetiredError.
        """

        def add(cursor: psycopg.Cursor[Any]) -> dict[bytes, WrappedKey | None]:
            # A shared lock against destruction (see `destroy`) and rotation: without it a key could be added beside
            # a tombstone not yet visible, or under a key-encryption key that is going out.
            cursor.execute(sql.SQL("LOCK TABLE {} IN ROW EXCLUSIVE MODE").format(self._destroyed))
            retired = {key.kek_id for key in keys.values()} & self._retired(cursor)
            if retired:
                raise KekRetiredError(retired)
            rows = sorted((key_id, *key) for key_id, key in keys.items())
            cursor.execute(
                sql.SQL(
                    "INSERT INTO {} (key_id, kek_id, wrapped)"
                    " SELECT * FROM unnest(%b::bytea[], %b::text[], %b::bytea[]) AS new (key_id, kek_id, wrapped)"
                    " WHERE NOT EXISTS (SELECT 1 FROM {} AS gone WHERE gone.key_id = new.key_id) ON CONFLICT DO NOTHING"
                ).format(self._keys, self._destroyed),
                tuple(map(list, zip(*rows, strict=True))),
            )
            return self._fetch(cursor, keys.keys())

        return self._run(add) if keys else {}

    def destroy(self, key_ids: Collection[bytes]) -> int:
        """Deletes keys and leaves tombstones; answers how many were not destroyed before."""

        def destroy(cursor: psycopg.Cursor[Any]) -> int:
            # One destruction at a time, so that sequences become visible in order and none is passed over by
            # `destroyed_after`.
            cursor.execute(sql.SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(self._destroyed))
            ids = sorted(key_ids)
            cursor.execute(sql.SQL("DELETE FROM {} WHERE key_id = ANY(%b)").format(self._keys), (ids,))
            cursor.execute(
                sql.SQL(
                    "INSERT INTO {} AS t (key_id) SELECT id FROM unnest(%b::bytea[]) AS id"
                    " WHERE NOT EXISTS (SELECT 1 FROM {} AS gone WHERE gone.key_id = id)"
                ).format(self._destroyed, self._destroyed),
                (ids,),
            )
            return cursor.rowcount

        return self._run(destroy) if key_ids else 0

    def destroyed_after(self, sequence: int) -> list[tuple[int, bytes]]:
        """(sequence, key id) of the tombstones after a sequence, in order."""

        def read(cursor: psycopg.Cursor[Any]) -> list[tuple[int, bytes]]:
            cursor.execute(
                sql.SQL("SELECT sequence, key_id FROM {} WHERE sequence > %b ORDER BY sequence").format(
                    self._destroyed
                ),
                (sequence,),
            )
            return cursor.fetchall()

        return self._run(read)

    def last_destroyed(self) -> int:
        """Sequence of the newest tombstone, 0 where there is none."""

        def read(cursor: psycopg.Cursor[Any]) -> int:
            cursor.execute(sql.SQL("SELECT coalesce(max(sequence), 0) FROM {}").format(self._destroyed))
            row = cursor.fetchone()
            return row[0] if row else 0

        return self._run(read)

    def page(self, after: bytes, limit: int) -> dict[bytes, WrappedKey]:
        """Up to `limit` keys in the order of their ids, behind one (empty: from the first)."""

        def read(cursor: psycopg.Cursor[Any]) -> dict[bytes, WrappedKey]:
            cursor.execute(
                sql.SQL("SELECT key_id, kek_id, wrapped FROM {} WHERE key_id > %b ORDER BY key_id LIMIT %b").format(
                    self._keys
                ),
                (after, limit),
            )
            return {key_id: WrappedKey(kek, wrapped) for key_id, kek, wrapped in cursor}

        return self._run(read)

    def wrapped_otherwise(self, kek_id: str, limit: int) -> dict[bytes, WrappedKey]:
        """Up to `limit` keys that are not wrapped under this key-encryption key."""

        def read(cursor: psycopg.Cursor[Any]) -> dict[bytes, WrappedKey]:
            cursor.execute(
                sql.SQL("SELECT key_id, kek_id, wrapped FROM {} WHERE kek_id <> %b LIMIT %b").format(self._keys),
                (kek_id, limit),
            )
            return {key_id: WrappedKey(kek, wrapped) for key_id, kek, wrapped in cursor}

        return self._run(read)

    def replace(self, keys: Mapping[bytes, WrappedKey]) -> int:
        """Stores new wrappings of keys that still stand, in one commit; answers how many."""

        def replace(cursor: psycopg.Cursor[Any]) -> int:
            rows = sorted((key_id, *key) for key_id, key in keys.items())
            cursor.execute(
                sql.SQL(
                    "UPDATE {} AS t SET kek_id = new.kek_id, wrapped = new.wrapped"
                    " FROM unnest(%b::bytea[], %b::text[], %b::bytea[]) AS new (key_id, kek_id, wrapped)"
                    " WHERE t.key_id = new.key_id"
                ).format(self._keys),
                tuple(map(list, zip(*rows, strict=True))),
            )
            return cursor.rowcount

        return self._run(replace) if keys else 0

    def rotate_to(self, kek_id: str, others: Collection[str]) -> None:
        """From now on no key is added under these, or any other key-encryption key that was ever in use here."""

        def rotate(cursor: psycopg.Cursor[Any]) -> None:
            cursor.execute(sql.SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(self._destroyed))
            cursor.execute(
                sql.SQL(
                    "INSERT INTO {} (kek_id) SELECT kek_id FROM {} UNION SELECT unnest(%b::text[])"
                    " ON CONFLICT DO NOTHING"
                ).format(self._retired_keks, self._keys),
                (list(others),),
            )
            cursor.execute(sql.SQL("DELETE FROM {} WHERE kek_id = %b").format(self._retired_keks), (kek_id,))

        self._run(rotate)

    def keks(self) -> dict[str, int]:
        """How many keys are wrapped under each key-encryption key: 0 for those rotated out that wrap none."""

        def read(cursor: psycopg.Cursor[Any]) -> dict[str, int]:
            cursor.execute(sql.SQL("SELECT kek_id, count(*) FROM {} GROUP BY kek_id").format(self._keys))
            used = dict(cursor.fetchall())
            return dict.fromkeys(self._retired(cursor), 0) | used

        return self._run(read)

    def close(self) -> None:
        """Closes the connection."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _create(self, cursor: psycopg.Cursor[Any], schema: str) -> None:
        # Several processes start at once: IF NOT EXISTS alone races in PostgreSQL.
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext(%b))", (f"throughline key store {schema}",))
        for table, columns in (
            (self._keys, sql.SQL('key_id bytea PRIMARY KEY, kek_id text COLLATE "C" NOT NULL, wrapped bytea NOT NULL')),
            (
                self._destroyed,
                sql.SQL("sequence bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, key_id bytea NOT NULL UNIQUE"),
            ),
            (self._retired_keks, sql.SQL('kek_id text COLLATE "C" PRIMARY KEY')),
        ):
            if self._is_there(cursor, table):
                continue  # made already, perhaps by a role with more rights than this one
            cursor.execute("SELECT 1 FROM pg_namespace WHERE nspname = %b", (schema,))
            if cursor.fetchone() is None:
                cursor.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
            cursor.execute(sql.SQL("CREATE TABLE {} ({})").format(table, columns))

    def _is_there(self, cursor: psycopg.Cursor[Any], table: sql.Identifier) -> bool:
        cursor.execute("SELECT to_regclass(%b)", (table.as_string(cursor),))
        row = cursor.fetchone()
        return row is not None and row[0] is not None

    def _retired(self, cursor: psycopg.Cursor[Any]) -> set[str]:
        cursor.execute(sql.SQL("SELECT kek_id FROM {}").format(self._retired_keks))
        return {kek_id for (kek_id,) in cursor}

    def _fetch(self, cursor: psycopg.Cursor[Any], key_ids: Collection[bytes]) -> dict[bytes, WrappedKey | None]:
        ids = list(key_ids)
        found: dict[bytes, WrappedKey | None] = {}
        cursor.execute(
            sql.SQL("SELECT key_id, kek_id, wrapped FROM {} WHERE key_id = ANY(%b)").format(self._keys), (ids,)
        )
        for key_id, kek_id, wrapped in cursor:
            found[key_id] = WrappedKey(kek_id, wrapped)
        missing = [key_id for key_id in ids if key_id not in found]
        if missing:
            cursor.execute(sql.SQL("SELECT key_id FROM {} WHERE key_id = ANY(%b)").format(self._destroyed), (missing,))
            found.update({key_id: None for (key_id,) in cursor})
        return found

    def _run(self, work: Callable[[psycopg.Cursor[Any]], R]) -> R:
        """Runs work in one transaction; once more on a new connection where the first was lost."""
        with self._lock:
            try:
                if self._connection is not None and not self._connection.closed:
                    try:
                        return self._attempt(self._connection, work)
                    except psycopg.OperationalError:
                        self._connection.close()
                self._connection = psycopg.connect(
                    self._url,
                    connect_timeout=_CONNECT_SECONDS,
                    options="-c synchronous_commit=on -c lock_timeout=10s -c idle_in_transaction_session_timeout=60s",
                    application_name="throughline-keys",
                )
                return self._attempt(self._connection, work)
            except psycopg.Error as error:
                cause = str(error).partition("\n")[0]
                raise UnavailableError(
                    "LOG_UNAVAILABLE",
                    f"the key store cannot be used now ({cause}); check the database, then retry",
                    {"cause": f"key store: {cause}"},
                ) from error

    @staticmethod
    def _attempt(connection: psycopg.Connection, work: Callable[[psycopg.Cursor[Any]], R]) -> R:
        with connection.transaction(), connection.cursor(binary=True) as cursor:
            return work(cursor)
