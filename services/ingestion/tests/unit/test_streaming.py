"""A stream of batches: in order, and never more under way than the window."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from ingestion.application.streaming import answered_in_order
from throughline_testkit import eventually


async def numbers(count: int, taken: list[int] | None = None) -> AsyncIterator[int]:
    """0, 1, 2 ... and notes what was taken."""
    for number in range(count):
        if taken is not None:
            taken.append(number)
        yield number


async def test_answers_come_in_the_order_of_the_requests() -> None:
    """Even where a later one is ready first."""
    gates = [asyncio.Event() for _ in range(6)]
    for gate in gates[1:]:
        gate.set()

    async def answer(number: int) -> int:
        await gates[number].wait()
        return number

    answers = answered_in_order(numbers(6), answer, window=3)
    first = asyncio.ensure_future(anext(answers))
    gates[0].set()
    assert await first == 0
    assert [each async for each in answers] == [1, 2, 3, 4, 5]


async def test_no_more_is_read_than_the_window_holds() -> None:
    """Flow control: a slow log makes the caller wait, it does not fill memory."""
    taken: list[int] = []
    under_way = 0
    most = 0
    go = asyncio.Semaphore(0)

    async def answer(number: int) -> int:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await go.acquire()
        under_way -= 1
        return number

    answers = answered_in_order(numbers(20, taken), answer, window=4)
    first = asyncio.ensure_future(anext(answers))
    await eventually(lambda: len(taken) == 4)
    for _ in range(10):
        await asyncio.sleep(0)
    assert taken == [0, 1, 2, 3]
    for _ in range(20):
        go.release()
    assert [await first, *[each async for each in answers]] == list(range(20))
    assert most == 4


async def test_what_goes_wrong_is_raised_after_the_answers_before_it() -> None:
    """The caller knows exactly up to where it was answered."""

    async def answer(number: int) -> int:
        if number == 2:
            raise RuntimeError("the log is away")
        return number

    answers = answered_in_order(numbers(5), answer)
    assert (await anext(answers), await anext(answers)) == (0, 1)
    with pytest.raises(RuntimeError, match="the log is away"):
        await anext(answers)


async def test_a_caller_who_leaves_stops_the_reading_and_lets_work_finish() -> None:
    """What was read is recorded all the same."""
    finished: list[int] = []

    async def endless() -> AsyncIterator[int]:
        yield 0
        yield 1
        await asyncio.Event().wait()

    async def answer(number: int) -> int:
        await asyncio.sleep(0)
        finished.append(number)
        return number

    answers = answered_in_order(endless(), answer)
    assert await anext(answers) == 0
    await answers.aclose()
    assert finished == [0, 1]
