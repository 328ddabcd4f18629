"""What identity tells becomes items, owners and cases: once, and the same in any order."""

from __future__ import annotations

import random

import pytest
from feedback_world import HOUR, START, World, answer, client, item_id, submission

from feedback.application import tables
from feedback.domain.cases import CaseState
from feedback.domain.lifecycle import Acknowledge, Resolve
from throughline.ingestion.v1 import interaction_pb2 as interaction
from throughline_kernel import ConflictError, NotFoundError, Recorded, hex_id

NPS = interaction.FEEDBACK_KIND_NPS


async def test_an_interaction_with_answers_becomes_an_item_each(world: World) -> None:
    """Each answer is an item of its own, sorted by its own words, with the interaction's facts and cause."""
    answers = [answer(NPS, 2, words="I want my money back"), answer(NPS, 9), answer(topic="seats")]
    event = world.identity.attributed("a", "i1", START, answers, matter="delivery", channel="phone")
    await world.take(event)
    first = await world.queries.item(item_id("i1", 0))
    assert first.received is not None
    assert (first.client_id, first.received.channel, first.words) == (client("a"), "phone", "I want my money back")
    assert [(each[0], each[1], each[3]) for each in first.assignments] == [
        ("billing", "money", "keyword: money back"),
        ("delivery", "delivery", "matter: delivery"),
    ]
    praise = await world.queries.item(item_id("i1", 1))
    assert [each[4] for each in praise.assignments] == [""]
    received = [each for each in world.log() if each.type.endswith("FeedbackReceived")]
    assert [each.event_id.hex() for each in received] == [item_id("i1", entry) for entry in range(3)]
    assert {each.causation_id for each in received} == {event.event_id.hex()}
    assert {each.correlation_id for each in received} == {event.correlation_id}
    await world.checked()


async def test_an_interaction_without_feedback_leaves_nothing_in_the_log(world: World) -> None:
    """Only whose it is is noted, for submissions that name it later."""
    await world.take(world.identity.attributed("a", "i1", START))
    assert world.kinds() == []
    with world.store.snapshot() as reader:
        assert reader.count(tables.INTERACTIONS) == 1


async def test_a_repeat_of_an_attribution_changes_nothing(world: World) -> None:
    """The same attribution again, at the same place or behind it, is no news."""
    first = world.identity.attributed("a", "i1", START, [answer()])
    again = world.identity.attributed("a", "i1", START, [answer()])
    await world.take(first)
    before = await world.checked()
    kinds = world.kinds()
    await world.take(first, again, first)
    assert world.kinds() == kinds
    assert await world.checked() == before


async def test_a_merge_brings_items_cases_and_what_was_done_to_the_other_client(world: World) -> None:
    """After a re-attribution the case is the new client's, acknowledged as it was; the old one is withdrawn."""
    await world.take(world.identity.attributed("anonymous", "i1", START, [answer(topic="seats")]))
    old = await world.only_case("care")
    await world.caring.do(Acknowledge(old, "ana", START + HOUR))
    await world.take(world.identity.reattributed("known", "anonymous", "i1", START, [answer(topic="seats")]))
    new = await world.only_case("care")
    assert new != old
    found = await world.queries.case(new)
    assert (found.case.client_id, found.case.state, found.case.acknowledged_by) == (
        client("known"),
        CaseState.ACKNOWLEDGED,
        "ana",
    )
    assert found.feedback_ids == [item_id("i1")]
    assert [step.type for step in found.steps] == ["CaseOpened", "CaseAcknowledged"]
    gone = await world.queries.case(old)
    assert gone.case.state is CaseState.WITHDRAWN
    assert gone.feedback_ids == []
    moved = [each for each in world.log() if each.type.endswith("FeedbackReassigned")]
    assert {each.stream_id for each in moved} == {
        tables.stream_of(client("known"), ""),
        tables.stream_of(client("anonymous"), ""),
    }
    await world.checked()


