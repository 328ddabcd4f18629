"""What is asked of the service: carried out in the writer's thread, one transaction for many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, TypeVar

from journey.application import codec, rows
from journey.application.ports import Directory, Resolution
from journey.application.records import Batch, Cause, Records
from journey.domain.definitions import DefineJourney, JourneyDefinition, define
from journey.domain.facts import Handoff
from journey.domain.handoffs import AcceptHandoff, OfferHandoff, accept, offer
from throughline.journey.v1 import events_pb2
from throughline_eventlog import NewEvent, Reader, Transaction, note_step
from throughline_kernel import InvalidError, NotFoundError, PreconditionError, Refusal, Violation, hex_id

RETELL_AT_ONCE: Final = 200
SWEEP_AT_ONCE: Final = 500
RETELL: Final = "retell"
SWEEP: Final = "sweep"

C = TypeVar("C")
R = TypeVar("R")


class Asked(NamedTuple):
    """A command and the trace it came in."""

    command: OfferHandoff | AcceptHandoff | DefineJourney
    traceparent: str = ""


def known(resolution: Resolution, client_id: str, identifiers: int = 0, as_of: int | None = None) -> Resolution:
    """The resolution, where it means somebody, or meant at an instant.

    Raises: NotFoundError (CLIENT_NOT_FOUND, IDENTIFIERS_UNKNOWN), PreconditionError (CLIENT_FORGOTTEN).
    """
    if resolution.forgotten:
        raise PreconditionError(
            "CLIENT_FORGOTTEN",
            f"client {resolution.client_id} was forgotten: nothing is known of them and nothing can be done",
            {"client_id": resolution.client_id},
        )
    if resolution.client_id:
        return resolution
    if client_id and as_of is not None:
        raise NotFoundError(
            "CLIENT_NOT_FOUND",
            f"no client was known by the id {client_id} then: ask as of a later instant, or by the id it had",
            {"client_id": client_id, "as_of": str(as_of)},
        )
    if client_id:
        raise NotFoundError(
            "CLIENT_NOT_FOUND", f"no client has the id {client_id}: ask by identifiers", {"client_id": client_id}
        )
    raise NotFoundError(
        "IDENTIFIERS_UNKNOWN",
        f"none of the {identifiers} identifiers is known: nobody has been seen with them",
        {"identifiers": str(identifiers)},
    )


class OfferHandoffs:
    """Offers clients to other channels."""

    def __init__(self, records: Records, directory: Directory) -> None:
        self._records = records
        self._directory = directory

    def rolled_back(self) -> None:
        """Forgets what was remembered."""
        self._records.rolled_back()

    def __call__(self, tx: Transaction, items: Sequence[Asked]) -> Sequence[Handoff | Refusal]:
        """The hand-off offered, for each."""
        batch = Batch(tx)
        results: list[Handoff | Refusal] = []
        for asked in items:
            assert isinstance(asked.command, OfferHandoff)  # noqa: S101 -- this work is given nothing else
            try:
                results.append(self._offer(batch, asked.command, asked.traceparent))
            except Refusal as refusal:
                results.append(refusal)
        self._records.save(batch)
        return results

    def _offer(self, batch: Batch, command: OfferHandoff, traceparent: str) -> Handoff:
        who = known(self._directory.resolve(batch.tx, client_id=command.client_id), command.client_id)
        command = replace(command, client_id=who.client_id)
        handoff = offer(command)
        record = self._records.load(batch, (who.client_id,))[who.client_id]
        if command.journey_id and all(j.journey_id != command.journey_id for j in record.telling.journeys()):
            raise InvalidError.of(
                Violation("journey_id", "is one of the client's journeys", "leave it out or take an open matter's id")
            )
        message = events_pb2.HandoffOffered(
            client_id=who.client_id,
            handoff_id=handoff.handoff_id,
            from_channel=handoff.from_channel,
            to_channel=handoff.to_channel,
            note=handoff.note,
            token_hash=command.token_hash,
            expires_at=handoff.expires_at,
            journey_id=handoff.journey_id,
        )
        batch.append(
            record,
            codec.HANDOFF_OFFERED,
            message.SerializeToString(),
            at=command.at,
            cause=Cause(handoff.handoff_id, "", traceparent),
            event_id=bytes.fromhex(handoff.event_id),
        )
        record.offer(handoff)
        row = rows.encode(rows.HandoffRow(who.client_id, handoff.handoff_id))
        batch.tx.put(rows.HANDOFFS, command.token_hash, row)
        batch.tx.put(rows.OFFERED, bytes.fromhex(who.client_id), b"\x01")
        return handoff


class AcceptHandoffs:
    """Lets channels take over. Of two who use one token the first wins: there is one writer."""

    def __init__(self, records: Records) -> None:
        self._records = records

    def rolled_back(self) -> None:
        """Forgets what was remembered."""
        self._records.rolled_back()

    def __call__(self, tx: Transaction, items: Sequence[Asked]) -> Sequence[tuple[str, Handoff] | Refusal]:
        """Client id and hand-off taken over, for each."""
        batch = Batch(tx)
        results: list[tuple[str, Handoff] | Refusal] = []
        for asked in items:
            assert isinstance(asked.command, AcceptHandoff)  # noqa: S101 -- this work is given nothing else
            try:
                results.append(self._accept(batch, asked.command, asked.traceparent))
            except Refusal as refusal:
                results.append(refusal)
        self._records.save(batch)
        return results

    def _accept(self, batch: Batch, command: AcceptHandoff, traceparent: str) -> tuple[str, Handoff]:
        row = batch.tx.get(rows.HANDOFFS, command.token_hash)
        found = None if row is None else rows.handoff_row(row)
        record = None if found is None else self._records.load(batch, (found.client_id,))[found.client_id]
        handoff = None if found is None or record is None else record.handoffs.get(found.handoff_id)
        if record is None or handoff is None:
            raise NotFoundError("HANDOFF_NOT_FOUND", "no hand-off has this token: ask for a new one")
        taken = accept(command, handoff)
        message = events_pb2.HandoffAccepted(
            client_id=record.client_id,
            handoff_id=taken.handoff_id,
            channel=taken.accepted_channel,
            accepted_by=taken.accepted_by,
        )
        batch.append(
            record,
            codec.HANDOFF_ACCEPTED,
            message.SerializeToString(),
            at=command.at,
            cause=Cause(taken.handoff_id, taken.event_id, traceparent),
            event_id=bytes.fromhex(hex_id("handoff.accepted", taken.handoff_id)),
        )
        record.accept(taken.handoff_id, taken.accepted_channel, taken.accepted_by, command.at)
        return record.client_id, taken


class DefineJourneys:
    """Publishes definitions. Histories are told again by `Retell`, begun in the same transaction."""

    def __init__(self, records: Records) -> None:
        self._records = records

    def rolled_back(self) -> None:
        """Forgets what was remembered."""
        self._records.rolled_back()

    def __call__(self, tx: Transaction, items: Sequence[Asked]) -> Sequence[JourneyDefinition | Refusal | None]:
        """The definition as it holds now, None where it did already, for each."""
        results: list[JourneyDefinition | Refusal | None] = []
        for asked in items:
            assert isinstance(asked.command, DefineJourney)  # noqa: S101 -- this work is given nothing else
            try:
                results.append(self._define(tx, asked.command, asked.traceparent))
            except Refusal as refusal:
                results.append(refusal)
        return results

    def _define(self, tx: Transaction, command: DefineJourney, traceparent: str) -> JourneyDefinition | None:
        current = self._records.definitions(tx).get(command.definition.journey)
        defined: JourneyDefinition | None = None
        for event in define(command, current):
            defined = event.definition
            message = events_pb2.JourneyDefined(
                definition=codec.definition_message(defined), defined_by=event.defined_by
            )
            stream = codec.definition_stream(defined.journey)
            tx.append(
                [
                    NewEvent(
                        stream,
                        tx.last_version(stream) + 1,
                        codec.JOURNEY_DEFINED,
                        message.SerializeToString(deterministic=True),
                        event.at,
                        traceparent=traceparent,
                    )
                ]
            )
            self._records.redefine(tx, defined)
            tx.put(rows.META, rows.RETELLING, b"")
        return defined


@dataclass(frozen=True, slots=True)
class Retold:
    """How many clients one step told again, and whether some are left."""

    clients: int
    more: bool


class Retell:
    """Tells clients' histories again under the definitions that hold, so many at once, going on where it stopped."""

    def __init__(self, records: Records) -> None:
        self._records = records

    def rolled_back(self) -> None:
        """Forgets what was remembered."""
        self._records.rolled_back()

    def __call__(self, tx: Transaction, items: Sequence[int]) -> Sequence[Retold]:
        """One step for each item, which is how many clients to take."""
        return [self._step(tx, at_once) for at_once in items]

    def _step(self, tx: Transaction, at_once: int) -> Retold:
        reached = tx.get(rows.META, rows.RETELLING)
        if reached is None:
            return Retold(0, more=False)
        keys = [key for key, _ in tx.scan(rows.CLIENTS, after=reached, limit=at_once)]
        before = tx.last_position()
        if not keys:
            tx.delete(rows.META, rows.RETELLING)
            note_step(tx, RETELL, before, at_once)
            return Retold(0, more=False)
        batch = Batch(tx)
        for record in self._records.read(tx, [key.hex() for key in keys], batch, rewrite=True):
            batch.records[record.client_id] = record
        self._records.save(batch)
        tx.put(rows.META, rows.RETELLING, keys[-1])
        note_step(tx, RETELL, before, at_once)
        return Retold(len(keys), more=True)


