"""How a service listens and how it stops, from the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from throughline_rpc.callers import ADMIN, NOBODY, ROLES

MAX_MESSAGE_BYTES: Final = 32 * 1024 * 1024


class HostSettingsError(ValueError):
    """A setting of the host cannot be used; the message names the variable and the remedy."""


class PortInUseError(OSError):
    """Another process listens on the port already."""

    def __init__(self, host: str, port: int, variable: str) -> None:
        super().__init__(
            f"port {port} on {host} is in use; stop the process that listens there or set {variable} to a free port"
        )
        self.host = host
        self.port = port
        self.variable = variable


@dataclass(frozen=True, slots=True)
class HostSettings:
    """Where a service listens (port 0: any free port) and how long it takes to stop, in seconds."""

    service: str
    partition: int = 0
    host: str = "127.0.0.1"
    port: int = 0
    metrics_host: str = "127.0.0.1"
    # None: metrics are not served.
    metrics_port: int | None = None
    # Between saying NOT_SERVING and taking no more calls: as long as a load balancer needs to notice.
    drain_seconds: float = 0.0
    # For calls under way to finish, before they are cancelled.
    grace_seconds: float = 10.0
    max_message_bytes: int = MAX_MESSAGE_BYTES
    max_concurrent_streams: int = 1_000
    health_interval_seconds: float = 1.0
    # Of callers who name none and whom nothing else tells of; `none`: they are refused.
    default_role: str = ADMIN

    @classmethod
    def from_env(cls, service: str, env: Mapping[str, str] = os.environ, *, default_port: int = 0) -> HostSettings:
        """Reads THROUGHLINE_HOST, _PORT, _PARTITION, _METRICS_HOST, _METRICS_PORT, _DRAIN_SECONDS, _GRACE_SECONDS,
        _MAX_MESSAGE_BYTES, _MAX_CONCURRENT_STREAMS and _DEFAULT_ROLE; each also as <SERVICE>_<NAME> (INGESTION_PORT),
        which is stronger.

        Raises: HostSettingsError, which names the variable.
        """
        defaults = cls(service)
        reader = _Reader(service, env)
        host = reader.text("HOST", defaults.host)
        return cls(
            service=service,
            partition=int(reader.number("PARTITION", defaults.partition, 0, 1_000_000)),
            host=host,
            port=int(reader.number("PORT", default_port, 0, 65_535)),
            metrics_host=reader.text("METRICS_HOST", host),
            metrics_port=(
                int(reader.number("METRICS_PORT", 0, 0, 65_535)) if reader.text("METRICS_PORT", "") else None
            ),
            drain_seconds=reader.number("DRAIN_SECONDS", defaults.drain_seconds, 0, 3_600),
            grace_seconds=reader.number("GRACE_SECONDS", defaults.grace_seconds, 0, 3_600),
            max_message_bytes=int(reader.number("MAX_MESSAGE_BYTES", defaults.max_message_bytes, 4_096, 1 << 30)),
            max_concurrent_streams=int(
                reader.number("MAX_CONCURRENT_STREAMS", defaults.max_concurrent_streams, 1, 100_000)
            ),
            default_role=reader.one_of("DEFAULT_ROLE", defaults.default_role, (*ROLES, NOBODY)),
        )


class _Reader:
    def __init__(self, service: str, env: Mapping[str, str]) -> None:
        self._own = f"{service.upper()}_"
        self._env = env

    def text(self, name: str, default: str) -> str:
        return (
            self._env.get(self._own + name, "").strip() or self._env.get(f"THROUGHLINE_{name}", "").strip() or default
        )

    def one_of(self, name: str, default: str, known: Sequence[str]) -> str:
        found = self.text(name, default)
        if found not in known:
            raise HostSettingsError(f"{self._given(name)} is {found!r}; give one of {', '.join(known)}")
        return found

    def _given(self, name: str) -> str:
        return self._own + name if self._env.get(self._own + name) else f"THROUGHLINE_{name}"

    def number(self, name: str, default: float, least: int, most: int) -> float:
        text = self.text(name, str(default))
        try:
            number = float(text)
        except ValueError:
            number = -1.0
        if not least <= number <= most:
            raise HostSettingsError(f"{self._given(name)} is {text!r}; give a number from {least} to {most}")
        return number
