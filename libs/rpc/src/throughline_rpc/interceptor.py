"""The one interceptor: refusals become statuses, the unexpected becomes an id, calls are measured, traces carry on."""

from __future__ import annotations

import asyncio
import inspect
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection
from contextlib import AbstractContextManager, aclosing, nullcontext
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Final, NoReturn, TypeAlias, TypeVar, cast

import grpc
import grpc.aio
from opentelemetry.trace import SpanKind

from throughline_kernel import InvalidError, Refusal, UnavailableError
from throughline_rpc.errors import status_of, trailers_of, unexpected_status
from throughline_rpc.settings import MAX_CALL_SECONDS
from throughline_telemetry import (
    attributes,
    batch_span,
    caused_by,
    is_sampled,
    logger,
    metrics,
    traceparent_of_metadata,
)

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
TRequest = TypeVar("TRequest")
TResponse = TypeVar("TResponse")
_BY_NUMBER: Final = {cast("int", code.value[0]): code for code in grpc.StatusCode}


@dataclass(frozen=True, slots=True)
class _Unreadable:
    """Stands for a request whose bytes are not the message they should be."""

    why: str


class RefusalInterceptor(grpc.aio.ServerInterceptor):
    """Ends every call that raises with a clean status (see `errors`), and observes its duration and code.

    - A kernel `Refusal` becomes its rich status; bytes that are not the request's message become INVALID_ARGUMENT.
    - Anything else becomes INTERNAL with an id under which it is logged, once, with its stack. Cancellation passes.
    - Methods named in `batch_methods` get one span per call; others only where the caller sent a sampled traceparent.
    Within the
      call `current_traceparent()` is that of the span, or else of the caller.
    - A call for one answer that takes longer than `max_call_seconds` is ended.
    - After `stop_taking()` calls that come are turned away with UNAVAILABLE before they begin, and `turned_away` counts
      them. Calls that stream answers end with UNAVAILABLE too: those that read at once, those that also take requests
      when what they took is answered.
    """

    def __init__(
        self, service: str, batch_methods: Collection[str] = (), max_call_seconds: float = MAX_CALL_SECONDS
    ) -> None:
        self._service = service
        self._max_call_seconds = max_call_seconds
        self._batch_methods = frozenset(batch_methods)
        self._wrapped: dict[str, tuple[Handler, Handler]] = {}
        self._stopping = asyncio.Event()
        self._log = logger()
        self.turned_away = 0

    def stop_taking(self) -> None:
        """Takes no more calls, and ends streams, so that a shutdown waits for work and not for watchers."""
        self._stopping.set()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[TRequest, TResponse] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[TRequest, TResponse] | None:
        """Gives the method's handler, wrapped; made once per method."""
        method = handler_call_details.method
        if self._stopping.is_set():
            self.turned_away += 1
            return cast("grpc.RpcMethodHandler[TRequest, TResponse]", self._turning_away(method))
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        known = self._wrapped.get(method)
        if known is None or known[0] is not handler:
            known = (handler, self._wrap(method, handler))
            self._wrapped[method] = known
        return known[1]

    def _wrap(self, method: str, handler: Handler) -> Handler:
        deserialise = _guarded(handler.request_deserializer)
        serialise = handler.response_serializer
        if handler.request_streaming and handler.response_streaming:
            behaviour = self._answering_stream(method, cast("Any", handler.stream_stream))
            return grpc.stream_stream_rpc_method_handler(behaviour, deserialise, serialise)
        if handler.request_streaming:
            behaviour = self._single(method, cast("Any", handler.stream_unary), streamed=True)
            return grpc.stream_unary_rpc_method_handler(behaviour, deserialise, serialise)
        if handler.response_streaming:
            behaviour = self._reading_stream(method, cast("Any", handler.unary_stream))
            return grpc.unary_stream_rpc_method_handler(behaviour, deserialise, serialise)
        behaviour = self._single(method, cast("Any", handler.unary_unary), streamed=False)
        return grpc.unary_unary_rpc_method_handler(behaviour, deserialise, serialise)

    def _turning_away(self, method: str) -> Handler:
        """Refuses a call of whatever kind without reading any of it: an answer to a stream needs no request."""

        async def refuse(_requests: AsyncIterator[Any], context: Context) -> None:
            begun = perf_counter()
            try:
                self._refuse_more()
            except UnavailableError as refusal:
                await self._end(method, context, refusal, begun)

        return grpc.stream_stream_rpc_method_handler(cast("Any", refuse))

    def _single(
        self, method: str, call: Callable[[Any, Context], Awaitable[Any]], *, streamed: bool
    ) -> Callable[[Any, Context], Awaitable[Any]]:
        """One answer: to one request, or to a stream of them."""
        batch = method.rpartition("/")[2] in self._batch_methods
        succeeded = metrics.RPC_SECONDS.labels(method, "OK")

        async def answer(request: Any, context: Context) -> Any:
            begun = perf_counter()
            try:
                given = self._readable_stream(method, request) if streamed else self._readable(method, request)
                with _traced(method, context, batch=batch):
                    response = await self._in_time(call(given, context), context)
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 -- `_end` says all
                await self._end(method, context, error, begun)
            succeeded.observe(perf_counter() - begun)
            return response

        return answer

    async def _in_time(self, call: Awaitable[Any], context: Context) -> Any:
        """What the call answers. One that takes too long ends with DEADLINE_EXCEEDED, whatever the caller allowed."""
        bound = asyncio.timeout(self._max_call_seconds)
        try:
            async with bound:
                return await call
        except TimeoutError:
            if not bound.expired():
                raise
        return await context.abort(
            grpc.StatusCode.DEADLINE_EXCEEDED,
            f"no call may take longer than {self._max_call_seconds:g} s here; ask for less at once",
        )

    def _reading_stream(self, method: str, call: Callable[[Any, Context], Any]) -> Callable[[Any, Context], Any]:
        """Many answers to one request: ended at once when the service stops, since the caller can read on elsewhere."""
        succeeded = metrics.RPC_SECONDS.labels(method, "OK")
        if not inspect.isasyncgenfunction(call):

            async def write(request: Any, context: Context) -> None:
                begun = perf_counter()
                try:
                    work = asyncio.ensure_future(call(self._readable(method, request), context))
                    if not await _done_before(self._stopping, work):
                        self._refuse_more()
                    work.result()
                except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 -- `_end` says all
                    await self._end(method, context, error, begun)
                succeeded.observe(perf_counter() - begun)

            return write

        async def stream(request: Any, context: Context) -> AsyncIterator[Any]:
            begun = perf_counter()
            try:
                responses = call(self._readable(method, request), context)
                async with aclosing(cast("AsyncGenerator[Any]", responses)):
                    reading = _Cuttable(responses, self._stopping)
                    async for response in reading:
                        yield response
                if reading.cut:
                    self._refuse_more()
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 -- `_end` says all
                await self._end(method, context, error, begun)
            succeeded.observe(perf_counter() - begun)

        return stream

    def _answering_stream(self, method: str, call: Callable[[Any, Context], Any]) -> Callable[[Any, Context], Any]:
        """Many answers to many requests: when the service stops it takes no more, and answers what it took."""
        succeeded = metrics.RPC_SECONDS.labels(method, "OK")

        async def stream(requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
            begun = perf_counter()
            try:
                taking = _Cuttable(self._readable_stream(method, requests), self._stopping)
                async with aclosing(cast("AsyncGenerator[Any]", call(taking, context))) as responses:
                    async for response in responses:
                        yield response
                if taking.cut:
                    self._refuse_more()
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 -- `_end` says all
                await self._end(method, context, error, begun)
            succeeded.observe(perf_counter() - begun)

        return stream

    def _readable(self, method: str, request: Any) -> Any:
        if isinstance(request, _Unreadable):
            raise InvalidError(
                "REQUEST_UNREADABLE",
                f"the request is not a readable message ({request.why}); send it as the contract has it, text as UTF-8",
                {"method": method, "cause": request.why},
            )
        return request

    async def _readable_stream(self, method: str, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for request in requests:
            yield self._readable(method, request)

    def _refuse_more(self) -> NoReturn:
        raise UnavailableError(
            "SHUTTING_DOWN",
            f"{self._service} is shutting down; send again what was not answered, to another instance or soon",
            {"service": self._service},
        )

    async def _end(self, method: str, context: Context, error: BaseException, begun: float) -> NoReturn:
        """Ends the call as the error says. Always raises."""
        if isinstance(error, asyncio.CancelledError):
            metrics.RPC_SECONDS.labels(method, "CANCELLED").observe(perf_counter() - begun)
            raise error
        if isinstance(error, grpc.aio.AbortError):
            given = _BY_NUMBER.get(cast("int", context.code()), grpc.StatusCode.UNKNOWN)
            metrics.RPC_SECONDS.labels(method, given.name).observe(perf_counter() - begun)
            raise error
        if isinstance(error, Refusal):
            status = status_of(error, self._service)
        else:
            error_id = secrets.token_hex(8)
            self._log.error("rpc_failed", error_id=error_id, method=method, exc_info=error)
            metrics.UNEXPECTED.labels(method).inc()
            status = unexpected_status(error_id, self._service)
        code = _BY_NUMBER[status.code]
        metrics.RPC_SECONDS.labels(method, code.name).observe(perf_counter() - begun)
        await context.abort(code, status.message, trailers_of(status))


def _guarded(deserialise: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    """Lets unreadable bytes reach the handler's wrapper: gRPC by itself would end the call without saying why."""
    if deserialise is None:
        return None

    def guarded(data: bytes) -> Any:
        try:
            return deserialise(data)
        except Exception as error:  # noqa: BLE001 -- whatever the decoder met, the caller's bytes are at fault
            return _Unreadable(" ".join(str(error).split())[:200] or type(error).__name__)

    return guarded


class _Cuttable:
    """Iterates until the items end or the service begins to stop; `cut` tells which."""

    def __init__(self, items: AsyncIterator[Any], stopping: asyncio.Event) -> None:
        self._items = items
        self._stopping = stopping
        self.cut = False

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        following = asyncio.ensure_future(_following(self._items))
        if not await _done_before(self._stopping, following):
            self.cut = True
            raise StopAsyncIteration
        return following.result()


async def _following(items: AsyncIterator[Any]) -> Any:
    return await anext(items)


async def _done_before(stopping: asyncio.Event, work: asyncio.Future[Any]) -> bool:
    """Tells whether the work was done before the service began to stop; else it is cancelled."""
    if stopping.is_set():
        stop = None
        await asyncio.wait({work}, timeout=0)
    else:
        stop = asyncio.ensure_future(stopping.wait())
    try:
        if stop is not None:
            await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
        return work.done()
    finally:
        if stop is not None:
            stop.cancel()
        if not work.done():
            work.cancel()
            await asyncio.wait({work})


def _traced(method: str, context: Context, *, batch: bool) -> AbstractContextManager[object]:
    traceparent = traceparent_of_metadata(context.invocation_metadata())
    if batch or (traceparent and is_sampled(traceparent)):
        service, _, name = method[1:].partition("/")
        return batch_span(
            method[1:],
            kind=SpanKind.SERVER,
            traceparent=traceparent,
            attributes={attributes.RPC_SYSTEM: "grpc", attributes.RPC_SERVICE: service, attributes.RPC_METHOD: name},
        )
    return caused_by(traceparent) if traceparent else nullcontext()
