"""Channels for callers: big messages, connections that notice a dead peer, and retries of what may be repeated."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, cast

import grpc
import grpc.aio
from google.protobuf.descriptor import ServiceDescriptor

from throughline_rpc.settings import MAX_MESSAGE_BYTES, CallerCredentials, TlsFiles, TokenError, is_loopback

if TYPE_CHECKING:
    from throughline_rpc.tls import Material

# Methods that may be called twice: those that change nothing, and recording, which knows its duplicates for ever.
_REPEATABLE: Final = ("Get", "List", "Read", "Resolve", "Resume", "Explain", "Search", "Record")
_ATTEMPTS: Final = 5
# How long calls under way may go on over a channel whose certificates were replaced: as long as a watcher watches.
_LAST_CALLS_SECONDS: Final = 3_600.0
_ARITIES: Final = frozenset({"unary_unary", "unary_stream", "stream_unary", "stream_stream"})

Option = tuple[str, int | str]
IN_THE_CLEAR: Final = CallerCredentials()


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
    credentials: CallerCredentials = IN_THE_CLEAR,
) -> grpc.aio.Channel:
    """Opens an asynchronous channel to `host:port` with `channel_options`, every call of which carries the metadata,
    by the certificates and the token that are in the credentials' files when a call is made. Close it when done.

    Raises: TlsError, TokenError.
    """
    options = channel_options(services, max_message_bytes=max_message_bytes)
    carried = _carried(target, metadata, credentials)
    if credentials.tls is not None:
        renewed = _Renewed(target, [*options, *_name_options(credentials)], credentials.tls)
        return cast("grpc.aio.Channel", _Carrying(renewed.current, carried))
    channel = grpc.aio.insecure_channel(target, options=options)
    return cast("grpc.aio.Channel", _Carrying(lambda: channel, carried)) if carried else channel


def open_blocking_channel(
    target: str,
    *,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
    metadata: Sequence[tuple[str, str]] = (),
    credentials: CallerCredentials = IN_THE_CLEAR,
) -> grpc.Channel:
    """As `open_channel`, for plain loops, and by the certificates that are in the files now.

    Raises: TlsError, TokenError.
    """
    options = channel_options(max_message_bytes=max_message_bytes)
    carried = _carried(target, metadata, credentials)
    if credentials.tls is None:
        channel = grpc.insecure_channel(target, options=options)
    else:
        from throughline_rpc.tls import channel_credentials, read_material  # noqa: PLC0415 -- in the clear without

        channel = grpc.secure_channel(
            target,
            channel_credentials(read_material(credentials.tls)),
            options=[*options, *_name_options(credentials)],
        )
    return cast("grpc.Channel", _Carrying(lambda: channel, carried)) if carried else channel


Metadata = tuple[tuple[str, str], ...]


def _carried(
    target: str, metadata: Sequence[tuple[str, str]], credentials: CallerCredentials
) -> Callable[[], Metadata] | None:
    """What makes the metadata of each call; None where there is none. Raises: TokenError."""
    always = tuple(metadata)
    path = credentials.token_file
    if path is None:
        return (lambda: always) if always else None
    if credentials.tls is None and not credentials.token_in_the_clear and not is_loopback(target.rpartition(":")[0]):
        raise TokenError(
            f"the token in {path} would go to {target} in the clear; set THROUGHLINE_TLS_CA_FILE, or where something "
            "else guards the way THROUGHLINE_TOKEN_IN_THE_CLEAR=allowed"
        )
    from throughline_rpc.watching import Watched  # noqa: PLC0415 -- a caller without a token does without

    token = Watched("token", [path], lambda: _read_token(path))
    return lambda: (*always, ("authorization", f"Bearer {token.current()}"))


def _read_token(path: Path) -> str:
    try:
        token = path.read_text("ascii").strip()
    except OSError as error:
        raise TokenError(f"{path}: {error.strerror}; write the token there, or see THROUGHLINE_TOKEN_FILE") from error
    except UnicodeDecodeError as error:
        raise TokenError(f"{path} holds no token: it is not ASCII text; see THROUGHLINE_TOKEN_FILE") from error
    if not token or any(letter.isspace() for letter in token):
        raise TokenError(f"{path} holds no token: one line without spaces is needed; see THROUGHLINE_TOKEN_FILE")
    return token


def _name_options(credentials: CallerCredentials) -> list[Option]:
    return [("grpc.ssl_target_name_override", credentials.server_name)] if credentials.server_name else []


class _Renewed:
    """A channel over TLS that is another one once the certificates in the files are others.

    Calls under way end on the channel that they began on.
    """

    def __init__(self, target: str, options: Sequence[Option], tls: TlsFiles) -> None:
        from throughline_rpc.tls import WatchedTls, channel_credentials  # noqa: PLC0415 -- a caller in the clear does without

        def opened(material: Material) -> grpc.aio.Channel:
            return grpc.aio.secure_channel(target, channel_credentials(material), options=options)

        self._watched = WatchedTls(tls)
        self._open = opened
        self._material = self._watched.current()
        self._channel = self._open(self._material)
        self._ending: set[asyncio.Task[None]] = set()

    def current(self) -> grpc.aio.Channel:
        """The channel for the next call."""
        material = self._watched.current()
        if material is not self._material:
            self._material, before = material, self._channel
            self._channel = self._open(material)
            ending = asyncio.ensure_future(before.close(_LAST_CALLS_SECONDS))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)
        return self._channel


class _Carrying:
    """A channel whose calls carry metadata, over the channel that is the right one when a call is made. No
    interceptor: those make a task of every call.
    """

    def __init__(self, current: Callable[[], Any], carried: Callable[[], Metadata] | None) -> None:
        self._current = current
        self._carried = carried or tuple

    def __getattr__(self, name: str) -> Any:
        return partial(self._multicallable, name) if name in _ARITIES else getattr(self._current(), name)

    def __enter__(self) -> grpc.Channel:
        self._current().__enter__()
        return cast("grpc.Channel", self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._current().__exit__(kind, error, trace)

    async def __aenter__(self) -> grpc.aio.Channel:
        await self._current().__aenter__()
        return cast("grpc.aio.Channel", self)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._current().__aexit__(kind, error, trace)

    def _multicallable(self, arity: str, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        channel = self._current()
        method = getattr(channel, arity)(*args, **kwargs)

        def call(*call_args: Any, metadata: Sequence[tuple[str, str]] = (), **call_kwargs: Any) -> Any:
            nonlocal channel, method
            if (current := self._current()) is not channel:
                channel, method = current, getattr(current, arity)(*args, **kwargs)
            return method(*call_args, metadata=(*self._carried(), *(metadata or ())), **call_kwargs)

        return call
