"""How a client's interactions become journeys."""

from __future__ import annotations

from itertools import permutations
from types import SimpleNamespace

import pytest

from journey.domain.context import Who, tell
from journey.domain.definitions import Definitions, JourneyDefinition, Match, MatterKey, Stage
from journey.domain.facts import Case, FeedbackItem, Handoff
from journey.domain.record import Record
from journey.domain.transitions import (
    ChannelSwitched,
    JourneyAbandoned,
    JourneyCompleted,
    JourneyStarted,
    StageReached,
)

CLIENT = "0" * 31 + "1"


def record(definitions: Definitions) -> Record:
    return Record(CLIENT, definitions)


def names(changes) -> list[str]:
    return [type(transition).__name__ for _, transition in changes.added]


def told(known: Record, *facts) -> list:
    """What is announced, in order, when the facts come one by one."""
    return [transition for fact in facts for _, transition in known.change([fact]).added]


def test_a_journey_goes_over_four_channels_to_the_store(say: SimpleNamespace) -> None:
    """Given social, site, reservation and store in order, the journey is completed with its channels in order."""
    known = record(say.shipped)
    transitions = told(
        known,
        say.fact(0, "instagram", "question", group="social"),
        say.fact(say.HOUR, "web", "visit", group="site"),
        say.fact(2 * say.HOUR, "web", "reservation", group="site"),
        say.fact(say.DAY, "store", "purchase"),
    )
    mine = [t for t in transitions if getattr(t, "journey", "social_to_store") == "social_to_store"]
    assert [type(t) for t in mine] == [
        JourneyStarted,
        ChannelSwitched,
        StageReached,
        StageReached,
        ChannelSwitched,
        StageReached,
        JourneyCompleted,
    ]
    done = mine[-1]
    assert isinstance(done, JourneyCompleted)
    assert done.channels == ("instagram", "web", "store")
    assert done.duration == say.DAY
    assert known.telling.open == {}


def test_a_skipped_stage_is_no_obstacle(say: SimpleNamespace) -> None:
    """Given social then store at once, the journey is completed without site and reservation."""
    known = record(say.shipped)
    told(known, say.fact(0, "instagram", "post", group="social"), say.fact(say.DAY, "store", "visit"))
    done = [journey for journey in known.telling.closed if journey.definition.journey == "social_to_store"]
    assert [(journey.status, journey.stages) for journey in done] == [("completed", [0, 3])]


def test_coming_back_to_a_stage_is_a_loop_and_staying_is_not(say: SimpleNamespace) -> None:
    """Given two looks at the site, then social again, then the site: two loops, and no event for the second look."""
    known = record(say.shipped)
    transitions = told(
        known,
        say.fact(0, "instagram", "post", group="social"),
        say.fact(1, "web", "visit", group="site"),
        say.fact(2, "web", "visit", group="site"),
        say.fact(3, "instagram", "post", group="social"),
        say.fact(4, "web", "visit", group="site"),
    )
    reached = [(t.stage, t.loop) for t in transitions if isinstance(t, StageReached)]
    assert reached == [("site", False), ("social", True), ("site", True)]
    journey = known.telling.open["social_to_store", ""]
    assert journey.loops == [0, 1]
    assert journey.channels == ["instagram", "web", "instagram", "web"]
    assert journey.interactions == 5


def test_matters_run_beside_each_other(say: SimpleNamespace) -> None:
    """Given two cases of one client, each has its own service request, and closing one leaves the other open."""
    known = record(say.shipped)
    told(
        known,
        say.fact(0, "web", "service_request", case_id="a"),
        say.fact(1, "call_centre", "service_request", case_id="b"),
        say.fact(2, "call_centre", "service_update", case_id="a", outcome="assigned"),
        say.fact(3, "web", "service_resolved", case_id="a"),
    )
    assert [(j.matter, j.status) for j in known.telling.closed] == [("a", "completed")]
    assert [matter for _, matter in known.telling.open] == ["b"]


