"""Where the stores of an installation are: in a data folder, or where the environment says."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from throughline_client.endpoints import SERVICES
from throughline_eventlog import StoreSettings
from throughline_privacy import FORGOTTEN_LIST, KEY_STORE, KEY_STORE_SCHEMA

KEYS_FILE: Final = "keys.json"
FORGOTTEN_FILE: Final = "forgotten.ndjson"


@dataclass(frozen=True, slots=True)
class Installation:
    """The stores of the five services, the key store (a path or a `postgresql://` URL, with its schema), and the list
    of the forgotten (the same; empty where none is kept).
    """

    stores: Mapping[str, StoreSettings]
    key_store: str
    key_store_schema: str
    forgotten_list: str

    @classmethod
    def in_folder(cls, folder: Path) -> Installation:
        """That of `throughline up` in a data folder."""
        return cls(
            {service: StoreSettings.sqlite(service, folder / f"{service}.db") for service in SERVICES},
            str(folder / "keys.db"),
            "",
            str(folder / FORGOTTEN_FILE),
        )

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
        )
