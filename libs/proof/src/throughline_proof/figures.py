"""Recomputes a score of scoring from the events that it stands on. Needs Python 3.11 or later, and nothing else.

An auditor holds a score, the event ids that it is said to stand on, and the events of scoring's log. `recompute` folds
the events into what they say of each client, counts by the definitions of scoring's formulas, and compares: n, value,
interval and parts to the last digit, and the event ids one by one. Nothing of the suite is imported: the two
computations have only the definitions in common.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal
from fractions import Fraction
from functools import lru_cache
from math import ceil, floor, sqrt
from statistics import NormalDist
from typing import Any, Final, NamedTuple, cast


class Fact(NamedTuple):
    """An event of scoring's log. `type` is the message's full name, `payload` its protobuf bytes."""

    position: int
    type: str
    payload: bytes


class ScoreTold(NamedTuple):
    """A score as it was told: the fields of `throughline.scoring.v1.Score`; None where value, low or high is unset.

    `begins`, `ends`: the interval of event time that it is of, from the first on and before the second, in microseconds
    since epoch; 0 leaves that side open, both 0 are all event time.
    """

    subject_kind: int
    subject: str
    metric: str
    aspect: str
    formula: str
    formula_version: int
    position: int
    value: float | None
    low: float | None
    high: float | None
    n: int
    parts: dict[str, int]
    unit: str
    note: str
    begins: int = 0
    ends: int = 0

    @property
    def whose(self) -> str:
        """The subject, and the interval where there is one: everything from 2026-04-01 00:00:00+00:00 on."""
        if self.subject_kind == _ALL:
            subject = "everything"
        else:
            subject = f"{_KINDS.get(self.subject_kind, '?')} {self.subject!r}"
        since = f" from {_instant(self.begins)} on" if self.begins else ""
        return f"{subject}{since}{f' before {_instant(self.ends)}' if self.ends else ''}"


def recompute(told: ScoreTold, evidence: Sequence[str], facts: Iterable[Fact]) -> list[str]:
    """What differs between a score as told and as the events make it, a sentence each; empty where all agrees.

    `evidence`: the event ids (hex) that ExplainScore gives, all pages. `facts`: events of scoring's log in log order,
    with the definition of the metric where it is one of the installation's own. A client's score needs that client's
    events, any other score those of every client: `staff` of volume, `open` of completion_rate and metrics over cases
    also depend on clients that the evidence does not name. Client events behind `told.position` are passed over.

    For an interval each unit counts in which it began, with all that is known of it: a contact, an answer and a
    conversion when they happened, a case when it was opened, a journey when it was started. A client, and a case of a
    metric of one's own, counts by its last contact in the interval.

    What a client's consents keep from being measured counts in no score: the words that scoring had noted by then.

    Below the minimum n a score has no value: then n, the note and the evidence are compared. Where clients were
    forgotten or withdrew since, their evidence is kept back: without their events the first sentence says that the
    figure cannot be recomputed, and only the evidence is compared.
    Raises: ValueError where an event's bytes are no message of its type.
    """
    name = f"{told.metric}{f' ({told.aspect})' if told.aspect else ''} of {told.whose}"
    log = _Log(told)
    reached = 0
    for fact in facts:
        if fact.position <= reached:
            return [f"{name} cannot be recomputed: position {fact.position} comes after {reached}, not in log order"]
        reached = fact.position
        log.take(fact)
    nothing = _of_nothing(told)
    if nothing:
        return [f"{name} cannot be recomputed: {nothing}"]
    clients = [_Client(log.counting(client_id)) for client_id in log.clients]
    metric, version = _METRICS.get(told.metric), _VERSION
    if metric is None:
        version = told.formula_version
        definition = log.definitions.get((told.metric, version))
        if definition is None:
            return [f"{name} cannot be recomputed: no event here defines version {version} of {told.metric}"]
        metric = _own(definition, clients, told)
    if (told.formula, told.formula_version) != (metric.formula, version):
        by = f"{told.formula}, version {told.formula_version}, and here by {metric.formula}, version {version}"
        return [f"{name} cannot be recomputed: it is told by formula {by}"]
    rows = [row for client in clients for row in metric.counted(client, told)]
    counted = {event_id for event_id, _ in rows}
    differences = [f"{name}: {each}" for each in _evidence(evidence, counted, log, told)]
    match = _WITHHELD.search(told.note)
    withheld, lacks = int(match[1]) if match is not None else 0, sorted(counted - set(evidence))
    lacking = [f"{name}: {event_id} counts, and the evidence lacks it" for event_id in lacks]
    gone = told.n - len(rows)
    if 0 < gone <= withheld:
        kept_back = f"{gone} of {told.n} belong to clients forgotten since, whose events are not here"
        differences.insert(0, f"{name} cannot be recomputed: {kept_back}")
        # Of who withdrew since the events are here, and the evidence does not name them.
        return differences if len(lacks) == withheld - gone else differences + lacking
    if withheld and len(lacks) != withheld:
        differences.append(f"{name}: {withheld} are told to be kept back from the evidence, and {len(lacks)} are")
    elif not withheld:
        differences += lacking
    found = metric.tell([numbers for _, numbers in rows], sum(metric.beside(client, told) for client in clients))
    return differences + [f"{name}: {each}" for each in _compare(told, len(rows), metric, found)]


def payload_of(envelope: bytes) -> bytes:
    """The event in an envelope as it is logged (throughline.eventlog.v1.Envelope). Raises: ValueError."""
    return _Message(envelope).raw(8)


def _of_nothing(told: ScoreTold) -> str:
    """Why no score can be of this subject and interval; empty where one can."""
    if told.subject_kind not in _KINDS or (told.subject_kind == _ALL) == bool(told.subject):
        return f"kind {told.subject_kind} has no subject {told.subject!r}"
    upside_down = told.begins and told.ends and told.ends <= told.begins
    return "the interval ends before it begins" if upside_down else ""


def _evidence(evidence: Sequence[str], counted: set[str], log: _Log, told: ScoreTold) -> Iterator[str]:
    """What is wrong with the event ids that were told."""
    for event_id, times in Counter(evidence).items():
        if times > 1:
            yield f"the evidence names {event_id} {times} times"
        if event_id in counted:
            continue
        thing, fact = log.named.get(event_id, (None, None))
        if fact is None:
            yield f"no event here up to position {told.position} has the id {event_id} that the evidence names"
            continue
        where = f"{fact.type.rpartition('.')[2]} at position {fact.position}"
        if thing is None:
            yield f"{event_id} in the evidence counts no more: it was withdrawn by {where}"
        else:
            of = ", ".join(f"{_KINDS[kind]} {subject}" for kind, subject in thing.subjects()[1:])
            began = "" if _began_in(told, thing) else f", began at {_instant(thing.began)}"
            yield f"{event_id} in the evidence ({where}; of {of or 'no subject'}{began}) does not count for this"


def _compare(told: ScoreTold, n: int, metric: _Metric, found: _Figure) -> Iterator[str]:
    """What differs between the figure told and the one found."""
    if told.n != n:
        yield f"n is told as {told.n}, and the events make it {n}"
    if told.value is None and metric.formula not in _EXACT:
        too_few = _TOO_FEW.match(told.note)
        if too_few is None or int(too_few[1]) != told.n or told.n >= int(too_few[2]):
            yield f"no value is told, and the note {told.note!r} does not say that {told.n} are too few"
        if told.low is not None or told.high is not None or told.parts:
            yield "no value is told, and yet an interval or parts"
        return
    if told.aspect and told.metric not in _BY_ASPECT:
        yield f"it is told for the aspect {told.aspect!r}, and {told.metric} has none"
    unit = metric.unit or told.aspect
    if told.unit != unit:
        yield f"the unit is told as {told.unit!r}, and is {unit!r}"
    said, makes = _numbers(told), _numbers(found)
    for name in sorted(said.keys() | makes.keys()):
        if said.get(name) != makes.get(name):
            yield f"{name} is told as {said.get(name)!r}, and the events make it {makes.get(name)!r}"


def _instant(micros: int) -> str:
    try:
        return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)).isoformat(" ")
    except OverflowError:
        return f"{micros} microseconds"


def _numbers(figure: ScoreTold | _Figure) -> dict[str, float | None]:
    parts = {f"the part {part}": amount for part, amount in figure.parts.items()}
    return {"value": figure.value, "low": figure.low, "high": figure.high, **parts}


# The wire format of protobuf.


class _Message:
    """A message's fields by number. As in protobuf, a field of another wire type than asked for is an unknown one."""

    def __init__(self, payload: bytes) -> None:
        self._numbers: dict[int, int] = {}
        self._bytes: dict[int, list[bytes]] = {}
        at = 0
        while at < len(payload):
            tag, at = _varint(payload, at)
            field, wire = tag >> 3, tag & 7
            if not field:
                raise ValueError(f"a field with the number 0 ends at byte {at}")
            if wire == 0:
                self._numbers[field], at = _varint(payload, at)
                continue
            if wire == 2:
                size, at = _varint(payload, at)
            elif wire in _FIXED:
                size = _FIXED[wire]
            else:
                raise ValueError(f"field {field} has the wire type {wire}, which proto3 does not write")
            if at + size > len(payload):
                raise ValueError(f"field {field} has {size} bytes, and {len(payload) - at} are left")
            # No field that counts here has a fixed width.
            if wire == 2:
                self._bytes.setdefault(field, []).append(payload[at : at + size])
            at += size

    def has(self, field: int) -> bool:
        return field in self._numbers or field in self._bytes

    def number(self, field: int) -> int:
        raw = self._numbers.get(field, 0)
        return raw - (1 << 64) if raw >> 63 else raw

    def raw(self, field: int) -> bytes:
        return self._bytes.get(field, [b""])[-1]

    def text(self, field: int) -> str:
        return self.raw(field).decode()

    def texts(self, field: int) -> tuple[str, ...]:
        return tuple(each.decode() for each in self._bytes.get(field, ()))

    def message(self, field: int) -> _Message:
        # Messages in one field are merged, which is what their bytes say when put together.
        return _Message(b"".join(self._bytes.get(field, ())))

    def messages(self, field: int) -> list[_Message]:
        return [_Message(each) for each in self._bytes.get(field, ())]


