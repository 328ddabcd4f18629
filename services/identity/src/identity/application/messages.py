"""The published language: domain values as contract messages, and back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

from identity.domain.personas import OrderKey, Presented
from identity.domain.resolution import Basis
from identity.domain.retention import RetentionRule, RetentionRules
from identity.domain.rules import JoinPolicy, RuleSet, TypeRule
from throughline.identity.v1 import events_pb2 as pb
from throughline.identity.v1 import rules_pb2
from throughline.ingestion.v1 import events_pb2 as ingestion_pb
from throughline.ingestion.v1 import interaction_pb2 as interaction_pb
from throughline_kernel import Recorded

INTERACTION_RECORDED: Final = "throughline.ingestion.v1.InteractionRecorded"
CLIENT_OPENED: Final = "throughline.identity.v1.ClientOpened"
IDENTIFIER_LINKED: Final = "throughline.identity.v1.IdentifierLinked"
IDENTIFIER_DEMOTED: Final = "throughline.identity.v1.IdentifierDemoted"
INTERACTION_ATTRIBUTED: Final = "throughline.identity.v1.InteractionAttributed"
INTERACTION_REATTRIBUTED: Final = "throughline.identity.v1.InteractionReattributed"
CLIENTS_MERGED: Final = "throughline.identity.v1.ClientsMerged"
MERGE_PROPOSED: Final = "throughline.identity.v1.MergeProposed"
MERGE_UNDONE: Final = "throughline.identity.v1.MergeUndone"
CONSENT_RECORDED: Final = "throughline.identity.v1.ConsentRecorded"
FORGETTING_SCHEDULED: Final = "throughline.identity.v1.ForgettingScheduled"
FORGETTING_CANCELLED: Final = "throughline.identity.v1.ForgettingCancelled"
CLIENT_FORGOTTEN: Final = "throughline.identity.v1.ClientForgotten"
RULES_PUBLISHED: Final = "throughline.identity.v1.RulesPublished"
RETENTION_RULES_PUBLISHED: Final = "throughline.identity.v1.RetentionRulesPublished"

_JOINS: Final = {
    JoinPolicy.ALWAYS: rules_pb2.JOIN_POLICY_ALWAYS,
    JoinPolicy.VERIFIED: rules_pb2.JOIN_POLICY_VERIFIED,
    JoinPolicy.NEVER: rules_pb2.JOIN_POLICY_NEVER,
}
_VERIFIED: Final = interaction_pb.ASSURANCE_VERIFIED
_USABLE: Final = frozenset({interaction_pb.IDENTIFIER_SHAPE_UNSPECIFIED, interaction_pb.IDENTIFIER_SHAPE_NORMAL})


class Arrival(NamedTuple):
    """An interaction as it comes from ingestion. `facts` and `personal` are passed on as they are."""

    key: OrderKey
    persona: bytes
    identifiers: tuple[Presented, ...]
    facts: interaction_pb.InteractionFacts
    personal: interaction_pb.Sealed | None
    recorded_at: int
    correlation_id: str
    traceparent: str


class Attribution(NamedTuple):
    """Whose an interaction was said to be."""

    client_id: str
    previous_client_id: str
    facts: interaction_pb.InteractionFacts
    personal: interaction_pb.Sealed | None
    evidence: pb.Evidence
    interaction_recorded_at: int


@dataclass(frozen=True, slots=True)
class Cause:
    """What made identity decide: an event (16 bytes, empty where there is none) and when it happened."""

    event_id: bytes
    at: int
    correlation_id: str = ""
    causation_id: str = ""
    traceparent: str = ""


def presented(identifiers: Iterable[interaction_pb.IdentifierHash]) -> tuple[Presented, ...]:
    """Identifiers as the domain sees them, each once: verified where it is presented both ways."""
    found = tuple(
        Presented(each.type, each.hash, each.assurance == _VERIFIED, each.shape in _USABLE) for each in identifiers
    )
    if len(found) < 2:
        return found
    verified = {each.hash for each in found if each.verified}
    once = {each.hash: each for each in found if each.verified or each.hash not in verified}
    return found if len(once) == len(found) else tuple(once.values())


def order_key(facts: interaction_pb.InteractionFacts) -> OrderKey:
    """The canonical place of the interaction."""
    return OrderKey(facts.occurred_at, facts.source, facts.sequence, bytes.fromhex(facts.interaction_id))


def has_words(facts: interaction_pb.InteractionFacts) -> bool:
    """Tells whether the interaction carries feedback in the client's own words."""
    return any(each.has_verbatim for each in facts.feedback)


