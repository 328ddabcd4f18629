"""The event ids that one figure of one subject stands on, client by client."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from scoring.domain import dimensions
from scoring.domain.client import Client, answer, credited
from scoring.domain.dimensions import Kind, Subject
from scoring.domain.facts import Contact
from scoring.domain.intervals import case_ends_in, contacts_in, last_contact_in
from scoring.domain.metrics import MetricDefinition, Unit
from throughline_kernel import ALWAYS, Interval

WinnerOf = Callable[[str], Contact | None]


def evidence(
    client: Client,
    subject: Subject,
    metric: str,
    aspect: str,
    *,
    definition: MetricDefinition | None,
    last_of_case: WinnerOf,
    between: Interval = ALWAYS,
) -> list[str]:
    """As many event ids as the client adds to the figure's n, by time: what counted once is named once.

    `last_of_case` tells the contact that a case counts by, over all clients, in the interval that the figure is of.
    """
    if definition is not None:
        found = units(client, subject, definition, last_of_case, between)
        return [contact.interaction_id for contact in found]
    asked = _Asked(client, subject, metric, aspect, between)
    return list(_NAMED.get(metric, _credits)(asked))


class _Asked(NamedTuple):
    """Whose part of which figure, and of which interval."""

    client: Client
    subject: Subject
    metric: str
    aspect: str
    between: Interval


def _is(subject: Subject, subjects: tuple[Subject, ...]) -> bool:
    return subject[0] == Kind.CLIENT.value or subject in subjects


def _contacts(asked: _Asked) -> Iterator[Contact]:
    for contact in contacts_in(asked.client, asked.between):
        if _counts_for(asked.client, contact, asked.subject):
            yield contact


def _counts_for(client: Client, contact: Contact, subject: Subject) -> bool:
    if subject[0] == Kind.JOURNEY.value:
        return subject[1] in client.on_journeys.get(contact.interaction_id, ())
    return _is(subject, dimensions.of_contact(contact).subjects)


def _volume(asked: _Asked) -> Iterator[str]:
    return (contact.interaction_id for contact in _contacts(asked))


def _clients(asked: _Asked) -> Iterator[str]:
    for contact in _contacts(asked):
        yield contact.interaction_id
        return


def _resolution(asked: _Asked) -> Iterator[str]:
    counted = {contact.interaction_id for contact, _ in asked.client.resolutions()}
    return (each.interaction_id for each in _contacts(asked) if each.interaction_id in counted)


def _wait(asked: _Asked) -> Iterator[str]:
    return (contact.interaction_id for contact in _contacts(asked) if contact.wait)


def _handling(asked: _Asked) -> Iterator[str]:
    return (contact.interaction_id for contact in _contacts(asked) if contact.handling)


def _amounts(asked: _Asked) -> Iterator[str]:
    for contact in _contacts(asked):
        value, cost = contact.value_currency == asked.aspect, contact.cost_currency == asked.aspect
        if {"value": value, "cost": cost, "value_after_costs": value or cost}[asked.metric]:
            yield contact.interaction_id


def _feedback(asked: _Asked) -> Iterator[str]:
    client, subject, metric, aspect, between = asked
    wanted = {"nps_weighted": "nps", "csat_mean": "csat", "ces_mean": "ces"}.get(metric, metric)
    for item in sorted(client.feedback.values(), key=lambda item: (item.at, item.feedback_id)):
        if not between.holds(item.at):
            continue
        if subject[0] == Kind.JOURNEY.value:
            if subject[1] not in client.on_journeys.get(item.interaction_id, ()):
                continue
        elif not _is(subject, dimensions.of_feedback(item).subjects):
            continue
        if metric != "feedback":
            given = answer(item)
            if given is None or given.metric != wanted or item.aspect != aspect:
                continue
        yield item.feedback_id


def _cases(asked: _Asked) -> Iterator[str]:
    for case in sorted(asked.client.cases.values(), key=lambda case: (case.opened_at, case.case_id)):
        if not asked.between.holds(case.opened_at) or not _is(asked.subject, dimensions.of_case(case).subjects):
            continue
        if asked.metric == "cases":
            yield case.opened_event
        elif asked.metric == "response_time" and case.acknowledged_at:
            yield case.acknowledged_event
        elif asked.metric == "resolution_time" and case.resolved_at:
            yield case.resolved_event


def _completion(asked: _Asked) -> Iterator[str]:
    for journey in sorted(asked.client.journeys.values(), key=lambda each: (each.ended_at, each.journey_id)):
        if (
            journey.state != "started"
            and asked.between.holds(journey.started_at)
            and _is(asked.subject, dimensions.of_journey(journey).subjects)
        ):
            yield journey.ended_event


def _conversions(asked: _Asked) -> Iterator[str]:
    if asked.subject == dimensions.ALL or asked.subject[0] == Kind.CLIENT.value:
        for conversion in asked.client.conversions:
            if asked.between.holds(conversion.at):
                yield conversion.interaction_id


def _credits(asked: _Asked) -> Iterator[str]:
    model = asked.metric.removeprefix("attribution_")
    for conversion in asked.client.conversions:
        parts = asked.client.shares(conversion).get(model)
        if parts and asked.between.holds(conversion.at) and _is(asked.subject, tuple(credited(parts))):
            yield conversion.interaction_id


def units(
    client: Client, subject: Subject, definition: MetricDefinition, last_of_case: WinnerOf, between: Interval
) -> Iterator[Contact]:
    """The contacts that a metric of one's own counts for the subject in the interval: its population, by time."""
    match definition.unit:
        case Unit.CONTACT:
            candidates = [each for each in contacts_in(client, between) if _counts_for(client, each, subject)]
        case Unit.CLIENT:
            last = last_contact_in(client, between)
            candidates = [last] if last is not None else []
        case _:
            own_last = case_ends_in(client, between)
            if subject[0] == Kind.CLIENT.value:
                candidates = sorted(own_last.values())
            else:
                candidates = sorted(last for case_id, last in own_last.items() if last_of_case(case_id) == last)
    for contact in candidates:
        counts = definition.unit is Unit.CONTACT or _is(subject, dimensions.of_contact(contact).subjects)
        if counts and definition.population.holds(contact):
            yield contact


_NAMED: dict[str, Callable[[_Asked], Iterator[str]]] = {
    "volume": _volume,
    "measurement_coverage": _volume,
    "clients": _clients,
    "fcr": _resolution,
    "wait_time": _wait,
    "handling_time": _handling,
    "value": _amounts,
    "cost": _amounts,
    "value_after_costs": _amounts,
    "nps": _feedback,
    "nps_weighted": _feedback,
    "csat": _feedback,
    "csat_mean": _feedback,
    "ces": _feedback,
    "ces_mean": _feedback,
    "review_mean": _feedback,
    "feedback": _feedback,
    "cases": _cases,
    "response_time": _cases,
    "resolution_time": _cases,
    "completion_rate": _completion,
    "conversions": _conversions,
}
