"""What people decide about clients. Each command is one transaction, every re-attribution included."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Final

from identity.application import messages
from identity.application.ledger import Ledger, stream_of
from identity.application.messages import Cause
from identity.application.records import (
    ALIAS,
    CLIENT_MERGES,
    CLIENT_PROPOSALS,
    CONSTRAINTS,
    FORGOTTEN,
    GONE,
    HOLDERS,
    MEMBERS,
    PERSONAS,
    ClientRow,
    ConsentRow,
    ConstraintRow,
    IdentifierRow,
    MergeRow,
    PersonaRow,
    consent_key,
    present_client,
)
from identity.application.rulebook import Rulebook, rules_event_id
from identity.application.settlement import DecidedMerge, Neighbourhood, Settlement
from identity.domain.personas import decided_merge_id
from identity.domain.refusals import (
    AlreadyOneClientError,
    MergeAlreadyUndoneError,
    MergeNotFoundError,
    RulesChangedError,
)
from identity.domain.resolution import MANUAL, Basis, Resolution, resolve, standing
from identity.domain.resolution import Decisions as Standing
from identity.domain.rules import Rules, RuleSet, check_rules
from throughline.identity.v1 import events_pb2 as pb
from throughline_eventlog import Transaction
from throughline_kernel import Refusal, hex_id

_PAGE: Final = 500


@dataclass(frozen=True, slots=True)
class MergeClients:
    """Makes two clients one. Ids have 16 bytes and may be aliases.

    `speakers` are the personas, one of either client, that the decision is about where that is known already.
    """

    client_id: bytes
    other_client_id: bytes
    decided_by: str
    reason: str
    traceparent: str = ""
    speakers: tuple[bytes, bytes] | None = None


@dataclass(frozen=True, slots=True)
class UndoMerge:
    """Undoes a merge, automatic or decided."""

    merge_id: bytes
    decided_by: str
    reason: str
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class RecordConsent:
    """Notes what the client said about a purpose."""

    client_id: bytes
    purpose: str
    granted: bool
    source: str
    scope: str
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class ForgetClient:
    """Drops the client from everything but the log."""

    client_id: bytes
    reason: str
    decided_by: str
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class PublishRules:
    """Puts other rules into force. A version of 0 means whatever comes next."""

    rules: RuleSet
    published_by: str
    traceparent: str = ""


Command = MergeClients | UndoMerge | RecordConsent | ForgetClient | PublishRules


@dataclass(frozen=True, slots=True)
class Merged:
    """The clients are one."""

    merge_id: bytes
    client_id: bytes
    reattributed: int


@dataclass(frozen=True, slots=True)
class Undone:
    """The merge counts no more. Both ids are the same where something else still joins the two."""

    client_id: bytes
    restored_client_id: bytes
    reattributed: int


@dataclass(frozen=True, slots=True)
class Consented:
    """The consent is noted."""


@dataclass(frozen=True, slots=True)
class Forgotten:
    """The client is forgotten; the keys of these personas are to be destroyed."""

    personas: tuple[bytes, ...]
    identifiers: int
    interactions: int


@dataclass(frozen=True, slots=True)
class Published:
    """The rules are in force, and all history was decided again."""

    version: int
    reattributed: int


Outcome = Merged | Undone | Consented | Forgotten | Published


@dataclass(frozen=True, slots=True)
class Decision:
    """What became of a command, and the log's position after it."""

    outcome: Outcome
    position: int


