"""Answers, in the contract's words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from identity.application import messages
from identity.application.commands import Decision, Forgotten
from identity.application.queries import ClientView, Explanation, OwnIdentifier, Step
from identity.application.records import ForgettingRow, MergeRow, ProposalRow
from identity.domain.resolution import Basis
from identity.domain.retention import RetentionRule
from throughline.identity.v1 import events_pb2
from throughline.identity.v1 import identity_pb2 as pb
from throughline_eventlog import Commit
from throughline_kernel import Recorded

MAX_OVER: Final = 1_000
"""Clients that a dry run names at most."""


def client(view: ClientView, rules_version: int) -> pb.Client:
    """One client."""
    return pb.Client(
        client_id=view.client_id.hex(),
        alias_ids=[each.hex() for each in view.row.aliases],
        known_person=view.row.known_person,
        identifiers=[_identifier(each, rules_version) for each in view.identifiers],
        merges=[_merge(merge_id, row) for merge_id, row in view.merges],
        proposals=[proposal(merge_id, row) for merge_id, row in view.proposals],
        consents=[
            pb.Consent(
                purpose=each.purpose,
                granted=each.granted,
                scope=each.scope,
                source=each.source,
                at=each.at,
                event_id=each.event_id,
            )
            for each in view.consents
        ],
        interactions=view.interactions,
        first_seen_at=view.first_seen_at,
        last_seen_at=view.last_seen_at,
    )


def proposal(merge_id: bytes, row: ProposalRow) -> pb.Proposal:
    """A merge that waits for a person."""
    return pb.Proposal(
        merge_id=merge_id.hex(),
        client_id=row.client.hex(),
        other_client_id=row.other.hex(),
        evidence=_evidence(row.basis, row.rules_version),
        at=row.at,
    )


def forgotten(decision: Decision, outcome: Forgotten) -> pb.ForgetClientResponse:
    """What goes, or would."""
    extent = outcome.extent
    return pb.ForgetClientResponse(
        position=decision.position,
        identifiers=len(extent.identifiers),
        interactions=extent.interactions,
        client_id=extent.client_id.hex(),
        alias_ids=[each.hex() for each in extent.alias_ids],
        personas=len(extent.personas),
        consents=extent.consents,
        merges=extent.merges,
        proposals=extent.proposals,
        due_at=outcome.due_at,
    )


def scheduled(rows: Iterable[tuple[bytes, ForgettingRow]]) -> list[pb.Forgetting]:
    """Those who are to be forgotten."""
    return [
        pb.Forgetting(
            client_id=client_id.hex(), reason=row.reason, decided_by=row.decided_by, at=row.at, due_at=row.due_at
        )
        for client_id, row in rows
    ]


def done(events: Iterable[tuple[Recorded, events_pb2.ClientForgotten]]) -> list[pb.Forgetting]:
    """Those who are."""
    return [
        pb.Forgetting(
            client_id=message.client_id,
            alias_ids=message.alias_ids,
            reason=message.reason,
            decided_by=message.decided_by,
            at=event.recorded_at,
            persona_ids=message.persona_ids,
            identifiers=message.identifiers,
        )
        for event, message in events
    ]


def tried(version: int, over: Sequence[tuple[bytes, RetentionRule]]) -> pb.PublishRetentionRulesResponse:
    """Who would be forgotten by rules of retention."""
    return pb.PublishRetentionRulesResponse(
        version=version,
        clients=len(over),
        over=[pb.ClientOver(client_id=client_id.hex(), rule=rule.name) for client_id, rule in over[:MAX_OVER]],
    )


def certificate(
    origin: str, client_id: str, events: Sequence[tuple[Recorded, events_pb2.ClientForgotten]]
) -> dict[str, Any]:
    """What is signed of a client who was forgotten."""
    return {
        "origin": origin,
        "client_id": client_id,
        "forgettings": [
            {
                "client_id": message.client_id,
                "alias_ids": list(message.alias_ids),
                "reason": message.reason,
                "decided_by": message.decided_by,
                "at": event.recorded_at,
                "event_id": event.event_id.hex(),
                "position": event.position,
            }
            for event, message in events
        ],
        "keys_destroyed": len({persona_id for _, message in events for persona_id in message.persona_ids}),
    }


def explanation(explained: Explanation, commit: Commit) -> pb.ExplainLinkResponse:
    """How a link came about."""
    return pb.ExplainLinkResponse(
        client_id=explained.client_id,
        steps=[_step(each) for each in explained.steps],
        as_of=commit.recorded_at,
        position=commit.position,
    )


def _identifier(own: OwnIdentifier, rules_version: int) -> pb.LinkedIdentifier:
    return pb.LinkedIdentifier(
        identifier=messages.identifier(own.row.type, own.hash, verified=own.row.identifies_person),
        evidence=_evidence(own.row.basis, rules_version),
        first_seen_at=own.first_seen_at,
        interactions=own.interactions,
    )


def _merge(merge_id: bytes, row: MergeRow) -> pb.Merge:
    return pb.Merge(
        merge_id=merge_id.hex(),
        client_id=row.client.hex(),
        merged_client_id=row.merged.hex(),
        evidence=_evidence(row.basis, row.rules_version),
        undone=row.undone,
        decided_by=row.decided_by,
        at=row.at,
    )


def _step(step: Step) -> pb.LinkStep:
    return pb.LinkStep(
        event_id=step.event.event_id.hex(),
        event_type=step.event.type,
        position=step.event.position,
        recorded_at=step.event.recorded_at,
        client_id=step.client_id,
        evidence=step.evidence,
        explanation=step.explanation,
    )


def _evidence(basis: Basis, rules_version: int) -> events_pb2.Evidence:
    return messages.evidence(basis, rules_version)
