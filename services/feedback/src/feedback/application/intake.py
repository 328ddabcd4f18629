"""Takes what identity publishes: items, moves between clients, and what must be forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from feedback.application import tables
from feedback.application.desk import Cause, Changes, Desk, bind, item_bindings, unbind
from feedback.application.ports import Clients, SealedWords, Words
from throughline.feedback.v1 import events_pb2 as feedback
from throughline.identity.v1 import events_pb2 as identity
from throughline_eventlog import Transaction
from throughline_kernel import Recorded, hex_id

ATTRIBUTED: Final = identity.InteractionAttributed.DESCRIPTOR.full_name
REATTRIBUTED: Final = identity.InteractionReattributed.DESCRIPTOR.full_name
LINKED: Final = identity.IdentifierLinked.DESCRIPTOR.full_name
DEMOTED: Final = identity.IdentifierDemoted.DESCRIPTOR.full_name
OPENED: Final = identity.ClientOpened.DESCRIPTOR.full_name
MERGED: Final = identity.ClientsMerged.DESCRIPTOR.full_name
UNDONE: Final = identity.MergeUndone.DESCRIPTOR.full_name
FORGOTTEN: Final = identity.ClientForgotten.DESCRIPTOR.full_name

_Attribution = identity.InteractionAttributed | identity.InteractionReattributed


def cause_of(event: Recorded) -> Cause:
    """What follows from an upstream event says so."""
    return Cause(event.correlation_id, event.event_id.hex(), event.traceparent)


def interaction_feedback_id(interaction_id: str, entry: int) -> str:
    """The id of an entry of an interaction."""
    return hex_id("feedback", interaction_id, str(entry))


class Intake:
    """Handles chunks of identity's log, in the consumer's transaction (law 4)."""

    def __init__(self, desk: Desk, words: Words, clients: Clients) -> None:
        self._desk = desk
        self._words = words
        self._clients = clients

    def __call__(self, tx: Transaction, events: Sequence[Recorded]) -> None:
        """Takes a chunk."""
        self._clients.apply(tx, events)
        changes = self._desk.open(tx)
        chunk = _Chunk(changes, self._words)
        for event in events:
            if event.type == ATTRIBUTED:
                chunk.attribute(event, identity.InteractionAttributed.FromString(event.payload))
            elif event.type == REATTRIBUTED:
                chunk.attribute(event, identity.InteractionReattributed.FromString(event.payload))
            elif event.type == FORGOTTEN:
                chunk.take()
                self._forget(changes, event, identity.ClientForgotten.FromString(event.payload))
            elif event.type in _TOUCHING:
                chunk.touched.update(dict.fromkeys(_TOUCHING[event.type](event.payload)))
        chunk.take()
        if events:
            self._rebind(changes, chunk.touched, events[-1])
        changes.write()

    def rolled_back(self) -> None:
        """Drops what was remembered."""
        self._desk.rolled_back()

    def _forget(self, changes: Changes, event: Recorded, message: identity.ClientForgotten) -> None:
        """Destroys the keys before anything commits: done twice is done, committed first it might never be."""
        changes.write()
        keys = set(message.persona_ids)
        for client_id in (message.client_id, *message.alias_ids):
            keys.update(changes.drop(client_id, event.position, cause_of(event)))
        for identifier in message.identifiers:
            changes.delete(tables.BINDINGS, tables.bind_identifier(identifier.type, identifier.hash))
        for interaction_id in message.interaction_ids:
            changes.delete(tables.INTERACTIONS, bytes.fromhex(interaction_id))
        self._words.destroy(keys)
        changes.write()

    def _rebind(self, changes: Changes, touched: dict[bytes, None], last: Recorded) -> None:
        """Direct submissions whose client may be another one now, or be known at last."""
        tx = changes.tx
        if not touched:
            return
        bound = tx.get_many(tables.BINDINGS, list(touched))
        feedback_ids = sorted({each for row in bound.values() for each in tables.feedback_ids(row)})
        if not feedback_ids:
            return
        changes.write()
        places = tx.get_many(tables.PLACES, [bytes.fromhex(each) for each in feedback_ids])
        for feedback_id in feedback_ids:
            row = places.get(bytes.fromhex(feedback_id))
            owner = tables.unpack_place(row).owner if row else tables.NOBODY
            if owner == tables.NOBODY:
                continue
            record = changes.draft_record(owner, feedback_id)
            client_id = client_of(changes, self._clients, record.message())
            before = record.client_id
            if client_id != before and changes.move(feedback_id, owner, client_id, last.position, cause_of(last)):
                if before:
                    unbind(changes, tables.bind_owner(before), feedback_id)
                if client_id:
                    bind(changes, tables.bind_owner(client_id), feedback_id)


def client_of(changes: Changes, clients: Clients, received: feedback.FeedbackReceived) -> str:
    """Whose a direct submission is now: by the client id it named, else its interaction, else its identifiers."""
    tx = changes.tx
    if received.stated_client_id:
        return clients.resolve(tx, received.stated_client_id, ())
    if received.interaction_id:
        row = tx.get(tables.INTERACTIONS, bytes.fromhex(received.interaction_id))
        if row is not None:
            return row[:16].hex()
    if received.identifiers:
        return clients.resolve(tx, "", [(each.type, each.hash) for each in received.identifiers])
    return ""


def bind_everywhere(changes: Changes, received: feedback.FeedbackReceived) -> None:
    """Hangs a direct submission on everything that may tell whose it is."""
    for binding in item_bindings(received):
        bind(changes, binding, received.feedback_id)
    if received.client_id:
        bind(changes, tables.bind_owner(received.client_id), received.feedback_id)


class _Chunk:
    """Attributions of one chunk, taken together so that a look-up serves many."""

    def __init__(self, changes: Changes, words: Words) -> None:
        self.touched: dict[bytes, None] = {}
        self._changes = changes
        self._words = words
        self._carrying: list[tuple[Recorded, _Attribution, list[str]]] = []
        self._interactions: dict[bytes, bytes] = {}

    def attribute(self, event: Recorded, message: _Attribution) -> None:
        """Notes whose interaction it is; those with feedback wait for `take`."""
        facts = message.interaction
        interaction_id = bytes.fromhex(facts.interaction_id)
        self._interactions[interaction_id] = bytes.fromhex(message.client_id) + tables.number(event.position)
        self.touched[b"i" + interaction_id] = None
        if facts.feedback:
            ids = [interaction_feedback_id(facts.interaction_id, entry) for entry in range(len(facts.feedback))]
            self._carrying.append((event, message, ids))

    def take(self) -> None:
        """Takes what was noted."""
        changes = self._changes
        self._note_interactions()
        if not self._carrying:
            return
        ids = [bytes.fromhex(each) for _, _, feedback_ids in self._carrying for each in feedback_ids]
        places = changes.tx.get_many(tables.PLACES, ids)
        changes.load({bytes.fromhex(message.client_id): message.client_id for _, message, _ in self._carrying})
        words = self._open(places)
        for event, message, feedback_ids in self._carrying:
            cause = cause_of(event)
            for entry, feedback_id in enumerate(feedback_ids):
                owner = changes.owner_of_item(feedback_id)
                if owner is None and (row := places.get(bytes.fromhex(feedback_id))) is not None:
                    owner = tables.unpack_place(row).owner
                if owner is None:
                    received = _received(event, message, entry, feedback_id)
                    changes.receive(received, words.get(feedback_id, ""), cause)
                elif owner != tables.NOBODY:
                    changes.move(feedback_id, owner, message.client_id, event.position, cause)
        self._carrying = []
        changes.write()

    def _note_interactions(self) -> None:
        """The attribution with the highest position holds, also where an older one is tried again later."""
        tx = self._changes.tx
        if not self._interactions:
            return
        for key, row in tx.get_many(tables.INTERACTIONS, list(self._interactions)).items():
            if row[16:] > self._interactions[key][16:]:
                del self._interactions[key]
        tx.put_many(tables.INTERACTIONS, self._interactions)
        self._interactions = {}

    def _open(self, places: dict[bytes, bytes]) -> dict[str, str]:
        """The words of new items, where any route reads them."""
        if not self._changes.desk.router.reads_words:
            return {}
        wanted: dict[str, tuple[SealedWords, int]] = {}
        for _, message, feedback_ids in self._carrying:
            if not message.HasField("personal"):
                continue
            for entry, fact in enumerate(message.interaction.feedback):
                if fact.has_verbatim and bytes.fromhex(feedback_ids[entry]) not in places:
                    sealed = SealedWords(message.personal.key_id, message.personal.box)
                    wanted[feedback_ids[entry]] = (sealed, entry)
        opened = self._words.open_many(list(wanted.values()))
        return {feedback_id: text or "" for feedback_id, text in zip(wanted, opened, strict=True)}


def _received(event: Recorded, message: _Attribution, entry: int, feedback_id: str) -> feedback.FeedbackReceived:
    facts = message.interaction
    fact = facts.feedback[entry]
    received = feedback.FeedbackReceived(
        feedback_id=feedback_id,
        client_id=message.client_id,
        interaction_id=facts.interaction_id,
        source=facts.source,
        channel=facts.channel,
        touchpoint=facts.touchpoint,
        matter=facts.matter,
        occurred_at=facts.occurred_at,
        fact=fact,
        attributes=facts.attributes,
        attribution_position=event.position,
        traits=facts.traits,
        sequence=facts.sequence,
        entry=entry,
    )
    if fact.has_verbatim and message.HasField("personal"):
        received.verbatim.CopyFrom(message.personal)
    return received


def _linked(payload: bytes) -> list[bytes]:
    message = identity.IdentifierLinked.FromString(payload)
    return [tables.bind_identifier(message.identifier.type, message.identifier.hash)]


def _demoted(payload: bytes) -> list[bytes]:
    message = identity.IdentifierDemoted.FromString(payload)
    return [tables.bind_identifier(message.identifier.type, message.identifier.hash)]


def _opened(payload: bytes) -> list[bytes]:
    message = identity.ClientOpened.FromString(payload)
    return [tables.bind_client(message.client_id)]


def _merged(payload: bytes) -> list[bytes]:
    message = identity.ClientsMerged.FromString(payload)
    return _of_clients(message.client_id, message.merged_client_id)


def _undone(payload: bytes) -> list[bytes]:
    message = identity.MergeUndone.FromString(payload)
    return _of_clients(message.client_id, message.restored_client_id)


def _of_clients(*client_ids: str) -> list[bytes]:
    return [
        binding for client_id in client_ids for binding in (tables.bind_client(client_id), tables.bind_owner(client_id))
    ]


_TOUCHING: Final = {LINKED: _linked, DEMOTED: _demoted, OPENED: _opened, MERGED: _merged, UNDONE: _undone}
"""Which bindings an event of identity's may change the meaning of, by type."""
