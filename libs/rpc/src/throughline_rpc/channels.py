"""Channels for callers: big messages, connections that notice a dead peer, and retries of what may be repeated."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Final, cast

import grpc
import grpc.aio
from google.protobuf.descriptor import ServiceDescriptor

from throughline_rpc.settings import MAX_MESSAGE_BYTES

# Methods that may be called twice: those that change nothing, and recording, which knows its duplicates for ever.
_REPEATABLE: Final = ("Get", "List", "Read", "Resolve", "Resume", "Explain", "Search", "Record")
_ATTEMPTS: Final = 5
_ARITIES: Final = frozenset({"unary_unary", "unary_stream", "stream_unary", "stream_stream"})

Option = tuple[str, int | str]


def channel_options(
    services: Iterable[ServiceDescriptor] = (), *, max_message_bytes: int = MAX_MESSAGE_BYTES
) -> list[Option]:
    """Options for a channel, asynchronous or not.

    Calls that fail with UNAVAILABLE are tried up to five times within seconds where the method of one of the
    `services` may be repeated: it changes nothing or, like RecordInteractions, recognises what it has.
    """
    names = [
        {"service": service.full_name, "method": method.name}
        for service in services
        for method in service.methods
        if method.name.startswith(_REPEATABLE) and not method.name.startswith("RecordConsent")
    ]
    config = {
        "methodConfig": [
            {
                "name": names,
                "retryPolicy": {
                    "maxAttempts": _ATTEMPTS,
                    "initialBackoff": "0.1s",
                    "maxBackoff": "2s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
    }
    options: list[Option] = [
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.max_pings_without_data", 0),
        # A service that comes back is found again in a second, not in two minutes.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        ("grpc.enable_http_proxy", 0),
    ]
    if names:
        options += [("grpc.enable_retries", 1), ("grpc.service_config", json.dumps(config))]
    return options


def open_channel(
    target: str,
    services: Iterable[ServiceDescriptor] = (),
    *,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
    metadata: Sequence[tuple[str, str]] = (),
) -> grpc.aio.Channel:
    """Opens an asynchronous channel to `host:port` with `channel_options`, every call of which carries the metadata.
    Close it when done.
    """
    options = channel_options(services, max_message_bytes=max_message_bytes)
    channel = grpc.aio.insecure_channel(target, options=options)
    return cast("grpc.aio.Channel", _Labelled(channel, metadata)) if metadata else channel


class _Labelled:
    """A channel whose calls carry metadata. No interceptor: those make a task of every call."""

    def __init__(self, channel: grpc.aio.Channel, metadata: Sequence[tuple[str, str]]) -> None:
        self._channel = channel
        self._metadata = tuple(metadata)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._channel, name)
        return partial(self._multicallable, found) if name in _ARITIES else found

    async def __aenter__(self) -> grpc.aio.Channel:
        await self._channel.__aenter__()
        return cast("grpc.aio.Channel", self)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._channel.__aexit__(kind, error, trace)

    def _multicallable(self, make: Callable[..., Any], *args: Any, **kwargs: Any) -> Callable[..., Any]:
        method, always = make(*args, **kwargs), self._metadata

        def call(*args: Any, metadata: Sequence[tuple[str, str]] = (), **kwargs: Any) -> Any:
            return method(*args, metadata=(*always, *(metadata or ())), **kwargs)

        return call
