"""What is asked of ingestion, answered in the words of the contract: from one log, its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from ingestion.application.messages import write_tally, write_traits
from ingestion.application.ports import Quarantined, Request, RequestReader, Result, Turns
from ingestion.application.queries import Queries, read_page_token
from ingestion.application.quotas import Quotas
from ingestion.application.recording import RecordOffers
from ingestion.application.redriving import Redrive, RedriveQuarantine
from ingestion.application.registering import Register, Registered
from ingestion.domain.deciding import batch_size_error
from ingestion.domain.registry import ChannelTraits, RegisterChannel, RegisterSource, Registry, Source
from throughline.ingestion.v1 import events_pb2, ingestion_pb2, partition_pb2
from throughline_eventlog import Writer
from throughline_kernel import InvalidError, Recorded, Violation, is_hex_id
from throughline_rpc import check_own_sources
from throughline_telemetry import current_traceparent, metrics


class Accounted(NamedTuple):
    """What became of a request: one result per event, in order; or why it was `refused` whole, and how many it had."""

    batch_id: str
    results: Sequence[ingestion_pb2.InteractionResult]
    refused: InvalidError | None = None
    size: int = 0


class Desk(Protocol):
    """Answers what is asked of ingestion, wherever it stands."""

    async def record(self, kind: Request, raw: bytes, turns: Turns | None = None) -> Accounted:
        """Records a serialised request, with `turns` behind those of the same stream that came before it.

        Raises: ForbiddenError where it reports for a source that is not the caller's, ExhaustedError QUOTA_EXCEEDED.
        """
        ...

    async def look_up(self, interaction_id: str, source: str = "") -> partition_pb2.ReadPartInteractionResponse:
        """What is kept of an interaction; `source` is that of the interaction where it is known."""
        ...

    async def register(self, request: partition_pb2.RegisterInPartRequest) -> partition_pb2.RegisterInPartResponse:
        """Registers a channel or a source. Raises: InvalidError, PreconditionError (.._CONFLICT)."""
        ...

    async def registry(self) -> Registry:
        """Every channel and source."""
        ...

    async def quarantine(self, page_size: int, page_token: str) -> ingestion_pb2.ListQuarantineResponse:
        """A page of what waits, oldest first. Raises: InvalidError."""
        ...

    async def redrive(self, request: ingestion_pb2.RedriveQuarantineRequest) -> ingestion_pb2.RedriveQuarantineResponse:
        """Offers what waits again. Raises: InvalidError."""
        ...

    async def tallies(self) -> ingestion_pb2.GetTalliesResponse:
        """What each source offered and what became of it, by source."""
        ...


class OwnDesk:
    """Answers from this process's own log: a `Desk`, and the `Peer` of those who answer from several."""

    def __init__(
        self,
        writer: Writer,
        *,
        reader: RequestReader,
        record: RecordOffers,
        register: Register,
        redrive: Redrive,
        queries: Queries,
        quotas: Quotas,
    ) -> None:
        self._writer = writer
        self._reader = reader
        self._record = record
        self._register = register
        self._redrive = redrive
        self._queries = queries
        self._quotas = quotas

    async def record(self, kind: Request, raw: bytes, turns: Turns | None = None) -> Accounted:
        """See `Desk`. Nothing of a request that is over a quota counts as offered; one of the wrong size is counted as
        refused.
        """
        read = await self._reader.read(kind, raw, in_turn=turns is not None)
        if read.violations:
            return Accounted("", (), InvalidError.of(*read.violations))
        offers = read.offers
        check_own_sources(offer.source for offer in offers if offer.source)
        self._quotas.take(offers, len(raw))
        answer = await self._writer.submit(
            self._record, offers, weight=max(len(offers), 1), traceparent=current_traceparent()
        )
        for source, tally in answer.tallies.items():
            for verdict, count in tally.by_verdict():
                metrics.OFFERS.labels(source, verdict).inc(count)
        return Accounted(read.batch_id, list(map(write_result, answer.results)), batch_size_error(read.size), read.size)

    async def record_part(self, part: bytes) -> Sequence[ingestion_pb2.InteractionResult]:
        """See `Peer`. Raises: InvalidError where it is no message of the contract."""
        accounted = await self.record(Request.PART, part)
        if accounted.refused is not None and not accounted.results:
            raise accounted.refused
        return accounted.results

    async def look_up(self, interaction_id: str, source: str = "") -> partition_pb2.ReadPartInteractionResponse:
        """See `Desk`."""
        found = await self._queries.look_up(interaction_id)
        return partition_pb2.ReadPartInteractionResponse(
            recorded=None if found.recorded is None else _kept(found.recorded),
            conflicts=map(_kept, found.conflicts),
            waits=found.waits,
        )

    async def register(self, request: partition_pb2.RegisterInPartRequest) -> partition_pb2.RegisterInPartResponse:
        """See `Desk`."""
        if request.HasField("channel"):
            asked = request.channel
            traits = asked.traits
            registered = await self._registered(
                RegisterChannel(
                    asked.channel,
                    ChannelTraits(traits.name, traits.physical, traits.assisted, traits.group),
                    asked.replace,
                )
            )
            return partition_pb2.RegisterInPartResponse(
                channel=ingestion_pb2.RegisterChannelResponse(
                    channel=write_channel(asked.channel, registered.registry.channels[asked.channel]),
                    created=registered.created,
                )
            )
        wanted = request.source
        registered = await self._registered(
            RegisterSource(wanted.source, wanted.name, tuple(wanted.channels), wanted.replace)
        )
        return partition_pb2.RegisterInPartResponse(
            source=ingestion_pb2.RegisterSourceResponse(
                source=write_source(registered.registry.sources[wanted.source]), created=registered.created
            )
        )

    async def registry(self) -> Registry:
        """See `Desk`."""
        return await self._queries.registry()

    async def quarantine(self, page_size: int, page_token: str) -> ingestion_pb2.ListQuarantineResponse:
        """See `Desk`."""
        return await self.waiting(page_size, *read_page_token(page_token, 1))

    async def waiting(self, page_size: int, after: int) -> ingestion_pb2.ListQuarantineResponse:
        """See `Peer`. Raises: InvalidError."""
        page = await self._queries.quarantine(page_size, after)
        return ingestion_pb2.ListQuarantineResponse(
            interactions=map(_quarantined, page.waiting), next_page_token=page.next_page_token
        )

    async def redrive(self, request: ingestion_pb2.RedriveQuarantineRequest) -> ingestion_pb2.RedriveQuarantineResponse:
        """See `Desk`."""
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

    async def tallies(self) -> ingestion_pb2.GetTalliesResponse:
        """See `Desk`."""
        accounts, position = await self._queries.accounts()
        return ingestion_pb2.GetTalliesResponse(
            tallies=[write_tally(source, accounts[source].tally) for source in sorted(accounts)], position=position
        )

    async def _registered(self, command: RegisterChannel | RegisterSource) -> Registered:
        return await self._writer.submit(self._register, command, traceparent=current_traceparent())


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


def write_channel(channel: str, traits: ChannelTraits) -> ingestion_pb2.Channel:
    """A channel of the registry."""
    return ingestion_pb2.Channel(channel=channel, traits=write_traits(traits))


def write_source(source: Source) -> ingestion_pb2.Source:
    """A source of the registry."""
    return ingestion_pb2.Source(source=source.source, name=source.name, channels=source.channels)


def _kept(event: Recorded) -> partition_pb2.KeptEvent:
    return partition_pb2.KeptEvent(payload=event.payload, position=event.position, recorded_at=event.recorded_at)


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
