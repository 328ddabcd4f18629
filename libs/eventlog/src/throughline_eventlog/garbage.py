"""How often whoever works through a log looks for objects that hold each other."""

from __future__ import annotations

import gc
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

THRESHOLDS: Final = (100_000, 20, 50)


@contextmanager
def collecting_seldom() -> Generator[None]:
    """While it lasts, cycles are looked for after every hundred thousand new objects; afterwards as before.

    A batch of events, and the state that they fold into, are a hundred thousand small objects and make no cycles:
    reference counts free them. Looking for cycles after every few hundred of them was a third of the time.
    """
    before = gc.get_threshold()
    gc.set_threshold(*THRESHOLDS)
    try:
        yield
    finally:
        gc.set_threshold(*before)
