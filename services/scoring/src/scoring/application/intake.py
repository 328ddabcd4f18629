"""What scoring takes from the logs of identity, feedback and journey."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final, Protocol

from scoring.application import messages, rows
from scoring.application.book import Book, Held
from scoring.domain.client import Facts
from scoring.domain.facts import CaseItem, JourneyItem
from scoring.domain.registers import CaseRegister, CaseStep, FeedbackRegister, JourneyRegister, Transition
from throughline.feedback.v1 import events_pb2 as feedback
from throughline.identity.v1 import events_pb2 as identity
from throughline.journey.v1 import events_pb2 as journey
from throughline.scoring.v1 import events_pb2 as pb
from throughline_eventlog import Transaction
from throughline_kernel import Consents, Recorded

FORGOTTEN: Final = identity.ClientForgotten.DESCRIPTOR.full_name

Attribution = identity.InteractionAttributed | identity.InteractionReattributed
_ATTRIBUTIONS: Final[dict[str, type[Attribution]]] = {
    kind.DESCRIPTOR.full_name: kind for kind in (identity.InteractionAttributed, identity.InteractionReattributed)
}


class WhoIsWho(Protocol):
    """Learns from identity's log which client an id means now."""

    def apply(self, tx: Transaction, events: Sequence[Recorded]) -> None:
        """Takes the events."""
        ...

    def consents(self, tx: Transaction, events: Sequence[Recorded]) -> Mapping[str, tuple[Consents, Recorded]]:
        """What holds now of the consents of each client that the events, once taken, may have changed; and by which."""
        ...


