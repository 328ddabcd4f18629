"""Journey's decisions again, with the code at hand: its handlers, without bus."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any, Final

from journey.application import codec, rows
from journey.application.commands import (
    RETELL,
    RETELL_AT_ONCE,
    SWEEP,
    SWEEP_AT_ONCE,
    AcceptHandoffs,
    Asked,
    DefineJourneys,
    OfferHandoffs,
    Retell,
    Sweep,
    due,
    retelling,
)
from journey.application.records import Records
from journey.application.replay import client_key
from journey.application.rows import TABLES
from journey.application.state import aggregates
from journey.application.taking import TakeFromFeedback, TakeFromIdentity
from journey.domain.definitions import DefineJourney, JourneyDefinition
from journey.domain.handoffs import AcceptHandoff, OfferHandoff
from throughline.journey.v1 import definitions_pb2, events_pb2
from throughline_directory import DIRECTORY_TABLES, Directory
from throughline_eventlog import NotAskedError, Reader, Transaction
from throughline_kernel import Recorded, Refusal
from throughline_privacy import IdentifierHasher, read_hash_key

_OWNED: Final = frozenset(
    {codec.INTERACTION_NOTED, codec.INTERACTION_WITHDRAWN, codec.CONSENT_NOTED, codec.CLIENT_DROPPED}
)
"""What follows from taking identity's events and from nothing else."""


class JourneyDerivation:
    """See `Derivation`. With `instead`, that definition holds from the beginning in the place of those of its name."""

    service = "journey"
    tables = (*TABLES, *DIRECTORY_TABLES)

    def __init__(self, hasher: IdentifierHasher, instead: JourneyDefinition | None = None) -> None:
        records, directory = Records(), Directory(hasher)
        self._takes = {"identity": TakeFromIdentity(records, directory), "feedback": TakeFromFeedback(records)}
        self._works = {SWEEP: Sweep(records), RETELL: Retell(records)}
        self._define = DefineJourneys(records)
        self._asks = {
            codec.HANDOFF_OFFERED: OfferHandoffs(records, directory),
            codec.HANDOFF_ACCEPTED: AcceptHandoffs(records),
        }
        self._instead = instead

    def take(self, tx: Transaction, upstream: str, events: Sequence[Recorded], logged: Sequence[Recorded]) -> None:
        """Takes from identity and feedback."""
        self._takes[upstream](tx, events)

    def work(self, tx: Transaction, name: str, number: int) -> None:
        """Sweeps, or tells histories again."""
        self._works[name](tx, [number])

    def ask(self, tx: Transaction, logged: Sequence[Recorded]) -> Sequence[Refusal]:
        """Definitions and hand-offs. What one commit did of a kind was one piece of work."""
        refused: list[Refusal] = []
        for type_, run in groupby(logged, key=lambda event: event.type):
            events = list(run)
            if type_ in _OWNED:
                raise NotAskedError(events[0])
            if type_ == codec.JOURNEY_DEFINED:
                results = self._define(tx, [Asked(each) for event in events for each in self._definitions(tx, event)])
            elif type_ in self._asks:
                results = self._asks[type_](tx, [Asked(self._handoff(tx, event)) for event in events])
            else:
                continue
            refused += [each for each in results if isinstance(each, Refusal)]
        return refused

    def settle(self, tx: Transaction, own: Reader) -> bool:
        """Tells histories again to the end, then sweeps, where the service had done so."""
        if not retelling(own) and retelling(tx):
            self._works[RETELL](tx, [RETELL_AT_ONCE])
            return True
        if not due(own) and due(tx):
            self._works[SWEEP](tx, [SWEEP_AT_ONCE])
            return True
        return False

    def parts(self, key: str, state: Any) -> Iterator[tuple[str, str, Any]]:
        """A client's journeys."""
        if key.startswith(client_key("")):
            for journey in state["journeys"]:
                yield "journey", journey["journey_id"], journey

    def aggregates(self, reader: Reader, *, again: bool = False) -> Iterator[tuple[str, bytes]]:
        """Clients, definitions and the watermark; what is tried, as often as it was defined, by its content alone."""
        return aggregates(reader, unversioned="" if self._instead is None else self._instead.journey)

    def close(self) -> None:
        """Holds nothing open."""

    def _definitions(self, tx: Transaction, event: Recorded) -> list[DefineJourney]:
        """The definition in the log, and what is to hold instead as soon as any holds."""
        defined = events_pb2.JourneyDefined.FromString(event.payload)
        definition = codec.definition_from(defined.definition)
        found: list[DefineJourney] = []
        instead = self._instead
        if instead is not None and tx.get(rows.DEFINITIONS, instead.journey.encode()) is None:
            found.append(DefineJourney(instead, defined.defined_by, event.occurred_at))
        if instead is None or definition.journey != instead.journey:
            found.append(DefineJourney(definition, defined.defined_by, event.occurred_at))
        return found

    def _handoff(self, tx: Transaction, event: Recorded) -> OfferHandoff | AcceptHandoff:
        if event.type == codec.HANDOFF_OFFERED:
            offered = events_pb2.HandoffOffered.FromString(event.payload)
            return OfferHandoff(
                offered.client_id,
                offered.from_channel,
                offered.to_channel,
                offered.note,
                offered.journey_id,
                offered.expires_at - event.occurred_at,
                offered.token_hash,
                event.occurred_at,
            )
        accepted = events_pb2.HandoffAccepted.FromString(event.payload)
        return AcceptHandoff(_token_of(tx, accepted), accepted.channel, accepted.accepted_by, event.occurred_at)


def _token_of(tx: Transaction, accepted: events_pb2.HandoffAccepted) -> bytes:
    """The hash of the token that the hand-off was offered with; empty where it was not offered to this client."""
    for event in tx.read_stream(codec.stream_of(accepted.client_id)):
        if event.type == codec.HANDOFF_OFFERED:
            offered = events_pb2.HandoffOffered.FromString(event.payload)
            if offered.handoff_id == accepted.handoff_id:
                return offered.token_hash
    return b""


def make_derivation(env: Mapping[str, str], instead: bytes = b"") -> JourneyDerivation:
    """The derivation; `env` has the installation's hash key, `instead` is a serialised JourneyDefinition to try.

    Raises: PrivacySettingsError.
    """
    definition = None
    if instead:
        definition = codec.definition_from(definitions_pb2.JourneyDefinition.FromString(instead))
        definition = replace(definition, version=1)
    return JourneyDerivation(IdentifierHasher(read_hash_key(env)), definition)
