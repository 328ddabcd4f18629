"""Starts, watches and stops nats-server and the five services on the loopback of this machine."""

from __future__ import annotations

import fcntl
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

import grpc
from grpc_health.v1 import health_pb2

from throughline_client.endpoints import PEERS, RUN_FILE, SERVICES, RunFile, read_run_file
from throughline_eventlog.errors import SettingsError
from throughline_eventlog.nats_server import NatsServer, NatsServerError, free_port, tied_to_parent
from throughline_eventlog.partitions import PARTITIONS, Partitioning, number_of, service_of
from throughline_rpc import IN_THE_CLEAR, CallerCredentials, open_blocking_channel

HOST: Final = "127.0.0.1"
BUS: Final = "nats"
FORGOTTEN_FILE: Final = "forgotten.ndjson"
READY_SECONDS: Final = 60.0
STOP_SECONDS: Final = 20.0
SIGNING_KEYS_FILE: Final = "signing.keys"
# Where the ports of the metrics begin, of partitions beside the first, and of their metrics.
METRICS: Final = 10
FURTHER: Final = 20
FURTHER_METRICS: Final = 100
LOG_BYTES: Final = 32 * 1024 * 1024
# Settings of a store that belong to another installation must not reach an embedded suite.
_FOREIGN: Final = (
    "PERSISTENCE_MODULE",
    "SQLITE_",
    "POSTGRES_",
    "THROUGHLINE_",
    *(f"{each.upper()}_" for each in SERVICES),
)
_KEPT: Final = ("THROUGHLINE_LOG", "THROUGHLINE_TRACE", "THROUGHLINE_TEST")


class SuiteError(Exception):
    """The suite cannot start, or a part of it ended; the message says which and what to do."""


@dataclass(frozen=True, slots=True)
class Death:
    """A process of the suite that ended by itself. `code` is negative where a signal ended it."""

    name: str
    code: int
    last_lines: tuple[str, ...]

    def __str__(self) -> str:
        how = f"was ended by signal {-self.code}" if self.code < 0 else f"ended with {self.code}"
        return f"{self.name} {how}; its last words:\n  " + "\n  ".join(self.last_lines or ("(none)",))


@dataclass(slots=True)
class _Child:
    process: subprocess.Popen[bytes]
    expected_to_end: bool = False


