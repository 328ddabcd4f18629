"""Where the five services are, and what proves who calls: given, from the environment, or from a running suite's data
folder.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson

from throughline_rpc import IN_THE_CLEAR, CallerCredentials

SERVICES: Final = ("ingestion", "identity", "journey", "feedback", "scoring")
RUN_FILE: Final = "run.json"
DATA_VARIABLE: Final = "THROUGHLINE_DATA"
DEFAULT_DATA: Final = Path(".throughline")


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
    """What `throughline up` writes into its data folder while it runs."""

    pid: int
    nats: str
    addresses: dict[str, str]
    pids: dict[str, int]
    metrics: dict[str, str]

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
        )
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError):
        return None


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The address (`host:port`) of each service that is known, and the credentials that it is called with.

    The `local` ones are those of a suite on this machine's loopback: they are called in the clear.
    """

    addresses: Mapping[str, str]
    folder: Path
    running: bool
    local: Collection[str] = ()
    given_credentials: CallerCredentials = IN_THE_CLEAR

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

        A data folder that is given is stronger than the environment. Credentials are as given, for whatever service,
        else those of `CallerCredentials.from_env`, for those that are not on this machine. Raises: TlsError.
        """
        folder = data_folder(data, env)
        run = read_run_file(folder)
        running = run is not None and run.alive
        local = run.addresses if run is not None and running else {}
        from_env = {name: env.get(address_variable(name), "").strip() for name in SERVICES}
        known = {name: address for name, address in from_env.items() if address}
        found = {**known, **local} if data is not None else {**local, **known}
        stronger = {**known, **(addresses or {})} if data is None else (addresses or {})
        return cls(
            {**found, **(addresses or {})},
            folder,
            running,
            local.keys() - stronger.keys() if credentials is None else (),
            CallerCredentials.from_env(env) if credentials is None else credentials,
        )

    def credentials(self, service: str) -> CallerCredentials:
        """What one service is called with."""
        return IN_THE_CLEAR if service in self.local else self.given_credentials

    def address(self, service: str) -> str:
        """The address of one service. Raises: EndpointError."""
        address = self.addresses.get(service)
        if address:
            return address
        raise EndpointError(
            f"{service}: no address is known and no suite runs on {self.folder}; start one with `throughline up --data "
            f"{self.folder}`, or set {address_variable(service)} to host:port"
        )
