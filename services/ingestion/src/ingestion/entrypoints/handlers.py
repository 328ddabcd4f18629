"""Services some of whose methods take requests as they came, and read them themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import grpc
import grpc.aio

from throughline_rpc import Hosted

S = TypeVar("S")


def hosted_reading_itself(
    name: str,
    servicer: S,
    add: Callable[[S, grpc.aio.Server], None],
    own: Mapping[str, grpc.RpcMethodHandler[Any, Any]],
) -> Hosted[S]:
    """A servicer, ready to be hosted, whose `own` handlers stand instead of those that `add` gives."""

    def add_all(servicer: S, server: grpc.aio.Server) -> None:
        # Of handlers by name the last counts, of generic ones the first; which are asked gRPC's version decides.
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, dict(own)),))
        add(servicer, server)
        server.add_registered_method_handlers(name, dict(own))

    return Hosted(name, add_all, servicer)


def as_it_came(raw: bytes) -> bytes:
    """The deserialiser of a request that is read later."""
    return raw