async def test_an_older_attribution_that_comes_later_does_not_count(world: World) -> None:
    """The attribution with the highest position holds, in whatever order they are taken."""
    older = world.identity.attributed("a", "i1", START, [answer()])
    newer = world.identity.reattributed("b", "a", "i1", START, [answer()])
    await world.take(newer)
    await world.take(older)
    assert (await world.queries.item(item_id("i1"))).client_id == client("b")
    with world.store.snapshot() as reader:
        row = reader.get(tables.INTERACTIONS, bytes.fromhex(hex_id("interaction", "till", "i1")))
    assert row is not None
    assert row[:16].hex() == client("b")


async def test_recurrence_reopens_the_case(world: World) -> None:
    """The same matter again within the time reopens the case that was resolved; the step names the item."""
    await world.take(world.identity.attributed("a", "i1", START, [answer(topic="seats")]))
    case_id = await world.only_case("care")
    await world.caring.do(Resolve(case_id, "ana", "new seats", "worn", START + HOUR))
    assert (await world.queries.inbox("care", (), 0, "")).cases == []
    await world.take(world.identity.attributed("a", "i2", START + 5 * HOUR, [answer(topic="seats")]))
    found = await world.queries.case(await world.only_case("care"))
    assert (found.case.case_id, found.case.reopened, found.case.state) == (case_id, 1, CaseState.OPEN)
    assert found.steps[-1].text == f"item {item_id('i2')} came again"
    await world.take(world.identity.attributed("b", "i3", START + 5 * HOUR, [answer(topic="seats")]))
    assert len((await world.queries.inbox("care", (), 0, "")).cases) == 2
    await world.checked()


def history(world: World, number: int) -> list[Recorded]:
    """Interactions of three clients on few matters, some moved to another client later."""
    rng = random.Random(number)
    events: list[Recorded] = []
    for name in range(24):
        who = rng.choice("abc")
        at = START + rng.randrange(0, 60) * HOUR
        said = [
            answer(topic=rng.choice(["seats", ""]), words=rng.choice(["", "refund!"]), score=None)
            for _ in range(rng.randrange(0, 3))
        ]
        matter = rng.choice(["", "delivery"])
        events.append(world.identity.attributed(who, str(name), at, said, matter=matter))
        if rng.random() < 0.4:
            other = rng.choice("abc")
            events.append(world.identity.reattributed(other, who, str(name), at, said, matter=matter))
    return events


@pytest.mark.parametrize("number", range(4))
async def test_any_order_batching_and_repetition_gives_the_same_state(
    world: World, tmp_path: object, number: int, open_test_store: object
) -> None:
    """Law 3: shuffled, repeated, cut into other chunks and with cold caches: one state, and a replay gives it too."""
    from feedback_world import ALL_TABLES

    events = history(world, number)
    await world.take(*events, chunk=7)
    wanted = await world.checked()
    assert len(wanted) == 4
    rng = random.Random(number)
    other = await World(
        open_test_store(tables=ALL_TABLES, service=f"other{number}"),  # pyright: ignore[reportCallIssue]
        tmp_path,  # pyright: ignore[reportArgumentType]
        max_weight=2,
        name="keys",
    ).begin()
    shuffled = [*events, *rng.sample(events, 5)]
    rng.shuffle(shuffled)
    await other.take(*shuffled, chunk=rng.randrange(1, 6))
    assert await other.checked() == wanted
    figures, _ = await world.queries.figures()
    same, _ = await other.queries.figures()
    assert figures == same
    assert sum(each.counts.open for each in figures) == sum(each.counts.cases for each in figures) > 0
    await other.close()


