"""Cases follow from the set of items and acts, whatever order they came in."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feedback.domain.cases import Act, ActKind, Case, CaseState, Missed, Step, StepKind, case_id_of
from feedback.domain.clients import ClientFeedback
from feedback.domain.items import Assignment, Item, item_order
from feedback.domain.lifecycle import Acknowledge, Command, Reassign, Reopen, Resolve, decide, escalate
from feedback.domain.routing import Department, RouteSet
from throughline_kernel import NotFoundError, PreconditionError

ROUTES = RouteSet(
    version=1,
    departments=(
        Department("care"),
        Department("billing", acknowledge_within=5, escalates_to="board"),
        Department("board"),
    ),
    routes=(),
    default_department="care",
    acknowledge_within=10,
    resolve_within=100,
    reopen_within=50,
)
POLICIES = {1: ROUTES}
BILLING = ("billing", "money")


def item(name: str, at: int, *, matters: tuple[tuple[str, str], ...] = (BILLING,), opens: bool = True) -> Item:
    return Item(
        name,
        item_order(at, "web", 0, interaction_id="", feedback_id=name, entry=0),
        "web",
        1,
        tuple(Assignment(department, topic, "r", "b", opens) for department, topic in matters),
    )


class Desk:
    """One client's feedback, and everything that was told of it."""

    def __init__(self, client_id: str = "c") -> None:
        self.client = ClientFeedback(client_id, POLICIES)
        self.told: list[Step] = []

    def take(self, *items: Item) -> None:
        for each in items:
            self.told += self.client.add_item(each)
            self.told += self.client.settle(999)

    def act(self, act: Act | None) -> None:
        assert act is not None
        step = self.client.add_act(act)
        if step:
            self.told.append(step)
        self.told += self.client.settle(999)

    def do(self, command: Command) -> None:
        self.act(decide(command, self.case(command.case_id), ROUTES))

    def case(self, case_id: str) -> Case:
        return self.cases[case_id]

    @property
    def cases(self) -> dict[str, Case]:
        return {case.case_id: case for case in self.client.cases()}

    def only(self) -> Case:
        (case,) = self.cases.values()
        return case

    def kinds(self) -> list[StepKind]:
        return [step.kind for step in self.told]


def as_heard(told: list[Step]) -> dict[str, tuple[str, CaseState, int, int]]:
    """What somebody knows who only hears the steps."""
    known: dict[str, tuple[str, CaseState, int, int]] = {}
    for step in told:
        case_id = step.case.case_id
        department, state, reopened, items = known.get(case_id, ("", CaseState.OPEN, 0, 0))
        match step.kind:
            case StepKind.WITHDRAWN:
                assert case_id in known, "withdrawn before it was told"
                del known[case_id]
                continue
            case StepKind.OPENED:
                assert case_id not in known, "opened twice"
                department, items = step.case.department, 1
            case StepKind.JOINED:
                items += 1
            case StepKind.REOPENED:
                state = CaseState.OPEN
                reopened += 1
                items += 1 if step.feedback_id else 0
            case _:
                department, state = step.case.department, step.case.state
        known[case_id] = (department, state, reopened, items)
    return known


def heard_of(cases: dict[str, Case]) -> dict[str, tuple[str, CaseState, int, int]]:
    return {key: (case.department, case.state, case.reopened, case.items) for key, case in cases.items()}


def test_an_item_opens_a_case_and_the_next_joins_it() -> None:
    """One case per client, department and topic; deadlines are the department's, else the set's."""
    desk = Desk()
    desk.take(item("a", 1), item("b", 2))
    case = desk.only()
    assert case.case_id == case_id_of("c", BILLING, "a")
    assert (case.items, case.acknowledge_by, case.resolve_by) == (2, 6, 101)
    assert desk.kinds() == [StepKind.OPENED, StepKind.JOINED]


def test_an_item_of_two_departments_opens_two_cases() -> None:
    """Each owner has a case of its own."""
    desk = Desk()
    desk.take(item("a", 1, matters=(BILLING, ("care", "money"))))
    assert {case.department for case in desk.cases.values()} == {"billing", "care"}


def test_praise_opens_no_case() -> None:
    """An assignment that opens none leaves no case."""
    desk = Desk()
    desk.take(item("a", 1, opens=False))
    assert not desk.cases
    assert not desk.told


