"""Waiting for what will be true, without sleeping longer than it takes."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, cast

T = TypeVar("T")

DEADLINE = 20.0
FIRST_PAUSE = 0.005
LONGEST_PAUSE = 0.1


async def eventually(condition: Callable[[], T | Awaitable[T]], deadline: float = DEADLINE, *, why: str = "") -> T:
    """Calls the condition until what it gives, or what awaiting it gives, is true, and returns that.

    An AssertionError in it counts as not yet. Raises AssertionError after `deadline` seconds, with the last answer.
    """
    end = time.monotonic() + deadline
    pause = FIRST_PAUSE
    while True:
        last: object
        try:
            answer = condition()
            value = cast("T", await answer if inspect.isawaitable(answer) else answer)
        except AssertionError as error:
            last = error
        else:
            if value:
                return value
            last = value
        if time.monotonic() >= end:
            raise AssertionError(f"not within {deadline} s{f': {why}' if why else ''}; at last: {last!r}")
        await asyncio.sleep(pause)
        pause = min(LONGEST_PAUSE, pause * 1.5)


def eventually_sync(condition: Callable[[], T], deadline: float = DEADLINE, *, why: str = "") -> T:
    """As `eventually`, for tests without an event loop."""
    end = time.monotonic() + deadline
    pause = FIRST_PAUSE
    while True:
        last: object
        try:
            value = condition()
        except AssertionError as error:
            last = error
        else:
            if value:
                return value
            last = value
        if time.monotonic() >= end:
            raise AssertionError(f"not within {deadline} s{f': {why}' if why else ''}; at last: {last!r}")
        time.sleep(pause)
        pause = min(LONGEST_PAUSE, pause * 1.5)
