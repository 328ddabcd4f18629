"""What a host hosts: services, checks of their health, and background work."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import grpc.aio

S = TypeVar("S")
Check = Callable[[], str | None]


@dataclass(frozen=True, slots=True)
class Hosted(Generic[S]):
    """One gRPC service to host: its full name, the generated `add_...Servicer_to_server`, and the servicer."""

    name: str
    add: Callable[[S, grpc.aio.Server], None]
    servicer: S


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """Something that may be wrong: `probe` answers a reason, or None where all is well. It must return at once.

    While it gives a reason the whole (`""`) is NOT_SERVING, and every hosted service too unless they can do without.
    """

    name: str
    probe: Check
    needed_to_serve: bool = True


@dataclass(frozen=True, slots=True)
class Background:
    """Work that runs as long as the service: a relay or a consumer. It is started again where it ends by itself."""

    name: str
    run: Callable[[], Awaitable[None]]
    health: Check
    needed_to_serve: bool = True
