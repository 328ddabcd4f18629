"""Where the bus is and how this installation's streams are called: from the environment, as for every service."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from throughline_eventlog.bus import BusTls, Connection
from throughline_eventlog.errors import SettingsError
from throughline_eventlog.streams import stream_name

NATS_URL: Final = "THROUGHLINE_NATS_URL"
NATS_CREDENTIALS: Final = "THROUGHLINE_NATS_CREDENTIALS"
NATS_CA: Final = "THROUGHLINE_NATS_CA_FILE"
NATS_CERTIFICATE: Final = "THROUGHLINE_NATS_CERT_FILE"
NATS_KEY: Final = "THROUGHLINE_NATS_KEY_FILE"
NATS_REPLICAS: Final = "THROUGHLINE_NATS_REPLICAS"
STREAM_PREFIX: Final = "THROUGHLINE_STREAM_PREFIX"


@dataclass(frozen=True, slots=True)
class BusSettings:
    """Addresses of NATS (several with commas), its credentials file and certificates, replicas of each stream, prefix
    of their names.
    """

    servers: str = "nats://127.0.0.1:4222"
    credentials: Path | None = None
    tls: BusTls | None = None
    replicas: int = 1
    prefix: str = "TL"

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> Self:
        """Reads THROUGHLINE_NATS_URL, _NATS_CREDENTIALS, _NATS_CA_FILE, _NATS_CERT_FILE, _NATS_KEY_FILE, _NATS_REPLICAS
        and THROUGHLINE_STREAM_PREFIX.

        Raises SettingsError, which names the setting and what to do.
        """
        given = os.environ if env is None else env
        defaults = cls()
        replicas = given.get(NATS_REPLICAS, "").strip() or str(defaults.replicas)
        if replicas not in {"1", "3", "5"}:
            raise SettingsError(f"{NATS_REPLICAS} is {replicas!r}: a stream has 1, 3 or 5 replicas")
        prefix = given.get(STREAM_PREFIX, "").strip() or defaults.prefix
        if not prefix.replace("_", "").isalnum():
            raise SettingsError(f"{STREAM_PREFIX} is {prefix!r}: letters, digits and _ are allowed")
        credentials = given.get(NATS_CREDENTIALS, "").strip()
        return cls(
            servers=given.get(NATS_URL, "").strip() or defaults.servers,
            credentials=Path(credentials) if credentials else None,
            tls=_tls(given),
            replicas=int(replicas),
            prefix=prefix,
        )

    def stream(self, service: str, partition: int = 0) -> str:
        """The stream of a service's log, e.g. `TL_IDENTITY_0`."""
        return stream_name(service, partition, self.prefix)

    def connect(self, name: str) -> Connection:
        """A connection, not started yet, that says its name to the bus."""
        return Connection(self.servers, name=name, credentials=self.credentials, tls=self.tls)


def _tls(env: Mapping[str, str]) -> BusTls | None:
    ca, certificate, key = (
        Path(text) if (text := env.get(name, "").strip()) else None for name in (NATS_CA, NATS_CERTIFICATE, NATS_KEY)
    )
    if (certificate is None) != (key is None):
        raise SettingsError(f"{NATS_CERTIFICATE} and {NATS_KEY} belong together: set both or neither")
    if ca is None:
        if certificate is not None:
            raise SettingsError(f"{NATS_CERTIFICATE} is set without {NATS_CA}: name the CA that vouches for the bus")
        return None
    tls = BusTls(ca, certificate, key)
    try:
        tls.context()
    except OSError as error:
        raise SettingsError(f"{error}; see {NATS_CA}, {NATS_CERTIFICATE} and {NATS_KEY}") from error
    return tls
