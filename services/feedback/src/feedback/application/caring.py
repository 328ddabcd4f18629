"""What departments do with their cases, what missed deadlines do, and which routes hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from feedback.application import codec, tables
from feedback.application.desk import NO_CAUSE, Cause, Changes, Desk, Held, read_case
from feedback.domain.cases import Act, Case, CaseState
from feedback.domain.lifecycle import Command, case_withdrawn, decide, escalate
from feedback.domain.routing import RouteSet, check_routes, check_version
from throughline.feedback.v1 import events_pb2 as events
from throughline_eventlog import Clock, NewEvent, Transaction, Writer, note_step
from throughline_kernel import NotFoundError, Refusal

SWEEP: Final = 500
"""Cases escalated in one transaction at most."""
SWEPT: Final = "sweep"
"""The step that a sweep leaves, with the time that it was given."""


def case_not_found(case_id: str) -> NotFoundError:
    """No case has this id."""
    return NotFoundError(
        "CASE_NOT_FOUND", f"no case has the id {case_id}: list the inbox for those there are", {"case_id": case_id}
    )


class Published(NamedTuple):
    """A route set in the log."""

    version: int
    position: int


class Caring:
    """The use cases around cases and routes. Each changes one thing in one transaction and may be tried again."""

    def __init__(self, writer: Writer, desk: Desk, clock: Clock) -> None:
        self._writer = writer
        self._clock = clock
        self._commands = CommandWork(desk)
        self._sweeps = SweepWork(desk)
        self._publications = PublishWork(desk)

    def now(self) -> int:
        """Microseconds since epoch."""
        return self._clock()

    async def do(self, command: Command, cause: Cause = NO_CAUSE) -> Case:
        """Does something to a case and gives it as it is then.

        Raises NotFoundError CASE_NOT_FOUND, DEPARTMENT_UNKNOWN; PreconditionError CASE_WITHDRAWN; what `decide` does.
        """
        return await self._writer.submit(self._commands, (command, cause), traceparent=cause.traceparent)

    async def sweep(self) -> int:
        """Escalates cases whose deadline has passed by now, at most SWEEP; answers how many."""
        return await self._writer.submit(self._sweeps, self._clock())

    async def publish(self, routes: RouteSet, published_by: str, cause: Cause = NO_CAUSE) -> Published:
        """Publishes routes for what arrives from now on; the ones in force, published again, are no news.

        Raises InvalidError ROUTES_INVALID, ConflictError ROUTES_VERSION_STALE.
        """
        check_routes(routes)
        offer = Publication(routes, published_by, self._clock(), cause)
        return await self._writer.submit(self._publications, offer)

    async def publish_first(self, routes: RouteSet) -> None:
        """Publishes routes where none hold yet: a log without routes could sort nothing."""
        check_routes(routes)
        await self._writer.submit(
            self._publications, Publication(replace(routes, version=1), "installation", self._clock(), first=True)
        )


class CommandWork:
    """Does what people ask for to cases."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def rolled_back(self) -> None:
        """Forgets what was remembered."""
        self._desk.rolled_back()

    def __call__(self, tx: Transaction, items: Sequence[tuple[Command, Cause]], /) -> Sequence[Case | Refusal]:
        """The case as it is then, for each."""
        changes = self._desk.open(tx)
        results: list[Case | Refusal] = []
        for command, cause in items:
            try:
                results.append(self._one(changes, command, cause))
            except Refusal as refused:
                results.append(refused)
        changes.write()
        return results

    def _one(self, changes: Changes, command: Command, cause: Cause) -> Case:
        held, case = _case(changes, command.case_id)
        at = _time_for(held, case, command.at)
        act = decide(replace(command, at=at), case, self._desk.policies[self._desk.version])
        return case if act is None else _do(changes, held, case, act, cause)


