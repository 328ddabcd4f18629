"""Direct submissions: once for ever, and of whoever they turn out to be."""

from __future__ import annotations

import json
from typing import Any

import pytest
from feedback_world import START, World, answer, client, submission

from feedback.application.tables import stream_of
from feedback.domain.cases import CaseState
from throughline.feedback.v1 import events_pb2 as events
from throughline_kernel import ConflictError, InvalidError, hex_id


async def test_a_submission_is_sorted_and_answered_with_its_place(world: World) -> None:
    """The answer names the item, its owners with their cases, and where it stands in the log."""
    done = await world.submitting.submit(submission(verbatim="a refund, please", client_id=client("a")))
    assert done.feedback_id == hex_id("feedback", "survey", "s1")
    assert not done.duplicate
    ((department, topic, route, because, case_id),) = done.assignments
    assert (department, topic, route, because) == ("billing", "money", "money", "keyword: refund")
    assert case_id == await world.only_case("billing")
    (event,) = [each for each in world.log() if each.position == done.position]
    assert event.event_id.hex() == done.feedback_id
    assert event.stream_id == stream_of(client("a"), "")
    await world.checked()


async def test_a_repeat_is_a_duplicate_for_ever(world: World) -> None:
    """The same again, now or in the same transaction, is answered as the first was and stored once."""
    first = await world.submitting.submit(submission(verbatim="hello", identifiers=["a@shop.test"]))
    before = len(world.log())
    again = await world.submitting.submit(submission(verbatim="hello", identifiers=[" A@shop.test"]))
    assert again == first._replace(duplicate=True)
    assert len(world.log()) == before


@pytest.mark.parametrize(
    "change",
    [
        {"score": 4},
        {"verbatim": "other"},
        {"identifiers": ["b@shop.test"]},
        {"attributes": b'{"a":1}'},
        {"occurred_at": START + 1},
        {"channel": "mail"},
    ],
)
async def test_other_content_under_the_same_id_is_a_conflict_that_is_kept_once(
    world: World, change: dict[str, Any]
) -> None:
    """Law 2: the first stands, the other is kept beside it and refused, however often it comes."""
    first = await world.submitting.submit(submission(verbatim="hello", identifiers=["a@shop.test"]))
    offered = submission(**({"verbatim": "hello", "identifiers": ["a@shop.test"], **change}))
    for _ in range(2):
        with pytest.raises(ConflictError) as refused:
            await world.submitting.submit(offered)
        assert (refused.value.reason, refused.value.metadata) == (
            "FEEDBACK_CONFLICT",
            {"feedback_id": first.feedback_id},
        )
    (kept,) = [each for each in world.log() if each.type.endswith("FeedbackConflicted")]
    message = events.FeedbackConflicted.FromString(kept.payload)
    assert message.offered.feedback_id == first.feedback_id
    assert message.offered.content_mac != message.received_content_mac
    assert (await world.queries.item(first.feedback_id)).words == "hello"
    await world.checked()


async def test_an_anonymous_item_has_a_case_of_its_own(world: World) -> None:
    """Two strangers on one topic are two cases."""
    for name in ("s1", "s2"):
        await world.submitting.submit(submission(name, topic="seats"))
    cases = (await world.queries.inbox("care", (), 0, "")).cases
    assert [each.case.client_id for each in cases] == ["", ""]
    await world.checked()


async def test_an_item_becomes_its_clients_when_identity_learns_the_address(world: World) -> None:
    """Submitted before anybody knew: re-assigned with its case when the identifier is linked."""
    done = await world.submitting.submit(submission(identifiers=["a@shop.test"], topic="seats"))
    assert (await world.queries.item(done.feedback_id)).client_id == ""
    await world.take(world.identity.opened("a"), world.identity.linked("a", "a@shop.test"))
    found = await world.queries.item(done.feedback_id)
    assert found.client_id == client("a")
    case = await world.queries.case(await world.only_case("care"))
    assert case.case.client_id == client("a")
    assert case.feedback_ids == [done.feedback_id]
    await world.checked()


async def test_an_item_of_a_known_address_is_its_clients_at_once(world: World) -> None:
    """Resolved on arrival where identity told before."""
    await world.take(world.identity.opened("a"), world.identity.linked("a", "a@shop.test"))
    done = await world.submitting.submit(submission(identifiers=["A@shop.test"]))
    assert (await world.queries.item(done.feedback_id)).client_id == client("a")


async def test_an_item_about_an_interaction_is_whose_the_interaction_is(world: World) -> None:
    """Known before or later, and moved with the interaction."""
    before = await world.submitting.submit(submission("s1", interaction_id=hex_id("interaction", "till", "i1")))
    await world.take(world.identity.attributed("a", "i1", START))
    after = await world.submitting.submit(submission("s2", interaction_id=hex_id("interaction", "till", "i1")))
    for done in (before, after):
        assert (await world.queries.item(done.feedback_id)).client_id == client("a")
    await world.take(world.identity.reattributed("b", "a", "i1", START))
    for done in (before, after):
        assert (await world.queries.item(done.feedback_id)).client_id == client("b")
    await world.checked()


async def test_a_merge_and_its_undoing_move_direct_items_there_and_back(world: World) -> None:
    """By named client id and by identifier alike; afterwards all is as if there had been no merge."""
    await world.take(
        world.identity.opened("a"),
        world.identity.opened("b"),
        world.identity.linked("a", "a@shop.test"),
        world.identity.linked("b", "b@shop.test"),
    )
    named = await world.submitting.submit(submission("s1", client_id=client("b"), topic="seats"))
    addressed = await world.submitting.submit(submission("s2", identifiers=["b@shop.test"], topic="seats"))
    other = await world.submitting.submit(submission("s3", client_id=client("a"), topic="seats"))
    before = await world.checked()
    await world.take(world.identity.merged("a", "b"))
    for done in (named, addressed, other):
        assert (await world.queries.item(done.feedback_id)).client_id == client("a")
    assert len((await world.queries.inbox("care", (), 0, "")).cases) == 1
    await world.checked()
    await world.take(world.identity.undone("a", "b"))
    assert (await world.queries.item(named.feedback_id)).client_id == client("b")
    assert (await world.queries.item(addressed.feedback_id)).client_id == client("b")
    assert (await world.queries.item(other.feedback_id)).client_id == client("a")
    assert await world.checked() == before