_FIXED: Final = {1: 8, 5: 4}


def _varint(payload: bytes, at: int) -> tuple[int, int]:
    """(value, where it ends)."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(payload):
            raise ValueError("the bytes end within a number")
        byte = payload[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            if value >> 64:
                break
            return value, at
    raise ValueError(f"the number that ends at byte {at} has more than 64 bits")


# What the events say: throughline/scoring/v1/events.proto and throughline/ingestion/v1/interaction.proto.

_ALL, _CHANNEL, _TOUCHPOINT, _JOURNEY, _DEPARTMENT, _CLIENT, _ASSISTANCE, _CAMPAIGN, _SOURCE = range(1, 10)
_KINDS: Final = {
    _ALL: "everything",
    _CHANNEL: "channel",
    _TOUCHPOINT: "touchpoint",
    _JOURNEY: "journey",
    _DEPARTMENT: "department",
    _CLIENT: "client",
    _ASSISTANCE: "assistance",
    _CAMPAIGN: "campaign",
    _SOURCE: "source",
}
_Subject = tuple[int, str]


def _plain(text: str) -> str:
    return text.replace("\x00", "\ufffd")


def _named(*subjects: _Subject) -> list[_Subject]:
    return [(_ALL, ""), *((kind, _plain(subject)) for kind, subject in subjects if subject)]


class _Contact:
    """One interaction, from a ContactNoted."""

    def __init__(self, noted: _Message) -> None:
        message = noted.message(2)
        value, cost = message.message(18), message.message(19)
        self.interaction_id = message.text(1)
        self.event_ids = (self.interaction_id,)
        self.at = self.began = message.number(8)
        self.source = message.text(2)
        # Its place in time.
        self.order = (self.at, self.source, message.number(28), self.interaction_id)
        self.channel, self.touchpoint, self.kind = message.text(4), message.text(6), message.text(7)
        self.case_id, self.campaign = message.text(12), message.text(13)
        self.matter, self.outcome = message.text(16), message.text(17)
        self.value, self.value_currency = value.number(1), _plain(value.text(2))
        self.cost, self.cost_currency = cost.number(1), _plain(cost.text(2))
        self.wait, self.handling = max(0, message.number(20)), max(0, message.number(21))
        self.assisted = message.message(5).number(3) != 0
        self.staff = message.number(26) == 2
        # By an identifier of a usual shape: a blank, a placeholder or a test's tells nobody.
        self.identified = any(identifier.number(4) in {0, 1} for identifier in message.messages(9))
        self.attributes = message.raw(25)

    def subjects(self) -> list[_Subject]:
        return _named(
            (_CHANNEL, self.channel),
            (_ASSISTANCE, "assisted" if self.assisted else "automated"),
            (_SOURCE, self.source),
            (_TOUCHPOINT, self.touchpoint and f"{self.channel}/{self.touchpoint}"),
            (_CAMPAIGN, self.campaign),
        )

    def given(self) -> dict[str, Any]:
        """The operational attributes; none where they are no JSON object."""
        try:
            parsed: Any = json.loads(self.attributes or b"{}")
        except ValueError:
            return {}
        return cast("dict[str, Any]", parsed) if isinstance(parsed, dict) else {}


class _Feedback:
    """One answer, rating or remark, from a FeedbackScored."""

    def __init__(self, message: _Message) -> None:
        fact, traits = message.message(7), message.message(10)
        self.event_ids = (message.text(2),)
        self.interaction_id, self.source = message.text(3), message.text(11)
        self.began = message.number(6)
        self.channel, self.touchpoint, self.departments = message.text(4), message.text(5), message.texts(8)
        self.assistance = ("assisted" if traits.number(3) else "automated") if message.has(10) else ""
        self.kind, self.score = fact.number(1), fact.number(2) if fact.has(2) else None
        self.scale = (fact.number(3), fact.number(4))
        self.aspect = "" if fact.text(7) == "overall" else _plain(fact.text(7))
        self.weight = fact.number(9) or _MICROS

    def subjects(self) -> list[_Subject]:
        return _named(
            (_CHANNEL, self.channel),
            (_TOUCHPOINT, self.channel and self.touchpoint and f"{self.channel}/{self.touchpoint}"),
            (_ASSISTANCE, self.assistance),
            (_SOURCE, self.source),
            *((_DEPARTMENT, department) for department in self.departments),
        )

    def answer(self) -> tuple[str, int, int, int] | None:
        """(metric, the scale's ends, score); none without a score, or with one outside its scale."""
        if self.kind not in _ANSWERS or self.score is None:
            return None
        metric, own = _ANSWERS[self.kind]
        low, high = self.scale if self.scale[0] != self.scale[1] else own
        if not low <= self.score <= high or (metric == "nps" and (low, high) != own):
            return None
        return metric, low, high, self.score


_ANSWERS: Final = {1: ("nps", (0, 10)), 2: ("csat", (1, 5)), 3: ("ces", (1, 7)), 4: ("review_mean", (1, 5))}


class _Case:
    """A case as it stands, from a CaseNoted: times and events of its opening, acknowledgement and resolution."""

    def __init__(self, message: _Message) -> None:
        self.department, self.channel, self.state = message.text(3), message.text(4), message.text(5)
        self.times = tuple(message.number(field) for field in (6, 7, 8))
        self.began = self.times[0]
        self.event_ids = tuple(message.text(field) for field in (10, 11, 12))

    def subjects(self) -> list[_Subject]:
        return _named((_CHANNEL, self.channel), (_DEPARTMENT, self.department))


class _Journey:
    """A journey as it stands, from a JourneyNoted, with the events of its start and end."""

    def __init__(self, message: _Message) -> None:
        self.journey, self.state, self.interaction_ids = _plain(message.text(3)), message.text(4), message.texts(7)
        self.channels = message.texts(8)
        self.began = message.number(5)
        self.event_ids = (message.text(10), message.text(11))

    def subjects(self) -> list[_Subject]:
        return _named((_JOURNEY, self.journey))


class _Consents:
    """What a client consents to, from a ConsentNoted."""

    def __init__(self, message: _Message) -> None:
        self._words = [
            ((word.number(4), not word.number(3), word.text(6)), word.text(2))
            for word in message.messages(2)
            if word.text(1) == _MEASUREMENT
        ]

    def count(self, thing: _Thing) -> bool:
        """Whether the thing may be measured; what staff does always may, and a journey that touched a channel that
        may.
        """
        if isinstance(thing, _Contact) and thing.staff:
            return True
        channels = (thing.channels or ("",)) if isinstance(thing, _Journey) else (thing.channel,)
        return any(self._permit(channel) for channel in channels)

    def _permit(self, channel: str) -> bool:
        """The last word about the channel or about all holds; of two of one instant the withdrawal."""
        (_, withdrawn, _), _ = max(
            (word for word in self._words if word[1] in {"", channel}), default=((0, False, ""), "")
        )
        return not withdrawn


_MEASUREMENT: Final = "measurement"


_Thing = _Contact | _Feedback | _Case | _Journey
_Things = dict[tuple[str, str], _Thing]


def _began_in(told: ScoreTold, thing: _Thing) -> bool:
    """Whether the thing began in the interval that the score is of."""
    return (not told.begins or told.begins <= thing.began) and (not told.ends or thing.began < told.ends)


class _Log:
    """The events, folded: what is known of each client, and which event said last of an id whether it stands."""

    def __init__(self, told: ScoreTold) -> None:
        self._told = told
        self.clients: dict[str, _Things] = {}
        self.named: dict[str, tuple[_Thing | None, Fact]] = {}
        self.definitions: dict[tuple[str, int], _Message] = {}
        self._consents: dict[str, _Consents] = {}

    def counting(self, client_id: str) -> list[_Thing]:
        """What is known of the client and may be measured."""
        consents, things = self._consents.get(client_id), self.clients[client_id].values()
        return [thing for thing in things if consents is None or consents.count(thing)]

    def take(self, fact: Fact) -> None:
        """The next event. One that counts for nobody is passed over."""
        what = fact.type.removeprefix("throughline.scoring.v1.")
        try:
            if what == "MetricDefined":
                definition = _Message(fact.payload).message(1)
                self.definitions[definition.text(1), definition.number(2)] = definition
            elif what == "ConsentNoted" and fact.position <= self._told.position:
                noted = _Message(fact.payload)
                self._consents[noted.text(1)] = _Consents(noted)
            elif what in _CLIENT_EVENTS and fact.position <= self._told.position:
                self._take(what, fact)
        except ValueError as error:
            raise ValueError(f"{fact.type} at position {fact.position} is no such message: {error}") from error

    def _take(self, what: str, fact: Fact) -> None:
        client_id, key, thing = _read(what, fact.payload)
        if self._told.subject_kind == _CLIENT and client_id != self._told.subject:
            return
        things = self.clients.setdefault(client_id, {})
        if what == "ClientDropped":
            self._consents.pop(client_id, None)
            for each in list(things):
                self._put(things, each, None, fact)
        # What a contact says never changes: one that is known is left alone.
        elif what != "ContactNoted" or key not in things:
            self._put(things, key, thing, fact)

    def _put(self, things: _Things, key: tuple[str, str], thing: _Thing | None, fact: Fact) -> None:
        before = things.pop(key, None)
        self.named.update((event_id, (None, fact)) for event_id in (before.event_ids if before is not None else ()))
        if thing is not None:
            things[key] = thing
            self.named.update((event_id, (thing, fact)) for event_id in thing.event_ids)


_CLIENT_EVENTS: Final[dict[str, tuple[str, Callable[[_Message], _Thing] | None]]] = {
    "ContactNoted": ("contact", _Contact),
    "ContactWithdrawn": ("contact", None),
    "FeedbackScored": ("feedback", _Feedback),
    "FeedbackWithdrawn": ("feedback", None),
    "CaseNoted": ("case", _Case),
    "JourneyNoted": ("journey", _Journey),
    "ClientDropped": ("client", None),
}


@lru_cache(maxsize=1 << 16)
def _read(what: str, payload: bytes) -> tuple[str, tuple[str, str], _Thing | None]:
    """(client, kind and id of what is said, the thing as it stands), none where it is withdrawn."""
    message, (kind, read) = _Message(payload), _CLIENT_EVENTS[what]
    thing = None if read is None else read(message)
    said_id = thing.interaction_id if isinstance(thing, _Contact) else message.text(2)
    if isinstance(thing, _Case | _Journey) and thing.state in {"withdrawn", "retracted"}:
        thing = None
    return message.text(1), (kind, said_id), thing


class _Client:
    """What is known of a client, and what follows from it."""

    def __init__(self, things: Iterable[_Thing]) -> None:
        each = list(things)
        contacts = [thing for thing in each if isinstance(thing, _Contact)]
        contacts.sort(key=lambda contact: contact.order)
        self.contacts = [contact for contact in contacts if not contact.staff]
        self.staff = [contact for contact in contacts if contact.staff]
        self.feedback = [thing for thing in each if isinstance(thing, _Feedback)]
        self.cases = [thing for thing in each if isinstance(thing, _Case)]
        self.journeys = [thing for thing in each if isinstance(thing, _Journey)]
        self.measured = {item.interaction_id for item in self.feedback if item.answer() is not None}
        self.touches = [contact for contact in self.contacts if contact.kind in _TOUCHES]
        self.conversions = [contact for contact in self.contacts if contact.kind in _CONVERSIONS]
        self.on: dict[str, set[str]] = {}
        for journey in self.journeys:
            for interaction_id in journey.interaction_ids:
                self.on.setdefault(interaction_id, set()).add(journey.journey)

    def counts(self, thing: _Thing, told: ScoreTold) -> bool:
        """Whether the thing counts for the score's subject and interval; contacts and feedback also do for journeys
        they lie on.
        """
        if not _began_in(told, thing):
            return False
        if told.subject_kind == _JOURNEY and isinstance(thing, _Contact | _Feedback):
            return told.subject in self.on.get(thing.interaction_id, ())
        return told.subject_kind == _CLIENT or (told.subject_kind, told.subject) in thing.subjects()


# What counts: for each metric the events that make its n, each with the numbers that its figure is made of.

_Numbers = tuple[int, ...]
_Row = tuple[str, _Numbers]


def _volume(client: _Client, told: ScoreTold) -> Iterator[_Row]:
    for contact in client.contacts:
        if client.counts(contact, told):
            yield contact.interaction_id, (contact.interaction_id in client.measured,)


def _clients(client: _Client, told: ScoreTold) -> Iterator[_Row]:
    """The first contact stands for the client."""
    for row in _volume(client, told):
        yield row
        return


def _resolution(client: _Client, told: ScoreTold) -> Iterator[_Row]:
    """Own definition, by repeat contact: a contact on a matter by an identified client is not resolved where the same
    client's next one on it came within 7 x 24 hours.
    """
    if not any(contact.identified for contact in client.contacts):
        return
    following: dict[str, int] = {}
    for contact in reversed(client.contacts):
        if not contact.matter:
            continue
        next_at = following.get(contact.matter)
        following[contact.matter] = contact.at
        if client.counts(contact, told):
            yield contact.interaction_id, (next_at is None or next_at - contact.at > 7 * 24 * 3600 * _MICROS,)


def _times(measured: str) -> _Counted:
    def counted(client: _Client, told: ScoreTold) -> Iterator[_Row]:
        for contact in client.contacts:
            time: int = getattr(contact, measured)
            if time and client.counts(contact, told):
                yield contact.interaction_id, (time,)

    return counted


def _amounts(*wanted: str) -> _Counted:
    def counted(client: _Client, told: ScoreTold) -> Iterator[_Row]:
        for contact in client.contacts:
            value = "value" in wanted and contact.value_currency == told.aspect
            cost = "cost" in wanted and contact.cost_currency == told.aspect
            if told.aspect and (value or cost) and client.counts(contact, told):
                yield contact.interaction_id, (value and contact.value, cost and contact.cost)

    return counted


def _items(client: _Client, told: ScoreTold) -> Iterator[_Row]:
    return ((item.event_ids[0], ()) for item in client.feedback if client.counts(item, told))


def _answers(metric: str) -> _Counted:
    def counted(client: _Client, told: ScoreTold) -> Iterator[_Row]:
        for item in client.feedback:
            answer = item.answer()
            if answer is not None and answer[0] == metric and item.aspect == told.aspect and client.counts(item, told):
                yield item.event_ids[0], (*answer[1:], item.weight)

    return counted


def _cases(step: int) -> _Counted:
    """`step`: 0 of the opening, 1 of the acknowledgement, 2 of the resolution."""

    def counted(client: _Client, told: ScoreTold) -> Iterator[_Row]:
        for case in client.cases:
            if (case.times[step] or not step) and client.counts(case, told):
                yield case.event_ids[step], (max(0, case.times[step] - case.times[0]),)

    return counted


def _completion(client: _Client, told: ScoreTold) -> Iterator[_Row]:
    for journey in client.journeys:
        if journey.state != "started" and client.counts(journey, told):
            yield journey.event_ids[1], (journey.state == "completed",)


def _converted(client: _Client, told: ScoreTold) -> Iterator[_Row]:
    for conversion in client.conversions:
        if told.subject_kind in {_ALL, _CLIENT} and _began_in(told, conversion):
            yield conversion.interaction_id, (not _eligible(conversion, client.touches),)


def _credited(model: str) -> _Counted:
    def counted(client: _Client, told: ScoreTold) -> Iterator[_Row]:
        for conversion in client.conversions:
            shares = [
                credit
                for touch, credit in _shares(model, conversion, _eligible(conversion, client.touches))
                if told.subject_kind in {_ALL, _CLIENT}
                or (told.subject_kind, told.subject) in {(_CHANNEL, touch.channel), (_CAMPAIGN, touch.campaign or None)}
            ]
            if shares and _began_in(told, conversion):
                yield conversion.interaction_id, (sum(shares),)

    return counted


def _staff(client: _Client, told: ScoreTold) -> int:
    """Contacts of staff are told apart, and lie on no journey."""
    return sum(told.subject_kind != _JOURNEY and client.counts(contact, told) for contact in client.staff)


def _open(client: _Client, told: ScoreTold) -> int:
    return sum(journey.state == "started" and client.counts(journey, told) for journey in client.journeys)


_Counted = Callable[[_Client, ScoreTold], Iterator[_Row]]


def _own(definition: _Message, clients: Iterable[_Client], told: ScoreTold) -> _Metric:
    """A metric of the installation's own: units that satisfy the numerator among those that satisfy the population."""
    unit, population, numerator = definition.number(5), definition.message(6), definition.message(7)
    ends: dict[str, _Contact] = {}
    for client in clients:
        for contact in _contacts_in(client, told):
            ends[contact.case_id] = max(contact, ends.get(contact.case_id, contact), key=lambda each: each.order)

    def counted(client: _Client, told: ScoreTold) -> Iterator[_Row]:
        candidates = _contacts_in(client, told)
        if unit == 2:
            # A case counts once, by its last contact of all clients'.
            candidates = [each for each in candidates if each.case_id and ends[each.case_id] is each]
        elif unit != 1:
            candidates = candidates[-1:]
        for contact in candidates:
            on_journey = told.subject_kind == _JOURNEY and unit != 1
            if not on_journey and client.counts(contact, told) and _holds(population, contact):
                yield contact.interaction_id, (_holds(numerator, contact),)

    return _Metric("share", "percent", counted, _share("numerator"))


def _contacts_in(client: _Client, told: ScoreTold) -> list[_Contact]:
    return [contact for contact in client.contacts if _began_in(told, contact)]


def _holds(condition: _Message, contact: _Contact) -> bool:
    """All given parts hold; within one, any value."""
    said = (contact.source, contact.channel, contact.kind, contact.touchpoint, contact.outcome, contact.matter)
    for field, value in enumerate(said, 1):
        wanted = condition.texts(field)
        if wanted and value not in wanted:
            return False
    attributes = {entry.text(1): entry.text(2) for entry in condition.messages(7)}
    if not attributes:
        return True
    given = {
        key: value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), sort_keys=True)
        for key, value in contact.given().items()
    }
    return all(given.get(key) == value for key, value in attributes.items())


