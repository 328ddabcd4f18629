"""Ingestion: what channel systems report, the registry, the quarantine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence

import grpc.aio

from throughline.eventlog.v1 import eventlog_pb2
from throughline.ingestion.v1 import ingestion_pb2, ingestion_pb2_grpc, interaction_pb2
from throughline_client.sdk.calling import call, pages
from throughline_client.sdk.recording import (
    BATCH,
    IN_FLIGHT,
    Answered,
    Interactions,
    Pauses,
    Verdicts,
    in_batches,
    is_retryable,
    offer_batches,
)
from throughline_rpc import RemoteRefusal


class IngestionClient:
    """Calls ingestion. Every method raises RemoteRefusal where the call fails."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.stub = ingestion_pb2_grpc.IngestionServiceStub(channel)

    async def record(
        self, interaction: interaction_pb2.Interaction, *, patience: float | None = 30.0
    ) -> ingestion_pb2.InteractionResult:
        """Records one interaction; durable when this returns. Retried while ingestion is away, for `patience` seconds
        (None: for ever), which is safe: the source's own id makes a repeat a duplicate.
        """
        request = ingestion_pb2.RecordInteractionRequest(interaction=interaction)
        pauses = Pauses()
        waited = 0.0
        while True:
            try:
                return (await call(self.stub.RecordInteraction, request)).result
            except RemoteRefusal as refusal:
                if not is_retryable(refusal) or (patience is not None and waited >= patience):
                    raise
                waited += await pauses.wait(refusal)

    def record_batches(
        self,
        batches: Iterable[Interactions],
        *,
        in_flight: int = IN_FLIGHT,
        patience: float | None = None,
        interrupted: Callable[[RemoteRefusal], None] | None = None,
    ) -> AsyncIterator[Answered]:
        """Offers batches over one stream; see `offer_batches`."""
        return offer_batches(self.stub, batches, in_flight=in_flight, patience=patience, interrupted=interrupted)

    async def record_many(
        self,
        interactions: Iterable[interaction_pb2.Interaction],
        *,
        batch: int = BATCH,
        in_flight: int = IN_FLIGHT,
        patience: float | None = None,
    ) -> Verdicts:
        """Records any number of interactions and counts what became of them; repeating it counts nothing twice."""
        verdicts = Verdicts()
        batches = in_batches(interactions, batch)
        async for answered in self.record_batches(batches, in_flight=in_flight, patience=patience):
            verdicts.add(answered.results)
        return verdicts

    async def interaction(
        self, interaction_id: str = "", *, source: str = "", source_interaction_id: str = ""
    ) -> ingestion_pb2.GetInteractionResponse:
        """One interaction with its personal values, by its id or by its source's own id."""
        return await call(
            self.stub.GetInteraction,
            ingestion_pb2.GetInteractionRequest(
                interaction_id=interaction_id, source=source, source_interaction_id=source_interaction_id
            ),
        )

    async def register_channel(
        self, channel: str, traits: interaction_pb2.ChannelTraits, *, replace: bool = False
    ) -> ingestion_pb2.RegisterChannelResponse:
        """Registers a channel; other traits than the registered ones need `replace`."""
        request = ingestion_pb2.RegisterChannelRequest(channel=channel, traits=traits, replace=replace)
        return await call(self.stub.RegisterChannel, request)

    async def register_source(
        self, source: str, name: str, channels: Sequence[str] = (), *, replace: bool = False
    ) -> ingestion_pb2.RegisterSourceResponse:
        """Registers a source and the channels that it may report (none: any)."""
        request = ingestion_pb2.RegisterSourceRequest(source=source, name=name, channels=channels, replace=replace)
        return await call(self.stub.RegisterSource, request)

    async def channels(self) -> list[ingestion_pb2.Channel]:
        """The registered channels."""
        return list((await call(self.stub.ListChannels, ingestion_pb2.ListChannelsRequest())).channels)

    async def sources(self) -> list[ingestion_pb2.Source]:
        """The registered sources."""
        return list((await call(self.stub.ListSources, ingestion_pb2.ListSourcesRequest())).sources)

    async def tallies(self) -> list[eventlog_pb2.Tally]:
        """What each source offered and what became of it."""
        return list((await call(self.stub.GetTallies, ingestion_pb2.GetTalliesRequest())).tallies)

    def quarantine(self, page_size: int = 500) -> AsyncIterator[ingestion_pb2.QuarantinedInteraction]:
        """What waits in quarantine, oldest first."""

        async def fetch(token: str) -> tuple[list[ingestion_pb2.QuarantinedInteraction], str]:
            request = ingestion_pb2.ListQuarantineRequest(page_size=page_size, page_token=token)
            page = await call(self.stub.ListQuarantine, request)
            return list(page.interactions), page.next_page_token

        return pages(fetch)

    async def redrive(
        self, *, interaction_id: str = "", channel: str = "", reason: str = ""
    ) -> ingestion_pb2.RedriveQuarantineResponse:
        """Offers again what waits in quarantine: everything, or what matches."""
        request = ingestion_pb2.RedriveQuarantineRequest(interaction_id=interaction_id, channel=channel, reason=reason)
        return await call(self.stub.RedriveQuarantine, request, timeout=None)
