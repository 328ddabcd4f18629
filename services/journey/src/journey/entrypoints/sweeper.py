"""Looks again and again for journeys that silence has ended, a bounded number at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from journey.application.commands import SWEEP_AT_ONCE, Sweep
from throughline_eventlog import Writer
from throughline_kernel import UnavailableError


class Sweeper:
    """Ends an interrupted telling-again of all history first, then sweeps every `every` seconds until cancelled."""

    def __init__(self, writer: Writer, sweep: Sweep, tell_again: Callable[[], Awaitable[int]], every: float) -> None:
        self._writer = writer
        self._sweep = sweep
        self._tell_again = tell_again
        self._every = every
        self._swept = time.monotonic()

    async def run(self) -> None:
        """Sweeps until cancelled; waits where the log is away."""
        while True:
            try:
                await self._tell_again()
                break
            except UnavailableError:
                await asyncio.sleep(self._every)
        while True:
            try:
                await self.sweep()
            except UnavailableError:
                pass
            else:
                self._swept = time.monotonic()
            await asyncio.sleep(self._every)

    async def sweep(self) -> None:
        """Announces all that is due by the watermark."""
        more = True
        while more:
            # A transaction each: others get their turn in between.
            more = await self._writer.submit(self._sweep, SWEEP_AT_ONCE, weight=SWEEP_AT_ONCE)

    def health(self) -> str | None:
        """None, or why nothing was swept for long."""
        silent = time.monotonic() - self._swept
        longest = max(60.0, 10 * self._every)
        return None if silent < longest else f"sweeper: nothing was swept for {silent:.0f} s"