# The formulas, with their sources. Z: two-sided 95 %.

_Z: Final = NormalDist().inv_cdf(0.975)
_MICROS: Final = 1_000_000


class _Figure(NamedTuple):
    value: float | None
    low: float | None
    high: float | None
    parts: dict[str, int]


_Tell = Callable[[list[_Numbers], int], _Figure]
_Estimate = tuple[float, float, float]
_NOTHING: Final = _Figure(None, None, None, {})


def _wilson(successes: int, n: int) -> _Estimate:
    """E. B. Wilson (1927), J. Amer. Statist. Assoc. 22(158), 209-212; method 3 of R. G. Newcombe (1998)."""
    z2 = _Z * _Z
    p = successes / n
    middle = (2 * successes + z2) / (2 * (n + z2))
    half = _Z * sqrt(z2 + 4 * successes * (1 - p)) / (2 * (n + z2))
    low = 0.0 if successes == 0 else middle - half
    high = 1.0 if successes == n else middle + half
    return 100 * successes / n, 100 * low, 100 * high


def _share(name: str, beside_name: str = "") -> _Tell:
    """Percent of those whose first number is 1."""

    def tell(rows: list[_Numbers], beside: int) -> _Figure:
        k = sum(row[0] for row in rows)
        parts = {name: k, beside_name: beside} if beside_name else {name: k}
        return _Figure(*_wilson(k, len(rows)), parts) if rows else _NOTHING

    return tell


