"""Clients' records: rebuilt from their streams, kept while there is room, written with what was decided."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from journey.application import codec, rows
from journey.domain.definitions import Definitions, JourneyDefinition
from journey.domain.facts import Fact
from journey.domain.record import Changes, Record
from throughline.journey.v1 import definitions_pb2, events_pb2
from throughline_eventlog import NewEvent, Reader, Transaction
from throughline_kernel import Recorded

DEFAULT_CACHE: Final = 100_000


@dataclass(frozen=True, slots=True)
class Cause:
    """What an event follows from, as it is noted beside it."""

    correlation_id: str = ""
    causation_id: str = ""
    traceparent: str = ""


def replay(record: Record, events: Iterable[Recorded], *, told: bool = True) -> dict[bytes, Recorded]:
    """Takes a client's events into the record, and gives the transitions announced and not retracted, by event id.

    Only facts change the record: what is announced follows from them. With `told=False` the facts of a fresh record are
    put in order but not told: `retell` does that.
    """
    net = _Net()
    announced: dict[bytes, Recorded] = {}
    for event in events:
        record.version = event.version
        if event.type in codec.TRANSITIONS:
            announced[event.event_id] = event
        elif event.type == codec.TRANSITION_RETRACTED:
            message = events_pb2.TransitionRetracted.FromString(event.payload)
            announced.pop(bytes.fromhex(message.event_id), None)
        elif event.type == codec.CLIENT_DROPPED:
            net = _Net()
            announced.clear()
            record.drop()
        elif not net.take(event):
            take_aside(record, event)
    if not told:
        record.facts = sorted(net.noted.values())
    elif net.noted or net.withdrawn:
        record.change(list(net.noted.values()), net.withdrawn)
    return announced


@dataclass(slots=True)
class _Net:
    """What a run of events changes in the set of facts, all in all."""

    noted: dict[bytes, Fact] = field(default_factory=dict[bytes, Fact])
    withdrawn: set[bytes] = field(default_factory=set[bytes])

    def take(self, event: Recorded) -> bool:
        """Takes the event where it notes or withdraws an interaction, and tells whether it does."""
        if event.type == codec.INTERACTION_NOTED:
            fact = codec.fact_from(events_pb2.InteractionNoted.FromString(event.payload).interaction)
            if fact.interaction_id in self.withdrawn:
                self.withdrawn.discard(fact.interaction_id)
            else:
                self.noted[fact.interaction_id] = fact
        elif event.type == codec.INTERACTION_WITHDRAWN:
            message = events_pb2.InteractionWithdrawn.FromString(event.payload)
            interaction = bytes.fromhex(message.interaction_id)
            if self.noted.pop(interaction, None) is None:
                self.withdrawn.add(interaction)
        else:
            return False
        return True


def take_aside(record: Record, event: Recorded) -> None:
    """Takes what stands beside the interactions: feedback, cases, hand-offs, consents."""
    match event.type:
        case codec.FEEDBACK_NOTED:
            record.note_feedback(codec.item_of(event.payload, event.occurred_at))
        case codec.FEEDBACK_WITHDRAWN:
            record.withdraw_feedback(events_pb2.FeedbackWithdrawn.FromString(event.payload).feedback_id)
        case codec.CASE_NOTED:
            record.note_case(codec.case_of(event.payload, event.occurred_at, event.causation_id))
        case codec.HANDOFF_OFFERED:
            record.offer(codec.handoff_from(event))
        case codec.HANDOFF_ACCEPTED:
            message = events_pb2.HandoffAccepted.FromString(event.payload)
            record.accept(message.handoff_id, message.channel, message.accepted_by, event.occurred_at)
        case codec.CONSENT_NOTED:
            record.consents = codec.consents_of(event.payload)
        case _:
            pass


def read_definitions(reader: Reader) -> Definitions:
    """The definitions that hold."""
    return Definitions(
        codec.definition_from(definitions_pb2.JourneyDefinition.FromString(value))
        for _, value in reader.scan(rows.DEFINITIONS)
    )


class Cache:
    """Records that were used last, up to a weight."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._weights: dict[str, int] = {}
        self._records: OrderedDict[str, Record] = OrderedDict()
        self.weight = 0

    def __len__(self) -> int:
        return len(self._records)

    def get(self, client_id: str) -> Record | None:
        """The record, which counts as used now."""
        record = self._records.get(client_id)
        if record is not None:
            self._records.move_to_end(client_id)
        return record

    def peek(self) -> Iterable[Record]:
        """Every record, without using it."""
        return self._records.values()

    def keep(self, record: Record) -> None:
        """Remembers the record, and forgets those that were used longest ago where there is no room."""
        client_id = record.client_id
        weight = record.weight
        self.weight += weight - self._weights.get(client_id, 0)
        self._weights[client_id] = weight
        self._records[client_id] = record
        self._records.move_to_end(client_id)
        while self.weight > self._limit and len(self._records) > 1:
            gone, _ = self._records.popitem(last=False)
            self.weight -= self._weights.pop(gone)

    def clear(self) -> None:
        """Forgets all."""
        self._records.clear()
        self._weights.clear()
        self.weight = 0


