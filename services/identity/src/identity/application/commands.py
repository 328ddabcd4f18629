"""What people decide about clients. Each command is one transaction, every re-attribution included."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
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
    FORGETTINGS_DUE,
    FORGOTTEN,
    FORMER_MEMBERS,
    FORMER_PROPOSALS,
    GONE,
    HOLDERS,
    MEMBERS,
    PERSONAS,
    ClientRow,
    ConsentRow,
    ConstraintRow,
    ForgettingRow,
    IdentifierRow,
    MergeRow,
    PersonaRow,
    consent_key,
    due_key,
    present_client,
)
from identity.application.retention import Retention, next_retention, publish_retention, retention_in_force
from identity.application.rulebook import Rulebook, rules_event_id
from identity.application.settlement import DecidedMerge, Neighbourhood, Settlement
from identity.domain.consents import said_at
from identity.domain.personas import Anchor, decided_merge_id
from identity.domain.refusals import (
    AlreadyOneClientError,
    ForgettingNotFoundError,
    ForgettingScheduledError,
    MergeAlreadyUndoneError,
    MergeNotFoundError,
    RulesChangedError,
)
from identity.domain.resolution import MANUAL, Basis, Resolution, resolve, standing
from identity.domain.resolution import Decisions as Standing
from identity.domain.retention import RetentionRules
from identity.domain.rules import Rules, RuleSet, check_rules
from throughline.identity.v1 import events_pb2 as pb
from throughline_eventlog import Transaction
from throughline_kernel import Consent, Refusal, hex_id

RETAINED: Final = "retention"
"""Who decided a forgetting that follows from the rules of retention."""
LISTED: Final = "on the list of the forgotten"
"""Reason of a forgetting that a restored log did not know of."""
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
    # When the client said so, microseconds; 0 means now.
    at: int = 0
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class ForgetClient:
    """Drops the client from everything but the log, once the grace time (microseconds) is over.

    `dry_run` decides nothing and tells what would go.
    """

    client_id: bytes
    reason: str
    decided_by: str
    grace: int = 0
    dry_run: bool = False
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class CancelForgetting:
    """Takes back what is scheduled for the client, or for an id that means it."""

    client_id: bytes
    reason: str
    decided_by: str
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class ForgetDue:
    """Forgets whoever the client of a scheduled forgetting is by now, where its time has come and it still stands."""

    client_id: bytes
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class ForgetListed:
    """Forgets a client that is on the list of the forgotten and that this log, restored from before, still knows.

    Ids have 16 bytes; identifiers are (type, hash).
    """

    client_id: bytes
    alias_ids: tuple[bytes, ...]
    persona_ids: tuple[bytes, ...]
    identifiers: tuple[tuple[str, bytes], ...]
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class ForgetOver:
    """Forgets the client where it is over by the rules of retention by then."""

    client_id: bytes
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class PublishRetention:
    """Puts other rules of retention into force. A version of 0 means whatever comes next."""

    rules: RetentionRules
    published_by: str
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class PublishRules:
    """Puts other rules into force. A version of 0 means whatever comes next."""

    rules: RuleSet
    published_by: str
    traceparent: str = ""


Command = (
    MergeClients
    | UndoMerge
    | RecordConsent
    | ForgetClient
    | CancelForgetting
    | ForgetDue
    | ForgetOver
    | ForgetListed
    | PublishRules
    | PublishRetention
)


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
class Extent:
    """What is kept of a client and goes with it; identifiers are (type, hash)."""

    client_id: bytes
    alias_ids: tuple[bytes, ...]
    personas: tuple[bytes, ...]
    identifiers: tuple[tuple[str, bytes], ...]
    interactions: int
    consents: int
    merges: int
    proposals: int


@dataclass(frozen=True, slots=True)
class Forgotten:
    """The client is forgotten: the keys of its personas are to be destroyed.

    With a `due_at` (microseconds) it will be, then; where it was only asked nothing was decided.
    """

    extent: Extent
    due_at: int = 0
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class ForgottenAgain:
    """What of the list this log did not know to be forgotten is, in so many clients."""

    clients: int


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The client will not be forgotten."""


@dataclass(frozen=True, slots=True)
class Settled:
    """Nothing is due any more."""


@dataclass(frozen=True, slots=True)
class RetentionPublished:
    """The rules of retention are in force."""

    version: int


@dataclass(frozen=True, slots=True)
class Published:
    """The rules are in force, and all history was decided again."""

    version: int
    reattributed: int


