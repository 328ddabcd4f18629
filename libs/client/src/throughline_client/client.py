"""`Throughline`: one client for the five services."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc
import grpc.aio
from google.protobuf.descriptor import ServiceDescriptor

from throughline.accesslog.v1 import accesslog_pb2
from throughline.eventlog.v1 import eventlog_pb2
from throughline.feedback.v1 import feedback_pb2
from throughline.identity.v1 import identity_pb2
from throughline.ingestion.v1 import ingestion_pb2, interaction_pb2
from throughline.journey.v1 import journey_pb2
from throughline.proof.v1 import proof_pb2
from throughline.scoring.v1 import scoring_pb2
from throughline_client.endpoints import Endpoints
from throughline_client.sdk.access import IDS_AT_ONCE, AccessLogClient
from throughline_client.sdk.feedback import FeedbackClient
from throughline_client.sdk.identity import IdentityClient
from throughline_client.sdk.ingestion import IngestionClient
from throughline_client.sdk.journey import JourneyClient
from throughline_client.sdk.logs import LogClient
from throughline_client.sdk.proofs import AccessProofClient, ProofClient
from throughline_client.sdk.recording import Verdicts
from throughline_client.sdk.scoring import ScoringClient
from throughline_client.sdk.settling import Behind, behind
from throughline_eventlog.partitions import service_of
from throughline_kernel import ALWAYS, Interval
from throughline_rpc import EVERYBODY, LOG_KEY, Caller, CallerCredentials, RemoteRefusal, open_channel

# Served by each of them beside its own.
_BY_ALL: Sequence[ServiceDescriptor] = (
    eventlog_pb2.DESCRIPTOR.services_by_name["EventLogService"],
    proof_pb2.DESCRIPTOR.services_by_name["ProofService"],
    accesslog_pb2.DESCRIPTOR.services_by_name["AccessLogService"],
    proof_pb2.DESCRIPTOR.services_by_name["AccessProofService"],
)
_DESCRIPTORS: Mapping[str, ServiceDescriptor] = {
    "ingestion": ingestion_pb2.DESCRIPTOR.services_by_name["IngestionService"],
    "identity": identity_pb2.DESCRIPTOR.services_by_name["IdentityService"],
    "journey": journey_pb2.DESCRIPTOR.services_by_name["JourneyService"],
    "feedback": feedback_pb2.DESCRIPTOR.services_by_name["FeedbackService"],
    "scoring": scoring_pb2.DESCRIPTOR.services_by_name["ScoringService"],
}
# Sealed answers are read from ingestion this many at a time.
_READS = 16
# Seconds between two looks at how far everyone is.
_LOOK_AGAIN = 0.1


class Throughline:
    """Talks to the five services; use it in an `async with`, or close it.

    Addresses and credentials are found as `Endpoints.find` says. Channels open on first use, so that a client for one
    service needs one address. It calls as `caller` says: under a name, in a role, and for a purpose; clients' consents
    to that are heeded.
    """

    def __init__(
        self,
        addresses: Mapping[str, str] | None = None,
        *,
        data: Path | str | None = None,
        endpoints: Endpoints | None = None,
        caller: Caller | None = None,
        credentials: CallerCredentials | None = None,
    ) -> None:
        self.endpoints = endpoints or Endpoints.find(addresses, data, credentials=credentials)
        self._metadata = (caller or Caller()).metadata()
        self._channels: dict[str, grpc.aio.Channel] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes all channels; calls under way are cancelled."""
        channels, self._channels = self._channels, {}
        for channel in channels.values():
            await channel.close()

    def channel(self, service: str) -> grpc.aio.Channel:
        """The channel to a service, or to the partition with a log, opened on first use.

        Raises: EndpointError, TlsError.
        """
        channel = self._channels.get(service)
        if channel is None:
            services = [_DESCRIPTORS[service_of(service)], *_BY_ALL]
            channel = open_channel(
                self.endpoints.address(service),
                services,
                metadata=(*self._metadata, *self._meant(service)),
                credentials=self.endpoints.credentials(service),
            )
            self._channels[service] = channel
        return channel

    def _meant(self, name: str) -> tuple[tuple[str, str], ...]:
        """Which log is meant, by whoever answers for one; a service of several answers as any of its partitions."""
        own = [log for log in self.endpoints.logs if name in {log, service_of(log)}]
        return ((LOG_KEY, own[0]),) if len(own) == 1 else ()

    @cached_property
    def ingestion(self) -> IngestionClient:
        """What channel systems report, the registry, the quarantine."""
        return IngestionClient(self.channel("ingestion"))

    @cached_property
    def identity(self) -> IdentityClient:
        """Who is who, why, and how to put it right."""
        return IdentityClient(self.channel("identity"))

    @cached_property
    def journey(self) -> JourneyClient:
        """Where each client is, and what the next channel must know."""
        return JourneyClient(self.channel("journey"))

    @cached_property
    def feedback(self) -> FeedbackClient:
        """Feedback sorted to the department that owns it."""
        return FeedbackClient(self.channel("feedback"))

    @cached_property
    def scoring(self) -> ScoringClient:
        """What it is worth, and which events say so."""
        return ScoringClient(self.channel("scoring"))

    # By the name of a log: a service's, where it has one, or a partition's (`Endpoints.logs`).

    def log(self, name: str) -> LogClient:
        """A log, and the health of who serves it. Raises: EndpointError, for a log that is not there too."""
        log = self.endpoints.log(name)
        return LogClient(self.channel(log), _DESCRIPTORS[service_of(log)].full_name)

    def proofs(self, name: str) -> ProofClient:
        """What proves a log. Raises: EndpointError."""
        return ProofClient(self.channel(self.endpoints.log(name)))

    def access(self, name: str) -> AccessLogClient:
        """Who read what of who serves a log. Raises: EndpointError."""
        return AccessLogClient(self.channel(self.endpoints.log(name)))

    def access_proofs(self, name: str) -> AccessProofClient:
        """What proves the access log beside a log. Raises: EndpointError."""
        return AccessProofClient(self.channel(self.endpoints.log(name)))

    async def accesses(self, client_id: str = "") -> list[tuple[str, accesslog_pb2.AccessEntry]]:
        """(log, entry) of every read, oldest first: of everything, or of a client's data, their interactions' too.

        A read of a whole log is one of every client's. Raises: RemoteRefusal.
        """
        ids = await self._ids_of(client_id) if client_id else []
        batches = [ids[start : start + IDS_AT_ONCE] for start in range(0, len(ids), IDS_AT_ONCE)] or [[]]
        found: dict[tuple[str, int], accesslog_pb2.AccessEntry] = {}
        for log in self.endpoints.logs:
            for batch in batches:
                async for entry in self.access(log).entries(batch):
                    found[log, entry.position] = entry
        return sorted(((log, entry) for (log, _), entry in found.items()), key=lambda each: each[1].at)

    async def _ids_of(self, client_id: str) -> list[str]:
        """Everybody's, the client's ids and their interactions'; of a forgotten client the id alone is known."""
        try:
            known = await self.identity.client(client_id)
        except RemoteRefusal as refusal:
            if refusal.reason == "CLIENT_FORGOTTEN":
                return [EVERYBODY, client_id]
            raise
        ids = dict.fromkeys((EVERYBODY, client_id, known.client_id, *known.alias_ids))
        async for interaction_id in self.identity.interactions(known.client_id):
            ids[interaction_id] = None
        return list(ids)

    async def settled(self, seconds: float, told: Callable[[Sequence[Behind]], None] | None = None) -> list[Behind]:
        """Waits until everyone has taken everything that is in the logs; who has not, where that takes too long.

        `told` hears at every look who is still behind. Raises: RemoteRefusal where a service is away, EndpointError.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while True:
            late = behind({log: await self.log(log).checkpoint() for log in self.endpoints.logs})
            if told is not None:
                told(late)
            if not late or loop.time() >= deadline:
                return late
            await asyncio.sleep(_LOOK_AGAIN)

    # What most callers need.

    async def record(self, interaction: interaction_pb2.Interaction) -> ingestion_pb2.InteractionResult:
        """Records one interaction; durable when this returns. Raises: RemoteRefusal."""
        return await self.ingestion.record(interaction)

    async def record_many(self, interactions: Iterable[interaction_pb2.Interaction]) -> Verdicts:
        """Records any number of interactions, through interruptions. Raises: RemoteRefusal."""
        return await self.ingestion.record_many(interactions)

    def timeline(
        self, client_id: str, *, as_of: int = 0, between: Interval = ALWAYS
    ) -> AsyncIterator[journey_pb2.TimelineEntry]:
        """The client's history over all channels, oldest first: as it was known at `as_of` (microseconds, 0: now), and
        what of it happened in an interval.
        """
        return self.journey.timeline(client_id, as_of=as_of, between=between)

    def watch(self, client_id: str, *, after_position: int = 0) -> AsyncIterator[journey_pb2.TimelineEntry]:
        """Each new entry of the client's history as it is noted."""
        return self.journey.watch(client_id, after_position=after_position)

    async def resume(
        self,
        client_id: str = "",
        *,
        channel: str,
        identifiers: Sequence[interaction_pb2.Identifier] = (),
        compact: bool = False,
        personal: bool = True,
        as_of: int = 0,
    ) -> journey_pb2.ResumeContextResponse:
        """What the channel that asks should know about this client, with the answers that are personal: now, or at
        `as_of` (microseconds).

        Journey holds no personal value: with `personal` the sealed answers are read from ingestion, where access to
        them is decided. An answer of a forgotten client stays empty. Raises: RemoteRefusal.
        """
        context = await self.journey.context(
            client_id, identifiers=identifiers, channel=channel, compact=compact, as_of=as_of
        )
        if personal:
            await self._unseal(context)
        return context

    async def _unseal(self, context: journey_pb2.ResumeContextResponse) -> None:
        sealed = [answer for answer in context.answers if answer.sealed]
        ids = {event_id for answer in sealed for event_id in answer.event_ids}
        reading = asyncio.Semaphore(_READS)

        async def read(interaction_id: str) -> tuple[str, ingestion_pb2.GetInteractionResponse | None]:
            async with reading:
                try:
                    return interaction_id, await self.ingestion.interaction(interaction_id)
                except RemoteRefusal as refusal:
                    if refusal.code is grpc.StatusCode.NOT_FOUND:
                        return interaction_id, None
                    raise

        found = dict(await asyncio.gather(*map(read, sorted(ids))))
        for answer in sealed:
            answer.answer = _last_answer(answer, found)


def _last_answer(
    answer: journey_pb2.GivenAnswer, found: Mapping[str, ingestion_pb2.GetInteractionResponse | None]
) -> str:
    """What was said last, of the interactions that the answer stands on."""
    last_at, said = -1, ""
    for event_id in answer.event_ids:
        response = found.get(event_id)
        if response is None or response.facts.occurred_at < last_at:
            continue
        for exchange in response.personal.exchanges:
            if exchange.question == answer.question:
                last_at, said = response.facts.occurred_at, exchange.answer
    return said
