"""Who was forgotten, in a place of its own: whatever is restored from before, nobody on the list comes back.

One JSON object a line: `keys`, ids (hex) of keys that were destroyed, and of a client beside the `keys` of its personas
`client`, `aliases`, `identifiers` (type and hash in hex) and `at` (microseconds).
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from threading import Lock
from typing import Any, Final, NamedTuple, Protocol

import psycopg
from psycopg import sql

from throughline_kernel import UnavailableError

_CONNECT_SECONDS: Final = 10
SCHEMA: Final = "throughline_forgotten"


class ForgottenClient(NamedTuple):
    """A client that was forgotten: ids of 16 bytes, identifiers as (type, hash), `at` in microseconds."""

    client_id: bytes
    alias_ids: tuple[bytes, ...]
    persona_ids: tuple[bytes, ...]
    identifiers: tuple[tuple[str, bytes], ...]
    at: int


class ForgottenListError(ValueError):
    """The list cannot be read: whoever stands where it is damaged would come back."""


class Lines(Protocol):
    """Where the list is kept. What is added is durable on return; several processes share one list."""

    def read(self, after: int) -> tuple[list[str], int]:
        """The lines behind a place, in order, and the place behind them; 0 is before the first.

        Raises: UnavailableError.
        """
        ...

    def append(self, lines: Sequence[str]) -> None:
        """Adds lines. Raises: UnavailableError."""
        ...

    def kept(self) -> bool:
        """Whether there is a list. Raises: UnavailableError."""
        ...


class ForgottenList:
    """What every process of an installation knows of the forgotten. May be used from several threads."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._place = 0
        self._keys: set[bytes] = set()
        self._clients: dict[ForgottenClient, None] = {}
        self._lock = Lock()

    def add_keys(self, key_ids: Collection[bytes]) -> int:
        """Puts destroyed keys on the list; answers how many were not on it.

        Raises: UnavailableError, ForgottenListError.
        """
        with self._lock:
            self._catch_up()
            new = sorted(set(key_ids) - self._keys)
            self._lines.append([json.dumps({"keys": [key_id.hex() for key_id in new]})] if new else [])
            return len(new)

    def add_clients(self, clients: Iterable[ForgottenClient]) -> int:
        """Puts clients on the list; answers how many were not on it as they are.

        Raises: UnavailableError, ForgottenListError.
        """
        with self._lock:
            self._catch_up()
            new = [client for client in clients if client not in self._clients]
            self._lines.append([_line(client) for client in new])
            return len(new)

    def kept(self) -> bool:
        """Whether there is a list, be it an empty one. Raises: UnavailableError."""
        return self._lines.kept()

    def keys(self) -> set[bytes]:
        """Every key that nothing may open again. Raises: UnavailableError, ForgottenListError."""
        with self._lock:
            self._catch_up()
            return set(self._keys)

    def clients(self) -> list[ForgottenClient]:
        """Every client, in the order in which they were forgotten. Raises: UnavailableError, ForgottenListError."""
        with self._lock:
            self._catch_up()
            return list(self._clients)

    def _catch_up(self) -> None:
        lines, place = self._lines.read(self._place)
        try:
            for line in map(json.loads, lines):
                self._keys.update(map(bytes.fromhex, line["keys"]))
                if "client" in line:
                    self._clients[_client(line)] = None
        except (ValueError, KeyError, TypeError) as error:
            raise ForgottenListError(
                f"the list of the forgotten is damaged ({error}): put it back from its backup"
            ) from error
        self._place = place


