"""What of a client's facts counts for an interval of event time.

Each unit counts in the interval in which it began, with all that is known of it: a contact, an answer and a conversion
when they happened, a case when it was opened, a journey when it was started. So the contact that was asked after again
in May is not resolved in April, a conversion in April is credited to touches of March, and intervals that meet add up.
A client, and a case of a metric of one's own, counts by its last contact in the interval.
"""

from __future__ import annotations

from collections.abc import Iterator

from scoring.domain import dimensions
from scoring.domain.client import (
    CLIENTS,
    FCR_K,
    FCR_N,
    LEFT_OUT_CASES,
    LEFT_OUT_CONTACTS,
    LEFT_OUT_FEEDBACK,
    LEFT_OUT_JOURNEYS,
    STAFF_CONTACTS,
    Client,
    add_shares,
    count_answer,
    count_case,
    count_conversion,
    count_journey,
)
from scoring.domain.dimensions import Kind, Subject, single
from scoring.domain.facts import Contact
from scoring.domain.metrics import Metrics
from scoring.domain.tally import Line, Tally, of_subject
from throughline_kernel import Interval


def contacts_in(client: Client, between: Interval) -> Iterator[Contact]:
    """The client's contacts in the interval, in canonical order."""
    return (contact for contact in client.order if between.holds(contact.at))


def last_contact_in(client: Client, between: Interval) -> Contact | None:
    """The last of them."""
    return next((contact for contact in reversed(client.order) if between.holds(contact.at)), None)


def case_ends_in(client: Client, between: Interval) -> dict[str, Contact]:
    """The client's last contact in the interval in each case."""
    return {
        case_id: max(inside)
        for case_id, chain in client.in_cases.items()
        if (inside := [contact for contact in chain if between.holds(contact.at)])
    }


def count_in(client: Client, between: Interval, tally: Tally, metrics: Metrics) -> None:
    """Adds all that the client counts for the interval, but for metrics over cases: those are decided over all
    clients.
    """
    _count_contacts(client, between, tally, metrics)
    _count_answers(client, between, tally)
    for conversion in client.conversions:
        if between.holds(conversion.at):
            count_conversion(conversion, client.shares(conversion), tally, 1)
    for case in client.cases.values():
        if between.holds(case.opened_at):
            count_case(case, tally, 1)
    for journey in client.journeys.values():
        if between.holds(journey.started_at):
            count_journey(journey, tally, 1)
    _count_left_out(client, between, tally)


def own_lines(client: Client, between: Interval, metrics: Metrics) -> dict[Line, int]:
    """What the client's own scorecard counts for the interval: everything, over this client alone."""
    tally = Tally()
    count_in(client, between, tally, metrics)
    for last in case_ends_in(client, between).values():
        add_shares(last, tally, metrics, 1, cases=True)
    return of_subject(tally.counters(), dimensions.ALL)


def _count_left_out(client: Client, between: Interval, tally: Tally) -> None:
    """What the client's consents keep out of every figure."""
    apart = client.apart
    for contact in apart.contacts.values():
        if between.holds(contact.at):
            tally.add(dimensions.of_contact(contact), LEFT_OUT_CONTACTS, 1)
    for item in apart.feedback.values():
        if between.holds(item.at):
            tally.add(dimensions.of_feedback(item), LEFT_OUT_FEEDBACK, 1)
    for case in apart.cases.values():
        if between.holds(case.opened_at):
            tally.add(dimensions.of_case(case), LEFT_OUT_CASES, 1)
    for journey in apart.journeys.values():
        if between.holds(journey.started_at):
            tally.add(dimensions.of_journey(journey), LEFT_OUT_JOURNEYS, 1)


def _count_answers(client: Client, between: Interval, tally: Tally) -> None:
    for item in client.feedback.values():
        if between.holds(item.at):
            count_answer(item, dimensions.of_feedback(item), tally, 1)
            for journey in client.on_journeys.get(item.interaction_id, ()):
                count_answer(item, single(Kind.JOURNEY.value, journey), tally, 1)


def _count_contacts(client: Client, between: Interval, tally: Tally, metrics: Metrics) -> None:
    for staff in client.staff.values():
        if between.holds(staff.at):
            tally.add(dimensions.of_contact(staff), STAFF_CONTACTS, 1)
    subjects: set[Subject] = set()
    for contact in contacts_in(client, between):
        resolved = client.is_resolved(contact)
        for dims in client.dims(contact):
            client.count_contact(contact, dims, tally, metrics, 1)
            subjects.update(dims.subjects)
            if resolved is not None:
                tally.add(dims, FCR_N, 1)
                if resolved:
                    tally.add(dims, FCR_K, 1)
    for subject in subjects:
        tally.add(single(*subject), CLIENTS, 1)
    last = last_contact_in(client, between)
    if last is not None:
        add_shares(last, tally, metrics, 1, cases=False)
