"""Where logs are read from: a running service, or the files that a stopped one left."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

import grpc

from throughline.eventlog.v1 import eventlog_pb2
from throughline.identity.v1 import identity_pb2
from throughline_eventlog import Codec, LoggedRow, Store
from throughline_eventlog.partitions import service_of
from throughline_kernel import Recorded
from throughline_rpc import IN_THE_CLEAR, LOG_KEY, CallerCredentials, open_blocking_channel

PAGE = 1000


class EventSource(Protocol):
    """Gives a log's events in order."""

    def read(
        self,
        *,
        after: int = 0,
        until: int = 0,
        as_of: int = 0,
        client_id: str = "",
        interaction_ids: Sequence[str] = (),
    ) -> Iterator[Recorded]:
        """Events with after < position <= until and recorded_at <= as_of (0: no limit), all or of one client."""
        ...


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where a log stood, and the digest of the live state there (empty unless asked for)."""

    position: int
    recorded_at: int
    events: int
    digest: str


class LiveState(Protocol):
    """What a running service holds in memory and tables now."""

    def checkpoint(self, *, digest: bool = False) -> Checkpoint:
        """Position, number of events and, where asked, digest of the state, in one consistent view."""
        ...

    def state_digests(self) -> tuple[int, dict[str, bytes]]:
        """(position, digest of every aggregate by key), all read at that one position."""
        ...

    def state(self, key: str) -> tuple[int, bytes]:
        """(position, canonical JSON) of one aggregate; empty where there is none."""
        ...


class MovingStateError(RuntimeError):
    """The live state would not hold still while it was read page by page."""


def said(error: grpc.RpcError) -> str:
    """What a service, or the way to it, says of a call that failed."""
    return f"{error.code().name}: {error.details()}" if isinstance(error, grpc.Call) else str(error)


class ServiceLog:
    """A running service's log and live state, over gRPC. Close it, or use it in a `with`.

    `metadata`: who asks, as every call says it.
    """

    def __init__(
        self,
        log: str,
        address: str,
        metadata: Sequence[tuple[str, str]] = (),
        credentials: CallerCredentials = IN_THE_CLEAR,
    ) -> None:
        self._codec = Codec(service_of(log))
        metadata = (*metadata, (LOG_KEY, log))
        self._channel = open_blocking_channel(
            address, max_message_bytes=64 * 1024 * 1024, metadata=metadata, credentials=credentials
        )
        # The generated stubs are typed for asyncio; a fold is a plain loop, so its calls are made plainly.
        path = "/throughline.eventlog.v1.EventLogService/"
        self._read = self._channel.unary_stream(
            path + "ReadEvents",
            eventlog_pb2.ReadEventsRequest.SerializeToString,
            eventlog_pb2.ReadEventsResponse.FromString,
        )
        self._checkpoint = self._channel.unary_unary(
            path + "GetCheckpoint",
            eventlog_pb2.GetCheckpointRequest.SerializeToString,
            eventlog_pb2.GetCheckpointResponse.FromString,
        )
        self._digests = self._channel.unary_unary(
            path + "ListStateDigests",
            eventlog_pb2.ListStateDigestsRequest.SerializeToString,
            eventlog_pb2.ListStateDigestsResponse.FromString,
        )
        self._state = self._channel.unary_unary(
            path + "GetState",
            eventlog_pb2.GetStateRequest.SerializeToString,
            eventlog_pb2.GetStateResponse.FromString,
        )
        self._resolve = self._channel.unary_unary(
            "/throughline.identity.v1.IdentityService/ResolveClient",
            identity_pb2.ResolveClientRequest.SerializeToString,
            identity_pb2.ResolveClientResponse.FromString,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()

    def canonical_client(self, client_id: str) -> str:
        """The id that an alias leads to; asks the identity service, so only its log can answer."""
        answer: identity_pb2.ResolveClientResponse = self._resolve(
            identity_pb2.ResolveClientRequest(client_id=client_id)
        )
        return answer.client_id

    def read(
        self,
        *,
        after: int = 0,
        until: int = 0,
        as_of: int = 0,
        client_id: str = "",
        interaction_ids: Sequence[str] = (),
    ) -> Iterator[Recorded]:
        """See EventSource. Raises grpc.RpcError where the service is away, NewerLogError for too new an event."""
        request = eventlog_pb2.ReadEventsRequest(
            after=after, until=until, as_of=as_of, client_id=client_id, interaction_ids=interaction_ids
        )
        for page in self._read(request):
            yield from self._codec.decode(
                LoggedRow(event.position, event.stream_id, event.version, event.type, event.envelope)
                for event in page.events
            )

    def checkpoint(self, *, digest: bool = False) -> Checkpoint:
        """See LiveState. Raises grpc.RpcError where the service is away."""
        answer = self._checkpoint(eventlog_pb2.GetCheckpointRequest(digest=digest))
        return Checkpoint(answer.position, answer.recorded_at, answer.events, answer.digest)

    def state_digests(self) -> tuple[int, dict[str, bytes]]:
        """See LiveState. Raises MovingStateError where the state changes through five attempts."""
        for _ in range(5):
            digests: dict[str, bytes] = {}
            position: int | None = None
            token = ""
            while True:
                page = self._digests(eventlog_pb2.ListStateDigestsRequest(page_size=PAGE, page_token=token))
                if position is not None and page.position != position:
                    break
                position = page.position
                digests.update((entry.key, entry.digest) for entry in page.digests)
                token = page.next_page_token
                if not token:
                    return position, digests
        raise MovingStateError("the state changed while it was read, five times: compare when fewer events come in")

    def state(self, key: str) -> tuple[int, bytes]:
        """See LiveState. Raises grpc.RpcError where the service is away."""
        try:
            answer = self._state(eventlog_pb2.GetStateRequest(key=key))
        except grpc.RpcError as error:
            if isinstance(error, grpc.Call) and error.code() is grpc.StatusCode.NOT_FOUND:
                return self.checkpoint().position, b""
            raise
        return answer.position, answer.canonical_json


class StoredLog:
    """A log read from its store, without the service: what is proved is proved from the log alone."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def read(
        self,
        *,
        after: int = 0,
        until: int = 0,
        as_of: int = 0,
        client_id: str = "",
        interaction_ids: Sequence[str] = (),
    ) -> Iterator[Recorded]:
        """See EventSource. Raises ValueError for one client's events: which those are only the service knows."""
        if client_id or interaction_ids:
            raise ValueError("a stored log is read whole: ask the running service for one client's events")
        with self._store.snapshot() as view:
            while True:
                events = view.read(after, until=until or None, as_of=as_of or None, limit=PAGE)
                yield from events
                if len(events) < PAGE:
                    return
                after = events[-1].position
