"""The log and the health of any service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2

from throughline.eventlog.v1 import eventlog_pb2, eventlog_pb2_grpc
from throughline_client.sdk.calling import call, listen, pages
from throughline_rpc import RemoteRefusal


class LogClient:
    """Reads one service's log and asks how it is. Every method raises RemoteRefusal where the call fails."""

    def __init__(self, channel: grpc.aio.Channel, health_service: str) -> None:
        self.stub = eventlog_pb2_grpc.EventLogServiceStub(channel)
        self._check: grpc.aio.UnaryUnaryMultiCallable[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse] = (
            channel.unary_unary(
                "/grpc.health.v1.Health/Check",
                request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
                response_deserializer=health_pb2.HealthCheckResponse.FromString,
            )
        )
        self._health_service = health_service

    async def read(
        self,
        *,
        after: int = 0,
        until: int = 0,
        as_of: int = 0,
        client_id: str = "",
        interaction_ids: Sequence[str] = (),
        limit: int = 0,
    ) -> AsyncIterator[eventlog_pb2.LoggedEvent]:
        """The log in order; limits that are 0 do not limit."""
        request = eventlog_pb2.ReadEventsRequest(
            after=after,
            until=until,
            as_of=as_of,
            client_id=client_id,
            interaction_ids=interaction_ids,
            limit=limit,
        )
        async for page in listen(self.stub.ReadEvents, request):
            for event in page.events:
                yield event

    async def checkpoint(
        self, *, digest: bool = False, timeout: float | None = 60.0
    ) -> eventlog_pb2.GetCheckpointResponse:
        """Where the log and everything derived from it stands now; the digest reads the whole state."""
        request = eventlog_pb2.GetCheckpointRequest(digest=digest)
        return await call(self.stub.GetCheckpoint, request, timeout=None if digest else timeout)

    def digests(self, page_size: int = 1000) -> AsyncIterator[eventlog_pb2.StateDigest]:
        """The digest of each aggregate of the live state."""

        async def fetch(token: str) -> tuple[list[eventlog_pb2.StateDigest], str]:
            request = eventlog_pb2.ListStateDigestsRequest(page_size=page_size, page_token=token)
            page = await call(self.stub.ListStateDigests, request)
            return list(page.digests), page.next_page_token

        return pages(fetch)

    async def state(self, key: str) -> eventlog_pb2.GetStateResponse:
        """One aggregate of the live state, in canonical JSON."""
        return await call(self.stub.GetState, eventlog_pb2.GetStateRequest(key=key))

    async def health(self, *, overall: bool = True, timeout: float = 5.0) -> str:
        """SERVING, NOT_SERVING or UNREACHABLE: of the whole, or of the service's own API alone."""
        request = health_pb2.HealthCheckRequest(service="" if overall else self._health_service)
        try:
            answer = await call(self._check, request, timeout=timeout)
        except RemoteRefusal as refusal:
            if refusal.code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}:
                return "UNREACHABLE"
            raise
        return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
