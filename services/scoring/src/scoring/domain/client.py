"""One client's facts, and what each change of them adds to and takes from every figure.

Every change is local: a contact touches its own lines, its neighbours on the same matter and the conversions after
it. So a fact in order costs the same however long the history is, and a late one little more; what a sequence of
changes adds up to is what the set of facts left at the end adds up to (law 3).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from scoring.domain import dimensions
from scoring.domain.dimensions import Dims, Kind, single
from scoring.domain.facts import IDENTIFIED, STAFF, CaseItem, Contact, FeedbackItem, FeedbackKind, JourneyItem
from scoring.domain.formulas import effort, satisfaction
from scoring.domain.formulas.attribution import CONVERSIONS, TOUCHES, Share, attribute, eligible
from scoring.domain.formulas.nps import loyalty
from scoring.domain.formulas.resolution import resolved
from scoring.domain.metrics import Metrics
from scoring.domain.tally import Line, Shares, Tally
from throughline_kernel import MEASUREMENT, Consent, Consents

CONTACTS: Line = ("volume", "", "n")
STAFF_CONTACTS: Line = ("volume", "", "staff")
CLIENTS: Line = ("clients", "", "n")
MEASURED: Line = ("measurement_coverage", "", "k")
FCR_N: Line = ("fcr", "", "n")
FCR_K: Line = ("fcr", "", "k")
ENDED: Line = ("completion_rate", "", "n")
COMPLETED: Line = ("completion_rate", "", "k")
OPEN: Line = ("completion_rate", "", "open")
CASES: Line = ("cases", "", "n")
FEEDBACK: Line = ("feedback", "", "n")
CONVERTED: Line = ("conversions", "", "n")
UNATTRIBUTED: Line = ("conversions", "", "unattributed")
# What the client's consents keep out of every figure, and is counted here alone.
LEFT_OUT = "left_out"
LEFT_OUT_CONTACTS: Line = (LEFT_OUT, "", "contacts")
LEFT_OUT_FEEDBACK: Line = (LEFT_OUT, "", "feedback")
LEFT_OUT_CASES: Line = (LEFT_OUT, "", "cases")
LEFT_OUT_JOURNEYS: Line = (LEFT_OUT, "", "journeys")
DEFAULT_WEIGHT = 1_000_000

_METRIC = {
    FeedbackKind.NPS.value: "nps",
    FeedbackKind.CSAT.value: "csat",
    FeedbackKind.CES.value: "ces",
    FeedbackKind.REVIEW.value: "review_mean",
}
_OWN_SCALE = {
    FeedbackKind.NPS.value: (0, 10),
    FeedbackKind.CSAT.value: satisfaction.OWN_SCALE,
    FeedbackKind.CES.value: effort.OWN_SCALE,
    FeedbackKind.REVIEW.value: satisfaction.OWN_SCALE,
}


class Facts(NamedTuple):
    """All that is known of one client, in canonical order: what is stored and what is digested."""

    contacts: list[Contact]
    feedback: list[FeedbackItem]
    cases: list[CaseItem]
    journeys: list[JourneyItem]
    consents: tuple[Consent, ...] = ()


@dataclass(slots=True)
class Apart:
    """Facts that the client's consents keep out of every figure, by id."""

    contacts: dict[str, Contact] = field(default_factory=dict[str, Contact])
    feedback: dict[str, FeedbackItem] = field(default_factory=dict[str, FeedbackItem])
    cases: dict[str, CaseItem] = field(default_factory=dict[str, CaseItem])
    journeys: dict[str, JourneyItem] = field(default_factory=dict[str, JourneyItem])

    def event_ids(self) -> frozenset[str]:
        """The events that these facts stand on."""
        cases = ((case.opened_event, case.acknowledged_event, case.resolved_event) for case in self.cases.values())
        journeys = ((journey.started_event, journey.ended_event) for journey in self.journeys.values())
        return frozenset(self.contacts.keys() | self.feedback.keys()).union(*cases, *journeys)


class Answer(NamedTuple):
    """A valid answer: which metric it answers, on which scale."""

    metric: str
    scale_min: int
    scale_max: int
    score: int


