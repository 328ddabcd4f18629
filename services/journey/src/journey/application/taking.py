"""What comes in from identity and feedback: noted in the record of the client it belongs to, once."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from journey.application import codec, rows
from journey.application.ports import Directory
from journey.application.records import Batch, Cause, Records
from journey.domain.facts import Fact
from journey.domain.record import Record
from throughline.feedback.v1 import events_pb2 as feedback_pb2
from throughline.identity.v1 import events_pb2 as identity_pb2
from throughline.ingestion.v1 import interaction_pb2
from throughline.journey.v1 import events_pb2
from throughline_eventlog import Transaction
from throughline_kernel import Consents, Recorded

_ATTRIBUTED: Final = "throughline.identity.v1.InteractionAttributed"
_REATTRIBUTED: Final = "throughline.identity.v1.InteractionReattributed"
_FORGOTTEN: Final = "throughline.identity.v1.ClientForgotten"
_FEEDBACK: Final = "throughline.feedback.v1."
_NOBODY: Final = rows.Owner(0, "", ())

Attribution: TypeAlias = identity_pb2.InteractionAttributed | identity_pb2.InteractionReattributed


@dataclass(slots=True)
class _Plan:
    """What happens to one client in one batch: events in order, and the net change of facts."""

    events: list[tuple[str, bytes, int, Cause]] = field(default_factory=list[tuple[str, bytes, int, Cause]])
    noted: dict[bytes, Fact] = field(default_factory=dict[bytes, Fact])
    withdrawn: set[bytes] = field(default_factory=set[bytes])
    dropped: bool = False
    latest: int = 0
    cause: Cause = field(default_factory=Cause)


class TakeFromIdentity:
    """Notes each attributed interaction in its client's record, and takes it back where it turns out another's.

    Whose an interaction is, is a last-writer register: the attribution with the highest position in identity's log
    holds, in whatever order they come.
    """

    def __init__(self, records: Records, directory: Directory) -> None:
        self._records = records
        self._directory = directory

    def rolled_back(self) -> None:
        """Forgets what was remembered."""
        self._records.rolled_back()

    def __call__(self, tx: Transaction, events: Sequence[Recorded]) -> None:
        """Takes a chunk of identity's log."""
        self._directory.apply(tx, events)
        attributions: dict[int, Attribution] = {}
        forgotten: dict[int, identity_pb2.ClientForgotten] = {}
        for event in events:
            if event.type == _ATTRIBUTED:
                attributions[event.position] = identity_pb2.InteractionAttributed.FromString(event.payload)
            elif event.type == _REATTRIBUTED:
                attributions[event.position] = identity_pb2.InteractionReattributed.FromString(event.payload)
            elif event.type == _FORGOTTEN:
                forgotten[event.position] = identity_pb2.ClientForgotten.FromString(event.payload)
        consents = self._directory.consents(tx, events)
        if not attributions and not forgotten and not consents:
            return
        owners = tx.get_many(rows.OWNERS, {bytes.fromhex(a.interaction.interaction_id) for a in attributions.values()})
        dropped = _dropped(
            tx,
            {a.client_id for a in attributions.values()}
            | {rows.owner_of(row).client_id for row in owners.values()}
            | {client for f in forgotten.values() for client in (f.client_id, *f.alias_ids)},
        )
        register = {key: rows.owner_of(row) for key, row in owners.items()}
        plans: dict[str, _Plan] = {}
        moved: dict[bytes, bytes] = {}
        seen = 0
        for event in events:
            attribution = attributions.get(event.position)
            if attribution is not None:
                seen = max(seen, attribution.interaction.occurred_at)
                key = _attribute(plans, register, dropped, event, attribution)
                if key is not None:
                    moved[key] = rows.owner_row(register[key])
            elif event.position in forgotten:
                _forget(plans, dropped, event, forgotten[event.position], tx)
        tx.put_many(rows.OWNERS, moved)
        self._records.advance_watermark(tx, seen)
        self._carry_out(tx, plans, consents)

    def _carry_out(
        self, tx: Transaction, plans: dict[str, _Plan], consents: Mapping[str, tuple[Consents, Recorded]]
    ) -> None:
        batch = Batch(tx)
        records = self._records.load(batch, {**plans, **consents})
        for client_id, plan in plans.items():
            record = records[client_id]
            if plan.dropped:
                _empty_rows(tx, record)
                record.drop()
                if record.version == 0 and all(type_ == codec.CLIENT_DROPPED for type_, *_ in plan.events):
                    del batch.records[client_id]
                    continue
            for type_, payload, occurred_at, cause in plan.events:
                batch.append(record, type_, payload, at=occurred_at, cause=cause)
            if plan.noted or plan.withdrawn:
                changes = record.change(list(plan.noted.values()), plan.withdrawn)
                batch.announce(record, changes, plan.latest, plan.cause)
        for client_id, (holding, event) in consents.items():
            record = records[client_id]
            if record.consents == holding:
                continue
            cause = Cause(event.correlation_id, event.event_id.hex(), event.traceparent)
            payload = codec.consent_noted(client_id, holding, event.position)
            batch.append(record, codec.CONSENT_NOTED, payload, at=event.occurred_at, cause=cause)
            record.consents = holding
        self._records.save(batch)


