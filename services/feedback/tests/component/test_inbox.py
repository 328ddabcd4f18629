"""A department's inbox: most urgent first, told as it changes, and nothing missed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from feedback_world import HOUR, ROUTES, START, World, answer, submission

from feedback.application.caring import SWEEP
from feedback.application.watching import Change, InboxWatch
from feedback.domain.cases import CaseState
from feedback.domain.lifecycle import Acknowledge, Reassign, Reopen, Resolve
from throughline_kernel import ConflictError, InvalidError, NotFoundError, PreconditionError, hex_id

SEATS = [answer(topic="seats")]


async def inbox(world: World, department: str, *states: CaseState) -> list[str]:
    found = await world.queries.inbox(department, states, 0, "")
    return [each.case.case_id for each in found.cases]


async def test_the_most_urgent_comes_first(world: World) -> None:
    """By the next deadline: what is overdue, then what is due soon; acknowledging puts a case behind."""
    for number, hours in enumerate((5, 1, 3)):
        await world.take(world.identity.attributed(f"c{number}", f"i{number}", START + hours * HOUR, SEATS))
    by_age = await inbox(world, "care")
    opened = [(await world.queries.case(each)).case.opened_at for each in by_age]
    assert opened == sorted(opened)
    await world.caring.do(Acknowledge(by_age[0], "ana", START + 6 * HOUR))
    assert await inbox(world, "care") == [*by_age[1:], by_age[0]]
    world.clock.now = START + 6 * HOUR
    listed = (await world.queries.inbox("care", (), 0, "")).cases
    assert [each.overdue for each in listed] == [False, False, False]
    world.clock.now = START + 8 * HOUR
    listed = (await world.queries.inbox("care", (), 0, "")).cases
    assert [each.overdue for each in listed] == [True, False, False]


async def test_pages_tell_every_case_once(world: World) -> None:
    """Whatever the size of a page, and with closed cases asked for too."""
    await world.take(
        *(world.identity.attributed(f"c{number}", f"i{number}", START + number, SEATS) for number in range(7))
    )
    for case_id in (await inbox(world, "care"))[:3]:
        await world.caring.do(Resolve(case_id, "ana", "", "", START + HOUR))
    every = (CaseState.OPEN, CaseState.ACKNOWLEDGED, CaseState.RESOLVED)
    whole = await inbox(world, "care", *every)
    assert len(whole) == 7
    for size in (1, 2, 3, 7, 50):
        told: list[str] = []
        token = ""
        while True:
            page = await world.queries.inbox("care", every, size, token)
            told += [each.case.case_id for each in page.cases]
            token = page.next_page_token
            if not token:
                break
            assert len(page.cases) == size
        assert told == whole
    assert len(await inbox(world, "care", CaseState.RESOLVED)) == 3
    assert len(await inbox(world, "care")) == 4


async def test_a_token_of_another_inbox_is_refused(world: World) -> None:
    """PAGE_TOKEN_INVALID, for another department's and for no token at all; no page of negative size."""
    await world.take(*(world.identity.attributed(f"c{n}", f"i{n}", START, SEATS) for n in range(2)))
    token = (await world.queries.inbox("care", (), 1, "")).next_page_token
    for department, wrong in (("billing", token), ("care", "nonsense"), ("care", "!")):
        with pytest.raises(InvalidError) as refused:
            await world.queries.inbox(department, (), 1, wrong)
        assert refused.value.reason == "PAGE_TOKEN_INVALID"
    with pytest.raises(InvalidError):
        await world.queries.inbox("care", (), -1, "")
    with pytest.raises(NotFoundError):
        await world.queries.inbox("nobody", (), 1, "")


async def test_missed_deadlines_escalate_once_each_and_are_told(world: World) -> None:
    """The sweeper moves the case to whom its department escalates, then to the default owner."""
    await world.take(world.identity.attributed("a", "i1", START, [answer(words="refund")]))
    case_id = await world.only_case("billing")
    world.clock.now = START + HOUR
    assert await world.caring.sweep() == 0
    world.clock.now = START + 2 * HOUR
    assert await world.caring.sweep() == 1
    assert await world.caring.sweep() == 0
    assert await world.only_case("board") == case_id
    world.clock.now = START + 49 * HOUR
    assert await world.caring.sweep() == 1
    assert await world.caring.sweep() == 0
    found = await world.queries.case(await world.only_case("care"))
    assert [(step.type, step.text) for step in found.steps[1:]] == [
        ("CaseEscalated", "missed to acknowledge: from billing to board"),
        ("CaseEscalated", "missed to resolve: from board to care"),
    ]
    assert found.case.escalated
    assert found.overdue
    figures = {each.department: each for each in (await world.queries.figures())[0]}
    assert (figures["care"].counts.escalated, figures["care"].overdue) == (1, 1)
    assert figures["billing"].counts.cases == 0
    await world.checked()


