"""`throughline.scoring.v1.ScoringService`: translates in, calls, translates out."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc.aio

from scoring.application.commands import DefineMetrics, PublishScorecards
from scoring.application.queries import Queries
from throughline.scoring.v1 import scoring_pb2 as api
from throughline.scoring.v1 import scoring_pb2_grpc
from throughline_eventlog import Writer
from throughline_rpc import Hosted, purpose_of

Context = grpc.aio.ServicerContext[Any, Any]


class ScoringServicer(scoring_pb2_grpc.ScoringServiceServicer):
    """Reads run in threads, writes in the writer's."""

    def __init__(self, writer: Writer, queries: Queries, publish: PublishScorecards, define: DefineMetrics) -> None:
        self._writer = writer
        self._queries = queries
        self._publish = publish
        self._define = define

    async def GetScorecard(  # noqa: N802 -- named by the contract
        self, request: api.GetScorecardRequest, context: Context
    ) -> api.GetScorecardResponse:
        """All figures of one subject."""
        return await asyncio.to_thread(self._queries.get_scorecard, request, purpose_of(context))

    async def ListScorecards(  # noqa: N802 -- named by the contract
        self, request: api.ListScorecardsRequest, context: Context
    ) -> api.ListScorecardsResponse:
        """One row a subject, the worst first."""
        return await asyncio.to_thread(self._queries.list_scorecards, request)

    async def ExplainScore(  # noqa: N802 -- named by the contract
        self, request: api.ExplainScoreRequest, context: Context
    ) -> api.ExplainScoreResponse:
        """A score with its formula and a page of its evidence."""
        return await asyncio.to_thread(self._queries.explain_score, request, purpose_of(context))

    async def PublishScorecard(  # noqa: N802 -- named by the contract
        self, request: api.PublishScorecardRequest, context: Context
    ) -> api.PublishScorecardResponse:
        """A scorecard, written into the log."""
        return await self._writer.submit(self._publish, (request, purpose_of(context)))

    async def GetAttribution(  # noqa: N802 -- named by the contract
        self, request: api.GetAttributionRequest, context: Context
    ) -> api.GetAttributionResponse:
        """Credit by channel and campaign."""
        return await asyncio.to_thread(self._queries.get_attribution, request, purpose_of(context))

    async def DefineMetric(  # noqa: N802 -- named by the contract
        self, request: api.DefineMetricRequest, context: Context
    ) -> api.DefineMetricResponse:
        """A metric of one's own, in force over all history."""
        return await self._writer.submit(self._define, request)

    async def ListMetrics(  # noqa: N802 -- named by the contract
        self, request: api.ListMetricsRequest, context: Context
    ) -> api.ListMetricsResponse:
        """Metrics and formulas."""
        return await asyncio.to_thread(self._queries.list_metrics, request)


def hosted(servicer: ScoringServicer) -> Hosted[ScoringServicer]:
    """The servicer, ready to be hosted."""
    return Hosted(
        api.DESCRIPTOR.services_by_name["ScoringService"].full_name,
        scoring_pb2_grpc.add_ScoringServiceServicer_to_server,
        servicer,
    )
