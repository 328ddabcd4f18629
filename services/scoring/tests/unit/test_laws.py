"""Scoring's laws: order, repetition and batching change nothing, and a replay of its own log agrees."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from scoring_stories import CLIENTS, STEPS, Step, story
from scoring_upstream import DAY, Ears, Log, MemoryStore, Upstream, client_id, live, replayed, state_digest

from scoring.domain.client import Client, Facts, restore
from scoring.domain.facts import Contact
from scoring.domain.metrics import Condition, MetricDefinition, Metrics, Unit
from scoring.domain.tally import Tally
from throughline.feedback.v1 import events_pb2 as feedback
from throughline.journey.v1 import events_pb2 as journey
from throughline_kernel import Recorded


def heard(run: Callable[[Ears], None], held_facts: int = 1_000) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """The live state after the run, and that of a replay of the log it left."""
    store = MemoryStore()
    run(Ears(store, held_facts))
    return live(store), replayed(store.log)


def shuffled(up: Upstream, data: st.DataObject) -> Callable[[Ears], None]:
    """Every event of every log, some twice, in any order and in batches of any size."""
    events = [(log.service, event) for log in (up.identity, up.feedback, up.journey) for event in log.events]
    again = data.draw(st.lists(st.sampled_from(events), max_size=10)) if events else []
    order = data.draw(st.permutations([*events, *again]))

    def run(ears: Ears) -> None:
        left = list(order)
        while left:
            service = left[0][0]
            size = data.draw(st.integers(1, 8))
            batch: list[Recorded] = []
            while left and left[0][0] == service and len(batch) < size:
                batch.append(left.pop(0)[1])
            ears.hear(service, batch)

    return run


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(STEPS, st.data())
def test_law_3_any_order_repetition_and_batching_leave_one_state(steps: list[Step], data: st.DataObject) -> None:
    """The same digest whatever the order of arrival, also when hardly anything is held in memory."""
    up = story(steps)
    expected, replay = heard(lambda ears: ears.hear_all(up))
    assert replay == expected
    state, replay = heard(shuffled(up, data), held_facts=1)
    assert state == expected
    assert replay == expected
    assert state_digest(state) == state_digest(expected)


def interleaved(logs: list[Log], data: st.DataObject) -> Callable[[Ears], None]:
    """Each log in its own order, chunks repeated, the logs in any order among each other: what the bus can do."""

    def run(ears: Ears) -> None:
        reached = dict.fromkeys((log.service for log in logs), 0)
        while left := [log for log in logs if reached[log.service] < len(log.events)]:
            log = data.draw(st.sampled_from(left))
            start = data.draw(st.integers(0, reached[log.service]))
            end = data.draw(st.integers(reached[log.service] + 1, len(log.events)))
            ears.hear(log.service, log.events[start:end])
            reached[log.service] = end

    return run


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(STEPS, st.integers(0, 2), st.data())
def test_law_3_a_forgotten_client_is_gone_whatever_came_first(steps: list[Step], who: int, data: st.DataObject) -> None:
    """Every log drops the client, whose id identity never gives out again: in any interleaving nothing is left."""
    up = story(steps)
    client = CLIENTS[who]
    up.forgotten(client)
    up.feedback.add(feedback.ClientDropped(client_id=client_id(client), identity_position=1))
    up.journey.add(journey.ClientDropped(client_id=client_id(client), identity_position=1))
    expected, replay = heard(lambda ears: ears.hear_all(up))
    assert replay == expected
    state, replay = heard(interleaved([up.identity, up.feedback, up.journey], data), held_facts=1)
    assert state == expected
    assert replay == expected


def interleavings(sizes: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Every way to take so many of each in order."""
    if not any(sizes):
        yield ()
    for index, size in enumerate(sizes):
        if size:
            left = (*sizes[:index], size - 1, *sizes[index + 1 :])
            for rest in interleavings(left):
                yield (index, *rest)


