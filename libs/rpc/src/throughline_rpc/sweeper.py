"""Work that is looked for from time to time: deadlines that were missed, people whose time has come."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from throughline_kernel import UnavailableError

_STUCK_SECONDS: Final = 60.0


class Sweeper:
    """Sweeps every `every` seconds.

    `sweep` does a bounded part of what is due and answers whether there may be more; `idle` says of health what was not
    done, e.g. "deadlines were not looked at".
    """

    def __init__(self, sweep: Callable[[], Awaitable[bool]], every: float, idle: str) -> None:
        self._sweep = sweep
        self._every = every
        self._idle = idle
        self._swept = time.monotonic()
        self._trouble = ""

    def health(self) -> str | None:
        """None, or what was not done for too long."""
        late = time.monotonic() - self._swept
        if late < self._every + _STUCK_SECONDS:
            return None
        return f"sweeper: {self._idle} for {late:.0f} s: {self._trouble or 'the writer is busy'}"

    async def run(self) -> None:
        """Sweeps until it is cancelled."""
        while True:
            try:
                while await self._sweep():
                    self._swept = time.monotonic()
                self._swept = time.monotonic()
                self._trouble = ""
            except UnavailableError as error:
                self._trouble = error.message
            await asyncio.sleep(self._every)
