"""Rebuilds this service's state from its log alone, with the functions that the live service uses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from journey.application import codec
from journey.application.records import take_aside
from journey.application.timeline import sentence
from journey.domain.definitions import Definitions
from journey.domain.facts import Fact
from journey.domain.record import Record
from throughline.journey.v1 import events_pb2
from throughline_kernel import Fold, Recorded, canonical_json

SERVICE: Final = "journey"
WATERMARK_KEY: Final = "watermark"


def client_key(client_id: str) -> str:
    """Key of a client's aggregate."""
    return f"client/{client_id}"


def definition_key(journey: str) -> str:
    """Key of a definition's aggregate."""
    return f"definition/{journey}"


@dataclass(slots=True)
class _Held:
    record: Record
    facts: dict[bytes, Fact] = field(default_factory=dict[bytes, Fact])


class JourneyFold:
    """A left fold over journey's log: facts per client, told under the definitions that hold at the end."""

    def __init__(self) -> None:
        self._clients: dict[str, _Held] = {}
        self._definitions = Definitions()
        self._watermark = 0

    @property
    def service(self) -> str:
        """journey."""
        return SERVICE

    def apply(self, event: Recorded) -> None:
        """Takes the next event. What was announced is left aside: it follows from the facts."""
        type_ = event.type
        if type_ == codec.INTERACTION_NOTED:
            message = events_pb2.InteractionNoted.FromString(event.payload)
            fact = codec.fact_from(message.interaction)
            self._held(message.client_id).facts[fact.interaction_id] = fact
            self._watermark = max(self._watermark, event.occurred_at)
        elif type_ in codec.TRANSITIONS or type_ == codec.TRANSITION_RETRACTED:
            return
        elif type_ == codec.INTERACTION_WITHDRAWN:
            withdrawn = events_pb2.InteractionWithdrawn.FromString(event.payload)
            self._held(withdrawn.client_id).facts.pop(bytes.fromhex(withdrawn.interaction_id), None)
            self._watermark = max(self._watermark, event.occurred_at)
        elif type_ == codec.CLIENT_DROPPED:
            self._clients.pop(events_pb2.ClientDropped.FromString(event.payload).client_id, None)
        elif type_ == codec.JOURNEY_DEFINED:
            defined = events_pb2.JourneyDefined.FromString(event.payload)
            self._definitions = self._definitions.with_(codec.definition_from(defined.definition))
        elif (client_id := codec.client_of(event)) is not None:
            take_aside(self._held(client_id).record, event)

    def aggregates(self) -> Iterator[tuple[str, bytes]]:
        """Every client that anything is known of, every definition, and the watermark."""
        for client_id in sorted(self._clients):
            record = self._tell(self._clients[client_id])
            if not record.empty:
                yield client_key(client_id), canonical_json(record.canonical(self._watermark))
        for definition in self._definitions.all():
            yield definition_key(definition.journey), canonical_json(codec.definition_state(definition))
        yield WATERMARK_KEY, canonical_json(self._watermark)

    def describe(self, event: Recorded) -> str:
        """One sentence."""
        return sentence(event)

    def _held(self, client_id: str) -> _Held:
        held = self._clients.get(client_id)
        if held is None:
            held = self._clients[client_id] = _Held(Record(client_id, self._definitions, announcing=False))
        return held

    def _tell(self, held: _Held) -> Record:
        record = Record(held.record.client_id, self._definitions, announcing=False)
        record.feedback, record.cases = held.record.feedback, held.record.cases
        record.handoffs, record.consents = held.record.handoffs, held.record.consents
        if held.facts:
            record.change(list(held.facts.values()))
        return record


def make_fold() -> Fold:
    """A fresh fold of journey's log."""
    return JourneyFold()