def test_silence_abandons_and_the_next_entry_begins_anew(say: SimpleNamespace) -> None:
    """Given more than the time-out between two interactions, the first journey is abandoned at its deadline."""
    known = record(say.shipped)
    timeout = 30 * say.DAY
    transitions = told(
        known,
        say.fact(0, "instagram", "post", group="social"),
        say.fact(timeout + 1, "instagram", "post", group="social"),
    )
    assert [type(t) for t in transitions] == [JourneyStarted, JourneyAbandoned, JourneyStarted]
    assert transitions[1].at == say.START + timeout
    first, second = known.telling.closed[0], known.telling.open["social_to_store", ""]
    assert (first.status, second.status) == ("abandoned", "open")
    assert first.journey_id != second.journey_id


def test_the_deadline_itself_is_still_in_time(say: SimpleNamespace) -> None:
    """Given an interaction at the very deadline, the journey goes on."""
    known = record(say.shipped)
    told(
        known,
        say.fact(0, "instagram", "post", group="social"),
        say.fact(30 * say.DAY, "web", "visit", group="site"),
    )
    assert known.telling.open["social_to_store", ""].stages == [0, 1]


def test_a_query_judges_silence_by_now(say: SimpleNamespace) -> None:
    """Given an open journey, it counts as abandoned only after its deadline."""
    known = record(say.shipped)
    told(known, say.fact(0, "instagram", "post", group="social"))
    journey = known.telling.open["social_to_store", ""]
    assert journey.status_at(journey.deadline) == "open"
    assert journey.status_at(journey.deadline + 1) == "abandoned"
    assert tell(known, Who(CLIENT), "store", journey.deadline).next_steps
    assert not tell(known, Who(CLIENT), "store", journey.deadline + 1).next_steps


def test_a_late_event_restates_what_followed(say: SimpleNamespace) -> None:
    """Given site and store without a beginning, a late social contact before them makes the whole journey."""
    known = record(say.shipped)
    assert told(known, say.fact(say.DAY, "web", "visit", group="site"), say.fact(2 * say.DAY, "store", "visit"))
    changes = known.change([say.fact(0, "instagram", "post", group="social")])
    started = names(changes)
    assert "JourneyStarted" in started
    assert "JourneyCompleted" in started
    # The switch from site to store was the client's own; now it is the journey's.
    assert [said.type for said in changes.retracted] == ["ChannelSwitched"]
    assert "JourneyStarted" not in names(known.change([say.fact(3 * say.DAY, "store", "purchase")]))


def test_any_order_of_facts_gives_one_state(say: SimpleNamespace) -> None:
    """Given five facts in each of their orders, state and standing announcements are the same."""
    facts = [
        say.fact(0, "instagram", "post", group="social"),
        say.fact(1, "web", "visit", group="site", exchanges=(say.Exchange("size", "M", False),)),
        say.fact(40 * say.DAY, "web", "visit", group="site"),
        say.fact(41 * say.DAY, "mail", "campaign_sent", campaign_id="c"),
        say.fact(42 * say.DAY, "store", "purchase", campaign_id="c"),
    ]
    outcomes = set()
    for order in permutations(facts):
        known, standing = record(say.shipped), set()
        for fact in order:
            changes = known.change([fact])
            standing -= {said.event_id for said in changes.retracted}
            assert not standing & {event_id for event_id, _ in changes.added}
            standing |= {event_id for event_id, _ in changes.added}
        outcomes.add((repr(known.canonical(say.START + 99 * say.DAY)), frozenset(standing)))
    assert len(outcomes) == 1


def test_a_withdrawn_fact_leaves_no_trace(say: SimpleNamespace) -> None:
    """Given forty facts and one taken out of their middle, the state is that of the thirty-nine."""
    facts = [say.fact(index, ("web", "store")[index % 2], "visit", group="site") for index in range(40)]
    whole, without = record(say.shipped), record(say.shipped)
    whole.change(facts)
    whole.change([], {facts[20].interaction_id})
    without.change([fact for fact in facts if fact is not facts[20]])
    assert whole.canonical(say.START) == without.canonical(say.START)


