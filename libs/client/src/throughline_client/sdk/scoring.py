"""Scoring: what it is worth, how sure we are, and which events say so."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import grpc.aio

from throughline.scoring.v1 import events_pb2, metrics_pb2, scoring_pb2, scoring_pb2_grpc
from throughline_client.sdk.calling import call, interval_message, pages
from throughline_kernel import ALWAYS, Interval


class ScoringClient:
    """Calls scoring. Every method raises RemoteRefusal where the call fails."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.stub = scoring_pb2_grpc.ScoringServiceStub(channel)

    async def scorecard(
        self,
        kind: events_pb2.SubjectKind.ValueType,
        subject: str = "",
        *,
        as_of: int = 0,
        between: Interval = ALWAYS,
    ) -> scoring_pb2.GetScorecardResponse:
        """All figures of one subject: as they were known at `as_of` (microseconds, 0: now), of an interval."""
        request = scoring_pb2.GetScorecardRequest(
            subject_kind=kind, subject=subject, as_of=as_of, between=interval_message(between)
        )
        return await call(self.stub.GetScorecard, request)

    async def scorecards(
        self,
        kind: events_pb2.SubjectKind.ValueType,
        *,
        metrics: Sequence[str] = (),
        headline_metric: str = "",
        as_of: int = 0,
        between: Interval = ALWAYS,
    ) -> scoring_pb2.ListScorecardsResponse:
        """One row per subject of a kind, the worst first and as the headline; instants as in `scorecard`."""
        request = scoring_pb2.ListScorecardsRequest(
            subject_kind=kind,
            metrics=metrics,
            headline_metric=headline_metric,
            as_of=as_of,
            between=interval_message(between),
        )
        return await call(self.stub.ListScorecards, request)

    async def explain(
        self, score_id: str, *, page_size: int = 0, page_token: str = ""
    ) -> scoring_pb2.ExplainScoreResponse:
        """Formula, version, parts and one page of the evidence."""
        request = scoring_pb2.ExplainScoreRequest(score_id=score_id, page_size=page_size, page_token=page_token)
        return await call(self.stub.ExplainScore, request)

    def evidence(self, score_id: str, page_size: int = 1000) -> AsyncIterator[str]:
        """All event ids that a score stands on."""

        async def fetch(token: str) -> tuple[list[str], str]:
            page = await self.explain(score_id, page_size=page_size, page_token=token)
            return list(page.event_ids), page.next_page_token

        return pages(fetch)

    async def publish(
        self,
        kind: events_pb2.SubjectKind.ValueType,
        subject: str = "",
        *,
        published_by: str,
        as_of: int = 0,
        between: Interval = ALWAYS,
    ) -> scoring_pb2.PublishScorecardResponse:
        """Writes a scorecard into the log, so that what was shown can be shown again; instants as in `scorecard`."""
        request = scoring_pb2.PublishScorecardRequest(
            subject_kind=kind,
            subject=subject,
            published_by=published_by,
            as_of=as_of,
            between=interval_message(between),
        )
        return await call(self.stub.PublishScorecard, request)

    async def attribution(
        self, *, client_id: str = "", model: str = "", as_of: int = 0, between: Interval = ALWAYS
    ) -> scoring_pb2.GetAttributionResponse:
        """Credit over the journey, of one client or summed by channel and campaign; instants as in `scorecard`."""
        request = scoring_pb2.GetAttributionRequest(
            client_id=client_id, model=model, as_of=as_of, between=interval_message(between)
        )
        return await call(self.stub.GetAttribution, request)

    async def define_metric(
        self, definition: metrics_pb2.MetricDefinition, *, defined_by: str
    ) -> scoring_pb2.DefineMetricResponse:
        """Publishes a metric of one's own."""
        request = scoring_pb2.DefineMetricRequest(definition=definition, defined_by=defined_by)
        return await call(self.stub.DefineMetric, request)

    async def metrics(self) -> scoring_pb2.ListMetricsResponse:
        """The metrics and formulas that are known."""
        return await call(self.stub.ListMetrics, scoring_pb2.ListMetricsRequest())
