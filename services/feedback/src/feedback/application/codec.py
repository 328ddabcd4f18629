"""Between the contract's messages and the domain's words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, cast

import orjson
from google.protobuf.message import Message

from feedback.domain.cases import Act, ActKind, Case, Missed, Step, StepKind
from feedback.domain.items import Assignment, Item, Kind, Remark, item_order
from feedback.domain.routing import Department, Route, RouteSet
from throughline.feedback.v1 import events_pb2 as events
from throughline.feedback.v1 import routes_pb2
from throughline.ingestion.v1 import interaction_pb2 as interaction
from throughline_kernel import InvalidError, Violation

PACKAGE: Final = "throughline.feedback.v1."
RECEIVED: Final = events.FeedbackReceived.DESCRIPTOR.full_name
REASSIGNED: Final = events.FeedbackReassigned.DESCRIPTOR.full_name
CLASSIFIED: Final = events.FeedbackClassified.DESCRIPTOR.full_name
CONFLICTED: Final = events.FeedbackConflicted.DESCRIPTOR.full_name
ROUTES_PUBLISHED: Final = events.RoutesPublished.DESCRIPTOR.full_name
CLIENT_DROPPED: Final = events.ClientDropped.DESCRIPTOR.full_name

_KIND_PREFIX: Final = "FEEDBACK_KIND_"
_KINDS: Final = {int(kind): kind for kind in Kind}


def kind_of(number: int) -> Kind:
    """The kind; a number that this version does not know is kept as unspecified."""
    return _KINDS.get(number, Kind.UNSPECIFIED)


def attribute_texts(attributes: bytes) -> dict[str, str]:
    """Operational attributes as text, as routes compare them: true and false for flags, JSON for what has parts."""
    try:
        parsed: object = orjson.loads(attributes) if attributes else {}
    except orjson.JSONDecodeError:
        return {}
    if not isinstance(parsed, dict):
        return {}
    return {name: _text(value) for name, value in cast("dict[str, object]", parsed).items()}


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


def remark_of(received: events.FeedbackReceived, words: str, attributes: Mapping[str, str]) -> Remark:
    """The item as routes look at it."""
    fact = received.fact
    return Remark(
        kind=kind_of(fact.kind),
        score=fact.score if fact.HasField("score") else None,
        scale_min=fact.scale_min,
        scale_max=fact.scale_max,
        channel=received.channel,
        touchpoint=received.touchpoint,
        matter=received.matter,
        topic=fact.topic,
        aspect=fact.aspect,
        attributes=attributes,
        words=words,
    )


def item_of(received: events.FeedbackReceived, assignments: tuple[Assignment, ...], routes_version: int) -> Item:
    """The item at its place in a client's history."""
    return Item(
        received.feedback_id,
        item_order(
            received.occurred_at,
            received.source,
            received.sequence,
            interaction_id=received.interaction_id,
            feedback_id=received.feedback_id,
            entry=received.entry,
        ),
        received.channel,
        routes_version,
        assignments,
    )


def item_facts(received: events.FeedbackReceived) -> dict[str, Any]:
    """What is known of an item, as JSON without anything that hangs on how it arrived, and without its words."""
    fact = received.fact
    return {
        "interaction_id": received.interaction_id,
        "source": received.source,
        "channel": received.channel,
        "touchpoint": received.touchpoint,
        "matter": received.matter,
        "occurred_at": received.occurred_at,
        "sequence": received.sequence,
        "entry": received.entry,
        "attributes": received.attributes.decode("utf-8", "replace"),
        "kind": int(fact.kind),
        "score": fact.score if fact.HasField("score") else None,
        "scale": [fact.scale_min, fact.scale_max],
        "has_verbatim": fact.has_verbatim,
        "topic": fact.topic,
        "aspect": fact.aspect,
        "solicited": fact.solicited,
        "weight_micros": fact.weight_micros,
    }


def fact_of(feedback: interaction.Feedback) -> interaction.FeedbackFact:
    """What of an answer may be told in the clear."""
    fact = interaction.FeedbackFact(
        kind=feedback.kind,
        scale_min=feedback.scale_min,
        scale_max=feedback.scale_max,
        has_verbatim=bool(feedback.verbatim),
        topic=feedback.topic,
        aspect=feedback.aspect,
        solicited=feedback.solicited,
        weight_micros=feedback.weight_micros,
    )
    if feedback.HasField("score"):
        fact.score = feedback.score
    return fact