def answer(item: FeedbackItem) -> Answer | None:
    """The valid answer in an item of feedback; none where it has no score, or one outside its scale."""
    metric = _METRIC.get(item.kind)
    if metric is None or item.score is None:
        return None
    low, high = (item.scale_min, item.scale_max) if item.scale_min != item.scale_max else _OWN_SCALE[item.kind]
    if not low <= item.score <= high or (metric == "nps" and (low, high) != (0, 10)):
        return None
    return Answer(metric, low, high, item.score)


@lru_cache(maxsize=4_096)
def _answer_line(metric: str, aspect: str, low: int, high: int, score: int) -> Line:
    return (metric, aspect, f"{low}:{high}:{score}")


@lru_cache(maxsize=1_024)
def _amounts(metric: str, currency: str) -> tuple[Line, Line]:
    return (metric, currency, "n"), (metric, currency, "micros")


@lru_cache(maxsize=1_024)
def _credit_lines(model: str, currency: str) -> tuple[Line, Line, Line, Line]:
    metric = f"attribution_{model}"
    return (metric, "", "n"), (metric, "", "micros"), (metric, currency, "micros"), (metric, currency, "value")


@lru_cache(maxsize=16_384)
def _board(channel: str, campaign: str) -> Dims:
    return single(Kind.CREDIT.value, f"{channel}\x1f{campaign}")


@lru_cache(maxsize=1_024)
def _shares(metric: str) -> tuple[Line, Line]:
    return (metric, "", "n"), (metric, "", "k")


def _money(contact: Contact, row: dict[Line, int], sign: int) -> None:
    """Value and cost, each in its currency; where both are in one, so that contacts with either can be counted."""
    value, cost = contact.value_currency, contact.cost_currency
    if value:
        count, total = _amounts("value", value)
        row[count] = row.get(count, 0) + sign
        row[total] = row.get(total, 0) + sign * contact.value
    if cost:
        count, total = _amounts("cost", cost)
        row[count] = row.get(count, 0) + sign
        row[total] = row.get(total, 0) + sign * contact.cost
        if cost == value:
            both: Line = ("cost", cost, "with_value")
            row[both] = row.get(both, 0) + sign


