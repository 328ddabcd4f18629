"""The key store in one SQLite file, shared by the processes of one machine."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Generator, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from threading import RLock
from typing import Final

from throughline_kernel import UnavailableError
from throughline_privacy.vault import KekRetiredError, WrappedKey

_BUSY_SECONDS: Final = 10.0
_PER_STATEMENT: Final = 500

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS wrapped_keys (
    key_id BLOB PRIMARY KEY,
    kek_id TEXT NOT NULL,
    wrapped BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS destroyed_keys (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    key_id BLOB NOT NULL UNIQUE
);
CREATE TABLE IF NOT EXISTS retired_keks (
    kek_id TEXT PRIMARY KEY
) WITHOUT ROWID;
"""


class SqliteKeyStore:
    """Keeps wrapped keys in a file that only its owner can read. Safe for several threads and processes.

    WAL with synchronous=FULL: what is reported done is on disk. Deleted keys are overwritten with zeros, and
    the write-ahead log is emptied after a destruction, so that no copy of a destroyed key stays in the files.
    Raises: UnavailableError where the file cannot be opened, is locked for ten seconds, or the disk is full.
    """

    def __init__(self, path: Path) -> None:
        self._lock = RLock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
            self._connection = sqlite3.connect(
                path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
        except (OSError, sqlite3.Error) as error:
            raise _unavailable(error, str(path)) from error
        with self._available():
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=FULL")
            self._connection.execute("PRAGMA secure_delete=ON")
            self._connection.executescript(_SCHEMA)

    def fetch(self, key_ids: Collection[bytes]) -> dict[bytes, WrappedKey | None]:
        """What stands for each id: the wrapped key, None where destroyed, no entry where never seen."""
        with self._available():
            return self._fetch(key_ids)

    def add(self, keys: Mapping[bytes, WrappedKey]) -> dict[bytes, WrappedKey | None]:
        """Stores keys for ids never seen, in one commit; answers what now stands for every id.

        Raises: KekRetiredError.
        """
        with self._available(), self._transaction():
            retired = {key.kek_id for key in keys.values()} & self._retired()
            if retired:
                raise KekRetiredError(retired)
            gone = self._destroyed(keys)
            # In the order of the keys, since some share a page; many a statement: each lets go of the interpreter.
            new = sorted((key_id, *key) for key_id, key in keys.items() if key_id not in gone)
            before = self._connection.total_changes
            for start in range(0, len(new), _PER_STATEMENT):
                page = new[start : start + _PER_STATEMENT]
                marks = ",".join(["(?,?,?)"] * len(page))
                self._connection.execute(
                    f"INSERT OR IGNORE INTO wrapped_keys (key_id, kek_id, wrapped) VALUES {marks}",  # noqa: S608 -- marks
                    list(chain.from_iterable(page)),
                )
            if self._connection.total_changes - before == len(keys):
                return dict(keys)
            return self._fetch(keys)

    def destroy(self, key_ids: Collection[bytes]) -> int:
        """Deletes keys and leaves tombstones; answers how many were not destroyed before."""
        rows = [(key_id,) for key_id in sorted(key_ids)]
        with self._available():
            with self._transaction():
                self._connection.executemany("DELETE FROM wrapped_keys WHERE key_id = ?", rows)
                before = self._connection.total_changes
                self._connection.executemany("INSERT OR IGNORE INTO destroyed_keys (key_id) VALUES (?)", rows)
                destroyed = self._connection.total_changes - before
            # The log still holds the pages as they were. Readers hold none of them for long: the busy timeout
            # waits for them.
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return destroyed

    def destroyed_after(self, sequence: int) -> list[tuple[int, bytes]]:
        """(sequence, key id) of the tombstones after a sequence, in order."""
        with self._available():
            return self._connection.execute(
                "SELECT sequence, key_id FROM destroyed_keys WHERE sequence > ? ORDER BY sequence", (sequence,)
            ).fetchall()

    def last_destroyed(self) -> int:
        """Sequence of the newest tombstone, 0 where there is none."""
        with self._available():
            (sequence,) = self._connection.execute("SELECT coalesce(max(sequence), 0) FROM destroyed_keys").fetchone()
        return sequence

    def page(self, after: bytes, limit: int) -> dict[bytes, WrappedKey]:
        """Up to `limit` keys in the order of their ids, behind one (empty: from the first)."""
        with self._available():
            rows = self._connection.execute(
                "SELECT key_id, kek_id, wrapped FROM wrapped_keys WHERE key_id > ? ORDER BY key_id LIMIT ?",
                (after, limit),
            ).fetchall()
        return {key_id: WrappedKey(kek, wrapped) for key_id, kek, wrapped in rows}

    def wrapped_otherwise(self, kek_id: str, limit: int) -> dict[bytes, WrappedKey]:
        """Up to `limit` keys that are not wrapped under this key-encryption key."""
        with self._available():
            rows = self._connection.execute(
                "SELECT key_id, kek_id, wrapped FROM wrapped_keys WHERE kek_id <> ? LIMIT ?", (kek_id, limit)
            ).fetchall()
        return {key_id: WrappedKey(kek, wrapped) for key_id, kek, wrapped in rows}

    def replace(self, keys: Mapping[bytes, WrappedKey]) -> int:
        """Stores new wrappings of keys that still stand, in one commit; answers how many."""
        rows = [(key.kek_id, key.wrapped, key_id) for key_id, key in keys.items()]
        with self._available(), self._transaction():
            before = self._connection.total_changes
            self._connection.executemany("UPDATE wrapped_keys SET kek_id = ?, wrapped = ? WHERE key_id = ?", rows)
            return self._connection.total_changes - before

    def rotate_to(self, kek_id: str, others: Collection[str]) -> None:
        """From now on no key is added under these, or any other key-encryption key that was ever in use here."""
        with self._available(), self._transaction():
            self._connection.execute(
                "INSERT OR IGNORE INTO retired_keks (kek_id) SELECT DISTINCT kek_id FROM wrapped_keys"
            )
            self._connection.executemany(
                "INSERT OR IGNORE INTO retired_keks (kek_id) VALUES (?)", [(other,) for other in others]
            )
            self._connection.execute("DELETE FROM retired_keks WHERE kek_id = ?", (kek_id,))

    def keks(self) -> dict[str, int]:
        """How many keys are wrapped under each key-encryption key: 0 for those rotated out that wrap none."""
        with self._available(), self._transaction():
            used = self._connection.execute("SELECT kek_id, count(*) FROM wrapped_keys GROUP BY kek_id").fetchall()
            return dict.fromkeys(self._retired(), 0) | dict(used)

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            self._connection.close()

    def _fetch(self, key_ids: Collection[bytes]) -> dict[bytes, WrappedKey | None]:
        found: dict[bytes, WrappedKey | None] = {}
        for page in _pages(key_ids):
            marks = ",".join("?" * len(page))
            for key_id, kek_id, wrapped in self._connection.execute(
                f"SELECT key_id, kek_id, wrapped FROM wrapped_keys WHERE key_id IN ({marks})",  # noqa: S608 -- marks
                page,
            ):
                found[key_id] = WrappedKey(kek_id, wrapped)
        found.update(dict.fromkeys(self._destroyed([key_id for key_id in key_ids if key_id not in found])))
        return found

    def _destroyed(self, key_ids: Collection[bytes]) -> set[bytes]:
        found: set[bytes] = set()
        for page in _pages(key_ids):
            marks = ",".join("?" * len(page))
            statement = f"SELECT key_id FROM destroyed_keys WHERE key_id IN ({marks})"  # noqa: S608 -- marks
            found.update(key_id for (key_id,) in self._connection.execute(statement, page))
        return found

    def _retired(self) -> set[str]:
        return {kek_id for (kek_id,) in self._connection.execute("SELECT kek_id FROM retired_keks")}

    @contextmanager
    def _transaction(self) -> Generator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    @contextmanager
    def _available(self) -> Generator[None]:
        with self._lock:
            try:
                yield
            except sqlite3.Error as error:
                raise _unavailable(error) from error


def _pages(key_ids: Collection[bytes]) -> Iterator[list[bytes]]:
    remaining = iter(key_ids)
    while page := list(islice(remaining, _PER_STATEMENT)):
        yield page


def _unavailable(error: Exception, path: str = "") -> UnavailableError:
    cause = f"key store: {error}"
    return UnavailableError(
        "LOG_UNAVAILABLE",
        f"the key store cannot be used now ({error}); check its disk and permissions, then retry",
        {"cause": cause, "path": path} if path else {"cause": cause},
    )
