"""The service's log and tables under what comes from identity and feedback."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from journey.application.timeline import standing
from journey.domain.handoffs import AcceptHandoff, OfferHandoff, token_hash
from throughline.feedback.v1 import events_pb2 as feedback_pb2
from throughline_kernel import ALWAYS, InvalidError, NotFoundError, PreconditionError, Refusal, hex_id


@pytest.fixture
def ann(say: SimpleNamespace) -> str:
    return say.client("ann")


@pytest.fixture
def bob(say: SimpleNamespace) -> str:
    return say.client("bob")


def test_what_is_noted_carries_its_cause(line: Any, say: SimpleNamespace, ann: str) -> None:
    """The noted interaction names identity's event as its cause, the transitions too, with ids of their own."""
    log = say.Upstream("identity")
    event = log.attributed(ann, say.fact(0, "instagram", "post", group="social"))
    line.identity(log.events)
    noted, started = [each for each in line.log() if not each.type.endswith("JourneyDefined")]
    assert noted.causation_id == started.causation_id == event.event_id.hex()
    assert noted.correlation_id == "correlation"
    assert line.types() == ["InteractionNoted", "JourneyStarted"]


def test_the_same_again_changes_nothing(line: Any, say: SimpleNamespace, ann: str) -> None:
    """Given the same events twice, the log does not grow."""
    log = say.Upstream("identity")
    log.attributed(ann, say.fact(0, "instagram", "post", group="social"))
    line.identity(log.events)
    before = line.log()
    line.identity(log.events)
    assert line.log() == before


def test_a_reattribution_moves_the_fact_and_what_followed(line: Any, say: SimpleNamespace, ann: str, bob: str) -> None:
    """Given the beginning of Ann's journey turns out Bob's, hers is retracted and he has one."""
    log = say.Upstream("identity")
    log.opened(ann)
    log.opened(bob)
    post = say.fact(0, "instagram", "post", group="social")
    log.attributed(ann, post)
    log.attributed(ann, say.fact(1, "web", "visit", group="site"))
    line.identity(log.events)
    line.identity([log.reattributed(bob, ann, post)])
    assert line.live() == line.replayed()
    hers = line.queries.context(ann, (), "store", say.START).context
    his = line.queries.context(bob, (), "store", say.START).context
    assert (hers.interactions, his.interactions) == (1, 1)
    assert [matter.kind for matter in hers.open_matters] == []
    assert [matter.kind for matter in his.open_matters] == ["journey"]
    assert line.types().count("TransitionRetracted") == 3


def test_a_forgotten_client_is_empty_and_says_so(line: Any, say: SimpleNamespace, ann: str) -> None:
    """Given all kinds of facts, forgetting leaves no row and no state, and every question is refused."""
    log, feedback = say.Upstream("identity"), say.Upstream("feedback")
    log.opened(ann)
    log.attributed(ann, say.fact(0, "instagram", "post", group="social"))
    line.identity(log.events)
    line.feedback([feedback.received(ann, hex_id("f"), 1, kind=1, score=9)])
    line.offer(OfferHandoff(ann, "web", "store", "", "", 0, token_hash("token"), say.START))
    line.identity([log.forgotten(ann)])
    assert line.live() == line.replayed() == {}
    with line.store.snapshot() as reader:
        assert [list(reader.scan(table)) for table in ("clients", "journeys", "offered")] == [[], [], []]
    with pytest.raises(PreconditionError) as refused:
        line.queries.context(ann, (), "store", say.START)
    assert refused.value.reason == "CLIENT_FORGOTTEN"
    (again,) = line.accept(AcceptHandoff(token_hash("token"), "store", "", say.START))
    assert isinstance(again, NotFoundError)
    line.feedback([feedback.received(ann, hex_id("g"), 2, kind=1, score=2)])
    assert line.live() == {}


def test_an_alias_is_answered_for_ever(line: Any, say: SimpleNamespace, ann: str, bob: str) -> None:
    """Given Bob merged into Ann with a pending hand-off of his, asking for Bob is asking for Ann, hand-off included."""
    log = say.Upstream("identity")
    log.opened(ann)
    log.opened(bob)
    visit = say.fact(0, "web", "visit", group="site")
    log.attributed(bob, visit)
    line.identity(log.events)
    line.offer(OfferHandoff(bob, "web", "store", "help", "", 0, token_hash("token"), say.START))
    line.identity([log.merged(ann, bob), log.reattributed(ann, bob, visit)])
    told = line.queries.context(bob, (), "store", say.START + 1).context
    assert told.who.client_id == ann
    assert told.who.alias_ids == (bob,)
    assert told.interactions == 1
    assert [matter.kind for matter in told.open_matters] == ["handoff"]
    page = line.queries.timeline(bob, 0, ALWAYS, 0, 10)
    assert {entry.type for entry in page.entries} == {"interaction", "handoff_offered"}
    (taken,) = line.accept(AcceptHandoff(token_hash("token"), "store", "", say.START + 1))
    assert taken[0] == bob