def arrival(event: Recorded) -> Arrival:
    """Reads an InteractionRecorded."""
    recorded = ingestion_pb.InteractionRecorded.FromString(event.payload)
    facts = recorded.facts
    return Arrival(
        key=order_key(facts),
        persona=facts.persona_id,
        identifiers=presented(facts.identifiers) if facts.identifiers else (),
        facts=facts,
        personal=recorded.personal if facts.feedback and has_words(facts) else None,
        recorded_at=event.recorded_at,
        correlation_id=event.correlation_id,
        traceparent=event.traceparent,
    )


def attribution(event: Recorded) -> Attribution:
    """Reads an InteractionAttributed or InteractionReattributed."""
    if event.type == INTERACTION_ATTRIBUTED:
        message = pb.InteractionAttributed.FromString(event.payload)
        previous = ""
    else:
        message = pb.InteractionReattributed.FromString(event.payload)
        previous = message.previous_client_id
    return Attribution(
        client_id=message.client_id,
        previous_client_id=previous,
        facts=message.interaction,
        personal=message.personal if message.HasField("personal") else None,
        evidence=message.evidence,
        interaction_recorded_at=message.interaction_recorded_at,
    )


def last_attributions(stream: Iterable[Recorded]) -> dict[str, Attribution]:
    """Of each interaction in a persona's stream the attribution that holds."""
    last: dict[str, Attribution] = {}
    for event in stream:
        each = attribution(event)
        last[each.facts.interaction_id] = each
    return last


def reattributed(last: Attribution, client_id: bytes, previous: bytes, why: pb.Evidence) -> bytes:
    """An InteractionReattributed that takes the interaction from one client to another, serialised."""
    return pb.InteractionReattributed(
        client_id=client_id.hex(),
        previous_client_id=previous.hex(),
        interaction=last.facts,
        personal=last.personal,
        evidence=why,
        interaction_recorded_at=last.interaction_recorded_at,
    ).SerializeToString()


def evidence(basis: Basis, rules_version: int, *more: bytes) -> pb.Evidence:
    """Evidence, with further events (16 bytes each; an empty one is none) behind those of the basis."""
    ids = [each.hex() for each in basis.evidence]
    ids += [each.hex() for each in more if each and each not in basis.evidence]
    return pb.Evidence(rule=basis.rule, rules_version=rules_version, event_ids=ids)


def identifier(type_: str, hash_: bytes, *, verified: bool = False) -> interaction_pb.IdentifierHash:
    """An identifier on the bus."""
    assurance = interaction_pb.ASSURANCE_VERIFIED if verified else interaction_pb.ASSURANCE_UNSPECIFIED
    return interaction_pb.IdentifierHash(type=type_, hash=hash_, assurance=assurance)


def rules_from(message: rules_pb2.RuleSet) -> RuleSet:
    """Rules as the domain sees them; a join policy that was left out is NEVER, the weakest."""
    return RuleSet(
        version=message.version,
        types=tuple(
            TypeRule(
                type=each.type,
                priority=each.priority,
                join=JoinPolicy(each.join) if each.join else JoinPolicy.NEVER,
                identifies_person=each.identifies_person,
                max_per_client=each.max_per_client,
                max_persons=each.max_persons,
                blocked_values=tuple(each.blocked_values),
            )
            for each in message.types
        ),
    )


def rules_message(rules: RuleSet) -> rules_pb2.RuleSet:
    """Rules as they are published."""
    return rules_pb2.RuleSet(
        version=rules.version,
        types=[
            rules_pb2.IdentifierTypeRule(
                type=each.type,
                priority=each.priority,
                join=_JOINS[each.join],
                identifies_person=each.identifies_person,
                max_per_client=each.max_per_client,
                max_persons=each.max_persons,
                blocked_values=each.blocked_values,
            )
            for each in rules.types
        ],
    )


def retention_from(message: rules_pb2.RetentionRules) -> RetentionRules:
    """Rules of retention as the domain sees them."""
    return RetentionRules(
        message.version,
        tuple(RetentionRule(each.name, each.keep, tuple(each.channels), each.purpose) for each in message.rules),
    )


def retention_message(rules: RetentionRules) -> rules_pb2.RetentionRules:
    """Rules of retention as they are published."""
    return rules_pb2.RetentionRules(
        version=rules.version,
        rules=[
            rules_pb2.RetentionRule(name=each.name, keep=each.keep, channels=each.channels, purpose=each.purpose)
            for each in rules.rules
        ],
    )
