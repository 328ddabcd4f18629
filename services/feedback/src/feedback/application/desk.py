"""What the writer holds in memory, and what one transaction does to it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Final, NamedTuple

from google.protobuf.message import Message

from feedback.application import codec, tables
from feedback.domain.cases import Act, Case, CaseState, Step, StepKind
from feedback.domain.clients import ClientFeedback
from feedback.domain.items import Item
from feedback.domain.routing import Router, RouteSet
from throughline.feedback.v1 import events_pb2 as events
from throughline_eventlog import NewEvent, Reader, Transaction

DEFAULT_WEIGHT: Final = 200_000
"""Items and acts held in memory at most; about 1 kB each."""


class Cause(NamedTuple):
    """What an event follows from, as its envelope says it."""

    correlation_id: str = ""
    causation_id: str = ""
    traceparent: str = ""


NO_CAUSE: Final = Cause()


@dataclass(slots=True)
class Held:
    """A client in memory: what it is, and what of it is in the tables."""

    owner: bytes
    stream: bytes
    client: ClientFeedback
    filed: dict[str, Case]
    weight: int = 0


class Desk:
    """Clients' feedback in memory, as of the last transaction; used in the writer's thread alone."""

    def __init__(self, *, max_weight: int = DEFAULT_WEIGHT, make_router: Callable[[RouteSet], Router] = Router) -> None:
        self.policies: dict[int, RouteSet] = {}
        self._make_router = make_router
        self._routers: dict[int, Router] = {}
        self._clients: OrderedDict[bytes, Held] = OrderedDict()
        self._weight = 0
        self._max_weight = max_weight

    def open(self, tx: Transaction) -> Changes:
        """Begins to change things in a transaction."""
        if not self.policies:
            self.policies.update(tables.read_routes(tx))
        return Changes(self, tx)

    def rolled_back(self) -> None:
        """Forgets everything: it may not be in the log."""
        self.policies = {}
        self._routers = {}
        self._clients.clear()
        self._weight = 0

    @property
    def version(self) -> int:
        """Version of the routes in force, 0 where none were published."""
        return max(self.policies, default=0)

    @property
    def router(self) -> Router:
        """The routes in force."""
        version = self.version
        found = self._routers.get(version)
        if found is None:
            found = self._routers[version] = self._make_router(self.policies[version])
        return found

    def get(self, owner: bytes) -> Held | None:
        """A client in memory."""
        return self._clients.get(owner)

    def hold(self, held: Held) -> None:
        """Keeps a client in memory until others need the room."""
        self._clients[held.owner] = held

    def settle(self, touched: Iterable[Held]) -> None:
        """Makes room, least recently used first."""
        for held in touched:
            self._weight += held.client.weight - held.weight
            held.weight = held.client.weight
            self._clients[held.owner] = held
            self._clients.move_to_end(held.owner)
        while self._weight > self._max_weight and len(self._clients) > 1:
            _, gone = self._clients.popitem(last=False)
            self._weight -= gone.weight


@dataclass(slots=True)
class _Draft:
    """An item's record with whose row it is."""

    owner: bytes
    record: tables.ItemRecord
    item: Item
    born: int = -1
    """Index of its FeedbackReceived among the events to append; -1 where it is in the log already."""
    content_mac: bytes = b""
    was: tables.Filed | None = None
    """Of an item that is in the log already: as it was."""


