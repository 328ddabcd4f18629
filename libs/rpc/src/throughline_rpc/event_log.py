"""`throughline.eventlog.v1.EventLogService` for any service: its log, its checkpoint and its state, read without
changing anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias, TypeVar

import grpc.aio

from throughline.eventlog.v1 import eventlog_pb2 as pb
from throughline.eventlog.v1 import eventlog_pb2_grpc
from throughline_eventlog import InboxPosition, Reader, Store
from throughline_kernel import (
    InvalidError,
    NotFoundError,
    Recorded,
    Violation,
    combine_digests,
    is_hex_id,
)
from throughline_rpc.hosted import Hosted
from throughline_telemetry import metrics

CHUNK_EVENTS: Final = 500
# A message stays well under the 4 MiB that callers accept who set nothing.
CHUNK_BYTES: Final = 2 * 1024 * 1024
DEFAULT_PAGE: Final = 1_000
MAX_PAGE: Final = 10_000
MAX_INTERACTIONS: Final = 1_000
_KEEP_DIGESTS_SECONDS: Final = 60.0
_TRIES: Final = 5

R = TypeVar("R")
Digests: TypeAlias = list[tuple[str, bytes]]
ServicerContext: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class State(Protocol):
    """What a service tells of its live state."""

    async def digests(self) -> tuple[int, Digests]:
        """(position of the log, the (key, digest) of every aggregate in key order) in one consistent view."""
        ...

    async def state(self, key: str) -> tuple[int, bytes] | None:
        """(position of the log, canonical JSON) of one aggregate, None where no aggregate has this key."""
        ...

    def client_positions(self, reader: Reader, client_id: str, interaction_ids: Sequence[str]) -> Iterable[Recorded]:
        """The events that concern the client (id or alias; empty: any) and the interactions (empty: any), in position
        order.
        """
        ...


class RelayView(Protocol):
    """What is asked of a relay."""

    @property
    def published_position(self) -> int: ...


class ConsumerView(Protocol):
    """What is asked of a consumer."""

    @property
    def stream(self) -> str: ...
    @property
    def lag(self) -> int: ...
    @property
    def poisoned(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Progress:
    """Where the bus stands as seen from this service.

    `lags` gives the messages not taken yet by stream; `published` the position up to which the log is on the bus;
    `poisoned` the events that were put aside by stream.
    """

    lags: Callable[[], Mapping[str, int]]
    published: Callable[[], int]
    poisoned: Callable[[], Mapping[str, int]]

    @classmethod
    def of(cls, relay: RelayView, consumers: Sequence[ConsumerView] = ()) -> Progress:
        """Of this relay and these consumers."""
        return cls(
            lambda: {each.stream: each.lag for each in consumers},
            lambda: relay.published_position,
            lambda: {each.stream: each.poisoned for each in consumers},
        )


def hosted_event_log(servicer: EventLogServicer) -> Hosted[EventLogServicer]:
    """The servicer, ready to be hosted; from here on the process's metrics tell where its log, relay and consumers
    stand.
    """
    servicer.export_metrics()
    return Hosted(
        pb.DESCRIPTOR.services_by_name["EventLogService"].full_name,
        eventlog_pb2_grpc.add_EventLogServiceServicer_to_server,
        servicer,
    )


class EventLogServicer(eventlog_pb2_grpc.EventLogServiceServicer):
    """Serves one service's log. Reads run in threads: the event loop is never held up by a store."""

    def __init__(
        self, store: Store, service: str, partition: int, state: State, progress: Progress | None = None
    ) -> None:
        self._store = store
        self._service = service
        self._partition = partition
        self._state = state
        self._progress = progress
        self._digests: tuple[int, Digests] | None = None
        self._drop_digests: asyncio.TimerHandle | None = None
        self._digesting = asyncio.Lock()

    def export_metrics(self) -> None:
        """Lets each scrape of the metrics read where the log, the relay and the consumers stand."""
        metrics.LOG_POSITION.set_function(lambda: self._measured(self._last))
        for switch in self._store.switches:
            metrics.STORE_SYNCS.labels(switch).set_function(
                lambda switch=switch: self._measured(lambda: self._store.switched_on(switch))
            )
        progress = self._progress
        if progress is None:
            return
        metrics.PUBLISHED_POSITION.set_function(lambda: self._measured(progress.published))
        metrics.OUTBOX_AGE.set_function(lambda: self._measured(lambda: self._outbox_age(progress.published())) / 1e6)
        for stream in progress.lags():
            metrics.CONSUMER_LAG.labels(stream).set_function(lambda stream=stream: progress.lags().get(stream, 0))
            metrics.POISON.labels(stream).set_function(lambda stream=stream: progress.poisoned().get(stream, 0))
            metrics.CONSUMER_POSITION.labels(stream).set_function(
                lambda stream=stream: self._measured(lambda: self._inbox_position(stream))
            )

    async def ReadEvents(  # noqa: N802 -- named by the contract
        self, request: pb.ReadEventsRequest, context: ServicerContext
    ) -> AsyncIterator[pb.ReadEventsResponse]:
        """Streams the log up to where it ends now, in answers of at most 500 events and 2 MiB (or one event)."""
        _check_read(request)
        pages = self._concerning(request) if request.client_id or request.interaction_ids else self._all(request)
        following = asyncio.ensure_future(_next(pages))
        try:
            while (page := await following) is not None:
                # The store reads the next page while this one is sent.
                following = asyncio.ensure_future(_next(pages))
                for chunk in page:
                    yield chunk
        finally:
            if not following.done():
                following.cancel()
                await asyncio.wait({following})

    async def GetCheckpoint(  # noqa: N802 -- named by the contract
        self, request: pb.GetCheckpointRequest, context: ServicerContext
    ) -> pb.GetCheckpointResponse:
        """The log's end, the inbox, and where asked the digest of the state, all at one position."""
        response = await asyncio.to_thread(self._checkpoint)
        if request.digest:
            response = await self._with_digest(response)
        if self._progress:
            lags = self._progress.lags()
            for inbox in response.inbox:
                inbox.lag = lags.get(inbox.stream, 0)
            response.published_position = min(self._progress.published(), response.position)
            response.outbox_age = await asyncio.to_thread(self._outbox_age, response.published_position)
        return response

    async def ListStateDigests(  # noqa: N802 -- named by the contract
        self, request: pb.ListStateDigestsRequest, context: ServicerContext
    ) -> pb.ListStateDigestsResponse:
        """Pages through the digests as of the position of the first page, as long as the caller keeps asking."""
        size = _page_size(request.page_size)
        begun_at, after = _parse_token(request.page_token)
        position, digests = await self._digests_at(begun_at)
        start = _first_after(digests, after) if request.page_token else 0
        page = digests[start : start + size]
        more = start + size < len(digests)
        return pb.ListStateDigestsResponse(
            digests=[pb.StateDigest(key=key, digest=digest) for key, digest in page],
            next_page_token=f"{position}:{page[-1][0]}" if more else "",
            position=position,
        )

    async def GetState(  # noqa: N802 -- named by the contract
        self, request: pb.GetStateRequest, context: ServicerContext
    ) -> pb.GetStateResponse:
        """One aggregate's canonical JSON. Raises: NotFoundError."""
        found = await self._state.state(request.key)
        if found is None:
            raise NotFoundError(
                "STATE_NOT_FOUND",
                f"no state of {self._service} has the key {request.key!r}; ListStateDigests names the keys",
                {"key": request.key},
            )
        position, canonical = found
        return pb.GetStateResponse(canonical_json=canonical, position=position)

    async def _all(self, request: pb.ReadEventsRequest) -> AsyncIterator[list[pb.ReadEventsResponse]]:
        after, left = request.after, request.limit or None
        until = await self._read(lambda reader: reader.last_position())
        if request.until:
            until = min(until, request.until)
        while after < until and left != 0:
            size = CHUNK_EVENTS if left is None else min(CHUNK_EVENTS, left)
            end, count, chunks = await asyncio.to_thread(self._page, after, until, request.as_of or None, size)
            if not count:
                return
            yield chunks
            if count < size:
                return
            after = end
            left = None if left is None else left - count

    async def _concerning(self, request: pb.ReadEventsRequest) -> AsyncIterator[list[pb.ReadEventsResponse]]:
        yield await self._read(lambda reader: self._concerned(reader, request))

    def _concerned(self, reader: Reader, request: pb.ReadEventsRequest) -> list[pb.ReadEventsResponse]:
        events: list[pb.LoggedEvent] = []
        for event in self._state.client_positions(reader, request.client_id, list(request.interaction_ids)):
            if event.position <= request.after or (request.until and event.position > request.until):
                continue
            if request.as_of and event.recorded_at > request.as_of:
                continue
            if request.limit and len(events) == request.limit:
                break
            events.append(_logged(event))
        return list(_chunked(events))

    def _page(
        self, after: int, until: int, as_of: int | None, size: int
    ) -> tuple[int, int, list[pb.ReadEventsResponse]]:
        with self._store.snapshot() as reader:
            rows = reader.read_logged(after, until=until, as_of=as_of, limit=size)
        if not rows:
            return after, 0, []
        events = [
            pb.LoggedEvent(position=position, stream_id=stream_id, version=version, type=type_, envelope=envelope)
            for position, stream_id, version, type_, envelope in rows
        ]
        return rows[-1].position, len(rows), list(_chunked(events))

    def _checkpoint(self, at: int | None = None) -> pb.GetCheckpointResponse:
        with self._store.snapshot() as reader:
            position = reader.last_position() if at is None else at
            last = reader.read(position - 1, limit=1) if position else []
            later = 0 if at is None else len(reader.read_logged(at))
            return pb.GetCheckpointResponse(
                service=self._service,
                partition=self._partition,
                position=position,
                recorded_at=last[0].recorded_at if last else 0,
                events=reader.count_events() - later,
                inbox=[_inbox(each) for each in reader.inboxes()],
            )

    async def _with_digest(self, response: pb.GetCheckpointResponse) -> pb.GetCheckpointResponse:
        """The digest and the checkpoint it belongs to. The log may grow between the two views: then they are taken
        again.

        Where it never stops growing, the checkpoint is that of the digest's position, with the inbox of a moment
        later.
        """
        position, digests = await self._state.digests()
        for _ in range(_TRIES):
            if position == response.position:
                break
            response = await asyncio.to_thread(self._checkpoint)
            if position != response.position:
                position, digests = await self._state.digests()
        if position != response.position:
            response = await asyncio.to_thread(self._checkpoint, position)
        response.digest = await asyncio.to_thread(combine_digests, digests)
        return response

    def _outbox_age(self, published: int) -> int:
        with self._store.snapshot() as reader:
            waiting = reader.read(published, limit=1)
        return max(0, self._store.clock() - waiting[0].recorded_at) if waiting else 0

    def _last(self) -> int:
        with self._store.snapshot() as reader:
            return reader.last_position()

    def _inbox_position(self, stream: str) -> int:
        with self._store.snapshot() as reader:
            inbox = reader.inbox(stream)
        return inbox.position if inbox else 0

    @staticmethod
    def _measured(read: Callable[[], int]) -> float:
        try:
            return read()
        except Exception:  # noqa: BLE001 -- a store that is away, or closed, must not take the other metrics with it
            return float("nan")

    async def _digests_at(self, position: int | None) -> tuple[int, Digests]:
        """The digests kept from the page before, or read anew: they are kept while pages are asked for."""
        async with self._digesting:
            if position is None or self._digests is None or self._digests[0] != position:
                self._digests = await self._state.digests()
            if self._drop_digests is not None:
                self._drop_digests.cancel()
            self._drop_digests = asyncio.get_running_loop().call_later(_KEEP_DIGESTS_SECONDS, self._forget_digests)
            return self._digests

    def _forget_digests(self) -> None:
        self._digests = None

    async def _read(self, work: Callable[[Reader], R]) -> R:
        def read() -> R:
            with self._store.snapshot() as reader:
                return work(reader)

        return await asyncio.to_thread(read)