async def test_a_submission_of_somebody_forgotten_is_nobodys_and_can_be_sealed(world: World) -> None:
    """The persona begins anew under another key; the old key stays destroyed."""
    first = await world.submitting.submit(submission("s1", verbatim="one", identifiers=["a@shop.test"]))
    await world.take(world.identity.opened("a"), world.identity.linked("a", "a@shop.test"))
    await world.take(world.identity.forgotten("a", "x", email="a@shop.test"))
    assert (await world.queries.item(first.feedback_id)).received is None
    second = await world.submitting.submit(
        submission("s2", verbatim="two", identifiers=["a@shop.test"], client_id=client("a"))
    )
    found = await world.queries.item(second.feedback_id)
    assert (found.client_id, found.words) == ("", "two")
    await world.checked()


@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        ({"source": ""}, "source", "FIELD_REQUIRED"),
        ({"source": "Big Survey"}, "source", "FIELD_INVALID"),
        ({"source_feedback_id": ""}, "source_feedback_id", "FIELD_REQUIRED"),
        ({"channel": ""}, "channel", "FIELD_REQUIRED"),
        ({"kind": 0}, "feedback.kind", "FIELD_REQUIRED"),
        ({"kind": 99}, "feedback.kind", "FIELD_INVALID"),
        ({"score": 11}, "feedback.score", "FIELD_INVALID"),
        ({"score": None}, "feedback.score", "FIELD_REQUIRED"),
        ({"kind": 2, "score": 0}, "feedback.score", "FIELD_INVALID"),
        ({"kind": 2, "scale_min": 5, "scale_max": 1}, "feedback.scale_max", "FIELD_INVALID"),
        ({"scale_max": 100}, "feedback.scale_min", "FIELD_INVALID"),
        ({"occurred_at": 0}, "occurred_at", "FIELD_REQUIRED"),
        ({"occurred_at": 1_700_000_000}, "occurred_at", "FIELD_INVALID"),
        ({"occurred_at": START + 3 * 86_400_000_000}, "occurred_at", "FIELD_INVALID"),
        ({"verbatim": "x" * 65_537}, "feedback.verbatim", "FIELD_INVALID"),
        ({"verbatim": "a\0b"}, "feedback.verbatim", "FIELD_INVALID"),
        ({"attributes": None}, "attributes", "FIELD_INVALID"),
        ({"attributes": b'{"a":"' + b"x" * 70_000 + b'"}'}, "attributes", "FIELD_INVALID"),
        ({"attributes": b'{"a":' + b"[" * 16 + b"]" * 16 + b"}"}, "attributes", "FIELD_INVALID"),
        ({"attributes": b'{"a":' * 17 + b"1" + b"}" * 17}, "attributes", "FIELD_INVALID"),
        ({"client_id": "someone"}, "client_id", "FIELD_INVALID"),
        ({"interaction_id": "something"}, "interaction_id", "FIELD_INVALID"),
        ({"identifiers": ["x"] * 33}, "identifiers", "FIELD_INVALID"),
        ({"weight_micros": -1}, "feedback.weight_micros", "FIELD_INVALID"),
    ],
)
async def test_what_is_not_sound_is_refused_with_field_rule_and_remedy(
    world: World, change: dict[str, Any], field: str, reason: str
) -> None:
    """Nothing is stored of it."""
    with pytest.raises(InvalidError) as refused:
        await world.submitting.submit(submission(**change))
    violation = next(each for each in refused.value.violations if each.field == field)
    assert violation.reason == reason
    assert violation.rule
    assert violation.remedy
    assert world.kinds() == []


@pytest.mark.parametrize(
    "attributes",
    [b'{"a":' + b"[" * 15 + b"]" * 15 + b"}", b'{"a":"' + rb"{\"[\\" * 40 + b'"}', b'{"a":[{}' + b",[]" * 40 + b"]}"],
)
async def test_attributes_that_are_not_too_deep_are_taken(world: World, attributes: bytes) -> None:
    """Sixteen within one another; brackets in words, and lists side by side, count for nothing."""
    json.loads(attributes)
    assert (await world.submitting.submit(submission(attributes=attributes))).feedback_id


async def test_words_that_are_not_sorted_by_anything_are_still_opened_for_people(world: World) -> None:
    """GetFeedback gives the words as they were written."""
    words = "Größe passt nicht — 靴が小さい 😀"
    done = await world.submitting.submit(submission(verbatim=words))
    assert (await world.queries.item(done.feedback_id)).words == words
    (found,) = (await world.queries.inbox("care", (CaseState.OPEN,), 0, "")).cases
    assert found.feedback_ids == [done.feedback_id]


async def test_answers_of_an_interaction_and_submissions_share_a_case(world: World) -> None:
    """A matter is a client, a department and a topic, wherever its items come from."""
    await world.take(world.identity.attributed("a", "i1", START, [answer(topic="seats")]))
    done = await world.submitting.submit(submission(client_id=client("a"), topic="seats", occurred_at=START + 1))
    found = await world.queries.case(await world.only_case("care"))
    assert found.case.items == 2
    assert found.feedback_ids[1] == done.feedback_id
