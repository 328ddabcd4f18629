"""The laws, on the real embedded store: one state whatever the order, and announcements that follow from it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from throughline.feedback.v1 import events_pb2 as feedback_pb2
from throughline_kernel import Recorded, hex_id

SETTINGS = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
KINDS = (
    ("instagram", "post", "social"),
    ("web", "visit", "site"),
    ("web", "reservation", "site"),
    ("store", "visit", "store"),
    ("store", "purchase", "store"),
    ("mail", "campaign_sent", "mail"),
    ("store", "coupon_redeemed", "store"),
    ("web", "service_request", "site"),
    ("call_centre", "service_update", "contact_centre"),
)
CLIENTS = ("ann", "bob", "cleo")

interactions = st.lists(
    st.tuples(st.integers(0, 90), st.sampled_from(KINDS), st.sampled_from(["", "m1", "m2"])), max_size=14
)
moves = st.lists(
    st.one_of(
        st.tuples(st.just("attribute"), st.integers(0, 13), st.sampled_from(CLIENTS)),
        st.tuples(st.just("forget"), st.just(0), st.sampled_from(CLIENTS)),
    ),
    max_size=12,
)
reports = st.lists(
    st.tuples(
        st.sampled_from(["received", "reassigned", "classified", "opened", "acknowledged", "resolved", "reopened"]),
        st.integers(0, 2),
        st.sampled_from(CLIENTS),
    ),
    max_size=12,
)


def identity_log(say: SimpleNamespace, told: Sequence[Any], moved: Sequence[Any], *, forget: bool) -> list[Recorded]:
    """First whose each interaction is, then how that changes."""
    log: Any = say.Upstream("identity")
    facts = [
        say.fact(
            day * say.DAY,
            channel,
            kind,
            group=group,
            id=str(index),
            case_id=matter,
            campaign_id=matter,
            exchanges=(say.Exchange("size", matter, False),),
            promises=(say.PromiseMade(f"p{index % 3}", "t", 0),) if index % 4 == 0 else (),
            kept=(f"p{index % 3}",) if index % 4 == 3 else (),
            scores=(say.Score(1, index % 11, matter),) if index % 5 == 0 else (),
        )
        for index, (day, (channel, kind, group), matter) in enumerate(told)
    ]
    owners: dict[int, str] = {}
    gone: set[str] = set()
    for name in CLIENTS:
        log.opened(say.client(name))
    for index, fact in enumerate(facts):
        owners[index] = say.client(CLIENTS[index % 3])
        log.attributed(owners[index], fact)
    for move, index, name in moved:
        who = say.client(name)
        if move == "forget":
            if forget and who not in gone:
                gone.add(who)
                log.forgotten(who)
        elif index in owners and owners[index] != who and not {who, owners[index]} & gone:
            log.reattributed(who, owners[index], facts[index])
            owners[index] = who
    return log.events


def feedback_log(say: SimpleNamespace, told: Sequence[Any]) -> list[Recorded]:
    """What a feedback service could have logged: an item is received before it is moved, a case opened first."""
    log = say.Upstream("feedback")
    received: dict[int, str] = {}
    opened: set[str] = set()
    for number, (kind, index, name) in enumerate(told):
        item, at = hex_id("feedback", str(index)), say.START + number * say.HOUR
        owner = say.client(name)
        case = hex_id("case", owner, str(index))
        match kind:
            case "received" if index not in received:
                received[index] = owner
                log.received(owner, item, number * say.HOUR, kind=1, score=index)
            case "reassigned" if index in received and received[index] != owner:
                previous, received[index] = received[index], owner
                said = feedback_pb2.FeedbackReassigned(feedback_id=item, client_id=owner, previous_client_id=previous)
                log.add(said, at)
            case "classified" if index in received:
                assigned = feedback_pb2.Assignment(department="care", topic=f"topic{number}")
                log.add(
                    feedback_pb2.FeedbackClassified(
                        feedback_id=item, client_id=received[index], assignments=[assigned]
                    ),
                    at,
                )
            case "opened" if case not in opened:
                opened.add(case)
                log.add(
                    feedback_pb2.CaseOpened(
                        case_id=case, client_id=owner, department="care", topic="t", acknowledge_by=at + 1
                    ),
                    at,
                )
            case "acknowledged" if case in opened:
                log.add(feedback_pb2.CaseAcknowledged(case_id=case, client_id=owner), at)
            case "resolved" if case in opened:
                log.add(feedback_pb2.CaseResolved(case_id=case, client_id=owner), at)
            case "reopened" if case in opened:
                log.add(feedback_pb2.CaseReopened(case_id=case, client_id=owner), at)
            case _:
                pass
    return log.events


def batches(events: Sequence[Any], sizes: Sequence[int]) -> list[list[Any]]:
    """The events in runs of these sizes, again and again."""
    cut: list[list[Any]] = []
    rest, turn = list(events), 0
    while rest:
        size = sizes[turn % len(sizes)]
        cut.append(rest[:size])
        rest, turn = rest[size:], turn + 1
    return cut


def with_line(say: SimpleNamespace, work: Callable[[Any], Any], cache: int = 100_000) -> Any:
    """Does something with a fresh log, in a folder of its own."""
    folder = Path(tempfile.mkdtemp())
    line = say.open_line(folder / "journey.db", say.shipped.all(), cache)
    try:
        return work(line)
    finally:
        line.store.close()
        shutil.rmtree(folder)


def outcome(line: Any) -> tuple[dict[str, bytes], int, set[bytes]]:
    """State, watermark and what stands announced once all silence has been noticed."""
    line.sweep()
    live = line.live()
    assert live == line.replayed()
    return live, line.watermark(), set(line.announced())


@SETTINGS
@given(
    interactions,
    moves,
    reports,
    st.tuples(st.randoms(use_true_random=False), st.lists(st.integers(1, 6), min_size=1, max_size=3)),
)
def test_law_3_any_order_repetition_and_batching_gives_one_state(
    say: SimpleNamespace, told: Any, moved: Any, reported: Any, chance_and_sizes: tuple[Any, list[int]]
) -> None:
    """Upstream events in their order at once, or permuted, repeated and cut anyhow: same state, same digest."""
    chance, sizes = chance_and_sizes
    identity, feedback = identity_log(say, told, moved, forget=True), feedback_log(say, reported)

    def in_order(line: Any) -> Any:
        line.identity(identity)
        line.feedback(feedback)
        return outcome(line)

    def anyhow(line: Any) -> Any:
        offered = [("identity", event) for event in identity] + [("feedback", event) for event in feedback]
        offered += chance.sample(offered, len(offered) // 3)
        chance.shuffle(offered)
        for batch in batches(offered, sizes):
            line.identity([event for source, event in batch if source == "identity"])
            line.feedback([event for source, event in batch if source == "feedback"])
            if chance.random() < 0.2:
                line.sweep()
        return outcome(line)

    assert with_line(say, in_order) == with_line(say, anyhow, cache=chance.choice([1, 20, 100_000]))


@SETTINGS
@given(
    interactions,
    moves,
    st.randoms(use_true_random=False),
    st.lists(st.integers(1, 4), min_size=1, max_size=3),
)
def test_what_stands_announced_is_what_follows_from_the_facts(
    say: SimpleNamespace, told: Any, moved: Any, chance: Any, sizes: list[int]
) -> None:
    """After any history the log's transitions, without those retracted, are those of one telling of the facts left."""
    identity = identity_log(say, told, moved, forget=True)

    def check(line: Any) -> None:
        from journey.domain.record import Record
        from journey.domain.transitions import transition_id

        for batch in batches(identity, sizes):
            line.identity(batch)
            if chance.random() < 0.3:
                line.sweep()
        line.sweep()
        expected: set[bytes] = set()
        with line.store.snapshot() as reader:
            for key, _ in reader.scan("clients"):
                (held,) = line.records.read(reader, [key.hex()])
                fresh = Record(key.hex(), say.shipped)
                expected |= {event_id for event_id, _ in fresh.change(held.facts).added}
                expected |= {
                    transition_id(key.hex(), journey.abandonment())
                    for journey in fresh.telling.open.values()
                    if journey.deadline < line.watermark()
                }
        assert set(line.announced()) == expected

    with_line(say, check, cache=chance.choice([1, 20, 100_000]))