def test_staff_are_shown_but_not_counted(say: SimpleNamespace) -> None:
    """Given an interaction of staff, it is in the history and in nothing else."""
    known = record(say.shipped)
    assert told(known, say.fact(0, "instagram", "post", group="social", staff=True)) == []
    assert (len(known.facts), known.telling.interactions, known.telling.path) == (1, 0, [])


def test_a_question_asked_again_is_counted(say: SimpleNamespace) -> None:
    """Given a question answered, asked again in vain, and answered otherwise: the latest answer, asked 3 times."""
    known = record(say.shipped)
    told(
        known,
        say.fact(0, "web", "chat", exchanges=(say.Exchange("size", "M", False),)),
        say.fact(1, "call_centre", "call", exchanges=(say.Exchange("size", "", False),)),
        say.fact(2, "store", "visit", exchanges=(say.Exchange("size", "L", False),)),
        say.fact(3, "store", "visit", exchanges=(say.Exchange("name", "", True),)),
    )
    answers = {a.question: a for a in tell(known, Who(CLIENT), "store", say.START).answers}
    assert (answers["size"].answer, answers["size"].times_asked) == ("L", 3)
    assert answers["size"].event_ids[0] == known.facts[2].id
    assert len(answers["size"].event_ids) == 3
    assert answers["name"].sealed


@pytest.mark.parametrize("kept_first", [False, True])
def test_a_promise_waits_until_it_is_kept(say: SimpleNamespace, kept_first: bool) -> None:
    """Given a promise, it is open and overdue until another interaction keeps it, whichever clock was behind."""
    known = record(say.shipped)
    made = say.fact(5, "call_centre", "call", promises=(say.PromiseMade("p", "call back", say.START + 10),))
    kept = say.fact(4 if kept_first else 20, "store", "visit", kept=("p",))
    known.change([made])
    (promise,) = tell(known, Who(CLIENT), "store", say.START + 11).promises
    assert promise.overdue
    assert promise.event_ids == (made.id,)
    known.change([kept])
    assert tell(known, Who(CLIENT), "store", say.START + 11).promises == ()


def test_a_campaign_is_seen_and_answered(say: SimpleNamespace) -> None:
    """Given two mailings and a redemption that names the campaign, it was seen twice and answered."""
    known = record(say.shipped)
    told(
        known,
        say.fact(0, "mail", "campaign_sent", campaign_id="c8"),
        say.fact(1, "mail", "campaign_sent", campaign_id="c8"),
        say.fact(2, "store", "coupon_redeemed", campaign_id="c8"),
        say.fact(3, "mail", "campaign_sent", campaign_id="c9"),
    )
    seen = tell(known, Who(CLIENT), "store", say.START).campaigns
    assert [(c.campaign_id, c.times, c.responded) for c in seen] == [("c9", 1, False), ("c8", 2, True)]


def test_the_last_score_about_everything_counts(say: SimpleNamespace) -> None:
    """Given an overall score, then one about an aspect, then an overall one given directly: the last overall one."""
    known = record(say.shipped)
    told(
        known,
        say.fact(0, "survey", "survey", scores=(say.Score(1, 9, ""), say.Score(2, 3, "food"))),
        say.fact(1, "survey", "survey", scores=(say.Score(1, 2, "parking"),)),
    )
    assert {kind: score.score for kind, score in known.loyalty().items()} == {1: 9, 2: 3}
    known.note_feedback(FeedbackItem("f" * 32, "", say.START + 2, 1, 4, "", (), 1))
    assert known.loyalty()[1].score == 4
    assert known.loyalty()[1].event_id == "f" * 32


