"""Looks for missed deadlines from time to time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from feedback.application.caring import SWEEP, Caring
from throughline_kernel import UnavailableError

_STUCK_SECONDS: Final = 60.0


class Sweeper:
    """Escalates what is due every `every` seconds, a bounded number of cases per transaction."""

    def __init__(self, caring: Caring, every: float, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._caring = caring
        self._every = every
        self._monotonic = monotonic
        self._swept = monotonic()
        self._trouble = ""

    def health(self) -> str | None:
        """None, or why deadlines are not looked at."""
        late = self._monotonic() - self._swept
        if late < self._every + _STUCK_SECONDS:
            return None
        return f"sweeper: deadlines were not looked at for {late:.0f} s: {self._trouble or 'the writer is busy'}"

    async def run(self) -> None:
        """Sweeps until it is cancelled."""
        while True:
            try:
                while await self._caring.sweep() == SWEEP:
                    self._swept = self._monotonic()
                self._swept = self._monotonic()
                self._trouble = ""
            except UnavailableError as error:
                self._trouble = error.message
            await asyncio.sleep(self._every)
