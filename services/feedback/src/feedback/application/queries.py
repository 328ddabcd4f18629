"""Answers from one consistent view: items, cases, inboxes, routes and figures."""

from __future__ import annotations

import asyncio
import base64
import binascii
import struct
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import islice
from typing import Final, NamedTuple, TypeVar

from google.protobuf.message import Message

from feedback.application import tables
from feedback.application.caring import case_not_found
from feedback.application.desk import read_case
from feedback.application.earlier import Earlier, Stood, items_of
from feedback.application.ports import SealedWords, Words
from feedback.domain.cases import Case, CaseState
from feedback.domain.lifecycle import department_unknown
from throughline.feedback.v1 import events_pb2 as events
from throughline.feedback.v1 import routes_pb2
from throughline_eventlog import Clock, Commit, Reader, Store
from throughline_kernel import ALWAYS, Interval, InvalidError, NotFoundError, Recorded, Violation

DEFAULT_PAGE: Final = 50
MAX_PAGE: Final = 500

R = TypeVar("R")

_GROUPS: Final = (
    (tables.PENDING, {CaseState.OPEN, CaseState.ACKNOWLEDGED}),
    (tables.RESOLVED, {CaseState.RESOLVED}),
    (tables.WITHDRAWN, {CaseState.WITHDRAWN}),
)


class _Asked(NamedTuple):
    """As of when, and of which interval, a list is asked for."""

    as_of: int
    start: int
    end: int


class FoundItem(NamedTuple):
    """An item; `received` is None where its client is forgotten, `words` where there are none any more. The answer
    stands on the commit.
    """

    feedback_id: str
    client_id: str
    received: events.FeedbackReceived | None
    assignments: list[tuple[str, str, str, str, str]]
    words: str | None
    commit: Commit


class FoundStep(NamedTuple):
    """One thing that happened to a case."""

    event_id: str
    type: str
    at: int
    by: str
    text: str


class FoundCase(NamedTuple):
    """A case, its items in order of time, and how it stands at the moment of asking. Of one that is asked for alone
    the commit that the answer stands on.
    """

    case: Case
    feedback_ids: list[str]
    overdue: bool
    steps: list[FoundStep]
    commit: Commit = Commit(0, 0)


class Inbox(NamedTuple):
    """A page of a department's cases; `withheld` stood there for clients who are forgotten since."""

    cases: list[FoundCase]
    next_page_token: str
    commit: Commit
    withheld: int = 0


class Figures(NamedTuple):
    """What a department has; `overdue` at the moment of asking."""

    department: str
    counts: tables.Counts
    overdue: int