class Decisions:
    """Carries out commands in the writer. A refused command changes nothing."""

    def __init__(self, rulebook: Rulebook) -> None:
        self._rulebook = rulebook

    def __call__(self, tx: Transaction, items: Sequence[Command], /) -> Sequence[Decision | Refusal]:
        """One decision or refusal per command."""
        results: list[Decision | Refusal] = []
        for command in items:
            ledger = Ledger(tx)
            try:
                outcome = self._decide(ledger, command)
            except Refusal as refusal:
                results.append(refusal)
                continue
            ledger.flush()
            results.append(Decision(outcome, tx.last_position()))
        return results

    def rolled_back(self) -> None:
        """Nothing is kept between transactions."""

    def _decide(self, ledger: Ledger, command: Command) -> Outcome:
        match command:
            case MergeClients():
                return self._merge(ledger, command)
            case UndoMerge():
                return self._undo(ledger, command)
            case RecordConsent():
                return self._consent(ledger, command)
            case ForgetClient():
                return self._forget(ledger, command)
            case PublishRules():
                return self._publish(ledger, command)

    def _settlement(self, ledger: Ledger, event_id: bytes, traceparent: str) -> Settlement:
        cause = Cause(
            event_id=event_id,
            at=ledger.tx.now,
            correlation_id=event_id.hex(),
            causation_id=event_id.hex(),
            traceparent=traceparent,
        )
        return Settlement(ledger, self._rulebook.current(ledger.tx), cause)

    def _merge(self, ledger: Ledger, command: MergeClients) -> Merged:
        one, other = _present(ledger, command.client_id), _present(ledger, command.other_client_id)
        if one == other:
            raise AlreadyOneClientError(command.client_id.hex(), command.other_client_id.hex())
        merge_id = next(
            merge_id
            for number in count(1)
            if ledger.merges.get(merge_id := decided_merge_id(one, other, number)) is None
        )
        settlement = self._settlement(ledger, merge_id, command.traceparent)
        personas = self._speakers(ledger, settlement.rules, command, (one, other))
        decided = DecidedMerge(merge_id, (one, other), personas, command.decided_by, command.reason)
        _bind(ledger, merge_id, decided.personas, joined=True)
        settlement.settle(_members(ledger, one, other), decided=decided, because=Basis(MANUAL, (merge_id,)))
        return Merged(merge_id, _present(ledger, one), settlement.reattributed)

    def _speakers(
        self, ledger: Ledger, rules: Rules, command: MergeClients, clients: tuple[bytes, bytes]
    ) -> tuple[bytes, bytes]:
        """The personas that the decision is about: those that were given, while they are of these clients; else the
        surest, for each id given, of those that evidence alone gives it.

        So a decision about an alias holds that alias's side, whatever becomes of the merge that made it one.
        """
        if command.speakers and [ledger.personas.must(each).client for each in command.speakers] == [*clients]:
            return command.speakers
        area = Neighbourhood(ledger, rules, _members(ledger, *clients), whole=False)
        personas = [row.persona(persona_id) for persona_id, row in area.rows.items()]
        without_joins = Standing(parted=area.decisions.parted)
        outcome = resolve(personas, rules, without_joins, shared=area.shared, generations=area.generations)
        one, other = (self._speaker(ledger, outcome, given) for given in (command.client_id, command.other_client_id))
        if one is None or other is None or one == other:
            one, other = (
                min(
                    (each for each in personas if area.rows[each.id].client == client_id),
                    key=lambda each: standing(each, rules),
                ).id
                for client_id in clients
            )
        return one, other

    def _speaker(self, ledger: Ledger, outcome: Resolution, given: bytes) -> bytes | None:
        row = ledger.clients.must(given)
        if not row.anchor.type:
            return row.anchor.key if row.anchor.key in outcome.homes else None
        link = outcome.links.get(row.anchor.key)
        return None if link is None else outcome.strongest[link.client_id]

    def _undo(self, ledger: Ledger, command: UndoMerge) -> Undone:
        merge = ledger.merges.get(command.merge_id)
        if merge is None:
            raise MergeNotFoundError(command.merge_id.hex())
        if merge.undone:
            raise MergeAlreadyUndoneError(command.merge_id.hex())
        client_id, restored = _present(ledger, merge.client), _present(ledger, merge.merged)
        event_id = bytes.fromhex(hex_id("undone", command.merge_id))
        settlement = self._settlement(ledger, event_id, command.traceparent)
        merge.undone = True
        ledger.merges.put(command.merge_id, merge)
        if merge.manual:
            _unbind(ledger, command.merge_id, merge)
        else:
            _bind(ledger, command.merge_id, merge.personas, joined=False)
        self._undone(ledger, settlement, command, merge, event_id)
        settlement.settle(_members(ledger, client_id, restored), because=Basis("undone", ()))
        return Undone(_present(ledger, merge.client), _present(ledger, merge.merged), settlement.reattributed)

    def _undone(
        self, ledger: Ledger, settlement: Settlement, command: UndoMerge, merge: MergeRow, event_id: bytes
    ) -> None:
        undone = pb.MergeUndone(
            merge_id=command.merge_id.hex(),
            client_id=merge.client.hex(),
            restored_client_id=merge.merged.hex(),
            decided_by=command.decided_by,
            reason=command.reason,
        )
        row = ledger.clients.must(merge.client)
        settlement.client_event(merge.client, row, messages.MERGE_UNDONE, undone.SerializeToString(), event_id=event_id)
        restored = ledger.clients.get(merge.merged)
        if restored is not None and restored.state == ALIAS and restored.parent == merge.client:
            # What was announced no longer says what the id means; the settlement will.
            restored.parent = b""
            ledger.clients.put(merge.merged, restored)

    def _consent(self, ledger: Ledger, command: RecordConsent) -> Consented:
        client_id = _present(ledger, command.client_id)
        row = ledger.clients.must(client_id)
        event_id = bytes.fromhex(hex_id("consent", client_id, str(row.version + 1)))
        settlement = self._settlement(ledger, event_id, command.traceparent)
        recorded = pb.ConsentRecorded(
            client_id=client_id.hex(),
            purpose=command.purpose,
            granted=command.granted,
            source=command.source,
            scope=command.scope,
        )
        settlement.client_event(
            client_id, row, messages.CONSENT_RECORDED, recorded.SerializeToString(), event_id=event_id
        )
        key = client_id + consent_key(command.purpose, command.scope)
        ledger.consents.put(key, ConsentRow(command.granted, command.source, ledger.tx.now, event_id))
        return Consented()

    def _forget(self, ledger: Ledger, command: ForgetClient) -> Forgotten:
        client_id = _present(ledger, command.client_id)
        row = ledger.clients.must(client_id)
        event_id = bytes.fromhex(hex_id("forgotten", client_id))
        settlement = self._settlement(ledger, event_id, command.traceparent)
        forgetting = _Forgetting(ledger, client_id, row)
        forgotten = pb.ClientForgotten(
            client_id=client_id.hex(),
            alias_ids=[alias.hex() for alias in row.aliases],
            reason=command.reason,
            decided_by=command.decided_by,
            persona_ids=forgetting.personas,
            identifiers=[messages.identifier(type_, key) for key, type_ in forgetting.owned.items()],
            interaction_ids=forgetting.interactions,
        )
        settlement.client_event(
            client_id, row, messages.CLIENT_FORGOTTEN, forgotten.SerializeToString(), event_id=event_id
        )
        others = forgetting.drop()
        settlement.settle(others, whole=True, because=Basis("forgotten", ()))
        return Forgotten(tuple(forgetting.personas), len(forgetting.owned), len(forgetting.interactions))

    def _publish(self, ledger: Ledger, command: PublishRules) -> Published:
        current = self._rulebook.current(ledger.tx).version
        if command.rules.version not in {0, current + 1}:
            raise RulesChangedError(command.rules.version, current + 1)
        rules = RuleSet(current + 1, command.rules.types)
        check_rules(rules)
        self._rulebook.publish(ledger.tx, rules, command.published_by)
        settlement = self._settlement(ledger, rules_event_id(rules.version), command.traceparent)
        settled: set[bytes] = set()
        last = b""
        while page := [key for key, _ in ledger.tx.scan(PERSONAS, after=last, limit=_PAGE)]:
            for persona_id in page:
                if persona_id not in settled:
                    area = settlement.settle((persona_id,), whole=True, because=Basis("rules", ()))
                    settled.update(area.rows)
            last = page[-1]
            ledger.drop()
        return Published(rules.version, settlement.reattributed)


