"""The interceptor that holds callers to what the contract permits them, and logs what they read."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeVar, cast

import grpc
import grpc.aio
from google.protobuf.message import Message

from throughline.access.v1 import options_pb2
from throughline.accesslog.v1.events_pb2 import AccessRecorded
from throughline_kernel import ForbiddenError, PreconditionError
from throughline_rpc.access_log import AccessLog
from throughline_rpc.callers import ACTING, EVERYBODY, LOG_KEY, Authenticator, Caller, Identity
from throughline_rpc.permissions import Permission, values_at

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
TRequest = TypeVar("TRequest")
TResponse = TypeVar("TResponse")

AT_ONCE: Final = 500
"""Answers of a stream that are logged as one read at most, where they are there at once."""
_ID_BYTES: Final = 16
# The whole value, or what stands last in the key of an aggregate, e.g. `client/9f...`.
_ID: Final = re.compile(r"(?:\A|[/.])([0-9a-f]{32})\Z")
# Served by every process beside its own service, of the log that it has.
_OF_A_LOG: Final = ("/throughline.eventlog.", "/throughline.proof.", "/throughline.accesslog.")
_OF_EVERYBODY: Final = frozenset({options_pb2.READS_LOG, options_pb2.READS_ACCESS})


class AccessInterceptor(grpc.aio.ServerInterceptor):
    """Lets through what the caller's roles may call for, and logs every read before its answer leaves.

    Who they are the authenticator finds out; the role that they name in the metadata only selects among theirs. Methods
    that are in no contract of Throughline's (health, reflection) are for everybody. A read of a client is one that asks
    for or tells of somebody; one of a log, of any kind, is one always. Without a log nothing is logged. `serves` names
    the log that this process has: a call about another is refused (LOG_MISMATCH), and one that names none is not.
    """

    def __init__(
        self,
        permissions: Mapping[str, Permission],
        authenticator: Authenticator,
        log: AccessLog | None = None,
        *,
        serves: str = "",
    ) -> None:
        self._serves = serves
        self._permissions = permissions
        self._authenticator = authenticator
        self._log = log
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
        serves = self._serves if permission.path.startswith(_OF_A_LOG) else ""
        guard = _Guard(permission, self._authenticator, self._log, serves)
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


@dataclass(frozen=True, slots=True)
class _Admitted:
    """Who was let in, in which of their roles, and what they said of themselves."""

    identity: Identity
    said: Caller
    peer: str


class _Guard:
    """One method's."""

    def __init__(
        self, permission: Permission, authenticator: Authenticator, log: AccessLog | None, serves: str
    ) -> None:
        self._serves = serves
        self._permission = permission
        self._authenticator = authenticator
        self._log = None if permission.reads == options_pb2.READS_NOTHING else log

    def single(self, call: Callable[[Any, Context], Awaitable[Any]]) -> Callable[[Any, Context], Awaitable[Any]]:
        """One answer to one request: logged with whom it tells of, before it leaves."""

        async def answer(request: Any, context: Context) -> Any:
            asked = self._ids(request, self._permission.asked)
            admitted = await self._admit(context, asked)
            self._permission.check_sources(admitted.identity, request)
            response = await call(request, context)
            await self._record(admitted, asked | self._ids(response, self._permission.told))
            return response

        return answer

    def stream(self, call: Callable[[Any, Context], Any]) -> Callable[[Any, Context], Any]:
        """Many answers to one request: logged before the first one whom it asks for, and before others whom they tell
        of besides.
        """

        async def stream(request: Any, context: Context) -> AsyncIterator[Any]:
            known = self._ids(request, self._permission.asked)
            admitted = await self._admit(context, known)
            await self._record(admitted, known)
            async with aclosing(cast("AsyncGenerator[Any]", call(request, context))) as responses:
                if self._log is None or not self._permission.told:
                    async for response in responses:
                        yield response
                    return
                async with aclosing(_at_once(responses)) as batches:
                    async for batch in batches:
                        told = {id_: None for each in batch for id_ in self._ids(each, self._permission.told)}
                        if fresh := {id_: None for id_ in told if id_ not in known}:
                            known |= fresh
                            await self._record(admitted, fresh)
                        for response in batch:
                            yield response

        return stream

    def answering_stream(self, call: Callable[[Any, Context], Any]) -> Callable[[Any, Context], Any]:
        """Many answers to many requests. None of those reads anything."""
        if self._permission.reads != options_pb2.READS_NOTHING:
            raise TypeError(f"{self._permission.path}: what is read over a stream of requests is not logged here")

        async def stream(requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
            admitted = await self._admit(context, {})
            own = self._of_own_sources(admitted.identity, requests)
            async with aclosing(cast("AsyncGenerator[Any]", call(own, context))) as responses:
                async for response in responses:
                    yield response

        return stream

    async def _of_own_sources(self, identity: Identity, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for request in requests:
            self._permission.check_sources(identity, request)
            yield request

    async def _admit(self, context: Context, asked: Mapping[str, None]) -> _Admitted:
        metadata = context.invocation_metadata() or ()
        said = Caller.of(metadata)
        identity = await self._authenticator.identify(metadata, context.auth_context())
        peer = context.peer() or ""
        try:
            acting = identity.acting_as(said.role)
            self._permission.check(acting, said.purpose)
        except ForbiddenError as refusal:
            await self._record(_Admitted(identity, said, peer), asked, refused=refusal.reason)
            raise
        if self._serves:
            self._check_log(next((value for key, value in metadata if key == LOG_KEY), self._serves))
        ACTING.set(acting)
        return _Admitted(acting, said, peer)

    def _check_log(self, meant: str | bytes) -> None:
        """One log of several told as all that a service has would be wrong without a word."""
        if meant != self._serves:
            raise PreconditionError(
                "LOG_MISMATCH",
                f"what answers here has the log {self._serves}, and {meant!r} is meant: give the caller "
                "THROUGHLINE_PARTITIONS and THROUGHLINE_INGESTION_PEERS as the services have them",
                {"log": self._serves, "meant": str(meant)},
            )

    def _ids(self, message: Message, paths: Iterable[tuple[str, ...]]) -> dict[str, None]:
        """The ids that a message names, in order, each once."""
        return {} if self._log is None else dict.fromkeys(_ids_at(message, paths))

    async def _record(self, admitted: _Admitted, ids: Mapping[str, None], refused: str = "") -> None:
        if self._log is None:
            return
        if not ids and not refused:
            if self._permission.reads not in _OF_EVERYBODY:
                return
            ids = {EVERYBODY: None}
        identity, said = admitted.identity, admitted.said
        await self._log.record(
            AccessRecorded(
                method=self._permission.path,
                reads=self._permission.reads,
                caller=identity.name,
                roles=sorted(identity.roles),
                purpose=said.purpose,
                peer=admitted.peer,
                ids=ids,
                refused=refused,
                on_behalf_of=said.name if said.name != identity.name else "",
            )
        )


def _ids_at(message: Message, paths: Iterable[tuple[str, ...]]) -> Iterator[str]:
    for value in values_at(message, paths):
        if isinstance(value, bytes):
            if len(value) == _ID_BYTES:
                yield value.hex()
        elif found := _ID.search(value):
            yield found[1]


async def _at_once(items: AsyncIterator[Any]) -> AsyncGenerator[list[Any]]:
    """The items in lists of those that are there without waiting, `AT_ONCE` at most."""
    following = asyncio.ensure_future(_next(items))
    try:
        while True:
            try:
                batch = [await following]
            except StopAsyncIteration:
                return
            following = asyncio.ensure_future(_next(items))
            while len(batch) < AT_ONCE:
                await asyncio.wait({following}, timeout=0)
                if not following.done() or following.exception() is not None:
                    break
                batch.append(following.result())
                following = asyncio.ensure_future(_next(items))
            yield batch
    finally:
        following.cancel()
        await asyncio.wait({following})


async def _next(items: AsyncIterator[Any]) -> Any:
    return await anext(items)