class IdentityIntake:
    """Contacts, by the attribution with the highest position, and clients to be forgotten."""

    def __init__(self, book: Book, directory: WhoIsWho) -> None:
        self._book = book
        self._directory = directory

    def rolled_back(self) -> None:
        """Forgets what was held."""
        self._book.rolled_back()

    def __call__(self, tx: Transaction, events: Sequence[Recorded]) -> None:
        """Takes a run of identity's log."""
        self._directory.apply(tx, events)
        said: list[tuple[Recorded, Attribution | identity.ClientForgotten]] = []
        clients: dict[str, None] = {}
        interactions: list[bytes] = []
        for event in events:
            if event.type in _ATTRIBUTIONS:
                attribution: Attribution = _ATTRIBUTIONS[event.type].FromString(event.payload)
                interactions.append(bytes.fromhex(attribution.interaction.interaction_id))
                clients[attribution.client_id] = None
                said.append((event, attribution))
            elif event.type == FORGOTTEN:
                forgotten = identity.ClientForgotten.FromString(event.payload)
                clients.update(dict.fromkeys((forgotten.client_id, *forgotten.alias_ids)))
                said.append((event, forgotten))
        consents = self._directory.consents(tx, events)
        if not said and not consents:
            return
        clients.update(dict.fromkeys(consents))
        owners = {key.hex(): rows.unpack_owner(row) for key, row in tx.get_many(rows.OWNERS, interactions).items()}
        clients.update(dict.fromkeys(owner for owner, _ in owners.values() if owner != rows.NOBODY))
        self._book.hold(tx, clients)
        moved: dict[str, tuple[str, int]] = {}
        for event, message in said:
            if isinstance(message, identity.ClientForgotten):
                self._write_owners(tx, moved)
                moved = {}
                for client_id in (message.client_id, *message.alias_ids):
                    gone = self._forget(tx, self._book[client_id], event)
                    owners.update(dict.fromkeys(gone, (rows.NOBODY, event.position)))
            else:
                self._attribute(tx, event, message, owners, moved)
        self._write_owners(tx, moved)
        for client_id, (holding, event) in consents.items():
            self._consent(self._book[client_id], holding, event)
        self._book.write(tx, events[-1])

    def _consent(self, held: Held, holding: Consents, event: Recorded) -> None:
        book, client = self._book, held.client
        if client.consents == holding:
            return
        client.note_consents(holding, book.tally, book.metrics)
        noted = messages.consent_noted(client.client_id, holding, event.position).SerializeToString()
        book.append(held, messages.CONSENT_NOTED, noted, event.occurred_at, event)

    @staticmethod
    def _write_owners(tx: Transaction, moved: dict[str, tuple[str, int]]) -> None:
        tx.put_many(
            rows.OWNERS,
            {bytes.fromhex(key): rows.pack_owner(*owner) for key, owner in moved.items()},
        )

    def _attribute(
        self,
        tx: Transaction,
        event: Recorded,
        message: Attribution,
        owners: dict[str, tuple[str, int]],
        moved: dict[str, tuple[str, int]],
    ) -> None:
        book, facts = self._book, message.interaction
        interaction_id, position = facts.interaction_id, event.position
        known = owners.get(interaction_id)
        if known is not None and known[1] >= position:
            return
        held = book[message.client_id]
        # An attribution from before its client was forgotten takes the contact from whoever had it, and gives it to
        # nobody.
        owner = rows.NOBODY if held.head.forgotten >= position else message.client_id
        owners[interaction_id] = moved[interaction_id] = (owner, position)
        if known is not None and known[0] == owner:
            return
        if known is not None and known[0] != rows.NOBODY:
            before = book[known[0]]
            tx.put(rows.FORMER, bytes.fromhex(interaction_id) + bytes.fromhex(known[0]), b"")
            before.client.withdraw_contact(interaction_id, book.tally, book.metrics)
            withdrawn = pb.ContactWithdrawn(
                client_id=known[0], interaction_id=interaction_id, attribution_position=position
            )
            book.append(before, messages.CONTACT_WITHDRAWN, withdrawn.SerializeToString(), facts.occurred_at, event)
        if owner == rows.NOBODY:
            return
        held.client.note_contact(messages.contact_of(facts), book.tally, book.metrics)
        noted = pb.ContactNoted(client_id=message.client_id, interaction=facts, attribution_position=position)
        book.append(held, messages.CONTACT_NOTED, noted.SerializeToString(), facts.occurred_at, event)

    def _forget(self, tx: Transaction, held: Held, event: Recorded) -> list[str]:
        """Drops the client up to the event's position; what was said after it (or came early) is noted again."""
        head, client, book = held.head, held.client, self._book
        if head.forgotten >= event.position:
            return []
        head.forgotten = event.position
        book.touch(held)
        survivors = _Survivors(tx, held, book.queued(held))
        facts = client.facts()
        client.clear(book.tally, book.metrics)
        dropped = pb.ClientDropped(client_id=client.client_id, identity_position=event.position)
        book.append(held, messages.CLIENT_DROPPED, dropped.SerializeToString(), event.occurred_at, event)
        gone: list[str] = []
        lasting = survivors.contacts(contact.interaction_id for contact in facts.contacts)
        for contact in facts.contacts:
            if contact.interaction_id in lasting:
                client.note_contact(contact, book.tally, book.metrics)
                again = survivors.noted(contact.interaction_id)
                book.append(held, messages.CONTACT_NOTED, again, contact.at, event)
            else:
                gone.append(contact.interaction_id)
                tx.put(rows.OWNERS, bytes.fromhex(contact.interaction_id), rows.pack_owner(rows.NOBODY, event.position))
        self._keep(tx, held, facts, survivors, event)
        return gone

    def _keep(self, tx: Transaction, held: Held, facts: Facts, survivors: _Survivors, event: Recorded) -> None:
        """Notes again what feedback and journey said after they dropped the client; the rest is nobody's."""
        client, book = held.client, self._book
        for item in facts.feedback:
            if survivors.feedback(item.feedback_id):
                client.note_feedback(item, book.tally)
                scored = messages.scored(client.client_id, item, 0).SerializeToString()
                book.append(held, messages.FEEDBACK_SCORED, scored, item.at, event)
            else:
                _orphaned(tx, item.feedback_id)
        for known in facts.cases:
            case = survivors.case(known.case_id)
            if case is not None:
                client.note_case(case, book.tally)
                noted = messages.case_noted(client.client_id, case, 0).SerializeToString()
                book.append(held, messages.CASE_NOTED, noted, case.opened_at, event)
            else:
                tx.delete(rows.CASES, bytes.fromhex(known.case_id))
        for told_before in facts.journeys:
            journey_item = survivors.journey(told_before.journey_id)
            if journey_item is not None:
                client.note_journey(journey_item, book.tally, book.metrics)
                told = messages.journey_noted(client.client_id, journey_item, 0).SerializeToString()
                book.append(held, messages.JOURNEY_NOTED, told, journey_item.started_at, event)
            else:
                tx.delete(rows.JOURNEYS, bytes.fromhex(told_before.journey_id))