class Sweep:
    """Announces journeys whose deadline the watermark has passed. A function of the watermark alone."""

    def __init__(self, records: Records) -> None:
        self._records = records

    def rolled_back(self) -> None:
        """Forgets what was remembered."""
        self._records.rolled_back()

    def __call__(self, tx: Transaction, items: Sequence[int]) -> Sequence[bool]:
        """For each item, which is how many deadlines to look at: whether more are waiting."""
        return [self._step(tx, at_once) for at_once in items]

    def _step(self, tx: Transaction, at_once: int) -> bool:
        watermark = self._records.watermark(tx)
        due: list[bytes] = []
        for key, _ in tx.scan(rows.DEADLINES, limit=at_once):
            if rows.number(key[:8]) >= watermark:
                break
            due.append(key)
        if not due:
            return False
        before = tx.last_position()
        batch = Batch(tx)
        records = self._records.load(batch, {key[8:24].hex() for key in due})
        for key in due:
            tx.delete(rows.DEADLINES, key)
        for client_id, record in records.items():
            batch.announce(record, record.sweep(watermark), watermark, Cause())
            mine = {key[24:].hex() for key in due if key[8:24].hex() == client_id}
            for journey in record.telling.open.values():
                # It went on meanwhile: look again when its present deadline has passed.
                if journey.journey_id in mine and journey.journey_id not in record.swept:
                    where = rows.deadline_key(journey.deadline, bytes.fromhex(client_id), journey.journey_id)
                    tx.put(rows.DEADLINES, where, b"")
        self._records.save(batch)
        note_step(tx, SWEEP, before, at_once)
        return len(due) == at_once


def retelling(reader: Reader) -> bool:
    """Tells whether a telling-again of all history was begun and not ended."""
    return reader.get(rows.META, rows.RETELLING) is not None


def due(reader: Reader) -> bool:
    """Tells whether a deadline was passed by the watermark and nobody has looked at it since."""
    watermark = rows.number(reader.get(rows.META, rows.WATERMARK))
    return any(rows.number(key[:8]) < watermark for key, _ in reader.scan(rows.DEADLINES, limit=1))
