"""Refusals as rich gRPC statuses, and back again on the caller's side."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Protocol, cast

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2  # pyright: ignore[reportMissingTypeStubs] -- it ships its own
from google.rpc.status_pb2 import Status

from throughline_kernel import (
    ConflictError,
    ExhaustedError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
    PreconditionError,
    Refusal,
    UnauthenticatedError,
    UnavailableError,
    Violation,
)

DETAILS_KEY: Final = "grpc-status-details-bin"

_CODES: Final[dict[type[Refusal], grpc.StatusCode]] = {
    InvalidError: grpc.StatusCode.INVALID_ARGUMENT,
    NotFoundError: grpc.StatusCode.NOT_FOUND,
    PreconditionError: grpc.StatusCode.FAILED_PRECONDITION,
    ConflictError: grpc.StatusCode.ABORTED,
    ExhaustedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ForbiddenError: grpc.StatusCode.PERMISSION_DENIED,
    UnauthenticatedError: grpc.StatusCode.UNAUTHENTICATED,
    UnavailableError: grpc.StatusCode.UNAVAILABLE,
}
_BY_NUMBER: Final = {cast("int", code.value[0]): code for code in grpc.StatusCode}
# When a caller may try again, in milliseconds, unless the refusal says otherwise in `metadata["retry_after_ms"]`.
_RETRY_MILLIS: Final = {
    grpc.StatusCode.ABORTED: 50,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 1_000,
    grpc.StatusCode.UNAVAILABLE: 500,
}
# Statuses travel in HTTP/2 trailers, and a caller refuses trailers over 8 KiB: what is longer is cut, never the
# status lost.
_MAX_MESSAGE: Final = 1_000
_MAX_VALUE: Final = 300
_MAX_INFO: Final = 2_000
_MAX_DETAILS: Final = 4_000


def code_of(refusal: Refusal) -> grpc.StatusCode:
    """The status code of a refusal's kind. A refusal of no kind is a precondition."""
    for kind in type(refusal).__mro__:
        code = _CODES.get(cast("type[Refusal]", kind))
        if code is not None:
            return code
    return grpc.StatusCode.FAILED_PRECONDITION


def status_of(refusal: Refusal, service: str) -> Status:
    """The refusal as google.rpc.Status: ErrorInfo under domain `throughline.<service>`, and the details of its kind.

    invalid: BadRequest; not found: ResourceInfo; precondition: PreconditionFailure; conflict and unavailable:
    RetryInfo; too much: RetryInfo and QuotaFailure. Long texts and lists are cut so that the status fits into
    trailers.
    """
    code = code_of(refusal)
    status = Status(code=cast("int", code.value[0]), message=_cut(refusal.message, _MAX_MESSAGE))
    info = error_details_pb2.ErrorInfo(reason=refusal.reason, domain=f"throughline.{service}")
    for key, value in refusal.metadata.items():
        if info.ByteSize() > _MAX_INFO:
            break
        info.metadata[_cut(key, _MAX_VALUE)] = _cut(value, _MAX_VALUE)
    room = _MAX_DETAILS - info.ByteSize()
    _add(status, info)
    for detail in _details(refusal, code, room):
        _add(status, detail)
    return status


def trailers_of(status: Status) -> tuple[tuple[str, bytes], ...]:
    """The trailing metadata that carries the status."""
    return ((DETAILS_KEY, status.SerializeToString()),)


def unexpected_status(error_id: str, service: str) -> Status:
    """What a caller learns of an error that nobody expected: an id to report."""
    status = Status(
        code=cast("int", grpc.StatusCode.INTERNAL.value[0]),
        message=f"something unexpected happened and was logged; report error {error_id}",
    )
    _add(
        status,
        error_details_pb2.ErrorInfo(
            reason="UNEXPECTED", domain=f"throughline.{service}", metadata={"error_id": error_id}
        ),
    )
    return status


@dataclass
class RemoteRefusal(Exception):  # noqa: N818 -- the counterpart of the kernel's Refusal
    """A refusal, or any failed call, as the caller sees it. `reason` is empty where the other side gave no details."""

    code: grpc.StatusCode
    message: str
    reason: str = ""
    domain: str = ""
    metadata: dict[str, str] = field(default_factory=dict[str, str])
    violations: tuple[Violation, ...] = ()
    retry_after: float | None = None
    """Seconds after which the same call may succeed, None where it will not by waiting."""

    def __str__(self) -> str:
        return f"{self.reason or self.code.name}: {self.message}"

    @property
    def error_id(self) -> str:
        """The id to report where the other side met something unexpected, else empty."""
        return self.metadata.get("error_id", "")


_WRITTEN_TOO_LATE: Final = "Internal error from Core"
"""What grpc.aio itself says where a stream ended under a write: it loses the status that the stream ended with
(https://github.com/grpc/grpc/issues/36066), which was the connection's, mostly. No service of ours says it.
"""


