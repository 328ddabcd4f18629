"""What ingestion is told by its environment."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Final

from ingestion.domain.quota import DEFAULT_BURST, UNBOUNDED, Quota
from throughline_eventlog import BusSettings, SettingsError, StoreSettings
from throughline_privacy import PrivacySettings
from throughline_rpc import IN_THE_CLEAR, CallerCredentials, HostSettings, ProofSettings

SERVICE = "ingestion"
DEFAULT_PORT = 50051
QUOTA_EVENTS: Final = "INGESTION_QUOTA_EVENTS"
QUOTA_BYTES: Final = "INGESTION_QUOTA_BYTES"
QUOTA_BURST: Final = "INGESTION_QUOTA_BURST_SECONDS"
PEERS: Final = "THROUGHLINE_INGESTION_PEERS"
QUOTAS_FILE: Final = "INGESTION_QUOTAS_FILE"


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that can be set; each part names its own variables.

    INGESTION_QUOTA_EVENTS and INGESTION_QUOTA_BYTES are what each source may offer in a second on the average (0: any
    amount), INGESTION_QUOTA_BURST_SECONDS how many seconds' worth of it at once; INGESTION_QUOTAS_FILE gives sources
    their own. THROUGHLINE_INGESTION_PEERS says where the partitions are where there are several: `host:port` of each in
    the order of their numbers, with commas. They are called with what `CallerCredentials.from_env` reads.
    """

    host: HostSettings
    store: StoreSettings
    bus: BusSettings
    proofs: ProofSettings
    privacy: PrivacySettings
    quota: Quota = UNBOUNDED
    quotas_file: Path | None = None
    peers: Sequence[str] = ()
    peer_credentials: CallerCredentials = IN_THE_CLEAR

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> Settings:
        """Reads the settings. Raises: HostSettingsError, SettingsError, PrivacySettingsError, naming the variable."""
        host = HostSettings.from_env(SERVICE, env, default_port=DEFAULT_PORT)
        peers = _peers(env, host)
        return cls(
            host=host,
            store=StoreSettings.from_env(SERVICE, env).of_partition(host.partition),
            bus=BusSettings.from_env(env, service=SERVICE),
            proofs=ProofSettings.from_env(env),
            privacy=PrivacySettings.from_env(env),
            quota=Quota(
                _number(env, QUOTA_EVENTS, 0),
                _number(env, QUOTA_BYTES, 0),
                _number(env, QUOTA_BURST, DEFAULT_BURST, 0.1),
            ),
            quotas_file=Path(file) if (file := env.get(QUOTAS_FILE, "").strip()) else None,
            peers=peers,
            peer_credentials=CallerCredentials.from_env(env, service=SERVICE) if peers else IN_THE_CLEAR,
        )


def _peers(env: Mapping[str, str], host: HostSettings) -> Sequence[str]:
    # One that is alone calls nobody.
    peers = [address.strip() for address in env.get(PEERS, "").split(",") if address.strip()]
    numbers = host.partitioning.in_force(SERVICE)
    if len(numbers) == 1 and len(peers) <= 1:
        return ()
    if len(peers) == len(numbers):
        return peers
    listed = ", ".join(map(str, numbers))
    raise SettingsError(
        f"{PEERS} has {len(peers)} addresses, and ingestion has {len(numbers)} partitions ({listed}): give host:port "
        "of each, in this order, with commas"
    )


def _number(env: Mapping[str, str], name: str, default: float, least: float = 0) -> float:
    text = env.get(name, "").strip() or str(default)
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not least <= number < inf:
        raise SettingsError(f"{name} is {text!r}; give a number from {least:g}")
    return number
