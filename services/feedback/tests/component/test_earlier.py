"""What stood in an inbox, of a case or an item at an instant comes back, whatever came later."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from feedback_world import HOUR, START, World, answer, client, item_id

from feedback.application import tables
from feedback.domain.cases import CaseState
from feedback.domain.lifecycle import Acknowledge, Reassign, Reopen, Resolve
from throughline_kernel import ALWAYS, Interval, InvalidError, NotFoundError, PreconditionError

SEATS = [answer(topic="seats")]
EVERY = tuple(CaseState)
MIDDLE = Interval(START + 3 * HOUR, START + 9 * HOUR)
DEPARTMENTS = ("care", "billing")
PEOPLE = "abcdef"

Ask = Callable[[int], Awaitable[Any]]


async def told(answered: Awaitable[Any]) -> Any:
    """The answer without the commit it stands on; None where there is none."""
    try:
        found = await answered
    except NotFoundError:
        return None
    if hasattr(found, "commit"):
        return found._replace(commit=None)
    return found[0] if isinstance(found, tuple) and len(found) == 2 else found


def questions(world: World, items: int, cases: set[str]) -> dict[str, Ask]:
    """Everything that can be asked as of an instant."""
    queries = world.queries
    asked: dict[str, Ask] = {"routes": queries.routes}
    for name, between in (("ever", ALWAYS), ("in the middle", MIDDLE)):
        asked[f"figures {name}"] = lambda at, b=between: queries.figures(at, b)
        for department in DEPARTMENTS:
            asked[f"inbox of {department} {name}"] = lambda at, d=department, b=between: queries.inbox(
                d, EVERY, 100, "", as_of=at, between=b
            )
            asked[f"waiting in {department} {name}"] = lambda at, d=department, b=between: queries.inbox(
                d, (), 100, "", as_of=at, between=b
            )
    for number in range(items):
        asked[f"item {number}"] = lambda at, i=f"i{number}": queries.item(item_id(i), at)
    for case_id in cases:
        asked[f"case {case_id}"] = lambda at, c=case_id: queries.case(c, at)
    return asked


async def do_something(world: World, rng: random.Random) -> None:
    """Somebody does something to a case that waits or is closed."""
    found = (await world.queries.inbox(rng.choice(DEPARTMENTS), EVERY, 100, "")).cases
    if not found:
        return
    case_id, now = rng.choice(found).case.case_id, world.clock.now
    command = rng.choice(
        [
            Acknowledge(case_id, "ana", now),
            Reassign(case_id, rng.choice(DEPARTMENTS), "ben", "not ours", now),
            Resolve(case_id, "ana", "refunded", "double charge", now),
            Reopen(case_id, "cleo", "again", now),
        ]
    )
    try:
        await world.caring.do(command)
    except PreconditionError:
        return


@pytest.mark.parametrize("seed", [3, 11])
async def test_what_was_told_at_an_instant_is_told_again_whatever_came_later(world: World, seed: int) -> None:
    """Late items, items that change hands and come back, work on cases, deadlines missed, other routes."""
    rng = random.Random(seed)
    kept: list[tuple[str, int, Any]] = []
    cases: set[str] = set()
    items = 0
    for step in range(12):
        world.clock.now = START + step * HOUR
        if step % 3 == 2 and items:
            moved = rng.sample(range(items), min(3, items))
            events = [world.identity.reattributed(rng.choice(PEOPLE), "a", f"i{each}", START, SEATS) for each in moved]
        else:
            events = [
                world.identity.attributed(
                    rng.choice(PEOPLE),
                    f"i{items + each}",
                    START + rng.randrange(10) * HOUR,
                    [answer(topic=rng.choice(["seats", "invoice"]), words=rng.choice(["refund", ""]))],
                )
                for each in range(3)
            ]
            items += 3
        await world.take(*events)
        await do_something(world, rng)
        await world.caring.sweep()
        for department in DEPARTMENTS:
            listed = await world.queries.inbox(department, EVERY, 100, "")
            cases.update(each.case.case_id for each in listed.cases)
        instant = listed.commit.recorded_at
        for name, ask in questions(world, items, cases).items():
            between = name.endswith("in the middle")
            kept.append((name, instant, await told(ask(instant if between else 0))))
    assert len({str(answer) for name, _, answer in kept if name.startswith("inbox")}) > 10
    asked = questions(world, items, cases)
    now = world.clock.now
    for name, instant, answered in kept:
        world.clock.now = now
        again = await told(asked[name](instant))
        assert _unjudged(again) == _unjudged(answered), f"{name} as of {instant}"
    await world.checked()


def _unjudged(answered: Any) -> Any:
    """What is told of an answer, without whether a deadline was over at the moment of asking."""
    if hasattr(answered, "cases"):
        return answered._replace(cases=[_unjudged(each) for each in answered.cases])
    if hasattr(answered, "overdue"):
        return answered._replace(overdue=False, case=replace(answered.case, items=0))
    if isinstance(answered, list):
        return [each._replace(overdue=0) for each in answered]
    return answered


async def test_overdue_is_judged_at_the_instant_that_is_asked_for(world: World) -> None:
    """Not when the last commit was, and never later than now."""
    await world.take(world.identity.attributed("a", "i1", START, SEATS))
    case_id = await world.only_case("care")
    due = (await world.queries.case(case_id)).case.acknowledge_by
    world.clock.now = due + HOUR
    for at, overdue in ((due - 1, False), (due + 1, True), (due + 1_000 * HOUR, True)):
        found = await world.queries.inbox("care", (), 0, "", as_of=at)
        assert [each.overdue for each in found.cases] == [overdue]
        assert (await world.queries.case(case_id, at)).overdue is overdue
        figures, _ = await world.queries.figures(at)
        assert sum(each.overdue for each in figures) == overdue


async def test_who_was_forgotten_is_in_no_earlier_answer_and_in_the_sums(world: World) -> None:
    """Not as an item, a case or a name, also where what they said was another's for a while; left out is counted."""
    await world.take(
        world.identity.attributed("a", "i1", START, SEATS), world.identity.attributed("b", "i2", START + 1, SEATS)
    )
    apart = (await world.queries.inbox("care", (), 0, "")).commit.recorded_at
    world.clock.now += HOUR
    # All is a's for a while.
    await world.take(world.identity.reattributed("a", "b", "i2", START + 1, SEATS))
    one = (await world.queries.inbox("care", (), 0, "")).commit.recorded_at
    whole = await world.only_case("care")
    assert len((await world.queries.case(whole)).feedback_ids) == 2
    world.clock.now += HOUR
    await world.take(world.identity.reattributed("b", "a", "i2", START + 1, SEATS))
    figures = {at: await told(world.queries.figures(at)) for at in (apart, one)}
    world.clock.now += HOUR
    await world.take(world.identity.forgotten("b", "i2"))
    before = await world.queries.inbox("care", (), 0, "", as_of=apart)
    assert ([each.case.client_id for each in before.cases], before.withheld) == ([client("a")], 1)
    then = await world.queries.inbox("care", (), 0, "", as_of=one)
    assert [each.feedback_ids for each in then.cases] == [[item_id("i1")]]
    assert all(item_id("i2") not in str(each) for each in (await world.queries.case(whole, one)).steps)
    assert (await world.queries.item(item_id("i2"), one)).received is None
    for at, sums in figures.items():
        assert await told(world.queries.figures(at)) == sums
    assert sum(each.counts.items for each in (await world.queries.figures(apart, Interval(START)))[0]) == 1
    # And the other way round: what was a's while a was whole names nobody once a is forgotten.
    await world.take(world.identity.forgotten("a", "i1"))
    assert (await world.queries.inbox("care", (), 0, "", as_of=one)).cases == []
    with world.store.snapshot() as reader:
        for table in tables.TABLES:
            for key, row in reader.scan(table):
                for name in "ab":
                    assert bytes.fromhex(client(name)) not in key + row, table
                    assert client(name).encode() not in row, table


async def test_pages_stand_on_the_instant_of_the_first(world: World) -> None:
    """Whatever happens meanwhile, every case that stood there is told once; a token of another question is refused."""
    await world.take(*(world.identity.attributed(f"c{each}", f"i{each}", START + each, SEATS) for each in range(7)))
    whole = [each.case.case_id for each in (await world.queries.inbox("care", (), 0, "")).cases]
    page = await world.queries.inbox("care", (), 3, "")
    listed = list(page.cases)
    await world.caring.do(Resolve(whole[1], "ana", "", "", START + HOUR))
    await world.caring.do(Resolve(whole[5], "ana", "", "", START + HOUR))
    await world.take(world.identity.attributed("new", "late", START, SEATS))
    with pytest.raises(InvalidError):
        await world.queries.inbox("care", (), 3, page.next_page_token, as_of=5)
    while page.next_page_token:
        page = await world.queries.inbox("care", (), 3, page.next_page_token)
        listed += page.cases
    assert [each.case.case_id for each in listed] == whole
    assert all(each.case.state is CaseState.OPEN for each in listed)
