"""`throughline.feedback.v1.FeedbackService`: translates in, calls, translates out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any, Final, TypeAlias

import grpc.aio
import orjson

from feedback.application import codec
from feedback.application.caring import Caring
from feedback.application.desk import Cause
from feedback.application.queries import FoundCase, Queries
from feedback.application.submitting import Submitting
from feedback.application.watching import InboxWatch
from feedback.domain.cases import Case, CaseState
from feedback.domain.lifecycle import Acknowledge, Reassign, Reopen, Resolve
from feedback.domain.submissions import Named, Submission, check_by, check_id, check_text, required
from throughline.feedback.v1 import events_pb2 as events
from throughline.feedback.v1 import feedback_pb2 as pb
from throughline.feedback.v1 import feedback_pb2_grpc
from throughline_kernel import Interval, InvalidError, Violation
from throughline_rpc import Hosted
from throughline_telemetry import current_traceparent

ServicerContext: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
# The latest instant that can be named, microseconds.
LATEST: Final = 1 << 62
SERVICE_NAME: Final = pb.DESCRIPTOR.services_by_name["FeedbackService"].full_name


def hosted(servicer: FeedbackServicer) -> Hosted[FeedbackServicer]:
    """The servicer, ready to be hosted."""
    return Hosted(SERVICE_NAME, feedback_pb2_grpc.add_FeedbackServiceServicer_to_server, servicer)


class FeedbackServicer(feedback_pb2_grpc.FeedbackServiceServicer):
    """Serves feedback. Refusals are raised; the host's interceptor makes statuses of them."""

    def __init__(self, submitting: Submitting, caring: Caring, queries: Queries, watching: InboxWatch) -> None:
        self._submitting = submitting
        self._caring = caring
        self._queries = queries
        self._watching = watching

    async def SubmitFeedback(  # noqa: N802 # named by the contract
        self, request: pb.SubmitFeedbackRequest, context: ServicerContext
    ) -> pb.SubmitFeedbackResponse:
        """Takes one item, durably."""
        done = await self._submitting.submit(_submission(request), _cause())
        return pb.SubmitFeedbackResponse(
            feedback_id=done.feedback_id,
            duplicate=done.duplicate,
            assignments=_assignments(done.assignments),
            position=done.position,
        )

    async def GetFeedback(  # noqa: N802 # named by the contract
        self, request: pb.GetFeedbackRequest, context: ServicerContext
    ) -> pb.GetFeedbackResponse:
        """One item, with its words unless they are forgotten."""
        check_id("feedback_id", request.feedback_id)
        _check_instant(request.as_of)
        found = await self._queries.item(request.feedback_id, request.as_of)
        item = pb.Item(feedback_id=found.feedback_id, forgotten=found.received is None)
        if found.received is not None:
            received = found.received
            item = pb.Item(
                feedback_id=found.feedback_id,
                client_id=found.client_id,
                interaction_id=received.interaction_id,
                channel=received.channel,
                touchpoint=received.touchpoint,
                matter=received.matter,
                occurred_at=received.occurred_at,
                fact=received.fact,
                verbatim=found.words or "",
                forgotten=bool(received.verbatim.box) and found.words is None,
                assignments=_assignments(found.assignments),
            )
        return pb.GetFeedbackResponse(item=item, position=found.commit.position, as_of=found.commit.recorded_at)

    async def ListInbox(  # noqa: N802 # named by the contract
        self, request: pb.ListInboxRequest, context: ServicerContext
    ) -> pb.ListInboxResponse:
        """A page of a department's cases, most urgent first."""
        _check_department(request.department)
        _check_instant(request.as_of)
        found = await self._queries.inbox(
            request.department,
            _states(request.states),
            request.page_size,
            request.page_token,
            as_of=request.as_of,
            between=Interval.between(request.between.start, request.between.end),
        )
        return pb.ListInboxResponse(
            cases=map(_found_case, found.cases),
            next_page_token=found.next_page_token,
            position=found.commit.position,
            as_of=found.commit.recorded_at,
            withheld=found.withheld,
        )

    async def WatchInbox(  # noqa: N802 # named by the contract
        self, request: pb.WatchInboxRequest, context: ServicerContext
    ) -> AsyncIterator[pb.WatchInboxResponse]:
        """What waits in a department now, then each change."""
        _check_department(request.department)
        async for change in self._watching.watch(request.department):
            yield pb.WatchInboxResponse(case=_found_case(change.case), position=change.position)

    async def GetCase(  # noqa: N802 # named by the contract
        self, request: pb.GetCaseRequest, context: ServicerContext
    ) -> pb.GetCaseResponse:
        """One case, with everything that happened to it."""
        check_id("case_id", request.case_id)
        _check_instant(request.as_of)
        found = await self._queries.case(request.case_id, request.as_of)
        return pb.GetCaseResponse(
            case=_found_case(found), as_of=found.commit.recorded_at, position=found.commit.position
        )

    async def AcknowledgeCase(  # noqa: N802 # named by the contract
        self, request: pb.AcknowledgeCaseRequest, context: ServicerContext
    ) -> pb.AcknowledgeCaseResponse:
        """Somebody has it in hand."""
        check_id("case_id", request.case_id)
        check_by(request.by)
        case = await self._caring.do(Acknowledge(request.case_id, request.by, self._caring.now()), _cause())
        return pb.AcknowledgeCaseResponse(case=self._case(case))

    async def ReassignCase(  # noqa: N802 # named by the contract
        self, request: pb.ReassignCaseRequest, context: ServicerContext
    ) -> pb.ReassignCaseResponse:
        """Another department owns it."""
        check_id("case_id", request.case_id)
        check_by(request.by)
        check_text("reason", request.reason)
        _check_department(request.department)
        command = Reassign(request.case_id, request.department, request.by, request.reason, self._caring.now())
        return pb.ReassignCaseResponse(case=self._case(await self._caring.do(command, _cause())))

    async def ResolveCase(  # noqa: N802 # named by the contract
        self, request: pb.ResolveCaseRequest, context: ServicerContext
    ) -> pb.ResolveCaseResponse:
        """The loop is closed."""
        check_id("case_id", request.case_id)
        check_by(request.by)
        check_text("resolution", request.resolution)
        check_text("root_cause", request.root_cause)
        command = Resolve(request.case_id, request.by, request.resolution, request.root_cause, self._caring.now())
        return pb.ResolveCaseResponse(case=self._case(await self._caring.do(command, _cause())))

    async def ReopenCase(  # noqa: N802 # named by the contract
        self, request: pb.ReopenCaseRequest, context: ServicerContext
    ) -> pb.ReopenCaseResponse:
        """It was not resolved after all."""
        check_id("case_id", request.case_id)
        check_by(request.by)
        check_text("reason", request.reason)
        command = Reopen(request.case_id, request.by, request.reason, self._caring.now())
        return pb.ReopenCaseResponse(case=self._case(await self._caring.do(command, _cause())))

    async def GetRoutes(  # noqa: N802 # named by the contract
        self, request: pb.GetRoutesRequest, context: ServicerContext
    ) -> pb.GetRoutesResponse:
        """The routes in force."""
        _check_instant(request.as_of)
        return pb.GetRoutesResponse(routes=await self._queries.routes(request.as_of))

    async def PublishRoutes(  # noqa: N802 # named by the contract
        self, request: pb.PublishRoutesRequest, context: ServicerContext
    ) -> pb.PublishRoutesResponse:
        """Publishes routes for what arrives from now on."""
        check_text("published_by", request.published_by)
        done = await self._caring.publish(codec.routes_of(request.routes), request.published_by, _cause())
        return pb.PublishRoutesResponse(version=done.version, position=done.position)

    async def GetDepartmentStats(  # noqa: N802 # named by the contract
        self, request: pb.GetDepartmentStatsRequest, context: ServicerContext
    ) -> pb.GetDepartmentStatsResponse:
        """What each department has."""
        _check_instant(request.as_of)
        between = Interval.between(request.between.start, request.between.end)
        figures, commit = await self._queries.figures(request.as_of, between)
        return pb.GetDepartmentStatsResponse(
            departments=[
                pb.DepartmentStats(
                    department=each.department,
                    items=each.counts.items,
                    cases=each.counts.cases,
                    open=each.counts.open,
                    overdue=each.overdue,
                    resolved=each.counts.resolved,
                    reopened=each.counts.reopened,
                    escalated=each.counts.escalated,
                )
                for each in figures
            ],
            position=commit.position,
            as_of=commit.recorded_at,
        )

    def _case(self, case: Case) -> pb.Case:
        return _found_case(FoundCase(case, [], case.overdue(self._caring.now()), []))


