"""Law 2: (source, source's own id) identifies an interaction with no time window."""

from __future__ import annotations

import pytest
from line import Line, identifier, interaction

from throughline.ingestion.v1 import events_pb2, ingestion_pb2

pytestmark = pytest.mark.e2e


async def test_law_02_once_for_ever(line: Line) -> None:
    """After a restart, the same is a duplicate; other content under the id is a conflict, kept beside the first."""
    first = interaction(1, identifier("email", "ann@post.eu"), matter="invoice")
    other = interaction(1, identifier("email", "ann@post.eu"), matter="delivery")
    (recorded,) = await line.record([first])
    line.suite.kill("ingestion")
    line.suite.restart("ingestion")

    again, conflict = await line.record([first, other])
    assert again.verdict == events_pb2.VERDICT_DUPLICATE
    assert again.interaction_id == recorded.interaction_id
    assert conflict.verdict == events_pb2.VERDICT_CONFLICT
    assert conflict.violations

    kept = await line.ingestion.GetInteraction(
        ingestion_pb2.GetInteractionRequest(source="web", source_interaction_id="1")
    )
    assert kept.facts.matter == "invoice"
    assert [version.facts.matter for version in kept.conflicts] == ["delivery"]
    tally = (await line.tallies())["web"]
    assert (tally.offered, tally.recorded, tally.duplicate, tally.conflict) == (3, 1, 1, 1)
