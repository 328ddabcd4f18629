"""Looks from time to time for those whose grace time is over, and for those whom no rule of retention keeps."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from identity.application.forgetting import SWEEP, Forgetting
from throughline_kernel import UnavailableError

_STUCK_SECONDS: Final = 60.0


class Sweeper:
    """Forgets who is due, and who is over by the rules of retention, every `every` seconds."""

    def __init__(
        self, forgetting: Forgetting, every: float, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._forgetting = forgetting
        self._every = every
        self._monotonic = monotonic
        self._swept = monotonic()
        self._trouble = ""

    def health(self) -> str | None:
        """None, or why nobody is forgotten who should be."""
        late = self._monotonic() - self._swept
        if late < self._every + _STUCK_SECONDS:
            return None
        return f"sweeper: nobody was forgotten for {late:.0f} s: {self._trouble or 'the writer is busy'}"

    async def run(self) -> None:
        """Sweeps until it is cancelled."""
        while True:
            try:
                while await self._forgetting.sweep() == SWEEP:
                    self._swept = self._monotonic()
                await self._forgetting.retain()
                self._swept = self._monotonic()
                self._trouble = ""
            except UnavailableError as error:
                self._trouble = error.message
            await asyncio.sleep(self._every)