def _top(name: str, numerator: int, denominator: int) -> _Tell:
    """Percent of answers in the scale's top part. Satisfaction, the top quarter (4 and 5 of 5): P. W. Farris et al.
    (2010), Marketing Metrics, 2nd edition. Effort, the top third (5 to 7 of 7): M. Dixon, K. Freeman and N. Toman
    (2010), Harvard Business Review 88(7/8), 116-122. Interval: Wilson.
    """

    def tell(rows: list[_Numbers], _: int) -> _Figure:
        k = sum(denominator * (score - low) >= numerator * (high - low) for low, high, score, _ in rows)
        return _Figure(*_wilson(k, len(rows)), {name: k, **_by_score(rows)}) if rows else _NOTHING

    return tell


def _by_score(rows: list[_Numbers]) -> dict[str, int]:
    return dict(Counter(f"answer_{row[2]}" for row in rows))


def _mean(low_end: int, high_end: int) -> _Tell:
    """Mean on the metric's own scale, +- 1.96 standard errors: G. W. Snedecor and W. G. Cochran (1989), Statistical
    Methods, 8th edition. Answers on other scales are moved to it in exact fractions.
    """

    def tell(rows: list[_Numbers], _: int) -> _Figure:
        if not rows:
            return _NOTHING
        n = len(rows)
        moved = [low_end + Fraction((score - low) * (high_end - low_end), high - low) for low, high, score, _ in rows]
        total, squares = sum(moved, Fraction(0)), sum((each * each for each in moved), Fraction(0))
        middle = total / n
        variance = (squares - total * middle) / (n - 1) if n > 1 else Fraction(0)
        half = _Z * sqrt(variance / n)
        value = float(middle)
        low, high = max(float(low_end), value - half), min(float(high_end), value + half)
        return _Figure(value, low, high, _by_score(rows))

    return tell