class Client:
    """One client's facts with the indexes that keep every change local."""

    __slots__ = (
        "apart",
        "cases",
        "chains",
        "client_id",
        "consents",
        "contacts",
        "conversions",
        "feedback",
        "identified",
        "in_cases",
        "items_on",
        "journeys",
        "measured",
        "on_journeys",
        "order",
        "seen",
        "staff",
        "subjects",
        "touches",
    )

    def __init__(self, client_id: str) -> None:
        self.client_id = client_id
        # Contacts by id, and those of staff apart: they are no contacts of the client.
        self.contacts: dict[str, Contact] = {}
        self.staff: dict[str, Contact] = {}
        self.feedback: dict[str, FeedbackItem] = {}
        self.cases: dict[str, CaseItem] = {}
        self.journeys: dict[str, JourneyItem] = {}
        # What the client said about purposes, and the facts that do not count because of it.
        self.consents = Consents()
        self.apart = Apart()
        # How many contacts carry an identifier: none, and nobody knows who it is.
        self.identified = 0
        # All contacts; those on each matter and in each case; touches; conversions: in canonical order.
        self.order: list[Contact] = []
        self.chains: dict[str, list[Contact]] = {}
        self.in_cases: dict[str, list[Contact]] = {}
        self.touches: list[Contact] = []
        self.conversions: list[Contact] = []
        # Contacts per set of subjects, and such sets per subject.
        self.seen: dict[tuple[dimensions.Subject, ...], int] = {}
        self.subjects: dict[dimensions.Subject, int] = {}
        # Scored answers, items of feedback and journeys per interaction.
        self.measured: dict[str, int] = {}
        self.items_on: dict[str, list[str]] = {}
        self.on_journeys: dict[str, dict[str, int]] = {}

    def __len__(self) -> int:
        apart = self.apart
        counting = len(self.contacts) + len(self.staff) + len(self.feedback) + len(self.cases) + len(self.journeys)
        return counting + len(apart.contacts) + len(apart.feedback) + len(apart.cases) + len(apart.journeys)

    def clear(self, tally: Tally, metrics: Metrics) -> None:
        """Forgets everything, and takes all of it from the tally."""
        self._withdraw(self.facts(), tally, metrics)
        self.consents = Consents()

    def _withdraw(self, facts: Facts, tally: Tally, metrics: Metrics) -> None:
        for contact in facts.contacts:
            self.withdraw_contact(contact.interaction_id, tally, metrics)
        for item in facts.feedback:
            self.withdraw_feedback(item.feedback_id, tally)
        for case in facts.cases:
            self.note_case(case._replace(state="withdrawn"), tally)
        for journey in facts.journeys:
            self.note_journey(journey._replace(state="retracted"), tally, metrics)

    def note(self, facts: Facts, tally: Tally, metrics: Metrics) -> None:
        """Adds all of these facts."""
        for contact in facts.contacts:
            self.note_contact(contact, tally, metrics)
        for item in facts.feedback:
            self.note_feedback(item, tally)
        for case in facts.cases:
            self.note_case(case, tally)
        for journey in facts.journeys:
            self.note_journey(journey, tally, metrics)

    def facts(self) -> Facts:
        """Everything known, sorted; what does not count too."""
        apart = self.apart
        return Facts(
            sorted((*self.contacts.values(), *self.staff.values(), *apart.contacts.values())),
            sorted((*self.feedback.values(), *apart.feedback.values()), key=lambda item: (item.at, item.feedback_id)),
            sorted((*self.cases.values(), *apart.cases.values())),
            sorted((*self.journeys.values(), *apart.journeys.values())),
            self.consents.words,
        )

    def item(self, feedback_id: str) -> FeedbackItem | None:
        """What is known of an item of feedback, whether it counts or not."""
        return self.feedback.get(feedback_id) or self.apart.feedback.get(feedback_id)

    def case(self, case_id: str) -> CaseItem | None:
        """What is known of a case, whether it counts or not."""
        return self.cases.get(case_id) or self.apart.cases.get(case_id)

    def journey(self, journey_id: str) -> JourneyItem | None:
        """What is known of a journey, whether it counts or not."""
        return self.journeys.get(journey_id) or self.apart.journeys.get(journey_id)

    # -- consents

    def note_consents(self, consents: Consents, tally: Tally, metrics: Metrics) -> None:
        """Takes what holds of the client's consents: what may not be measured any more leaves every figure, and what
        may be again comes back.
        """
        before, self.consents = self.consents, consents
        facts = self.facts()
        channels = {contact.channel for contact in facts.contacts} | {item.channel for item in facts.feedback}
        channels |= {case.channel for case in facts.cases} | {each for one in facts.journeys for each in one.channels}
        if all(
            (before.withdrawal(MEASUREMENT, channel) is None) == self._counts(channel) for channel in {"", *channels}
        ):
            return
        self._withdraw(facts, tally, metrics)
        self.note(facts, tally, metrics)

    def _counts(self, channel: str) -> bool:
        return not self.consents or self.consents.withdrawal(MEASUREMENT, channel) is None

    @staticmethod
    def of(client_id: str, facts: Facts) -> Client:
        """The client that the facts make: as noting them one by one, without counting them anew."""
        client = Client(client_id)
        client.consents = Consents(facts.consents)
        client.order = [
            contact for contact in facts.contacts if not contact.flags & STAFF and client._counts(contact.channel)
        ]
        client.apart.contacts = {
            contact.interaction_id: contact
            for contact in facts.contacts
            if not contact.flags & STAFF and not client._counts(contact.channel)
        }
        client.staff = {contact.interaction_id: contact for contact in facts.contacts if contact.flags & STAFF}
        client.contacts = {contact.interaction_id: contact for contact in client.order}
        for contact in client.order:
            client._index(contact)
        ignored = Tally()
        for item in facts.feedback:
            client.note_feedback(item, ignored)
        for case in facts.cases:
            client.note_case(case, ignored)
        for journey in facts.journeys:
            client.note_journey(journey, ignored, Metrics())
        return client

    def _index(self, contact: Contact) -> None:
        """Puts a contact, the last in canonical order so far, where `note_contact` would."""
        subjects = dimensions.of_contact(contact).subjects
        count = self.seen.get(subjects, 0)
        self.seen[subjects] = count + 1
        if not count:
            for subject in subjects:
                self.subjects[subject] = self.subjects.get(subject, 0) + 1
        if contact.flags & IDENTIFIED:
            self.identified += 1
        if contact.matter:
            self.chains.setdefault(contact.matter, []).append(contact)
        if contact.case_id:
            self.in_cases.setdefault(contact.case_id, []).append(contact)
        if contact.kind in TOUCHES:
            self.touches.append(contact)
        if contact.kind in CONVERSIONS:
            self.conversions.append(contact)

    # -- contacts

    def note_contact(self, contact: Contact, tally: Tally, metrics: Metrics) -> None:
        """Adds a contact, in order or late. One that is known is left alone: its content never changes."""
        interaction_id = contact.interaction_id
        if interaction_id in self.contacts or interaction_id in self.staff or interaction_id in self.apart.contacts:
            return
        if self._put_aside(contact, tally):
            return
        if contact.flags & IDENTIFIED:
            self.identified += 1
            if self.identified == 1:
                self._all_chains(tally, 1)
        self._last_contact(tally, metrics, -1)
        self.contacts[interaction_id] = contact
        insort(self.order, contact)
        self._last_contact(tally, metrics, 1)
        for dims in self.dims(contact):
            self._contact(contact, dims, tally, metrics, 1)
        if contact.matter:
            self._join_chain(contact, tally)
        if contact.case_id:
            insort(self.in_cases.setdefault(contact.case_id, []), contact)
            self._end_case(contact.case_id, tally)
        if contact.kind in TOUCHES:
            self._move_touch(contact, tally, present=True)
        if contact.kind in CONVERSIONS:
            insort(self.conversions, contact)
            self._conversion(contact, tally, 1)

    def withdraw_contact(self, interaction_id: str, tally: Tally, metrics: Metrics) -> None:
        """Takes a contact away as if it had never been noted."""
        self._take_from_aside(interaction_id, tally)
        contact = self.contacts.get(interaction_id)
        if contact is None:
            return
        if contact.kind in CONVERSIONS:
            self._conversion(contact, tally, -1)
            self.conversions.remove(contact)
        if contact.kind in TOUCHES:
            self._move_touch(contact, tally, present=False)
        if contact.case_id:
            self.in_cases[contact.case_id].remove(contact)
            self._end_case(contact.case_id, tally)
        if contact.matter:
            self._leave_chain(contact, tally)
        for dims in self.dims(contact):
            self._contact(contact, dims, tally, metrics, -1)
        self._last_contact(tally, metrics, -1)
        del self.contacts[interaction_id]
        del self.order[bisect_left(self.order, contact)]
        self._last_contact(tally, metrics, 1)
        if contact.flags & IDENTIFIED:
            self.identified -= 1
            if self.identified == 0:
                self._all_chains(tally, -1)

    def _put_aside(self, contact: Contact, tally: Tally) -> bool:
        """Keeps a contact that counts in no figure apart, and tells whether it is one."""
        if contact.flags & STAFF:
            aside, line = self.staff, STAFF_CONTACTS
        elif not self._counts(contact.channel):
            aside, line = self.apart.contacts, LEFT_OUT_CONTACTS
        else:
            return False
        aside[contact.interaction_id] = contact
        tally.add(dimensions.of_contact(contact), line, 1)
        return True

    def _take_from_aside(self, interaction_id: str, tally: Tally) -> None:
        for aside, line in ((self.staff, STAFF_CONTACTS), (self.apart.contacts, LEFT_OUT_CONTACTS)):
            uncounted = aside.pop(interaction_id, None)
            if uncounted is not None:
                tally.add(dimensions.of_contact(uncounted), line, -1)

    def dims(self, contact: Contact) -> tuple[Dims, ...]:
        """The subjects that the contact counts for, the journeys that it lies on among them."""
        journeys = self.on_journeys.get(contact.interaction_id)
        if journeys is None:
            return (dimensions.of_contact(contact),)
        return (
            dimensions.of_contact(contact),
            *(single(Kind.JOURNEY.value, journey) for journey in journeys),
        )

    def _contact(self, contact: Contact, dims: Dims, tally: Tally, metrics: Metrics, sign: int) -> None:
        self.count_contact(contact, dims, tally, metrics, sign)
        self._seen(dims, tally, sign)

    def count_contact(self, contact: Contact, dims: Dims, tally: Tally, metrics: Metrics, sign: int) -> None:
        """Counts the contact for the subjects, but for whose it is and whether it stands resolved."""
        row = tally.row(dims)
        row[CONTACTS] = row.get(CONTACTS, 0) + sign
        if contact.interaction_id in self.measured:
            row[MEASURED] = row.get(MEASURED, 0) + sign
        if contact.value_currency or contact.cost_currency:
            _money(contact, row, sign)
        if contact.wait:
            wait: Line = ("wait_time", "", contact.wait)
            row[wait] = row.get(wait, 0) + sign
        if contact.handling:
            handling: Line = ("handling_time", "", contact.handling)
            row[handling] = row.get(handling, 0) + sign
        for metric in metrics.of_contacts:
            if metric.population.holds(contact):
                population, numerator = _shares(metric.metric)
                tally.add(dims, population, sign)
                if metric.numerator.holds(contact):
                    tally.add(dims, numerator, sign)

    def _seen(self, dims: Dims, tally: Tally, sign: int) -> None:
        """Counts the client once for every subject that it has contacts of."""
        count = self.seen.get(dims.subjects, 0) + sign
        if count:
            self.seen[dims.subjects] = count
            if count != 1 or sign < 0:
                return
        else:
            del self.seen[dims.subjects]
        subjects = self.subjects
        for subject in dims.subjects:
            ways = subjects.get(subject, 0) + sign
            if ways:
                subjects[subject] = ways
                if ways != 1 or sign < 0:
                    continue
            else:
                del subjects[subject]
            tally.add(single(*subject), CLIENTS, sign)

    def last_contact(self) -> Contact | None:
        """The last contact in canonical order."""
        return self.order[-1] if self.order else None

    def _last_contact(self, tally: Tally, metrics: Metrics, sign: int) -> None:
        if metrics.of_clients and self.order:
            add_shares(self.order[-1], tally, metrics, sign, cases=False)

    # -- first contact resolution

    def _join_chain(self, contact: Contact, tally: Tally) -> None:
        chain = self.chains.setdefault(contact.matter, [])
        at = bisect_left(chain, contact)
        before = chain[at - 1] if at else None
        after = chain[at] if at < len(chain) else None
        chain.insert(at, contact)
        if self.identified:
            self._neighbours(before, contact, after, tally, 1)

    def _leave_chain(self, contact: Contact, tally: Tally) -> None:
        chain = self.chains[contact.matter]
        at = bisect_left(chain, contact)
        before = chain[at - 1] if at else None
        after = chain[at + 1] if at + 1 < len(chain) else None
        del chain[at]
        if not chain:
            del self.chains[contact.matter]
        if self.identified:
            self._neighbours(before, contact, after, tally, -1)

    def _neighbours(
        self, before: Contact | None, contact: Contact, after: Contact | None, tally: Tally, sign: int
    ) -> None:
        """What a contact between two others counts, and what it changes about the one before it."""
        after_at = after.at if after is not None else None
        stands = resolved(contact.at, after_at)
        for dims in self.dims(contact):
            row = tally.row(dims)
            row[FCR_N] = row.get(FCR_N, 0) + sign
            if stands:
                row[FCR_K] = row.get(FCR_K, 0) + sign
        if before is not None and resolved(before.at, after_at) and not resolved(before.at, contact.at):
            for dims in self.dims(before):
                tally.add(dims, FCR_K, -sign)

    def resolutions(self) -> Iterator[tuple[Contact, bool]]:
        """Contacts that count for first contact resolution, and whether each stands resolved; by matter, then time."""
        if not self.identified:
            return
        for matter in sorted(self.chains):
            chain = self.chains[matter]
            for at, contact in enumerate(chain):
                yield contact, resolved(contact.at, chain[at + 1].at if at + 1 < len(chain) else None)

    def is_resolved(self, contact: Contact) -> bool | None:
        """Whether the contact stands resolved; None where it does not count."""
        if not self.identified or not contact.matter:
            return None
        chain = self.chains[contact.matter]
        at = bisect_left(chain, contact) + 1
        return resolved(contact.at, chain[at].at if at < len(chain) else None)

    def _all_chains(self, tally: Tally, sign: int) -> None:
        """The client became known, or is not any more: every contact on a matter starts or stops to count."""
        for chain in self.chains.values():
            for at, contact in enumerate(chain):
                stands = resolved(contact.at, chain[at + 1].at if at + 1 < len(chain) else None)
                for dims in self.dims(contact):
                    tally.add(dims, FCR_N, sign)
                    if stands:
                        tally.add(dims, FCR_K, sign)

    # -- cases as contacts name them

    def _end_case(self, case_id: str, tally: Tally) -> None:
        chain = self.in_cases[case_id]
        if chain:
            tally.case_ends.setdefault(case_id, {})[self.client_id] = chain[-1]
        else:
            del self.in_cases[case_id]
            tally.case_ends.setdefault(case_id, {})[self.client_id] = None

    # -- conversions

    def _move_touch(self, touch: Contact, tally: Tally, *, present: bool) -> None:
        after = self.conversions[bisect_left(self.conversions, touch) :]
        for conversion in after:
            self._conversion(conversion, tally, -1)
        if present:
            insort(self.touches, touch)
        else:
            self.touches.remove(touch)
        for conversion in after:
            self._conversion(conversion, tally, 1)

    def shares(self, conversion: Contact) -> dict[str, tuple[Share, ...]]:
        """How the conversion's credit is shared now, by model."""
        return attribute(conversion, eligible(conversion, self.touches))

    def _conversion(self, conversion: Contact, tally: Tally, sign: int) -> None:
        shares = self.shares(conversion)
        key = (self.client_id, conversion.interaction_id)
        known = tally.credits.get(key)
        if sign > 0:
            tally.credits[key] = ({} if known is None else known[0], shares)
        else:
            tally.credits[key] = (shares if known is None else known[0], {})
        count_conversion(conversion, shares, tally, sign)

    # -- feedback

    def note_feedback(self, item: FeedbackItem, tally: Tally) -> None:
        """Adds an item of feedback, or replaces it by what is known of it now."""
        known = self.item(item.feedback_id)
        if known == item:
            return
        if known is not None:
            self.withdraw_feedback(item.feedback_id, tally)
        if not self._counts(item.channel):
            self.apart.feedback[item.feedback_id] = item
            tally.add(dimensions.of_feedback(item), LEFT_OUT_FEEDBACK, 1)
            return
        self.feedback[item.feedback_id] = item
        self._feedback(item, tally, 1)

    def withdraw_feedback(self, feedback_id: str, tally: Tally) -> None:
        """Takes an item of feedback away as if it had never been noted."""
        item = self.feedback.pop(feedback_id, None)
        if item is not None:
            self._feedback(item, tally, -1)
        apart = self.apart.feedback.pop(feedback_id, None)
        if apart is not None:
            tally.add(dimensions.of_feedback(apart), LEFT_OUT_FEEDBACK, -1)

    def _feedback(self, item: FeedbackItem, tally: Tally, sign: int) -> None:
        count_answer(item, dimensions.of_feedback(item), tally, sign)
        interaction_id = item.interaction_id
        if not interaction_id:
            return
        if sign > 0:
            self.items_on.setdefault(interaction_id, []).append(item.feedback_id)
        else:
            self.items_on[interaction_id].remove(item.feedback_id)
            if not self.items_on[interaction_id]:
                del self.items_on[interaction_id]
        for journey in self.on_journeys.get(interaction_id, ()):
            count_answer(item, single(Kind.JOURNEY.value, journey), tally, sign)
        if answer(item) is None:
            return
        count = self.measured.get(interaction_id, 0) + sign
        if count:
            self.measured[interaction_id] = count
        else:
            del self.measured[interaction_id]
        if count == 0 or (count == 1 and sign == 1):
            contact = self.contacts.get(interaction_id)
            if contact is not None:
                for dims in self.dims(contact):
                    tally.add(dims, MEASURED, sign)

    # -- cases and journeys

    def note_case(self, case: CaseItem, tally: Tally) -> None:
        """Replaces what is known of a case; a withdrawn one counts no more."""
        known = self.cases.pop(case.case_id, None)
        if known is not None:
            count_case(known, tally, -1)
        apart = self.apart.cases.pop(case.case_id, None)
        if apart is not None:
            tally.add(dimensions.of_case(apart), LEFT_OUT_CASES, -1)
        if case.state == "withdrawn":
            return
        if not self._counts(case.channel):
            self.apart.cases[case.case_id] = case
            tally.add(dimensions.of_case(case), LEFT_OUT_CASES, 1)
        else:
            self.cases[case.case_id] = case
            count_case(case, tally, 1)

    def note_journey(self, journey: JourneyItem, tally: Tally, metrics: Metrics) -> None:
        """Replaces what is known of a journey; a retracted one counts no more."""
        known = self.journeys.pop(journey.journey_id, None)
        apart = self.apart.journeys.pop(journey.journey_id, None)
        if apart is not None:
            tally.add(dimensions.of_journey(apart), LEFT_OUT_JOURNEYS, -1)
        now = None if journey.state == "retracted" else journey
        if now is not None and not any(map(self._counts, now.channels or ("",))):
            self.apart.journeys[now.journey_id] = now
            tally.add(dimensions.of_journey(now), LEFT_OUT_JOURNEYS, 1)
            now = None
        if known is not None:
            count_journey(known, tally, -1)
        if now is not None:
            self.journeys[journey.journey_id] = now
            count_journey(now, tally, 1)
        before = frozenset(known.interaction_ids) if known is not None else frozenset[str]()
        after = frozenset(now.interaction_ids) if now is not None else frozenset[str]()
        for interaction_id in before - after:
            self._on_journey(interaction_id, journey.journey, tally, metrics, -1)
        for interaction_id in after - before:
            self._on_journey(interaction_id, journey.journey, tally, metrics, 1)

    def _on_journey(self, interaction_id: str, journey: str, tally: Tally, metrics: Metrics, sign: int) -> None:
        journeys = self.on_journeys.setdefault(interaction_id, {})
        count = journeys.get(journey, 0) + sign
        if count:
            journeys[journey] = count
        else:
            del journeys[journey]
            if not journeys:
                del self.on_journeys[interaction_id]
        if count != 0 and not (count == 1 and sign == 1):
            return
        dims = single(Kind.JOURNEY.value, journey)
        contact = self.contacts.get(interaction_id)
        if contact is not None:
            self._contact(contact, dims, tally, metrics, sign)
            stands = self.is_resolved(contact)
            if stands is not None:
                tally.add(dims, FCR_N, sign)
                if stands:
                    tally.add(dims, FCR_K, sign)
        for feedback_id in self.items_on.get(interaction_id, ()):
            item = self.feedback[feedback_id]
            count_answer(item, dims, tally, sign)


