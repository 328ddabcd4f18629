"""Journey: where each client is, and what the next channel must know."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import grpc.aio

from throughline.ingestion.v1 import interaction_pb2
from throughline.journey.v1 import definitions_pb2, journey_pb2, journey_pb2_grpc
from throughline_client.sdk.calling import call, interval_message, listen
from throughline_kernel import ALWAYS, Interval


class JourneyClient:
    """Calls journey. Every method raises RemoteRefusal where the call fails."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.stub = journey_pb2_grpc.JourneyServiceStub(channel)

    async def context(
        self,
        client_id: str = "",
        *,
        channel: str,
        identifiers: Sequence[interaction_pb2.Identifier] = (),
        compact: bool = False,
        as_of: int = 0,
    ) -> journey_pb2.ResumeContextResponse:
        """What the channel that asks should know about this client now, or should have known at `as_of` (microseconds);
        sealed answers stay empty.
        """
        form = journey_pb2.CONTEXT_FORM_COMPACT if compact else journey_pb2.CONTEXT_FORM_FULL
        request = journey_pb2.ResumeContextRequest(
            client_id=client_id, identifiers=identifiers, channel=channel, form=form, as_of=as_of
        )
        return await call(self.stub.ResumeContext, request)

    async def timeline_pages(
        self, client_id: str, *, as_of: int = 0, between: Interval = ALWAYS, page_size: int = 500
    ) -> AsyncIterator[journey_pb2.GetTimelineResponse]:
        """The client's history page by page, all of the same instant, which each page names in `as_of`."""
        request = journey_pb2.GetTimelineRequest(
            client_id=client_id, as_of=as_of, between=interval_message(between), page_size=page_size
        )
        while True:
            page = await call(self.stub.GetTimeline, request)
            yield page
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def timeline(
        self, client_id: str, *, as_of: int = 0, between: Interval = ALWAYS, page_size: int = 500
    ) -> AsyncIterator[journey_pb2.TimelineEntry]:
        """The client's history over all channels, oldest first: as it was known at `as_of` (microseconds, 0: now), and
        what of it happened in an interval.
        """
        async for page in self.timeline_pages(client_id, as_of=as_of, between=between, page_size=page_size):
            for entry in page.entries:
                yield entry

    async def watch(self, client_id: str, *, after_position: int = 0) -> AsyncIterator[journey_pb2.TimelineEntry]:
        """Each new entry of the client's history as it is noted, after a replay from a position (0: from now on); those
        that the client's consents forbid are passed over.
        """
        request = journey_pb2.WatchClientRequest(client_id=client_id, after_position=after_position)
        async for response in listen(self.stub.WatchClient, request):
            if response.HasField("entry"):
                yield response.entry

    async def offer_handoff(
        self,
        client_id: str,
        *,
        from_channel: str,
        to_channel: str,
        note: str = "",
        valid_for: int = 0,
        journey_id: str = "",
    ) -> journey_pb2.OfferHandoffResponse:
        """Offers the client to another channel; the token is told once and works once."""
        request = journey_pb2.OfferHandoffRequest(
            client_id=client_id,
            from_channel=from_channel,
            to_channel=to_channel,
            note=note,
            valid_for=valid_for,
            journey_id=journey_id,
        )
        return await call(self.stub.OfferHandoff, request)

    async def accept_handoff(
        self, token: str, *, channel: str, accepted_by: str = ""
    ) -> journey_pb2.AcceptHandoffResponse:
        """Takes a client over, with all that the channel should know."""
        request = journey_pb2.AcceptHandoffRequest(token=token, channel=channel, accepted_by=accepted_by)
        return await call(self.stub.AcceptHandoff, request)

    async def define(
        self, definition: definitions_pb2.JourneyDefinition, *, defined_by: str
    ) -> journey_pb2.DefineJourneyResponse:
        """Publishes a journey; all history is told again under it before this returns."""
        request = journey_pb2.DefineJourneyRequest(definition=definition, defined_by=defined_by)
        return await call(self.stub.DefineJourney, request, timeout=None)

    async def journeys(self, *, as_of: int = 0) -> list[definitions_pb2.JourneyDefinition]:
        """The journeys that are defined, or were at `as_of` (microseconds)."""
        return list((await call(self.stub.ListJourneys, journey_pb2.ListJourneysRequest(as_of=as_of))).definitions)

    async def variants(
        self, journey: str = "", *, top: int = 0, as_of: int = 0, between: Interval = ALWAYS
    ) -> journey_pb2.GetVariantsResponse:
        """Channel sequences, counted exactly; of one journey, or of whole histories. As it was known at `as_of`
        (microseconds, 0: now), and of an interval: journeys that were started in it, and what of histories lies in it.
        """
        request = journey_pb2.GetVariantsRequest(
            journey=journey, top=top, as_of=as_of, between=interval_message(between)
        )
        return await call(self.stub.GetVariants, request)

    async def stats(
        self, journey: str, *, as_of: int = 0, between: Interval = ALWAYS
    ) -> journey_pb2.GetJourneyStatsResponse:
        """Started, open, completed, abandoned, by stage; as it was known at `as_of` (microseconds, 0: now), and of what
        was started in an interval.
        """
        request = journey_pb2.GetJourneyStatsRequest(journey=journey, as_of=as_of, between=interval_message(between))
        return await call(self.stub.GetJourneyStats, request)
