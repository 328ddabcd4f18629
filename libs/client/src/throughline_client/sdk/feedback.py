"""Feedback: sorted to the department that owns it, and the loop closed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import grpc.aio

from throughline.feedback.v1 import feedback_pb2, feedback_pb2_grpc, routes_pb2
from throughline_client.sdk.calling import call, interval_message, listen
from throughline_kernel import ALWAYS, Interval


class FeedbackClient:
    """Calls feedback. Every method raises RemoteRefusal where the call fails."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.stub = feedback_pb2_grpc.FeedbackServiceStub(channel)

    async def submit(self, request: feedback_pb2.SubmitFeedbackRequest) -> feedback_pb2.SubmitFeedbackResponse:
        """Takes one item directly; (source, source_feedback_id) makes a repeat a duplicate."""
        return await call(self.stub.SubmitFeedback, request)

    async def item(self, feedback_id: str, *, as_of: int = 0) -> feedback_pb2.Item:
        """One item with its words (unless forgotten), its departments and the reasons; as it was at `as_of`
        (microseconds, 0: now).
        """
        request = feedback_pb2.GetFeedbackRequest(feedback_id=feedback_id, as_of=as_of)
        return (await call(self.stub.GetFeedback, request)).item

    async def inbox_pages(
        self,
        department: str,
        *,
        states: Sequence[feedback_pb2.CaseState.ValueType] = (),
        page_size: int = 500,
        as_of: int = 0,
        between: Interval = ALWAYS,
    ) -> AsyncIterator[feedback_pb2.ListInboxResponse]:
        """A department's cases page by page, all of the same instant, which each page names in `as_of`."""
        request = feedback_pb2.ListInboxRequest(
            department=department,
            states=states,
            page_size=page_size,
            as_of=as_of,
            between=interval_message(between),
        )
        while True:
            page = await call(self.stub.ListInbox, request)
            yield page
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def inbox(
        self,
        department: str,
        *,
        states: Sequence[feedback_pb2.CaseState.ValueType] = (),
        page_size: int = 500,
        as_of: int = 0,
        between: Interval = ALWAYS,
    ) -> AsyncIterator[feedback_pb2.Case]:
        """A department's cases, most urgent first; those that are not resolved unless states are given. As they stood
        at `as_of` (microseconds, 0: now), and what of them was opened in an interval.
        """
        async for page in self.inbox_pages(
            department, states=states, page_size=page_size, as_of=as_of, between=between
        ):
            for each in page.cases:
                yield each

    async def watch_inbox(self, department: str) -> AsyncIterator[feedback_pb2.Case]:
        """The department's cases as they are now, then each change."""
        request = feedback_pb2.WatchInboxRequest(department=department)
        async for response in listen(self.stub.WatchInbox, request):
            yield response.case

    async def case(self, case_id: str, *, as_of: int = 0) -> feedback_pb2.Case:
        """One case with its steps, as it stood at `as_of` (microseconds, 0: now)."""
        return (await call(self.stub.GetCase, feedback_pb2.GetCaseRequest(case_id=case_id, as_of=as_of))).case

    async def acknowledge(self, case_id: str, *, by: str) -> feedback_pb2.Case:
        """Somebody has seen the case and looks after it."""
        request = feedback_pb2.AcknowledgeCaseRequest(case_id=case_id, by=by)
        return (await call(self.stub.AcknowledgeCase, request)).case

    async def reassign(self, case_id: str, department: str, *, by: str, reason: str) -> feedback_pb2.Case:
        """Gives the case to another department."""
        request = feedback_pb2.ReassignCaseRequest(case_id=case_id, department=department, by=by, reason=reason)
        return (await call(self.stub.ReassignCase, request)).case

    async def resolve(self, case_id: str, *, by: str, resolution: str, root_cause: str = "") -> feedback_pb2.Case:
        """Closes the loop: what was done, and what had caused it."""
        request = feedback_pb2.ResolveCaseRequest(case_id=case_id, by=by, resolution=resolution, root_cause=root_cause)
        return (await call(self.stub.ResolveCase, request)).case

    async def reopen(self, case_id: str, *, by: str, reason: str) -> feedback_pb2.Case:
        """Opens a resolved case again."""
        request = feedback_pb2.ReopenCaseRequest(case_id=case_id, by=by, reason=reason)
        return (await call(self.stub.ReopenCase, request)).case

    async def routes(self, *, as_of: int = 0) -> routes_pb2.RouteSet:
        """The rules that sort feedback to departments, or did at `as_of` (microseconds)."""
        return (await call(self.stub.GetRoutes, feedback_pb2.GetRoutesRequest(as_of=as_of))).routes

    async def publish_routes(
        self, routes: routes_pb2.RouteSet, *, published_by: str
    ) -> feedback_pb2.PublishRoutesResponse:
        """Publishes rules; they hold for what arrives from now on."""
        request = feedback_pb2.PublishRoutesRequest(routes=routes, published_by=published_by)
        return await call(self.stub.PublishRoutes, request)

    async def department_stats(
        self, *, as_of: int = 0, between: Interval = ALWAYS
    ) -> feedback_pb2.GetDepartmentStatsResponse:
        """Items and cases per department: as it was at `as_of` (microseconds, 0: now), and what of it began in an
        interval.
        """
        request = feedback_pb2.GetDepartmentStatsRequest(as_of=as_of, between=interval_message(between))
        return await call(self.stub.GetDepartmentStats, request)

    async def departments(self) -> list[feedback_pb2.DepartmentStats]:
        """Items and cases per department."""
        return list((await self.department_stats()).departments)