async def test_a_deadline_that_was_over_before_the_case_was_known_escalates_to_nobody(world: World) -> None:
    """What is imported late is overdue and stays where it is; the deadline that is still ahead is watched."""
    world.clock.now = START + 10 * HOUR
    await world.take(world.identity.attributed("a", "i1", START, SEATS))
    world.clock.now = START + 20 * HOUR
    assert await world.caring.sweep() == 0
    (listed,) = (await world.queries.inbox("care", (), 0, "")).cases
    assert (listed.overdue, listed.case.escalated) == (True, False)
    await world.take(world.identity.attributed("a", "i2", START + 11 * HOUR, SEATS))
    world.clock.now = START + 49 * HOUR
    assert await world.caring.sweep() == 1
    found = await world.queries.case(await world.only_case("care"))
    assert found.steps[-1].text == "missed to resolve: from care to care"
    await world.checked()


async def test_a_sweep_is_bounded(world: World) -> None:
    """No transaction escalates more than SWEEP cases; the next sweep goes on."""
    await world.take(
        *(world.identity.attributed(f"c{n}", f"i{n}", START + n, SEATS) for n in range(SWEEP + 20)), chunk=200
    )
    world.clock.now = START + 5 * HOUR
    assert [await world.caring.sweep() for _ in range(3)] == [SWEEP, 20, 0]


async def test_acts_of_one_instant_keep_their_order(world: World) -> None:
    """Commands that reach one transaction in one microsecond are decided one after the other."""
    await world.take(world.identity.attributed("a", "i1", START, SEATS))
    case_id = await world.only_case("care")
    at = START + HOUR
    await asyncio.gather(
        world.caring.do(Acknowledge(case_id, "ana", at)),
        world.caring.do(Resolve(case_id, "ana", "done", "", at)),
        world.caring.do(Reopen(case_id, "bo", "no", at)),
        world.caring.do(Reassign(case_id, "delivery", "bo", "theirs", at)),
    )
    found = await world.queries.case(case_id)
    assert (found.case.state, found.case.department, found.case.reopened) == (CaseState.OPEN, "delivery", 1)
    assert [step.type for step in found.steps] == [
        "CaseOpened",
        "CaseAcknowledged",
        "CaseResolved",
        "CaseReopened",
        "CaseReassigned",
    ]
    await world.checked()


async def test_what_cannot_be_done_is_refused_and_changes_nothing(world: World) -> None:
    """Unknown and withdrawn cases, and states that do not allow it; the others of the transaction go through."""
    await world.take(world.identity.attributed("a", "i1", START, SEATS))
    case_id = await world.only_case("care")
    at = START + HOUR
    results = await asyncio.gather(
        world.caring.do(Acknowledge(hex_id("no"), "ana", at)),
        world.caring.do(Resolve(case_id, "ana", "", "", at)),
        world.caring.do(Acknowledge(case_id, "ana", at)),
        return_exceptions=True,
    )
    assert [getattr(each, "reason", "done") for each in results] == ["CASE_NOT_FOUND", "done", "CASE_RESOLVED"]
    await world.take(world.identity.reattributed("b", "a", "i1", START, SEATS))
    with pytest.raises(PreconditionError) as refused:
        await world.caring.do(Reopen(case_id, "ana", "", at))
    assert refused.value.reason == "CASE_WITHDRAWN"
    await world.checked()


async def test_routes_hold_for_what_arrives_from_their_publication_on(world: World) -> None:
    """What was sorted stays as it was; versions follow each other; a retry is no news; the log replays with both."""
    from dataclasses import replace

    from feedback.domain.routing import Route

    await world.take(world.identity.attributed("a", "i1", START, SEATS))
    following = replace(ROUTES, version=2, routes=(Route("seats", "delivery", topics=("seats",)),))
    done = await world.caring.publish(following, "ana")
    assert await world.caring.publish(following, "ana") == done
    assert done.version == 2
    with pytest.raises(ConflictError) as refused:
        await world.caring.publish(replace(following, default_department="board"), "ana")
    assert (refused.value.reason, refused.value.metadata) == ("ROUTES_VERSION_STALE", {"version": "2", "next": "3"})
    with pytest.raises(InvalidError):
        await world.caring.publish(replace(following, version=3, default_department="x"), "ana")
    await world.take(world.identity.attributed("b", "i2", START, SEATS))
    assert len(await inbox(world, "care")) == len(await inbox(world, "delivery")) == 1
    assert (await world.queries.routes()).version == 2
    await world.caring.publish_first(ROUTES)
    assert (await world.queries.routes()).version == 2
    await world.checked()