def count_conversion(conversion: Contact, shares: Shares, tally: Tally, sign: int) -> None:
    """Counts a conversion, and whom its credit goes to; no shares where no touch came before it."""
    everything = single(*dimensions.ALL)
    tally.add(everything, CONVERTED, sign)
    if not shares:
        tally.add(everything, UNATTRIBUTED, sign)
        return
    currency = conversion.value_currency
    for model, parts in shares.items():
        count, total, credit_line, value_line = _credit_lines(model, currency)
        for subject, credit in credited(parts).items():
            row = tally.row(single(*subject))
            row[count] = row.get(count, 0) + sign
            row[total] = row.get(total, 0) + sign * credit
        for touch, credit, value in parts:
            row = tally.row(_board(touch.channel, touch.campaign))
            row[credit_line] = row.get(credit_line, 0) + sign * credit
            if value:
                row[value_line] = row.get(value_line, 0) + sign * value


def count_answer(item: FeedbackItem, dims: Dims, tally: Tally, sign: int) -> None:
    """Counts an item of feedback for the subjects, and the answer in it where it has a valid one."""
    tally.add(dims, FEEDBACK, sign)
    given = answer(item)
    if given is None:
        return
    tally.add(dims, _answer_line(given.metric, item.aspect, given.scale_min, given.scale_max, given.score), sign)
    if given.metric == "nps":
        weight = item.weight or DEFAULT_WEIGHT
        tally.add(dims, ("nps_weighted", item.aspect, "n"), sign)
        tally.add(dims, ("nps_weighted", item.aspect, loyalty(given.score).value), sign * weight)
        tally.add(dims, ("nps_weighted", item.aspect, "squares"), sign * weight * weight)