def test_a_case_goes_from_open_to_acknowledged_to_resolved() -> None:
    """The life of a case, and who did what when."""
    desk = Desk()
    desk.take(item("a", 1))
    case_id = desk.only().case_id
    desk.do(Acknowledge(case_id, "ana", 3))
    assert (desk.only().state, desk.only().acknowledged_by) == (CaseState.ACKNOWLEDGED, "ana")
    desk.do(Resolve(case_id, "ana", "paid back", "double_charge", 4))
    assert (desk.only().state, desk.only().root_cause) == (CaseState.RESOLVED, "double_charge")
    assert desk.kinds() == [StepKind.OPENED, StepKind.ACKNOWLEDGED, StepKind.RESOLVED]


def test_recurrence_reopens_within_the_time_and_opens_anew_after_it() -> None:
    """Again within reopen_within: the same case, with new deadlines. Later: a new one."""
    desk = Desk()
    desk.take(item("a", 1))
    desk.do(Resolve(desk.only().case_id, "ana", "", "", 10))
    desk.take(item("b", 60))
    case = desk.only()
    assert (case.state, case.reopened, case.acknowledge_by, case.items) == (CaseState.OPEN, 1, 65, 2)
    desk.do(Resolve(case.case_id, "ana", "", "", 70))
    desk.take(item("c", 121))
    assert len(desk.cases) == 2
    assert desk.cases[case_id_of("c", BILLING, "c")].state is CaseState.OPEN


def test_a_person_reopens_a_resolved_case() -> None:
    """A person may say that it was not resolved after all."""
    desk = Desk()
    desk.take(item("a", 1))
    case_id = desk.only().case_id
    desk.do(Resolve(case_id, "ana", "", "", 10))
    desk.do(Reopen(case_id, "bo", "still broken", 20))
    assert (desk.only().state, desk.only().reopened, desk.only().reopened_by) == (CaseState.OPEN, 1, "bo")


def test_reassigning_gives_the_new_owner_a_time_to_acknowledge() -> None:
    """The new owner has not acknowledged yet; when it must be resolved by stands."""
    desk = Desk()
    desk.take(item("a", 1))
    before = desk.only()
    desk.do(Acknowledge(before.case_id, "ana", 2))
    desk.do(Reassign(before.case_id, "care", "ana", "not ours", 20))
    after = desk.only()
    assert (after.department, after.state, after.acknowledge_by) == ("care", CaseState.OPEN, 30)
    assert (after.resolve_by, after.matter) == (before.resolve_by, BILLING)


def test_each_missed_deadline_escalates_once() -> None:
    """To whom the department escalates, else to the default owner; never twice for one deadline."""
    desk = Desk()
    desk.take(item("a", 1))
    assert escalate(desk.only(), Missed.ACKNOWLEDGE, 6, ROUTES) is None
    desk.act(escalate(desk.only(), Missed.ACKNOWLEDGE, 7, ROUTES))
    case = desk.only()
    assert (case.department, case.missed_acknowledge, case.escalated) == ("board", True, True)
    assert escalate(case, Missed.ACKNOWLEDGE, 50, ROUTES) is None
    assert escalate(case, Missed.RESOLVE, 50, ROUTES) is None
    desk.act(escalate(case, Missed.RESOLVE, 102, ROUTES))
    assert (desk.only().department, desk.only().missed_resolve) == ("care", True)
    assert not desk.only().deadlines()
    assert [step.act.missed for step in desk.told if step.act] == [Missed.ACKNOWLEDGE, Missed.RESOLVE]


def test_an_acknowledged_case_still_escalates_when_not_resolved_in_time() -> None:
    """Acknowledging meets the first deadline only; resolving meets both."""
    desk = Desk()
    desk.take(item("a", 1))
    case_id = desk.only().case_id
    desk.do(Acknowledge(case_id, "ana", 2))
    assert escalate(desk.only(), Missed.ACKNOWLEDGE, 102, ROUTES) is None
    act = escalate(desk.only(), Missed.RESOLVE, 102, ROUTES)
    assert act is not None
    assert act.missed is Missed.RESOLVE
    desk.do(Resolve(case_id, "ana", "", "", 103))
    assert escalate(desk.only(), Missed.RESOLVE, 10_000, ROUTES) is None


@pytest.mark.parametrize(
    "again",
    [
        [Acknowledge("", "ana", 2), Acknowledge("", "ana", 3)],
        [Resolve("", "ana", "x", "y", 2), Resolve("", "ana", "x", "y", 3)],
        [Resolve("", "ana", "", "", 2), Reopen("", "bo", "", 3), Reopen("", "bo", "", 4)],
        [Reassign("", "care", "ana", "", 2), Reassign("", "care", "bo", "", 3)],
    ],
)
def test_what_is_already_so_by_the_same_person_changes_nothing(again: list[Command]) -> None:
    """A retry is answered as the first call was."""
    desk = Desk()
    desk.take(item("a", 1))
    case_id = desk.only().case_id
    *first, last = (type(each)(**{**fields(each), "case_id": case_id}) for each in again)
    for command in first:
        desk.do(command)
    assert decide(last, desk.only(), ROUTES) is None


