"""What identity is told by its environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from throughline_eventlog import BusSettings, StoreSettings
from throughline_privacy import PrivacySettings
from throughline_rpc import HostSettings, ProofSettings

SERVICE: Final = "identity"
UPSTREAM: Final = "ingestion"
DEFAULT_PORT: Final = 50052


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that can be set; each part names its own variables."""

    host: HostSettings
    store: StoreSettings
    bus: BusSettings
    proofs: ProofSettings
    privacy: PrivacySettings

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> Settings:
        """Reads the settings.

        Raises: HostSettingsError, SettingsError, PrivacySettingsError, naming the variable.
        """
        return cls(
            host=HostSettings.from_env(SERVICE, env, default_port=DEFAULT_PORT),
            store=StoreSettings.from_env(SERVICE, env),
            bus=BusSettings.from_env(env),
            proofs=ProofSettings.from_env(env),
            privacy=PrivacySettings.from_env(env),
        )
