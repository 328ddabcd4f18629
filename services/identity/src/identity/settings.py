"""What identity is told by its environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from throughline_eventlog import BusSettings, SettingsError, StoreSettings
from throughline_privacy import PrivacySettings
from throughline_rpc import HostSettings, ProofSettings

SERVICE: Final = "identity"
UPSTREAM: Final = "ingestion"
DEFAULT_PORT: Final = 50052
SWEEP_SECONDS: Final = "IDENTITY_SWEEP_SECONDS"
DEFAULT_SWEEP_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that can be set; each part names its own variables.

    `sweep_seconds` is the time between two looks for those who are to be forgotten by now.
    """

    host: HostSettings
    store: StoreSettings
    bus: BusSettings
    proofs: ProofSettings
    privacy: PrivacySettings
    sweep_seconds: float = DEFAULT_SWEEP_SECONDS

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> Settings:
        """Reads the settings.

        Raises: HostSettingsError, SettingsError, PrivacySettingsError, naming the variable.
        """
        host = HostSettings.from_env(SERVICE, env, default_port=DEFAULT_PORT)
        return cls(
            host=host,
            store=StoreSettings.from_env(SERVICE, env).of_partition(host.partition),
            bus=BusSettings.from_env(env, service=SERVICE),
            proofs=ProofSettings.from_env(env),
            privacy=PrivacySettings.from_env(env),
            sweep_seconds=_seconds(env),
        )


def _seconds(env: Mapping[str, str]) -> float:
    text = env.get(SWEEP_SECONDS, "").strip() or str(DEFAULT_SWEEP_SECONDS)
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 3_600:
        raise SettingsError(f"{SWEEP_SECONDS} is {text!r}: give seconds, more than 0 and at most 3600")
    return seconds