class Queries:
    """Reads; changes nothing. Each answer comes from one snapshot."""

    def __init__(self, store: Store, words: Words, clock: Clock) -> None:
        self._store = store
        self._words = words
        self._clock = clock

    async def item(self, feedback_id: str, as_of: int = 0) -> FoundItem:
        """One item with its words, as it was filed at an instant (microseconds, 0: now). Raises NotFoundError
        FEEDBACK_NOT_FOUND.
        """
        found = await self._read(lambda reader: _item(reader, feedback_id, as_of))
        received = found.received
        if received is None or not received.verbatim.box:
            return found
        sealed = SealedWords(received.verbatim.key_id, received.verbatim.box)
        (words,) = await asyncio.to_thread(self._words.open_many, [(sealed, received.entry)])
        return found._replace(words=words)

    async def case(self, case_id: str, as_of: int = 0) -> FoundCase:
        """One case with everything that happened to it by an instant (microseconds, 0: now). Raises NotFoundError
        CASE_NOT_FOUND.
        """
        return await self._read(lambda reader: _case(reader, case_id, as_of, self._clock()))

    async def inbox(
        self,
        department: str,
        states: Collection[CaseState],
        size: int,
        token: str,
        *,
        as_of: int = 0,
        between: Interval = ALWAYS,
    ) -> Inbox:
        """A page of a department's cases, most urgent first: what waits by its next deadline, then what is
        closed, latest first. As it stood at an instant (microseconds, 0: now), and what of it was opened in an
        interval; whether a case is overdue is judged at the instant that is asked for.

        Raises InvalidError PAGE_TOKEN_INVALID, FIELD_INVALID; NotFoundError DEPARTMENT_UNKNOWN.
        """
        if size < 0:
            raise InvalidError.of(Violation("page_size", "at least 0", f"give 1 to {MAX_PAGE}, or 0"))
        wanted = frozenset(states) or frozenset({CaseState.OPEN, CaseState.ACKNOWLEDGED})
        asked = _Asked(as_of, between.start, between.end)
        instant, after = _after(token, department, asked)
        limit = min(size or DEFAULT_PAGE, MAX_PAGE)

        def read(reader: Reader) -> Inbox:
            check_department(reader, department)
            commit = reader.commit_at(instant or None)
            if instant or between != ALWAYS:
                earlier = Earlier(reader, commit)
                stood = _stood(earlier, department, wanted, between)
                keys = [each.key for each in stood if each.key > after]
                judged = self._judged(as_of)
                found = [_listed_earlier(earlier, each[-16:].hex(), judged) for each in keys[:limit]]
                withheld = sum(earlier.case(each.case_id) is None for each in stood)
            else:
                keys = list(islice(_inbox_rows(reader, department, wanted, after), limit + 1))
                now = self._clock()
                found = [_listed(reader, each[-16:].hex(), now) for each in keys[:limit]]
                withheld = 0
            following = _token(keys[limit - 1], asked, commit) if len(keys) > limit else ""
            return Inbox([each for each in found if each is not None], following, commit, withheld)

        return await self._read(read)

    async def routes(self, as_of: int = 0) -> routes_pb2.RouteSet:
        """The routes in force, or those that were at an instant."""
        return await self._read(
            lambda reader: Earlier(reader, reader.commit_at(as_of)).routes() if as_of else _routes(reader)
        )

    async def figures(self, as_of: int = 0, between: Interval = ALWAYS) -> tuple[list[Figures], Commit]:
        """What each department has, by name, and the commit that this stands on. As of an instant (microseconds, 0:
        now); of an interval what was received and opened in it. What is overdue is judged at the instant asked for.
        """

        def read(reader: Reader) -> tuple[list[Figures], Commit]:
            commit = reader.commit_at(as_of or None)
            if as_of or between != ALWAYS:
                return self._earlier_figures(Earlier(reader, commit), between, as_of), commit
            return self._figures(reader), commit

        return await self._read(read)

    def _figures(self, reader: Reader) -> list[Figures]:
        counts = {key.decode(): tables.unpack_counts(row) for key, row in reader.scan(tables.STATS)}
        for each in _routes(reader).departments:
            counts.setdefault(each.department, tables.Counts())
        now = self._clock()
        return [
            Figures(department, each, _overdue(reader, department, now)) for department, each in sorted(counts.items())
        ]

    def _earlier_figures(self, earlier: Earlier, between: Interval, as_of: int) -> list[Figures]:
        counts = earlier.counts() if between == ALWAYS else earlier.counts_between(between)
        for each in earlier.routes().departments:
            counts.setdefault(each.department, tables.Counts())
        judged = self._judged(as_of)
        return [
            Figures(
                department,
                each,
                sum(
                    stood.due_at < judged and between.holds(stood.opened_at)
                    for stood in earlier.inbox(department, (tables.PENDING,))
                ),
            )
            for department, each in sorted(counts.items())
        ]

    def _judged(self, as_of: int) -> int:
        """When deadlines are judged: at the instant, unless that is still to come."""
        return min(as_of, self._clock()) if as_of else self._clock()

    async def _read(self, work: Callable[[Reader], R]) -> R:
        def read() -> R:
            with self._store.snapshot() as reader:
                return work(reader)

        return await asyncio.to_thread(read)


def check_department(reader: Reader, department: str) -> None:
    """Raises NotFoundError DEPARTMENT_UNKNOWN where no route set in force, and no case, names the department."""
    known = any(each.department == department for each in _routes(reader).departments)
    if not known and reader.get(tables.STATS, department.encode()) is None:
        raise department_unknown(department)


