"""`throughline.journey.v1.JourneyService`: each call translated in, answered, translated out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeVar

import grpc.aio

from journey.application.codec import definition_from, definition_message
from journey.application.commands import (
    RETELL_AT_ONCE,
    AcceptHandoffs,
    Asked,
    DefineJourneys,
    OfferHandoffs,
    Retell,
)
from journey.application.ports import Clock
from journey.application.queries import Queries
from journey.application.watching import Bells
from journey.domain.definitions import DefineJourney
from journey.domain.handoffs import AcceptHandoff, OfferHandoff, token_hash
from journey.domain.variants import DEFAULT_TOP, LARGEST_TOP
from journey.entrypoints import wire
from journey.entrypoints.tokens import PageToken, new_token, read_page_token
from throughline.ingestion.v1 import interaction_pb2
from throughline.journey.v1 import journey_pb2 as pb
from throughline.journey.v1 import journey_pb2_grpc
from throughline_eventlog import Store, Writer
from throughline_kernel import Interval, InvalidError, Violation, is_hex_id
from throughline_rpc import Hosted, purpose_of
from throughline_telemetry import current_traceparent, logger

DEFAULT_PAGE: Final = 100
LARGEST_PAGE: Final = 1_000
# The latest instant that can be named, microseconds.
LATEST: Final = 1 << 62
MOST_IDENTIFIERS: Final = 100
# Clients between two words on how far a telling-again has come.
SAY_EVERY: Final = 10 * RETELL_AT_ONCE
# How long a watcher waits at most before it looks by itself: another process may have written.
LOOK_EVERY: Final = 2.0

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Works:
    """What the writer does for the servicer."""

    offer: OfferHandoffs
    accept: AcceptHandoffs
    define: DefineJourneys
    retell: Retell


def hosted(servicer: JourneyServicer) -> Hosted[JourneyServicer]:
    """The servicer, ready to be hosted."""
    return Hosted(
        pb.DESCRIPTOR.services_by_name["JourneyService"].full_name,
        journey_pb2_grpc.add_JourneyServiceServicer_to_server,
        servicer,
    )


class JourneyServicer(journey_pb2_grpc.JourneyServiceServicer):
    """Serves journey. Reads run in threads of their own: what a channel waits for apart from what an analyst does."""

    def __init__(
        self,
        writer: Writer,
        works: Works,
        queries: Queries,
        bells: Bells,
        *,
        clock: Clock,
        quick: Executor,
        patient: Executor,
    ) -> None:
        self._writer = writer
        self._works = works
        self._queries = queries
        self._bells = bells
        self._clock = clock
        self._quick = quick
        self._patient = patient
        self._telling: set[asyncio.Task[int]] = set()
        self._log = logger()

    async def ResumeContext(  # noqa: N802 -- named by the contract
        self, request: pb.ResumeContextRequest, context: Context
    ) -> pb.ResumeContextResponse:
        """What the channel should know now, or should have known."""
        _check(
            *_whom(request.client_id, request.identifiers),
            *_required("channel", request.channel),
            *_within("as_of", request.as_of, 0, LATEST),
        )
        compact = request.form == pb.CONTEXT_FORM_COMPACT
        asked, purpose = (request.client_id, request.identifiers, request.channel), purpose_of(context)
        if request.as_of:
            told = await self._run(
                self._patient, lambda: self._queries.earlier_context(*asked, request.as_of, purpose=purpose)
            )
        else:
            told = await self._run(self._quick, lambda: self._queries.context(*asked, self._clock(), purpose=purpose))
        return wire.compact_context(told) if compact else wire.full_context(told)

    async def GetTimeline(  # noqa: N802 -- named by the contract
        self, request: pb.GetTimelineRequest, context: Context
    ) -> pb.GetTimelineResponse:
        """A page of the client's history, oldest first."""
        _check(
            *_whom(request.client_id),
            *_within("as_of", request.as_of, 0, LATEST),
            *_within("page_size", request.page_size, 0, LARGEST_PAGE),
        )
        asked = (request.client_id, request.as_of, Interval.between(request.between.start, request.between.end))
        token = read_page_token(request.page_token) if request.page_token else PageToken(*asked, request.as_of, 0)
        if (token.client_id, token.as_of, token.between) != asked:
            read_page_token("")
        size, purpose = request.page_size or DEFAULT_PAGE, purpose_of(context)
        page = await self._run(
            self._patient,
            lambda: self._queries.timeline(
                request.client_id, token.instant, token.between, token.start, size, purpose=purpose
            ),
        )
        following = ""
        if page.following >= 0:
            following = PageToken(*asked, page.commit.recorded_at, page.following).text()
        return pb.GetTimelineResponse(
            client_id=page.client_id,
            entries=map(wire.entry, page.entries),
            next_page_token=following,
            position=page.commit.position,
            as_of=page.commit.recorded_at,
            withheld=page.withheld,
            left_out=wire.left_out(page.left_out),
        )

    async def WatchClient(  # noqa: N802 -- named by the contract
        self, request: pb.WatchClientRequest, context: Context
    ) -> AsyncIterator[pb.WatchClientResponse]:
        """Each new entry, read from the log at the caller's own pace."""
        _check(*_whom(request.client_id), *_within("after_position", request.after_position, 0, LATEST))
        asked, purpose = request.client_id, purpose_of(context)
        seen = await self._run(self._patient, lambda: self._queries.begin_watching(asked, request.after_position))
        while True:
            with self._bells.bell({asked, seen.client_id}) as bell:
                following = seen.client_id
                while following == seen.client_id:
                    bell.clear()
                    before = seen
                    entries, left_out, seen, more = await self._run(
                        self._patient, lambda at=before: self._queries.watch(asked, at, purpose=purpose)
                    )
                    if left_out:
                        yield pb.WatchClientResponse(left_out=wire.left_out(left_out))
                    for line in entries:
                        yield pb.WatchClientResponse(entry=wire.entry(line))
                    if not more and following == seen.client_id:
                        await _rung(bell)

    async def OfferHandoff(  # noqa: N802 -- named by the contract
        self, request: pb.OfferHandoffRequest, context: Context
    ) -> pb.OfferHandoffResponse:
        """Offers the client to another channel."""
        _check(*_whom(request.client_id))
        token = new_token()
        command = OfferHandoff(
            request.client_id,
            request.from_channel,
            request.to_channel,
            request.note,
            request.journey_id,
            request.valid_for,
            token_hash(token),
            self._clock(),
        )
        handoff = await self._writer.submit(self._works.offer, Asked(command, current_traceparent()))
        return pb.OfferHandoffResponse(handoff_id=handoff.handoff_id, token=token, expires_at=handoff.expires_at)

    async def AcceptHandoff(  # noqa: N802 -- named by the contract
        self, request: pb.AcceptHandoffRequest, context: Context
    ) -> pb.AcceptHandoffResponse:
        """Takes over, once."""
        _check(*_required("token", request.token), *_required("channel", request.channel))
        command = AcceptHandoff(token_hash(request.token), request.channel, request.accepted_by, self._clock())
        client_id, handoff = await self._writer.submit(self._works.accept, Asked(command, current_traceparent()))
        purpose = purpose_of(context)
        told = await self._run(
            self._quick,
            lambda: self._queries.context(client_id, (), request.channel, self._clock(), purpose=purpose),
        )
        return pb.AcceptHandoffResponse(
            handoff_id=handoff.handoff_id,
            client_id=told.context.who.client_id,
            note=handoff.note,
            context=wire.full_context(told),
        )

    async def DefineJourney(  # noqa: N802 -- named by the contract
        self, request: pb.DefineJourneyRequest, context: Context
    ) -> pb.DefineJourneyResponse:
        """Publishes a definition and tells all history again under it."""
        command = DefineJourney(definition_from(request.definition), request.defined_by, self._clock())
        defined = await self._writer.submit(self._works.define, Asked(command, current_traceparent()))
        clients = 0
        if defined is not None:
            # A caller who hangs up does not stop it.
            telling = asyncio.create_task(self.tell_again())
            self._telling.add(telling)
            telling.add_done_callback(self._telling.discard)
            clients = await asyncio.shield(telling)
        standing = defined or command.definition
        version = standing.version or await self._run(self._patient, lambda: self._version(standing.journey))
        position = await self._run(self._patient, lambda: _last_position(self._writer.store))
        return pb.DefineJourneyResponse(journey=standing.journey, version=version, clients=clients, position=position)

    async def ListJourneys(  # noqa: N802 -- named by the contract
        self, request: pb.ListJourneysRequest, context: Context
    ) -> pb.ListJourneysResponse:
        """Every definition that holds, by name."""
        _check(*_within("as_of", request.as_of, 0, LATEST))
        definitions = await self._run(self._patient, lambda: self._queries.definitions(request.as_of))
        return pb.ListJourneysResponse(definitions=map(definition_message, definitions))

    async def GetVariants(  # noqa: N802 -- named by the contract
        self, request: pb.GetVariantsRequest, context: Context
    ) -> pb.GetVariantsResponse:
        """Channel sequences, counted exactly."""
        _check(*_within("top", request.top, 0, LARGEST_TOP), *_within("as_of", request.as_of, 0, LATEST))
        between = Interval.between(request.between.start, request.between.end)
        asked = (request.journey, request.top or DEFAULT_TOP, self._clock(), request.as_of, between)
        counted, commit = await self._run(self._patient, lambda: self._queries.variants(*asked))
        return wire.variants(counted, commit)

    async def GetJourneyStats(  # noqa: N802 -- named by the contract
        self, request: pb.GetJourneyStatsRequest, context: Context
    ) -> pb.GetJourneyStatsResponse:
        """How the journeys of one definition went."""
        _check(*_required("journey", request.journey), *_within("as_of", request.as_of, 0, LATEST))
        between = Interval.between(request.between.start, request.between.end)
        asked = (request.journey, self._clock(), request.as_of, between)
        definition, counts, commit = await self._run(self._patient, lambda: self._queries.stats(*asked))
        return pb.GetJourneyStatsResponse(
            journey=definition.journey,
            version=definition.version,
            owner=definition.owner,
            started=counts.started,
            open=counts.open,
            completed=counts.completed,
            abandoned=counts.abandoned,
            channel_switches=counts.channel_switches,
            median_duration=counts.median_duration,
            stages=[
                pb.StageStats(stage=name, reached=s.reached, loops=s.loops, abandoned=s.abandoned, open=s.open)
                for name, s in counts.stages.items()
            ],
            position=commit.position,
            as_of=commit.recorded_at,
        )

    @property
    def watchers(self) -> int:
        """How many calls wait for news."""
        return self._bells.watchers()

    async def tell_again(self) -> int:
        """Tells all histories again that are not told under the definitions that hold; gives how many clients."""
        clients = 0
        while True:
            told = await self._writer.submit(self._works.retell, RETELL_AT_ONCE, weight=RETELL_AT_ONCE)
            clients += told.clients
            if not told.more:
                break
            if clients % SAY_EVERY == 0:
                self._log.info("telling_again", clients=clients)
        if clients:
            self._log.info("told_again", clients=clients)
        return clients

    def _version(self, journey: str) -> int:
        return next((each.version for each in self._queries.definitions() if each.journey == journey), 0)

    async def _run(self, executor: Executor, work: Callable[[], R]) -> R:
        return await asyncio.get_running_loop().run_in_executor(executor, work)