def assignment_messages(assignments: Iterable[Assignment], case_ids: Iterable[str]) -> list[events.Assignment]:
    """Assignments with the case that each one opened or joined."""
    return [
        events.Assignment(
            department=each.department,
            topic=each.topic,
            route=each.route,
            because=each.because,
            case_id=case_id,
        )
        for each, case_id in zip(assignments, case_ids, strict=True)
    ]


def assignments_of(messages: Iterable[events.Assignment]) -> tuple[Assignment, ...]:
    """Assignments as they were logged: whether one opens a case shows in its having one."""
    return tuple(
        Assignment(each.department, each.topic, each.route, each.because, bool(each.case_id)) for each in messages
    )


def step_message(step: Step) -> Message:
    """The event that tells a step."""
    return _STEPS[step.kind](step, step.case, step.act)


def _opened(step: Step, case: Case, _: Act | None) -> Message:
    return events.CaseOpened(
        case_id=case.case_id,
        client_id=case.client_id,
        department=case.department,
        topic=case.matter[1],
        feedback_id=step.feedback_id,
        acknowledge_by=case.acknowledge_by,
        resolve_by=case.resolve_by,
        channel=case.channel,
    )


def _joined(step: Step, case: Case, _: Act | None) -> Message:
    return events.CaseJoined(case_id=case.case_id, client_id=case.client_id, feedback_id=step.feedback_id)


def _acknowledged(_: Step, case: Case, act: Act | None) -> Message:
    return events.CaseAcknowledged(
        case_id=case.case_id,
        client_id=case.client_id,
        by=act.by if act else "",
        act_id=act.act_id if act else "",
    )


def _reassigned(step: Step, case: Case, act: Act | None) -> Message:
    return events.CaseReassigned(
        case_id=case.case_id,
        client_id=case.client_id,
        department=case.department,
        previous_department=step.previous_department,
        by=act.by if act else "",
        reason=act.text if act else "",
        act_id=act.act_id if act else "",
        acknowledge_by=case.acknowledge_by,
    )


def _escalated(step: Step, case: Case, act: Act | None) -> Message:
    return events.CaseEscalated(
        case_id=case.case_id,
        client_id=case.client_id,
        department=case.department,
        missed=act.missed.value if act and act.missed else "",
        due_at=act.due_at if act else 0,
        previous_department=step.previous_department,
        act_id=act.act_id if act else "",
    )


def _resolved(_: Step, case: Case, act: Act | None) -> Message:
    return events.CaseResolved(
        case_id=case.case_id,
        client_id=case.client_id,
        by=act.by if act else "",
        resolution=act.text if act else "",
        root_cause=act.root_cause if act else "",
        department=case.department,
        act_id=act.act_id if act else "",
    )


def _reopened(step: Step, case: Case, act: Act | None) -> Message:
    return events.CaseReopened(
        case_id=case.case_id,
        client_id=case.client_id,
        feedback_id=step.feedback_id,
        by=act.by if act else "",
        reason=act.text if act else "",
        act_id=act.act_id if act else "",
    )


def _withdrawn(step: Step, case: Case, _: Act | None) -> Message:
    return events.CaseWithdrawn(case_id=case.case_id, client_id=case.client_id, reason=step.reason)


_STEPS: Final[Mapping[StepKind, Callable[[Step, Case, Act | None], Message]]] = {
    StepKind.OPENED: _opened,
    StepKind.JOINED: _joined,
    StepKind.ACKNOWLEDGED: _acknowledged,
    StepKind.REASSIGNED: _reassigned,
    StepKind.ESCALATED: _escalated,
    StepKind.RESOLVED: _resolved,
    StepKind.REOPENED: _reopened,
    StepKind.WITHDRAWN: _withdrawn,
}

ActMessage = (
    events.CaseAcknowledged | events.CaseReassigned | events.CaseEscalated | events.CaseResolved | events.CaseReopened
)


def act_of(message: ActMessage, at: int, anchor: str, matter: tuple[str, str]) -> Act:
    """The act that an event tells, anchored to the item that opened its case."""
    match message:
        case events.CaseAcknowledged():
            return Act(message.act_id, ActKind.ACKNOWLEDGE, anchor, matter, at, by=message.by)
        case events.CaseReassigned():
            return Act(
                message.act_id,
                ActKind.REASSIGN,
                anchor,
                matter,
                at,
                by=message.by,
                text=message.reason,
                department=message.department,
                acknowledge_by=message.acknowledge_by,
            )
        case events.CaseEscalated():
            return Act(
                message.act_id,
                ActKind.ESCALATE,
                anchor,
                matter,
                at,
                department=message.department,
                missed=Missed(message.missed),
                due_at=message.due_at,
            )
        case events.CaseResolved():
            return Act(
                message.act_id,
                ActKind.RESOLVE,
                anchor,
                matter,
                at,
                by=message.by,
                text=message.resolution,
                root_cause=message.root_cause,
            )
        case events.CaseReopened():
            return Act(message.act_id, ActKind.REOPEN, anchor, matter, at, by=message.by, text=message.reason)


