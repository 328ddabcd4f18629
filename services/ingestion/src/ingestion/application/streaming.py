"""Answers a stream of batches in order, with only so many under way at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Final, TypeVar

T = TypeVar("T")
R = TypeVar("R")

WINDOW: Final = 8
"""Batches of one stream that are read but not answered: enough to fill group commits, few enough to hold little."""


async def answered_in_order(
    requests: AsyncIterator[T], answer: Callable[[T], Awaitable[R]], *, window: int = WINDOW
) -> AsyncGenerator[R]:
    """Answers each request, in the order they came. Reads the next only while fewer than `window` wait for theirs.

    What was read before the stream breaks is finished all the same; only its answer is lost. Raises what `answer` or
    `requests` raises, once everything before it has been answered.
    """
    answers: asyncio.Queue[asyncio.Task[R] | None] = asyncio.Queue()
    room = asyncio.Semaphore(window)

    async def read() -> None:
        try:
            while True:
                await room.acquire()
                try:
                    request = await anext(requests)
                except StopAsyncIteration:
                    return
                answers.put_nowait(asyncio.ensure_future(answer(request)))
        finally:
            answers.put_nowait(None)

    reading = asyncio.create_task(read())
    under_way: asyncio.Task[R] | None = None
    try:
        while (under_way := await answers.get()) is not None:
            yield await under_way
            room.release()
        await reading
    finally:
        reading.cancel()
        left = [under_way] if under_way is not None else []
        while not answers.empty():
            if (each := answers.get_nowait()) is not None:
                left.append(each)
        await asyncio.gather(reading, *left, return_exceptions=True)