def _last_position(store: Store) -> int:
    with store.snapshot() as reader:
        return reader.last_position()


async def _rung(bell: asyncio.Event) -> None:
    # `wait`, not `wait_for`: nothing is cancelled but the waiting itself.
    waiting = asyncio.ensure_future(bell.wait())
    try:
        await asyncio.wait({waiting}, timeout=LOOK_EVERY)
    finally:
        waiting.cancel()


def _check(*violations: Violation) -> None:
    if violations:
        raise InvalidError.of(*violations)


def _required(field: str, value: str) -> Sequence[Violation]:
    return () if value else (Violation(field, "is required", f"give the {field}", "FIELD_REQUIRED"),)


def _within(field: str, value: int, least: int, most: int) -> Sequence[Violation]:
    return () if least <= value <= most else (Violation(field, f"{least} to {most}", "give a number in range"),)


def _whom(client_id: str, identifiers: Sequence[interaction_pb2.Identifier] | None = None) -> Sequence[Violation]:
    if client_id:
        if is_hex_id(client_id):
            return ()
        return (Violation("client_id", "32 lowercase hex digits", "give a client's id or alias"),)
    if not identifiers:
        also = "" if identifiers is None else ", or identifiers"
        return (Violation("client_id", "is required", f"give a client's id or alias{also}", "FIELD_REQUIRED"),)
    if len(identifiers) > MOST_IDENTIFIERS:
        return (Violation("identifiers", f"at most {MOST_IDENTIFIERS}", "give those that were shown"),)
    return [
        Violation(f"identifiers[{index}].{name}", "is required", f"give its {name}", "FIELD_REQUIRED")
        for index, each in enumerate(identifiers)
        for name in ("type", "value")
        if not getattr(each, name)
    ]
