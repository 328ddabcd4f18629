"""`throughline.ingestion.v1.IngestionService`: translates in, calls, translates out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio

from ingestion.application.ports import Request, Result, Seal, SealedBox, Turns
from ingestion.application.queries import interaction_asked_for, interaction_not_found
from ingestion.application.streaming import answered_in_order
from ingestion.domain.accounting import Verdict
from ingestion.entrypoints.desk import Desk, write_channel, write_result, write_source
from ingestion.entrypoints.handlers import as_it_came, hosted_reading_itself
from throughline.ingestion.v1 import events_pb2, ingestion_pb2, ingestion_pb2_grpc, interaction_pb2, partition_pb2
from throughline_kernel import InvalidError, NotFoundError, Violation
from throughline_rpc import Hosted

ServicerContext: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

NAME: Final = ingestion_pb2.DESCRIPTOR.services_by_name["IngestionService"].full_name
BATCH_METHODS: Final = ("RecordInteractions", "StreamInteractions")


class IngestionServicer(ingestion_pb2_grpc.IngestionServiceServicer):
    """Serves channel systems and those who look after them."""

    def __init__(self, desk: Desk, seal: Seal) -> None:
        self._desk = desk
        self._seal = seal

    async def RecordInteraction(  # noqa: N802 # pyright: ignore[reportIncompatibleMethodOverride] -- named by the contract, read by `_add`
        self, request: bytes, context: ServicerContext
    ) -> ingestion_pb2.RecordInteractionResponse:
        """Records one. Raises: InvalidError where it breaks a rule; it is accounted for as refused all the same;
        ExhaustedError QUOTA_EXCEEDED.
        """
        (result,) = await self._recorded(Request.SINGLE, request)
        if result.verdict == Verdict.REFUSED:
            raise InvalidError.of(
                *(Violation(each.field, each.rule, each.remedy, each.reason) for each in result.violations)
            )
        return ingestion_pb2.RecordInteractionResponse(result=result)

    async def RecordInteractions(  # noqa: N802 # pyright: ignore[reportIncompatibleMethodOverride] -- named by the contract, read by `_add`
        self, request: bytes, context: ServicerContext
    ) -> ingestion_pb2.RecordInteractionsResponse:
        """Records a batch. Raises: InvalidError BATCH_SIZE_INVALID, its events are accounted for as refused;
        ExhaustedError QUOTA_EXCEEDED, nothing of it was offered.
        """
        return ingestion_pb2.RecordInteractionsResponse(results=await self._recorded(Request.BATCH, request))

    async def StreamInteractions(  # noqa: N802 # pyright: ignore[reportIncompatibleMethodOverride] -- named by the contract, read by `_add`
        self, requests: AsyncIterator[bytes], context: ServicerContext
    ) -> AsyncGenerator[ingestion_pb2.StreamInteractionsResponse]:
        """Records batches as they come. A batch that is refused whole is answered so, and the stream goes on; at one
        that is over a quota it ends.

        Raises: ExhaustedError QUOTA_EXCEEDED, once everything before has been answered.
        """
        turns = Turns()
        async with aclosing(answered_in_order(requests, lambda raw: self._answered(raw, turns))) as answers:
            async for answer in answers:
                yield answer

    async def GetInteraction(  # noqa: N802 -- named by the contract
        self, request: ingestion_pb2.GetInteractionRequest, context: ServicerContext
    ) -> ingestion_pb2.GetInteractionResponse:
        """One interaction with what of it may be opened, and the conflicts kept beside it.

        Raises: InvalidError; NotFoundError INTERACTION_NOT_FOUND.
        """
        interaction_id = interaction_asked_for(request.interaction_id, request.source, request.source_interaction_id)
        found = await self._desk.look_up(interaction_id, "" if request.interaction_id else request.source)
        if not found.HasField("recorded"):
            raise interaction_not_found(interaction_id, found.waits)
        recorded = events_pb2.InteractionRecorded.FromString(found.recorded.payload)
        conflicts = [events_pb2.InteractionConflicted.FromString(event.payload) for event in found.conflicts]
        personal, *others = await self._opened([recorded.personal, *(each.personal for each in conflicts)])
        return ingestion_pb2.GetInteractionResponse(
            facts=recorded.facts,
            personal=personal,
            forgotten=personal is None,
            position=found.recorded.position,
            recorded_at=found.recorded.recorded_at,
            conflicts=[
                ingestion_pb2.ConflictingVersion(
                    facts=conflict.facts,
                    personal=values,
                    position=event.position,
                    recorded_at=event.recorded_at,
                )
                for conflict, event, values in zip(conflicts, found.conflicts, others, strict=True)
            ],
        )

    async def RegisterChannel(  # noqa: N802 -- named by the contract
        self, request: ingestion_pb2.RegisterChannelRequest, context: ServicerContext
    ) -> ingestion_pb2.RegisterChannelResponse:
        """Makes a channel known. Raises: InvalidError; PreconditionError CHANNEL_CONFLICT."""
        return (await self._desk.register(partition_pb2.RegisterInPartRequest(channel=request))).channel

    async def ListChannels(  # noqa: N802 -- named by the contract
        self, request: ingestion_pb2.ListChannelsRequest, context: ServicerContext
    ) -> ingestion_pb2.ListChannelsResponse:
        """Every channel, by name."""
        channels = (await self._desk.registry()).channels
        return ingestion_pb2.ListChannelsResponse(
            channels=[write_channel(channel, channels[channel]) for channel in sorted(channels)]
        )

    async def RegisterSource(  # noqa: N802 -- named by the contract
        self, request: ingestion_pb2.RegisterSourceRequest, context: ServicerContext
    ) -> ingestion_pb2.RegisterSourceResponse:
        """Makes a source known. Raises: InvalidError; PreconditionError SOURCE_CONFLICT."""
        return (await self._desk.register(partition_pb2.RegisterInPartRequest(source=request))).source

    async def ListSources(  # noqa: N802 -- named by the contract
        self, request: ingestion_pb2.ListSourcesRequest, context: ServicerContext
    ) -> ingestion_pb2.ListSourcesResponse:
        """Every source, by name."""
        sources = (await self._desk.registry()).sources
        return ingestion_pb2.ListSourcesResponse(sources=[write_source(sources[source]) for source in sorted(sources)])

    async def ListQuarantine(  # noqa: N802 -- named by the contract
        self, request: ingestion_pb2.ListQuarantineRequest, context: ServicerContext
    ) -> ingestion_pb2.ListQuarantineResponse:
        """A page of what waits, oldest first. Raises: InvalidError."""
        return await self._desk.quarantine(request.page_size, request.page_token)

    async def RedriveQuarantine(  # noqa: N802 -- named by the contract
        self, request: ingestion_pb2.RedriveQuarantineRequest, context: ServicerContext
    ) -> ingestion_pb2.RedriveQuarantineResponse:
        """Offers what waits again. Raises: InvalidError; NotFoundError QUARANTINE_NOT_FOUND."""
        done = await self._desk.redrive(request)
        if request.interaction_id and not any(count for _, count in done.ListFields()):
            raise NotFoundError(
                "QUARANTINE_NOT_FOUND",
                f"nothing waits in quarantine under interaction {request.interaction_id}; see ListQuarantine",
                {"interaction_id": request.interaction_id},
            )
        return done

    async def GetTallies(  # noqa: N802 -- named by the contract
        self, request: ingestion_pb2.GetTalliesRequest, context: ServicerContext
    ) -> ingestion_pb2.GetTalliesResponse:
        """What each source offered and what became of it, by source."""
        return await self._desk.tallies()

    async def _recorded(self, kind: Request, raw: bytes) -> Sequence[ingestion_pb2.InteractionResult]:
        accounted = await self._desk.record(kind, raw)
        if accounted.refused is not None:
            raise accounted.refused
        return accounted.results

    async def _answered(self, request: bytes, turns: Turns) -> ingestion_pb2.StreamInteractionsResponse:
        accounted = await self._desk.record(Request.STREAMED, request, turns)
        results = accounted.results
        if accounted.refused is not None:
            refused = write_result(Result(Verdict.REFUSED, "", 0, accounted.refused.violations))
            results = [refused] * max(accounted.size, 1)
        return ingestion_pb2.StreamInteractionsResponse(batch_id=accounted.batch_id, results=results)

    async def _opened(self, sealed: list[interaction_pb2.Sealed]) -> list[interaction_pb2.PersonalValues | None]:
        """The personal values of each, empty where it had none, None where the person was forgotten."""
        boxes = [SealedBox(each.key_id, each.box) for each in sealed if each.box]
        opened = iter(await asyncio.to_thread(self._seal.open, boxes))
        values: list[interaction_pb2.PersonalValues | None] = []
        for each in sealed:
            plain = next(opened) if each.box else b""
            values.append(None if plain is None else interaction_pb2.PersonalValues.FromString(plain))
        return values


def hosted(servicer: IngestionServicer) -> Hosted[IngestionServicer]:
    """The servicer, ready to be hosted. It reads offers itself: an event that cannot be decoded harms no other."""
    own = {
        "RecordInteraction": grpc.unary_unary_rpc_method_handler(
            servicer.RecordInteraction,
            as_it_came,
            ingestion_pb2.RecordInteractionResponse.SerializeToString,
        ),
        "RecordInteractions": grpc.unary_unary_rpc_method_handler(
            servicer.RecordInteractions,
            as_it_came,
            ingestion_pb2.RecordInteractionsResponse.SerializeToString,
        ),
        "StreamInteractions": grpc.stream_stream_rpc_method_handler(
            servicer.StreamInteractions,
            as_it_came,
            ingestion_pb2.StreamInteractionsResponse.SerializeToString,
        ),
    }
    return hosted_reading_itself(NAME, servicer, ingestion_pb2_grpc.add_IngestionServiceServicer_to_server, own)
