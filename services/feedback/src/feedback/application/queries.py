"""Answers from one consistent view: items, cases, inboxes, routes and figures."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Final, NamedTuple, TypeVar

from google.protobuf.message import Message

from feedback.application import tables
from feedback.application.caring import case_not_found
from feedback.application.desk import read_case
from feedback.application.ports import SealedWords, Words
from feedback.domain.cases import Case, CaseState
from feedback.domain.lifecycle import department_unknown
from throughline.feedback.v1 import events_pb2 as events
from throughline.feedback.v1 import routes_pb2
from throughline_eventlog import Clock, Reader, Store
from throughline_kernel import InvalidError, NotFoundError, Recorded, Violation

DEFAULT_PAGE: Final = 50
MAX_PAGE: Final = 500

R = TypeVar("R")

_GROUPS: Final = (
    (tables.PENDING, {CaseState.OPEN, CaseState.ACKNOWLEDGED}),
    (tables.RESOLVED, {CaseState.RESOLVED}),
    (tables.WITHDRAWN, {CaseState.WITHDRAWN}),
)


class FoundItem(NamedTuple):
    """An item; `received` is None where its client is forgotten, `words` where there are none any more."""

    feedback_id: str
    client_id: str
    received: events.FeedbackReceived | None
    assignments: list[tuple[str, str, str, str, str]]
    words: str | None
    position: int


class FoundStep(NamedTuple):
    """One thing that happened to a case."""

    event_id: str
    type: str
    at: int
    by: str
    text: str


class FoundCase(NamedTuple):
    """A case, its items in order of time, and how it stands at the moment of asking."""

    case: Case
    feedback_ids: list[str]
    overdue: bool
    steps: list[FoundStep]


class Inbox(NamedTuple):
    """A page of a department's cases."""

    cases: list[FoundCase]
    next_page_token: str
    position: int


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

    async def item(self, feedback_id: str) -> FoundItem:
        """One item with its words. Raises NotFoundError FEEDBACK_NOT_FOUND."""
        found = await self._read(lambda reader: _item(reader, feedback_id))
        received = found.received
        if received is None or not received.verbatim.box:
            return found
        sealed = SealedWords(received.verbatim.key_id, received.verbatim.box)
        (words,) = await asyncio.to_thread(self._words.open_many, [(sealed, received.entry)])
        return found._replace(words=words)

    async def case(self, case_id: str) -> FoundCase:
        """One case with everything that happened to it. Raises NotFoundError CASE_NOT_FOUND."""
        return await self._read(lambda reader: _case(reader, case_id, self._clock()))

    async def inbox(self, department: str, states: Collection[CaseState], size: int, token: str) -> Inbox:
        """A page of a department's cases, most urgent first: what waits by its next deadline, then what is
        closed, latest first.

        Raises InvalidError PAGE_TOKEN_INVALID, FIELD_INVALID; NotFoundError DEPARTMENT_UNKNOWN.
        """
        if size < 0:
            raise InvalidError.of(Violation("page_size", "at least 0", f"give 1 to {MAX_PAGE}, or 0"))
        wanted = frozenset(states) or frozenset({CaseState.OPEN, CaseState.ACKNOWLEDGED})
        after = _after(token, department)
        limit = min(size or DEFAULT_PAGE, MAX_PAGE)
        return await self._read(lambda reader: self._inbox(reader, department, wanted, limit, after))

    async def routes(self) -> routes_pb2.RouteSet:
        """The routes in force."""
        return await self._read(_routes)

    async def figures(self) -> tuple[list[Figures], int]:
        """What each department has, by name, and the position of the log that this holds for."""
        return await self._read(self._figures)

    def _inbox(self, reader: Reader, department: str, wanted: frozenset[CaseState], limit: int, after: bytes) -> Inbox:
        check_department(reader, department)
        rows: list[tuple[bytes, bytes]] = []
        for key, owner in _inbox_rows(reader, department, wanted, after):
            rows.append((key, owner))
            if len(rows) > limit:
                break
        more = len(rows) > limit
        now = self._clock()
        cases = [_listed(reader, key[-16:].hex(), now) for key, _ in rows[:limit]]
        return Inbox(
            [case for case in cases if case is not None],
            _token(rows[limit - 1][0]) if more else "",
            reader.last_position(),
        )

    def _figures(self, reader: Reader) -> tuple[list[Figures], int]:
        counts = {key.decode(): tables.unpack_counts(row) for key, row in reader.scan(tables.STATS)}
        for each in _routes(reader).departments:
            counts.setdefault(each.department, tables.Counts())
        now = self._clock()
        return [
            Figures(department, each, _overdue(reader, department, now)) for department, each in sorted(counts.items())
        ], reader.last_position()

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
    for key, _ in _inbox_rows(reader, department, wanted, b""):
        found = _listed(reader, key[-16:].hex(), now)
        if found is not None:
            yield found


