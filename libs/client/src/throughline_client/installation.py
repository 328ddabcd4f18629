"""Where the stores of an installation are: in a data folder, or where the environment says."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from throughline_client.endpoints import SERVICES
from throughline_eventlog import PARTITIONS, PARTITIONS_FILE, Partitioning, SettingsError, StoreSettings
from throughline_eventlog.partitions import log_name
from throughline_privacy import FORGOTTEN_LIST, KEY_STORE, KEY_STORE_SCHEMA

KEYS_FILE: Final = "keys.json"
FORGOTTEN_FILE: Final = "forgotten.ndjson"


@dataclass(frozen=True, slots=True)
class Installation:
    """The stores of the five services (of each that of its partition 0, beside which the others are), how they are
    parted, the key store (a path or a `postgresql://` URL, with its schema), and the
    list of the forgotten (the same; empty where none is kept).
    """

    stores: Mapping[str, StoreSettings]
    key_store: str
    key_store_schema: str
    forgotten_list: str
    partitioning: Partitioning = field(default_factory=Partitioning)

    @classmethod
    def in_folder(cls, folder: Path) -> Installation:
        """That of `throughline up` in a data folder. Raises: SettingsError for a partitions file that is none."""
        return cls(
            {service: StoreSettings.sqlite(service, folder / f"{service}.db") for service in SERVICES},
            str(folder / "keys.db"),
            "",
            str(folder / FORGOTTEN_FILE),
            read_partitioning(folder),
        )

    def store(self, service: str, number: int) -> StoreSettings:
        """The store of one partition's log, of whatever generation."""
        return self.stores[service].of_partition(number)

    @property
    def in_force(self) -> tuple[str, ...]:
        """The names of the logs that services write."""
        return self.partitioning.logs(self.stores)

    @property
    def logs(self) -> dict[str, StoreSettings]:
        """The store of every log by its name, of a service's oldest first: those of earlier generations, which are kept
        as they were sealed, too.
        """
        return {
            log_name(service, number): self.store(service, number)
            for service in self.stores
            for number in self.partitioning.numbers(service)
        }

    @property
    def missing(self) -> list[str]:
        """The logs that should be in the data folder, and are not."""
        return [name for name, there in self._files() if not there]

    @property
    def present(self) -> list[str]:
        """The logs that are in the data folder."""
        return [name for name, there in self._files() if there]

    def _files(self) -> Iterator[tuple[str, bool]]:
        for name, settings in self.logs.items():
            if file := settings.environment.get("SQLITE_DBNAME"):
                yield name, Path(file).exists()

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> Installation:
        """That which the services' own settings name. Raises: SettingsError, which names the variable."""
        return cls(
            {service: StoreSettings.from_env(service, env) for service in SERVICES},
            env.get(KEY_STORE, ""),
            env.get(KEY_STORE_SCHEMA, ""),
            env.get(FORGOTTEN_LIST, ""),
            Partitioning.parse(env.get(PARTITIONS, "")),
        )


def read_partitioning(folder: Path) -> Partitioning:
    """How a data folder's services are parted. Raises: SettingsError for a partitions file that is none."""
    file = folder / PARTITIONS_FILE
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return Partitioning()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file} cannot be read: {error}; bring it back from a backup") from error
    return Partitioning.parse(text, str(file))


def write_partitioning(folder: Path, partitioning: Partitioning) -> None:
    """Notes how a data folder's services are parted, whole or not at all. Raises: OSError."""
    file = folder / PARTITIONS_FILE
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    with draft.open("w", encoding="utf-8") as writing:
        writing.write(partitioning.write())
        writing.flush()
        os.fsync(writing.fileno())
    draft.replace(file)
    place = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(place)
    finally:
        os.close(place)