class SweepWork:
    """Escalates what is due. A case that is looked at and has nothing to escalate any more is skipped."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def rolled_back(self) -> None:
        """Forgets what was remembered."""
        self._desk.rolled_back()

    def __call__(self, tx: Transaction, items: Sequence[int], /) -> Sequence[int]:
        """How many were escalated at each time."""
        return [self._one(tx, now) for now in items]

    def _one(self, tx: Transaction, now: int) -> int:
        changes = self._desk.open(tx)
        if not self._desk.version:
            return 0
        routes = self._desk.policies[self._desk.version]
        before, escalated = tx.last_position(), 0
        for key, _ in list(tx.scan(tables.DEADLINES, limit=SWEEP)):
            if tables.due_of(key) >= now:
                break
            case_id, missed = tables.deadline_of(key)
            held, case = _case(changes, case_id)
            act = escalate(case, missed, now, routes)
            if act is not None:
                at = _time_for(held, case, now)
                _do(changes, held, case, replace(act, at=at), NO_CAUSE)
                escalated += 1
        changes.write()
        if escalated:
            note_step(tx, SWEPT, before, now)
        return escalated


@dataclass(frozen=True, slots=True)
class Publication:
    """Routes to be published at `at`; with `first`, only where none hold yet."""

    routes: RouteSet
    published_by: str
    at: int
    cause: Cause = NO_CAUSE
    first: bool = False


class PublishWork:
    """Puts routes into force."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def rolled_back(self) -> None:
        """Forgets what was remembered."""
        self._desk.rolled_back()

    def __call__(self, tx: Transaction, items: Sequence[Publication], /) -> Sequence[Published | Refusal]:
        """The routes in force, for each."""
        results: list[Published | Refusal] = []
        for offer in items:
            try:
                results.append(self._one(tx, offer))
            except Refusal as refused:
                results.append(refused)
        return results

    def _one(self, tx: Transaction, offer: Publication) -> Published:
        changes = self._desk.open(tx)
        current = self._desk.version
        if current and (offer.first or self._again(offer.routes)):
            return Published(current, tx.read_stream(tables.ROUTES_STREAM)[-1].position)
        version = check_version(offer.routes.version, current)
        routes = replace(offer.routes, version=version)
        message = events.RoutesPublished(routes=codec.routes_message(routes), published_by=offer.published_by)
        changes.append_elsewhere(
            NewEvent(
                stream_id=tables.ROUTES_STREAM,
                version=tx.last_version(tables.ROUTES_STREAM) + 1,
                type=codec.ROUTES_PUBLISHED,
                payload=message.SerializeToString(deterministic=True),
                occurred_at=offer.at,
                correlation_id=offer.cause.correlation_id,
                traceparent=offer.cause.traceparent,
            )
        )
        changes.put(tables.ROUTES, tables.routes_key(version), message.routes.SerializeToString(deterministic=True))
        (position,) = changes.write()
        self._desk.policies[version] = routes
        return Published(version, position)

    def _again(self, routes: RouteSet) -> bool:
        """A retry of the publication in force names its version."""
        return routes.version == self._desk.version and routes == self._desk.policies[self._desk.version]


def _case(changes: Changes, case_id: str) -> tuple[Held, Case]:
    """A case that stands, as this transaction has it. Raises CASE_NOT_FOUND, CASE_WITHDRAWN."""
    found = read_case(changes.tx, case_id)
    if found is None:
        raise case_not_found(case_id)
    owner, case = found
    held = changes.held(owner, case.client_id)
    current = held.client.case(case_id, case.matter)
    if current is None or case.state is CaseState.WITHDRAWN:
        raise case_withdrawn(case)
    return held, current


def _time_for(held: Held, case: Case, at: int) -> int:
    """Acts come one after the other, and after what they answer, even where a channel's clock runs ahead."""
    return max(at, held.client.last_act_at() + 1, held.client.latest(case.matter))


def _do(changes: Changes, held: Held, case: Case, act: Act, cause: Cause) -> Case:
    changes.act(held, act, cause)
    after = held.client.case(case.case_id, case.matter)
    assert after is not None  # noqa: S101 # an act takes no case away
    return after