Outcome = (
    Merged | Undone | Consented | Forgotten | ForgottenAgain | Cancelled | Settled | Published | RetentionPublished
)


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

    def _decide(self, ledger: Ledger, command: Command) -> Outcome:  # noqa: C901, PLR0911 -- one a command
        match command:
            case MergeClients():
                return self._merge(ledger, command)
            case UndoMerge():
                return self._undo(ledger, command)
            case RecordConsent():
                return self._consent(ledger, command)
            case ForgetClient():
                return self._forget(ledger, command)
            case CancelForgetting():
                return self._cancel(ledger, command)
            case ForgetDue():
                return self._forget_due(ledger, command)
            case ForgetOver():
                return self._forget_over(ledger, command)
            case ForgetListed():
                return self._forget_listed(ledger, command)
            case PublishRules():
                return self._publish(ledger, command)
            case PublishRetention():
                rules = next_retention(ledger.tx, command.rules)
                publish_retention(ledger.tx, rules, command.published_by)
                return RetentionPublished(rules.version)

    def _settlement(self, ledger: Ledger, event_id: bytes, traceparent: str, at: int = 0) -> Settlement:
        cause = Cause(
            event_id=event_id,
            at=at or ledger.tx.now,
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
        said = Consent(
            command.purpose,
            command.scope,
            command.granted,
            said_at(command.at, ledger.tx.now),
            command.source,
            event_id.hex(),
        )
        settlement = self._settlement(ledger, event_id, command.traceparent, said.at)
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
        known = ledger.consents.get(key)
        if known is None or said.order >= known.word(key).order:
            ledger.consents.put(key, ConsentRow(said.granted, said.source, said.at, event_id))
        return Consented()

    def _forget(self, ledger: Ledger, command: ForgetClient) -> Forgotten:
        client_id = _present(ledger, command.client_id)
        if command.dry_run:
            return Forgotten(_Forgetting(ledger, client_id).extent(), dry_run=True)
        if command.grace:
            return self._schedule(ledger, command, client_id)
        return Forgotten(self._drop(ledger, client_id, command.reason, command.decided_by, command.traceparent))

    def _drop(self, ledger: Ledger, client_id: bytes, reason: str, decided_by: str, traceparent: str) -> Extent:
        event_id = forgotten_event_id(client_id)
        settlement = self._settlement(ledger, event_id, traceparent)
        forgetting = _Forgetting(ledger, client_id)
        extent = forgetting.extent()
        forgotten = pb.ClientForgotten(
            client_id=client_id.hex(),
            alias_ids=[alias.hex() for alias in extent.alias_ids],
            reason=reason,
            decided_by=decided_by,
            persona_ids=extent.personas,
            identifiers=[messages.identifier(type_, key) for type_, key in extent.identifiers],
            interaction_ids=forgetting.interactions,
        )
        settlement.client_event(
            client_id, forgetting.row, messages.CLIENT_FORGOTTEN, forgotten.SerializeToString(), event_id=event_id
        )
        others = forgetting.drop()
        settlement.settle(others, whole=True, because=Basis("forgotten", ()))
        return extent

    def _schedule(self, ledger: Ledger, command: ForgetClient, client_id: bytes) -> Forgotten:
        forgetting = _Forgetting(ledger, client_id)
        for each in (client_id, *forgetting.row.aliases):
            known = ledger.forgettings.get(each)
            if known is not None:
                raise ForgettingScheduledError(command.client_id.hex(), known.due_at)
        due_at = ledger.tx.now + command.grace
        scheduled = pb.ForgettingScheduled(
            client_id=client_id.hex(), reason=command.reason, decided_by=command.decided_by, due_at=due_at
        )
        self._say(ledger, client_id, messages.FORGETTING_SCHEDULED, scheduled.SerializeToString(), command.traceparent)
        ledger.forgettings.put(client_id, ForgettingRow(command.reason, command.decided_by, ledger.tx.now, due_at))
        ledger.index(FORGETTINGS_DUE, due_key(due_at, client_id))
        return Forgotten(forgetting.extent(), due_at=due_at)

    def _cancel(self, ledger: Ledger, command: CancelForgetting) -> Cancelled:
        present = _present(ledger, command.client_id)
        scheduled = next(
            (
                each
                for each in (command.client_id, present, *ledger.clients.must(present).aliases)
                if ledger.forgettings.get(each) is not None
            ),
            None,
        )
        if scheduled is None:
            raise ForgettingNotFoundError(command.client_id.hex())
        cancelled = pb.ForgettingCancelled(
            client_id=scheduled.hex(), reason=command.reason, decided_by=command.decided_by
        )
        self._say(ledger, scheduled, messages.FORGETTING_CANCELLED, cancelled.SerializeToString(), command.traceparent)
        _unschedule(ledger, scheduled)
        return Cancelled()

    def _say(self, ledger: Ledger, client_id: bytes, type_: str, payload: bytes, traceparent: str) -> None:
        """Logs a decision about when a client goes, in the stream of the id that it names."""
        row = ledger.clients.must(client_id)
        event_id = bytes.fromhex(hex_id("forgetting", client_id, str(row.version + 1)))
        self._settlement(ledger, event_id, traceparent).client_event(client_id, row, type_, payload, event_id=event_id)

    def _forget_due(self, ledger: Ledger, command: ForgetDue) -> Forgotten | Settled:
        row = ledger.forgettings.get(command.client_id)
        if row is None or row.due_at > ledger.tx.now:
            return Settled()
        client_id = _present(ledger, command.client_id)
        return Forgotten(self._drop(ledger, client_id, row.reason, row.decided_by, command.traceparent))

    def _forget_over(self, ledger: Ledger, command: ForgetOver) -> Forgotten | Settled:
        rules = retention_in_force(ledger.tx)
        rule = Retention(ledger.tx, rules).rule_of(command.client_id, ledger.tx.now)
        if rule is None:
            return Settled()
        reason = f"rule {rule.name} of version {rules.version} of the retention rules"
        return Forgotten(self._drop(ledger, command.client_id, reason, RETAINED, command.traceparent))

    def _forget_listed(self, ledger: Ledger, command: ForgetListed) -> ForgottenAgain:
        """Clients that are on the list whole are forgotten as any client is; then what is left of it."""
        tombs = ledger.tx.get_many(FORGOTTEN, command.persona_ids)
        unknown = [persona_id for persona_id in command.persona_ids if persona_id not in tombs]
        ledger.personas.load(unknown)
        covered: set[bytes] = set()
        mixed: set[bytes] = set()
        clients = 0
        while (client_id := _owner_but(ledger, unknown, mixed)) is not None:
            if not set(_members(ledger, client_id)) <= set(command.persona_ids):
                mixed.add(client_id)
                continue
            extent = self._drop(ledger, client_id, LISTED, "", command.traceparent)
            covered.update(key for _, key in extent.identifiers)
            clients += 1
            ledger.flush()
        tombs = ledger.tx.get_many(FORGOTTEN, unknown)
        rest = [persona_id for persona_id in unknown if persona_id not in tombs]
        if rest or ledger.clients.get(command.client_id) is None:
            self._part(ledger, command, rest, covered)
            clients += 1
        return ForgottenAgain(clients)

    def _part(
        self, ledger: Ledger, command: ForgetListed, personas: Sequence[bytes], covered: Collection[bytes]
    ) -> None:
        """Takes personas from clients that keep others, and says of those not heard of that they are forgotten: what
        comes of them, late or anew, is not taken for somebody's.
        """
        client_id = command.client_id
        row = ledger.clients.get(client_id)
        if row is not None and row.state != GONE:
            # It stays somebody's here.
            client_id = bytes.fromhex(hex_id("listed", client_id))
            row = ledger.clients.get(client_id)
        if row is None:
            row = ClientRow(GONE, Anchor("", command.persona_ids[0]))
        listed = {key: type_ for type_, key in command.identifiers if key not in covered}
        parting = _Parting(ledger, personas, listed)
        event_id = bytes.fromhex(hex_id("listed", client_id, str(row.version + 1)))
        settlement = self._settlement(ledger, event_id, command.traceparent)
        parting.move(settlement, client_id)
        renewed = parting.orphans() | listed
        aliases = [alias for alias in command.alias_ids if ledger.clients.get(alias) is None]
        forgotten = pb.ClientForgotten(
            client_id=client_id.hex(),
            alias_ids=[alias.hex() for alias in aliases],
            reason=LISTED,
            persona_ids=personas,
            identifiers=[messages.identifier(type_, key) for key, type_ in sorted(renewed.items())],
            interaction_ids=parting.interactions,
        )
        settlement.client_event(
            client_id, row, messages.CLIENT_FORGOTTEN, forgotten.SerializeToString(), event_id=event_id
        )
        for alias in aliases:
            ledger.clients.put(alias, ClientRow(GONE, row.anchor, parent=client_id))
        for key, type_ in renewed.items():
            _renew(ledger, key, ledger.identifiers.get(key) or IdentifierRow(type_))
        settlement.settle(parting.drop(client_id), whole=True, because=Basis("forgotten", ()))

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

    def __init__(self, ledger: Ledger, client_id: bytes) -> None:
        self.ledger = ledger
        self.client_id = client_id
        self.row = ledger.clients.must(client_id)
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

    def extent(self) -> Extent:
        """How much there is of it."""
        ledger = self.ledger
        ids = (self.client_id, *self.row.aliases)
        return Extent(
            client_id=self.client_id,
            alias_ids=self.row.aliases,
            personas=tuple(self.personas),
            identifiers=tuple((type_, key) for key, type_ in self.owned.items()),
            interactions=len(self.interactions),
            consents=sum(1 for each in ids for _ in ledger.consents.stored.scan(each)),
            merges=len({merge for each in ids for merge in ledger.suffixes(CLIENT_MERGES, each)}),
            proposals=len({proposal for each in ids for proposal in ledger.suffixes(CLIENT_PROPOSALS, each)}),
        )

    def drop(self) -> list[bytes]:
        """Removes the rows; gives the personas of others that presented the same identifiers."""
        ledger, client_id = self.ledger, self.client_id
        for persona_id, persona in self.rows.items():
            _drop_persona(ledger, persona_id, persona, client_id)
        _blank_links(ledger, self.presented, (client_id, *self.row.aliases))
        for key in self.owned:
            _renew(ledger, key, ledger.identifiers.must(key))
        _let_go(ledger, self.presented.keys() - self.owned.keys())
        for gone in (client_id, *self.row.aliases):
            self._drop_client(gone)
        others = [
            persona_id
            for key in self.presented
            for persona_id in ledger.suffixes(HOLDERS, key)
            if persona_id not in self.rows
        ]
        return list(dict.fromkeys(others))

    def _drop_client(self, gone: bytes) -> None:
        ledger = self.ledger
        ledger.forgettings.forget(gone)
        _unschedule(ledger, gone)
        for key, _ in ledger.consents.stored.scan(gone):
            ledger.consents.delete(key)
        _drop_merges(ledger, gone, self.rows.keys())
        _drop_proposals(ledger, gone)
        for persona_id in ledger.suffixes(FORMER_MEMBERS, gone):
            ledger.unindex(FORMER_MEMBERS, gone + persona_id)
        ledger.clients.forget(gone)
        row = ledger.clients.must(gone)
        parent = b"" if gone == self.client_id else self.client_id
        ledger.clients.put(gone, ClientRow(GONE, row.anchor, parent=parent, version=row.version))


class _Parting:
    """Personas that are taken from clients which keep others; some may never have been heard of."""

    def __init__(self, ledger: Ledger, personas: Sequence[bytes], listed: Collection[bytes]) -> None:
        """`listed` are identifiers that are made anew, whoever presents them."""
        self.ledger = ledger
        self.personas = personas
        self.rows = {each: row for each in personas if (row := ledger.personas.get(each)) is not None}
        self.presented = {each.hash: each.type for row in self.rows.values() for each in row.identifiers}
        self.interactions: list[str] = []
        keys = self.presented.keys() | listed
        ledger.identifiers.load(keys)
        self.held_by = {key: set(ledger.suffixes(HOLDERS, key)) - self.rows.keys() for key in keys}

    def move(self, settlement: Settlement, client_id: bytes) -> None:
        """Says of each interaction that it is the client's, so that everybody takes it from whoever had it."""
        streams = self.ledger.streams([stream_of("persona", persona_id) for persona_id in self.rows])
        why = settlement.evidence(Basis("forgotten", ()))
        for persona_id, row in self.rows.items():
            stream_id = stream_of("persona", persona_id)
            for interaction_id, last in messages.last_attributions(streams.get(stream_id, ())).items():
                row.version += 1
                payload = messages.reattributed(last, client_id, row.client, why)
                settlement.event(stream_id, row.version, messages.INTERACTION_REATTRIBUTED, payload)
                self.interactions.append(interaction_id)

    def orphans(self) -> dict[bytes, str]:
        """The type of each identifier that was somebody's and that nobody else presents."""
        return {
            key: type_
            for key, type_ in self.presented.items()
            if not self.held_by[key] and (row := self.ledger.identifiers.get(key)) is not None and row.client
        }

    def drop(self, client_id: bytes) -> list[bytes]:
        """Removes the rows; gives the personas whose clients may be others now."""
        ledger = self.ledger
        clients = {row.client for row in self.rows.values()}
        near = {member for each in clients for member in _members(ledger, each)} - self.rows.keys()
        for persona_id in self.personas:
            row = self.rows.get(persona_id)
            if row is None:
                ledger.index(FORGOTTEN, persona_id, client_id)
            else:
                _drop_persona(ledger, persona_id, row, client_id)
        for each in clients:
            for side in (each, *ledger.clients.must(each).aliases):
                _drop_merges(ledger, side, self.rows.keys())
        _blank_links(ledger, self.held_by, (client_id,))
        _let_go(ledger, self.presented)
        return sorted(near.union(*self.held_by.values()))


def forgotten_event_id(client_id: bytes) -> bytes:
    """The id of the event by which a client was forgotten as a whole: 16 bytes."""
    return bytes.fromhex(hex_id("forgotten", client_id))


def _owner_but(ledger: Ledger, personas: Sequence[bytes], but: Collection[bytes]) -> bytes | None:
    """A client that one of the personas belongs to now: forgetting another one may have changed whose it is."""
    for persona_id in personas:
        row = ledger.personas.get(persona_id)
        if row is not None and row.client not in but:
            return row.client
    return None


def _drop_persona(ledger: Ledger, persona_id: bytes, persona: PersonaRow, client_id: bytes) -> None:
    """Removes the rows of a persona that is forgotten with a client."""
    for each in persona.identifiers:
        ledger.unindex(HOLDERS, each.hash + persona_id)
    ledger.unindex(MEMBERS, persona.client + persona_id)
    if persona.version > persona.count:
        stream = ledger.tx.read_stream(stream_of("persona", persona_id))
        for former in {messages.attribution(event).client_id for event in stream}:
            ledger.unindex(FORMER_MEMBERS, bytes.fromhex(former) + persona_id)
    ledger.index(FORGOTTEN, persona_id, client_id)
    if persona.constrained:
        for merge_id in ledger.suffixes(CONSTRAINTS, persona_id):
            merge = ledger.merges.get(merge_id)
            if merge is not None:
                _unbind(ledger, merge_id, merge)
    ledger.personas.delete(persona_id)


def _drop_merges(ledger: Ledger, client_id: bytes, personas: Collection[bytes]) -> None:
    """Removes the merges of a client that are about these personas; one between others can still be undone."""
    for merge_id in ledger.suffixes(CLIENT_MERGES, client_id):
        merge = ledger.merges.get(merge_id)
        if merge is not None and not set(merge.personas).isdisjoint(personas):
            ledger.merges.forget(merge_id)
            ledger.merges.delete(merge_id)
            for side in (merge.client, merge.merged):
                ledger.unindex(CLIENT_MERGES, side + merge_id)


def _drop_proposals(ledger: Ledger, client_id: bytes) -> None:
    """Removes what is, or once was, proposed to a client."""
    for table in (CLIENT_PROPOSALS, FORMER_PROPOSALS):
        for merge_id in ledger.suffixes(table, client_id):
            proposal = ledger.proposals.get(merge_id)
            ledger.unindex(table, client_id + merge_id)
            ledger.proposals.forget(merge_id)
            if proposal is not None:
                ledger.proposals.delete(merge_id)
                for side in (proposal.client, proposal.other):
                    ledger.unindex(CLIENT_PROPOSALS, side + merge_id)


def _blank_links(ledger: Ledger, keys: Iterable[bytes], gone: Collection[bytes]) -> None:
    """Whose identifiers were is kept no more where that was a forgotten client, or nobody else presents them."""
    for key in keys:
        others = ledger.suffixes(HOLDERS, key)
        ledger.identifiers.blank(key, lambda row, alone=not others: alone or row.client in gone)


def _let_go(ledger: Ledger, keys: Collection[bytes]) -> None:
    """Identifiers that nobody presents any more are nobody's for no reason."""
    for key in keys:
        row = ledger.identifiers.get(key)
        if row is not None and not row.client and not ledger.suffixes(HOLDERS, key):
            row.reason = ""
            ledger.identifiers.put(key, row)


def _renew(ledger: Ledger, key: bytes, row: IdentifierRow) -> None:
    """Makes an identifier nobody's, as if it had never been seen; whoever comes with it next is somebody else."""
    ledger.identifiers.put(key, IdentifierRow(row.type, version=row.version, generation=row.generation + 1))


def _unschedule(ledger: Ledger, client_id: bytes) -> None:
    row = ledger.forgettings.get(client_id)
    if row is not None:
        ledger.forgettings.delete(client_id)
        ledger.unindex(FORGETTINGS_DUE, due_key(row.due_at, client_id))


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
