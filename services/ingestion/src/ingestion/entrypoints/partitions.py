"""Ingestion in several partitions: any of them takes what is asked, and passes on what another one has."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from heapq import merge
from typing import Any, Final, TypeAlias, TypeVar

import grpc
import grpc.aio

from ingestion.application.ports import Part, Peer, Request, RequestParter, Turns
from ingestion.application.queries import interaction_asked_for, read_page_token, size_of_page, write_page_token
from ingestion.domain.deciding import batch_size_error
from ingestion.domain.registry import Registry
from ingestion.domain.validation import is_name
from ingestion.entrypoints.desk import Accounted, OwnDesk
from ingestion.entrypoints.handlers import as_it_came, hosted_reading_itself
from throughline.ingestion.v1 import ingestion_pb2, partition_pb2, partition_pb2_grpc
from throughline_kernel import InvalidError, PreconditionError
from throughline_rpc import Hosted, check_own_sources

ServicerContext: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
R = TypeVar("R")

NAME: Final = partition_pb2.DESCRIPTOR.services_by_name["PartitionService"].full_name
MEANT_KEY: Final = "throughline-partition"
"""Metadata that says which partition a call is meant for, and of how many: `101/2`."""


class AllPartitions:
    """The desk of one partition among several: `peers` are all of them by index, this one included.

    What one source offers is decided where the source is, in the order in which it came over one stream. Where a
    partition does not answer the whole request fails with UNAVAILABLE: what the others recorded of it is a duplicate
    when it is sent again.
    """

    def __init__(
        self, own: OwnDesk, index: int, peers: Sequence[Peer], parter: RequestParter, owner_of: Callable[[str], int]
    ) -> None:
        self._own = own
        self._index = index
        self._peers = peers
        self._part = parter
        self._owner_of = owner_of

    async def record(self, kind: Request, raw: bytes, turns: Turns | None = None) -> Accounted:
        """See `Desk`. Of what is over a quota nothing that is for the source's partition counts as offered."""
        parted = self._part(kind, raw)
        if parted.violations:
            return Accounted("", (), InvalidError.of(*parted.violations))
        check_own_sources(parted.sources)
        if set(parted.parts) <= {self._index}:
            # Behind the parts of the batch before, which are begun one step later than their batch.
            (accounted,) = await _all([self._own.record(kind, raw, turns)])
            return accounted
        answers = await _all(self._recorded(index, part, turns) for index, part in parted.parts.items())
        results = [ingestion_pb2.InteractionResult()] * parted.size
        for part, answer in zip(parted.parts.values(), answers, strict=True):
            for at, result in zip(part.at, answer, strict=True):
                results[at] = result
        return Accounted(parted.batch_id, results, batch_size_error(parted.size), parted.size)

    async def look_up(self, interaction_id: str, source: str = "") -> partition_pb2.ReadPartInteractionResponse:
        """See `Desk`."""
        if source and is_name(source):
            return await self._peers[self._owner_of(source)].look_up(interaction_id)
        found = await _all(peer.look_up(interaction_id) for peer in self._peers)
        telling = (each for each in found if each.HasField("recorded") or each.waits)
        return max(telling, key=lambda each: each.HasField("recorded"), default=found[0])

    async def register(self, request: partition_pb2.RegisterInPartRequest) -> partition_pb2.RegisterInPartResponse:
        """See `Desk`. One partition after the other: of two who register differently, whoever is first at the first of
        them is first at all. Sent again it goes on where it was broken off.
        """
        first, *others = self._peers
        registered = await first.register(request)
        for peer in others:
            await peer.register(request)
        return registered

    async def registry(self) -> Registry:
        """See `Desk`: it stands in every partition."""
        return await self._own.registry()

    async def quarantine(self, page_size: int, page_token: str) -> ingestion_pb2.ListQuarantineResponse:
        """See `Desk`."""
        size = size_of_page(page_size)
        behind = read_page_token(page_token, len(self._peers))
        pages = await _all(peer.waiting(size, after) for peer, after in zip(self._peers, behind, strict=True))
        rows = list(
            merge(
                *([(row, index) for row in page.interactions] for index, page in enumerate(pages)),
                key=lambda each: each[0].recorded_at,
            )
        )
        for row, index in rows[:size]:
            behind[index] = row.position
        more = len(rows) > size or any(page.next_page_token for page in pages)
        return ingestion_pb2.ListQuarantineResponse(
            interactions=[row for row, _ in rows[:size]], next_page_token=write_page_token(behind) if more else ""
        )

    async def redrive(self, request: ingestion_pb2.RedriveQuarantineRequest) -> ingestion_pb2.RedriveQuarantineResponse:
        """See `Desk`."""
        done = await _all(peer.redrive(request) for peer in self._peers)
        return ingestion_pb2.RedriveQuarantineResponse(
            recorded=sum(each.recorded for each in done),
            duplicate=sum(each.duplicate for each in done),
            conflict=sum(each.conflict for each in done),
            still_quarantined=sum(each.still_quarantined for each in done),
            refused=sum(each.refused for each in done),
        )

    async def tallies(self) -> ingestion_pb2.GetTalliesResponse:
        """See `Desk`: each source is in the account of one partition."""
        accounts = await _all(peer.tallies() for peer in self._peers)
        lines = [line for account in accounts for line in account.tallies]
        return ingestion_pb2.GetTalliesResponse(tallies=sorted(lines, key=lambda line: line.source))

    async def _recorded(self, index: int, part: Part, turns: Turns | None) -> Sequence[ingestion_pb2.InteractionResult]:
        if index == self._index:
            return (await self._own.record(Request.PART, part.raw, turns)).results
        if turns is None:
            return await self._peers[index].record_part(part.raw)
        async with turns.at(index):
            return await self._peers[index].record_part(part.raw)