class _Forgetting:
    """Everything that is kept of one client, and how it goes."""

    def __init__(self, ledger: Ledger, client_id: bytes, row: ClientRow) -> None:
        self.ledger = ledger
        self.client_id = client_id
        self.row = row
        self.personas = sorted(_members(ledger, client_id))
        ledger.personas.load(self.personas)
        self.rows: dict[bytes, PersonaRow] = {
            persona_id: persona for persona_id in self.personas if (persona := ledger.personas.get(persona_id))
        }
        self.presented = {each.hash: each.type for row in self.rows.values() for each in row.identifiers}
        ledger.identifiers.load(list(self.presented))
        self.owned = {key: type_ for key, type_ in sorted(self.presented.items()) if self._owns(key)}
        streams = ledger.streams([stream_of("persona", persona_id) for persona_id in self.personas])
        self.interactions = sorted(
            interaction for stream in streams.values() for interaction in messages.last_attributions(stream)
        )

    def _owns(self, key: bytes) -> bool:
        row = self.ledger.identifiers.get(key)
        return row is not None and row.client == self.client_id

    def drop(self) -> list[bytes]:
        """Removes the rows; gives the personas of others that presented the same identifiers."""
        ledger, client_id = self.ledger, self.client_id
        for persona_id, persona in self.rows.items():
            self._drop_persona(persona_id, persona)
        for key in self.owned:
            row = ledger.identifiers.must(key)
            kept = IdentifierRow(row.type, version=row.version, generation=row.generation + 1)
            ledger.identifiers.put(key, kept)
        for key in self.presented.keys() - self.owned.keys():
            row = ledger.identifiers.get(key)
            if row is not None and not row.client and not ledger.suffixes(HOLDERS, key):
                row.reason = ""
                ledger.identifiers.put(key, row)
        for gone in (client_id, *self.row.aliases):
            self._drop_client(gone)
        others = [
            persona_id
            for key in self.presented
            for persona_id in ledger.suffixes(HOLDERS, key)
            if persona_id not in self.rows
        ]
        return list(dict.fromkeys(others))

    def _drop_persona(self, persona_id: bytes, persona: PersonaRow) -> None:
        ledger = self.ledger
        for each in persona.identifiers:
            ledger.unindex(HOLDERS, each.hash + persona_id)
        ledger.unindex(MEMBERS, self.client_id + persona_id)
        ledger.index(FORGOTTEN, persona_id, self.client_id)
        if persona.constrained:
            for merge_id in ledger.suffixes(CONSTRAINTS, persona_id):
                merge = ledger.merges.get(merge_id)
                if merge is not None:
                    _unbind(ledger, merge_id, merge)
        ledger.personas.delete(persona_id)

    def _drop_client(self, gone: bytes) -> None:
        ledger = self.ledger
        for key, _ in ledger.consents.stored.scan(gone):
            ledger.consents.delete(key)
        for merge_id in ledger.suffixes(CLIENT_MERGES, gone):
            merge = ledger.merges.get(merge_id)
            # A merge between personas that are still here can still be undone.
            if merge is not None and not self.rows.keys().isdisjoint(merge.personas):
                ledger.merges.delete(merge_id)
                for side in (merge.client, merge.merged):
                    ledger.unindex(CLIENT_MERGES, side + merge_id)
        for merge_id in ledger.suffixes(CLIENT_PROPOSALS, gone):
            proposal = ledger.proposals.get(merge_id)
            if proposal is not None:
                ledger.proposals.delete(merge_id)
                for side in (proposal.client, proposal.other):
                    ledger.unindex(CLIENT_PROPOSALS, side + merge_id)
        row = ledger.clients.must(gone)
        parent = b"" if gone == self.client_id else self.client_id
        ledger.clients.put(gone, ClientRow(GONE, row.anchor, parent=parent, version=row.version))


def _present(ledger: Ledger, client_id: bytes) -> bytes:
    return present_client(ledger.clients.get, client_id)


def _members(ledger: Ledger, *clients: bytes) -> list[bytes]:
    return list(dict.fromkeys(persona for client in clients for persona in ledger.suffixes(MEMBERS, client)))


def _bind(ledger: Ledger, merge_id: bytes, personas: Sequence[bytes], *, joined: bool) -> None:
    one, other = personas
    for persona_id, against in ((one, other), (other, one)):
        ledger.constraints.put(persona_id + merge_id, ConstraintRow(against, joined))
        row = ledger.personas.get(persona_id)
        if row is not None and not row.constrained:
            row.constrained = True
            ledger.personas.put(persona_id, row)
    ledger.constraints.flush()


def _unbind(ledger: Ledger, merge_id: bytes, merge: MergeRow) -> None:
    for persona_id in merge.personas:
        ledger.constraints.delete(persona_id + merge_id)
    ledger.constraints.flush()
