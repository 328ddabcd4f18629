"""The interceptor that holds callers to what the contract permits them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, TypeAlias, TypeVar, cast

import grpc
import grpc.aio

from throughline_rpc.callers import Authenticator, Caller, Identity
from throughline_rpc.permissions import Permission

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
TRequest = TypeVar("TRequest")
TResponse = TypeVar("TResponse")


class AccessInterceptor(grpc.aio.ServerInterceptor):
    """Lets through what the caller's roles may call for.

    Who they are the authenticator finds out; the role that they name in the metadata only selects among theirs. Methods
    that are in no contract of Throughline's (health, reflection) are for everybody.
    """

    def __init__(self, permissions: Mapping[str, Permission], authenticator: Authenticator) -> None:
        self._permissions = permissions
        self._authenticator = authenticator
        self._wrapped: dict[str, tuple[Handler, Handler]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[TRequest, TResponse] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[TRequest, TResponse] | None:
        """Gives the method's handler, guarded where the contract has it; made once per method."""
        handler = await continuation(handler_call_details)
        permission = self._permissions.get(handler_call_details.method)
        if handler is None or permission is None:
            return handler
        known = self._wrapped.get(permission.path)
        if known is None or known[0] is not handler:
            known = (handler, self._wrap(permission, handler))
            self._wrapped[permission.path] = known
        return known[1]

    def _wrap(self, permission: Permission, handler: Handler) -> Handler:
        guard = _Guard(permission, self._authenticator)
        deserialise, serialise = handler.request_deserializer, handler.response_serializer
        if handler.request_streaming and handler.response_streaming:
            behaviour = guard.answering_stream(cast("Any", handler.stream_stream))
            return grpc.stream_stream_rpc_method_handler(behaviour, deserialise, serialise)
        if handler.response_streaming:
            behaviour = guard.stream(cast("Any", handler.unary_stream))
            return grpc.unary_stream_rpc_method_handler(behaviour, deserialise, serialise)
        if handler.request_streaming:
            raise TypeError(f"{permission.path}: nothing here takes a stream to give one answer")
        behaviour = guard.single(cast("Any", handler.unary_unary))
        return grpc.unary_unary_rpc_method_handler(behaviour, deserialise, serialise)


class _Guard:
    """One method's."""

    def __init__(self, permission: Permission, authenticator: Authenticator) -> None:
        self._permission = permission
        self._authenticator = authenticator

    def single(self, call: Callable[[Any, Context], Awaitable[Any]]) -> Callable[[Any, Context], Awaitable[Any]]:
        """One answer to one request."""

        async def answer(request: Any, context: Context) -> Any:
            identity = await self._admitted(context)
            self._permission.check_sources(identity, request)
            return await call(request, context)

        return answer

    def stream(self, call: Callable[[Any, Context], Any]) -> Callable[[Any, Context], Any]:
        """Many answers to one request."""

        async def stream(request: Any, context: Context) -> AsyncIterator[Any]:
            await self._admitted(context)
            async with aclosing(cast("AsyncGenerator[Any]", call(request, context))) as responses:
                async for response in responses:
                    yield response

        return stream

    def answering_stream(self, call: Callable[[Any, Context], Any]) -> Callable[[Any, Context], Any]:
        """Many answers to many requests."""

        async def stream(requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
            identity = await self._admitted(context)
            own = self._of_own_sources(identity, requests)
            async with aclosing(cast("AsyncGenerator[Any]", call(own, context))) as responses:
                async for response in responses:
                    yield response

        return stream

    async def _of_own_sources(self, identity: Identity, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for request in requests:
            self._permission.check_sources(identity, request)
            yield request

    async def _admitted(self, context: Context) -> Identity:
        metadata = context.invocation_metadata() or ()
        said = Caller.of(metadata)
        identity = await self._authenticator.identify(metadata, context.auth_context())
        acting = identity.acting_as(said.role)
        self._permission.check(acting, said.purpose)
        return acting