class PartitionServicer(partition_pb2_grpc.PartitionServiceServicer):
    """Serves the other partitions from this one's own log; `meant` is what their calls must say in the metadata.

    Each method raises PreconditionError PARTITION_MISMATCH where a call says something else.
    """

    def __init__(self, desk: OwnDesk, meant: str) -> None:
        self._desk = desk
        self._meant = meant

    async def RecordPart(  # noqa: N802 # pyright: ignore[reportIncompatibleMethodOverride] -- named by the contract, read by `_add`
        self, request: bytes, context: ServicerContext
    ) -> partition_pb2.RecordPartResponse:
        """Records what of a request is of this partition's sources. Raises: ExhaustedError QUOTA_EXCEEDED."""
        self._check(context)
        return partition_pb2.RecordPartResponse(results=await self._desk.record_part(request))

    async def ReadPartInteraction(  # noqa: N802 -- named by the contract
        self, request: partition_pb2.ReadPartInteractionRequest, context: ServicerContext
    ) -> partition_pb2.ReadPartInteractionResponse:
        """One interaction as it is kept here. Raises: InvalidError."""
        self._check(context)
        return await self._desk.look_up(interaction_asked_for(request.interaction_id, "", ""))

    async def RegisterInPart(  # noqa: N802 -- named by the contract
        self, request: partition_pb2.RegisterInPartRequest, context: ServicerContext
    ) -> partition_pb2.RegisterInPartResponse:
        """Registers a channel or a source here. Raises: InvalidError; PreconditionError."""
        self._check(context)
        return await self._desk.register(request)

    async def ListPartQuarantine(  # noqa: N802 -- named by the contract
        self, request: partition_pb2.ListPartQuarantineRequest, context: ServicerContext
    ) -> partition_pb2.ListPartQuarantineResponse:
        """What waits here, behind a position."""
        self._check(context)
        return partition_pb2.ListPartQuarantineResponse(page=await self._desk.waiting(request.page_size, request.after))

    async def RedrivePart(  # noqa: N802 -- named by the contract
        self, request: partition_pb2.RedrivePartRequest, context: ServicerContext
    ) -> partition_pb2.RedrivePartResponse:
        """Offers what waits here again. Raises: InvalidError."""
        self._check(context)
        return partition_pb2.RedrivePartResponse(redriven=await self._desk.redrive(request.redrive))

    async def GetPartTallies(  # noqa: N802 -- named by the contract
        self, request: partition_pb2.GetPartTalliesRequest, context: ServicerContext
    ) -> partition_pb2.GetPartTalliesResponse:
        """The account of this partition's sources."""
        self._check(context)
        return partition_pb2.GetPartTalliesResponse(tallies=await self._desk.tallies())

    def _check(self, context: ServicerContext) -> None:
        """Positions and duplicates are a partition's own: what is meant for another must not be decided here."""
        meant = dict(context.invocation_metadata() or ()).get(MEANT_KEY, "")
        if meant != self._meant:
            raise PreconditionError(
                "PARTITION_MISMATCH",
                f"this is partition {self._meant} of ingestion, and metadata[{MEANT_KEY}] is {meant or 'not given'}: "
                "send it again when all are told the same THROUGHLINE_PARTITIONS and THROUGHLINE_INGESTION_PEERS",
                {"partition": self._meant, "meant": str(meant)},
            )


def hosted_partition(servicer: PartitionServicer) -> Hosted[PartitionServicer]:
    """The servicer, ready to be hosted. As IngestionService it reads offers itself."""
    recording = grpc.unary_unary_rpc_method_handler(
        servicer.RecordPart, as_it_came, partition_pb2.RecordPartResponse.SerializeToString
    )
    add = partition_pb2_grpc.add_PartitionServiceServicer_to_server
    return hosted_reading_itself(NAME, servicer, add, {"RecordPart": recording})


async def _all(asked: Iterable[Awaitable[R]]) -> list[R]:
    """All answers, in order. Where one fails the others are waited for all the same: what they decide is decided."""
    answers = await asyncio.gather(*asked, return_exceptions=True)
    given: list[R] = []
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
        given.append(answer)
    return given
