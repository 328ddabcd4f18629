"""Where the five services are, and what proves who calls: given, from the environment, or from a running suite's data
folder.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import orjson

from throughline_eventlog.errors import SettingsError
from throughline_eventlog.partitions import PARTITIONS, Partitioning, log_name, service_of
from throughline_rpc import IN_THE_CLEAR, CallerCredentials

SERVICES: Final = ("ingestion", "identity", "journey", "feedback", "scoring")
RUN_FILE: Final = "run.json"
DATA_VARIABLE: Final = "THROUGHLINE_DATA"
DEFAULT_DATA: Final = Path(".throughline")


PEERS: Final = "THROUGHLINE_INGESTION_PEERS"


class EndpointError(Exception):
    """Nobody said where a service is, or the suite that should say so does not run; the message says what to do."""


def address_variable(service: str) -> str:
    """The environment variable that holds a service's `host:port`."""
    return f"THROUGHLINE_{service.upper()}_ADDRESS"


def data_folder(given: Path | str | None = None, env: Mapping[str, str] = os.environ) -> Path:
    """The data folder: as given, else THROUGHLINE_DATA, else .throughline."""
    return Path(given or env.get(DATA_VARIABLE, "").strip() or DEFAULT_DATA)


@dataclass(frozen=True, slots=True)
class RunFile:
    """What `throughline up` writes into its data folder while it runs.

    Addresses, processes and metrics by log (`ingestion-101`); `ingestion` is the address of the first of several.
    """

    pid: int
    nats: str
    addresses: dict[str, str]
    pids: dict[str, int]
    metrics: dict[str, str]
    partitions: str = ""

    def write(self, folder: Path) -> None:
        """Writes it whole or not at all."""
        draft = folder / f".{RUN_FILE}.{os.getpid()}"
        draft.write_bytes(orjson.dumps(self, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
        draft.replace(folder / RUN_FILE)

    @property
    def alive(self) -> bool:
        """Whether the process that wrote it is there."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True


def read_run_file(folder: Path) -> RunFile | None:
    """The run file of a data folder, None where there is none or it cannot be read."""
    try:
        found = orjson.loads((folder / RUN_FILE).read_bytes())
        return RunFile(
            int(found["pid"]),
            str(found["nats"]),
            {str(name): str(address) for name, address in found["addresses"].items()},
            {str(name): int(pid) for name, pid in found["pids"].items()},
            {str(name): str(address) for name, address in found["metrics"].items()},
            str(found.get("partitions", "")),
        )
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError):
        return None


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The address (`host:port`) of each service and log that is known, and the credentials that it is called with.

    Where a service has several partitions each has a log of its own, by which it is called (`ingestion-101`), and
    `ingestion` is any of them. The `local` ones are those of a suite on this machine's loopback: they are called in the
    clear.
    """

    addresses: Mapping[str, str]
    folder: Path
    running: bool
    local: Collection[str] = ()
    given_credentials: CallerCredentials = IN_THE_CLEAR
    partitioning: Partitioning = field(default_factory=Partitioning)

    @classmethod
    def find(
        cls,
        addresses: Mapping[str, str] | None = None,
        data: Path | str | None = None,
        env: Mapping[str, str] = os.environ,
        *,
        credentials: CallerCredentials | None = None,
    ) -> Endpoints:
        """Takes each address as given, else from THROUGHLINE_<SERVICE>_ADDRESS, else from the data folder's run.json.

        Whoever says where ingestion is says how it is parted: the environment with THROUGHLINE_PARTITIONS and
        THROUGHLINE_INGESTION_PEERS, which are the addresses of its partitions (`host:port` in the order of their
        numbers, with commas), or run.json. An ingestion given that is none of run.json's has no partition of those.
        A data folder that is given is stronger than the environment. Credentials are as given, for whatever service,
        else those of `CallerCredentials.from_env`, for those that are not on this machine.

        Raises: TlsError; EndpointError for partitions that are none.
        """
        folder = data_folder(data, env)
        run = read_run_file(folder)
        running = run is not None and run.alive
        local = run.addresses if run is not None and running else {}
        from_env = {name: env.get(address_variable(name), "").strip() for name in SERVICES}
        known = {name: address for name, address in from_env.items() if address}
        # The logs of one installation are never read beside, or called as, those of another that runs here.
        elsewhere = bool(env.get(PEERS, "").strip()) or from_env["ingestion"] not in {"", *local.values()}
        ours = bool(local) and (data is not None or not elsewhere)
        try:
            partitioning = Partitioning.parse(run.partitions if run is not None and ours else env.get(PARTITIONS, ""))
        except SettingsError as error:
            raise EndpointError(str(error)) from error
        if not ours:
            known = {**_partitions_of(env, partitioning), **known}
        if not ours or (addresses or {}).get("ingestion", "") not in {"", *local.values()}:
            local = {name: address for name, address in local.items() if service_of(name) != "ingestion"}
        found = {**known, **local} if data is not None else {**local, **known}
        stronger = {**known, **(addresses or {})} if data is None else (addresses or {})
        return cls(
            {**found, **(addresses or {})},
            folder,
            running,
            local.keys() - stronger.keys() if credentials is None else (),
            CallerCredentials.from_env(env) if credentials is None else credentials,
            partitioning,
        )

    @property
    def logs(self) -> tuple[str, ...]:
        """The logs that are in force: one of each service, and of ingestion one of each partition."""
        return self.partitioning.logs(SERVICES)

    def log(self, name: str) -> str:
        """The log that is meant by its name, or by its service where that has one. Raises: EndpointError."""
        try:
            return self.partitioning.log(name, SERVICES)
        except SettingsError as error:
            raise EndpointError(str(error)) from error

    def credentials(self, service: str) -> CallerCredentials:
        """What one service, or log, is called with."""
        return IN_THE_CLEAR if service in self.local else self.given_credentials

    def address(self, service: str) -> str:
        """The address of one service, or of the partition with a log. Raises: EndpointError."""
        whose = service_of(service)
        alone = self.partitioning.count(whose) == 1
        address = self.addresses.get(service) or (self.addresses.get(whose) if alone else "")
        if address:
            return address
        if not alone and self.addresses.get(whose):
            raise EndpointError(
                f"{service}: {whose} has {self.partitioning.count(whose)} partitions, and nothing says where each is: "
                f"set {PEERS} to host:port of each, in the order of their numbers, with commas"
            )
        raise EndpointError(
            f"{service}: no address is known and no suite runs on {self.folder}; start one with `throughline up --data "
            f"{self.folder}`, or set {address_variable(service)} to host:port"
        )


def _partitions_of(env: Mapping[str, str], partitioning: Partitioning) -> dict[str, str]:
    """The addresses of ingestion's partitions. Raises: EndpointError where they are not as many as those are."""
    peers = [address.strip() for address in env.get(PEERS, "").split(",") if address.strip()]
    numbers = partitioning.in_force("ingestion")
    if not peers:
        return {}
    if len(peers) != len(numbers):
        raise EndpointError(
            f"{PEERS} has {len(peers)} addresses, and ingestion has {len(numbers)} partitions "
            f"({', '.join(map(str, numbers))}): give host:port of each, in this order, with commas"
        )
    found = {log_name("ingestion", number): address for number, address in zip(numbers, peers, strict=True)}
    return {"ingestion": peers[0], **found}