async def test_a_transaction_that_fails_leaves_no_trace_in_memory(world: World) -> None:
    """What was decided in a transaction that was undone is forgotten: the next one starts from the log."""
    event = world.identity.attributed("a", "i1", START, [answer()])

    class Spoiled:
        def __call__(self, tx: object, items: object, /) -> list[None]:
            world.intake(tx, [event])  # pyright: ignore[reportArgumentType]
            raise RuntimeError("spoiled")

        def rolled_back(self) -> None:
            world.intake.rolled_back()

    with pytest.raises(RuntimeError, match="spoiled"):
        await world.writer.submit(Spoiled(), None)
    assert world.kinds() == []
    await world.take(event)
    assert world.kinds() == ["FeedbackReceived", "FeedbackClassified", "CaseOpened"]
    await world.checked()


async def test_a_forgotten_client_leaves_neither_words_nor_items_nor_cases(world: World) -> None:
    """Law 9: keys destroyed, rows gone, figures down, the log still folds; a repeat does not bring them back."""
    said = [answer(words="my secret refund", topic="seats")]
    event = world.identity.attributed("a", "i1", START, said)
    other = world.identity.attributed("b", "i2", START, [answer(words="also a refund")])
    await world.take(event, other)
    direct = await world.submitting.submit(submission(verbatim="hidden words", client_id=client("a")))
    await world.take(world.identity.opened("a"))
    cases = (await world.queries.inbox("billing", (), 0, "")).cases
    assert len(cases) == 2
    mine = next(each for each in cases if each.case.client_id == client("a"))
    keys = [each.received.verbatim.key_id for each in [await world.queries.item(direct.feedback_id)] if each.received]
    await world.take(world.identity.forgotten("a", "i1"))
    assert world.vault.destroyed(keys) == set(keys)
    for feedback_id in (item_id("i1"), direct.feedback_id):
        found = await world.queries.item(feedback_id)
        assert (found.received, found.words, found.assignments, found.client_id) == (None, None, [], "")
    with pytest.raises(NotFoundError):
        await world.queries.case(mine.case.case_id)
    figures = {each.department: each for each in (await world.queries.figures())[0]}
    assert figures["billing"].counts == tables.Counts(items=1, cases=1, open=1)
    assert figures["care"].counts == tables.Counts()
    with world.store.snapshot() as reader:
        for table in tables.TABLES:
            for key, row in reader.scan(table):
                assert bytes.fromhex(client("a")) not in key, table
                assert client("a").encode() not in row, table
    await world.take(event, world.identity.attributed("a", "i1", START, [answer(topic="seats")]))
    assert (await world.queries.item(item_id("i1"))).received is None
    again = await world.submitting.submit(submission(verbatim="hidden words", client_id=client("a")))
    assert (again.duplicate, again.assignments) == (True, [])
    with pytest.raises(ConflictError):
        await world.submitting.submit(submission(verbatim="other words", client_id=client("a")))
    assert world.kinds().count("ClientDropped") == 1
    await world.checked()


async def test_nothing_personal_is_in_the_clear(world: World, tmp_path: object) -> None:
    """The bytes of words and identifiers stand nowhere in log or tables."""
    secrets = ["purple elephant", "anna.secret@mail.example.org", "green submarine"]
    await world.take(world.identity.attributed("a", "i1", START, [answer(words=secrets[0])], email=secrets[1]))
    await world.submitting.submit(submission(verbatim=secrets[2], identifiers=[secrets[1]]))
    await world.submitting.submit(submission("s2", verbatim=secrets[2]))
    with world.store.snapshot() as reader:
        written = b"".join(event.payload for event in reader.read())
        for table in tables.TABLES:
            written += b"".join(key + row for key, row in reader.scan(table))
    for secret in secrets:
        assert secret.encode() not in written
    assert (await world.queries.item(item_id("i1"))).words == secrets[0]


async def test_a_forgotten_persona_is_sorted_without_its_words(world: World) -> None:
    """Words that nobody can read any more open no route; the item still has an owner."""
    event = world.identity.attributed("a", "i1", START, [answer(words="refund")])
    world.vault.destroy([world.identity.facts("i1", START)[0].persona_id])
    await world.take(event)
    found = await world.queries.item(item_id("i1"))
    assert [each[2] for each in found.assignments] == ["default"]
    assert found.words is None
