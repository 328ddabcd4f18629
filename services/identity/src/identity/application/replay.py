"""Rebuilds who is who from identity's log alone, with the functions that decided it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from identity.application import messages
from identity.application.explanations import sentence
from identity.application.records import consent_key
from identity.application.states import published_retention, published_rules
from identity.domain import state
from identity.domain.personas import OrderKey, Persona, Presented
from identity.domain.resolution import BLOCKED_VALUE, MANUAL, Decisions, Joined, Resolution, resolve
from identity.domain.retention import NO_RETENTION, RetentionRules
from identity.domain.rules import SHIPPED_RULES, Rules, RuleSet
from identity.domain.state import EMPTY, OwnedIdentifier, Tally
from throughline.identity.v1 import events_pb2 as pb
from throughline_kernel import Consent, Consents, Recorded, canonical_json


@dataclass(slots=True)
class _Merge:
    personas: tuple[bytes, ...]
    manual: bool
    undone: bool = False


class IdentityFold:
    """A left fold over identity's log.

    Who is who is decided anew from the interactions in the log and the decisions of people; how many interactions a
    client has is what was announced, one by one. Where the two do not fit, the digest differs from the live one.
    """

    service = "identity"

    def __init__(self) -> None:
        self._rules: RuleSet = SHIPPED_RULES
        self._published = False
        self._retention: RetentionRules = NO_RETENTION
        self._personas: dict[bytes, tuple[OrderKey, tuple[Presented, ...]]] = {}
        self._tallies: dict[str, dict[bytes, Tally]] = {}
        self._blocked: set[bytes] = set()
        self._merges: dict[bytes, _Merge] = {}
        self._consents: dict[str, Consents] = {}
        self._forgettings: dict[str, dict[str, Any]] = {}
        self._forgotten: dict[bytes, set[bytes]] = {}
        self._gone: set[bytes] = set()
        self._generations: dict[bytes, int] = {}
        self._takers = {
            messages.INTERACTION_ATTRIBUTED: self._attributed,
            messages.INTERACTION_REATTRIBUTED: self._reattributed,
            messages.IDENTIFIER_LINKED: self._linked,
            messages.IDENTIFIER_DEMOTED: self._demoted,
            messages.CLIENTS_MERGED: self._merged,
            messages.MERGE_UNDONE: self._undone,
            messages.CONSENT_RECORDED: self._consented,
            messages.FORGETTING_SCHEDULED: self._scheduled,
            messages.FORGETTING_CANCELLED: self._cancelled,
            messages.CLIENT_FORGOTTEN: self._forgot,
            messages.RULES_PUBLISHED: self._published_rules,
            messages.RETENTION_RULES_PUBLISHED: self._published_retention,
        }

    def apply(self, event: Recorded) -> None:
        """Takes the next event of the log."""
        taker = self._takers.get(event.type)
        if taker is not None:
            taker(event)

    def describe(self, event: Recorded) -> str:
        """One sentence about the event."""
        return sentence(event)

    def aggregates(self) -> Iterator[tuple[str, bytes]]:
        """The state, in key order."""
        for key, value in self._all():
            yield key, canonical_json(value)

    def _all(self) -> Iterator[tuple[str, dict[str, Any]]]:
        outcome = self._resolve()
        owned: dict[bytes, list[OwnedIdentifier]] = {}
        for key, link in outcome.links.items():
            owned.setdefault(link.client_id, []).append(OwnedIdentifier(link.type, key, link.identifies_person))
        for client_id in sorted(outcome.clients):
            client = outcome.clients[client_id]
            tally = EMPTY
            for each in self._tallies.get(client_id.hex(), {}).values():
                tally = tally.with_set(*each)
            yield (
                state.CLIENT + client_id.hex(),
                state.client_state(
                    client_id,
                    opened=client.opened,
                    known_person=client.known_person,
                    personas=client.members,
                    identifiers=owned.get(client_id, ()),
                    interactions=tally,
                ),
            )
        yield from self._decided()
        for merge_id, proposal in sorted(outcome.proposals.items()):
            yield (
                state.PROPOSAL + merge_id.hex(),
                state.proposal_state(proposal.client_id, proposal.other_client_id),
            )
        if self._retention.version:
            yield state.RETENTION, published_retention(self._retention)
        if self._published:
            yield state.RULES, published_rules(self._rules)
        for key in sorted(outcome.unlinked):
            unlinked = outcome.unlinked[key]
            yield state.UNLINKED + key.hex(), state.unlinked_state(unlinked.type, unlinked.reason)

    def _decided(self) -> Iterator[tuple[str, dict[str, Any]]]:
        consents = [
            (_consent_key(client_id, word.purpose, word.scope), state.consent_state(word))
            for client_id, said in self._consents.items()
            for word in said.words
        ]
        yield from sorted(consents, key=lambda each: each[0])
        for merge_id, merge in sorted(self._merges.items()):
            if merge.manual != merge.undone and self._gone.isdisjoint(merge.personas):
                yield state.DECISION + merge_id.hex(), state.decision_state(merge.personas, joined=merge.manual)
        for client_id, value in sorted(self._forgettings.items()):
            yield state.FORGETTING + client_id, value
        for client_id, personas in sorted(self._forgotten.items()):
            yield state.FORGOTTEN + client_id.hex(), state.forgotten_state(personas)

    def _resolve(self) -> Resolution:
        joined: list[Joined] = []
        parted: list[tuple[bytes, bytes]] = []
        for merge_id, merge in self._merges.items():
            if len(merge.personas) != 2 or not self._gone.isdisjoint(merge.personas):
                continue
            one, other = sorted(merge.personas)
            if merge.manual and not merge.undone:
                joined.append(Joined(merge_id, (one, other)))
            elif merge.undone and not merge.manual:
                parted.append((one, other))
        blocked = self._blocked
        return resolve(
            (Persona(persona_id, known[1], known[0]) for persona_id, known in self._personas.items()),
            Rules(self._rules, lambda _type, key: key in blocked),
            Decisions(tuple(sorted(joined)), tuple(sorted(parted))),
            generations=self._generations,
        )

    def _attributed(self, event: Recorded) -> None:
        message = pb.InteractionAttributed.FromString(event.payload)
        facts = message.interaction
        key = messages.order_key(facts)
        known = self._personas.get(facts.persona_id)
        if known is None:
            self._personas[facts.persona_id] = (key, messages.presented(facts.identifiers))
        elif key < known[0]:
            self._personas[facts.persona_id] = (key, known[1])
        tallies = self._tallies.setdefault(message.client_id, {})
        before = tallies.get(facts.persona_id, EMPTY)
        tallies[facts.persona_id] = before.with_set(1, int(facts.interaction_id, 16), facts.occurred_at)

    def _reattributed(self, event: Recorded) -> None:
        message = pb.InteractionReattributed.FromString(event.payload)
        facts = message.interaction
        total = int(facts.interaction_id, 16)
        left = self._tallies[message.previous_client_id]
        before = left[facts.persona_id]
        # A persona moves whole: once its last interaction has gone the time of its last one has gone with it.
        if before.number == 1:
            del left[facts.persona_id]
            if not left:
                del self._tallies[message.previous_client_id]
        else:
            left[facts.persona_id] = before.with_set(-1, -total, 0)
        joined = self._tallies.setdefault(message.client_id, {})
        joined[facts.persona_id] = joined.get(facts.persona_id, EMPTY).with_set(1, total, facts.occurred_at)

    def _linked(self, event: Recorded) -> None:
        self._blocked.discard(pb.IdentifierLinked.FromString(event.payload).identifier.hash)

    def _demoted(self, event: Recorded) -> None:
        message = pb.IdentifierDemoted.FromString(event.payload)
        if message.reason == BLOCKED_VALUE:
            self._blocked.add(message.identifier.hash)
        else:
            self._blocked.discard(message.identifier.hash)

    def _merged(self, event: Recorded) -> None:
        message = pb.ClientsMerged.FromString(event.payload)
        if not message.persona_ids:
            return
        merge_id = bytes.fromhex(message.merge_id)
        known = self._merges.get(merge_id)
        if known is None or not known.undone:
            self._merges[merge_id] = _Merge(tuple(message.persona_ids), message.evidence.rule == MANUAL)

    def _undone(self, event: Recorded) -> None:
        self._merges[bytes.fromhex(pb.MergeUndone.FromString(event.payload).merge_id)].undone = True

    def _consented(self, event: Recorded) -> None:
        message = pb.ConsentRecorded.FromString(event.payload)
        word = Consent(
            message.purpose,
            message.scope,
            message.granted,
            event.occurred_at,
            message.source,
            event.event_id.hex(),
        )
        said = self._consents.get(message.client_id, Consents())
        self._consents[message.client_id] = Consents.of((*said.words, word))

    def _scheduled(self, event: Recorded) -> None:
        message = pb.ForgettingScheduled.FromString(event.payload)
        self._forgettings[message.client_id] = state.forgetting_state(
            reason=message.reason, decided_by=message.decided_by, due_at=message.due_at
        )

    def _cancelled(self, event: Recorded) -> None:
        del self._forgettings[pb.ForgettingCancelled.FromString(event.payload).client_id]

    def _forgot(self, event: Recorded) -> None:
        message = pb.ClientForgotten.FromString(event.payload)
        for client_id in (message.client_id, *message.alias_ids):
            self._consents.pop(client_id, None)
            self._tallies.pop(client_id, None)
            self._forgettings.pop(client_id, None)
        self._forgotten.setdefault(bytes.fromhex(message.client_id), set()).update(message.persona_ids)
        for persona_id in message.persona_ids:
            self._gone.add(persona_id)
            self._personas.pop(persona_id, None)
        for each in message.identifiers:
            self._generations[each.hash] = self._generations.get(each.hash, 0) + 1

    def _published_rules(self, event: Recorded) -> None:
        self._rules = messages.rules_from(pb.RulesPublished.FromString(event.payload).rules)
        self._published = True

    def _published_retention(self, event: Recorded) -> None:
        self._retention = messages.retention_from(pb.RetentionRulesPublished.FromString(event.payload).rules)


def _consent_key(client_id: str, purpose: str, scope: str) -> str:
    return f"{state.CONSENT}{client_id}.{consent_key(purpose, scope).hex()}"


def make_fold() -> IdentityFold:
    """The fold, for whoever replays identity's log."""
    return IdentityFold()
