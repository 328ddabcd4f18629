"""Last-writer registers: what upstream logs said last about an item of feedback, a case, a journey, in whatever order
it arrived.

Each part of a register keeps the upstream position that it came from, and a higher position wins. So a repetition
changes nothing and any order leaves the same register (law 3). `present` tells the fact that the register makes, once
enough of it has arrived.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from scoring.domain.facts import CaseItem, FeedbackItem, JourneyItem

# (attribution position, position in feedback's log): whose an item is goes by the attribution first.
OwnerOrder = tuple[int, int]


@dataclass(slots=True)
class FeedbackRegister:
    """One item of feedback."""

    owner: str = ""
    owner_order: OwnerOrder = (-1, 0)
    # As it was received first, and when it was last.
    item: FeedbackItem | None = None
    first_position: int = 0
    last_position: int = 0
    departments: tuple[str, ...] = ()
    departments_position: int = 0
    # The client whose stream knows of it.
    noted: str = ""

    def received(self, owner: str, item: FeedbackItem, order: OwnerOrder) -> None:
        """The item and whose it is."""
        position = order[1]
        self.last_position = max(self.last_position, position)
        if self.item is None or position < self.first_position:
            self.item, self.first_position = item, position
        self.reassigned(owner, order)

    def reassigned(self, owner: str, order: OwnerOrder) -> None:
        """Whose it is."""
        if order > self.owner_order:
            self.owner, self.owner_order = owner, order

    def classified(self, departments: tuple[str, ...], position: int) -> None:
        """Which departments own it."""
        if position > self.departments_position:
            self.departments, self.departments_position = departments, position

    def present(self) -> FeedbackItem | None:
        """The item as it stands, once it was received."""
        return None if self.item is None else self.item._replace(departments=self.departments)


class CaseStep(NamedTuple):
    """What was said of a case."""

    # opened, acknowledged, moved, resolved, reopened, withdrawn.
    what: str
    at: int
    event_id: str
    # Empty where the step does not say.
    department: str
    channel: str


@dataclass(slots=True)
class CaseRegister:
    """One case: what was said of it since it was last withdrawn, by position in feedback's log."""

    client: str = ""
    steps: dict[int, CaseStep] = field(default_factory=dict[int, CaseStep])
    withdrawn_position: int = 0

    def said(self, client: str, step: CaseStep, position: int) -> None:
        """Takes a step; what a later withdrawal took back does not count any more."""
        self.client = client
        if step.what == "withdrawn":
            self.withdrawn_position = max(self.withdrawn_position, position)
            self.steps = {at: each for at, each in self.steps.items() if at > self.withdrawn_position}
        elif position > self.withdrawn_position:
            self.steps[position] = step

    def present(self, case_id: str, after: int = 0) -> CaseItem | None:
        """The case as it stands: withdrawn where nothing of it holds; none where nothing is known of it yet.

        Only what was said behind the position `after` counts.
        The first opening and acknowledgement count, and the last resolution that no reopening followed.
        """
        case = CaseItem(case_id, "", "", "withdrawn", 0, 0, 0, "", "", "")
        for position in sorted(each for each in self.steps if each > after):
            step = self.steps[position]
            if step.department:
                case = case._replace(department=step.department)
            match step.what:
                case "opened":
                    if not case.opened_event:
                        case = case._replace(opened_at=step.at, opened_event=step.event_id, channel=step.channel)
                    case = case._replace(state="open")
                case "acknowledged":
                    if not case.acknowledged_event:
                        case = case._replace(acknowledged_at=step.at, acknowledged_event=step.event_id)
                    case = case._replace(state="acknowledged")
                case "resolved":
                    case = case._replace(state="resolved", resolved_at=step.at, resolved_event=step.event_id)
                case "reopened":
                    case = case._replace(state="reopened", resolved_at=0, resolved_event="")
                case _:
                    pass
        if case.opened_event:
            return case
        return None if not self.withdrawn_position else CaseItem(case_id, "", "", "withdrawn", 0, 0, 0, "", "", "")


class Transition(NamedTuple):
    """A step of a journey, by its event id; `alive` until it is retracted."""

    position: int
    alive: bool
    # started, reached, completed, abandoned; empty where only its retraction is known.
    what: str
    at: int
    interaction_id: str
    channel: str


@dataclass(slots=True)
class JourneyRegister:
    """One journey: its transitions by event id."""

    client: str = ""
    journey: str = ""
    transitions: dict[str, Transition] = field(default_factory=dict[str, Transition])

    def announced(self, client: str, journey: str, event_id: str, transition: Transition) -> None:
        """A transition holds."""
        self.client, self.journey = client, journey
        known = self.transitions.get(event_id)
        if known is None or transition.position > known.position:
            self.transitions[event_id] = transition
        elif not known.what:
            self.transitions[event_id] = transition._replace(position=known.position, alive=known.alive)

    def retracted(self, event_id: str, position: int) -> None:
        """A transition does not hold any more."""
        known = self.transitions.get(event_id, Transition(0, alive=False, what="", at=0, interaction_id="", channel=""))
        if position > known.position:
            self.transitions[event_id] = known._replace(position=position, alive=False)

    def present(self, journey_id: str, after: int = 0) -> JourneyItem | None:
        """The journey as it stands: retracted where no start of it holds; none where nothing is known of it yet.

        Only what was said behind the position `after` counts.
        """
        if not self.client:
            return None
        alive = sorted(
            (each.at, each.interaction_id, event_id, each)
            for event_id, each in self.transitions.items()
            if each.alive and each.position > after
        )
        start = next((row for row in alive if row[3].what == "started"), None)
        if start is None:
            return JourneyItem(journey_id, self.journey, "retracted", 0, 0, (), (), "", "")
        end = next((row for row in alive if row[3].what == "completed"), None) or next(
            (row for row in alive if row[3].what == "abandoned"), None
        )
        channels: list[str] = []
        for _, _, _, each in alive:
            if each.channel and (not channels or channels[-1] != each.channel):
                channels.append(each.channel)
        return JourneyItem(
            journey_id,
            self.journey,
            end[3].what if end is not None else "started",
            start[0],
            end[0] if end is not None else 0,
            tuple(dict.fromkeys(each.interaction_id for _, _, _, each in alive if each.interaction_id)),
            tuple(channels),
            start[2],
            end[2] if end is not None else "",
        )