def _next(pages: AsyncIterator[list[pb.ReadEventsResponse]]) -> Awaitable[list[pb.ReadEventsResponse] | None]:
    return anext(pages, None)


def _chunked(events: Iterable[pb.LoggedEvent]) -> Iterator[pb.ReadEventsResponse]:
    chunk: list[pb.LoggedEvent] = []
    size = 0
    for event in events:
        weight = len(event.envelope) + 100
        if chunk and (size + weight > CHUNK_BYTES or len(chunk) == CHUNK_EVENTS):
            yield pb.ReadEventsResponse(events=chunk)
            chunk, size = [], 0
        chunk.append(event)
        size += weight
    if chunk:
        yield pb.ReadEventsResponse(events=chunk)


def _logged(event: Recorded) -> pb.LoggedEvent:
    envelope = pb.Envelope(
        event_id=event.event_id,
        schema_version=event.schema_version,
        occurred_at=event.occurred_at,
        recorded_at=event.recorded_at,
        correlation_id=event.correlation_id,
        causation_id=event.causation_id,
        traceparent=event.traceparent,
        payload=event.payload,
    )
    return pb.LoggedEvent(
        position=event.position,
        stream_id=event.stream_id,
        version=event.version,
        type=event.type,
        envelope=envelope.SerializeToString(),
    )


