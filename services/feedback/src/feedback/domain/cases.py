"""The cases of one matter: what follows from its items in canonical order and from what was done, in time order.

A matter is one client, one department and one topic. Its cases are a pure left fold, so any order of arrival gives the
same ones (law 3); a case is named by the item that opens it.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum, IntEnum
from typing import Final, assert_never

from feedback.domain.items import Item, Order
from feedback.domain.routing import RouteSet
from throughline_kernel import announce, hex_id

Policies = Mapping[int, RouteSet]
"""Route sets by version. An item's own version says which deadlines hold for it."""

RESTATED: Final = "told again: an item came late or moved"
GROUNDLESS: Final = "its items are in another case or with another client"


class CaseState(IntEnum):
    """Where a case stands, numbered as in the contract."""

    OPEN = 1
    ACKNOWLEDGED = 2
    RESOLVED = 3
    WITHDRAWN = 4


class Missed(Enum):
    """Which deadline was missed."""

    ACKNOWLEDGE = "acknowledge"
    RESOLVE = "resolve"


class ActKind(IntEnum):
    """What can be done to a case."""

    ACKNOWLEDGE = 1
    REASSIGN = 2
    ESCALATE = 3
    RESOLVE = 4
    REOPEN = 5


@dataclass(frozen=True, slots=True)
class Act:
    """What a person or a missed deadline did to the case that held `anchor`, the item that opened it then.

    It stays with that item, wherever late arrivals or a re-attribution take it. Times in microseconds.
    """

    act_id: str
    kind: ActKind
    anchor: str
    matter: tuple[str, str]
    at: int
    by: str = ""
    text: str = ""
    """Reason, or what was done."""
    root_cause: str = ""
    department: str = ""
    """Where it goes: of REASSIGN and ESCALATE."""
    acknowledge_by: int = 0
    """The new owner's deadline: of REASSIGN."""
    missed: Missed | None = None
    due_at: int = 0


@dataclass(frozen=True, slots=True)
class Case:
    """One case as it stands."""

    case_id: str
    client_id: str
    matter: tuple[str, str]
    """Department and topic that opened it; reassigning changes `department` only."""
    opened_by: str
    channel: str
    routes_version: int
    opened_at: int
    department: str
    state: CaseState
    acknowledge_by: int
    resolve_by: int
    items: int = 1
    acknowledged_by: str = ""
    acknowledged_at: int = 0
    resolved_by: str = ""
    resolved_at: int = 0
    resolution: str = ""
    root_cause: str = ""
    reopened: int = 0
    reopened_by: str = ""
    missed_acknowledge: bool = False
    missed_resolve: bool = False

    @property
    def escalated(self) -> bool:
        """Whether a deadline was missed and said so since it was last opened."""
        return self.missed_acknowledge or self.missed_resolve

    @property
    def due_at(self) -> int:
        """The next deadline that is not met yet; of a case that waits for nothing, when it was last closed."""
        match self.state:
            case CaseState.OPEN:
                return min(self.acknowledge_by, self.resolve_by)
            case CaseState.ACKNOWLEDGED:
                return self.resolve_by
            case CaseState.RESOLVED | CaseState.WITHDRAWN:
                return self.resolved_at

    def overdue(self, now: int) -> bool:
        """Whether a deadline has passed unmet."""
        return self.state in {CaseState.OPEN, CaseState.ACKNOWLEDGED} and self.due_at < now

    def deadlines(self) -> list[tuple[int, Missed]]:
        """The deadlines that would escalate it: when, and which. Each escalates once between openings."""
        waiting: list[tuple[int, Missed]] = []
        if self.state is CaseState.OPEN and not self.missed_acknowledge:
            waiting.append((self.acknowledge_by, Missed.ACKNOWLEDGE))
        if self.state in {CaseState.OPEN, CaseState.ACKNOWLEDGED} and not self.missed_resolve:
            waiting.append((self.resolve_by, Missed.RESOLVE))
        return waiting


