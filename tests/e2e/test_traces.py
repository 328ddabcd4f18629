"""One trace leads from the call through log and bus to every consumer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from line import connect, identifier, interaction

from throughline.ingestion.v1 import ingestion_pb2
from throughline_client.suite.suite import Suite
from throughline_testkit import eventually

pytestmark = pytest.mark.e2e

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = f"00-{TRACE}-00f067aa0ba902b7-01"


def caused_by(span: dict[str, object], other: dict[str, object]) -> bool:
    """Whether the first has the second as its parent or among its links."""
    links = span["links"]
    assert isinstance(links, list)
    return span["parent_id"] == other["span_id"] or other["traceparent"] in links


async def test_a_trace_crosses_call_log_bus_and_consumers(tmp_path: Path) -> None:
    """The caller's trace holds the call and the commit; publish and consume, in every service, follow the commit."""
    file = tmp_path / "spans.jsonl"
    with Suite(tmp_path / "suite", environment={"THROUGHLINE_TRACE_FILE": str(file)}) as suite:
        async with connect(suite) as line:
            await line.register()
            await line.ingestion.RecordInteractions(
                ingestion_pb2.RecordInteractionsRequest(
                    interactions=[interaction(1, identifier("email", "ann@post.eu"))]
                ),
                metadata=(("traceparent", CALLER),),
            )
            await line.settled()

            def edges() -> bool:
                spans = [json.loads(text) for text in file.read_text().splitlines()]

                def named(service: str, name: str) -> list[dict[str, object]]:
                    return [
                        span
                        for span in spans
                        if span["service"] == f"throughline-{service}" and str(span["name"]).endswith(name)
                    ]

                def follows(
                    later: list[dict[str, object]], earlier: list[dict[str, object]]
                ) -> list[dict[str, object]]:
                    return [span for span in later if any(caused_by(span, other) for other in earlier)]

                calls = [span for span in named("ingestion", "RecordInteractions") if span["trace_id"] == TRACE]
                recorded = follows(named("ingestion", "commit"), calls)
                # Events carry the trace of the commit that recorded the interaction, through every later log.
                published = [follows(named(service, "publish"), recorded) for service in ("ingestion", "identity")]
                taken = [
                    follows(named(service, "consume"), recorded)
                    for service in ("identity", "journey", "feedback", "scoring")
                ]
                return all([calls, recorded, *published, *taken])

            await eventually(edges, 20.0, why="an edge of the trace is missing")