def test_open_matters_stand_by_urgency(say: SimpleNamespace) -> None:
    """Given one of each, the overdue comes first, then the hand-off to the asking channel, case, promise, the rest."""
    known = record(say.shipped)
    told(
        known,
        say.fact(0, "instagram", "post", group="social"),
        say.fact(1, "call_centre", "call", conversation_id="c1", outcome="transferred", matter="coat"),
        say.fact(
            2,
            "call_centre",
            "call",
            promises=(say.PromiseMade("late", "a", say.START + 5), say.PromiseMade("soon", "b", say.START + 99)),
        ),
    )
    known.offer(Handoff("h1", "call_centre", "store", "needs help", say.START + 1000, "", say.START, "e" * 32))
    known.note_case(Case("case", "delivery", "late_parcel", "open", say.START + 50, say.START, 7, "d" * 32))
    matters = tell(known, Who(CLIENT), "store", say.START + 10).open_matters
    assert [matter.kind for matter in matters] == [
        "promise",
        "handoff",
        "case",
        "promise",
        "conversation",
        "journey",
    ]
    assert all(matter.event_ids for matter in matters)
    assert matters[2].event_ids == ("d" * 32,)
    assert "needs help" in matters[1].summary


def test_a_case_that_ended_is_no_open_matter(say: SimpleNamespace) -> None:
    """Given states of a case in the wrong order, the highest position holds and the first word is `since`."""
    known = record(say.shipped)
    known.note_case(Case("c", "d", "t", "resolved", 0, say.START + 9, 9, "9" * 32))
    known.note_case(Case("c", "d", "t", "open", 0, say.START + 1, 1, "1" * 32))
    assert known.cases["c"].state == "resolved"
    assert known.cases["c"].since == say.START + 1
    assert tell(known, Who(CLIENT), "store", say.START).open_matters == ()


def test_of_several_stages_the_furthest_is_reached_but_a_journey_begins_only_at_an_entry(
    say: SimpleNamespace,
) -> None:
    """Given an interaction that satisfies entry and goal at once, the journey begins at the entry."""
    both = Match(channels=frozenset({"web"}))
    definition = JourneyDefinition(
        "short", 1, "", "me", (Stage("a", "", (both,)), Stage("b", "", (both,))), ("b",), say.DAY, MatterKey.NONE
    )
    known = record(Definitions([definition]))
    transitions = told(known, say.fact(0, "web", "visit"), say.fact(1, "web", "visit"))
    assert [type(t) for t in transitions] == [JourneyStarted, StageReached, JourneyCompleted]


def test_attributes_are_compared_as_text(say: SimpleNamespace) -> None:
    """Given a match on attributes, numbers, texts and truth values of the JSON are compared as text."""
    match = Match(attributes=(("size", "4"), ("urgent", "true")))
    definition = JourneyDefinition("urgent", 1, "", "me", (Stage("a", "", (match,)),), ("a",), say.DAY)
    known = record(Definitions([definition]))
    assert told(known, say.fact(0, "web", "visit", attributes=b'{"size":4,"urgent":false}')) == []
    assert told(known, say.fact(1, "web", "visit", attributes=b"not json")) == []
    assert len(told(known, say.fact(2, "web", "visit", attributes=b'{"size":4,"urgent":true}'))) == 2


def test_a_swept_journey_that_goes_on_is_taken_back(say: SimpleNamespace) -> None:
    """Given a sweep beyond the deadline, a late fact within it retracts the abandonment; the sweeper may come again."""
    known = record(say.shipped)
    told(known, say.fact(0, "instagram", "post", group="social"))
    swept = known.sweep(say.START + 31 * say.DAY)
    assert names(swept) == ["JourneyAbandoned"]
    assert not known.sweep(say.START + 99 * say.DAY)
    changes = known.change([say.fact(29 * say.DAY, "web", "visit", group="site")])
    assert [said.event_id for said in changes.retracted] == [swept.added[0][0]]
    assert names(known.sweep(say.START + 99 * say.DAY)) == ["JourneyAbandoned"]


def test_what_the_sweeper_said_is_not_said_again(say: SimpleNamespace) -> None:
    """Given a swept journey, the next beginning ends it without a second word."""
    known = record(say.shipped)
    told(known, say.fact(0, "instagram", "post", group="social"))
    known.sweep(say.START + 31 * say.DAY)
    changes = known.change([say.fact(40 * say.DAY, "instagram", "post", group="social")])
    assert (names(changes), changes.retracted) == (["JourneyStarted"], ())