def _attribute(
    plans: dict[str, _Plan],
    register: dict[bytes, rows.Owner],
    dropped: dict[str, int],
    event: Recorded,
    attribution: Attribution,
) -> bytes | None:
    interaction = attribution.interaction
    key = bytes.fromhex(interaction.interaction_id)
    known_position, owner, former = register.get(key, _NOBODY)
    if known_position >= event.position:
        return None
    client = attribution.client_id
    if owner and owner != client and owner not in former:
        former = (*former, owner)
    register[key] = rows.Owner(event.position, client, former)
    cause = Cause(event.correlation_id, event.event_id.hex(), event.traceparent)
    if owner and owner != client and dropped.get(owner, 0) < known_position:
        plan = plans.setdefault(owner, _Plan())
        if plan.noted.pop(key, None) is None:
            plan.withdrawn.add(key)
        _log_withdrawn(plan, owner, interaction, event.position, cause)
    if owner == client and dropped.get(client, 0) < known_position:
        return key
    plan = plans.setdefault(client, _Plan())
    if dropped.get(client, 0) >= event.position:
        # Forgotten since. Noted as taken back, so that this log too knows how far the world's time has come.
        _log_withdrawn(plan, client, interaction, event.position, cause)
        return key
    if key in plan.withdrawn:
        plan.withdrawn.discard(key)
    else:
        plan.noted[key] = codec.fact_from(interaction)
    payload = codec.noted(client, interaction.SerializeToString(), event.position, attribution.interaction_recorded_at)
    plan.events.append((codec.INTERACTION_NOTED, payload, interaction.occurred_at, cause))
    plan.latest, plan.cause = max(plan.latest, interaction.occurred_at), cause
    return key


def _log_withdrawn(
    plan: _Plan, client: str, interaction: interaction_pb2.InteractionFacts, position: int, cause: Cause
) -> None:
    message = events_pb2.InteractionWithdrawn(
        client_id=client, interaction_id=interaction.interaction_id, attribution_position=position
    )
    at = interaction.occurred_at
    plan.events.append((codec.INTERACTION_WITHDRAWN, message.SerializeToString(), at, cause))
    plan.latest, plan.cause = max(plan.latest, at), cause


def _forget(
    plans: dict[str, _Plan],
    dropped: dict[str, int],
    event: Recorded,
    forgotten: identity_pb2.ClientForgotten,
    tx: Transaction,
) -> None:
    cause = Cause(event.correlation_id, event.event_id.hex(), event.traceparent)
    for client in dict.fromkeys((forgotten.client_id, *forgotten.alias_ids)):
        if dropped.get(client, 0) >= event.position:
            continue
        dropped[client] = event.position
        tx.put(rows.DROPPED, bytes.fromhex(client), rows.number_bytes(event.position))
        plan = plans.setdefault(client, _Plan())
        plan.noted.clear()
        plan.withdrawn.clear()
        plan.dropped = True
        message = events_pb2.ClientDropped(client_id=client, identity_position=event.position)
        plan.events.append((codec.CLIENT_DROPPED, message.SerializeToString(), event.occurred_at, cause))


def _empty_rows(tx: Transaction, record: Record) -> None:
    client = bytes.fromhex(record.client_id)
    for journey in record.telling.journeys():
        tx.delete(rows.JOURNEYS, rows.journey_key(journey.definition.journey, client, journey.journey_id))
    tx.delete(rows.CLIENTS, client)
    tx.delete(rows.OFFERED, client)