def _adjusted_wald(promoters: float, detractors: float, n: float) -> tuple[float, float]:
    """D. G. Bonett and R. M. Price (2012), J. Educ. Behav. Statist. 37(4), 479-488; J. Sauro and J. R. Lewis,
    Quantifying the User Experience (2012, 2016): 3 added to n, 3/4 each to promoters and detractors.
    """
    m = n + 3
    p = (promoters + 0.75) / m
    d = (detractors + 0.75) / m
    middle = p - d
    half = _Z * sqrt((p + d - middle * middle) / m)
    return max(-100.0, 100 * (middle - half)), min(100.0, 100 * (middle + half))


def _loyalties(rows: list[_Numbers], weights: Iterable[int]) -> dict[str, int]:
    """Promoters answer 9 or 10, detractors 0 to 6: F. F. Reichheld (2003), Harvard Business Review 81(12), 46-54."""
    parts = {"promoters": 0, "passives": 0, "detractors": 0}
    for (_, _, score, _), weight in zip(rows, weights, strict=True):
        parts["promoters" if score >= 9 else "passives" if score >= 7 else "detractors"] += weight
    return parts


def _nps(rows: list[_Numbers], _: int) -> _Figure:
    if not rows:
        return _NOTHING
    n, parts = len(rows), _loyalties(rows, [1] * len(rows))
    low, high = _adjusted_wald(parts["promoters"], parts["detractors"], n)
    return _Figure(100 * (parts["promoters"] - parts["detractors"]) / n, low, high, parts)


