"""The clients at hand, and what they count for: held in memory up to a limit, written with the events that change
them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from scoring.application import ledger, rows
from scoring.application.messages import ATTRIBUTION_COMPUTED, attribution_computed
from scoring.application.rows import Head
from scoring.domain.client import Client, move_case_end
from scoring.domain.metrics import MetricDefinition, Metrics
from scoring.domain.tally import Tally
from throughline_eventlog import NewEvent, Transaction
from throughline_kernel import Recorded

# Facts of all clients held together; a fact takes about 1 KB, a client as much as three.
HELD_FACTS: Final = 90_000
HELD_COUNTERS: Final = 100_000
CLIENT_WEIGHT: Final = 3
# A snapshot is written when the stream grew by half beyond the last one: loading stays short, and writing is paid
# once a doubling.
SNAPSHOT_TAIL: Final = 8


@dataclass(slots=True)
class Held:
    """A client at hand, with the end of its stream."""

    client: Client
    head: Head
    stream_id: bytes
    weight: int


class Book:
    """Holds clients and counters between transactions. Belongs to the writer's thread."""

    def __init__(self, held_facts: int = HELD_FACTS) -> None:
        self._held_facts = held_facts
        self._held: OrderedDict[str, Held] = OrderedDict()
        self._weight = 0
        self._counters: dict[tuple[str, bytes], int] = {}
        self._definitions: dict[tuple[str, int], MetricDefinition] | None = None
        self._touched: dict[str, Held] = {}
        self._events: list[NewEvent] = []
        self._writers: list[Held] = []
        self._snapshots: dict[bytes, bytes] = {}
        self.tally = Tally()
        self.metrics = Metrics()

    def rolled_back(self) -> None:
        """Forgets everything: the store alone knows what is true."""
        self._held.clear()
        self._weight = 0
        self._counters.clear()
        self._definitions = None
        self._begin()

    def _begin(self) -> None:
        self._touched = {}
        self._events = []
        self._writers = []
        self._snapshots = {}
        self.tally = Tally()

    def definitions(self, tx: Transaction) -> dict[tuple[str, int], MetricDefinition]:
        """Every version of every metric of one's own."""
        if self._definitions is None:
            self.define(ledger.definitions(tx))
        return self._definitions or {}

    def define(self, definitions: dict[tuple[str, int], MetricDefinition]) -> None:
        """The metrics that count from now on."""
        self._definitions = definitions
        self.metrics = Metrics.of(ledger.in_force(definitions).values())

    def hold(self, tx: Transaction, client_ids: Collection[str]) -> None:
        """Brings the clients to hand."""
        self.definitions(tx)
        held = self._held
        missing: list[str] = []
        for client_id in client_ids:
            if client_id in held:
                held.move_to_end(client_id)
            else:
                missing.append(client_id)
        if not missing:
            return
        heads = ledger.heads(tx, missing)
        loaded = ledger.load(tx, heads)
        for client_id in missing:
            client = loaded.get(client_id)
            if client is None:
                client = Client(client_id)
            held[client_id] = Held(
                client, heads.get(client_id, Head()), ledger.client_stream(client_id), len(client) + CLIENT_WEIGHT
            )
            self._weight += held[client_id].weight

    def __getitem__(self, client_id: str) -> Held:
        return self._held[client_id]

    def touch(self, held: Held) -> None:
        """The client's head is to be written, with or without an event."""
        self._touched[held.client.client_id] = held

    def append(self, held: Held, event_type: str, payload: bytes, occurred_at: int, cause: Recorded) -> None:
        """Queues an event of the client's stream."""
        head = held.head
        head.version += 1
        self._touched[held.client.client_id] = held
        self._writers.append(held)
        self._events.append(
            NewEvent(
                held.stream_id,
                head.version,
                event_type,
                payload,
                occurred_at,
                correlation_id=cause.correlation_id,
                causation_id=cause.event_id.hex(),
                traceparent=cause.traceparent,
            )
        )

    def queued(self, held: Held) -> list[tuple[str, bytes]]:
        """(type, payload) of the client's events that are not in the log yet."""
        return [(event.type, event.payload) for event in self._events if event.stream_id == held.stream_id]

    def write(self, tx: Transaction, cause: Recorded | None) -> None:
        """Writes events, heads, snapshots, case ends and counters, and lets go of what is too much to hold."""
        if cause is not None:
            self._announce_credits(tx, cause)
        for held, position in zip(self._writers, tx.append(self._events), strict=True):
            held.head.position = position
        self._write_clients(tx)
        self._write_case_ends(tx)
        self._write_counters(tx)
        self._begin()

    def drop_metric(self, tx: Transaction, metric: str) -> None:
        """Deletes what was counted for a metric of one's own."""
        for key, _ in list(tx.scan(rows.COUNTERS)):
            if rows.counter_of(rows.COUNTERS, key)[2] == metric:
                tx.delete(rows.COUNTERS, key)
        self._counters.clear()

    def _announce_credits(self, tx: Transaction, cause: Recorded) -> None:
        for (client_id, conversion_id), (before, after) in self.tally.credits.items():
            if before == after:
                continue
            held = self._held[client_id]
            if held.head.forgotten and not len(held.client):
                continue
            conversion = held.client.contacts.get(conversion_id)
            self.append(
                held,
                ATTRIBUTION_COMPUTED,
                attribution_computed(client_id, conversion_id, after).SerializeToString(),
                conversion.at if conversion is not None else tx.now,
                cause,
            )

    def _write_clients(self, tx: Transaction) -> None:
        for held in self._touched.values():
            weight = len(held.client) + CLIENT_WEIGHT
            self._weight += weight - held.weight
            held.weight = weight
            head = held.head
            if head.version - head.snapshot_version >= max(SNAPSHOT_TAIL, weight // 2) or not len(held.client):
                self._snapshots[bytes.fromhex(held.client.client_id)] = _snapshot(held)
        self._let_go()
        tx.put_many(rows.SNAPSHOTS, self._snapshots)
        heads = {bytes.fromhex(client_id): rows.pack_head(held.head) for client_id, held in self._touched.items()}
        tx.put_many(rows.CLIENTS, heads)

    def _write_case_ends(self, tx: Transaction) -> None:
        changes = self.tally.case_ends
        if not changes:
            return
        ends = ledger.case_ends(tx, changes)
        puts: dict[bytes, bytes] = {}
        for case_id, change in changes.items():
            after = move_case_end(ends.get(case_id, {}), change, self.tally, self.metrics)
            if after:
                puts[case_id.encode()] = rows.pack_ends(after)
            else:
                tx.delete(rows.CASE_ENDS, case_id.encode())
        tx.put_many(rows.CASE_ENDS, puts)

    def _write_counters(self, tx: Transaction) -> None:
        changes = {rows.counter_key(counter): amount for counter, amount in self.tally.counters().items()}
        known = self._counters
        for table in (rows.COUNTERS, rows.TIMES):
            missing = [key for named, key in changes if named == table and (named, key) not in known]
            if missing:
                found = tx.get_many(table, missing)
                for key in missing:
                    known[table, key] = int(found.get(key, 0))
        puts: dict[str, dict[bytes, bytes]] = {rows.COUNTERS: {}, rows.TIMES: {}}
        for place, amount in changes.items():
            after = known[place] + amount
            known[place] = after
            table, key = place
            if after:
                puts[table][key] = b"%d" % after
            else:
                tx.delete(table, key)
        for table, changed in puts.items():
            tx.put_many(table, changed)
        if len(known) > HELD_COUNTERS:
            known.clear()

    def _let_go(self) -> None:
        """Lets go of what is too much to hold. What changed since its snapshot gets a new one: it is short to load
        again.
        """
        while self._weight > self._held_facts and len(self._held) > 1:
            client_id, held = self._held.popitem(last=False)
            self._weight -= held.weight
            if held.head.version > held.head.snapshot_version:
                self._snapshots[bytes.fromhex(client_id)] = _snapshot(held)
                self._touched[client_id] = held


def _snapshot(held: Held) -> bytes:
    held.head.snapshot_version = held.head.version
    return rows.pack_facts(held.client.facts())
