"""What scoring is told by its environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from scoring.application.book import HELD_FACTS
from scoring.domain.scorecard import DEFAULT_MINIMUM
from throughline_eventlog import BusSettings, SettingsError, StoreSettings
from throughline_rpc import HostSettings, ProofSettings

SERVICE: Final = "scoring"
DEFAULT_PORT: Final = 50055
MINIMUM: Final = "SCORING_MINIMUM_N"
HELD: Final = "SCORING_HELD_FACTS"


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that can be set; each part names its own variables.

    SCORING_MINIMUM_N is how many answers an estimate needs to be told (1 or more), SCORING_HELD_FACTS how many facts of
    clients are held in memory (about 1 KB each).
    """

    host: HostSettings
    store: StoreSettings
    bus: BusSettings
    proofs: ProofSettings
    minimum: int = DEFAULT_MINIMUM
    held_facts: int = HELD_FACTS

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> Settings:
        """Reads the settings. Raises: HostSettingsError, SettingsError, naming the variable."""
        host = HostSettings.from_env(SERVICE, env, default_port=DEFAULT_PORT)
        return cls(
            host=host,
            store=StoreSettings.from_env(SERVICE, env).of_partition(host.partition),
            bus=BusSettings.from_env(env, service=SERVICE),
            proofs=ProofSettings.from_env(env),
            minimum=_whole(env, MINIMUM, DEFAULT_MINIMUM, least=1),
            held_facts=_whole(env, HELD, HELD_FACTS, least=1_000),
        )


def _whole(env: Mapping[str, str], name: str, default: int, *, least: int) -> int:
    text = env.get(name, "").strip()
    if not text:
        return default
    if not text.isdecimal() or int(text) < least:
        raise SettingsError(f"{name} is {text!r}; give a whole number of at least {least}")
    return int(text)
