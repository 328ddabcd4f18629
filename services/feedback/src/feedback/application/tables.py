"""The tables beside the log: what each row's key and value are. They commit with the events that they follow from.

Numbers in keys are eight bytes, ordered as the numbers are. An owner is a client, or an item that nobody is known to
have given: 16 bytes either way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields
from functools import lru_cache
from operator import attrgetter
from typing import Any, Final, NamedTuple

import msgspec

from feedback.application import codec
from feedback.domain.cases import Act, Case, CaseState, Missed, Policies
from feedback.domain.clients import ClientFeedback
from feedback.domain.items import Assignment, Item
from feedback.domain.routing import RouteSet
from throughline.feedback.v1 import events_pb2 as events
from throughline.feedback.v1 import routes_pb2
from throughline_eventlog import Reader
from throughline_kernel import hex_id

STATE: Final = "state"
"""owner, then `i` item | `a` act | `c` case | `w` withdrawn case, then its id -> the record."""
PLACES: Final = "places"
"""Feedback id -> who owns it now, and what tells a duplicate from a conflict. Kept for ever."""
CASES: Final = "cases"
"""Case id -> who owns it, withdrawn or not."""
CASE_ITEMS: Final = "case_items"
"""Case id, occurred_at, feedback id -> nothing."""
INBOX: Final = "inbox"
"""Department, group, due, opened_at, case id -> owner, state, and the instant since which it stands there. Most urgent
first."""
DEADLINES: Final = "deadlines"
"""Due, case id, which -> owner: what the sweeper looks at."""
STATS: Final = "stats"
"""Department -> counts."""
INTERACTIONS: Final = "interactions"
"""Interaction id -> client id and the position of its attribution."""
BINDINGS: Final = "bindings"
"""What a direct submission hangs on -> feedback ids, 16 bytes each."""
CONFLICTS: Final = "conflicts"
"""Feedback id and content -> nothing: a conflict is kept once."""
ROUTES: Final = "routes"
"""Version -> the published route set."""
ITEMS_UNTIL: Final = "items_until"
"""Feedback id and the instant of the commit that changed it -> whose it was until then, and its cases."""
CASES_UNTIL: Final = "cases_until"
"""Case id and the instant of the commit that changed it -> the case until then; empty where it was not there."""
INBOX_UNTIL: Final = "inbox_until"
"""Department, group, the instant of the commit that took it out, the rest of its key -> what stood in the inbox."""
STATS_UNTIL: Final = "stats_until"
"""Department, NUL, the instant of the commit that changed them -> its counts until then; empty where it had none."""

TABLES: Final = (
    STATE,
    PLACES,
    CASES,
    CASE_ITEMS,
    INBOX,
    DEADLINES,
    STATS,
    INTERACTIONS,
    BINDINGS,
    CONFLICTS,
    ROUTES,
    ITEMS_UNTIL,
    CASES_UNTIL,
    INBOX_UNTIL,
    STATS_UNTIL,
)

ITEM: Final = b"i"
ACT: Final = b"a"
CASE: Final = b"c"
GONE: Final = b"w"
PENDING: Final = b"\x00"
RESOLVED: Final = b"\x01"
WITHDRAWN: Final = b"\x02"
NOBODY: Final = bytes(16)
"""Owner of what a forgotten client said."""

GROUP_END: Final = 17
"""Bytes of department and group in a key of the inbox."""
_STATE_END: Final = 17

_SHIFT: Final = 1 << 63
_WHICH: Final = {Missed.ACKNOWLEDGE: b"a", Missed.RESOLVE: b"r"}


def number(value: int) -> bytes:
    """Eight bytes that sort as the numbers do, negative ones too."""
    return (value + _SHIFT).to_bytes(8, "big")


def owner_of(client_id: str, feedback_id: str) -> bytes:
    """Who a row belongs to: the client, or the item itself where nobody is known."""
    return bytes.fromhex(client_id or feedback_id)


def stream_of(client_id: str, feedback_id: str) -> bytes:
    """The stream of a client, or of an item that nobody is known to have given."""
    if client_id:
        return bytes.fromhex(hex_id("feedback.client", client_id))
    return bytes.fromhex(hex_id("feedback.item", feedback_id))


ROUTES_STREAM: Final = bytes.fromhex(hex_id("feedback.routes"))


class ItemRecord(msgspec.Struct, array_like=True, gc=False):
    """An item as it is kept: as it was received, and whose it is now."""

    received: bytes
    client_id: str
    attribution: int
    """Position in identity's log that says whose it is; 0 where its submitter did."""
    routes_version: int
    assignments: list[tuple[str, str, str, str, bool]]
    case_ids: list[str]
    origin: bytes
    """Stream that holds FeedbackReceived."""
    position: int
    """Position of FeedbackReceived."""

    def message(self) -> events.FeedbackReceived:
        """The item as it was received."""
        return events.FeedbackReceived.FromString(self.received)

    def assigned(self) -> tuple[Assignment, ...]:
        """Whom it was assigned to."""
        return tuple(Assignment(*each) for each in self.assignments)

    def item(self) -> Item:
        """The item at its place in its client's history."""
        return codec.item_of(self.message(), self.assigned(), self.routes_version)