@pytest.mark.parametrize(
    ("first", "then", "reason"),
    [
        (Acknowledge("", "ana", 2), Acknowledge("", "bo", 3), "CASE_ACKNOWLEDGED"),
        (Resolve("", "ana", "x", "", 2), Acknowledge("", "ana", 3), "CASE_RESOLVED"),
        (Resolve("", "ana", "x", "", 2), Reassign("", "care", "ana", "", 3), "CASE_RESOLVED"),
        (Resolve("", "ana", "x", "", 2), Resolve("", "bo", "x", "", 3), "CASE_RESOLVED"),
        (Resolve("", "ana", "x", "", 2), Resolve("", "ana", "other", "", 3), "CASE_RESOLVED"),
        (Acknowledge("", "ana", 2), Reopen("", "ana", "", 3), "CASE_NOT_RESOLVED"),
    ],
)
def test_what_the_state_does_not_allow_is_refused(first: Command, then: Command, reason: str) -> None:
    """A refusal names the case and changes nothing."""
    desk = Desk()
    desk.take(item("a", 1))
    case_id = desk.only().case_id
    desk.do(type(first)(**{**fields(first), "case_id": case_id}))
    before = desk.only()
    with pytest.raises(PreconditionError) as refused:
        decide(type(then)(**{**fields(then), "case_id": case_id}), before, ROUTES)
    assert refused.value.reason == reason
    assert refused.value.metadata["case_id"] == case_id


def test_nobody_reassigns_to_a_department_that_is_not_there() -> None:
    """DEPARTMENT_UNKNOWN, with the name."""
    desk = Desk()
    desk.take(item("a", 1))
    with pytest.raises(NotFoundError) as refused:
        decide(Reassign(desk.only().case_id, "nobody", "ana", "", 2), desk.only(), ROUTES)
    assert (refused.value.reason, refused.value.metadata) == ("DEPARTMENT_UNKNOWN", {"department": "nobody"})


def test_an_earlier_item_that_comes_late_takes_over_the_case_with_what_was_done() -> None:
    """The case is then named by the earlier item; the old name is withdrawn, and what was done to it still counts."""
    desk = Desk()
    desk.take(item("b", 10))
    old = desk.only().case_id
    desk.do(Acknowledge(old, "ana", 20))
    desk.take(item("a", 5))
    case = desk.only()
    assert case.case_id == case_id_of("c", BILLING, "a") != old
    assert (case.state, case.acknowledged_by, case.items) == (CaseState.ACKNOWLEDGED, "ana", 2)
    assert [(step.kind, step.case.case_id) for step in desk.told[2:]] == [
        (StepKind.WITHDRAWN, old),
        (StepKind.OPENED, case.case_id),
        (StepKind.JOINED, case.case_id),
        (StepKind.ACKNOWLEDGED, case.case_id),
    ]


def test_an_item_that_leaves_takes_what_was_done_to_its_case_along() -> None:
    """After a re-attribution the new client's case stands where the old one's stood, and the old one is withdrawn."""
    here, there = Desk("c"), Desk("d")
    here.take(item("a", 1))
    here.do(Acknowledge(here.only().case_id, "ana", 3))
    moved, acts = here.client.remove_item("a")
    here.told += here.client.settle(50)
    there.told += there.client.add_item(moved, acts)
    assert not here.cases
    assert here.told[-1].kind is StepKind.WITHDRAWN
    assert there.only().state is CaseState.ACKNOWLEDGED
    assert there.only().client_id == "d"
    assert there.kinds() == [StepKind.OPENED, StepKind.ACKNOWLEDGED]


def test_an_act_counts_after_the_item_it_answers_even_where_clocks_disagree() -> None:
    """A case whose channel's clock runs ahead can be acknowledged all the same."""
    desk = Desk()
    desk.take(item("a", 1_000))
    desk.do(Acknowledge(desk.only().case_id, "ana", 3))
    assert desk.only().state is CaseState.ACKNOWLEDGED


def fields(command: Command) -> dict[str, object]:
    return {name: getattr(command, name) for name in type(command).__dataclass_fields__}