@dataclass
class Suite:
    """One suite on one data folder. Start it from a thread that lives as long as the suite should: on Linux its
    processes are killed when that thread ends, so that a crashed parent leaves nothing behind.

    `port_base` is the first of the ports: services in order from there, the bus at +5, metrics from +10; 0 takes free
    ones. `services` may name fewer than all. `environment` is added to every service's, `own_environment` to that of
    the service it is given for, `bus_lines` to the bus's configuration; `credentials` are what services are called with
    where that makes them want some.

    How many partitions a service has the folder says. Where ingestion has several each is a process of its own, called
    as its log (`ingestion-101`), further ones from +20 with their metrics from +100; `ingestion` is the first of them.
    """

    folder: Path
    port_base: int = 0
    services: Sequence[str] = SERVICES
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    own_environment: Mapping[str, Mapping[str, str]] = field(default_factory=dict[str, Mapping[str, str]])
    bus_lines: str = ""
    credentials: CallerCredentials = IN_THE_CLEAR
    ready_seconds: float = READY_SECONDS
    addresses: dict[str, str] = field(default_factory=dict[str, str], init=False)
    metrics: dict[str, str] = field(default_factory=dict[str, str], init=False)
    partitioning: Partitioning = field(default_factory=Partitioning, init=False)
    _bus: NatsServer | None = field(default=None, init=False, repr=False)
    _bus_expected_to_end: bool = field(default=False, init=False, repr=False)
    _children: dict[str, _Child] = field(default_factory=dict[str, _Child], init=False, repr=False)
    _lock: IO[str] | None = field(default=None, init=False, repr=False)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # What it is.

    @property
    def bus(self) -> NatsServer:
        """The bus. Raises: SuiteError before it was started."""
        if self._bus is None:
            raise SuiteError("the suite was not started")
        return self._bus

    @property
    def parts(self) -> tuple[str, ...]:
        """Its processes but the bus, each by its log."""
        return self.partitioning.logs(self.services)

    @property
    def pids(self) -> dict[str, int]:
        """The processes, by service, and the bus as `nats`."""
        pids = {name: child.process.pid for name, child in self._children.items()}
        if self._bus is not None and self._bus.pid is not None:
            pids[BUS] = self._bus.pid
        return pids

    def log_file(self, name: str) -> Path:
        """Where a service (JSON lines), or the bus, says what it does."""
        return self.folder / BUS / "nats-server.log" if name == BUS else self.folder / "logs" / f"{name}.jsonl"

    def last_lines(self, name: str, count: int = 8) -> tuple[str, ...]:
        """The end of a log."""
        try:
            with self.log_file(name).open("rb") as log:
                log.seek(0, os.SEEK_END)
                log.seek(max(0, log.tell() - 16_384))
                text = log.read().decode(errors="replace")
        except OSError:
            return ()
        return tuple(text.splitlines()[-count:])

    # All of it.

    def start(self) -> None:
        """Starts everything and returns when every service is SERVING.

        Raises: SuiteError where the folder is in use, a port is busy, or a part does not get ready; then everything
        that was started is stopped again.
        """
        self._lock = _take(self.folder)
        try:
            self._prepare()
            self._start_bus()
            for name in self.parts:
                self._spawn(name)
            self.wait_ready()
            self._write_run_file()
        except BaseException:
            self.stop()
            raise

    def stop(self, *, timeout: float = STOP_SECONDS) -> None:
        """Lets the services drain and end, all at once, then the bus, and gives the folder free. What does not end in
        time is killed: nothing acknowledged is lost by that.
        """
        if self._lock is not None:
            (self.folder / RUN_FILE).unlink(missing_ok=True)
        self._end(list(self._children), timeout)
        self._children.clear()
        if self._bus is not None:
            self._bus_expected_to_end = True
            self._bus.stop()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def deaths(self) -> list[Death]:
        """The processes that ended although nobody asked them to."""
        found = [
            Death(name, child.process.returncode, self.last_lines(name))
            for name, child in self._children.items()
            if child.process.poll() is not None and not child.expected_to_end
        ]
        if self._bus is not None and not self._bus.running and not self._bus_expected_to_end:
            found.append(Death(BUS, 1, self.last_lines(BUS)))
        return found

    def wait_ready(self, names: Iterable[str] | None = None, timeout: float | None = None) -> None:
        """Returns when the services are SERVING, consumers and relays included.

        Raises: SuiteError where one ends, or is not ready in time, with its last words.
        """
        waiting = list(self.parts if names is None else names)
        deadline = time.monotonic() + (self.ready_seconds if timeout is None else timeout)
        while waiting:
            dead = [death for death in self.deaths() if death.name in waiting or death.name == BUS]
            if dead:
                raise SuiteError(f"{dead[0]}")
            waiting = [name for name in waiting if not self.is_serving(name)]
            if waiting and time.monotonic() > deadline:
                name = waiting[0]
                said = "\n  ".join(self.last_lines(name) or ("(nothing)",))
                raise SuiteError(
                    f"{name} was not ready in time; it listens on {self.addresses[name]} and said:\n  {said}"
                )
            if waiting:
                time.sleep(0.05)

    def is_serving(self, name: str) -> bool:
        """Whether a service answers that all of it is SERVING."""
        with open_blocking_channel(self.addresses[name], credentials=self.credentials) as channel:
            check = channel.unary_unary(
                "/grpc.health.v1.Health/Check",
                request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
                response_deserializer=health_pb2.HealthCheckResponse.FromString,
            )
            try:
                answer: health_pb2.HealthCheckResponse = check(health_pb2.HealthCheckRequest(), timeout=2.0)
            except grpc.RpcError:
                return False
        return answer.status == health_pb2.HealthCheckResponse.SERVING

    # One of it.

    def kill(self, name: str) -> None:
        """Ends one service, or the bus, as a power cut would (SIGKILL)."""
        if name == BUS:
            self._bus_expected_to_end = True
            self.bus.kill()
            return
        child = self._child(name)
        child.expected_to_end = True
        child.process.kill()
        child.process.wait()

    def end(self, name: str, *, timeout: float = STOP_SECONDS) -> None:
        """Lets one service, or the bus, drain and end."""
        if name == BUS:
            self._bus_expected_to_end = True
            self.bus.stop()
            return
        self._child(name)
        self._end([name], timeout)

    def restart(self, name: str, *, wait: bool = True) -> None:
        """Starts one service, or the bus, again on its port and data; ends it first where it runs.

        Raises: SuiteError where it does not get ready.
        """
        if name == BUS:
            self._bus_expected_to_end = True
            try:
                self.bus.restart()
            except NatsServerError as error:
                raise SuiteError(str(error)) from None
            self._bus_expected_to_end = False
        else:
            self.end(name)
            self._spawn(name)
            if wait:
                self.wait_ready([name])
        self._write_run_file()

    # Parts of it.

    def _child(self, name: str) -> _Child:
        try:
            return self._children[name]
        except KeyError:
            raise SuiteError(f"{name!r} is no part of this suite: {', '.join([*self.parts, BUS])}") from None

    def _prepare(self) -> None:
        (self.folder / "logs").mkdir(exist_ok=True)
        # There from the first day, so that a backup of it can be told from one that was left out.
        (self.folder / FORGOTTEN_FILE).touch(mode=0o600)
        keys = self.folder / "keys.json"
        if not keys.exists():
            from throughline_privacy import create_keys  # noqa: PLC0415 -- loads a database driver; every command would

            create_keys(keys)
        signing = self.folder / SIGNING_KEYS_FILE
        if not signing.exists():
            from throughline_proof import SigningKey, write_signing_keys  # noqa: PLC0415 -- as above

            # Its own name: the checkpoints of two installations are never taken for one another's.
            write_signing_keys(signing, [SigningKey.new(f"throughline-{secrets.token_hex(4)}").line])
        self._read_partitioning()
        for name, address in [*self.addresses.items(), *((f"{name} metrics", at) for name, at in self.metrics.items())]:
            self._check_port(name, int(address.rpartition(":")[2]))

    def _read_partitioning(self) -> None:
        """How the folder's services are parted now, and where each part listens."""
        from throughline_client.installation import read_partitioning  # noqa: PLC0415 -- loads a database driver

        try:
            self.partitioning = read_partitioning(self.folder)
        except SettingsError as error:
            raise SuiteError(str(error)) from error
        addresses, metrics = dict[str, str](), dict[str, str]()
        for index, service in enumerate(self.services):
            place = SERVICES.index(service) if service in SERVICES else index
            for at, name in enumerate(self.partitioning.logs([service])):
                port, measured = (FURTHER + at, FURTHER_METRICS + at) if at else (place, METRICS + place)
                addresses[name] = self.addresses.setdefault(name, f"{HOST}:{self._port(port)}")
                metrics[name] = self.metrics.setdefault(name, f"{HOST}:{self._port(measured)}")
                addresses.setdefault(service, addresses[name])
        self.addresses, self.metrics = addresses, metrics

    def _port(self, offset: int) -> int:
        if self.port_base:
            return self.port_base + offset
        # A port is free until somebody listens there: the system may name one twice.
        bus = () if self._bus is None else (self._bus.url,)
        named = {at.rpartition(":")[2] for at in (*self.addresses.values(), *self.metrics.values(), *bus)}
        while str(port := free_port(HOST)) in named:
            pass
        return port

    def _check_port(self, name: str, port: int) -> None:
        """Refuses a busy port. Processes of a suite that was killed a moment ago are given time to be gone."""
        deadline = time.monotonic() + 3.0
        while True:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((HOST, port))
                    return
                except (OSError, OverflowError) as error:
                    reason = getattr(error, "strerror", None) or str(error)
            if time.monotonic() > deadline:
                raise SuiteError(
                    f"port {port} for {name} cannot be used ({reason}); stop what listens there, or give another "
                    "--port-base (0 takes free ports)"
                )
            time.sleep(0.1)

    def _start_bus(self) -> None:
        if self._bus is None:
            self._bus = NatsServer(self.folder / BUS, port=self._port(5), host=HOST, more=self.bus_lines)
        try:
            self._bus.start()
        except NatsServerError as error:
            raise SuiteError(f"the bus did not start: {error}") from None
        self._bus_expected_to_end = False

    def _spawn(self, name: str) -> None:
        log_file = self.log_file(name)
        if log_file.exists() and log_file.stat().st_size > LOG_BYTES:
            log_file.replace(log_file.with_suffix(".jsonl.1"))
        with log_file.open("ab") as log:
            process = subprocess.Popen(
                tied_to_parent([sys.executable, "-m", service_of(name)]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment(name),
                # A Ctrl-C in the terminal is for the parent, which stops the others in order.
                start_new_session=True,
            )
        self._children[name] = _Child(process)

    def _environment(self, name: str) -> dict[str, str]:
        service = service_of(name)
        parts = self.partitioning.logs([service])
        inherited = {
            key: value for key, value in os.environ.items() if not key.startswith(_FOREIGN) or key.startswith(_KEPT)
        }
        return {
            **inherited,
            "PYTHONUNBUFFERED": "1",
            "PERSISTENCE_MODULE": "eventsourcing.sqlite",
            "SQLITE_DBNAME": str(self.folder / f"{service}.db"),
            "THROUGHLINE_KEYS_FILE": str(self.folder / "keys.json"),
            "THROUGHLINE_KEY_STORE": str(self.folder / "keys.db"),
            "THROUGHLINE_SIGNING_KEYS_FILE": str(self.folder / SIGNING_KEYS_FILE),
            "THROUGHLINE_FORGOTTEN_LIST": str(self.folder / FORGOTTEN_FILE),
            "THROUGHLINE_NATS_URL": self.bus.url,
            "THROUGHLINE_HOST": HOST,
            "THROUGHLINE_PORT": self.addresses[name].rpartition(":")[2],
            "THROUGHLINE_METRICS_PORT": self.metrics[name].rpartition(":")[2],
            PARTITIONS: self.partitioning.write(),
            "THROUGHLINE_PARTITION": str(number_of(name)),
            PEERS: ",".join(self.addresses[part] for part in parts) if len(parts) > 1 else "",
            **self.environment,
            **self.own_environment.get(service, {}),
        }

    def _end(self, names: list[str], timeout: float) -> None:
        running = [self._children[name] for name in names]
        for child in running:
            child.expected_to_end = True
            if child.process.poll() is None:
                child.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + timeout
        for child in running:
            try:
                child.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()

    def _write_run_file(self) -> None:
        RunFile(os.getpid(), self.bus.url, self.addresses, self.pids, self.metrics, self.partitioning.write()).write(
            self.folder
        )


@contextmanager
def hold_folder(folder: Path) -> Generator[None]:
    """Keeps a data folder for the block: no suite starts on it meanwhile. Raises: SuiteError where one runs."""
    lock = _take(folder)
    try:
        yield
    finally:
        lock.close()


def _take(folder: Path) -> IO[str]:
    """Locks a data folder until what it gives is closed, or this process ends. Raises: SuiteError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("a+", encoding="utf-8")
    except OSError as error:
        raise SuiteError(f"{folder} cannot be used: {error.strerror}; give another --data folder") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.seek(0)
        holder = lock.read().strip() or "unknown"
        lock.close()
        run = read_run_file(folder)
        where = f", its ingestion listens on {run.addresses.get('ingestion')}" if run else ""
        raise SuiteError(
            f"a suite runs on {folder} already (process {holder}{where}); use that one, stop it, or give another "
            "--data folder"
        ) from None
    lock.seek(0)
    lock.truncate()
    lock.write(f"{os.getpid()}\n")
    lock.flush()
    return lock
