"""What upstream said last, whatever came first."""

from __future__ import annotations

from itertools import permutations

from scoring.domain.facts import FeedbackItem
from scoring.domain.registers import CaseRegister, CaseStep, FeedbackRegister, JourneyRegister, Transition


def test_an_item_is_whose_the_highest_attribution_says() -> None:
    """And stands as it was received first, with the departments named last; in any order."""
    first = FeedbackItem(1, "f", "", "s", "web", "", 0, 1, 9, 0, 0, "", 0, ())

    def apply(register: FeedbackRegister, number: int) -> None:
        match number:
            case 0:
                register.received("ann", first, (1, 1))
            case 1:
                register.received("bob", first._replace(score=2), (2, 4))
            case 2:
                register.reassigned("cy", (9, 2))
            case 3:
                register.reassigned("ann", (5, 7))
            case 4:
                register.classified(("desk",), 3)
            case _:
                register.classified(("shop",), 6)

    for order in permutations(range(6)):
        register = FeedbackRegister()
        assert register.present() is None
        for number in order:
            apply(register, number)
        assert register.owner == "cy"
        assert register.present() == first._replace(departments=("shop",))


def step(what: str, at: int, department: str = "") -> CaseStep:
    return CaseStep(what, at, f"{at:032x}", department, "")


def test_a_case_counts_from_its_last_ground_on() -> None:
    """What was said before a withdrawal counts no more; first acknowledgement, last resolution; in any order."""
    said = {
        1: step("opened", 10, "desk"),
        2: step("acknowledged", 11),
        3: step("withdrawn", 12),
        4: step("opened", 13, "shop"),
        5: step("acknowledged", 15),
        6: step("acknowledged", 16),
        7: step("resolved", 17),
    }
    for order in permutations(said):
        register = CaseRegister()
        for position in order:
            register.said("c", said[position], position)
        case = register.present("x")
        assert case is not None
        assert (case.opened_at, case.acknowledged_at, case.resolved_at) == (13, 15, 17)
        assert (case.department, case.state) == ("shop", "resolved")


def test_a_reopened_case_is_not_resolved() -> None:
    """Until it is resolved again."""
    register = CaseRegister()
    for position, each in enumerate(("opened", "resolved", "reopened"), start=1):
        register.said("c", step(each, position), position)
    case = register.present("x")
    assert case is not None
    assert (case.state, case.resolved_at, case.resolved_event) == ("reopened", 0, "")


def test_a_journey_stands_by_the_transitions_that_hold() -> None:
    """A retraction that arrives before what it retracts holds all the same; told again it counts again."""
    started = Transition(1, alive=True, what="started", at=5, interaction_id="i1", channel="web")
    completed = Transition(2, alive=True, what="completed", at=9, interaction_id="i2", channel="")
    register = JourneyRegister()
    register.retracted("e2", 3)
    assert register.present("j") is None
    register.announced("c", "service", "e2", completed)
    register.announced("c", "service", "e1", started)
    journey = register.present("j")
    assert journey is not None
    assert (journey.state, journey.interaction_ids, journey.started_event) == ("started", ("i1",), "e1")
    register.announced("c", "service", "e2", completed._replace(position=4))
    journey = register.present("j")
    assert journey is not None
    assert (journey.state, journey.ended_at, journey.ended_event) == ("completed", 9, "e2")
    register.retracted("e2", 3)
    assert register.present("j") == journey
    register.retracted("e1", 5)
    journey = register.present("j")
    assert journey is not None
    assert journey.state == "retracted"