class _Survivors:
    """Which facts of a client were said after it was dropped, by each upstream's own position."""

    def __init__(self, tx: Transaction, held: Held, queued: Sequence[tuple[str, bytes]] = ()) -> None:
        self._tx = tx
        self._queued = queued
        self._head = held.head
        self._stream_id = held.stream_id
        self._payloads: dict[str, bytes] | None = None

    def contacts(self, interaction_ids: Iterable[str]) -> set[str]:
        """Those attributed after the drop."""
        keys = [bytes.fromhex(interaction_id) for interaction_id in interaction_ids]
        return {
            key.hex()
            for key, row in self._tx.get_many(rows.OWNERS, keys).items()
            if rows.unpack_owner(row)[1] > self._head.forgotten
        }

    def noted(self, interaction_id: str) -> bytes:
        """The event that noted the contact, as it was."""
        if self._payloads is None:
            logged = [(event.type, event.payload) for event in self._tx.read_stream(self._stream_id)]
            self._payloads = {
                pb.ContactNoted.FromString(payload).interaction.interaction_id: payload
                for event_type, payload in (*logged, *self._queued)
                if event_type == messages.CONTACT_NOTED
            }
        return self._payloads[interaction_id]

    def feedback(self, feedback_id: str) -> bool:
        """Whether feedback said it after it dropped the client."""
        row = self._tx.get(rows.FEEDBACK, bytes.fromhex(feedback_id))
        return row is not None and 0 < self._head.feedback_dropped < rows.unpack_feedback(row).last_position

    def case(self, case_id: str) -> CaseItem | None:
        """What stands of the case by what feedback said after it dropped the client."""
        row = self._tx.get(rows.CASES, bytes.fromhex(case_id))
        if row is None or not self._head.feedback_dropped:
            return None
        case = rows.unpack_case(row).present(case_id, self._head.feedback_dropped)
        return None if case is None or case.state == "withdrawn" else case

    def journey(self, journey_id: str) -> JourneyItem | None:
        """What stands of the journey by what journey said after it dropped the client."""
        row = self._tx.get(rows.JOURNEYS, bytes.fromhex(journey_id))
        if row is None or not self._head.journey_dropped:
            return None
        item = rows.unpack_journey(row).present(journey_id, self._head.journey_dropped)
        return None if item is None or item.state == "retracted" else item


def _orphaned(tx: Transaction, feedback_id: str) -> FeedbackRegister:
    """Cuts the link between an item and its client; it may still turn out to have been another client's all along."""
    key = bytes.fromhex(feedback_id)
    row = tx.get(rows.FEEDBACK, key)
    register = FeedbackRegister() if row is None else rows.unpack_feedback(row)
    register.owner, register.noted = rows.NOBODY, ""
    tx.put(rows.FEEDBACK, key, rows.pack_register(register))
    return register


