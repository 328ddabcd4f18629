"""Feedback: sorted to the department that owns it, and the loop closed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import grpc.aio

from throughline.feedback.v1 import feedback_pb2, feedback_pb2_grpc, routes_pb2
from throughline_client.sdk.calling import call, listen, pages


class FeedbackClient:
    """Calls feedback. Every method raises RemoteRefusal where the call fails."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.stub = feedback_pb2_grpc.FeedbackServiceStub(channel)

    async def submit(self, request: feedback_pb2.SubmitFeedbackRequest) -> feedback_pb2.SubmitFeedbackResponse:
        """Takes one item directly; (source, source_feedback_id) makes a repeat a duplicate."""
        return await call(self.stub.SubmitFeedback, request)

    async def item(self, feedback_id: str) -> feedback_pb2.Item:
        """One item with its words (unless forgotten), its departments and the reasons."""
        return (await call(self.stub.GetFeedback, feedback_pb2.GetFeedbackRequest(feedback_id=feedback_id))).item

    def inbox(
        self, department: str, *, states: Sequence[feedback_pb2.CaseState.ValueType] = (), page_size: int = 500
    ) -> AsyncIterator[feedback_pb2.Case]:
        """A department's cases, most urgent first; those that are not resolved unless states are given."""

        async def fetch(token: str) -> tuple[list[feedback_pb2.Case], str]:
            request = feedback_pb2.ListInboxRequest(
                department=department, states=states, page_size=page_size, page_token=token
            )
            page = await call(self.stub.ListInbox, request)
            return list(page.cases), page.next_page_token

        return pages(fetch)

    async def watch_inbox(self, department: str) -> AsyncIterator[feedback_pb2.Case]:
        """The department's cases as they are now, then each change."""
        request = feedback_pb2.WatchInboxRequest(department=department)
        async for response in listen(self.stub.WatchInbox, request):
            yield response.case

    async def case(self, case_id: str) -> feedback_pb2.Case:
        """One case with its steps."""
        return (await call(self.stub.GetCase, feedback_pb2.GetCaseRequest(case_id=case_id))).case

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

    async def routes(self) -> routes_pb2.RouteSet:
        """The rules that sort feedback to departments."""
        return (await call(self.stub.GetRoutes, feedback_pb2.GetRoutesRequest())).routes

    async def publish_routes(
        self, routes: routes_pb2.RouteSet, *, published_by: str
    ) -> feedback_pb2.PublishRoutesResponse:
        """Publishes rules; they hold for what arrives from now on."""
        request = feedback_pb2.PublishRoutesRequest(routes=routes, published_by=published_by)
        return await call(self.stub.PublishRoutes, request)

    async def departments(self) -> list[feedback_pb2.DepartmentStats]:
        """Items and cases per department."""
        request = feedback_pb2.GetDepartmentStatsRequest()
        return list((await call(self.stub.GetDepartmentStats, request)).departments)