def test_nobody_is_told_apart_from_unknown_identifiers(line: Any, say: SimpleNamespace, ann: str) -> None:
    """An unknown id and unknown identifiers are refused, each by its own reason."""
    from throughline.ingestion.v1 import interaction_pb2

    with pytest.raises(NotFoundError) as refused:
        line.queries.context(ann, (), "store", say.START)
    assert refused.value.reason == "CLIENT_NOT_FOUND"
    shown = [interaction_pb2.Identifier(type="email", value="a@b.eu")]
    with pytest.raises(NotFoundError) as refused:
        line.queries.context("", shown, "store", say.START)
    assert (refused.value.reason, refused.value.metadata) == ("IDENTIFIERS_UNKNOWN", {"identifiers": "1"})


def test_of_two_accepts_in_one_transaction_one_wins(line: Any, say: SimpleNamespace, ann: str) -> None:
    """Two accepts of one token that meet in one transaction: one takes over, the other is refused."""
    log = say.Upstream("identity")
    log.opened(ann)
    line.identity(log.events)
    line.offer(OfferHandoff(ann, "web", "store", "", "", 0, token_hash("token"), say.START))
    one, other = line.accept(
        AcceptHandoff(token_hash("token"), "store", "a", say.START + 1),
        AcceptHandoff(token_hash("token"), "store", "b", say.START + 1),
    )
    assert one[1].accepted_by == "a"
    assert isinstance(other, Refusal)
    assert other.reason == "HANDOFF_ALREADY_ACCEPTED"
    assert line.types().count("HandoffAccepted") == 1


def test_an_offer_names_only_a_journey_of_the_client(line: Any, say: SimpleNamespace, ann: str) -> None:
    """Given a journey id that is none of the client's, the offer is refused by field."""
    log = say.Upstream("identity")
    log.opened(ann)
    line.identity(log.events)
    refused = line.offer(OfferHandoff(ann, "web", "store", "", "f" * 32, 0, token_hash("token"), say.START))
    assert isinstance(refused, InvalidError)
    assert refused.violations[0].field == "journey_id"


def test_the_sweeper_announces_by_the_watermark_only(line: Any, say: SimpleNamespace, ann: str, bob: str) -> None:
    """Given silence of Ann, nothing is said until somebody's interaction shows that the time has passed; then once."""
    log = say.Upstream("identity")
    log.attributed(ann, say.fact(0, "instagram", "post", group="social"))
    line.identity(log.events)
    line.sweep()
    assert "JourneyAbandoned" not in line.types()
    line.identity([log.attributed(bob, say.fact(31 * say.DAY, "web", "visit", group="site"))])
    line.sweep()
    line.sweep()
    abandoned = [event for event in line.log() if event.type.endswith("JourneyAbandoned")]
    assert [event.occurred_at for event in abandoned] == [say.START + 30 * say.DAY]
    with line.store.snapshot() as reader:
        assert list(reader.scan("deadlines")) == []


def test_a_journey_that_goes_on_is_looked_at_again(line: Any, say: SimpleNamespace, ann: str, bob: str) -> None:
    """Given a journey that went on after its first deadline was noted, it is abandoned at its later one."""
    log = say.Upstream("identity")
    log.attributed(ann, say.fact(0, "instagram", "post", group="social"))
    log.attributed(ann, say.fact(20 * say.DAY, "web", "visit", group="site"))
    log.attributed(bob, say.fact(31 * say.DAY, "web", "visit", group="site"))
    line.identity(log.events)
    line.sweep()
    assert "JourneyAbandoned" not in line.types()
    line.identity([log.attributed(bob, say.fact(51 * say.DAY, "web", "visit", group="site"))])
    line.sweep()
    assert line.types().count("JourneyAbandoned") == 1


def test_a_case_goes_through_its_states(line: Any, say: SimpleNamespace, ann: str) -> None:
    """Given a case opened, acknowledged and resolved, the context shows it until the end, on feedback's event."""
    log, feedback = say.Upstream("identity"), say.Upstream("feedback")
    log.opened(ann)
    line.identity(log.events)
    case = hex_id("case")
    feedback.add(
        feedback_pb2.CaseOpened(
            case_id=case, client_id=ann, department="care", topic="late", acknowledge_by=5, resolve_by=9
        )
    )
    line.feedback(feedback.events)
    told = line.queries.context(ann, (), "store", say.START).context
    assert [(m.kind, m.owner, m.stage, m.due_at) for m in told.open_matters] == [("case", "care", "open", 5)]
    last = feedback.add(feedback_pb2.CaseAcknowledged(case_id=case, client_id=ann, by="x"))
    line.feedback([last])
    told = line.queries.context(ann, (), "store", say.START).context
    (matter,) = told.open_matters
    assert (matter.stage, matter.due_at, matter.event_ids) == ("acknowledged", 9, (last.event_id.hex(),))
    line.feedback([feedback.add(feedback_pb2.CaseResolved(case_id=case, client_id=ann, by="x"))])
    told = line.queries.context(ann, (), "store", say.START).context
    assert told.open_matters == ()
    assert [entry.type for entry in line.queries.timeline(ann, 0, ALWAYS, 0, 9).entries] == ["case"] * 3