class StepKind(Enum):
    """What happened to a case, by the event that tells it."""

    OPENED = "CaseOpened"
    JOINED = "CaseJoined"
    ACKNOWLEDGED = "CaseAcknowledged"
    REASSIGNED = "CaseReassigned"
    ESCALATED = "CaseEscalated"
    RESOLVED = "CaseResolved"
    REOPENED = "CaseReopened"
    WITHDRAWN = "CaseWithdrawn"


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to tell about a case."""

    kind: StepKind
    case: Case
    """As it stood right after."""
    at: int
    feedback_id: str = ""
    act: Act | None = None
    previous_department: str = ""
    reason: str = ""

    @property
    def key(self) -> str:
        """Names the step among those of its matter."""
        return f"{self.case.case_id} {self.kind.value} {self.feedback_id or (self.act.act_id if self.act else '')}"

    def same_as(self, other: Step) -> bool:
        """Whether both tell the same, whatever else has joined the case in between."""
        return (self.kind, self.at, self.feedback_id, self.act, self.previous_department, self.case.department) == (
            other.kind,
            other.at,
            other.feedback_id,
            other.act,
            other.previous_department,
            other.case.department,
        )


@dataclass(frozen=True, slots=True)
class _Told:
    """A step that compares by what it tells: counts of later joiners say nothing."""

    step: Step

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Told) and self.step.same_as(other.step)

    def __hash__(self) -> int:
        return hash(self.step.key)


def _overtaken(before: Iterable[_Told], after: Iterable[_Told]) -> dict[str, Case]:
    """The cases of which something new comes before something told: who hears only the new would end up elsewhere."""
    told = _turns(before)
    now = _turns(after)
    return {
        case_id: turns[0].step.case for case_id, turns in told.items() if now.get(case_id, [])[: len(turns)] != turns
    }


def _turns(steps: Iterable[_Told]) -> dict[str, list[_Told]]:
    """By case, the steps that change where it stands; one more item does not."""
    turns: dict[str, list[_Told]] = {}
    for told in steps:
        if told.step.kind is not StepKind.JOINED:
            turns.setdefault(told.step.case.case_id, []).append(told)
    return turns


def case_id_of(client_id: str, matter: tuple[str, str], feedback_id: str) -> str:
    """The id of the case that this item opens."""
    return hex_id("case", client_id, *matter, feedback_id)


class Course:
    """The cases of a matter up to some point in its history; advances one entry at a time, in order."""

    __slots__ = ("cases", "client_id", "matter", "place", "policies")

    def __init__(self, client_id: str, matter: tuple[str, str], policies: Policies) -> None:
        self.client_id = client_id
        self.matter = matter
        self.policies = policies
        self.cases: dict[str, Case] = {}
        self.place: dict[str, str] = {}
        """The case of each item."""

    def take_item(self, item: Item) -> Step:
        """The item opens, joins or reopens a case."""
        unresolved = next((c for c in reversed(self.cases.values()) if c.state is not CaseState.RESOLVED), None)
        if unresolved is not None:
            return self._step(
                StepKind.JOINED, replace(unresolved, items=unresolved.items + 1), item.at, item.feedback_id
            )
        last = max(self.cases.values(), key=lambda case: case.resolved_at, default=None)
        if last is not None and item.at - last.resolved_at <= self.policies[item.routes_version].reopen_within:
            again = self._reopened(replace(last, items=last.items + 1), item.at, "")
            return self._step(StepKind.REOPENED, again, item.at, item.feedback_id)
        return self._step(StepKind.OPENED, self._opened(item), item.at, item.feedback_id)

    def take_act(self, act: Act) -> Step | None:
        """What the act did, None where it does not apply: history is never refused."""
        case = self.cases.get(self.place.get(act.anchor, ""))
        if case is None:
            return None
        kind = _told_as(act, case)
        return None if kind is None else self._acted(kind, act, case)

    def _opened(self, item: Item) -> Case:
        department, _ = self.matter
        acknowledge, resolve = self.policies[item.routes_version].times(department)
        return Case(
            case_id=case_id_of(self.client_id, self.matter, item.feedback_id),
            client_id=self.client_id,
            matter=self.matter,
            opened_by=item.feedback_id,
            channel=item.channel,
            routes_version=item.routes_version,
            opened_at=item.at,
            department=department,
            state=CaseState.OPEN,
            acknowledge_by=item.at + acknowledge,
            resolve_by=item.at + resolve,
        )

    def _reopened(self, case: Case, at: int, by: str) -> Case:
        acknowledge, resolve = self.policies[case.routes_version].times(case.department)
        return replace(
            case,
            state=CaseState.OPEN,
            reopened=case.reopened + 1,
            reopened_by=by,
            acknowledge_by=at + acknowledge,
            resolve_by=at + resolve,
            acknowledged_by="",
            acknowledged_at=0,
            resolved_by="",
            resolved_at=0,
            resolution="",
            root_cause="",
            missed_acknowledge=False,
            missed_resolve=False,
        )

    def _acted(self, kind: StepKind, act: Act, before: Case) -> Step:
        match act.kind:
            case ActKind.ACKNOWLEDGE:
                after = replace(before, state=CaseState.ACKNOWLEDGED, acknowledged_by=act.by, acknowledged_at=act.at)
            case ActKind.REASSIGN:
                after = replace(
                    before,
                    department=act.department,
                    state=CaseState.OPEN,
                    acknowledge_by=act.acknowledge_by,
                    acknowledged_by="",
                    acknowledged_at=0,
                )
            case ActKind.ESCALATE:
                after = replace(
                    before,
                    department=act.department,
                    missed_acknowledge=before.missed_acknowledge or act.missed is Missed.ACKNOWLEDGE,
                    missed_resolve=before.missed_resolve or act.missed is Missed.RESOLVE,
                )
            case ActKind.RESOLVE:
                after = replace(
                    before,
                    state=CaseState.RESOLVED,
                    resolved_by=act.by,
                    resolved_at=act.at,
                    resolution=act.text,
                    root_cause=act.root_cause,
                )
            case ActKind.REOPEN:
                after = self._reopened(before, act.at, act.by)
            case _:
                assert_never(act.kind)
        self.cases[after.case_id] = after
        return Step(kind, after, act.at, act=act, previous_department=before.department)

    def _step(self, kind: StepKind, case: Case, at: int, feedback_id: str) -> Step:
        self.cases[case.case_id] = case
        self.place[feedback_id] = case.case_id
        return Step(kind, case, at, feedback_id)


def _told_as(act: Act, case: Case) -> StepKind | None:
    """The step that an act comes to, None where the case is not in a state for it."""
    if case.state is CaseState.RESOLVED:
        return StepKind.REOPENED if act.kind is ActKind.REOPEN else None
    applies = {
        ActKind.ACKNOWLEDGE: case.state is CaseState.OPEN,
        ActKind.REASSIGN: case.department != act.department,
        ActKind.ESCALATE: _escalates(act, case),
        ActKind.RESOLVE: True,
        ActKind.REOPEN: False,
    }
    return _TELLS[act.kind] if applies[act.kind] else None


_TELLS: Final = {
    ActKind.ACKNOWLEDGE: StepKind.ACKNOWLEDGED,
    ActKind.REASSIGN: StepKind.REASSIGNED,
    ActKind.ESCALATE: StepKind.ESCALATED,
    ActKind.RESOLVE: StepKind.RESOLVED,
    ActKind.REOPEN: StepKind.REOPENED,
}


def _escalates(act: Act, case: Case) -> bool:
    """Whether the deadline was still to be missed: each escalates once between openings."""
    match act.missed:
        case Missed.ACKNOWLEDGE:
            return case.state is CaseState.OPEN and not case.missed_acknowledge
        case Missed.RESOLVE:
            return not case.missed_resolve
        case None:
            return False


def act_order(act: Act, anchor: Item) -> Order:
    """When the act counts: never before the item it answers, whatever the channel's clock said."""
    return (max(act.at, anchor.at), 1, "", act.at, act.act_id, 0)