def listed_cases(reader: Reader, case_ids: Sequence[str], now: int) -> list[FoundCase]:
    """These cases as they stand, without those that are gone for good."""
    return [found for case_id in case_ids if (found := _listed(reader, case_id, now)) is not None]


def _item(reader: Reader, feedback_id: str) -> FoundItem:
    row = reader.get(tables.PLACES, bytes.fromhex(feedback_id))
    if row is None:
        raise NotFoundError(
            "FEEDBACK_NOT_FOUND", f"no item of feedback has the id {feedback_id}", {"feedback_id": feedback_id}
        )
    place = tables.unpack_place(row)
    position = reader.last_position()
    kept = reader.get(tables.STATE, tables.item_key(place.owner, feedback_id))
    if kept is None:
        return FoundItem(feedback_id, "", None, [], None, position)
    record = tables.unpack_item(kept)
    assignments = [
        (department, topic, route, because, case_id)
        for (department, topic, route, because, _), case_id in zip(record.assignments, record.case_ids, strict=True)
    ]
    return FoundItem(feedback_id, record.client_id, record.message(), assignments, None, position)


def _case(reader: Reader, case_id: str, now: int) -> FoundCase:
    found = read_case(reader, case_id)
    if found is None:
        raise case_not_found(case_id)
    _, case = found
    steps: list[FoundStep] = []
    for event in reader.read_stream(tables.stream_of(case.client_id, case.opened_by)):
        step = _step(event, case_id)
        if step is None:
            continue
        if step.type == "CaseOpened":
            # What was told before a case was told again holds no longer.
            steps = []
        steps.append(step)
    return FoundCase(case, _feedback_ids(reader, case_id), case.overdue(now), sorted(steps, key=lambda each: each.at))


def _listed(reader: Reader, case_id: str, now: int) -> FoundCase | None:
    found = read_case(reader, case_id)
    if found is None:
        return None
    return FoundCase(found[1], _feedback_ids(reader, case_id), found[1].overdue(now), [])


def _feedback_ids(reader: Reader, case_id: str) -> list[str]:
    return [key[-16:].hex() for key, _ in reader.scan(tables.CASE_ITEMS, prefix=bytes.fromhex(case_id))]


def _inbox_rows(
    reader: Reader, department: str, wanted: frozenset[CaseState], after: bytes
) -> Iterator[tuple[bytes, bytes]]:
    for group, states in _GROUPS:
        prefix = tables.department_prefix(department, group)
        # A whole group before the place where the last page ended has been told.
        if not states & wanted or (after and prefix < after[: len(prefix)]):
            continue
        start = after if after.startswith(prefix) else b""
        for key, row in reader.scan(tables.INBOX, prefix=prefix, after=start):
            if row[16] in wanted:
                yield key, row[:16]


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


def _token(key: bytes) -> str:
    return base64.urlsafe_b64encode(key).decode().rstrip("=")


def _after(token: str, department: str) -> bytes:
    if not token:
        return b""
    try:
        key = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != _KEY_BYTES or not key.startswith(tables.department_prefix(department, b"")):
        raise InvalidError.of(
            Violation(
                "page_token",
                "a token that a page of this department ended with",
                "give the next_page_token of the page before, or none",
                "PAGE_TOKEN_INVALID",
            )
        )
    return key


_KEY_BYTES: Final = 16 + 1 + 8 + 8 + 16


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
