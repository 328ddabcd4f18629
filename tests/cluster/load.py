"""Interactions offered without an end to a suite that is being shaken, and what must be true of them afterwards."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from uuid import uuid4

from throughline.ingestion.v1 import interaction_pb2
from throughline_client import Throughline
from throughline_client.sdk.recording import Verdicts
from throughline_testkit import eventually

START = 1_700_000_000_000_000
BATCH = 50
CLIENTS = 40
PER_SECOND = 500
PATIENCE = 600.0


@dataclass
class Load:
    """One source that offers a batch after the other, at a steady pace, each again until it is answered."""

    client: Throughline
    source: str = field(default_factory=lambda: f"load-{uuid4().hex[:12]}")
    verdicts: Verdicts = field(default_factory=Verdicts)
    interruptions: int = 0
    _stop: asyncio.Event = field(default_factory=asyncio.Event)

    async def register(self) -> None:
        """The channel and the source."""
        await self.client.ingestion.register_channel("web", interaction_pb2.ChannelTraits(name="Web", group="site"))
        await self.client.ingestion.register_source(self.source, "Load")

    def _batches(self) -> Iterator[list[interaction_pb2.Interaction]]:
        numbers = itertools.count()
        while not self._stop.is_set():
            yield [self._visit(next(numbers)) for _ in range(BATCH)]

    def _visit(self, number: int) -> interaction_pb2.Interaction:
        made = interaction_pb2.Interaction(
            source=self.source,
            source_interaction_id=str(number),
            channel="web",
            kind="visit",
            occurred_at=START + number * 60_000_000,
        )
        mail = f"client{number % CLIENTS}@{self.source}.eu"
        made.identifiers.add(type="email", value=mail, assurance=interaction_pb2.ASSURANCE_VERIFIED)
        return made

    async def run(self) -> None:
        """Offers until it is stopped and the last batch is answered."""

        def interrupted(_: object) -> None:
            self.interruptions += 1

        offering = self.client.ingestion.record_batches(
            self._batches(), in_flight=2, patience=PATIENCE, interrupted=interrupted
        )
        async for answered in offering:
            self.verdicts.add(answered.results)
            await asyncio.sleep(BATCH / PER_SECOND)

    def stop(self) -> None:
        """Offers nothing new."""
        self._stop.set()


@asynccontextmanager
async def offering(client: Throughline) -> AsyncIterator[Load]:
    """Offers while the block runs; afterwards everything that was offered is answered."""
    load = Load(client)
    await load.register()
    task = asyncio.create_task(load.run())
    try:
        yield load
        load.stop()
        await task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until_answered(load: Load, more: int) -> None:
    """Returns when that many more interactions were answered: the suite takes them again. Raises: AssertionError."""
    wanted = load.verdicts.offered + more
    await eventually(lambda: load.verdicts.offered >= wanted, PATIENCE, why="nothing is answered any more")


async def check_nothing_is_lost(client: Throughline, load: Load, seconds: float) -> None:
    """Every service has taken everything; of each interaction that was answered one is recorded, and ingestion's five
    counters add up to what it was offered.
    """
    late = await client.settled(seconds)
    assert late == [], [str(each) for each in late]
    tally = next(each for each in await client.ingestion.tallies() if each.source == load.source)
    ends = tally.recorded + tally.duplicate + tally.conflict + tally.quarantined + tally.refused
    assert tally.offered == ends
    assert (tally.conflict, tally.quarantined, tally.refused) == (0, 0, 0)
    # What was interrupted before its answer came was offered again, and is a duplicate then.
    assert tally.recorded == load.verdicts.offered
    assert tally.recorded == load.verdicts.recorded + load.verdicts.duplicate
    assert load.verdicts.offered > 0