def routes_of(message: routes_pb2.RouteSet) -> RouteSet:
    """The route set. Raises InvalidError ROUTES_INVALID where `no_case_from` names a kind that there is not."""
    unknown = [name for name in message.no_case_from if name.removeprefix(_KIND_PREFIX) not in Kind.__members__]
    if unknown:
        raise InvalidError.of(
            *(
                Violation(
                    f"routes.no_case_from[{name}]",
                    "names a kind of feedback",
                    f"use one of {', '.join(_KIND_PREFIX + kind.name for kind in Kind)}",
                    "ROUTES_INVALID",
                )
                for name in sorted(unknown)
            )
        )
    return RouteSet(
        version=message.version,
        departments=tuple(
            Department(each.department, each.name, each.acknowledge_within, each.resolve_within, each.escalates_to)
            for each in message.departments
        ),
        routes=tuple(map(_route_of, message.routes)),
        default_department=message.default_department,
        acknowledge_within=message.acknowledge_within,
        resolve_within=message.resolve_within,
        reopen_within=message.reopen_within,
        no_case_from=tuple(
            sorted((Kind[name.removeprefix(_KIND_PREFIX)], score) for name, score in message.no_case_from.items())
        ),
        complaint_words=tuple(message.complaint_words),
    )


def _route_of(message: routes_pb2.Route) -> Route:
    return Route(
        route=message.route,
        department=message.department,
        topic=message.topic,
        priority=message.priority,
        final=message.final,
        channels=tuple(message.channels),
        touchpoints=tuple(message.touchpoints),
        matters=tuple(message.matters),
        topics=tuple(message.topics),
        aspects=tuple(message.aspects),
        kinds=tuple(map(kind_of, message.kinds)),
        keywords=tuple(message.keywords),
        attributes=tuple(sorted(message.attributes.items())),
        score_at_most=message.score_at_most if message.HasField("score_at_most") else None,
    )


def routes_message(routes: RouteSet) -> routes_pb2.RouteSet:
    """The route set as the contract has it."""
    return routes_pb2.RouteSet(
        version=routes.version,
        departments=[
            routes_pb2.Department(
                department=each.department,
                name=each.name,
                acknowledge_within=each.acknowledge_within,
                resolve_within=each.resolve_within,
                escalates_to=each.escalates_to,
            )
            for each in routes.departments
        ],
        routes=[_route_message(route) for route in routes.routes],
        default_department=routes.default_department,
        acknowledge_within=routes.acknowledge_within,
        resolve_within=routes.resolve_within,
        reopen_within=routes.reopen_within,
        no_case_from={_KIND_PREFIX + kind.name: score for kind, score in routes.no_case_from},
        complaint_words=routes.complaint_words,
    )


def _route_message(route: Route) -> routes_pb2.Route:
    return routes_pb2.Route(
        route=route.route,
        department=route.department,
        topic=route.topic,
        priority=route.priority,
        final=route.final,
        channels=route.channels,
        touchpoints=route.touchpoints,
        matters=route.matters,
        topics=route.topics,
        aspects=route.aspects,
        kinds=[cast("interaction.FeedbackKind.ValueType", int(kind)) for kind in route.kinds],
        keywords=route.keywords,
        attributes=dict(route.attributes),
        score_at_most=route.score_at_most,
    )


def routes_state(routes: RouteSet) -> dict[str, Any]:
    """A route set as JSON."""
    return {
        "departments": [
            [each.department, each.name, each.acknowledge_within, each.resolve_within, each.escalates_to]
            for each in routes.departments
        ],
        "routes": [
            {
                **{name: getattr(route, name) for name in Route.__dataclass_fields__},
                "kinds": [kind.name for kind in route.kinds],
            }
            for route in routes.routes
        ],
        "default_department": routes.default_department,
        "within": [routes.acknowledge_within, routes.resolve_within, routes.reopen_within],
        "no_case_from": {kind.name: score for kind, score in routes.no_case_from},
        "complaint_words": list(routes.complaint_words),
    }