def count_case(case: CaseItem, tally: Tally, sign: int) -> None:
    """Counts a case, and how long it took to answer and to resolve it where it was."""
    dims = dimensions.of_case(case)
    tally.add(dims, CASES, sign)
    if case.acknowledged_at:
        tally.add(dims, ("response_time", "", max(0, case.acknowledged_at - case.opened_at)), sign)
    if case.resolved_at:
        tally.add(dims, ("resolution_time", "", max(0, case.resolved_at - case.opened_at)), sign)


def count_journey(journey: JourneyItem, tally: Tally, sign: int) -> None:
    """Counts a journey as open, or as ended, and then whether it was completed."""
    dims = dimensions.of_journey(journey)
    if journey.state == "started":
        tally.add(dims, OPEN, sign)
        return
    tally.add(dims, ENDED, sign)
    if journey.state == "completed":
        tally.add(dims, COMPLETED, sign)


def credited(parts: Sequence[Share]) -> dict[dimensions.Subject, int]:
    """Credit of one conversion by subject: everything, and each touch's channel and campaign."""
    everything, channel_kind, campaign_kind = dimensions.ALL, Kind.CHANNEL.value, Kind.CAMPAIGN.value
    sums: dict[dimensions.Subject, int] = {everything: 0}
    for touch, credit, _ in parts:
        sums[everything] += credit
        channel = (channel_kind, touch.channel)
        sums[channel] = sums.get(channel, 0) + credit
        if touch.campaign:
            campaign = (campaign_kind, touch.campaign)
            sums[campaign] = sums.get(campaign, 0) + credit
    return sums