Entry = tuple[Order, Item | Act]


def run(
    client_id: str, matter: tuple[str, str], entries: Iterable[Entry], policies: Policies
) -> tuple[Course, list[Step]]:
    """The whole history of a matter, entries in order."""
    course = Course(client_id, matter, policies)
    steps: list[Step] = []
    for _, entry in entries:
        step = course.take_item(entry) if isinstance(entry, Item) else course.take_act(entry)
        if step is not None:
            steps.append(step)
    return course, steps


class Matter:
    """A matter's entries and what follows from them, kept up as entries come and go.

    An entry that comes in order advances the course at once. Anything else marks the matter as changed, and `settle`
    folds it anew and says what of it differs.
    """

    __slots__ = ("_before", "course", "entries")

    def __init__(self, client_id: str, matter: tuple[str, str], policies: Policies) -> None:
        self.course = Course(client_id, matter, policies)
        self.entries: list[Entry] = []
        self._before: list[Step] | None = None

    @property
    def changed(self) -> bool:
        """Whether it must be settled before its cases can be believed."""
        return self._before is not None

    def restore(self, entries: Iterable[Entry]) -> None:
        """Takes up where a stored matter stood."""
        self.entries = sorted(entries, key=lambda entry: entry[0])
        self.course, _ = run(self.course.client_id, self.course.matter, self.entries, self.course.policies)

    def add(self, order: Order, entry: Item | Act) -> Step | None:
        """The step of an entry that comes in order; None where it changes nothing or has to be settled."""
        if self._before is None and (not self.entries or order > self.entries[-1][0]):
            self.entries.append((order, entry))
            return self.course.take_item(entry) if isinstance(entry, Item) else self.course.take_act(entry)
        self._mark()
        insort(self.entries, (order, entry), key=lambda each: each[0])
        return None

    def remove(self, gone: frozenset[str]) -> None:
        """Takes out the items and acts of these ids."""
        self._mark()
        self.entries = [
            each
            for each in self.entries
            if (each[1].feedback_id if isinstance(each[1], Item) else each[1].act_id) not in gone
        ]

    def settle(self, at: int) -> list[Step]:
        """What has to be told after changes: cases withdrawn at `at`, then whatever holds now and was not told."""
        if self._before is None:
            return []
        before = {step.key: _Told(step) for step in self._before}
        self._before = None
        self.course, steps = run(self.course.client_id, self.course.matter, self.entries, self.course.policies)
        after = {step.key: _Told(step) for step in steps}
        difference = announce(before, after)
        upset = {told.step.case.case_id: told.step.case for told in difference.retracted.values()}
        upset.update(_overtaken(before.values(), after.values()))
        told = [
            Step(
                StepKind.WITHDRAWN,
                replace(case, state=CaseState.WITHDRAWN, resolved_at=at),
                at,
                reason=RESTATED if case_id in self.course.cases else GROUNDLESS,
            )
            for case_id, case in upset.items()
        ]
        told.extend(step for step in steps if step.key in difference.added or step.case.case_id in upset)
        return told

    def _mark(self) -> None:
        if self._before is None:
            _, self._before = run(self.course.client_id, self.course.matter, self.entries, self.course.policies)
