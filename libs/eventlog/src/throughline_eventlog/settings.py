"""Which store a service's log lives in: chosen by the environment alone."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from eventsourcing.utils import strtobool

from throughline_eventlog.errors import SettingsError

SQLITE: Final = "eventsourcing.sqlite"
POSTGRES: Final = "eventsourcing.postgres"
CACHE_KIB: Final = "SQLITE_CACHE_KIB"
"""Memory that the embedded store's writer keeps pages in; 32 MiB where it is not set."""
BESIDE_CACHE_KIB: Final = 4 * 1024
UNSAFE: Final = "THROUGHLINE_TEST_ONLY_UNSAFE_DURABILITY"

_SERVICE: Final = re.compile(r"[a-z][a-z0-9_]{0,30}\Z")
_TAKEN: Final = (
    "PERSISTENCE_MODULE",
    "SQLITE_",
    "POSTGRES_",
    "PROCESS_RECORDER_TOPIC",
    "APPLICATION_RECORDER_TOPIC",
    "TRACKING_RECORDER_TOPIC",
    "MAPPER_TOPIC",
    "TRANSCODER_TOPIC",
    "COMPRESSOR_TOPIC",
    "CIPHER_",
    "SINGLE_ROW_TRACKING",
    "ORIGINATOR_ID_TYPE",
    "CREATE_TABLE",
    "IS_SNAPSHOTTING_ENABLED",
    UNSAFE,
)
# What would change the form of the log, or replace what keeps it whole, under a running system.
_FOREIGN: Final = {
    "PROCESS_RECORDER_TOPIC": "the log brings its own recorder",
    "APPLICATION_RECORDER_TOPIC": "the log brings its own recorder",
    "TRACKING_RECORDER_TOPIC": "the log brings its own recorder",
    "MAPPER_TOPIC": "events are stored as protobuf envelopes",
    "TRANSCODER_TOPIC": "events are stored as protobuf envelopes",
    "COMPRESSOR_TOPIC": "events are stored as protobuf envelopes",
    "CIPHER_TOPIC": "personal values are encrypted under their own keys before they reach the log",
    "CIPHER_KEY": "personal values are encrypted under their own keys before they reach the log",
}
# Switches of the library that must stay as they are.
_FIXED: Final = {
    "POSTGRES_ENABLE_DB_FUNCTIONS": (False, "it appends without a lock, so that readers of the log miss events"),
    "SINGLE_ROW_TRACKING": (True, "the inbox needs one row per stream"),
    "CREATE_TABLE": (True, "the log makes its own tables"),
    "IS_SNAPSHOTTING_ENABLED": (False, "the log keeps no snapshots"),
}


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """Where one service's log is kept, in the words of the `eventsourcing` library's environment."""

    service: str
    environment: Mapping[str, str] = field(repr=False)

    @classmethod
    def from_env(cls, service: str, environment: Mapping[str, str] | None = None) -> StoreSettings:
        """Reads PERSISTENCE_MODULE, SQLITE_* and POSTGRES_*, each also as <SERVICE>_<NAME>, and checks them.

        The password may stand in a file, POSTGRES_PASSWORD_FILE.

        Raises SettingsError, which names the setting and what to do.
        """
        given = os.environ if environment is None else environment
        prefix = f"{service.upper()}_"
        taken = {name: value for name, value in given.items() if name.startswith(_TAKEN)}
        taken |= {
            name.removeprefix(prefix): value
            for name, value in given.items()
            if name.startswith(prefix) and name.removeprefix(prefix).startswith(_TAKEN)
        }
        password = taken.get("POSTGRES_PASSWORD_FILE")
        if password:
            try:
                taken["POSTGRES_PASSWORD"] = Path(password).read_text(encoding="utf-8").rstrip("\r\n")
            except OSError as error:
                raise SettingsError(
                    f"POSTGRES_PASSWORD_FILE is {password!r}, which cannot be read: {error.strerror}"
                ) from error
        settings = cls(service, taken)
        settings.check()
        return settings

    @classmethod
    def sqlite(cls, service: str, path: Path | str) -> StoreSettings:
        """The embedded store in the given file."""
        return cls.from_env(service, {"PERSISTENCE_MODULE": SQLITE, "SQLITE_DBNAME": str(path)})

    def beside(self, name: str) -> StoreSettings:
        """A second store of the same service, `<service>_<name>`, in a file beside the log's or a schema of its own."""
        if self.module == SQLITE:
            file = Path(self.environment["SQLITE_DBNAME"])
            place = {
                "SQLITE_DBNAME": str(file.with_name(f"{file.stem}-{name}{file.suffix}")),
                CACHE_KIB: str(BESIDE_CACHE_KIB),
            }
        else:
            place = {"POSTGRES_SCHEMA": f"{self.environment['POSTGRES_SCHEMA']}_{name}"}
        return StoreSettings(f"{self.service}_{name}", {**self.environment, **place})

    def of_partition(self, number: int) -> StoreSettings:
        """The store of one partition of the service, in a file beside or a schema of its own; that of number 0 is at
        the very place that these settings name.
        """
        if number == 0:
            return self
        if self.module == SQLITE:
            file = Path(self.environment["SQLITE_DBNAME"])
            place = {"SQLITE_DBNAME": str(file.with_name(f"{file.stem}-{number}{file.suffix}"))}
        else:
            place = {"POSTGRES_SCHEMA": f"{self.environment['POSTGRES_SCHEMA']}_{number}"}
        return StoreSettings(self.service, {**self.environment, **place})

    @property
    def module(self) -> str:
        """The persistence module: `eventsourcing.sqlite` or `eventsourcing.postgres`."""
        return self.environment.get("PERSISTENCE_MODULE", "")

    @property
    def unsafe_allowed(self) -> bool:
        """Whether a test said that it does not mind losing what it writes."""
        return _truth(self.environment, UNSAFE)

    def check(self) -> None:
        """Refuses what would weaken the log. Raises SettingsError."""
        if not _SERVICE.match(self.service):
            raise SettingsError(f"service {self.service!r}: a name in lower case, at most 31 letters, is needed")
        for name, why in _FOREIGN.items():
            if self.environment.get(name):
                raise SettingsError(f"{name} is set, but {why}: unset it")
        for name, (needed, why) in _FIXED.items():
            if _truth(self.environment, name, default=needed) is not needed:
                raise SettingsError(f"{name} is {self.environment[name]!r}, but {why}: unset it")
        if self.environment.get("ORIGINATOR_ID_TYPE", "uuid").lower() != "uuid":
            raise SettingsError("ORIGINATOR_ID_TYPE is not uuid, but stream ids are 16 bytes: unset it")
        match self.module:
            case "eventsourcing.sqlite":
                self._check_sqlite()
            case "eventsourcing.postgres":
                self._check_postgres()
            case other:
                raise SettingsError(
                    f"PERSISTENCE_MODULE is {other!r}: set it to {SQLITE} with SQLITE_DBNAME for the embedded "
                    f"store, or to {POSTGRES} with POSTGRES_* for PostgreSQL"
                )

    def _check_postgres(self) -> None:
        for name in ("POSTGRES_DBNAME", "POSTGRES_HOST", "POSTGRES_USER", "POSTGRES_SCHEMA"):
            if not self.environment.get(name):
                raise SettingsError(f"{name} is not set: {POSTGRES} needs it")

    def _check_sqlite(self) -> None:
        name = self.environment.get("SQLITE_DBNAME", "")
        if not name:
            raise SettingsError("SQLITE_DBNAME is not set: name the file of the log, e.g. data/identity.db")
        if ":memory:" in name or "mode=memory" in name:
            raise SettingsError(f"SQLITE_DBNAME is {name!r}: a log in memory is gone with its process; name a file")
        if name.startswith("file:"):
            raise SettingsError(
                f"SQLITE_DBNAME is {name!r}: its options could switch off what keeps the log whole; give a plain path"
            )


def _truth(environment: Mapping[str, str], name: str, *, default: bool = False) -> bool:
    value = environment.get(name, "").strip()
    if not value:
        return default
    try:
        return strtobool(value)
    except ValueError as unclear:
        raise SettingsError(f"{name} is {value!r}: say yes or no") from unclear