@dataclass(slots=True)
class Changes:
    """What one transaction does. `write` puts events and rows into it, all at once."""

    desk: Desk
    tx: Transaction
    _events: list[NewEvent] = field(default_factory=list[NewEvent])
    _puts: dict[str, dict[bytes, bytes]] = field(default_factory=dict[str, dict[bytes, bytes]])
    _gone: dict[str, set[bytes]] = field(default_factory=dict[str, set[bytes]])
    _touched: dict[bytes, Held] = field(default_factory=dict[bytes, Held])
    _causes: dict[bytes, Cause] = field(default_factory=dict[bytes, Cause])
    _drafts: dict[str, _Draft] = field(default_factory=dict[str, _Draft])
    _refile: dict[str, bytes] = field(default_factory=dict[str, bytes])
    _cases: dict[str, tuple[Held, tuple[str, str]]] = field(default_factory=dict[str, tuple[Held, tuple[str, str]]])
    _withdrawn: dict[str, Case] = field(default_factory=dict[str, Case])
    _unclassified: list[tuple[str, Cause]] = field(default_factory=list[tuple[str, Cause]])
    _counts: dict[str, tables.Counts] = field(default_factory=dict[str, tables.Counts])

    def load(self, owners: Mapping[bytes, str]) -> None:
        """Brings clients (client id by owner; empty for an item of nobody's) into memory, in few reads."""
        missing = {
            owner: tables.stream_of(client_id, owner.hex())
            for owner, client_id in owners.items()
            if owner not in self._touched and self.desk.get(owner) is None
        }
        versions = self.tx.last_versions(list(missing.values())) if missing else {}
        for owner, stream in missing.items():
            client_id = owners[owner]
            version = versions.get(stream, 0)
            rows = self.tx.scan(tables.STATE, prefix=owner) if version else ()
            client = tables.read_client(rows, client_id, self.desk.policies, version)
            self.desk.hold(Held(owner, stream, client, {case.case_id: case for case in client.cases()}))

    def held(self, owner: bytes, client_id: str) -> Held:
        """A client to change."""
        found = self._touched.get(owner)
        if found is None:
            found = self.desk.get(owner)
            if found is None:
                self.load({owner: client_id})
                found = self.desk.get(owner)
                assert found is not None  # noqa: S101 # load holds what it reads
            self._touched[owner] = found
        return found

    def append(
        self,
        held: Held,
        message: Message,
        occurred_at: int,
        cause: Cause,
        event_id: bytes | None = None,
    ) -> int:
        """Adds an event to a client's stream; gives its index among those to append."""
        held.client.version += 1
        self._events.append(
            NewEvent(
                stream_id=held.stream,
                version=held.client.version,
                type=message.DESCRIPTOR.full_name,
                payload=message.SerializeToString(deterministic=True),
                occurred_at=occurred_at,
                event_id=event_id,
                correlation_id=cause.correlation_id,
                causation_id=cause.causation_id,
                traceparent=cause.traceparent,
            )
        )
        self._causes[held.owner] = cause
        return len(self._events) - 1

    def append_elsewhere(self, event: NewEvent) -> int:
        """Adds an event to a stream that is no client's."""
        self._events.append(event)
        return len(self._events) - 1

    def put(self, table: str, key: bytes, value: bytes) -> None:
        """Sets a row."""
        self._puts.setdefault(table, {})[key] = value
        self._gone.get(table, set()).discard(key)

    def delete(self, table: str, key: bytes) -> None:
        """Removes a row."""
        self._gone.setdefault(table, set()).add(key)
        self._puts.get(table, {}).pop(key, None)

    def receive(self, received: events.FeedbackReceived, words: str, cause: Cause) -> None:
        """Takes a new item: sorts it, and opens or joins its cases."""
        held = self.held(tables.owner_of(received.client_id, received.feedback_id), received.client_id)
        router = self.desk.router
        attributes = codec.attribute_texts(received.attributes) if router.reads_attributes else {}
        assignments = router.classify(codec.remark_of(received, words, attributes))
        item = codec.item_of(received, assignments, router.routes.version)
        index = self.append(held, received, received.occurred_at, cause, bytes.fromhex(received.feedback_id))
        record = tables.ItemRecord(
            received=self._events[index].payload,
            client_id=received.client_id,
            attribution=received.attribution_position,
            routes_version=item.routes_version,
            assignments=[(a.department, a.topic, a.route, a.because, a.opens) for a in assignments],
            case_ids=[""] * len(assignments),
            origin=held.stream,
            position=0,
        )
        self._drafts[received.feedback_id] = _Draft(held.owner, record, item, index, received.content_mac)
        self._refile[received.feedback_id] = held.owner
        for department in {each.department for each in assignments}:
            self._count(department).items += 1
        steps = held.client.add_item(item)
        if any(each.opens and held.client.matters[each.department, each.topic].changed for each in assignments):
            self._unclassified.append((received.feedback_id, cause))
        else:
            self._classified(received.feedback_id, cause)
        self._tell(held, steps, cause)

    def move(self, feedback_id: str, owner: bytes, client_id: str, position: int, cause: Cause) -> bool:
        """Gives an item to another client (empty: to nobody), with what was done to the case it opened.

        `owner` has it now; `position` is that of the attribution. Answers False where a later one holds already.
        """
        draft = self._drafts.get(feedback_id) or self._draft(owner, feedback_id)
        new_owner = tables.owner_of(client_id, feedback_id)
        if new_owner == draft.owner or position < draft.record.attribution:
            return False
        source = self.held(draft.owner, draft.record.client_id)
        target = self.held(new_owner, client_id)
        message = events.FeedbackReassigned(
            feedback_id=feedback_id,
            client_id=client_id,
            previous_client_id=draft.record.client_id,
            attribution_position=position,
        )
        self.append(source, message, draft.item.at, cause)
        self.append(target, message, draft.item.at, cause)
        item, acts = source.client.remove_item(feedback_id)
        for act in acts:
            self.delete(tables.STATE, tables.act_key(source.owner, act.act_id))
            self.put(tables.STATE, tables.act_key(new_owner, act.act_id), tables.pack(act))
        self.delete(tables.STATE, tables.item_key(source.owner, feedback_id))
        draft.owner = new_owner
        draft.record.client_id = client_id
        draft.record.attribution = position
        self._drafts[feedback_id] = draft
        self._refile[feedback_id] = new_owner
        self._tell(target, target.client.add_item(item, acts), cause)
        return True

    def act(self, held: Held, act: Act, cause: Cause) -> None:
        """Does something to a case."""
        self.put(tables.STATE, tables.act_key(held.owner, act.act_id), tables.pack(act))
        step = held.client.add_act(act)
        self._tell(held, [step] if step else [], cause)

    def owner_of_item(self, feedback_id: str) -> bytes | None:
        """Who has an item that this transaction received or moved."""
        draft = self._drafts.get(feedback_id)
        return draft.owner if draft else None

    def write(self) -> list[int]:
        """Settles what came out of order, then writes events and rows; gives the positions of the events.

        More may be changed afterwards, and written again.
        """
        for held in list(self._touched.values()):
            if held.client.changed:
                self._tell(held, held.client.settle(self.tx.now), self._causes.get(held.owner, NO_CAUSE))
        for feedback_id, cause in self._unclassified:
            self._classified(feedback_id, cause)
        positions = self.tx.append(self._events) if self._events else []
        self._file_items(positions)
        self._file_cases()
        self._file_counts()
        for table, keys in self._gone.items():
            for key in keys:
                self.tx.delete(table, key)
        for table, rows in self._puts.items():
            if rows:
                self.tx.put_many(table, rows)
        self.desk.settle(self._touched.values())
        for buffer in (
            self._events,
            self._puts,
            self._gone,
            self._touched,
            self._causes,
            self._drafts,
            self._refile,
            self._cases,
            self._withdrawn,
            self._unclassified,
            self._counts,
        ):
            buffer.clear()
        return positions

    def drop(self, client_id: str, identity_position: int, cause: Cause) -> list[bytes]:
        """Removes everything of a client; gives the ids of the keys that its words were sealed under.

        What it said stays known by id alone, so that a repeat is still a repeat. To be called with nothing unwritten.
        """
        owner = bytes.fromhex(client_id)
        held = self.held(owner, client_id)
        if held.client.version == 0:
            return []
        keys: list[bytes] = []
        for key, row in list(self.tx.scan(tables.STATE, prefix=owner)):
            kind = key[16:17]
            if kind == tables.ITEM:
                keys.extend(self._drop_item(tables.unpack_item(row)))
            elif kind in {tables.CASE, tables.GONE}:
                self._unfile(tables.unpack_case(row), tables.NOBODY)
            self.delete(tables.STATE, key)
        self._drop_former(client_id, held.stream)
        self.delete(tables.BINDINGS, tables.bind_owner(client_id))
        self.append(
            held,
            events.ClientDropped(client_id=client_id, identity_position=identity_position),
            self.tx.now,
            cause,
        )
        held.client = ClientFeedback(client_id, self.desk.policies, held.client.version)
        held.filed = {}
        return keys

    def draft_record(self, owner: bytes, feedback_id: str) -> tables.ItemRecord:
        """An item's record, as this transaction has it."""
        return (self._drafts.get(feedback_id) or self._draft(owner, feedback_id)).record

    def _draft(self, owner: bytes, feedback_id: str) -> _Draft:
        row = self.tx.get(tables.STATE, tables.item_key(owner, feedback_id))
        if row is None:
            raise LookupError(f"item {feedback_id} is not where its place says")
        record = tables.unpack_item(row)
        message = record.message()
        return _Draft(
            owner,
            record,
            codec.item_of(message, record.assigned(), record.routes_version),
            content_mac=message.content_mac,
            was=tables.Filed(record.client_id, record.case_ids),
        )

    def _classified(self, feedback_id: str, cause: Cause) -> None:
        item = self._drafts[feedback_id].item
        holder = self._touched[self._drafts[feedback_id].owner]
        case_ids = [
            holder.client.case_of(feedback_id, (each.department, each.topic)) if each.opens else ""
            for each in item.assignments
        ]
        # It may have been received for one client and, within one batch, turned out to be another's.
        self.append(
            holder,
            events.FeedbackClassified(
                feedback_id=feedback_id,
                client_id=holder.client.client_id,
                assignments=codec.assignment_messages(item.assignments, case_ids),
                routes_version=item.routes_version,
            ),
            item.at,
            cause,
        )

    def _tell(self, held: Held, steps: Sequence[Step], cause: Cause) -> None:
        for step in steps:
            case = step.case
            self.append(held, codec.step_message(step), step.at, cause)
            self._cases[case.case_id] = (held, case.matter)
            if step.kind is StepKind.WITHDRAWN:
                self._withdrawn[case.case_id] = case
            elif step.feedback_id:
                self._refile[step.feedback_id] = held.owner

    def _file_items(self, positions: Sequence[int]) -> None:
        absent = {
            tables.item_key(owner, feedback_id): feedback_id
            for feedback_id, owner in self._refile.items()
            if feedback_id not in self._drafts
        }
        for key, row in self.tx.get_many(tables.STATE, list(absent)).items():
            record = tables.unpack_item(row)
            message = record.message()
            item = codec.item_of(message, record.assigned(), record.routes_version)
            was = tables.Filed(record.client_id, record.case_ids)
            self._drafts[absent[key]] = _Draft(key[:16], record, item, content_mac=message.content_mac, was=was)
        for feedback_id in self._refile:
            draft = self._drafts.get(feedback_id)
            if draft is None:
                continue
            record, item = draft.record, draft.item
            client = self._touched[draft.owner].client
            case_ids = [
                client.case_of(feedback_id, (each.department, each.topic)) if each.opens else ""
                for each in item.assignments
            ]
            for old, new in zip(record.case_ids, case_ids, strict=True):
                if old and old != new:
                    self.delete(tables.CASE_ITEMS, tables.case_item_key(old, item.at, feedback_id))
            for new in case_ids:
                if new:
                    self.put(tables.CASE_ITEMS, tables.case_item_key(new, item.at, feedback_id), b"")
            record.case_ids = case_ids
            if draft.was is not None and draft.was != tables.Filed(record.client_id, case_ids):
                self._keep(tables.ITEMS_UNTIL, bytes.fromhex(feedback_id), tables.pack(draft.was))
            if draft.born >= 0:
                record.position = positions[draft.born]
            self.put(tables.STATE, tables.item_key(draft.owner, feedback_id), tables.pack(record))
            self.put(
                tables.PLACES,
                bytes.fromhex(feedback_id),
                tables.pack(tables.Place(draft.owner, draft.content_mac, record.position)),
            )

    def _file_cases(self) -> None:
        unknown = [
            tables.gone_key(held.owner, case_id)
            for case_id, (held, _) in self._cases.items()
            if case_id not in held.filed
        ]
        gone = self.tx.get_many(tables.STATE, unknown) if unknown else {}
        for case_id, (held, matter) in self._cases.items():
            before = held.filed.get(case_id)
            if before is None and (row := gone.get(tables.gone_key(held.owner, case_id))):
                before = tables.unpack_case(row)
            after = held.client.case(case_id, matter)
            if after is not None:
                held.filed[case_id] = after
            else:
                held.filed.pop(case_id, None)
                after = self._withdrawn.get(case_id)
            if before is not None and after is not None and _standing(before) == _standing(after):
                # One more item in a case moves nothing.
                self.put(tables.STATE, tables.case_key(held.owner, case_id), tables.pack_case(after))
                continue
            self._keep(tables.CASES_UNTIL, bytes.fromhex(case_id), tables.pack_case(before) if before else b"")
            watched = self._watched(before, after)
            if before is not None:
                self._unfile(before)
            if after is not None:
                self._file(held.owner, after)
                for deadline in watched:
                    self.put(tables.DEADLINES, deadline, held.owner)

    def _watched(self, before: Case | None, after: Case | None) -> list[bytes]:
        """The deadlines of a case that the sweeper is to look at.

        One that was over before anybody here knew of the case can no longer be met: it shows as overdue and escalates
        to nobody, or an import of last year's complaints would escalate them all. One that was watched stays watched.
        """
        keys = [] if after is None else tables.deadline_keys(after)
        known: set[bytes] = set() if before is None else set(tables.deadline_keys(before))
        return [
            key
            for key in keys
            if tables.due_of(key) > self.tx.now or (key in known and self.tx.get(tables.DEADLINES, key) is not None)
        ]

    def _file(self, owner: bytes, case: Case) -> None:
        withdrawn = case.state is CaseState.WITHDRAWN
        key = tables.gone_key if withdrawn else tables.case_key
        self.put(tables.STATE, key(owner, case.case_id), tables.pack_case(case))
        self.put(tables.CASES, bytes.fromhex(case.case_id), owner)
        self.put(tables.INBOX, tables.inbox_key(case), tables.InInbox(owner, case.state, self.tx.now).row())
        if not withdrawn:
            self._count(case.department).add(case)

    def _keep(self, table: str, key: bytes, former: bytes) -> None:
        """Keeps what a row was until this commit; of several changes in it the first knows."""
        key = tables.until_key(key, self.tx.now)
        if key not in self._puts.get(table, ()) and self.tx.get(table, key) is None:
            self.put(table, key, former)

    def _keep_inbox(self, key: bytes, owner: bytes) -> None:
        """Keeps that a case stood in the inbox until this commit, if it did before it."""
        row = self.tx.get(tables.INBOX, key)
        if row is not None and (stood := tables.InInbox.of(row)).since < self.tx.now:
            former = stood._replace(owner=owner)
            self.put(tables.INBOX_UNTIL, tables.inbox_until_key(key, self.tx.now), former.row())

    def _drop_former(self, client_id: str, stream: bytes) -> None:
        """What the cases of a client were, and which items were its, is not to be found any more."""
        opened: set[str] = set()
        parted: set[str] = set()
        for event in self.tx.read_stream(stream):
            if event.type == events.CaseOpened.DESCRIPTOR.full_name:
                opened.add(events.CaseOpened.FromString(event.payload).case_id)
            elif event.type == codec.REASSIGNED:
                parted.add(events.FeedbackReassigned.FromString(event.payload).feedback_id)
        for feedback_id in sorted(parted):
            for key, row in list(self.tx.scan(tables.ITEMS_UNTIL, prefix=bytes.fromhex(feedback_id))):
                filed = tables.unpack_filed(row)
                if filed.client_id == client_id:
                    self.put(tables.ITEMS_UNTIL, key, tables.pack(tables.Filed("", [""] * len(filed.case_ids))))
        for case_id in sorted(opened):
            self._drop_former_case(case_id)

    def _drop_former_case(self, case_id: str) -> None:
        """That it stood in an inbox still counts, as nobody's."""
        for key, row in list(self.tx.scan(tables.CASES_UNTIL, prefix=bytes.fromhex(case_id))):
            if row:
                place = tables.inbox_until_key(tables.inbox_key(tables.unpack_case(row)), tables.due_of(key[16:]))
                if (stood := self.tx.get(tables.INBOX_UNTIL, place)) is not None:
                    nobodys = tables.InInbox.of(stood)._replace(owner=tables.NOBODY)
                    self.put(tables.INBOX_UNTIL, place, nobodys.row())
            self.delete(tables.CASES_UNTIL, key)

    def _unfile(self, case: Case, kept_for: bytes | None = None) -> None:
        """Takes a case out; `kept_for` says under whose name it is known that it stood in the inbox."""
        owner = tables.owner_of(case.client_id, case.opened_by)
        withdrawn = case.state is CaseState.WITHDRAWN
        key = tables.gone_key if withdrawn else tables.case_key
        self.delete(tables.STATE, key(owner, case.case_id))
        self.delete(tables.CASES, bytes.fromhex(case.case_id))
        self._keep_inbox(tables.inbox_key(case), owner if kept_for is None else kept_for)
        self.delete(tables.INBOX, tables.inbox_key(case))
        for deadline in tables.deadline_keys(case):
            self.delete(tables.DEADLINES, deadline)
        if not withdrawn:
            self._count(case.department).add(case, -1)

    def _drop_item(self, record: tables.ItemRecord) -> list[bytes]:
        message = record.message()
        feedback_id = message.feedback_id
        place = tables.Place(tables.NOBODY, message.content_mac, record.position)
        self.put(tables.PLACES, bytes.fromhex(feedback_id), tables.pack(place))
        for case_id in filter(None, record.case_ids):
            self.delete(tables.CASE_ITEMS, tables.case_item_key(case_id, message.occurred_at, feedback_id))
        for department in {each[0] for each in record.assignments}:
            self._count(department).items -= 1
        for key, _ in list(self.tx.scan(tables.ITEMS_UNTIL, prefix=bytes.fromhex(feedback_id))):
            self.delete(tables.ITEMS_UNTIL, key)
        for binding in item_bindings(message):
            unbind(self, binding, feedback_id)
        return [message.verbatim.key_id] if message.verbatim.key_id else []

    def _count(self, department: str) -> tables.Counts:
        return self._counts.setdefault(department, tables.Counts())

    def _file_counts(self) -> None:
        keys = {department.encode(): delta for department, delta in self._counts.items()}
        rows = self.tx.get_many(tables.STATS, list(keys)) if keys else {}
        for key, delta in keys.items():
            counts = tables.unpack_counts(rows.get(key))
            summed = tables.Counts(
                counts.items + delta.items,
                counts.cases + delta.cases,
                counts.open + delta.open,
                counts.resolved + delta.resolved,
                counts.reopened + delta.reopened,
                counts.escalated + delta.escalated,
            )
            if summed != counts:
                self._keep(tables.STATS_UNTIL, tables.stats_key(key.decode()), rows.get(key, b""))
            self.put(tables.STATS, key, tables.pack(summed))