matters = st.sampled_from([(BILLING,), (("care", "x"),), (BILLING, ("care", "x"))])


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Item], list[Act]]:
    names = [f"i{number}" for number in range(draw(st.integers(1, 7)))]
    items = [item(name, draw(st.integers(0, 300)), matters=draw(matters)) for name in names]
    acts = [
        Act(
            act_id=f"act{number}",
            kind=draw(st.sampled_from(list(ActKind))),
            anchor=(anchor := draw(st.sampled_from(items))).feedback_id,
            matter=draw(st.sampled_from([(each.department, each.topic) for each in anchor.assignments])),
            at=draw(st.integers(0, 400)),
            by=draw(st.sampled_from(["ana", "bo"])),
            department=draw(st.sampled_from(["care", "billing", "board"])),
            acknowledge_by=draw(st.integers(0, 500)),
            missed=draw(st.sampled_from(list(Missed))),
        )
        for number in range(draw(st.integers(0, 5)))
    ]
    return items, acts


def replayed(items: list[Item], acts: list[Act], client_id: str = "c") -> ClientFeedback:
    return ClientFeedback.restored(client_id, POLICIES, 0, items, acts)


def test_what_an_item_takes_along_is_told_in_one_order() -> None:
    """Whether its client was at hand, or read from its rows, whose order says nothing."""
    one = item("a", 1)
    acts = [Act(name, ActKind.ESCALATE, "a", BILLING, at) for name, at in (("z", 5), ("m", 9), ("b", 7), ("a", 7))]
    at_hand = Desk()
    at_hand.take(one)
    for act in acts:
        at_hand.act(act)
    _, moved = at_hand.client.remove_item("a")
    assert [act.act_id for act in moved] == ["z", "a", "b", "m"]
    assert replayed([one], acts[::-1]).remove_item("a") == (one, moved)


@settings(max_examples=300)
@given(histories(), st.randoms(use_true_random=False), st.booleans())
def test_any_order_of_arrival_gives_the_same_cases(
    history: tuple[list[Item], list[Act]], rng: object, batched: bool
) -> None:
    """Law 3: live in any order, settled at any time, or folded from the set: the same cases; what was told adds up."""
    items, acts = history
    whole = {case.case_id: case for case in replayed(items, acts).cases()}
    arriving: list[Item | Act] = [*items, *acts]
    rng.shuffle(arriving)  # pyright: ignore[reportAttributeAccessIssue] -- a random.Random
    desk = Desk()
    waiting: list[Act] = []
    for entry in arriving:
        if isinstance(entry, Item):
            mine = [act for act in waiting if act.anchor == entry.feedback_id]
            desk.told += desk.client.add_item(entry, mine)
            waiting = [act for act in waiting if act not in mine]
        elif entry.anchor in desk.client.items:
            step = desk.client.add_act(entry)
            desk.told += [step] if step else []
        else:
            waiting.append(entry)
        if not batched:
            desk.told += desk.client.settle(999)
    desk.told += desk.client.settle(999)
    assert desk.cases == whole
    assert as_heard(desk.told) == heard_of(whole)


@settings(max_examples=200)
@given(histories(), st.data())
def test_moving_items_away_and_back_leaves_what_would_have_been(
    history: tuple[list[Item], list[Act]], data: st.DataObject
) -> None:
    """A re-attribution and its undoing leave no trace in the state."""
    items, acts = history
    here, there = Desk("c"), Desk("d")
    here.take(*items)
    for act in acts:
        step = here.client.add_act(act)
        here.told += [step] if step else []
        here.told += here.client.settle(999)
    before = here.cases
    leaving = data.draw(st.lists(st.sampled_from(items), unique_by=lambda each: each.feedback_id))
    for source, target in ((here, there), (there, here)):
        for each in leaving:
            moved, along = source.client.remove_item(each.feedback_id)
            source.told += source.client.settle(999)
            target.told += target.client.add_item(moved, along)
            target.told += target.client.settle(999)
    assert here.cases == before
    assert not there.cases
    assert as_heard(here.told) == heard_of(before)
    assert as_heard(there.told) == {}


@given(histories())
def test_every_item_that_opens_is_in_exactly_one_case_per_matter(history: tuple[list[Item], list[Act]]) -> None:
    """Nothing falls through the cracks: each assignment that opens is counted by one case."""
    items, acts = history
    client = replayed(items, acts)
    wanted = sum(len(each.assignments) for each in items)
    assert sum(case.items for case in client.cases()) == wanted
    assert all(client.case_of(each.feedback_id, (a.department, a.topic)) for each in items for a in each.assignments)
