"""Takes interactions from ingestion and says whose they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from identity.application import messages
from identity.application.ledger import Ledger, stream_of
from identity.application.messages import Arrival, Cause
from identity.application.records import FORGOTTEN, HOLDERS, INTERACTIONS, PersonaRow
from identity.application.rulebook import Rulebook
from identity.application.settlement import Settlement
from identity.domain.rules import Rules
from throughline.identity.v1 import events_pb2 as pb
from throughline_eventlog import NewEvent, Transaction
from throughline_kernel import Recorded

LATE: Final = "an interaction of a forgotten client came late"
_MODULUS: Final = 1 << 128


def attributed_event_id(interaction_id: bytes) -> bytes:
    """The id of the event that first says whose the interaction is: 16 bytes."""
    return stream_of("attributed", interaction_id)


class Attribution:
    """The consumer's handler: every interaction ends attributed, once."""

    def __init__(self, rulebook: Rulebook) -> None:
        self._rulebook = rulebook

    def __call__(self, tx: Transaction, events: Sequence[Recorded], /) -> None:
        """Attributes what is recorded in the events; other events of ingestion's are not identity's business."""
        arrivals = [messages.arrival(each) for each in events if each.type == messages.INTERACTION_RECORDED]
        if not arrivals:
            return
        ledger = Ledger(tx)
        _Batch(ledger, self._rulebook.current(tx), arrivals).attribute()
        ledger.flush()

    def rolled_back(self) -> None:
        """Nothing is kept between transactions."""


class _Batch:
    def __init__(self, ledger: Ledger, rules: Rules, arrivals: Sequence[Arrival]) -> None:
        self.ledger = ledger
        self.rules = rules
        tx = ledger.tx
        ids = [each.key.interaction_id for each in arrivals]
        self.known = set(tx.get_many(INTERACTIONS, ids))
        self.arrivals = arrivals
        ledger.personas.load([each.persona for each in arrivals])
        new = [each for each in arrivals if ledger.personas.get(each.persona) is None]
        self.forgotten = tx.get_many(FORGOTTEN, [each.persona for each in new]) if new else {}
        identifiers = {each.hash for arrival in new for each in arrival.identifiers}
        ledger.identifiers.load(identifiers)
        clients = {row.client for key in identifiers if (row := ledger.identifiers.get(key)) is not None}
        ledger.clients.load([client for client in clients if client])

    def attribute(self) -> None:
        """Decides who all of them are together, then says whose each one is: a batch moves nothing twice."""
        taken: list[Arrival] = []
        indexed: dict[bytes, bytes] = {}
        unsettled: dict[bytes, Arrival] = {}
        for arrival in self.arrivals:
            interaction_id = arrival.key.interaction_id
            if interaction_id in self.known:
                continue
            self.known.add(interaction_id)
            indexed[interaction_id] = arrival.persona
            if arrival.persona in self.forgotten:
                self._late(arrival, self.forgotten[arrival.persona])
                continue
            taken.append(arrival)
            if not self._introduce(arrival):
                unsettled[arrival.persona] = arrival
        self._settle(unsettled)
        for arrival in taken:
            self._attribute(arrival, self._count(arrival))
        self.ledger.tx.put_many(INTERACTIONS, indexed)

    def _introduce(self, arrival: Arrival) -> bool:
        """Makes the persona known; False where its neighbourhood has to be looked at before its client is known."""
        row = self.ledger.personas.get(arrival.persona)
        key = arrival.key
        if row is None:
            row = PersonaRow(arrival.identifiers, key, key.occurred_at)
            self.ledger.personas.put(arrival.persona, row)
            for each in arrival.identifiers:
                self.ledger.index(HOLDERS, each.hash + arrival.persona)
            return Settlement(self.ledger, self.rules, _cause(arrival)).meet(arrival.persona, row)
        if key >= row.first:
            return True
        if row.client:
            return Settlement(self.ledger, self.rules, _cause(arrival)).earlier(arrival.persona, row, key)
        row.first = key
        return False

    def _settle(self, unsettled: dict[bytes, Arrival]) -> None:
        causes = {arrival.key.interaction_id: _cause(arrival) for arrival in unsettled.values()}
        settled: set[bytes] = set()
        for persona_id, arrival in unsettled.items():
            if persona_id not in settled:
                settlement = Settlement(self.ledger, self.rules, _cause(arrival), causes)
                settled.update(settlement.settle((persona_id,), triggers=unsettled).rows)

    def _count(self, arrival: Arrival) -> PersonaRow:
        """The persona's row with this interaction counted in."""
        row = self.ledger.personas.must(arrival.persona)
        key = arrival.key
        row.last_seen = max(row.last_seen, key.occurred_at)
        row.count += 1
        total = int.from_bytes(row.total, "big") + int.from_bytes(key.interaction_id, "big")
        row.total = (total % _MODULUS).to_bytes(16, "big")
        row.version += 1
        self.ledger.personas.put(arrival.persona, row)
        return row

    def _attribute(self, arrival: Arrival, row: PersonaRow) -> None:
        interaction_id = arrival.key.interaction_id
        attributed = pb.InteractionAttributed(
            client_id=row.client.hex(),
            interaction=arrival.facts,
            personal=arrival.personal,
            evidence=messages.evidence(row.basis, self.rules.version, interaction_id),
            interaction_recorded_at=arrival.recorded_at,
        )
        self.ledger.emit(
            NewEvent(
                stream_id=stream_of("persona", arrival.persona),
                version=row.version,
                type=messages.INTERACTION_ATTRIBUTED,
                payload=attributed.SerializeToString(),
                occurred_at=arrival.key.occurred_at,
                event_id=attributed_event_id(interaction_id),
                correlation_id=arrival.correlation_id,
                causation_id=interaction_id.hex(),
                traceparent=arrival.traceparent,
            )
        )

    def _late(self, arrival: Arrival, client_id: bytes) -> None:
        """What a forgotten client did is forgotten with it, whenever it comes."""
        row = self.ledger.clients.must(client_id)
        row.version += 1
        self.ledger.clients.put(client_id, row)
        forgotten = pb.ClientForgotten(
            client_id=client_id.hex(),
            reason=LATE,
            persona_ids=[arrival.persona],
            interaction_ids=[arrival.key.interaction_id.hex()],
        )
        self.ledger.emit(
            NewEvent(
                stream_id=stream_of("client", client_id),
                version=row.version,
                type=messages.CLIENT_FORGOTTEN,
                payload=forgotten.SerializeToString(),
                occurred_at=arrival.key.occurred_at,
                correlation_id=arrival.correlation_id,
                causation_id=arrival.key.interaction_id.hex(),
                traceparent=arrival.traceparent,
            )
        )


def _cause(arrival: Arrival) -> Cause:
    return Cause(
        event_id=arrival.key.interaction_id,
        at=arrival.key.occurred_at,
        correlation_id=arrival.correlation_id,
        causation_id=arrival.key.interaction_id.hex(),
        traceparent=arrival.traceparent,
    )
