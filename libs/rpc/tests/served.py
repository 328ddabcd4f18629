"""Real services for the host's tests: they do what a request tells them to, with a real log behind them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from pathlib import Path
from threading import Event
from typing import Any

import grpc
import grpc.aio

from throughline.eventlog.v1 import eventlog_pb2 as pb
from throughline.eventlog.v1 import eventlog_pb2_grpc
from throughline.ingestion.v1 import ingestion_pb2, ingestion_pb2_grpc
from throughline_eventlog import NewEvent, Reader, Store, StoreSettings, Transaction, Writer, open_store
from throughline_kernel import (
    ConflictError,
    InvalidError,
    NotFoundError,
    Recorded,
    Refusal,
    UnavailableError,
    Violation,
    canonical_json,
    digest,
    hex_id,
)
from throughline_rpc import Hosted, HostSettings, ServiceHost
from throughline_telemetry import current_traceparent

EVENT_TYPE = "throughline.testing.v1.Happened"
STREAM = bytes.fromhex(hex_id("stream"))
LOG_SERVICE = pb.DESCRIPTOR.services_by_name["EventLogService"].full_name
INGESTION_SERVICE = ingestion_pb2.DESCRIPTOR.services_by_name["IngestionService"].full_name

REFUSALS: dict[str, Refusal] = {
    "invalid": InvalidError.of(Violation("key", "a good one", "give another")),
    "absent": NotFoundError("STATE_NOT_FOUND", "no state has the key absent", {"key": "absent"}),
    "conflict": ConflictError("CONCURRENT_CHANGE", "somebody was faster; retry"),
    "away": UnavailableError("LOG_UNAVAILABLE", "disk full; free some, then retry", {"cause": "disk full"}),
}


def open_log(folder: Path, service: str = "testing") -> Store:
    """An empty log in a folder."""
    return open_store(StoreSettings.sqlite(service, folder / f"{service}.db"), tables=("things",))


class Append:
    """Appends one event per payload; holds the transaction open while `gate` is closed."""

    def __init__(self) -> None:
        self.begun = Event()
        self.gate = Event()
        self.gate.set()

    def __call__(self, tx: Transaction, items: Sequence[bytes], /) -> Sequence[int | Refusal]:
        self.begun.set()
        assert self.gate.wait(30)
        version = tx.last_version(STREAM)
        return tx.append(
            [NewEvent(STREAM, version + number, EVENT_TYPE, item, 1_000) for number, item in enumerate(items, 1)]
        )

    def rolled_back(self) -> None:
        """Remembers nothing."""


class Told(eventlog_pb2_grpc.EventLogServiceServicer, ingestion_pb2_grpc.IngestionServiceServicer):
    """Does what the key of GetState, the client id of ReadEvents or the id of a batch says."""

    def __init__(self, writer: Writer | None = None) -> None:
        self.writer = writer
        self.append = Append()
        self.waiting = asyncio.Event()
        self.cancelled = 0

    async def GetState(  # noqa: N802 -- named by the contract
        self, request: pb.GetStateRequest, context: Any
    ) -> pb.GetStateResponse:
        what, _, rest = request.key.partition(":")
        return pb.GetStateResponse(canonical_json=await self._do(what, rest, context))

    async def ReadEvents(  # noqa: N802 -- named by the contract
        self, request: pb.ReadEventsRequest, context: Any
    ) -> AsyncIterator[pb.ReadEventsResponse]:
        for number in range(request.limit):
            yield pb.ReadEventsResponse(events=[pb.LoggedEvent(position=number + 1)])
        what, _, rest = request.client_id.partition(":")
        await self._do(what, rest, context)

    async def StreamInteractions(  # noqa: N802 -- named by the contract
        self, request_iterator: AsyncIterator[ingestion_pb2.StreamInteractionsRequest], context: Any
    ) -> AsyncIterator[ingestion_pb2.StreamInteractionsResponse]:
        async for request in request_iterator:
            what, _, rest = request.batch_id.partition(":")
            await self._do(what, rest, context)
            yield ingestion_pb2.StreamInteractionsResponse(batch_id=request.batch_id)

    async def _do(self, what: str, rest: str, context: Any) -> bytes:
        match what:
            case "refuse":
                raise REFUSALS[rest]
            case "long":
                raise InvalidError("FIELD_INVALID", "ж" * 5_000, {"a": "ж" * 5_000})
            case "break":
                raise ZeroDivisionError(rest)
            case "abort":
                await context.abort(grpc.StatusCode.UNIMPLEMENTED, "not here")
            case "big":
                return b"x" * int(rest)
            case "trace":
                return current_traceparent().encode()
            case "wait":
                self.waiting.set()
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    self.cancelled += 1
                    raise
            case "append":
                assert self.writer is not None
                return str(await self.writer.submit(self.append, rest.encode())).encode()
            case _:
                pass
        return b"{}"


def make_told(writer: Writer | None = None) -> Told:
    """The servicer. Methods that it lacks are not called."""
    return Told(writer)  # pyright: ignore[reportAbstractUsage]


def hosted(told: Told) -> list[Hosted[Any]]:
    """The services as the host takes them."""
    return [
        Hosted(LOG_SERVICE, eventlog_pb2_grpc.add_EventLogServiceServicer_to_server, told),
        Hosted(INGESTION_SERVICE, ingestion_pb2_grpc.add_IngestionServiceServicer_to_server, told),
    ]


def host_of(told: Told, **more: Any) -> ServiceHost:
    """A host on a free port that looks at its health often, with these settings and parts."""
    own = {name: more.pop(name) for name in HostSettings.__dataclass_fields__ if name in more}
    settings = HostSettings("testing", **{"grace_seconds": 5.0, "health_interval_seconds": 0.02, **own})
    return ServiceHost(settings, hosted(told), **more)


class CountedState:
    """The live state of the test's log: how many events it has, and one aggregate per event."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.before_digests: Callable[[], object] = lambda: None

    async def digests(self) -> tuple[int, list[tuple[str, bytes]]]:
        """One aggregate per event."""
        self.before_digests()
        with self.store.snapshot() as reader:
            events = reader.read()
            return reader.last_position(), [(_key(event), digest(_json(event))) for event in events]

    async def state(self, key: str) -> tuple[int, bytes] | None:
        """The aggregate of one event."""
        with self.store.snapshot() as reader:
            for event in reader.read():
                if _key(event) == key:
                    return reader.last_position(), _json(event)
        return None

    def client_positions(self, reader: Reader, client_id: str, interaction_ids: Sequence[str]) -> Iterable[Recorded]:
        """Even positions concern client `eeee...`, and each event the interaction that its payload names."""
        for event in reader.read():
            if client_id and event.position % 2:
                continue
            if interaction_ids and event.payload.decode() not in interaction_ids:
                continue
            yield event


def _key(event: Recorded) -> str:
    return f"event/{event.version:08}"


def _json(event: Recorded) -> bytes:
    return canonical_json({"payload": event.payload.decode()})