def _cause() -> Cause:
    return Cause(traceparent=current_traceparent())


def _check_department(department: str) -> None:
    if not department:
        raise InvalidError.of(required("department", "name a department; GetRoutes lists them"))


def _check_instant(as_of: int) -> None:
    if not 0 <= as_of <= LATEST:
        raise InvalidError.of(Violation("as_of", f"0 to {LATEST}", "give microseconds since 1970, or 0 for now"))


def _states(states: Iterable[int]) -> frozenset[CaseState]:
    known = {int(state): state for state in CaseState}
    asked = list(states)
    if unknown := [state for state in asked if state not in known]:
        raise InvalidError.of(Violation("states", "states of a case", f"{unknown[0]} is none; leave it out"))
    return frozenset(known[state] for state in asked)


def _submission(request: pb.SubmitFeedbackRequest) -> Submission:
    feedback = request.feedback
    return Submission(
        source=request.source,
        source_feedback_id=request.source_feedback_id,
        channel=request.channel,
        touchpoint=request.touchpoint,
        matter=request.matter,
        occurred_at=request.occurred_at,
        kind=feedback.kind,
        score=feedback.score if feedback.HasField("score") else None,
        scale_min=feedback.scale_min,
        scale_max=feedback.scale_max,
        verbatim=feedback.verbatim,
        topic=feedback.topic,
        aspect=feedback.aspect,
        solicited=feedback.solicited,
        weight_micros=feedback.weight_micros,
        client_id=request.client_id,
        identifiers=tuple(Named(each.type, each.value, each.assurance) for each in request.identifiers),
        interaction_id=request.interaction_id,
        attributes=_object(request.attributes),
    )