def _dead(position: int, dropped: int, forgotten: int) -> bool:
    """Whether a fact counts no more: said before its own log dropped the client, or before it will."""
    return position <= dropped or (forgotten > 0 and dropped == 0)


class FeedbackIntake:
    """Items of feedback with their departments, and cases."""

    def __init__(self, book: Book) -> None:
        self._book = book

    def rolled_back(self) -> None:
        """Forgets what was held."""
        self._book.rolled_back()

    def __call__(self, tx: Transaction, events: Sequence[Recorded]) -> None:
        """Takes a run of feedback's log."""
        said: list[tuple[Recorded, _Said]] = []
        items: set[str] = set()
        cases: set[str] = set()
        for event in events:
            kind = _FEEDBACK_EVENTS.get(event.type)
            if kind is None:
                continue
            message = kind.FromString(event.payload)
            said.append((event, message))
            if isinstance(message, _ITEM_EVENTS):
                items.add(message.feedback_id)
            elif not isinstance(message, feedback.ClientDropped):
                cases.add(message.case_id)
        if not said:
            return
        found = tx.get_many(rows.FEEDBACK, [bytes.fromhex(key) for key in items])
        item_registers = {key.hex(): rows.unpack_feedback(row) for key, row in found.items()}
        found = tx.get_many(rows.CASES, [bytes.fromhex(key) for key in cases])
        case_registers = {key.hex(): rows.unpack_case(row) for key, row in found.items()}
        clients = dict.fromkeys(message.client_id for _, message in said)
        clients.update(dict.fromkeys(each.noted for each in item_registers.values() if each.noted))
        clients.update(dict.fromkeys(each.owner for each in item_registers.values() if each.owner))
        clients.update(dict.fromkeys(each.client for each in case_registers.values()))
        self._book.hold(tx, clients)
        for event, message in said:
            if isinstance(message, feedback.ClientDropped):
                self._dropped(tx, message.client_id, event, item_registers, case_registers)
            elif isinstance(message, _ITEM_EVENTS):
                self._item(event, message, item_registers)
            else:
                self._case(event, message, case_registers)
        self._write(tx, item_registers, case_registers)
        self._book.write(tx, events[-1])

    @staticmethod
    def _write(tx: Transaction, items: dict[str, FeedbackRegister], cases: dict[str, CaseRegister]) -> None:
        tx.put_many(rows.FEEDBACK, {bytes.fromhex(key): rows.pack_register(each) for key, each in items.items()})
        tx.put_many(rows.CASES, {bytes.fromhex(key): rows.pack_register(each) for key, each in cases.items()})

    def _item(self, event: Recorded, message: _ItemSaid, registers: dict[str, FeedbackRegister]) -> None:
        book, position = self._book, event.position
        head = book[message.client_id].head
        dead = _dead(position, head.feedback_dropped, head.forgotten)
        register = registers.setdefault(message.feedback_id, FeedbackRegister())
        # What was said before its client was dropped takes the item from whoever had it, and gives it to nobody.
        owner = rows.NOBODY if dead else message.client_id
        match message:
            case feedback.FeedbackReceived():
                register.received(owner, messages.feedback_of(message), (message.attribution_position, position))
            case feedback.FeedbackReassigned():
                register.reassigned(owner, (message.attribution_position, position))
            case _:
                # Which departments own an item says nothing of its client.
                departments = dict.fromkeys(each.department for each in message.assignments if each.department)
                register.classified(tuple(sorted(departments)), position)
        self._tell(event, message.feedback_id, registers)

    def _tell(self, event: Recorded, feedback_id: str, registers: dict[str, FeedbackRegister]) -> None:
        """Writes down what the register makes of the item now."""
        book, position, register = self._book, event.position, registers[feedback_id]
        item = register.present()
        if item is None or not register.owner:
            return
        if register.noted and register.noted != register.owner:
            before = book[register.noted]
            before.client.withdraw_feedback(item.feedback_id, book.tally)
            withdrawn = pb.FeedbackWithdrawn(
                client_id=register.noted, feedback_id=item.feedback_id, feedback_position=position
            )
            book.append(before, messages.FEEDBACK_WITHDRAWN, withdrawn.SerializeToString(), item.at, event)
        if register.owner == rows.NOBODY:
            register.noted = ""
            return
        held = book[register.owner]
        register.noted = register.owner
        if held.client.item(item.feedback_id) != item:
            held.client.note_feedback(item, book.tally)
            scored = messages.scored(register.owner, item, position).SerializeToString()
            book.append(held, messages.FEEDBACK_SCORED, scored, item.at, event)

    def _case(self, event: Recorded, message: _CaseSaid, registers: dict[str, CaseRegister]) -> None:
        book, position = self._book, event.position
        held = book[message.client_id]
        if _dead(position, held.head.feedback_dropped, held.head.forgotten):
            return
        register = registers.setdefault(message.case_id, CaseRegister())
        what = _CASE_STEPS[event.type]
        department = (
            message.department
            if isinstance(message, feedback.CaseOpened | feedback.CaseReassigned | feedback.CaseEscalated)
            else ""
        )
        channel = message.channel if isinstance(message, feedback.CaseOpened) else ""
        step = CaseStep(what, event.occurred_at, event.event_id.hex(), department, channel)
        register.said(message.client_id, step, position)
        case = register.present(message.case_id, held.head.feedback_dropped)
        known = held.client.case(message.case_id)
        if case is None or case == known or (known is None and case.state == "withdrawn"):
            return
        held.client.note_case(case, book.tally)
        noted = messages.case_noted(message.client_id, case, position).SerializeToString()
        book.append(held, messages.CASE_NOTED, noted, event.occurred_at, event)

    def _dropped(
        self,
        tx: Transaction,
        client_id: str,
        event: Recorded,
        items: dict[str, FeedbackRegister],
        cases: dict[str, CaseRegister],
    ) -> None:
        """Feedback dropped the client: what it said up to here never counts again."""
        book, held = self._book, self._book[client_id]
        if held.head.feedback_dropped >= event.position:
            return
        held.head.feedback_dropped = event.position
        book.touch(held)
        self._write(tx, items, cases)
        survivors = _Survivors(tx, held)
        for item in held.client.facts().feedback:
            if survivors.feedback(item.feedback_id):
                continue
            held.client.withdraw_feedback(item.feedback_id, book.tally)
            withdrawn = pb.FeedbackWithdrawn(
                client_id=client_id, feedback_id=item.feedback_id, feedback_position=event.position
            )
            book.append(held, messages.FEEDBACK_WITHDRAWN, withdrawn.SerializeToString(), item.at, event)
            items[item.feedback_id] = _orphaned(tx, item.feedback_id)
        for case in held.client.facts().cases:
            left = survivors.case(case.case_id)
            if left == case:
                continue
            now = left or case._replace(state="withdrawn")
            held.client.note_case(now, book.tally)
            noted = messages.case_noted(client_id, now, event.position).SerializeToString()
            book.append(held, messages.CASE_NOTED, noted, event.occurred_at, event)
            if left is None:
                cases.pop(case.case_id, None)
                tx.delete(rows.CASES, bytes.fromhex(case.case_id))