class Watcher:
    """Hears an inbox."""

    def __init__(self, told: AsyncIterator[Change]) -> None:
        self._told = told

    async def next(self) -> Change:
        return await asyncio.wait_for(anext(self._told), 20)


async def test_a_watcher_hears_what_waits_and_then_each_change(world: World) -> None:
    """Snapshot, then changes in order; a case that leaves is told once more, others' cases never."""
    await world.take(world.identity.attributed("a", "i1", START, SEATS))
    case_id = await world.only_case("care")
    watch = InboxWatch(world.store, world.clock).watch("care")
    watcher = Watcher(watch)
    first = await watcher.next()
    assert (first.case.case.case_id, first.case.case.state) == (case_id, CaseState.OPEN)
    await world.caring.do(Acknowledge(case_id, "ana", START + 1))
    second = await watcher.next()
    assert second.case.case.state is CaseState.ACKNOWLEDGED
    assert second.position > first.position
    await world.take(world.identity.attributed("b", "i2", START, [answer(words="refund")]))
    await world.caring.do(Reassign(case_id, "delivery", "ana", "", START + 2))
    assert (await watcher.next()).case.case.department == "delivery"
    await world.caring.do(Reassign(case_id, "board", "ana", "", START + 3))
    await world.take(world.identity.attributed("c", "i3", START, SEATS))
    assert (await watcher.next()).case.feedback_ids
    await watch.aclose()  # pyright: ignore[reportAttributeAccessIssue] # an asynchronous generator


async def test_a_slow_watcher_is_told_what_stands_instead_of_every_change(world: World) -> None:
    """Beyond the buffer the whole inbox is told again, with what left it; memory stays bounded."""
    await world.take(world.identity.attributed("a", "i0", START, SEATS))
    gone = await world.only_case("care")
    watch = InboxWatch(world.store, world.clock, buffer=3).watch("care")
    watcher = Watcher(watch)
    assert (await watcher.next()).case.case.case_id == gone
    await world.caring.do(Resolve(gone, "ana", "", "", START + 1))
    await world.take(*(world.identity.attributed(f"c{n}", f"i{n}", START + n, SEATS) for n in range(1, 9)))
    told = [await watcher.next() for _ in range(9)]
    assert told[0].case.case.state is CaseState.RESOLVED
    assert {each.case.case.case_id for each in told[1:]} == set(await inbox(world, "care"))
    await world.take(world.identity.attributed("z", "i99", START, SEATS))
    assert (await watcher.next()).case.case.client_id
    await watch.aclose()  # pyright: ignore[reportAttributeAccessIssue] # an asynchronous generator


async def test_nobody_watches_a_department_that_is_not_there(world: World) -> None:
    """DEPARTMENT_UNKNOWN before anything is told."""
    with pytest.raises(NotFoundError):
        await anext(InboxWatch(world.store, world.clock).watch("nobody"))


async def test_an_old_log_is_read_for_a_client_and_for_an_interaction(world: World) -> None:
    """The events of one client fold to its state, wherever its items came from; an interaction's are told alone."""
    from feedback_world import client

    await world.take(
        world.identity.attributed("a", "i1", START, SEATS),
        world.identity.attributed("a", "i2", START, [answer(words="refund")]),
        world.identity.attributed("b", "i3", START, SEATS),
    )
    await world.caring.do(Acknowledge(await world.only_case("billing"), "ana", START + 1))
    await world.take(world.identity.reattributed("b", "a", "i2", START, [answer(words="refund")]))
    await world.submitting.submit(submission(client_id=client("b")))
    whole = await world.checked()
    routes = [each for each in world.log() if each.type.endswith("RoutesPublished")]
    for who in ("a", "b"):
        with world.store.snapshot() as reader:
            mine = list(world.live.client_positions(reader, client(who), ()))
        assert [each.position for each in mine] == sorted(each.position for each in mine)
        assert world.replayed([*routes, *mine])[f"feedback/{client(who)}"] == whole[f"feedback/{client(who)}"]
    with world.store.snapshot() as reader:
        of_one = list(world.live.client_positions(reader, "", [hex_id("interaction", "till", "i1")]))
    names = [each.type.rpartition(".")[2] for each in of_one]
    assert names == ["FeedbackReceived", "FeedbackClassified", "CaseOpened"]