def add_shares(contact: Contact, tally: Tally, metrics: Metrics, sign: int, *, cases: bool) -> None:
    """Counts a unit (case or client) by its last contact, for the metrics over that unit."""
    dims = dimensions.of_contact(contact)
    for metric in metrics.of_cases if cases else metrics.of_clients:
        if metric.population.holds(contact):
            population, numerator = _shares(metric.metric)
            tally.add(dims, population, sign)
            if metric.numerator.holds(contact):
                tally.add(dims, numerator, sign)


def backfill(client: Client, tally: Tally, metrics: Metrics) -> None:
    """Counts the client's contacts, and the client, for metrics that were defined after them; cases are counted
    apart.
    """
    for contact in client.order:
        for metric in metrics.of_contacts:
            if metric.population.holds(contact):
                population, numerator = _shares(metric.metric)
                met = metric.numerator.holds(contact)
                for dims in client.dims(contact):
                    tally.add(dims, population, 1)
                    if met:
                        tally.add(dims, numerator, 1)
    last = client.last_contact()
    if last is not None:
        add_shares(last, tally, metrics, 1, cases=False)


def backfill_case(ends: dict[str, Contact], tally: Tally, metrics: Metrics) -> None:
    """Counts a case, by its last contact of all clients', for metrics that were defined after it."""
    last = max(ends.values(), default=None)
    if last is not None:
        add_shares(last, tally, metrics, 1, cases=True)


def move_case_end(
    ends: dict[str, Contact], changes: dict[str, Contact | None], tally: Tally, metrics: Metrics
) -> dict[str, Contact]:
    """One case's last contact per client after the changes; the last of all is what the case counts by."""
    after = {client: contact for client, contact in {**ends, **changes}.items() if contact is not None}
    old = max(ends.values(), default=None)
    new = max(after.values(), default=None)
    if old != new:
        if old is not None:
            add_shares(old, tally, metrics, -1, cases=True)
        if new is not None:
            add_shares(new, tally, metrics, 1, cases=True)
    return after


def restore(client_id: str, facts: Facts, metrics: Metrics, tally: Tally | None = None) -> Client:
    """The client that the facts make; `tally` receives all that they count."""
    client = Client(client_id)
    client.consents = Consents(facts.consents)
    client.note(facts, tally if tally is not None else Tally(), metrics)
    return client