def pending(reader: Reader, department: str, now: int) -> Iterator[FoundCase]:
    """All of a department's cases that wait, most urgent first."""
    wanted = frozenset({CaseState.OPEN, CaseState.ACKNOWLEDGED})
    for key in _inbox_rows(reader, department, wanted, b""):
        found = _listed(reader, key[-16:].hex(), now)
        if found is not None:
            yield found


def listed_cases(reader: Reader, case_ids: Sequence[str], now: int) -> list[FoundCase]:
    """These cases as they stand, without those that are gone for good."""
    return [found for case_id in case_ids if (found := _listed(reader, case_id, now)) is not None]


def _item(reader: Reader, feedback_id: str, as_of: int) -> FoundItem:
    row = reader.get(tables.PLACES, bytes.fromhex(feedback_id))
    if row is None:
        raise _item_not_found(feedback_id)
    place = tables.unpack_place(row)
    commit = reader.commit_at(as_of or None)
    kept = reader.get(tables.STATE, tables.item_key(place.owner, feedback_id))
    if kept is None:
        return FoundItem(feedback_id, "", None, [], None, commit)
    record = tables.unpack_item(kept)
    filed = Earlier(reader, commit).item(feedback_id, record)
    if filed is None:
        raise _item_not_found(feedback_id)
    assignments = [
        (department, topic, route, because, case_id)
        for (department, topic, route, because, _), case_id in zip(record.assignments, filed.case_ids, strict=True)
    ]
    return FoundItem(feedback_id, filed.client_id, record.message(), assignments, None, commit)


def _item_not_found(feedback_id: str) -> NotFoundError:
    return NotFoundError(
        "FEEDBACK_NOT_FOUND", f"no item of feedback has the id {feedback_id}", {"feedback_id": feedback_id}
    )


def _case(reader: Reader, case_id: str, as_of: int, now: int) -> FoundCase:
    commit = reader.commit_at(as_of or None)
    if as_of:
        earlier = Earlier(reader, commit)
        then = earlier.case(case_id)
        if then is None:
            raise case_not_found(case_id)
        told = earlier.events(then)
        return _stood_as(then, told, min(as_of, now))._replace(steps=_steps(told, case_id), commit=commit)
    found = read_case(reader, case_id)
    if found is None:
        raise case_not_found(case_id)
    _, case = found
    steps = _steps(reader.read_stream(tables.stream_of(case.client_id, case.opened_by)), case_id)
    return FoundCase(case, _feedback_ids(reader, case_id), case.overdue(now), steps, commit)


def _steps(told: Iterable[Recorded], case_id: str) -> list[FoundStep]:
    """What happened to a case, of what happened to its client."""
    steps: list[FoundStep] = []
    for event in told:
        step = _step(event, case_id)
        if step is None:
            continue
        if step.type == "CaseOpened":
            # What was told before a case was told again holds no longer.
            steps = []
        steps.append(step)
    return sorted(steps, key=lambda each: each.at)


def _listed(reader: Reader, case_id: str, now: int) -> FoundCase | None:
    found = read_case(reader, case_id)
    if found is None:
        return None
    return FoundCase(found[1], _feedback_ids(reader, case_id), found[1].overdue(now), [])


def _stood(earlier: Earlier, department: str, wanted: frozenset[CaseState], between: Interval) -> list[Stood]:
    """What stood in an inbox, most urgent first; whose client is forgotten too."""
    groups = [group for group, states in _GROUPS if states & wanted]
    return [
        each
        for each in earlier.inbox(department, groups)
        if each.said.state in wanted and between.holds(each.opened_at)
    ]


def _listed_earlier(earlier: Earlier, case_id: str, judged: int) -> FoundCase | None:
    case = earlier.case(case_id)
    return None if case is None else _stood_as(case, earlier.events(case), judged)


def _stood_as(case: Case, told: Iterable[Recorded], judged: int) -> FoundCase:
    return FoundCase(case, items_of(case.case_id, told), case.overdue(judged), [])


