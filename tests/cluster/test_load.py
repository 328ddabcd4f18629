"""The load that `make cluster-test` shakes a cluster under, on a suite of this machine: kills lose nothing of it."""

from __future__ import annotations

import asyncio

import pytest
from cluster.load import check_nothing_is_lost, offering, until_answered
from line import StartSuite

from throughline_client import Throughline


@pytest.mark.chaos
async def test_what_is_offered_through_kills_is_recorded_once(start_suite: StartSuite) -> None:
    """Each service and the bus are killed under load; offered = recorded, and everyone has taken everything."""
    suite = start_suite()
    async with Throughline(data=suite.folder) as client, offering(client) as load:
        for name in ("ingestion", "nats", "identity", "scoring"):
            await until_answered(load, 100)
            suite.kill(name)
            await asyncio.to_thread(suite.restart, name)
        await until_answered(load, 100)
        interruptions = load.interruptions
    async with Throughline(data=suite.folder) as client:
        await check_nothing_is_lost(client, load, 60.0)
    assert interruptions > 0