@dataclass(slots=True)
class Batch:
    """What one piece of work appends, in order, and which rows it writes at its end."""

    tx: Transaction
    events: list[NewEvent] = field(default_factory=list[NewEvent])
    records: dict[str, Record] = field(default_factory=dict[str, Record])

    def append(
        self,
        record: Record,
        type_: str,
        payload: bytes,
        *,
        at: int,
        cause: Cause,
        event_id: bytes | None = None,
    ) -> None:
        """Adds an event to the client's stream."""
        record.version += 1
        self.events.append(
            NewEvent(
                codec.stream_of(record.client_id),
                record.version,
                type_,
                payload,
                at,
                event_id,
                cause.correlation_id,
                cause.causation_id,
                cause.traceparent,
            )
        )

    def announce(self, record: Record, changes: Changes, at: int, cause: Cause) -> None:
        """Adds what follows from changed facts: retractions, dated `at`, then transitions."""
        for said in changes.retracted:
            message = events_pb2.TransitionRetracted(
                client_id=record.client_id, event_id=said.event_id.hex(), event_type=said.type
            )
            self.append(record, codec.TRANSITION_RETRACTED, message.SerializeToString(), at=at, cause=cause)
        for event_id, transition in changes.added:
            type_, payload = codec.transition_payload(record.client_id, transition)
            self.append(record, type_, payload, at=transition.at, cause=cause, event_id=event_id)


class Records:
    """The records that the writer decides on. Only ever used in the writer's thread."""

    def __init__(self, cache: int = DEFAULT_CACHE, touched: Callable[[Collection[str]], None] | None = None) -> None:
        self.cache = Cache(cache)
        self._definitions: Definitions | None = None
        self._watermark: int | None = None
        self._touched = touched

    def rolled_back(self) -> None:
        """Forgets all: the log may say otherwise."""
        self.cache.clear()
        self._definitions = None
        self._watermark = None

    def definitions(self, reader: Reader) -> Definitions:
        """The definitions that hold."""
        if self._definitions is None:
            self._definitions = read_definitions(reader)
        return self._definitions

    def redefine(self, tx: Transaction, definition: JourneyDefinition) -> None:
        """Makes a definition hold from here on."""
        payload = codec.definition_message(definition).SerializeToString(deterministic=True)
        tx.put(rows.DEFINITIONS, definition.journey.encode(), payload)
        tx.put(rows.META, rows.GENERATION, rows.number_bytes(rows.number(tx.get(rows.META, rows.GENERATION)) + 1))
        self._definitions = self.definitions(tx).with_(definition)
        self.cache.clear()

    def watermark(self, reader: Reader) -> int:
        """The latest occurred_at of any interaction that was ever heard of, microseconds."""
        if self._watermark is None:
            self._watermark = rows.number(reader.get(rows.META, rows.WATERMARK))
        return self._watermark

    def advance_watermark(self, tx: Transaction, seen: int) -> None:
        """Moves the watermark forward, never back."""
        if seen > self.watermark(tx):
            tx.put(rows.META, rows.WATERMARK, rows.number_bytes(seen))
            self._watermark = seen

    def load(self, batch: Batch, clients: Collection[str]) -> Mapping[str, Record]:
        """The records of these clients. One whose history is announced under other definitions is told again first."""
        found: dict[str, Record] = {}
        missing: list[str] = []
        for client_id in clients:
            record = batch.records.get(client_id) or self.cache.get(client_id)
            if record is None:
                missing.append(client_id)
            else:
                found[client_id] = batch.records[client_id] = record
        for record in self.read(batch.tx, missing, batch):
            found[record.client_id] = batch.records[record.client_id] = record
        return found

    def read(
        self, reader: Reader, clients: Sequence[str], batch: Batch | None = None, *, rewrite: bool = False
    ) -> Iterable[Record]:
        """The records of these clients as their streams say.

        With a batch, what was announced is put right where it is not what follows now; with `rewrite`, rows too.
        """
        if not clients:
            return
        definitions = self.definitions(reader)
        streams = reader.read_streams([codec.stream_of(client_id) for client_id in clients])
        for client_id in clients:
            record = Record(client_id, definitions, announcing=batch is not None)
            events = streams.get(codec.stream_of(client_id), ())
            announced = replay(record, events, told=batch is None)
            if batch is not None:
                self._settle(record, announced, batch, rewrite=rewrite)
            yield record

    def save(self, batch: Batch) -> list[int]:
        """Appends the batch's events, writes the rows of its records, and gives the positions."""
        positions = batch.tx.append(batch.events)
        puts: dict[str, dict[bytes, bytes]] = {rows.CLIENTS: {}, rows.JOURNEYS: {}, rows.DEADLINES: {}}
        for record in batch.records.values():
            key = bytes.fromhex(record.client_id)
            if not record.empty:
                puts[rows.CLIENTS][key] = rows.client_bytes(record.telling)
            else:
                batch.tx.delete(rows.CLIENTS, key)
            drained = record.drain()
            for journey_id, name in drained.vanished.items():
                batch.tx.delete(rows.JOURNEYS, rows.journey_key(name, key, journey_id))
            for journey in drained.changed:
                where = rows.journey_key(journey.definition.journey, key, journey.journey_id)
                puts[rows.JOURNEYS][where] = rows.journey_bytes(journey)
            for journey in drained.watched:
                puts[rows.DEADLINES][rows.deadline_key(journey.deadline, key, journey.journey_id)] = b""
            self.cache.keep(record)
        for table, values in puts.items():
            batch.tx.put_many(table, values)
        if self._touched is not None:
            self._touched(list(batch.records))
        return positions

    def _settle(self, record: Record, announced: Mapping[bytes, Recorded], batch: Batch, *, rewrite: bool) -> None:
        changes = record.retell(
            record.definitions, {event_id: event.type.rpartition(".")[2] for event_id, event in announced.items()}
        )
        if not changes:
            if not rewrite:
                record.drain()
            return
        # Announced under other definitions than those that hold: put right, rows and all.
        for said in changes.retracted:
            if said.type == "JourneyStarted":
                started = events_pb2.JourneyStarted.FromString(announced[said.event_id].payload)
                record.vanish(started.journey_id, started.journey)
        batch.announce(record, changes, batch.tx.now, Cause())