class Place(msgspec.Struct, array_like=True, gc=False):
    """Where an item is."""

    owner: bytes
    content_mac: bytes
    position: int


class Filed(msgspec.Struct, array_like=True, gc=False):
    """What of an item may change: whose it is, and its cases."""

    client_id: str
    case_ids: list[str]


class Counts(msgspec.Struct, array_like=True, gc=False):
    """What a department has."""

    items: int = 0
    cases: int = 0
    open: int = 0
    resolved: int = 0
    reopened: int = 0
    escalated: int = 0

    def add(self, case: Case, sign: int = 1) -> None:
        """Counts a case in, or with -1 out."""
        self.cases += sign
        self.open += sign * (case.state in {CaseState.OPEN, CaseState.ACKNOWLEDGED})
        self.resolved += sign * (case.state is CaseState.RESOLVED)
        self.reopened += sign * case.reopened
        self.escalated += sign * case.escalated


_CASE_FIELDS: Final = tuple(each.name for each in fields(Case))
_case_values: Final = attrgetter(*_CASE_FIELDS)
_pack: Final = msgspec.msgpack.Encoder()
_items: Final = msgspec.msgpack.Decoder(ItemRecord)
_acts: Final = msgspec.msgpack.Decoder(Act)
_places: Final = msgspec.msgpack.Decoder(Place)
_counts: Final = msgspec.msgpack.Decoder(Counts)
_filed: Final = msgspec.msgpack.Decoder(Filed)
_values: Final = msgspec.msgpack.Decoder(list[Any])


def pack(record: ItemRecord | Act | Place | Counts | Filed) -> bytes:
    """A record as a row's value."""
    return _pack.encode(record)


def pack_case(case: Case) -> bytes:
    """A case as a row's value."""
    return _pack.encode(_case_values(case))


def unpack_item(row: bytes) -> ItemRecord:
    """An item from its row."""
    return _items.decode(row)


def unpack_act(row: bytes) -> Act:
    """An act from its row."""
    return _acts.decode(row)


def unpack_place(row: bytes) -> Place:
    """An item's place from its row."""
    return _places.decode(row)


def unpack_counts(row: bytes | None) -> Counts:
    """A department's counts from its row; zeros where there is none."""
    return Counts() if row is None else _counts.decode(row)


def unpack_filed(row: bytes) -> Filed:
    """What of an item changed, from its row."""
    return _filed.decode(row)


def unpack_case(row: bytes) -> Case:
    """A case from its row."""
    values: dict[str, Any] = dict(zip(_CASE_FIELDS, _values.decode(row), strict=True))
    values["matter"] = tuple(values["matter"])
    values["state"] = CaseState(values["state"])
    return Case(**values)


def item_key(owner: bytes, feedback_id: str) -> bytes:
    """Key of an item's row."""
    return owner + ITEM + bytes.fromhex(feedback_id)


def act_key(owner: bytes, act_id: str) -> bytes:
    """Key of an act's row."""
    return owner + ACT + bytes.fromhex(act_id)


def case_key(owner: bytes, case_id: str) -> bytes:
    """Key of a case's row."""
    return owner + CASE + bytes.fromhex(case_id)


def gone_key(owner: bytes, case_id: str) -> bytes:
    """Key of a withdrawn case's row."""
    return owner + GONE + bytes.fromhex(case_id)


def case_item_key(case_id: str, at: int, feedback_id: str) -> bytes:
    """Key of an item among those of a case, in order of time."""
    return bytes.fromhex(case_id) + number(at) + bytes.fromhex(feedback_id)