def _feedback_ids(reader: Reader, case_id: str) -> list[str]:
    return [key[-16:].hex() for key, _ in reader.scan(tables.CASE_ITEMS, prefix=bytes.fromhex(case_id))]


def _inbox_rows(reader: Reader, department: str, wanted: frozenset[CaseState], after: bytes) -> Iterator[bytes]:
    for group, states in _GROUPS:
        prefix = tables.department_prefix(department, group)
        # A whole group before the place where the last page ended has been told.
        if not states & wanted or (after and prefix < after[: len(prefix)]):
            continue
        start = after if after.startswith(prefix) else b""
        for key, row in reader.scan(tables.INBOX, prefix=prefix, after=start):
            if tables.InInbox.of(row).state in wanted:
                yield key


def _overdue(reader: Reader, department: str, now: int) -> int:
    prefix = tables.department_prefix(department, tables.PENDING)
    overdue = 0
    for key, _ in reader.scan(tables.INBOX, prefix=prefix):
        if key[len(prefix) : len(prefix) + 8] >= tables.number(now):
            break
        overdue += 1
    return overdue


def _routes(reader: Reader) -> routes_pb2.RouteSet:
    for _, row in reader.scan(tables.ROUTES, reverse=True, limit=1):
        return routes_pb2.RouteSet.FromString(row)
    return routes_pb2.RouteSet()


def _token(key: bytes, asked: _Asked, commit: Commit) -> str:
    raw = key + _ASKED.pack(*asked, commit.recorded_at)
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _after(token: str, department: str, asked: _Asked) -> tuple[int, bytes]:
    """The instant that a list stands on, and the key that the page before ended with."""
    if not token:
        return asked.as_of, b""
    try:
        raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    except (binascii.Error, ValueError):
        raw = b""
    key, of = raw[:_KEY_BYTES], raw[_KEY_BYTES:]
    if (
        len(of) != _ASKED.size
        or not key.startswith(tables.department_prefix(department, b""))
        or _ASKED.unpack(of)[:3] != asked
    ):
        raise InvalidError.of(
            Violation(
                "page_token",
                "a token that a page of this department ended with",
                "give the next_page_token of the page before and ask for the same, or give none",
                "PAGE_TOKEN_INVALID",
            )
        )
    return _ASKED.unpack(of)[-1], key


_KEY_BYTES: Final = 16 + 1 + 8 + 8 + 16
_ASKED: Final = struct.Struct(">4q")
"""What a list was asked for, and the instant that it stands on."""


_STEPS: Final[dict[str, type[Message]]] = {
    each.DESCRIPTOR.full_name: each
    for each in (
        events.CaseOpened,
        events.CaseJoined,
        events.CaseAcknowledged,
        events.CaseReassigned,
        events.CaseEscalated,
        events.CaseResolved,
        events.CaseReopened,
        events.CaseWithdrawn,
    )
}


def _step(event: Recorded, case_id: str) -> FoundStep | None:
    kind = _STEPS.get(event.type)
    if kind is None:
        return None
    message = kind.FromString(event.payload)
    if getattr(message, "case_id", "") != case_id:
        return None
    return FoundStep(
        event.event_id.hex(),
        kind.DESCRIPTOR.name,
        event.occurred_at,
        getattr(message, "by", ""),
        step_text(message),
    )


def step_text(message: Message) -> str:  # noqa: PLR0911 # one sentence per kind of step
    """What a step says beyond its name."""
    match message:
        case events.CaseOpened():
            return f"{message.department}, {message.topic}"
        case events.CaseJoined():
            return f"item {message.feedback_id}"
        case events.CaseReassigned():
            to = f"from {message.previous_department} to {message.department}"
            return f"{to}: {message.reason}" if message.reason else to
        case events.CaseEscalated():
            return f"missed to {message.missed}: from {message.previous_department} to {message.department}"
        case events.CaseResolved():
            cause = f" (cause: {message.root_cause})" if message.root_cause else ""
            return f"{message.resolution}{cause}"
        case events.CaseReopened():
            return f"item {message.feedback_id} came again" if message.feedback_id else message.reason
        case events.CaseWithdrawn():
            return message.reason
        case _:
            return ""
