"""One way to call: every failed call raises RemoteRefusal."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import grpc
import grpc.aio

from throughline.eventlog.v1 import eventlog_pb2
from throughline_kernel import Interval
from throughline_rpc import decode_error

Request = TypeVar("Request")
Response = TypeVar("Response")
Item = TypeVar("Item")

# Seconds after which a unary call is given up.
DEADLINE = 60.0


async def call(
    method: grpc.aio.UnaryUnaryMultiCallable[Request, Response], request: Request, timeout: float | None = DEADLINE
) -> Response:
    """Calls once. Raises: RemoteRefusal."""
    try:
        return await method(request, timeout=timeout)
    except grpc.aio.AioRpcError as error:
        raise decode_error(error) from None


async def listen(
    method: grpc.aio.UnaryStreamMultiCallable[Request, Response], request: Request
) -> AsyncIterator[Response]:
    """Gives what the server streams until it ends or the caller stops; a stopped stream is cancelled.

    Raises: RemoteRefusal.
    """
    stream = method(request)
    try:
        async for response in stream:
            yield response
    except grpc.aio.AioRpcError as error:
        raise decode_error(error) from None
    finally:
        stream.cancel()


async def pages(fetch: Callable[[str], Awaitable[tuple[list[Item], str]]]) -> AsyncIterator[Item]:
    """Gives the items of all pages; `fetch` takes a page token and answers items and the next token."""
    token = ""
    while True:
        items, token = await fetch(token)
        for item in items:
            yield item
        if not token:
            return


def interval_message(between: Interval) -> eventlog_pb2.Interval:
    """An interval of event time as calls name it."""
    return eventlog_pb2.Interval(start=between.start, end=between.end)