@lru_cache(maxsize=4_096)
def department_prefix(department: str, group: bytes) -> bytes:
    """What the keys of one group of a department's cases begin with."""
    return bytes.fromhex(hex_id("department", department)) + group


def inbox_key(case: Case) -> bytes:
    """Key of a case in its department's inbox. Waiting ones by what is due next; closed ones with the latest first."""
    if case.state is CaseState.WITHDRAWN:
        group, urgency = WITHDRAWN, -case.resolved_at
    elif case.state is CaseState.RESOLVED:
        group, urgency = RESOLVED, -case.resolved_at
    else:
        group, urgency = PENDING, case.due_at
    return (
        department_prefix(case.department, group)
        + number(urgency)
        + number(case.opened_at)
        + bytes.fromhex(case.case_id)
    )


class InInbox(NamedTuple):
    """What the inbox says of a case: whose it is, its state, and since which instant it stands there."""

    owner: bytes
    state: CaseState
    since: int

    def row(self) -> bytes:
        """The row's value."""
        return self.owner + bytes([self.state]) + number(self.since)

    @classmethod
    def of(cls, row: bytes) -> InInbox:
        """Reads a row; one that was written before instants were kept stood at every instant."""
        return cls(row[:16], CaseState(row[16]), due_of(row[17:]) if len(row) > _STATE_END else 0)


def until_key(key: bytes, instant: int) -> bytes:
    """Where it is kept what a row was until the commit of an instant."""
    return key + number(instant)


def inbox_until_key(key: bytes, instant: int) -> bytes:
    """Where it is kept what stood at a key of the inbox until the commit of an instant."""
    return until_key(key[:GROUP_END], instant) + key[GROUP_END:]


def inbox_until_of(key: bytes) -> bytes:
    """The key of the inbox at which it stood."""
    return key[:GROUP_END] + key[GROUP_END + 8 :]


def stats_key(department: str) -> bytes:
    """What the keys of a department's former counts begin with."""
    return department.encode() + b"\0"


def deadline_keys(case: Case) -> list[bytes]:
    """Keys of the deadlines that would escalate the case."""
    return [number(due) + bytes.fromhex(case.case_id) + _WHICH[missed] for due, missed in case.deadlines()]


def due_of(key: bytes) -> int:
    """When a deadline is: microseconds since epoch."""
    return int.from_bytes(key[:8], "big") - _SHIFT


def deadline_of(key: bytes) -> tuple[str, Missed]:
    """Which deadline of which case a key is of."""
    return key[8:24].hex(), Missed.ACKNOWLEDGE if key[24:] == _WHICH[Missed.ACKNOWLEDGE] else Missed.RESOLVE


def read_client(
    rows: Iterable[tuple[bytes, bytes]], client_id: str, policies: Policies, version: int
) -> ClientFeedback:
    """A client's state from the rows under its owner key."""
    items: list[Item] = []
    acts: list[Act] = []
    for key, row in rows:
        kind = key[16:17]
        if kind == ITEM:
            items.append(unpack_item(row).item())
        elif kind == ACT:
            acts.append(unpack_act(row))
    return ClientFeedback.restored(client_id, policies, version, items, acts)


def read_routes(reader: Reader) -> dict[int, RouteSet]:
    """Every published route set, by version."""
    return {
        int.from_bytes(key, "big"): codec.routes_of(routes_pb2.RouteSet.FromString(row))
        for key, row in reader.scan(ROUTES)
    }


def routes_key(version: int) -> bytes:
    """Key of a route set."""
    return version.to_bytes(4, "big")


def feedback_ids(row: bytes | None) -> Iterator[str]:
    """The ids that hang on a binding."""
    for start in range(0, len(row or b""), 16):
        yield (row or b"")[start : start + 16].hex()


def bind_identifier(type_: str, hash_: bytes) -> bytes:
    """Binding to an identifier."""
    return b"h" + type_.encode() + b"\x00" + hash_


def bind_client(client_id: str) -> bytes:
    """Binding to the client id that the submitter named."""
    return b"c" + bytes.fromhex(client_id)


def bind_interaction(interaction_id: str) -> bytes:
    """Binding to an interaction."""
    return b"i" + bytes.fromhex(interaction_id)


def bind_owner(client_id: str) -> bytes:
    """Binding to the client that a direct submission belongs to now: a merge or its undoing may move it."""
    return b"o" + bytes.fromhex(client_id)