_ItemSaid = feedback.FeedbackReceived | feedback.FeedbackReassigned | feedback.FeedbackClassified
_CaseSaid = (
    feedback.CaseOpened
    | feedback.CaseAcknowledged
    | feedback.CaseReassigned
    | feedback.CaseEscalated
    | feedback.CaseResolved
    | feedback.CaseReopened
    | feedback.CaseWithdrawn
)
_Said = _ItemSaid | _CaseSaid | feedback.ClientDropped
_ITEM_EVENTS = (feedback.FeedbackReceived, feedback.FeedbackReassigned, feedback.FeedbackClassified)
_CASE_EVENTS: dict[type[_CaseSaid], str] = {
    feedback.CaseOpened: "opened",
    feedback.CaseAcknowledged: "acknowledged",
    feedback.CaseReassigned: "moved",
    feedback.CaseEscalated: "moved",
    feedback.CaseResolved: "resolved",
    feedback.CaseReopened: "reopened",
    feedback.CaseWithdrawn: "withdrawn",
}
_CASE_STEPS = {kind.DESCRIPTOR.full_name: what for kind, what in _CASE_EVENTS.items()}
_FEEDBACK_EVENTS: dict[str, type[_Said]] = {
    kind.DESCRIPTOR.full_name: kind for kind in (*_ITEM_EVENTS, *_CASE_EVENTS, feedback.ClientDropped)
}

