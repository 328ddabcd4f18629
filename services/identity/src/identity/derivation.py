"""Identity's decisions again, with the code at hand: its handlers, without bus and key store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from identity.application import messages
from identity.application.attribution import LATE, Attribution
from identity.application.commands import (
    LISTED,
    CancelForgetting,
    Command,
    Decisions,
    ForgetClient,
    ForgetListed,
    MergeClients,
    PublishRetention,
    PublishRules,
    RecordConsent,
    UndoMerge,
    forgotten_event_id,
)
from identity.application.records import IDENTITY_TABLES, RULES
from identity.application.rulebook import Rulebook
from identity.application.states import LiveState
from identity.domain.resolution import MANUAL
from identity.domain.rules import RuleSet, check_rules
from throughline.identity.v1 import events_pb2 as pb
from throughline.identity.v1 import rules_pb2
from throughline_eventlog import NotAskedError, Reader, Transaction
from throughline_kernel import Recorded, Refusal
from throughline_privacy import IdentifierHasher, read_hash_key

_OWNED: Final = frozenset({messages.INTERACTION_ATTRIBUTED})
"""What follows from taking an interaction and from nothing else."""


class IdentityDerivation:
    """See `Derivation`. With `rules`, these are in force from the beginning, whatever was published."""

    service = "identity"
    tables = IDENTITY_TABLES

    def __init__(self, hasher: IdentifierHasher, rules: RuleSet | None = None) -> None:
        self._rulebook = Rulebook(hasher.hash)
        self._attribution = Attribution(self._rulebook)
        self._decisions = Decisions(self._rulebook)
        self._rules = rules

    def take(self, tx: Transaction, upstream: str, events: Sequence[Recorded], logged: Sequence[Recorded]) -> None:
        """Takes interactions from ingestion."""
        self._attribution(tx, events)

    def work(self, tx: Transaction, name: str, number: int) -> None:
        """Identity does nothing by itself. Raises LookupError."""
        raise LookupError(f"identity has no work called {name}")

    def ask(self, tx: Transaction, logged: Sequence[Recorded]) -> Sequence[Refusal]:
        """Merges, undoings, consents, forgettings and rules."""
        refused: list[Refusal] = []
        for event in logged:
            if event.type in _OWNED:
                raise NotAskedError(event)
            if event.type == messages.RULES_PUBLISHED and tx.get(RULES, b"current") is None:
                first = pb.RulesPublished.FromString(event.payload)
                self._rulebook.publish(tx, self._rules or messages.rules_from(first.rules), first.published_by)
            elif (command := self._command(event)) is not None:
                refused += [each for each in self._decisions(tx, [command]) if isinstance(each, Refusal)]
        return refused

    def settle(self, tx: Transaction, own: Reader) -> bool:
        """Identity does nothing by itself: what clocks made it forget is in its log."""
        return False

    def parts(self, key: str, state: Any) -> Iterator[tuple[str, str, Any]]:
        """None: clients are counted whole."""
        return iter(())

    def aggregates(self, reader: Reader, *, again: bool = False) -> Iterator[tuple[str, bytes]]:
        """Clients, decisions, rules and what stands beside them."""
        return LiveState(reader).aggregates()

    def close(self) -> None:
        """Holds nothing open."""

    def _command(self, event: Recorded) -> Command | None:  # noqa: PLR0911 # one answer per kind of event
        """What was asked for where this event follows from it first; None for what follows from something else."""
        match event.type:
            case messages.CLIENTS_MERGED:
                merged = pb.ClientsMerged.FromString(event.payload)
                if merged.evidence.rule != MANUAL:
                    return None
                staying, going = merged.persona_ids
                one, other = bytes.fromhex(merged.client_id), bytes.fromhex(merged.merged_client_id)
                return MergeClients(one, other, merged.decided_by, merged.reason, speakers=(staying, going))
            case messages.MERGE_UNDONE:
                undone = pb.MergeUndone.FromString(event.payload)
                return UndoMerge(bytes.fromhex(undone.merge_id), undone.decided_by, undone.reason)
            case messages.CONSENT_RECORDED:
                consent = pb.ConsentRecorded.FromString(event.payload)
                client_id = bytes.fromhex(consent.client_id)
                return RecordConsent(
                    client_id, consent.purpose, consent.granted, consent.source, consent.scope, event.occurred_at
                )
            case messages.FORGETTING_SCHEDULED:
                scheduled = pb.ForgettingScheduled.FromString(event.payload)
                grace = scheduled.due_at - event.recorded_at
                client_id = bytes.fromhex(scheduled.client_id)
                return ForgetClient(client_id, scheduled.reason, scheduled.decided_by, grace)
            case messages.FORGETTING_CANCELLED:
                cancelled = pb.ForgettingCancelled.FromString(event.payload)
                return CancelForgetting(bytes.fromhex(cancelled.client_id), cancelled.reason, cancelled.decided_by)
            case messages.CLIENT_FORGOTTEN:
                return _forgotten(event)
            case messages.RETENTION_RULES_PUBLISHED:
                retention = pb.RetentionRulesPublished.FromString(event.payload)
                return PublishRetention(messages.retention_from(retention.rules), retention.published_by)
            case messages.RULES_PUBLISHED if self._rules is None:
                published = pb.RulesPublished.FromString(event.payload)
                return PublishRules(RuleSet(0, messages.rules_from(published.rules).types), published.published_by)
            case _:
                return None


def _forgotten(event: Recorded) -> Command:
    """Asked for, due or over by then, or on the list of the forgotten. Raises: NotAskedError for what came late."""
    message = pb.ClientForgotten.FromString(event.payload)
    if message.reason == LATE and not message.decided_by:
        raise NotAskedError(event)
    client_id = bytes.fromhex(message.client_id)
    if message.reason == LISTED and event.event_id != forgotten_event_id(client_id):
        return ForgetListed(
            client_id,
            tuple(map(bytes.fromhex, message.alias_ids)),
            tuple(message.persona_ids),
            tuple((each.type, each.hash) for each in message.identifiers),
        )
    return ForgetClient(client_id, message.reason, message.decided_by)


def make_derivation(env: Mapping[str, str], instead: bytes = b"") -> IdentityDerivation:
    """The derivation, with the installation's hash key from `env`; `instead` is a serialised RuleSet to try.

    Raises: PrivacySettingsError; InvalidError for rules that nobody could follow.
    """
    rules = None
    if instead:
        rules = RuleSet(1, messages.rules_from(rules_pb2.RuleSet.FromString(instead)).types)
        check_rules(rules)
    return IdentityDerivation(IdentifierHasher(read_hash_key(env)), rules)