def _dropped(tx: Transaction, clients: Collection[str]) -> dict[str, int]:
    found = tx.get_many(rows.DROPPED, {bytes.fromhex(client) for client in clients})
    return {key.hex(): rows.number(value) for key, value in found.items()}


class TakeFromFeedback:
    """Notes feedback and cases in the record of the client they belong to.

    Each thing said of an item or a case holds by the highest position in feedback's log, in whatever order they come.
    """

    def __init__(self, records: Records) -> None:
        self._records = records

    def rolled_back(self) -> None:
        """Forgets what was remembered."""
        self._records.rolled_back()

    def __call__(self, tx: Transaction, events: Sequence[Recorded]) -> None:
        """Takes a chunk of feedback's log."""
        messages = [(event, parsed) for event in events if (parsed := _parsed(event)) is not None]
        if not messages:
            return
        items = {
            key: rows.feedback_row(value)
            for key, value in tx.get_many(
                rows.FEEDBACK, {bytes.fromhex(m.feedback_id) for _, m in messages if isinstance(m, _ITEM)}
            ).items()
        }
        cases = {
            key: rows.case_row(value)
            for key, value in tx.get_many(
                rows.CASES, {bytes.fromhex(m.case_id) for _, m in messages if isinstance(m, _CASE)}
            ).items()
        }
        outcomes: list[tuple[str, str, bytes, int, Cause]] = []
        touched_items: dict[bytes, rows.FeedbackRow] = {}
        touched_cases: dict[bytes, rows.CaseRow] = {}
        for event, message in messages:
            cause = Cause(event.correlation_id, event.event_id.hex(), event.traceparent)
            if isinstance(message, _ITEM):
                key = bytes.fromhex(message.feedback_id)
                item = touched_items[key] = items.setdefault(key, rows.FeedbackRow())
                outcomes += _hear_item(item, event, message, cause)
            else:
                key = bytes.fromhex(message.case_id)
                case = touched_cases[key] = cases.setdefault(key, rows.CaseRow())
                outcomes += _hear_case(case, event, message, cause)
        tx.put_many(rows.FEEDBACK, {key: rows.encode(row) for key, row in touched_items.items()})
        tx.put_many(rows.CASES, {key: rows.encode(row) for key, row in touched_cases.items()})
        self._note(tx, outcomes)

    def _note(self, tx: Transaction, outcomes: Sequence[tuple[str, str, bytes, int, Cause]]) -> None:
        dropped = _dropped(tx, {client for client, *_ in outcomes})
        outcomes = [outcome for outcome in outcomes if outcome[0] not in dropped]
        batch = Batch(tx)
        records = self._records.load(batch, {client for client, *_ in outcomes})
        for client, type_, payload, occurred_at, cause in outcomes:
            record = records[client]
            batch.append(record, type_, payload, at=occurred_at, cause=cause)
            match type_:
                case codec.FEEDBACK_NOTED:
                    record.note_feedback(codec.item_of(payload, occurred_at))
                case codec.CASE_NOTED:
                    record.note_case(codec.case_of(payload, occurred_at, cause.causation_id))
                case _:
                    record.withdraw_feedback(events_pb2.FeedbackWithdrawn.FromString(payload).feedback_id)
        self._records.save(batch)


_Item: TypeAlias = feedback_pb2.FeedbackReceived | feedback_pb2.FeedbackReassigned | feedback_pb2.FeedbackClassified
_Case: TypeAlias = (
    feedback_pb2.CaseOpened
    | feedback_pb2.CaseJoined
    | feedback_pb2.CaseAcknowledged
    | feedback_pb2.CaseReassigned
    | feedback_pb2.CaseEscalated
    | feedback_pb2.CaseResolved
    | feedback_pb2.CaseReopened
    | feedback_pb2.CaseWithdrawn
)
_ITEM: Final = (
    feedback_pb2.FeedbackReceived,
    feedback_pb2.FeedbackReassigned,
    feedback_pb2.FeedbackClassified,
)
_CASE: Final = (
    feedback_pb2.CaseOpened,
    feedback_pb2.CaseJoined,
    feedback_pb2.CaseAcknowledged,
    feedback_pb2.CaseReassigned,
    feedback_pb2.CaseEscalated,
    feedback_pb2.CaseResolved,
    feedback_pb2.CaseReopened,
    feedback_pb2.CaseWithdrawn,
)
_HEARD: Final[dict[str, type[_Item | _Case]]] = {_FEEDBACK + kind.__name__: kind for kind in (*_ITEM, *_CASE)}
_STATES: Final[dict[type[_Case], str]] = {
    feedback_pb2.CaseOpened: "open",
    feedback_pb2.CaseAcknowledged: "acknowledged",
    feedback_pb2.CaseResolved: "resolved",
    feedback_pb2.CaseReopened: "reopened",
    feedback_pb2.CaseWithdrawn: "withdrawn",
}