_Announced = journey.JourneyStarted | journey.StageReached | journey.JourneyCompleted | journey.JourneyAbandoned
_WHATS: dict[type[_Announced], str] = {
    journey.JourneyStarted: "started",
    journey.StageReached: "reached",
    journey.JourneyCompleted: "completed",
    journey.JourneyAbandoned: "abandoned",
}
_ANNOUNCED: dict[str, type[_Announced]] = {kind.DESCRIPTOR.full_name: kind for kind in _WHATS}
_NAMED: Final = frozenset(kind.DESCRIPTOR.name for kind in _WHATS)
"""What a retraction calls the transitions that journeys are made of: by their names, without the package."""
_RETRACTED: Final = journey.TransitionRetracted.DESCRIPTOR.full_name
_JOURNEY_DROPPED: Final = journey.ClientDropped.DESCRIPTOR.full_name


class JourneyIntake:
    """Journeys as they stand after every transition and retraction."""

    def __init__(self, book: Book) -> None:
        self._book = book

    def rolled_back(self) -> None:
        """Forgets what was held."""
        self._book.rolled_back()

    def __call__(self, tx: Transaction, events: Sequence[Recorded]) -> None:
        """Takes a run of journey's log."""
        announced: dict[int, _Announced] = {}
        retracted: dict[int, journey.TransitionRetracted] = {}
        dropped: dict[int, journey.ClientDropped] = {}
        for index, event in enumerate(events):
            kind = _ANNOUNCED.get(event.type)
            if kind is not None:
                announced[index] = kind.FromString(event.payload)
            elif event.type == _RETRACTED:
                retracted[index] = journey.TransitionRetracted.FromString(event.payload)
            elif event.type == _JOURNEY_DROPPED:
                dropped[index] = journey.ClientDropped.FromString(event.payload)
        said = {**announced, **retracted, **dropped}
        if not said:
            return
        named = {events[index].event_id for index in announced}
        named |= {bytes.fromhex(message.event_id) for message in retracted.values()}
        places = tx.get_many(rows.TRANSITIONS, named)
        registers = self._registers(tx, announced.values(), places.values())
        clients = dict.fromkeys(message.client_id for message in said.values())
        clients.update(dict.fromkeys(each.client for each in registers.values() if each.client))
        self._book.hold(tx, clients)
        for index in sorted(said):
            event = events[index]
            if index in announced:
                self._announced(event, announced[index], registers, places)
            elif index in retracted:
                self._retracted(event, retracted[index], registers, places)
            else:
                self._write(tx, registers)
                self._drop(tx, dropped[index].client_id, event, registers)
        self._write(tx, registers)
        tx.put_many(rows.TRANSITIONS, places)
        self._book.write(tx, events[-1])

    @staticmethod
    def _registers(
        tx: Transaction, announced: Collection[_Announced], places: Collection[bytes]
    ) -> dict[str, JourneyRegister]:
        """The registers by journey id. A place is a journey id, or a retraction (8 bytes) that came before what it
        retracts.
        """
        keys = {bytes.fromhex(message.journey_id) for message in announced}
        keys |= {place for place in places if len(place) == 16}
        found = tx.get_many(rows.JOURNEYS, keys)
        return {key.hex(): rows.unpack_journey(found[key]) if key in found else JourneyRegister() for key in keys}

    @staticmethod
    def _write(tx: Transaction, registers: dict[str, JourneyRegister]) -> None:
        tx.put_many(
            rows.JOURNEYS,
            {bytes.fromhex(key): rows.pack_register(each) for key, each in registers.items() if each.client},
        )

    def _announced(
        self,
        event: Recorded,
        message: _Announced,
        registers: dict[str, JourneyRegister],
        places: dict[bytes, bytes],
    ) -> None:
        held = self._book[message.client_id]
        if _dead(event.position, held.head.journey_dropped, held.head.forgotten):
            return
        register = registers.setdefault(message.journey_id, JourneyRegister())
        interaction_id = (
            message.last_interaction_id if isinstance(message, journey.JourneyAbandoned) else message.interaction_id
        )
        channel = message.channel if isinstance(message, journey.JourneyStarted | journey.StageReached) else ""
        event_id = event.event_id.hex()
        place = places.get(event.event_id)
        if place is not None and len(place) == 8:
            register.retracted(event_id, int.from_bytes(place, "big"))
        places[event.event_id] = bytes.fromhex(message.journey_id)
        transition = Transition(
            event.position,
            alive=True,
            what=_WHATS[type(message)],
            at=event.occurred_at,
            interaction_id=interaction_id,
            channel=channel,
        )
        register.announced(message.client_id, message.journey, event_id, transition)
        self._tell(event, message.journey_id, register)

    def _retracted(
        self,
        event: Recorded,
        message: journey.TransitionRetracted,
        registers: dict[str, JourneyRegister],
        places: dict[bytes, bytes],
    ) -> None:
        held = self._book[message.client_id]
        if message.event_type not in _NAMED or _dead(event.position, held.head.journey_dropped, held.head.forgotten):
            return
        key = bytes.fromhex(message.event_id)
        place = places.get(key, b"")
        if len(place) == 16:
            register = registers.setdefault(place.hex(), JourneyRegister())
            register.retracted(message.event_id, event.position)
            self._tell(event, place.hex(), register)
        else:
            places[key] = max(place, event.position.to_bytes(8, "big"))

    def _tell(self, event: Recorded, journey_id: str, register: JourneyRegister) -> None:
        book = self._book
        if not register.client:
            return
        held = book[register.client]
        item = register.present(journey_id, held.head.journey_dropped)
        if item is None:
            return
        known = held.client.journey(journey_id)
        if item == known or (known is None and item.state == "retracted"):
            return
        held.client.note_journey(item, book.tally, book.metrics)
        noted = messages.journey_noted(register.client, item, event.position).SerializeToString()
        book.append(held, messages.JOURNEY_NOTED, noted, event.occurred_at, event)

    def _drop(self, tx: Transaction, client_id: str, event: Recorded, registers: dict[str, JourneyRegister]) -> None:
        """Journey dropped the client: what it said up to here never counts again."""
        book, held = self._book, self._book[client_id]
        if held.head.journey_dropped >= event.position:
            return
        held.head.journey_dropped = event.position
        book.touch(held)
        survivors = _Survivors(tx, held)
        for item in held.client.facts().journeys:
            left = survivors.journey(item.journey_id)
            if left == item:
                continue
            now = left or item._replace(state="retracted")
            held.client.note_journey(now, book.tally, book.metrics)
            noted = messages.journey_noted(client_id, now, event.position).SerializeToString()
            book.append(held, messages.JOURNEY_NOTED, noted, event.occurred_at, event)
            if left is None:
                registers.pop(item.journey_id, None)
                tx.delete(rows.JOURNEYS, bytes.fromhex(item.journey_id))