def test_the_timeline_as_of_an_instant_is_what_was_answered_then(
    line: Any, say: SimpleNamespace, ann: str, bob: str
) -> None:
    """After each of many changes, asking as of each earlier commit gives exactly the entries answered then."""
    log, feedback = say.Upstream("identity"), say.Upstream("feedback")
    log.opened(ann)
    log.opened(bob)
    line.identity(log.events)
    post, visit = say.fact(0, "instagram", "post", group="social"), say.fact(5, "web", "visit", group="site")
    steps = [
        lambda: line.identity([log.attributed(ann, visit)]),
        lambda: line.identity([log.attributed(ann, post)]),
        lambda: line.feedback([feedback.received(ann, hex_id("f"), 1, kind=1, score=3)]),
        lambda: line.offer(OfferHandoff(ann, "web", "store", "", "", 0, token_hash("token"), say.START)),
        lambda: line.identity([log.reattributed(bob, ann, post)]),
        lambda: line.accept(AcceptHandoff(token_hash("token"), "store", "", say.START + 9)),
        lambda: line.identity([log.attributed(ann, say.fact(2, "store", "visit"))]),
    ]
    answered = []
    for step in steps:
        step()
        page = line.queries.timeline(ann, 0, ALWAYS, 0, 1_000)
        answered.append((line.log()[-1].recorded_at, page))
    for instant, page in answered:
        assert line.queries.timeline(ann, instant, ALWAYS, 0, 1_000) == page
    assert len({tuple(entry.event_id for entry in page.entries) for _, page in answered}) == len(steps)


def test_pages_of_one_cut_are_the_whole_whatever_comes_between(line: Any, say: SimpleNamespace, ann: str) -> None:
    """Given new entries between two pages, the pages are still those of the first one's cut."""
    log = say.Upstream("identity")
    log.opened(ann)
    for index in range(7):
        log.attributed(ann, say.fact(2 * index, "web", "visit", group="site"))
    line.identity(log.events)
    whole = line.queries.timeline(ann, 0, ALWAYS, 0, 100)
    entries, start, instant = [], 0, 0
    while start >= 0:
        page = line.queries.timeline(ann, instant, ALWAYS, start, 3)
        entries += page.entries
        start, instant = page.following, page.commit.recorded_at
        line.identity([log.attributed(ann, say.fact(2 * len(entries) + 1, "store", "visit"))])
    assert tuple(entries) == whole.entries


def test_a_redefinition_restates_what_was_announced(line: Any, say: SimpleNamespace, ann: str) -> None:
    """Given a shorter time-out, an open journey becomes two, in log, rows and answers."""
    log = say.Upstream("identity")
    log.opened(ann)
    for day in (0, 20):
        log.attributed(ann, say.fact(day * say.DAY, "instagram", "post", group="social"))
    line.identity(log.events)
    assert line.queries.variants("social_to_store", 5, say.START)[0].total == 1
    line.define(say.replace(say.shipped.get("social_to_store"), version=2, timeout=5 * say.DAY))
    counted, _ = line.queries.variants("social_to_store", 5, say.START + 20 * say.DAY)
    assert (counted.total, counted.variants[0].abandoned) == (2, 1)
    definition, counts, _ = line.queries.stats("social_to_store", say.START + 20 * say.DAY)
    assert (definition.version, counts.started, counts.abandoned, counts.open) == (2, 2, 1, 1)
    assert line.live() == line.replayed()


def test_a_redefinition_that_ends_all_journeys_leaves_none_behind(line: Any, say: SimpleNamespace, ann: str) -> None:
    """Given a definition under which nothing begins any more, no row of the former journeys is counted."""
    log = say.Upstream("identity")
    log.opened(ann)
    log.attributed(ann, say.fact(0, "instagram", "post", group="social"))
    line.identity(log.events)
    shipped = say.shipped.get("social_to_store")
    line.define(say.replace(shipped, version=2, stages=shipped.stages[1:], next_steps=()))
    assert line.queries.variants("social_to_store", 5, say.START)[0].total == 0
    assert line.announced() == {}
    with line.store.snapshot() as reader:
        assert list(reader.scan("journeys")) == []


