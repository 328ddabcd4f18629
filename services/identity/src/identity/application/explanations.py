"""Events of identity's log in words."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from identity.application import messages
from throughline.identity.v1 import events_pb2 as pb
from throughline_kernel import Recorded

_RULES: Final = {
    "anonymous": "it names nobody",
    "manual": "a person decided it",
    "renamed": "an earlier interaction of it became known",
    "undone": "a merge was undone",
    "rules": "other rules were published",
    "forgotten": "a client was forgotten",
}
_POLICIES: Final = {
    "always": "joins whether claimed or verified",
    "verified": "joins where it is verified",
    "never": "finds a client and joins none",
}
_REASONS: Final = {
    "blocked_value": "its value is on the list of values that name nobody",
    "blocked_shape": "its value is blank, a placeholder, one character repeated, or a test value",
    "shared_by_too_many": "it was seen beside more persons than its type allows",
    "over_client_limit": "its client has as many of its type as the rules allow",
    "merge_undone": "a merge that was undone would come back through it",
}


def short(client_id: str) -> str:
    """A client id as people read it."""
    return client_id[:8] if client_id else "nobody"


def rule_in_words(rule: str) -> str:
    """Why, by the name of the rule."""
    if rule in _RULES:
        return _RULES[rule]
    _, type_, policy = rule.split(".", 1)[0], rule.split(".")[1], rule.rsplit(".", 1)[-1]
    return f"{_article(type_)} {_POLICIES.get(policy, policy)}"


def _article(type_: str) -> str:
    return f"an identifier of type {type_}"


def sentence(event: Recorded) -> str:
    """One sentence about the event."""
    known = _SENTENCES.get(event.type)
    if known is None:
        return f"{event.type.rsplit('.', 1)[-1]}."
    message, words = known
    return words(message.FromString(event.payload))


def _opened(event: pb.ClientOpened) -> str:
    return f"Client {short(event.client_id)} was opened: {rule_in_words(event.evidence.rule)}."


def _linked(event: pb.IdentifierLinked) -> str:
    known = ", which makes it a known person" if event.identifies_person else ""
    before = f" (it was {short(event.previous_client_id)}'s)" if event.previous_client_id else ""
    return (
        f"{_capital(_article(event.identifier.type))} was linked to client {short(event.client_id)}{before}{known}: "
        f"{rule_in_words(event.evidence.rule)}."
    )


def _demoted(event: pb.IdentifierDemoted) -> str:
    why = _REASONS.get(event.reason, event.reason)
    return f"{_capital(_article(event.identifier.type))} links nobody: {why}."


def _attributed(event: pb.InteractionAttributed) -> str:
    facts = event.interaction
    return (
        f"{_capital(facts.kind or 'interaction')} by {facts.channel} is client {short(event.client_id)}'s: "
        f"{rule_in_words(event.evidence.rule)}."
    )


def _reattributed(event: pb.InteractionReattributed) -> str:
    facts = event.interaction
    return (
        f"{_capital(facts.kind or 'interaction')} by {facts.channel} went from client "
        f"{short(event.previous_client_id)} to client {short(event.client_id)}: {rule_in_words(event.evidence.rule)}."
    )


def _merged(event: pb.ClientsMerged) -> str:
    if event.decided_by:
        return (
            f"{event.decided_by} decided that client {short(event.merged_client_id)} is client "
            f"{short(event.client_id)}: {event.reason or 'no reason given'}."
        )
    return (
        f"Client {short(event.merged_client_id)} became client {short(event.client_id)}: "
        f"{rule_in_words(event.evidence.rule)}."
    )


def _proposed(event: pb.MergeProposed) -> str:
    return (
        f"Clients {short(event.client_id)} and {short(event.other_client_id)} may be one, and a person should look: "
        f"{rule_in_words(event.evidence.rule)}."
    )


def _undone(event: pb.MergeUndone) -> str:
    return (
        f"{event.decided_by or 'Somebody'} undid the merge of client {short(event.restored_client_id)} into "
        f"{short(event.client_id)}: {event.reason or 'no reason given'}."
    )


def _consented(event: pb.ConsentRecorded) -> str:
    said = "consented to" if event.granted else "refused"
    where = f" for {event.scope}" if event.scope else ""
    return f"Client {short(event.client_id)} {said} {event.purpose}{where}."


def _scheduled(event: pb.ForgettingScheduled) -> str:
    due = datetime.fromtimestamp(event.due_at / 1_000_000, UTC).isoformat(timespec="seconds")
    return (
        f"{event.decided_by or 'Somebody'} decided that client {short(event.client_id)} is to be forgotten at {due}: "
        f"{event.reason or 'no reason given'}."
    )


def _cancelled(event: pb.ForgettingCancelled) -> str:
    return (
        f"{event.decided_by or 'Somebody'} decided that client {short(event.client_id)} is not to be forgotten: "
        f"{event.reason or 'no reason given'}."
    )


def _forgotten(event: pb.ClientForgotten) -> str:
    return (
        f"Client {short(event.client_id)} was forgotten with {len(event.interaction_ids)} interactions: "
        f"{event.reason or 'no reason given'}."
    )


def _published(event: pb.RulesPublished) -> str:
    return f"Version {event.rules.version} of the rules was published by {event.published_by or 'somebody'}."


def _retention_published(event: pb.RetentionRulesPublished) -> str:
    return (
        f"Version {event.rules.version} of the retention rules, {len(event.rules.rules)} in number, was published by "
        f"{event.published_by or 'somebody'}."
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


_SENTENCES: Final[dict[str, tuple[Any, Callable[[Any], str]]]] = {
    messages.CLIENT_OPENED: (pb.ClientOpened, _opened),
    messages.IDENTIFIER_LINKED: (pb.IdentifierLinked, _linked),
    messages.IDENTIFIER_DEMOTED: (pb.IdentifierDemoted, _demoted),
    messages.INTERACTION_ATTRIBUTED: (pb.InteractionAttributed, _attributed),
    messages.INTERACTION_REATTRIBUTED: (pb.InteractionReattributed, _reattributed),
    messages.CLIENTS_MERGED: (pb.ClientsMerged, _merged),
    messages.MERGE_PROPOSED: (pb.MergeProposed, _proposed),
    messages.MERGE_UNDONE: (pb.MergeUndone, _undone),
    messages.CONSENT_RECORDED: (pb.ConsentRecorded, _consented),
    messages.FORGETTING_SCHEDULED: (pb.ForgettingScheduled, _scheduled),
    messages.FORGETTING_CANCELLED: (pb.ForgettingCancelled, _cancelled),
    messages.CLIENT_FORGOTTEN: (pb.ClientForgotten, _forgotten),
    messages.RULES_PUBLISHED: (pb.RulesPublished, _published),
    messages.RETENTION_RULES_PUBLISHED: (pb.RetentionRulesPublished, _retention_published),
}