def _weighted(rows: list[_Numbers], _: int) -> _Figure:
    """The interval at the effective number of answers: L. Kish (1965), Survey Sampling, Wiley."""
    weights = [row[3] for row in rows]
    parts, total, squares = _loyalties(rows, weights), sum(weights), sum(weight * weight for weight in weights)
    if total <= 0:
        return _NOTHING
    promoters, detractors = parts["promoters"], parts["detractors"]
    effective = total * total / squares
    low, high = _adjusted_wald(promoters / total * effective, detractors / total * effective, effective)
    named = {f"{part}_weight_micros": weight for part, weight in parts.items()}
    return _Figure(100 * (promoters - detractors) / total, low, high, named)


def _durations(rows: list[_Numbers], _: int) -> _Figure:
    """R. J. Hyndman and Y. Fan (1996), The American Statistician 50(4), 361-365, definition 2; interval of the median
    from order statistics: W. J. Conover (1999), Practical Nonparametric Statistics, section 3.2.
    """
    if not rows:
        return _NOTHING
    times = sorted(row[0] for row in rows)
    n = len(times)

    def quantile(numerator: int, denominator: int) -> Fraction:
        whole, rest = divmod(n * numerator, denominator)
        return Fraction(times[whole]) if rest else Fraction(times[whole - 1] + times[whole], 2)

    half = _Z * sqrt(n) / 2
    low, high = times[max(1, floor(n / 2 - half)) - 1], times[min(n, ceil(n / 2 + half) + 1) - 1]
    median = quantile(1, 2)
    parts = {
        "median_micros": round(median),
        "mean_micros": round(Fraction(sum(times), n)),
        "p90_micros": round(quantile(9, 10)),
    }
    return _Figure(float(median) / _MICROS, low / _MICROS, high / _MICROS, parts)


