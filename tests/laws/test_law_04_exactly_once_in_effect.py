"""Law 4: what a service decides about an incoming message and the position it has reached commit in one transaction."""

from __future__ import annotations

import asyncio
import random

import pytest
from line import Line, scattered_history

from throughline_client.sdk.recording import Verdicts, in_batches, offer_batches
from throughline_client.suite.suite import Suite
from throughline_replay import compare_with_live, make_folds, replay_log
from throughline_replay.sources import ServiceLog

pytestmark = [pytest.mark.e2e, pytest.mark.chaos]

VICTIMS = ("ingestion", "identity", "journey", "feedback", "scoring", "nats")


async def kill_at_random(suite: Suite, seed: int, stop: asyncio.Event) -> list[str]:
    """Ends one process after the other as a power cut would and starts it again, each part at least once."""
    rng = random.Random(seed)
    killed: list[str] = []
    while not stop.is_set() or set(killed) != set(VICTIMS):
        victim = rng.choice([name for name in VICTIMS if name not in killed] or VICTIMS)
        await asyncio.to_thread(suite.kill, victim)
        await asyncio.to_thread(suite.restart, victim)
        killed.append(victim)
    return killed


@pytest.mark.timeout(300)
async def test_law_04_exactly_once_in_effect(line: Line) -> None:
    """Every part is killed under load; what is offered again and again ends once everywhere, and replays equal live."""
    history = scattered_history(seed=4, people=60, events=6_000)
    done = asyncio.Event()
    killing = asyncio.create_task(kill_at_random(line.suite, 4, done))
    verdicts = Verdicts()
    async for answered in offer_batches(line.ingestion, in_batches(history, 50), in_flight=2):
        verdicts.add(answered.results)
    done.set()
    killed = await killing
    assert set(killed) == set(VICTIMS)

    # What was recorded but not answered when ingestion died came again and was a duplicate.
    assert verdicts.recorded + verdicts.duplicate == len(history)
    tallies = (await line.tallies()).values()
    assert sum(tally.recorded for tally in tallies) == len(history)

    await line.settled()
    for service, fold in make_folds().items():
        with ServiceLog(service, line.suite.addresses[service]) as log:
            replayed = await asyncio.to_thread(replay_log, fold, log.read())
            compared = await asyncio.to_thread(compare_with_live, replayed, log, log)
        assert compared.equal, f"{service}: {compared.difference}"
