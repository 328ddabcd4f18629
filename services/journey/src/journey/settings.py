"""What journey is told by its environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from journey.application.records import DEFAULT_CACHE
from throughline_eventlog import BusSettings, SettingsError, StoreSettings
from throughline_privacy import read_hash_key
from throughline_rpc import HostSettings, ProofSettings

SERVICE: Final = "journey"
DEFAULT_PORT: Final = 50053
DEFAULT_SWEEP_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that can be set; host, store, bus and hash key name their own variables."""

    host: HostSettings
    store: StoreSettings
    bus: BusSettings
    proofs: ProofSettings
    hash_key: bytes = field(repr=False)
    # In facts: what is kept in memory for deciding, and a quarter of it for answering.
    cache: int = DEFAULT_CACHE
    sweep_seconds: float = DEFAULT_SWEEP_SECONDS

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> Settings:
        """Reads the settings, among them JOURNEY_CACHE (facts) and JOURNEY_SWEEP_SECONDS.

        Raises: HostSettingsError, SettingsError, PrivacySettingsError, naming the variable.
        """
        host = HostSettings.from_env(SERVICE, env, default_port=DEFAULT_PORT)
        return cls(
            host=host,
            store=StoreSettings.from_env(SERVICE, env).of_partition(host.partition),
            bus=BusSettings.from_env(env, service=SERVICE),
            proofs=ProofSettings.from_env(env),
            hash_key=read_hash_key(env),
            cache=int(_number(env, "JOURNEY_CACHE", DEFAULT_CACHE, 1)),
            sweep_seconds=_number(env, "JOURNEY_SWEEP_SECONDS", DEFAULT_SWEEP_SECONDS, 0.01),
        )


def _number(env: Mapping[str, str], name: str, default: float, least: float) -> float:
    text = env.get(name, "").strip() or str(default)
    try:
        number = float(text)
    except ValueError:
        number = least - 1
    if not number >= least:
        raise SettingsError(f"{name} is {text!r}: give a number from {least}")
    return number