def _count(beside_name: str) -> _Tell:
    """How many there are; beside it, where there are any, those that are told apart."""

    def tell(rows: list[_Numbers], beside: int) -> _Figure:
        apart = beside + (sum(row[0] for row in rows) if beside_name == "unattributed" else 0)
        return _Figure(float(len(rows)), None, None, {beside_name: apart} if apart else {})

    return tell


def _sum(part: str) -> _Tell:
    """Whole millionths, told in units."""

    def tell(rows: list[_Numbers], _: int) -> _Figure:
        micros = sum(sum(row) for row in rows)
        return _Figure(micros / _MICROS, None, None, {part: micros})

    return tell


def _after_costs(rows: list[_Numbers], _: int) -> _Figure:
    value, cost = sum(row[0] for row in rows), sum(row[1] for row in rows)
    parts = {"micros": value - cost, "value_micros": value, "cost_micros": cost}
    return _Figure((value - cost) / _MICROS, None, None, parts)


# Attribution. Models: P. K. Kannan, W. Reinartz and P. C. Verhoef (2016), Int. J. Research in Marketing 33(3), 449-456;
# the half-life of seven days is the default of Google Analytics.

_CONVERSIONS: Final = frozenset({"coupon_redeemed", "purchase", "order", "booking"})
_TOUCHES: Final = frozenset(
    {"ad", "ad_click", "ad_impression", "call", "campaign_sent", "chat", "click", "email", "email_clicked"}
    | {"email_opened", "email_sent", "message", "post", "question", "reservation", "search", "visit"}
)
_LOOKBACK: Final = 30 * 24 * 3600 * _MICROS
_MOST_TOUCHES: Final = 200
_HALF_LIFE: Final = 7 * 24 * 3600


def _powers(count: int, seconds: int) -> tuple[int, ...]:
    """2^(-i * seconds / half-life) for i below `count`, in 2^-60."""
    exact = Context(prec=40)
    exponents = (exact.divide(Decimal(-i * seconds), Decimal(_HALF_LIFE)) for i in range(count))
    return tuple(int(exact.multiply(Decimal(1 << 60), exact.power(Decimal(2), each))) for each in exponents)


