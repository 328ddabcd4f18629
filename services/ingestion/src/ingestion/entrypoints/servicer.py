"""`throughline.ingestion.v1.IngestionService`: translates in, calls, translates out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio

from ingestion.application.messages import write_tally, write_traits
from ingestion.application.ports import Quarantined, Request, RequestRead, RequestReader, Result, Seal, SealedBox
from ingestion.application.queries import Queries
from ingestion.application.quotas import Quotas
from ingestion.application.recording import RecordOffers
from ingestion.application.redriving import Redrive, RedriveQuarantine
from ingestion.application.registering import Register
from ingestion.application.streaming import answered_in_order
from ingestion.domain.accounting import Verdict
from ingestion.domain.deciding import batch_size_error
from ingestion.domain.registry import ChannelTraits, RegisterChannel, RegisterSource, Source
from throughline.ingestion.v1 import events_pb2, ingestion_pb2, ingestion_pb2_grpc, interaction_pb2
from throughline_eventlog import Writer
from throughline_kernel import InvalidError, Violation, is_hex_id
from throughline_rpc import Hosted, check_own_sources
from throughline_telemetry import current_traceparent, metrics

ServicerContext: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

NAME: Final = ingestion_pb2.DESCRIPTOR.services_by_name["IngestionService"].full_name
BATCH_METHODS: Final = ("RecordInteractions", "StreamInteractions")


class IngestionServicer(ingestion_pb2_grpc.IngestionServiceServicer):
    """Serves channel systems and those who look after them."""

    def __init__(
        self,
        writer: Writer,
        *,
        reader: RequestReader,
        record: RecordOffers,
        register: Register,
        redrive: Redrive,
        queries: Queries,
        seal: Seal,
        quotas: Quotas,
    ) -> None:
        self._writer = writer
        self._reader = reader
        self._record = record
        self._register = register
        self._redrive = redrive
        self._queries = queries
        self._seal = seal
        self._quotas = quotas

    async def RecordInteraction(  # noqa: N802 # pyright: ignore[reportIncompatibleMethodOverride] -- named by the contract, read by `_add`
        self, request: bytes, context: ServicerContext
    ) -> ingestion_pb2.RecordInteractionResponse:
        """Records one. Raises: InvalidError where it breaks a rule; it is accounted for as refused all the same;
        ExhaustedError QUOTA_EXCEEDED.
        """
        (result,) = await self._recorded(await self._read(Request.SINGLE, request))
        if result.verdict == Verdict.REFUSED:
            raise InvalidError.of(*result.violations)
        return ingestion_pb2.RecordInteractionResponse(result=write_result(result))

    async def RecordInteractions(  # noqa: N802 # pyright: ignore[reportIncompatibleMethodOverride] -- named by the contract, read by `_add`
        self, request: bytes, context: ServicerContext
    ) -> ingestion_pb2.RecordInteractionsResponse:
        """Records a batch. Raises: InvalidError BATCH_SIZE_INVALID, its events are accounted for as refused;
        ExhaustedError QUOTA_EXCEEDED, nothing of it was offered.
        """
        results = await self._recorded(await self._read(Request.BATCH, request))
        return ingestion_pb2.RecordInteractionsResponse(results=list(map(write_result, results)))

    async def StreamInteractions(  # noqa: N802 # pyright: ignore[reportIncompatibleMethodOverride] -- named by the contract, read by `_add`
        self, requests: AsyncIterator[bytes], context: ServicerContext
    ) -> AsyncGenerator[ingestion_pb2.StreamInteractionsResponse]:
        """Records batches as they come. A batch that is refused whole is answered so, and the stream goes on; at one
        that is over a quota it ends.

        Raises: ExhaustedError QUOTA_EXCEEDED, once everything before has been answered.
        """
        async with aclosing(answered_in_order(requests, self._answered)) as answers:
            async for answer in answers:
                yield answer

    async def GetInteraction(  # noqa: N802 -- named by the contract
        self, request: ingestion_pb2.GetInteractionRequest, context: ServicerContext
    ) -> ingestion_pb2.GetInteractionResponse:
        """One interaction with what of it may be opened, and the conflicts kept beside it."""
        found = await self._queries.interaction(request.interaction_id, request.source, request.source_interaction_id)
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
        traits = request.traits
        registered = await self._writer.submit(
            self._register,
            RegisterChannel(
                request.channel,
                ChannelTraits(traits.name, traits.physical, traits.assisted, traits.group),
                request.replace,
            ),
            traceparent=current_traceparent(),
        )
        return ingestion_pb2.RegisterChannelResponse(
            channel=_channel(request.channel, registered.registry.channels[request.channel]),
            created=registered.created,
        )

    async def ListChannels(  # noqa: N802 -- named by the contract
        self, request: ingestion_pb2.ListChannelsRequest, context: ServicerContext
    ) -> ingestion_pb2.ListChannelsResponse:
        """Every channel, by name."""
        registry = await self._queries.registry()
        return ingestion_pb2.ListChannelsResponse(
            channels=[_channel(channel, registry.channels[channel]) for channel in sorted(registry.channels)]
        )

    async def RegisterSource(  # noqa: N802 -- named by the contract
        self, request: ingestion_pb2.RegisterSourceRequest, context: ServicerContext
    ) -> ingestion_pb2.RegisterSourceResponse:
        """Makes a source known. Raises: InvalidError; PreconditionError SOURCE_CONFLICT."""
        registered = await self._writer.submit(
            self._register,
            RegisterSource(request.source, request.name, tuple(request.channels), request.replace),
            traceparent=current_traceparent(),
        )
        return ingestion_pb2.RegisterSourceResponse(
            source=_source(registered.registry.sources[request.source]), created=registered.created
        )

    async def ListSources(  # noqa: N802 -- named by the contract
        self, request: ingestion_pb2.ListSourcesRequest, context: ServicerContext
    ) -> ingestion_pb2.ListSourcesResponse:
        """Every source, by name."""
        registry = await self._queries.registry()
        return ingestion_pb2.ListSourcesResponse(
            sources=[_source(registry.sources[source]) for source in sorted(registry.sources)]
        )

    async def ListQuarantine(  # noqa: N802 -- named by the contract
        self, request: ingestion_pb2.ListQuarantineRequest, context: ServicerContext
    ) -> ingestion_pb2.ListQuarantineResponse:
        """A page of what waits, oldest first."""
        page = await self._queries.quarantine(request.page_size, request.page_token)
        return ingestion_pb2.ListQuarantineResponse(
            interactions=[_quarantined(each) for each in page.waiting], next_page_token=page.next_page_token
        )

    async def RedriveQuarantine(  # noqa: N802 -- named by the contract
        self, request: ingestion_pb2.RedriveQuarantineRequest, context: ServicerContext
    ) -> ingestion_pb2.RedriveQuarantineResponse:
        """Offers what waits again. Raises: InvalidError; NotFoundError QUARANTINE_NOT_FOUND."""
        if request.interaction_id and not is_hex_id(request.interaction_id):
            remedy = "copy it from ListQuarantine"
            raise InvalidError.of(Violation("interaction_id", "32 lower-case hex digits", remedy))
        done = await self._redrive(
            RedriveQuarantine(request.interaction_id, request.channel, request.reason), current_traceparent()
        )
        return ingestion_pb2.RedriveQuarantineResponse(
            recorded=done.recorded,
            duplicate=done.duplicate,
            conflict=done.conflict,
            still_quarantined=done.still_quarantined,
            refused=done.refused,
        )

    async def GetTallies(  # noqa: N802 -- named by the contract
        self, request: ingestion_pb2.GetTalliesRequest, context: ServicerContext
    ) -> ingestion_pb2.GetTalliesResponse:
        """What each source offered and what became of it, by source."""
        accounts, position = await self._queries.accounts()
        return ingestion_pb2.GetTalliesResponse(
            tallies=[write_tally(source, accounts[source].tally) for source in sorted(accounts)], position=position
        )

    async def _read(self, kind: Request, raw: bytes, *, in_turn: bool = False) -> RequestRead:
        """Reads a request, holds the caller to their own sources, and takes it from the sources' quotas.

        Raises: InvalidError where it is no message of the contract; ForbiddenError where it reports for a source that
        is not the caller's, ExhaustedError where a source offers too much: then nothing of it counts as offered.
        """
        read = await self._reader.read(kind, raw, in_turn=in_turn)
        if read.violations:
            raise InvalidError.of(*read.violations)
        check_own_sources(offer.source for offer in read.offers if offer.source)
        self._quotas.take(read.offers, len(raw))
        return read

    async def _recorded(self, read: RequestRead) -> list[Result]:
        """Records what was read; a batch of the wrong size is counted as refused, and raises."""
        offers = read.offers
        answer = await self._writer.submit(
            self._record, offers, weight=max(len(offers), 1), traceparent=current_traceparent()
        )
        for source, tally in answer.tallies.items():
            for verdict, count in tally.by_verdict():
                metrics.OFFERS.labels(source, verdict).inc(count)
        wrong = batch_size_error(len(offers))
        if wrong is not None:
            raise wrong
        return answer.results

    async def _answered(self, request: bytes) -> ingestion_pb2.StreamInteractionsResponse:
        read = RequestRead("", [])
        try:
            read = await self._read(Request.STREAMED, request, in_turn=True)
            results = await self._recorded(read)
        except InvalidError as refusal:
            refused = write_result(Result(Verdict.REFUSED, "", 0, refusal.violations))
            size = max(len(read.offers), 1)
            return ingestion_pb2.StreamInteractionsResponse(batch_id=read.batch_id, results=[refused] * size)
        return ingestion_pb2.StreamInteractionsResponse(
            batch_id=read.batch_id, results=list(map(write_result, results))
        )

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
    return Hosted(NAME, _add, servicer)


def _add(servicer: IngestionServicer, server: grpc.aio.Server) -> None:
    own = {
        "RecordInteraction": grpc.unary_unary_rpc_method_handler(
            servicer.RecordInteraction,
            _as_it_came,
            ingestion_pb2.RecordInteractionResponse.SerializeToString,
        ),
        "RecordInteractions": grpc.unary_unary_rpc_method_handler(
            servicer.RecordInteractions,
            _as_it_came,
            ingestion_pb2.RecordInteractionsResponse.SerializeToString,
        ),
        "StreamInteractions": grpc.stream_stream_rpc_method_handler(
            servicer.StreamInteractions,
            _as_it_came,
            ingestion_pb2.StreamInteractionsResponse.SerializeToString,
        ),
    }
    # Of handlers by name the last counts, of generic ones the first; which are asked depends on the version of gRPC.
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(NAME, own),))
    ingestion_pb2_grpc.add_IngestionServiceServicer_to_server(servicer, server)
    server.add_registered_method_handlers(NAME, own)


def _as_it_came(raw: bytes) -> bytes:
    return raw


_VERDICTS: Final[Mapping[int, events_pb2.Verdict.ValueType]] = {
    number: number for number in events_pb2.Verdict.values()
}


def write_result(result: Result) -> ingestion_pb2.InteractionResult:
    """The answer to one offer."""
    verdict, interaction_id, position, violations = result
    message = ingestion_pb2.InteractionResult(
        verdict=_VERDICTS[verdict], interaction_id=interaction_id, position=position
    )
    for violation in violations:
        message.violations.add(
            field=violation.field, rule=violation.rule, remedy=violation.remedy, reason=violation.reason
        )
    return message


def _channel(channel: str, traits: ChannelTraits) -> ingestion_pb2.Channel:
    return ingestion_pb2.Channel(channel=channel, traits=write_traits(traits))


def _source(source: Source) -> ingestion_pb2.Source:
    return ingestion_pb2.Source(source=source.source, name=source.name, channels=source.channels)


def _quarantined(waiting: Quarantined) -> ingestion_pb2.QuarantinedInteraction:
    return ingestion_pb2.QuarantinedInteraction(
        interaction_id=waiting.interaction_id,
        source=waiting.source,
        source_interaction_id=waiting.source_interaction_id,
        channel=waiting.channel,
        reason=waiting.reason,
        remedy=waiting.remedy,
        occurred_at=waiting.occurred_at,
        recorded_at=waiting.recorded_at,
        position=waiting.position,
    )