def test_law_3_who_comes_back_after_being_forgotten_starts_anew_in_every_interleaving() -> None:
    """All 1,680 ways in which three logs can arrive; what was said before never counts, what was said after does."""
    up = Upstream()
    up.attributed("ann", "before", 1)
    up.forgotten("ann")
    up.attributed("ann", "after", 9)
    up.received("ann", "f1", 1, "before", score=1)
    up.feedback.add(feedback.ClientDropped(client_id=client_id("ann"), identity_position=2))
    up.received("ann", "f2", 9, "after", score=9)
    up.on_journey(journey.JourneyStarted, "ann", "j1", 1, "before")
    up.journey.add(journey.ClientDropped(client_id=client_id("ann"), identity_position=2))
    up.on_journey(journey.JourneyStarted, "ann", "j2", 9, "after")
    logs = (up.identity, up.feedback, up.journey)
    fresh = story([])
    fresh.attributed("ann", "after", 9)
    fresh.received("ann", "f2", 9, "after", score=9)
    expected, _ = heard(lambda ears: ears.hear_all(fresh))
    subjects = {key: value for key, value in expected.items() if key.startswith("subject/") and "/4/" not in key}
    state: dict[str, bytes] | None = None
    for order in interleavings((3, 3, 3)):
        store = MemoryStore()
        ears = Ears(store, held_facts=1)
        reached = [0, 0, 0]
        for index in order:
            ears.hear(logs[index].service, [logs[index].events[reached[index]]])
            reached[index] += 1
        if state is None:
            state = live(store)
            assert replayed(store.log) == state
        assert live(store) == state, order
        ears.hear_all(up)
        assert live(store) == state, order
    assert state is not None
    for key, value in subjects.items():
        assert key == "subject/1/" or state[key] == value
    assert b'"volume\\u001f\\u001fn":1' in state["subject/1/"]
    assert b'"nps\\u001f\\u001f0:10:9":1' in state["subject/1/"]
    assert b"0:10:1" not in state["subject/1/"]


CONTACTS = st.lists(
    st.tuples(
        st.integers(0, 30), st.sampled_from(["visit", "purchase", "campaign_sent"]), st.sampled_from(["", "bill"])
    ),
    max_size=12,
)
METRICS = Metrics.of(
    [
        MetricDefinition("per_contact", 1, "n", "d", Unit.CONTACT, Condition(), Condition(kinds=frozenset({"visit"}))),
        MetricDefinition("per_client", 1, "n", "d", Unit.CLIENT, Condition(), Condition(kinds=frozenset({"visit"}))),
    ]
)


def contact(number: int, day: int, kind: str, matter: str) -> Contact:
    return Contact(
        day * DAY,
        "s",
        0,
        f"{number:032x}",
        "web",
        "",
        kind,
        "",
        "",
        matter,
        "",
        day,
        "USD",
        0,
        "",
        0,
        day,
        4 if number % 3 else 0,
        b"",
    )


@settings(max_examples=200, deadline=None)
@given(CONTACTS, st.data())
@example([(1, "purchase", "bill"), (1, "visit", "bill")], None)
def test_incremental_changes_add_up_to_what_is_left(
    given_contacts: list[tuple[int, str, str]], data: st.DataObject | None
) -> None:
    """Noting and withdrawing in any order counts as if only what is left had ever been noted."""
    contacts = [contact(number, *each) for number, each in enumerate(given_contacts)]
    order = data.draw(st.permutations(contacts)) if data is not None else contacts
    gone = data.draw(st.sets(st.sampled_from(contacts))) if data is not None and contacts else set[Contact]()
    tally = Tally()
    client = restore("0" * 32, Facts([], [], [], []), METRICS)
    for each in order:
        client.note_contact(each, tally, METRICS)
    for each in gone:
        client.withdraw_contact(each.interaction_id, tally, METRICS)
    left = [each for each in contacts if each not in gone]
    loaded = Client.of("0" * 32, client.facts())
    for name in Client.__slots__:
        assert getattr(loaded, name) == getattr(client, name), name
    expected = Tally()
    restore("0" * 32, Facts(left, [], [], []), METRICS, expected)
    assert tally.counters() == expected.counters()
    by_hand = [
        not any(other.matter == each.matter and each < other and other.at - each.at <= 7 * DAY for other in left)
        for each in left
        if each.matter and any(other.flags & 4 for other in left)
    ]
    counters = expected.counters()
    assert counters.get((1, "", "fcr", "", "n"), 0) == len(by_hand)
    assert counters.get((1, "", "fcr", "", "k"), 0) == sum(by_hand)
