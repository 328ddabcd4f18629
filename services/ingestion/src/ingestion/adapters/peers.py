"""The other partitions of ingestion, over gRPC."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any, Final, Protocol, TypeVar

import grpc
import grpc.aio

from throughline.ingestion.v1 import ingestion_pb2, partition_pb2, partition_pb2_grpc
from throughline_kernel import Refusal, UnavailableError
from throughline_rpc import Caller, CallerCredentials, decode_error, open_channel, refusal_of
from throughline_telemetry import current_traceparent

R_co = TypeVar("R_co", covariant=True)

SERVICE: Final = partition_pb2.DESCRIPTOR.services_by_name["PartitionService"]
MISMATCH: Final = "PARTITION_MISMATCH"
SECONDS: Final = 30.0
"""How long another partition may take for an answer."""
_OF_THE_CALL: Final = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.ABORTED,
    }
)
"""What another partition refuses with because of what is asked, and not because of who asks or how it is."""


class _Method(Protocol[R_co]):
    """A method of a stub."""

    def __call__(self, request: Any, *, timeout: float, metadata: Sequence[tuple[str, str]]) -> Awaitable[R_co]: ...


class RemotePeer:
    """Another partition at an address (`host:port`). See `Peer`; close it when done.

    `name` is this partition's own, for the other's access log; `meant` is what the other must be, and is said in the
    metadata `meant_key`. Raises when made: TlsError, TokenError.
    """

    def __init__(
        self,
        name: str,
        address: str,
        meant: tuple[str, str],
        *,
        credentials: CallerCredentials,
        max_message_bytes: int,
    ) -> None:
        self._address = address
        self._partition = meant[1].partition("/")[0]
        self._channel = open_channel(
            address,
            [SERVICE],
            max_message_bytes=max_message_bytes,
            metadata=(*Caller(name, "service").metadata(), meant),
            credentials=credentials,
        )
        self._stub = partition_pb2_grpc.PartitionServiceStub(self._channel)
        # As bytes: they are read once, where they are recorded.
        self._record: Any = self._channel.unary_unary(
            f"/{SERVICE.full_name}/RecordPart",
            request_serializer=bytes,
            response_deserializer=partition_pb2.RecordPartResponse.FromString,
        )

    async def record_part(self, part: bytes) -> Sequence[ingestion_pb2.InteractionResult]:
        """See `Peer`."""
        answer: partition_pb2.RecordPartResponse = await self._ask(self._record, part)
        return answer.results

    async def look_up(self, interaction_id: str) -> partition_pb2.ReadPartInteractionResponse:
        """See `Peer`."""
        request = partition_pb2.ReadPartInteractionRequest(interaction_id=interaction_id)
        return await self._ask(self._stub.ReadPartInteraction, request)

    async def register(self, request: partition_pb2.RegisterInPartRequest) -> partition_pb2.RegisterInPartResponse:
        """See `Peer`."""
        return await self._ask(self._stub.RegisterInPart, request)

    async def waiting(self, page_size: int, after: int) -> ingestion_pb2.ListQuarantineResponse:
        """See `Peer`."""
        request = partition_pb2.ListPartQuarantineRequest(page_size=page_size, after=after)
        return (await self._ask(self._stub.ListPartQuarantine, request)).page

    async def redrive(self, request: ingestion_pb2.RedriveQuarantineRequest) -> ingestion_pb2.RedriveQuarantineResponse:
        """See `Peer`."""
        asked = partition_pb2.RedrivePartRequest(redrive=request)
        return (await self._ask(self._stub.RedrivePart, asked)).redriven

    async def tallies(self) -> ingestion_pb2.GetTalliesResponse:
        """See `Peer`."""
        return (await self._ask(self._stub.GetPartTallies, partition_pb2.GetPartTalliesRequest())).tallies

    async def close(self) -> None:
        """Closes the channel."""
        await self._channel.close()

    async def _ask(self, method: _Method[R_co], request: object) -> R_co:
        traceparent = current_traceparent()
        metadata = (("traceparent", traceparent),) if traceparent else ()
        try:
            return await method(request, timeout=SECONDS, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise self._refused(error) from None

    def _refused(self, error: grpc.aio.AioRpcError) -> Refusal:
        decoded = decode_error(error)
        if decoded.reason == MISMATCH:
            return UnavailableError(MISMATCH, decoded.message, decoded.metadata)
        if decoded.code in _OF_THE_CALL:
            return refusal_of(decoded)
        return UnavailableError(
            "PARTITION_UNAVAILABLE",
            f"partition {self._partition} of ingestion at {self._address} does not take what is passed on to it "
            f"({decoded}); send the same again, what is known is a duplicate",
            {"partition": self._partition},
        )
