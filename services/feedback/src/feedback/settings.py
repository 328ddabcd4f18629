"""What feedback is told by its environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from throughline_eventlog import BusSettings, SettingsError, StoreSettings
from throughline_privacy import PrivacySettings
from throughline_rpc import HostSettings, ProofSettings

SERVICE: Final = "feedback"
DEFAULT_PORT: Final = 50054
ROUTES_FILE: Final = "FEEDBACK_ROUTES_FILE"
SWEEP_SECONDS: Final = "FEEDBACK_SWEEP_SECONDS"
DEFAULT_SWEEP_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that can be set; each part names its own variables.

    `routes_file` holds the routes to begin with where the log has none yet; None takes the packaged ones.
    `sweep_seconds` is the time between two looks for missed deadlines; 0 never looks.
    """

    host: HostSettings
    store: StoreSettings
    bus: BusSettings
    proofs: ProofSettings
    privacy: PrivacySettings
    routes_file: Path | None = None
    sweep_seconds: float = DEFAULT_SWEEP_SECONDS

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> Settings:
        """Reads the settings. Raises: HostSettingsError, SettingsError, PrivacySettingsError, naming the variable."""
        routes = env.get(ROUTES_FILE, "").strip()
        host = HostSettings.from_env(SERVICE, env, default_port=DEFAULT_PORT)
        return cls(
            host=host,
            store=StoreSettings.from_env(SERVICE, env).of_partition(host.partition),
            bus=BusSettings.from_env(env, service=SERVICE),
            proofs=ProofSettings.from_env(env),
            privacy=PrivacySettings.from_env(env),
            routes_file=Path(routes) if routes else None,
            sweep_seconds=_seconds(env),
        )


def _seconds(env: Mapping[str, str]) -> float:
    text = env.get(SWEEP_SECONDS, "").strip() or str(DEFAULT_SWEEP_SECONDS)
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 3_600:
        raise SettingsError(
            f"{SWEEP_SECONDS} is {text!r}: give seconds from 0 to 3600; 0 never looks for missed deadlines"
        )
    return seconds