def _parsed(event: Recorded) -> _Item | _Case | None:
    kind = _HEARD.get(event.type)
    return None if kind is None else kind.FromString(event.payload)


def _hear_item(
    row: rows.FeedbackRow, event: Recorded, message: _Item, cause: Cause
) -> Iterable[tuple[str, str, bytes, int, Cause]]:
    position, owner, known = event.position, row.client_id, row.fact
    heard = False
    if isinstance(message, feedback_pb2.FeedbackReceived) and position > row.received_position:
        row.received_position = position
        row.fact = b"\x01" + message.fact.SerializeToString()
        row.interaction_id = message.interaction_id
        row.occurred_at = message.occurred_at
        heard = True
    if isinstance(message, feedback_pb2.FeedbackClassified) and position > row.topics_position:
        row.topics_position = position
        row.topics = list(dict.fromkeys(a.topic for a in message.assignments if a.topic))
        heard = True
    # Sorting an item to departments says nothing about whose it is.
    if not isinstance(message, feedback_pb2.FeedbackClassified) and position > row.client_position:
        row.client_position = position
        heard = heard or message.client_id != row.client_id
        row.client_id = message.client_id
    if not heard or not row.fact:
        return
    if known and owner and owner != row.client_id:
        gone = events_pb2.FeedbackWithdrawn(
            client_id=owner, feedback_id=message.feedback_id, feedback_position=position
        )
        yield owner, codec.FEEDBACK_WITHDRAWN, gone.SerializeToString(), row.occurred_at, cause
    if row.client_id:
        noted = events_pb2.FeedbackNoted(
            client_id=row.client_id,
            feedback_id=message.feedback_id,
            interaction_id=row.interaction_id,
            fact=interaction_pb2.FeedbackFact.FromString(row.fact[1:]),
            topics=row.topics,
            feedback_position=max(row.received_position, row.topics_position, row.client_position),
        )
        yield row.client_id, codec.FEEDBACK_NOTED, noted.SerializeToString(), row.occurred_at, cause


def _hear_case(
    row: rows.CaseRow, event: Recorded, message: _Case, cause: Cause
) -> Iterable[tuple[str, str, bytes, int, Cause]]:
    position = event.position
    heard = False
    if isinstance(message, feedback_pb2.CaseOpened) and position > row.opened_position:
        row.opened_position = position
        row.topic, row.acknowledge_by, row.resolve_by = message.topic, message.acknowledge_by, message.resolve_by
        heard = True
    state = _STATES.get(type(message))
    if state is not None and position > row.state_position:
        row.state_position, row.state = position, state
        heard = True
    if (
        isinstance(message, feedback_pb2.CaseOpened | feedback_pb2.CaseReassigned | feedback_pb2.CaseEscalated)
        and position > row.department_position
    ):
        row.department_position, row.department = position, message.department
        heard = True
    if position > row.position:
        row.position, row.event_id = position, event.event_id.hex()
        row.client_id = message.client_id
        heard = True
    if not heard:
        return
    standing = Cause(cause.correlation_id, row.event_id, cause.traceparent)
    case_id = message.case_id
    if row.client_id:
        due_at = row.acknowledge_by if row.state in {"open", "reopened"} and row.acknowledge_by else row.resolve_by
        noted = events_pb2.CaseNoted(
            client_id=row.client_id,
            case_id=case_id,
            department=row.department,
            topic=row.topic,
            state=row.state,
            due_at=due_at,
            feedback_position=row.position,
        )
        yield row.client_id, codec.CASE_NOTED, noted.SerializeToString(), event.occurred_at, standing