@SETTINGS
@given(interactions, moves)
def test_rows_say_what_the_records_say(say: SimpleNamespace, told: Any, moved: Any) -> None:
    """Variants and stats are counted from rows: after any history these are the rows of the journeys there are."""
    identity = identity_log(say, told, moved, forget=True)

    def check(line: Any) -> None:
        from journey.application import rows

        for batch in batches(identity, [3]):
            line.identity(batch)
        with line.store.snapshot() as reader:
            expected, paths = {}, {}
            for key, _ in reader.scan(rows.CLIENTS):
                (held,) = line.records.read(reader, [key.hex()])
                paths[key] = rows.client_bytes(held.telling)
                for journey in held.telling.journeys():
                    where = rows.journey_key(journey.definition.journey, key, journey.journey_id)
                    expected[where] = rows.journey_bytes(journey)
            assert dict(reader.scan(rows.JOURNEYS)) == expected
            assert dict(reader.scan(rows.CLIENTS)) == paths

    with_line(say, check)


@SETTINGS
@given(interactions, st.integers(0, 13))
def test_a_definition_published_late_answers_as_if_it_had_always_been_there(
    say: SimpleNamespace, told: Any, when: int
) -> None:
    """The history first and the definition after a part of it, or the other way round: same state and announcements."""
    identity = identity_log(say, told, [], forget=False)

    def early(line: Any) -> Any:
        line.define(say.replace(say.shipped.get("social_to_store"), version=2, timeout=5 * say.DAY))
        line.identity(identity)
        return outcome(line)

    def late(line: Any) -> Any:
        line.identity(identity[:when])
        line.define(say.replace(say.shipped.get("social_to_store"), version=2, timeout=5 * say.DAY))
        line.identity(identity[when:])
        return outcome(line)

    def rows_of(line: Any) -> Any:
        with line.store.snapshot() as reader:
            return dict(reader.scan("journeys"))

    assert with_line(say, lambda line: (early(line), rows_of(line))) == with_line(
        say, lambda line: (late(line), rows_of(line))
    )