class _Failed(Protocol):
    """What grpc.aio.AioRpcError and the errors of synchronous calls have in common."""

    def code(self) -> grpc.StatusCode: ...
    def details(self) -> str | None: ...
    def trailing_metadata(self) -> Iterable[tuple[str, str | bytes]] | None: ...


def decode_error(error: grpc.RpcError) -> RemoteRefusal:
    """Reads the rich status of a failed call, asynchronous or not. Never fails itself: what cannot be read is left
    out.
    """
    failed = cast("_Failed", error)
    decoded = RemoteRefusal(failed.code(), failed.details() or "")
    if decoded.code is grpc.StatusCode.INTERNAL and decoded.message == _WRITTEN_TOO_LATE:
        decoded.code = grpc.StatusCode.UNAVAILABLE
        decoded.message = "the connection ended while something was written to it"
    for key, value in failed.trailing_metadata() or ():
        if key != DETAILS_KEY or not isinstance(value, bytes):
            continue
        try:
            status = Status.FromString(value)
            decoded.code = _BY_NUMBER.get(status.code, decoded.code)
            decoded.message = status.message or decoded.message
            for detail in status.details:
                _read(detail, decoded)
        except DecodeError:
            continue
    return decoded


def refusal_of(remote: RemoteRefusal) -> Refusal:
    """What another service refused, to be refused by this one in the same way. What is of no kind is a precondition."""
    kinds = {code: kind for kind, code in _CODES.items()}
    kind = kinds.get(remote.code, PreconditionError)
    return kind(remote.reason or remote.code.name, remote.message, remote.metadata, remote.violations)


def _details(refusal: Refusal, code: grpc.StatusCode, room: int) -> Iterator[Message]:
    if refusal.violations:
        yield _bad_request(refusal.violations, room)
    millis = _RETRY_MILLIS.get(code)
    if millis is not None:
        given = refusal.metadata.get("retry_after_ms", "")
        delay = Duration()
        delay.FromMilliseconds(int(given) if given.isdecimal() else millis)
        yield error_details_pb2.RetryInfo(retry_delay=delay)
    message = _cut(refusal.message, _MAX_VALUE)
    # The first value of the metadata is what the refusal is about.
    about, name = next(iter(refusal.metadata.items()), ("", ""))
    match code:
        case grpc.StatusCode.NOT_FOUND:
            yield error_details_pb2.ResourceInfo(
                resource_type=about, resource_name=_cut(name, _MAX_VALUE), description=message
            )
        case grpc.StatusCode.FAILED_PRECONDITION:
            failure = error_details_pb2.PreconditionFailure()
            failure.violations.add(type=refusal.reason, subject=_cut(name, _MAX_VALUE), description=message)
            yield failure
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            quota = error_details_pb2.QuotaFailure()
            quota.violations.add(subject=about, description=message)
            yield quota
        case _:
            pass


def _bad_request(violations: tuple[Violation, ...], room: int) -> error_details_pb2.BadRequest:
    request = error_details_pb2.BadRequest()
    for number, violation in enumerate(violations):
        description = f"{_cut(violation.rule, _MAX_VALUE)}; {_cut(violation.remedy, _MAX_VALUE)}"
        one = error_details_pb2.BadRequest.FieldViolation(
            field=_cut(violation.field, _MAX_VALUE), description=description, reason=violation.reason
        )
        room -= one.ByteSize() + 4
        if room < 0 and number:
            request.field_violations.add(
                field="", description=f"{len(violations) - number} more; mend these first", reason="FIELD_INVALID"
            )
            break
        request.field_violations.append(one)
    return request


def _read(detail: AnyMessage, into: RemoteRefusal) -> None:
    info, request, retry = (
        error_details_pb2.ErrorInfo(),
        error_details_pb2.BadRequest(),
        error_details_pb2.RetryInfo(),
    )
    if detail.Unpack(info):
        into.reason, into.domain, into.metadata = info.reason, info.domain, dict(info.metadata)
    elif detail.Unpack(request):
        into.violations = tuple(
            Violation(each.field, *_rule_and_remedy(each.description), each.reason) for each in request.field_violations
        )
    elif detail.Unpack(retry):
        into.retry_after = retry.retry_delay.ToMilliseconds() / 1_000


def _rule_and_remedy(description: str) -> tuple[str, str]:
    rule, _, remedy = description.partition("; ")
    return rule, remedy


def _add(status: Status, detail: Message) -> None:
    status.details.add().Pack(detail)


def _cut(text: str, limit: int) -> str:
    """At most `limit` bytes of UTF-8."""
    raw = text.encode("utf-8", "replace")
    return raw.decode() if len(raw) <= limit else raw[: limit - 3].decode("utf-8", "ignore") + "…"
