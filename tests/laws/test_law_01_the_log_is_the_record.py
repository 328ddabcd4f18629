"""Law 1: a service acknowledges only what is fsynced in its own event log. The bus is a bus."""

from __future__ import annotations

import shutil

import pytest
from line import Line, identifier, interaction

from throughline.ingestion.v1 import events_pb2, ingestion_pb2

pytestmark = pytest.mark.e2e


async def test_law_01_the_log_is_the_record(line: Line) -> None:
    """Acknowledged without a bus, then killed: every interaction is there, and the bus hears of it when it is back."""
    line.suite.kill("nats")
    offered = [interaction(number, identifier("email", f"p{number}@post.eu")) for number in range(2_000)]
    results = await line.record(offered)
    assert {result.verdict for result in results} == {events_pb2.VERDICT_RECORDED}
    line.suite.kill("ingestion")

    line.suite.restart("ingestion", wait=False)
    for result in results[::97]:
        found = await line.ingestion.GetInteraction(
            ingestion_pb2.GetInteractionRequest(interaction_id=result.interaction_id), wait_for_ready=True
        )
        assert found.position == result.position
    assert (await line.tallies())["web"].recorded == 2_000

    line.suite.restart("nats")
    await line.settled()
    assert (await line.checkpoints())["ingestion"].published_position >= results[-1].position


async def test_a_bus_that_lost_everything_is_filled_again_from_the_logs(line: Line) -> None:
    """Wiping JetStream loses nothing and counts nothing twice: streams are rebuilt, consumers know what they have."""
    offered = [interaction(number, identifier("email", f"p{number % 50}@post.eu")) for number in range(500)]
    await line.record(offered)
    before = await line.digests()

    line.suite.end("nats")
    shutil.rmtree(line.suite.folder / "nats" / "jetstream", ignore_errors=False)
    line.suite.restart("nats")
    await line.record([interaction("later", identifier("email", "p7@post.eu"))])
    after = await line.digests()

    assert (await line.tallies())["web"].recorded == 501
    assert after.keys() == before.keys()
    assert after["identity"] != before["identity"]
    client = await line.journey.ResumeContext(_resume("p7@post.eu"))
    assert client.interactions == 11


def _resume(email: str):
    from throughline.journey.v1 import journey_pb2

    return journey_pb2.ResumeContextRequest(identifiers=[identifier("email", email)], channel="phone")