_HOURS, _MINUTES, _SECONDS = _powers(_HALF_LIFE // 3600, 3600), _powers(60, 60), _powers(60, 1)


def _decay(age: int) -> int:
    """A weight that halves every seven days; age in microseconds."""
    halves, seconds = divmod(max(0, age) // _MICROS, _HALF_LIFE)
    hour, rest = divmod(seconds, 3600)
    minute, second = divmod(rest, 60)
    return ((_HOURS[hour] * _MINUTES[minute] >> 60) * _SECONDS[second] >> 60) >> halves


def _apportion(whole: int, weights: Sequence[int]) -> list[int]:
    """By the largest remainder, ties to the earlier: M. L. Balinski and H. P. Young (2001), Fair Representation."""
    total, sign = sum(weights), -1 if whole < 0 else 1
    split = [divmod(abs(whole) * weight, total) for weight in weights]
    parts = [part for part, _ in split]
    order = sorted(range(len(split)), key=lambda index: (-split[index][1], index))
    for index in order[: abs(whole) - sum(parts)]:
        parts[index] += 1
    return [sign * part for part in parts]


def _eligible(conversion: _Contact, touches: list[_Contact]) -> list[_Contact]:
    """The touches before the conversion, at most 200, that still count at it: 30 days or until `active_until`."""

    def until(touch: _Contact) -> int:
        named = touch.given().get("active_until") if b'"active_until"' in touch.attributes else None
        return named if isinstance(named, int) and not isinstance(named, bool) else touch.at + _LOOKBACK

    before = touches[: bisect_left(touches, conversion.order, key=lambda touch: touch.order)]
    return [touch for touch in before[-_MOST_TOUCHES:] if until(touch) >= conversion.at]


def _shares(model: str, conversion: _Contact, touches: list[_Contact]) -> list[tuple[_Contact, int]]:
    """The touches that have a share in the conversion or in its value, each with its credit in millionths."""
    if model in {"first", "last"} or len(touches) < 2:
        return [(touch, _MICROS) for touch in (touches[-1:] if model == "last" else touches[:1])]
    weights = [1] * len(touches)
    if model == "time_decay":
        weights = [_decay(conversion.at - touch.at) for touch in touches]
        # Where every touch is too old to weigh anything, the last one has it all.
        weights = weights if any(weights) else [0] * (len(touches) - 1) + [1]
    split = zip(touches, _apportion(_MICROS, weights), _apportion(conversion.value, weights), strict=True)
    return [(touch, credit) for touch, credit, value in split if credit or value]


def _none(_client: _Client, _told: ScoreTold) -> int:
    return 0


class _Metric(NamedTuple):
    formula: str
    # Empty for amounts, which are in the currency that is their aspect.
    unit: str
    counted: _Counted
    tell: _Tell
    # How many the figure tells apart that are no part of n.
    beside: Callable[[_Client, ScoreTold], int] = _none


_METRICS: Final = {
    "nps": _Metric("nps", "points", _answers("nps"), _nps),
    "nps_weighted": _Metric("nps_weighted", "points", _answers("nps"), _weighted),
    "csat": _Metric("csat", "percent", _answers("csat"), _top("satisfied", 3, 4)),
    "csat_mean": _Metric("mean", "of 5", _answers("csat"), _mean(1, 5)),
    "ces": _Metric("ces", "percent", _answers("ces"), _top("easy", 2, 3)),
    "ces_mean": _Metric("mean", "of 7", _answers("ces"), _mean(1, 7)),
    "review_mean": _Metric("mean", "of 5", _answers("review_mean"), _mean(1, 5)),
    "volume": _Metric("count", "count", _volume, _count("staff"), _staff),
    "clients": _Metric("clients", "count", _clients, _count("")),
    "feedback": _Metric("count", "count", _items, _count("")),
    "cases": _Metric("count", "count", _cases(0), _count("")),
    "fcr": _Metric("fcr", "percent", _resolution, _share("resolved")),
    "response_time": _Metric("durations", "seconds", _cases(1), _durations),
    "resolution_time": _Metric("durations", "seconds", _cases(2), _durations),
    "handling_time": _Metric("durations", "seconds", _times("handling"), _durations),
    "wait_time": _Metric("durations", "seconds", _times("wait"), _durations),
    "measurement_coverage": _Metric("measurement_coverage", "percent", _volume, _share("measured")),
    "value": _Metric("amount", "", _amounts("value"), _sum("micros")),
    "cost": _Metric("amount", "", _amounts("cost"), _sum("micros")),
    "value_after_costs": _Metric("amount", "", _amounts("value", "cost"), _after_costs),
    "completion_rate": _Metric("completion_rate", "percent", _completion, _share("completed", "open"), _open),
    "conversions": _Metric("count", "count", _converted, _count("unattributed")),
    **{
        f"attribution_{model}": _Metric("attribution", "conversions", _credited(model), _sum("credit_micros"))
        for model in ("first", "last", "linear", "time_decay")
    },
}
"""The built-in metrics, each by version 1 of its formula."""
_VERSION: Final = 1
_BY_ASPECT: Final = frozenset(
    {"nps", "nps_weighted", "csat", "csat_mean", "ces", "ces_mean", "review_mean", "value", "cost", "value_after_costs"}
)
_EXACT: Final = frozenset({"count", "clients", "amount", "attribution"})
"""Formulas that estimate nothing: told however small n is."""
_TOO_FEW: Final = re.compile(r"(\d+) .*, at least (\d+) are needed")
_WITHHELD: Final = re.compile(r"(\d+) of the \d+ belong to clients who were forgotten or withdrew since\Z")
