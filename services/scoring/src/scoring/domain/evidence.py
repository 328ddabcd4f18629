"""The event ids that one figure of one subject stands on, client by client."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from scoring.domain import dimensions
from scoring.domain.client import Client, answer, credited
from scoring.domain.dimensions import Kind, Subject
from scoring.domain.facts import Contact
from scoring.domain.metrics import MetricDefinition, Unit

WinnerOf = Callable[[str], Contact | None]


def evidence(
    client: Client,
    subject: Subject,
    metric: str,
    aspect: str,
    *,
    definition: MetricDefinition | None,
    last_of_case: WinnerOf,
) -> list[str]:
    """As many event ids as the client adds to the figure's n, by time: what counted once is named once.

    `last_of_case` tells the contact that a case counts by, over all clients.
    """
    if definition is not None:
        return [contact.interaction_id for contact in units(client, subject, definition, last_of_case)]
    named = _NAMED.get(metric)
    if named is not None:
        return list(named(client, subject, metric, aspect))
    return list(_credits(client, subject, metric.removeprefix("attribution_")))


def _is(subject: Subject, subjects: tuple[Subject, ...]) -> bool:
    return subject[0] == Kind.CLIENT.value or subject in subjects


def _contacts(client: Client, subject: Subject) -> Iterator[Contact]:
    for contact in client.order:
        if _counts_for(client, contact, subject):
            yield contact


def _counts_for(client: Client, contact: Contact, subject: Subject) -> bool:
    if subject[0] == Kind.JOURNEY.value:
        return subject[1] in client.on_journeys.get(contact.interaction_id, ())
    return _is(subject, dimensions.of_contact(contact).subjects)


def _volume(client: Client, subject: Subject, _metric: str, _aspect: str) -> Iterator[str]:
    return (contact.interaction_id for contact in _contacts(client, subject))


def _clients(client: Client, subject: Subject, _metric: str, _aspect: str) -> Iterator[str]:
    for contact in _contacts(client, subject):
        yield contact.interaction_id
        return


def _resolution(client: Client, subject: Subject, _metric: str, _aspect: str) -> Iterator[str]:
    counted = {contact.interaction_id for contact, _ in client.resolutions()}
    return (each.interaction_id for each in _contacts(client, subject) if each.interaction_id in counted)


def _wait(client: Client, subject: Subject, _metric: str, _aspect: str) -> Iterator[str]:
    return (contact.interaction_id for contact in _contacts(client, subject) if contact.wait)


def _handling(client: Client, subject: Subject, _metric: str, _aspect: str) -> Iterator[str]:
    return (contact.interaction_id for contact in _contacts(client, subject) if contact.handling)


def _amounts(client: Client, subject: Subject, metric: str, currency: str) -> Iterator[str]:
    for contact in _contacts(client, subject):
        value, cost = contact.value_currency == currency, contact.cost_currency == currency
        if {"value": value, "cost": cost, "value_after_costs": value or cost}[metric]:
            yield contact.interaction_id


def _feedback(client: Client, subject: Subject, metric: str, aspect: str) -> Iterator[str]:
    wanted = {"nps_weighted": "nps", "csat_mean": "csat", "ces_mean": "ces"}.get(metric, metric)
    for item in sorted(client.feedback.values(), key=lambda item: (item.at, item.feedback_id)):
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


def _cases(client: Client, subject: Subject, metric: str, _aspect: str) -> Iterator[str]:
    for case in sorted(client.cases.values(), key=lambda case: (case.opened_at, case.case_id)):
        if not _is(subject, dimensions.of_case(case).subjects):
            continue
        if metric == "cases":
            yield case.opened_event
        elif metric == "response_time" and case.acknowledged_at:
            yield case.acknowledged_event
        elif metric == "resolution_time" and case.resolved_at:
            yield case.resolved_event


def _completion(client: Client, subject: Subject, _metric: str, _aspect: str) -> Iterator[str]:
    for journey in sorted(client.journeys.values(), key=lambda each: (each.ended_at, each.journey_id)):
        if journey.state != "started" and _is(subject, dimensions.of_journey(journey).subjects):
            yield journey.ended_event


def _conversions(client: Client, subject: Subject, _metric: str, _aspect: str) -> Iterator[str]:
    if subject == dimensions.ALL or subject[0] == Kind.CLIENT.value:
        for conversion in client.conversions:
            yield conversion.interaction_id


def _credits(client: Client, subject: Subject, model: str) -> Iterator[str]:
    for conversion in client.conversions:
        parts = client.shares(conversion).get(model, ())
        if parts and _is(subject, tuple(credited(parts))):
            yield conversion.interaction_id


def units(client: Client, subject: Subject, definition: MetricDefinition, last_of_case: WinnerOf) -> Iterator[Contact]:
    """The contacts that a metric of one's own counts for the subject: its population, by time."""
    match definition.unit:
        case Unit.CONTACT:
            candidates = [contact for contact in client.order if _counts_for(client, contact, subject)]
        case Unit.CLIENT:
            last = client.last_contact()
            candidates = [last] if last is not None else []
        case _:
            own_last = {case_id: chain[-1] for case_id, chain in client.in_cases.items()}
            if subject[0] == Kind.CLIENT.value:
                candidates = sorted(own_last.values())
            else:
                candidates = sorted(last for case_id, last in own_last.items() if last_of_case(case_id) == last)
    for contact in candidates:
        counts = definition.unit is Unit.CONTACT or _is(subject, dimensions.of_contact(contact).subjects)
        if counts and definition.population.holds(contact):
            yield contact


_NAMED: dict[str, Callable[[Client, Subject, str, str], Iterator[str]]] = {
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