def _inbox(inbox: InboxPosition) -> pb.InboxPosition:
    return pb.InboxPosition(stream=inbox.stream, sequence=inbox.sequence, position=inbox.position)


def _first_after(digests: Digests, key: str) -> int:
    low, high = 0, len(digests)
    while low < high:
        middle = (low + high) // 2
        if digests[middle][0] <= key:
            low = middle + 1
        else:
            high = middle
    return low


def _page_size(given: int) -> int:
    if given < 0:
        raise InvalidError.of(Violation("page_size", "at least 0", f"give 1 to {MAX_PAGE}, or 0 for {DEFAULT_PAGE}"))
    return min(given or DEFAULT_PAGE, MAX_PAGE)


def _parse_token(token: str) -> tuple[int | None, str]:
    if not token:
        return None, ""
    position, colon, key = token.partition(":")
    if not colon or not position.isdecimal():
        raise InvalidError.of(Violation("page_token", "a token of ours", "give the next_page_token of the page before"))
    return int(position), key


def _check_read(request: pb.ReadEventsRequest) -> None:
    broken = [
        Violation(name, "at least 0", "leave it out or give a number from 0")
        for name, value in (
            ("after", request.after),
            ("until", request.until),
            ("as_of", request.as_of),
            ("limit", request.limit),
        )
        if value < 0
    ]
    if request.client_id and not is_hex_id(request.client_id):
        broken.append(Violation("client_id", "32 lowercase hex digits", "give a client's id or alias"))
    if len(request.interaction_ids) > MAX_INTERACTIONS:
        broken.append(Violation("interaction_ids", f"at most {MAX_INTERACTIONS}", "ask in several calls"))
    broken += [
        Violation(f"interaction_ids[{number}]", "32 lowercase hex digits", "give an interaction's id")
        for number, interaction_id in enumerate(request.interaction_ids[:MAX_INTERACTIONS])
        if not is_hex_id(interaction_id)
    ]
    if broken:
        raise InvalidError.of(*broken)
