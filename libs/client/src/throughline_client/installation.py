"""Where the stores of an installation are: in a data folder, or where the environment says."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from throughline_client.endpoints import SERVICES
from throughline_eventlog import PARTITIONS, PARTITIONS_FILE, Partitioning, SettingsError, StoreSettings
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
    def missing(self) -> list[str]:
        """The services of which there is no log in the data folder."""
        files = {name: settings.environment.get("SQLITE_DBNAME") for name, settings in self.stores.items()}
        return [name for name, file in files.items() if file and not Path(file).exists()]

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
