"""Items, cases and inboxes as the commit of an earlier instant left them, without whom was forgotten since."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Final, NamedTuple

from feedback.application import tables
from feedback.application.desk import read_case
from feedback.domain.cases import Case
from throughline.feedback.v1 import events_pb2 as events
from throughline.feedback.v1 import routes_pb2
from throughline_eventlog import Commit, Reader
from throughline_kernel import Interval, Recorded

_OPENED: Final = events.CaseOpened.DESCRIPTOR.full_name
_JOINED: Final = events.CaseJoined.DESCRIPTOR.full_name
_REOPENED: Final = events.CaseReopened.DESCRIPTOR.full_name
_WITHDRAWN: Final = events.CaseWithdrawn.DESCRIPTOR.full_name
_PLACING: Final = {
    _OPENED: events.CaseOpened,
    _JOINED: events.CaseJoined,
    _REOPENED: events.CaseReopened,
    _WITHDRAWN: events.CaseWithdrawn,
}


class Stood(NamedTuple):
    """A case in an inbox: the key by which it is sorted, and what the inbox said of it."""

    key: bytes
    said: tables.InInbox

    @property
    def case_id(self) -> str:
        """The case."""
        return self.key[-16:].hex()

    @property
    def opened_at(self) -> int:
        """When it was opened, microseconds."""
        return tables.due_of(self.key[-24:-16])

    @property
    def due_at(self) -> int:
        """Of a case that waited: what was due next, microseconds."""
        return tables.due_of(self.key[tables.GROUP_END : tables.GROUP_END + 8])


class Earlier:
    """One view of the tables as a commit left them.

    An item or a case costs what reading its client's events costs; an inbox, what stands in it and what left it since.
    """

    def __init__(self, reader: Reader, commit: Commit) -> None:
        self._reader = reader
        self.commit = commit

    def case(self, case_id: str) -> Case | None:
        """A case, withdrawn ones too; None where there was none, or it was opened by what is forgotten.

        Its `items` are not those of then: one more item moves nothing, and is not kept. See `items_of`.
        """
        key = bytes.fromhex(case_id)
        case = None
        for _, row in self._reader.scan(tables.CASES_UNTIL, prefix=key, after=self._after(key), limit=1):
            case = tables.unpack_case(row) if row else None
            break
        else:
            found = read_case(self._reader, case_id)
            case = found[1] if found else None
        return None if case is None or case.opened_by in self.forgotten([case.opened_by]) else case

    def events(self, case: Case) -> list[Recorded]:
        """What had happened to the case's client by then, without what is about items that are forgotten."""
        position = self.commit.position
        stream = self._reader.read_stream(tables.stream_of(case.client_id, case.opened_by))
        told = [event for event in stream if event.position <= position]
        placed = {event.event_id: _placed(event).feedback_id for event in told if event.type in _PLACING}
        gone = self.forgotten(set(placed.values()) - {""})
        return [event for event in told if placed.get(event.event_id, "") not in gone]

    def item(self, feedback_id: str, record: tables.ItemRecord) -> tables.Filed | None:
        """Whose an item was (nobody's, where they are forgotten), and its cases; None where it was not received yet."""
        if record.position > self.commit.position:
            return None
        key = bytes.fromhex(feedback_id)
        filed = tables.Filed(record.client_id, record.case_ids)
        for _, row in self._reader.scan(tables.ITEMS_UNTIL, prefix=key, after=self._after(key), limit=1):
            filed = tables.unpack_filed(row)
        return filed

    def inbox(self, department: str, groups: Iterable[bytes]) -> Iterator[Stood]:
        """What stood in the inbox, most urgent first; whose client is forgotten stands there as nobody's."""
        instant = self.commit.recorded_at
        for group in groups:
            prefix = tables.department_prefix(department, group)
            standing = self._reader.scan(tables.INBOX, prefix=prefix)
            stood = [Stood(key, tables.InInbox.of(row)) for key, row in standing]
            left = self._reader.scan(tables.INBOX_UNTIL, prefix=prefix, after=self._after(prefix) + b"\xff" * 32)
            stood += [Stood(tables.inbox_until_of(key), tables.InInbox.of(row)) for key, row in left]
            yield from sorted(each for each in stood if each.said.since <= instant)

    def counts(self) -> dict[str, tables.Counts]:
        """What each department had of all time. Sums stay what they were, whoever is forgotten."""
        found: dict[str, tables.Counts] = {}
        for key, now in self._reader.scan(tables.STATS):
            department = key.decode()
            prefix, row = tables.stats_key(department), now
            for _, former in self._reader.scan(tables.STATS_UNTIL, prefix=prefix, after=self._after(prefix), limit=1):
                row = former
            if row:
                found[department] = tables.unpack_counts(row)
        return found

    def counts_between(self, between: Interval) -> dict[str, tables.Counts]:
        """What each department had of what began in the interval: items that were received, cases that were opened.
        Without what is forgotten. Reads all items.
        """
        found: dict[str, tables.Counts] = {}
        for key, row in self._reader.scan(tables.STATE):
            if key[16:17] == tables.ITEM:
                record = tables.unpack_item(row)
                if record.position <= self.commit.position and between.holds(record.message().occurred_at):
                    for department in {each[0] for each in record.assignments}:
                        found.setdefault(department, tables.Counts()).items += 1
        for key, _ in self._reader.scan(tables.STATS):
            counts = found.setdefault(key.decode(), tables.Counts())
            for stood in self.inbox(key.decode(), (tables.PENDING, tables.RESOLVED)):
                if between.holds(stood.opened_at) and (case := self.case(stood.case_id)) is not None:
                    counts.add(case)
        return found

    def routes(self) -> routes_pb2.RouteSet:
        """The routes that were in force; none before the first were published."""
        position = self.commit.position
        published = [each for each in self._reader.read_stream(tables.ROUTES_STREAM) if each.position <= position]
        return events.RoutesPublished.FromString(published[-1].payload).routes if published else routes_pb2.RouteSet()

    def forgotten(self, feedback_ids: Collection[str]) -> frozenset[str]:
        """Those of the items that a client said who is forgotten."""
        places = self._reader.get_many(tables.PLACES, [bytes.fromhex(each) for each in feedback_ids])
        return frozenset(key.hex() for key, row in places.items() if tables.unpack_place(row).owner == tables.NOBODY)

    def _after(self, key: bytes) -> bytes:
        return tables.until_key(key, self.commit.recorded_at)


def items_of(case_id: str, told: Iterable[Recorded]) -> list[str]:
    """The items of a case in order of time, by what was told of its client."""
    placed: dict[str, int] = {}
    for event in told:
        if event.type in _PLACING and (message := _placed(event)).case_id == case_id:
            if event.type in {_OPENED, _WITHDRAWN}:
                # What was told before a case was told again, or withdrawn, holds no longer.
                placed = {}
            if message.feedback_id:
                placed[message.feedback_id] = event.occurred_at
    return [feedback_id for _, feedback_id in sorted((at, feedback_id) for feedback_id, at in placed.items())]


class _Placed(NamedTuple):
    case_id: str
    feedback_id: str


def _placed(event: Recorded) -> _Placed:
    message = _PLACING[event.type].FromString(event.payload)
    return _Placed(message.case_id, "" if isinstance(message, events.CaseWithdrawn) else message.feedback_id)
