"""A service's log of who read what, beside the log of its decisions."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from heapq import merge
from itertools import islice
from typing import Any, Final, TypeAlias

import grpc.aio

from throughline.accesslog.v1 import accesslog_pb2 as pb
from throughline.accesslog.v1 import accesslog_pb2_grpc
from throughline.accesslog.v1.events_pb2 import AccessRecorded
from throughline_eventlog import (
    BusSettings,
    Clock,
    Connection,
    NewEvent,
    Reader,
    Store,
    StoreSettings,
    Transaction,
    Writer,
    open_store,
    wall_clock,
)
from throughline_kernel import InvalidError, Recorded, Violation, hex_id, is_hex_id
from throughline_rpc.hosted import Background, Hosted
from throughline_rpc.proofs import Proofs, ProofSettings

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

DEFAULT_PAGE: Final = 100
MAX_PAGE: Final = 1_000
MAX_IDS: Final = 1_000
BY_ID: Final = "access_by_id"
"""The table of what is found by id: an id (16 bytes) and a position (8 bytes), big endian."""
_RECORDED: Final = AccessRecorded.DESCRIPTOR.full_name
_STREAM: Final = bytes.fromhex(hex_id("access"))


def access_log_of(settings: StoreSettings) -> StoreSettings:
    """Where the access log of a service is kept: beside its log, in a file or schema of its own."""
    return settings.beside("access")


class AccessLog:
    """Has a store and a writer of its own, so that reads that wait for their record are written together; and proofs,
    as every log.
    """

    def __init__(self, store: Store, proofs: Proofs | None = None) -> None:
        self._store = store
        self._proofs = proofs
        self._writer = Writer(store)
        self._append = _Append()

    @classmethod
    def beside(
        cls,
        settings: StoreSettings,
        proofs: ProofSettings,
        *,
        connection: Connection,
        bus: BusSettings,
        partition: int,
        clock: Clock = wall_clock,
    ) -> AccessLog:
        """Opens that of the service whose log is in these settings. Raises: what `open_store` raises."""
        kept = access_log_of(settings)
        store = open_store(kept, tables=(BY_ID,), clock=clock)
        return cls(
            store,
            Proofs(store, kept, proofs, connection=connection, bus=bus, partition=partition, name="access proofs"),
        )

    @property
    def hosted(self) -> tuple[Hosted[Any], ...]:
        """The services of it, ready to be hosted."""
        log = Hosted(
            pb.DESCRIPTOR.services_by_name["AccessLogService"].full_name,
            accesslog_pb2_grpc.add_AccessLogServiceServicer_to_server,
            AccessLogServicer(self),
        )
        return (log,) if self._proofs is None else (log, self._proofs.hosted_of_access)

    @property
    def background(self) -> tuple[Background, ...]:
        """The work that keeps its proofs, ready to be hosted."""
        return () if self._proofs is None else self._proofs.background

    async def record(self, event: AccessRecorded) -> None:
        """Durable when it returns. Raises: UnavailableError."""
        await self._writer.submit(self._append, event)

    def health(self) -> str | None:
        """None, or why the last read could not be recorded: nobody can read anything then."""
        return self._writer.health()

    async def close(self) -> None:
        """Writes what is queued, proves it, and lets go of the stores."""
        await self._writer.close()
        if self._proofs is not None:
            await self._proofs.close()
        self._store.close()

    def page(self, ids: Sequence[str], after: int, size: int) -> tuple[list[Recorded], int]:
        """At most `size` events behind a position, of these ids (32 hex digits; none: all), and where the log ends."""
        with self._store.snapshot() as reader:
            events = list(_found(reader, ids, after, size)) if ids else reader.read(after, limit=size)
            return events, reader.last_position()


def _found(reader: Reader, ids: Sequence[str], after: int, size: int) -> Iterator[Recorded]:
    begin = after.to_bytes(8, "big")
    positions = merge(
        *(
            [
                int.from_bytes(key[16:], "big")
                for key, _ in reader.scan(BY_ID, prefix=id_, after=id_ + begin, limit=size)
            ]
            for id_ in {bytes.fromhex(each) for each in ids}
        )
    )
    for position in islice(dict.fromkeys(positions), size):
        yield from reader.read(position - 1, limit=1)


class _Append:
    """Appends events, and notes where each is found by the ids that it names."""

    def __call__(self, tx: Transaction, items: Sequence[AccessRecorded], /) -> Sequence[None]:
        version = tx.last_version(_STREAM)
        positions = tx.append(
            [
                NewEvent(_STREAM, version + number, _RECORDED, item.SerializeToString(deterministic=True), tx.now)
                for number, item in enumerate(items, 1)
            ]
        )
        tx.put_many(
            BY_ID,
            {
                bytes.fromhex(id_) + position.to_bytes(8, "big"): b""
                for position, item in zip(positions, items, strict=True)
                for id_ in item.ids
            },
        )
        return [None] * len(items)

    def rolled_back(self) -> None:
        """Nothing is kept between transactions."""


class AccessLogServicer(accesslog_pb2_grpc.AccessLogServiceServicer):
    """Serves the access log. Reads run in threads."""

    def __init__(self, log: AccessLog) -> None:
        self._log = log

    async def ListAccess(  # noqa: N802 -- named by the contract
        self, request: pb.ListAccessRequest, context: Context
    ) -> pb.ListAccessResponse:
        """A page, oldest first."""
        size, after = _checked(request)
        events, position = await asyncio.to_thread(self._log.page, list(request.ids), after, size + 1)
        page = events[:size]
        return pb.ListAccessResponse(
            entries=[
                pb.AccessEntry(
                    position=event.position,
                    event_id=event.event_id.hex(),
                    at=event.recorded_at,
                    access=AccessRecorded.FromString(event.payload),
                )
                for event in page
            ],
            next_page_token=str(page[-1].position) if len(events) > size else "",
            position=position,
        )


def _checked(request: pb.ListAccessRequest) -> tuple[int, int]:
    """How many, and behind which position. Raises: InvalidError."""
    broken = [
        Violation(f"ids[{number}]", "32 lowercase hex digits", "give an id as a service told it")
        for number, each in enumerate(request.ids[:MAX_IDS])
        if not is_hex_id(each)
    ]
    if len(request.ids) > MAX_IDS:
        broken.append(Violation("ids", f"at most {MAX_IDS}", "ask in several calls"))
    if not 0 <= request.page_size <= MAX_PAGE:
        broken.append(Violation("page_size", f"0 to {MAX_PAGE}", f"give 1 to {MAX_PAGE}, or 0 for {DEFAULT_PAGE}"))
    token = request.page_token
    if token and not (token.isascii() and token.isdecimal() and len(token) < 19):
        broken.append(Violation("page_token", "a token of ours", "give the next_page_token of the page before"))
    if broken:
        raise InvalidError.of(*broken)
    return request.page_size or DEFAULT_PAGE, int(token or 0)