_standing = attrgetter(
    "state",
    "department",
    "acknowledge_by",
    "resolve_by",
    "resolved_at",
    "reopened",
    "missed_acknowledge",
    "missed_resolve",
)
"""Everything of a case that inbox, deadlines and figures hang on."""


def item_bindings(received: events.FeedbackReceived) -> list[bytes]:
    """What a direct submission's client hangs on, besides the client that it has now."""
    if received.attribution_position:
        return []
    bindings = [tables.bind_identifier(each.type, each.hash) for each in received.identifiers]
    if received.stated_client_id:
        bindings.append(tables.bind_client(received.stated_client_id))
    if received.interaction_id:
        bindings.append(tables.bind_interaction(received.interaction_id))
    return bindings


def bind(changes: Changes, binding: bytes, feedback_id: str) -> None:
    """Hangs a direct submission on something, effective at once."""
    row = changes.tx.get(tables.BINDINGS, binding) or b""
    if feedback_id not in tables.feedback_ids(row):
        changes.tx.put(tables.BINDINGS, binding, row + bytes.fromhex(feedback_id))


def unbind(changes: Changes, binding: bytes, feedback_id: str) -> None:
    """Takes a direct submission off what it hung on, effective at once."""
    left = [each for each in tables.feedback_ids(changes.tx.get(tables.BINDINGS, binding)) if each != feedback_id]
    if left:
        changes.tx.put(tables.BINDINGS, binding, b"".join(map(bytes.fromhex, left)))
    else:
        changes.tx.delete(tables.BINDINGS, binding)


def read_case(reader: Reader, case_id: str) -> tuple[bytes, Case] | None:
    """A case and its owner as the tables have them, withdrawn ones too."""
    owner = reader.get(tables.CASES, bytes.fromhex(case_id))
    if owner is None:
        return None
    row = reader.get(tables.STATE, tables.case_key(owner, case_id))
    row = row or reader.get(tables.STATE, tables.gone_key(owner, case_id))
    return None if row is None else (owner, tables.unpack_case(row))
