"""Law 3: any arrival order, any repetition, any batching: same state, same digest."""

from __future__ import annotations

import pytest
from line import StartSuite, connect, scattered_history, shuffled

from throughline_client.suite.suite import Suite

pytestmark = pytest.mark.e2e


@pytest.mark.timeout(300)
async def test_law_03_state_is_a_function_of_the_event_set(start_suite: StartSuite) -> None:
    """Two suites are told one history in different orders, batches and with repeats: five equal digests downstream.

    Ingestion's own state counts what was offered, so its tallies are compared where both were told the same number.
    """
    history = scattered_history(seed=3, people=40, events=1_500)
    digests: list[dict[str, str]] = []
    first: Suite | None = None
    for name, told, size in (
        ("in-order", sorted(history, key=lambda each: each.occurred_at), 500),
        ("shuffled", shuffled(11, history, repeats=300), 37),
    ):
        # The same installation: its keys make its hashes.
        suite = start_suite(name, keys_of=first)
        first = first or suite
        async with connect(suite) as line:
            await line.register()
            await line.record(told, size)
            found = await line.digests()
            tally = (await line.tallies())["web"]
            assert tally.offered == tally.recorded + tally.duplicate
            digests.append({service: digest for service, digest in found.items() if service != "ingestion"})
        suite.stop()
    assert digests[0] == digests[1]
