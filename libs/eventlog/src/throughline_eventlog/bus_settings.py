"""Where the bus is and how this installation's streams are called: from the environment, as for every service."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from throughline_eventlog.bus import INBOX, BusTls, Connection
from throughline_eventlog.errors import SettingsError
from throughline_eventlog.rights import inbox_of
from throughline_eventlog.streams import stream_name

NATS_URL: Final = "THROUGHLINE_NATS_URL"
NATS_CREDENTIALS: Final = "THROUGHLINE_NATS_CREDENTIALS"
NATS_USER: Final = "THROUGHLINE_NATS_USER"
NATS_PASSWORD: Final = "THROUGHLINE_NATS_PASSWORD"  # noqa: S105 -- the name of a variable
NATS_PASSWORD_FILE: Final = "THROUGHLINE_NATS_PASSWORD_FILE"  # noqa: S105 -- likewise
NATS_CA: Final = "THROUGHLINE_NATS_CA_FILE"
NATS_CERTIFICATE: Final = "THROUGHLINE_NATS_CERT_FILE"
NATS_KEY: Final = "THROUGHLINE_NATS_KEY_FILE"
NATS_REPLICAS: Final = "THROUGHLINE_NATS_REPLICAS"
STREAM_PREFIX: Final = "THROUGHLINE_STREAM_PREFIX"
_ALL: Final = "THROUGHLINE_NATS_"


@dataclass(frozen=True, slots=True)
class BusSettings:
    """Addresses of NATS (several with commas), what a service signs in with (a credentials file, or user and password)
    and its certificates, replicas of each stream, prefix of their names. Answers come below the inbox of `service`, or
    anywhere where that is "".
    """

    servers: str = "nats://127.0.0.1:4222"
    credentials: Path | None = None
    tls: BusTls | None = None
    replicas: int = 1
    prefix: str = "TL"
    service: str = ""
    user: str = ""
    password: str = field(default="", repr=False)

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None, *, service: str = "") -> Self:
        """Reads THROUGHLINE_NATS_URL, _NATS_CREDENTIALS, _NATS_USER, _NATS_PASSWORD (or _NATS_PASSWORD_FILE),
        _NATS_CA_FILE, _NATS_CERT_FILE, _NATS_KEY_FILE, _NATS_REPLICAS and THROUGHLINE_STREAM_PREFIX. Those that begin
        with THROUGHLINE_NATS may stand as <SERVICE>_NATS..., which is stronger.

        Raises SettingsError, which names the setting and what to do.
        """
        given = _own(os.environ if env is None else env, service)
        defaults = cls()
        replicas = given.get(NATS_REPLICAS, "").strip() or str(defaults.replicas)
        if replicas not in {"1", "3", "5"}:
            raise SettingsError(f"{NATS_REPLICAS} is {replicas!r}: a stream has 1, 3 or 5 replicas")
        prefix = given.get(STREAM_PREFIX, "").strip() or defaults.prefix
        if not prefix.replace("_", "").isalnum():
            raise SettingsError(f"{STREAM_PREFIX} is {prefix!r}: letters, digits and _ are allowed")
        credentials = given.get(NATS_CREDENTIALS, "").strip()
        user, password = given.get(NATS_USER, "").strip(), _password(given)
        if bool(user) != bool(password):
            raise SettingsError(f"{NATS_USER} and {NATS_PASSWORD} belong together: set both or neither")
        if user and credentials:
            raise SettingsError(f"{NATS_USER} and {NATS_CREDENTIALS} are both set: one signs in with one of them")
        return cls(
            servers=given.get(NATS_URL, "").strip() or defaults.servers,
            credentials=Path(credentials) if credentials else None,
            tls=_tls(given),
            replicas=int(replicas),
            prefix=prefix,
            service=service,
            user=user,
            password=password,
        )

    def stream(self, service: str, partition: int = 0) -> str:
        """The stream of a service's log, e.g. `TL_IDENTITY_0`."""
        return stream_name(service, partition, self.prefix)

    def connect(self, name: str) -> Connection:
        """A connection, not started yet, that says its name to the bus."""
        return Connection(
            self.servers,
            name=name,
            credentials=self.credentials,
            tls=self.tls,
            user=self.user,
            password=self.password,
            inbox=inbox_of(self.service, self.prefix) if self.service else INBOX,
        )


def _own(env: Mapping[str, str], service: str) -> Mapping[str, str]:
    """The environment with what is said for this service alone in the place of what is said for all."""
    if not service:
        return env
    own = f"{service.upper()}_NATS_"
    said = {f"{_ALL}{name.removeprefix(own)}": value for name, value in env.items() if name.startswith(own)}
    # One way of signing in that is said for the service is instead of any that is said for all.
    signing = {NATS_CREDENTIALS, NATS_USER, NATS_PASSWORD, NATS_PASSWORD_FILE}
    given = {name: value for name, value in env.items() if not (signing & said.keys() and name in signing)}
    return {**given, **said}


def _password(env: Mapping[str, str]) -> str:
    file = env.get(NATS_PASSWORD_FILE, "").strip()
    if not file:
        return env.get(NATS_PASSWORD, "")
    try:
        return Path(file).read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as error:
        raise SettingsError(f"{NATS_PASSWORD_FILE} is {file!r}, which cannot be read: {error.strerror}") from error


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