def _object(raw: bytes) -> bytes | None:
    """A JSON object in one form, as it came where it is nested too deep for one; None where it is none."""
    if not raw:
        return b""
    try:
        parsed: object = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(parsed, dict):
        return None
    try:
        return orjson.dumps(parsed, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError:
        return raw


def _assignments(found: Iterable[tuple[str, str, str, str, str]]) -> list[events.Assignment]:
    return [
        events.Assignment(department=department, topic=topic, route=route, because=because, case_id=case_id)
        for department, topic, route, because, case_id in found
    ]


_STATES: Final = {
    CaseState.OPEN: pb.CASE_STATE_OPEN,
    CaseState.ACKNOWLEDGED: pb.CASE_STATE_ACKNOWLEDGED,
    CaseState.RESOLVED: pb.CASE_STATE_RESOLVED,
    CaseState.WITHDRAWN: pb.CASE_STATE_WITHDRAWN,
}


def _found_case(found: FoundCase) -> pb.Case:
    case = found.case
    return pb.Case(
        case_id=case.case_id,
        client_id=case.client_id,
        department=case.department,
        topic=case.matter[1],
        state=_STATES[case.state],
        opened_at=case.opened_at,
        acknowledge_by=case.acknowledge_by,
        resolve_by=case.resolve_by,
        overdue=found.overdue,
        escalated=case.escalated,
        reopened=case.reopened,
        feedback_ids=found.feedback_ids,
        steps=[
            pb.CaseStep(event_id=each.event_id, type=each.type, at=each.at, by=each.by, text=each.text)
            for each in found.steps
        ],
        channel=case.channel,
        root_cause=case.root_cause,
    )