class FileLines:
    """A file that only its owner can read, synced with every addition."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, after: int) -> tuple[list[str], int]:
        """Whole lines behind so many bytes: one that was being added when its process ended was not acknowledged."""
        try:
            with self._path.open("rb") as file:
                file.seek(after)
                held = file.read()
        except FileNotFoundError:
            return [], 0
        except OSError as error:
            raise _unavailable(error) from error
        whole = held[: held.rfind(b"\n") + 1]
        return whole.decode().splitlines(), after + len(whole)

    def append(self, lines: Sequence[str]) -> None:
        """Adds lines at once, one process at a time."""
        if not lines:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            new = not self._path.exists()
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                self._cut(descriptor)
                with os.fdopen(os.dup(descriptor), "ab") as file:
                    file.write("".join(f"{line}\n" for line in lines).encode())
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if new:
                folder = os.open(self._path.parent, os.O_RDONLY)
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)
        except OSError as error:
            raise _unavailable(error) from error

    def kept(self) -> bool:
        """Whether the file is there."""
        return self._path.exists()

    @staticmethod
    def _cut(descriptor: int) -> None:
        """Takes away what a process that ended left of a line."""
        size = end = os.fstat(descriptor).st_size
        while end and os.pread(descriptor, 1, end - 1) != b"\n":
            end -= 1
        if end < size:
            os.ftruncate(descriptor, end)


class PostgresLines:
    """A table of its own, in a database that is not restored together with the logs."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._table = sql.Identifier(SCHEMA, "lines")

    def read(self, after: int) -> tuple[list[str], int]:
        """Lines behind a sequence."""
        with self._connect() as connection:
            rows = connection.execute(
                sql.SQL("SELECT sequence, line FROM {} WHERE sequence > %s ORDER BY sequence").format(self._table),
                (after,),
            ).fetchall()
        return [line for _, line in rows], rows[-1][0] if rows else after

    def append(self, lines: Sequence[str]) -> None:
        """Adds lines in one commit."""
        if not lines:
            return
        with self._connect() as connection, connection.cursor() as cursor:
            cursor.executemany(
                sql.SQL("INSERT INTO {} (line) VALUES (%s)").format(self._table), [(line,) for line in lines]
            )

    def kept(self) -> bool:
        """Whether the database holds it: it is made where it is first asked for."""
        return bool(self.read(0)[0])

    def _connect(self) -> psycopg.Connection:
        """A connection for one question: the list is asked at the start, and when somebody is forgotten."""
        try:
            connection = psycopg.connect(
                self._url,
                connect_timeout=_CONNECT_SECONDS,
                options="-c synchronous_commit=on -c lock_timeout=10s",
                application_name="throughline-forgotten",
            )
            connection.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", (SCHEMA,))
            connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(SCHEMA)))
            connection.execute(
                sql.SQL(
                    "CREATE TABLE IF NOT EXISTS {} (sequence bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,"
                    " line text NOT NULL)"
                ).format(self._table)
            )
            connection.commit()
        except psycopg.Error as error:
            raise _unavailable(error) from error
        return connection


def open_forgotten_list(place: str) -> ForgottenList:
    """The list at a path or a `postgresql://` URL."""
    if place.startswith(("postgresql://", "postgres://")):
        return ForgottenList(PostgresLines(place))
    return ForgottenList(FileLines(Path(place)))


def _client(line: dict[str, Any]) -> ForgottenClient:
    return ForgottenClient(
        bytes.fromhex(line["client"]),
        tuple(map(bytes.fromhex, line["aliases"])),
        tuple(map(bytes.fromhex, line["keys"])),
        tuple((type_, bytes.fromhex(hash_)) for type_, hash_ in line["identifiers"]),
        int(line["at"]),
    )


def _line(client: ForgottenClient) -> str:
    return json.dumps(
        {
            "client": client.client_id.hex(),
            "aliases": [alias.hex() for alias in client.alias_ids],
            "keys": [persona.hex() for persona in client.persona_ids],
            "identifiers": [[type_, hash_.hex()] for type_, hash_ in client.identifiers],
            "at": client.at,
        }
    )


def _unavailable(error: Exception) -> UnavailableError:
    cause = str(error).partition("\n")[0]
    return UnavailableError(
        "LOG_UNAVAILABLE",
        f"the list of the forgotten cannot be used now ({cause}); check where it is kept, then retry",
        {"cause": f"list of the forgotten: {cause}"},
    )
