"""Law 6: every event offered ends in exactly one of five ends, and they add up to what was offered, per source."""

from __future__ import annotations

import pytest
from line import CHANNELS, Line, identifier, interaction

from throughline.ingestion.v1 import events_pb2, ingestion_pb2
from throughline_client.sdk.recording import Verdicts

pytestmark = pytest.mark.e2e


async def test_law_06_nothing_falls_through_the_cracks(line: Line) -> None:
    """Good, repeated, changed, unknown and bad events in one batch: the five add up, also after a redrive."""
    ann = identifier("email", "ann@post.eu")
    offered = [
        interaction(1, ann),
        interaction(1, ann),
        interaction(1, ann, matter="other"),
        interaction(2, ann, channel="kiosk"),
        interaction(3, ann, at=1),
        interaction(4, source="", channel="web"),
        interaction("5", source="till", channel="store", kind="purchase"),
    ]
    results = await line.record(offered)
    assert [result.verdict for result in results] == [
        events_pb2.VERDICT_RECORDED,
        events_pb2.VERDICT_DUPLICATE,
        events_pb2.VERDICT_CONFLICT,
        events_pb2.VERDICT_QUARANTINED,
        events_pb2.VERDICT_REFUSED,
        events_pb2.VERDICT_REFUSED,
        events_pb2.VERDICT_RECORDED,
    ]
    told = Verdicts()
    told.add(results)
    await check_account(line, told)

    await line.ingestion.RegisterChannel(ingestion_pb2.RegisterChannelRequest(channel="kiosk", traits=CHANNELS["web"]))
    redriven = await line.ingestion.RedriveQuarantine(ingestion_pb2.RedriveQuarantineRequest())
    assert (redriven.recorded, redriven.still_quarantined) == (1, 0)
    told.quarantined -= 1
    told.recorded += 1
    await check_account(line, told)

    line.suite.kill("ingestion")
    line.suite.restart("ingestion")
    await check_account(line, told)


async def check_account(line: Line, told: Verdicts) -> None:
    """The account kept is the account told, and adds up for every source."""
    tallies = (await line.tallies()).values()
    kept = Verdicts()
    for tally in tallies:
        ends = (tally.recorded, tally.duplicate, tally.conflict, tally.quarantined, tally.refused)
        assert tally.offered == sum(ends), tally
        kept.recorded += tally.recorded
        kept.duplicate += tally.duplicate
        kept.conflict += tally.conflict
        kept.quarantined += tally.quarantined
        kept.refused += tally.refused
    assert kept == told