def test_of_two_words_on_an_item_the_later_one_holds_however_they_come(
    line: Any, say: SimpleNamespace, ann: str
) -> None:
    """Given the second classification before the first, and both before the item, the second one's topics hold."""
    log, feedback = say.Upstream("identity"), say.Upstream("feedback")
    log.opened(ann)
    line.identity(log.events)
    item = hex_id("feedback")
    received = feedback.received(ann, item, 1, kind=5)
    first, second = (
        feedback.add(
            feedback_pb2.FeedbackClassified(
                feedback_id=item,
                client_id=ann,
                assignments=[feedback_pb2.Assignment(department="care", topic=topic)],
            )
        )
        for topic in ("parking", "food")
    )
    for event in (second, first, received, first):
        line.feedback([event])
    (entry,) = line.queries.timeline(ann, 0, ALWAYS, 0, 9).entries
    assert entry.summary == "Feedback: verbatim about food."


def test_whole_histories_are_variants_too(line: Any, say: SimpleNamespace, ann: str, bob: str) -> None:
    """Given two clients, runs of one channel collapse, and staff's interactions make no variant."""
    log = say.Upstream("identity")
    for index, channel in enumerate(["web", "web", "store", "web"]):
        log.attributed(ann, say.fact(index, channel, "visit"))
        log.attributed(bob, say.fact(index, channel, "visit", id=f"bob{index}"))
    log.attributed(say.client("staff"), say.fact(9, "web", "visit", staff=True))
    line.identity(log.events)
    counted, _ = line.queries.variants("", 5, say.START)
    assert [(v.channels, v.count, v.median_duration) for v in counted.variants] == [(("web", "store", "web"), 2, 3)]
    assert counted.total == 2


def test_a_watcher_sees_each_entry_once_and_what_is_taken_back(
    line: Any, say: SimpleNamespace, ann: str, bob: str
) -> None:
    """From now on, then the past from a position, then over a merge: every entry once, withdrawals told."""
    log = say.Upstream("identity")
    log.opened(ann)
    log.opened(bob)
    post = say.fact(0, "instagram", "post", group="social")
    log.attributed(bob, post)
    line.identity(log.events)
    now = line.queries.begin_watching(bob, 0)
    assert line.queries.watch(bob, now)[0] == []
    past = line.queries.begin_watching(bob, 1)
    assert [entry.type for entry in line.queries.watch(bob, past)[0]] == ["interaction", "journey_started"]
    line.identity([log.merged(ann, bob), log.reattributed(ann, bob, post)])
    entries, _, seen, more = line.queries.watch(bob, now)
    assert [entry.type for entry in entries] == ["interaction", "journey_started"]
    assert (seen.client_id, more) == (ann, False)
    line.identity([log.reattributed(bob, ann, post)])
    entries, *_ = line.queries.watch(bob, seen)
    assert [entry.type for entry in entries] == ["interaction_withdrawn", "transition_retracted"]


def test_events_that_concern_an_interaction_are_found_in_every_stream_it_was_in(
    line: Any, say: SimpleNamespace, ann: str, bob: str
) -> None:
    """Given an interaction that moved, its events are those of both clients, in log order."""
    log = say.Upstream("identity")
    log.opened(ann)
    log.opened(bob)
    post = say.fact(0, "instagram", "post", group="social")
    log.attributed(ann, post)
    log.attributed(ann, say.fact(1, "mail", "campaign_sent", id="other"))
    line.identity(log.events)
    line.identity([log.reattributed(bob, ann, post)])
    with line.store.snapshot() as reader:
        found = line.queries.concerning(reader, "", [post.id])
        mine = line.queries.concerning(reader, ann, [])
    kinds = [event.type.rpartition(".")[2] for event in found]
    assert kinds.count("InteractionNoted") == 2
    assert kinds.count("InteractionWithdrawn") == 1
    assert [event.position for event in found] == sorted(event.position for event in found)
    assert {event.stream_id for event in mine} == {say.codec.stream_of(ann)}
    assert standing(mine)


def test_every_event_has_a_sentence(line: Any, say: SimpleNamespace, ann: str) -> None:
    """Each event of the log is told in one plain sentence."""
    from journey.application.replay import make_fold

    log = say.Upstream("identity")
    log.opened(ann)
    log.attributed(ann, say.fact(0, "instagram", "post", group="social", matter="coat", outcome="open"))
    log.attributed(ann, say.fact(1, "web", "visit", group="site"))
    log.attributed(ann, say.fact(2, "store", "visit"))
    line.identity(log.events)
    line.identity([log.forgotten(ann)])
    fold = make_fold()
    told = [fold.describe(event) for event in line.log()]
    assert all(sentence.endswith(".") for sentence in told)
    assert "Post by instagram about coat: open." in told
