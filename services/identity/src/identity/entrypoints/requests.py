"""Requests, checked and in the domain's words."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from identity.application.commands import (
    CancelForgetting,
    ForgetClient,
    MergeClients,
    PublishRetention,
    PublishRules,
    RecordConsent,
    UndoMerge,
)
from identity.application.messages import retention_from, rules_from
from identity.domain.consents import check_purpose
from identity.domain.refusals import invalid, required
from throughline.identity.v1 import identity_pb2 as pb
from throughline.identity.v1 import rules_pb2
from throughline.ingestion.v1 import interaction_pb2 as interaction_pb
from throughline_kernel import InvalidError, Violation, is_hex_id

DEFAULT_PAGE: Final = 100
MAX_PAGE: Final = 1_000
MAX_IDENTIFIERS: Final = 100
MAX_TEXT: Final = 1_000
LATEST: Final = 1 << 62
"""The latest instant that can be named, microseconds."""
MAX_GRACE: Final = 3_653 * 86_400_000_000


def hex_bytes(field: str, value: str) -> bytes:
    """An id as bytes. Raises: InvalidError where it is missing or has another form."""
    if not value:
        raise required(field)
    if not is_hex_id(value):
        raise invalid(field, "32 lowercase hex digits", "give an id as the service gave it out")
    return bytes.fromhex(value)


def page_size(value: int) -> int:
    """Raises: InvalidError."""
    if not 0 <= value <= MAX_PAGE:
        raise invalid("page_size", f"0 to {MAX_PAGE}", f"give 1 to {MAX_PAGE}, or 0 for {DEFAULT_PAGE}")
    return value or DEFAULT_PAGE


def instant(value: int) -> int:
    """An instant that is asked for, 0 for now. Raises: InvalidError."""
    if not 0 <= value <= LATEST:
        raise invalid("as_of", f"0 to {LATEST}", "give microseconds since 1970, or 0 for now")
    return value


def identifiers(field: str, given: Iterable[interaction_pb.Identifier]) -> list[tuple[str, str]]:
    """Identifiers in the clear. Raises: InvalidError."""
    found = [(each.type, each.value) for each in given]
    if len(found) > MAX_IDENTIFIERS:
        raise invalid(field, f"at most {MAX_IDENTIFIERS}", "ask for fewer at once")
    for index, (type_, _) in enumerate(found):
        if not type_:
            raise required(f"{field}[{index}].type")
    return found


def merge_clients(request: pb.MergeClientsRequest, traceparent: str) -> MergeClients:
    """Raises: InvalidError."""
    return MergeClients(
        hex_bytes("client_id", request.client_id),
        hex_bytes("other_client_id", request.other_client_id),
        _text("decided_by", request.decided_by),
        _text("reason", request.reason),
        traceparent,
    )


def undo_merge(request: pb.UndoMergeRequest, traceparent: str) -> UndoMerge:
    """Raises: InvalidError."""
    return UndoMerge(
        hex_bytes("merge_id", request.merge_id),
        _text("decided_by", request.decided_by),
        _text("reason", request.reason),
        traceparent,
    )


def record_consent(request: pb.RecordConsentRequest, traceparent: str) -> RecordConsent:
    """Raises: InvalidError."""
    purpose = _text("purpose", request.purpose)
    for field, value in (("purpose", purpose), ("scope", request.scope)):
        if "\0" in value:
            raise invalid(field, "no NUL", "leave it out")
    check_purpose(purpose)
    if request.at < 0:
        raise invalid("at", "at least 0", "give microseconds since 1970, or 0 for now")
    return RecordConsent(
        hex_bytes("client_id", request.client_id),
        purpose,
        request.granted,
        _optional("source", request.source),
        _optional("scope", request.scope),
        request.at,
        traceparent,
    )


def forget_client(request: pb.ForgetClientRequest, traceparent: str) -> ForgetClient:
    """Raises: InvalidError."""
    return ForgetClient(
        hex_bytes("client_id", request.client_id),
        _text("reason", request.reason),
        _text("decided_by", request.decided_by),
        _grace(request.grace),
        request.dry_run,
        traceparent,
    )


def cancel_forgetting(request: pb.CancelForgettingRequest, traceparent: str) -> CancelForgetting:
    """Raises: InvalidError."""
    return CancelForgetting(
        hex_bytes("client_id", request.client_id),
        _text("reason", request.reason),
        _text("decided_by", request.decided_by),
        traceparent,
    )


def publish_rules(request: pb.PublishRulesRequest, traceparent: str) -> PublishRules:
    """Raises: InvalidError."""
    if not request.HasField("rules"):
        raise required("rules")
    violations = [
        Violation(
            f"rules.types[{index}].join",
            "ALWAYS, VERIFIED or NEVER",
            "say when the same value makes two clients one",
            "RULES_INVALID",
        )
        for index, each in enumerate(request.rules.types)
        if each.join not in {rules_pb2.JOIN_POLICY_ALWAYS, rules_pb2.JOIN_POLICY_VERIFIED, rules_pb2.JOIN_POLICY_NEVER}
    ]
    if violations:
        raise InvalidError.of(*violations)
    return PublishRules(rules_from(request.rules), _text("published_by", request.published_by), traceparent)


def publish_retention(request: pb.PublishRetentionRulesRequest, traceparent: str) -> PublishRetention:
    """Raises: InvalidError."""
    if not request.HasField("rules"):
        raise required("rules")
    return PublishRetention(retention_from(request.rules), _text("published_by", request.published_by), traceparent)


def _grace(value: int) -> int:
    if not 0 <= value <= MAX_GRACE:
        raise invalid("grace", f"0 to {MAX_GRACE} microseconds (ten years)", "give a grace time that people wait for")
    return value


def _text(field: str, value: str) -> str:
    if not value.strip():
        raise required(field)
    return _optional(field, value)


def _optional(field: str, value: str) -> str:
    if len(value) > MAX_TEXT:
        raise invalid(field, f"at most {MAX_TEXT} characters", "say it in fewer words")
    return value
