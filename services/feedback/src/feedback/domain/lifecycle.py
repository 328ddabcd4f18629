"""Decides what may be done to a case: an act, nothing (already so), or a refusal."""

from __future__ import annotations

from dataclasses import dataclass

from feedback.domain.cases import Act, ActKind, Case, CaseState, Missed
from feedback.domain.routing import RouteSet
from throughline_kernel import NotFoundError, PreconditionError, hex_id


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """Somebody of the department has it in hand. `at` in microseconds."""

    case_id: str
    by: str
    at: int


@dataclass(frozen=True, slots=True)
class Reassign:
    """Another department owns it."""

    case_id: str
    department: str
    by: str
    reason: str
    at: int


@dataclass(frozen=True, slots=True)
class Resolve:
    """The loop is closed."""

    case_id: str
    by: str
    resolution: str
    root_cause: str
    at: int


@dataclass(frozen=True, slots=True)
class Reopen:
    """It was not resolved after all."""

    case_id: str
    by: str
    reason: str
    at: int


Command = Acknowledge | Reassign | Resolve | Reopen


def decide(command: Command, case: Case, routes: RouteSet) -> Act | None:
    """The act that the command comes to, None where it is already so.

    Raises: PreconditionError CASE_RESOLVED, CASE_NOT_RESOLVED, CASE_ACKNOWLEDGED; NotFoundError DEPARTMENT_UNKNOWN.
    """
    match command:
        case Acknowledge():
            return _acknowledge(command, case)
        case Reassign():
            return _reassign(command, case, routes)
        case Resolve():
            return _resolve(command, case)
        case Reopen():
            return _reopen(command, case)


def escalate(case: Case, which: Missed, now: int, routes: RouteSet) -> Act | None:
    """The act of this deadline where the case has missed it by `now` (microseconds), None where it has not."""
    due_at = next((due for due, missed in case.deadlines() if missed is which), None)
    if due_at is None or due_at >= now:
        return None
    return Act(
        act_id=hex_id("act", "escalate", case.opened_by, *case.matter, which.value, str(due_at)),
        kind=ActKind.ESCALATE,
        anchor=case.opened_by,
        matter=case.matter,
        at=now,
        department=routes.escalates_to(case.department),
        missed=which,
        due_at=due_at,
    )


def case_withdrawn(case: Case) -> PreconditionError:
    """The case no longer stands."""
    return PreconditionError(
        "CASE_WITHDRAWN",
        f"case {case.case_id} was withdrawn: a late or re-attributed item took its ground; list the inbox again",
        {"case_id": case.case_id},
    )


def department_unknown(department: str) -> NotFoundError:
    """No department has this name."""
    return NotFoundError(
        "DEPARTMENT_UNKNOWN",
        f"no department is called {department!r}: read the routes for those there are",
        {"department": department},
    )


def _acknowledge(command: Acknowledge, case: Case) -> Act | None:
    if case.state is CaseState.RESOLVED:
        raise _resolved(case)
    if case.state is CaseState.ACKNOWLEDGED:
        if case.acknowledged_by == command.by:
            return None
        raise PreconditionError(
            "CASE_ACKNOWLEDGED",
            f"case {case.case_id} was acknowledged by {case.acknowledged_by} already: leave it to them or reassign it",
            {"case_id": case.case_id, "by": case.acknowledged_by},
        )
    return _act(ActKind.ACKNOWLEDGE, command, case)


def _reassign(command: Reassign, case: Case, routes: RouteSet) -> Act | None:
    if not routes.has(command.department):
        raise department_unknown(command.department)
    if case.state is CaseState.RESOLVED:
        raise _resolved(case)
    if case.department == command.department:
        return None
    acknowledge, _ = routes.times(command.department)
    return _act(
        ActKind.REASSIGN,
        command,
        case,
        text=command.reason,
        department=command.department,
        acknowledge_by=max(case.acknowledge_by, command.at + acknowledge),
    )


def _resolve(command: Resolve, case: Case) -> Act | None:
    if case.state is CaseState.RESOLVED:
        same = (command.by, command.resolution, command.root_cause)
        if same == (case.resolved_by, case.resolution, case.root_cause):
            return None
        raise _resolved(case)
    return _act(ActKind.RESOLVE, command, case, text=command.resolution, root_cause=command.root_cause)


def _reopen(command: Reopen, case: Case) -> Act | None:
    if case.state is not CaseState.RESOLVED:
        if case.reopened_by == command.by:
            return None
        raise PreconditionError(
            "CASE_NOT_RESOLVED",
            f"case {case.case_id} is not resolved: there is nothing to reopen",
            {"case_id": case.case_id},
        )
    return _act(ActKind.REOPEN, command, case, text=command.reason)


def _resolved(case: Case) -> PreconditionError:
    return PreconditionError(
        "CASE_RESOLVED",
        f"case {case.case_id} is resolved: reopen it first",
        {"case_id": case.case_id},
    )


def _act(
    kind: ActKind,
    command: Command,
    case: Case,
    *,
    text: str = "",
    root_cause: str = "",
    department: str = "",
    acknowledge_by: int = 0,
) -> Act:
    return Act(
        act_id=hex_id("act", kind.name, case.opened_by, *case.matter, command.by, str(command.at)),
        kind=kind,
        anchor=case.opened_by,
        matter=case.matter,
        at=command.at,
        by=command.by,
        text=text,
        root_cause=root_cause,
        department=department,
        acknowledge_by=acknowledge_by,
    )
