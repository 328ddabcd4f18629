"""Refusals become statuses that a program can read, and come back as what they were."""

from __future__ import annotations

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status
from hypothesis import given
from hypothesis import strategies as st

from throughline.eventlog.v1.error_reason_pb2 import ErrorReason
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
from throughline_rpc import RemoteRefusal, decode_error, status_of
from throughline_rpc.errors import trailers_of

KINDS: list[tuple[type[Refusal], grpc.StatusCode, set[str]]] = [
    (NotFoundError, grpc.StatusCode.NOT_FOUND, {"ErrorInfo", "ResourceInfo"}),
    (PreconditionError, grpc.StatusCode.FAILED_PRECONDITION, {"ErrorInfo", "PreconditionFailure"}),
    (ConflictError, grpc.StatusCode.ABORTED, {"ErrorInfo", "RetryInfo"}),
    (ExhaustedError, grpc.StatusCode.RESOURCE_EXHAUSTED, {"ErrorInfo", "RetryInfo", "QuotaFailure"}),
    (ForbiddenError, grpc.StatusCode.PERMISSION_DENIED, {"ErrorInfo"}),
    (UnauthenticatedError, grpc.StatusCode.UNAUTHENTICATED, {"ErrorInfo"}),
    (UnavailableError, grpc.StatusCode.UNAVAILABLE, {"ErrorInfo", "RetryInfo"}),
    (InvalidError, grpc.StatusCode.INVALID_ARGUMENT, {"ErrorInfo"}),
    (Refusal, grpc.StatusCode.FAILED_PRECONDITION, {"ErrorInfo", "PreconditionFailure"}),
]


def failed(status: Status) -> grpc.aio.AioRpcError:
    """The error that a call raises which ended with the status."""
    code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
    trailers = grpc.aio.Metadata(*trailers_of(status))
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailers, details=status.message)


@pytest.mark.parametrize(("kind", "code", "details"), KINDS)
def test_each_kind_of_refusal_has_its_status_and_details(
    kind: type[Refusal], code: grpc.StatusCode, details: set[str]
) -> None:
    """The table of kinds, statuses and details."""
    refusal = kind("SOME_REASON", "client 9f is gone; ask for another", {"client_id": "9f"})
    status = status_of(refusal, "identity")
    assert status.code == code.value[0]
    assert {detail.type_url.rpartition(".")[2] for detail in status.details} == details

    remote = decode_error(failed(status))
    assert (remote.code, remote.reason, remote.domain) == (code, "SOME_REASON", "throughline.identity")
    assert remote.message == refusal.message
    assert remote.metadata == {"client_id": "9f"}
    assert (remote.retry_after is not None) == ("RetryInfo" in details)
    assert str(remote) == "SOME_REASON: client 9f is gone; ask for another"


def test_a_subclass_has_the_status_of_its_kind() -> None:
    """Services name their own refusals."""

    class ClientForgottenError(PreconditionError):
        pass

    assert status_of(ClientForgottenError("CLIENT_FORGOTTEN", "gone"), "identity").code == 9


def test_field_violations_come_back_as_they_were() -> None:
    """Field, rule, remedy and reason, in BadRequest."""
    violations = (
        Violation("occurred_at", "at most 24 h in the future", "check the source's clock"),
        Violation("identifiers[0].type", "given", "name the type; e.g. email", "FIELD_REQUIRED"),
    )
    status = status_of(InvalidError.of(*violations), "ingestion")
    request = error_details_pb2.BadRequest()
    assert status.details[1].Unpack(request)
    assert request.field_violations[0].field == "occurred_at"
    assert request.field_violations[0].description == "at most 24 h in the future; check the source's clock"
    assert decode_error(failed(status)).violations == violations


def test_a_refusal_may_say_when_to_try_again() -> None:
    """`retry_after_ms` in the metadata is what RetryInfo says."""
    status = status_of(ExhaustedError("BUSY", "too much", {"retry_after_ms": "2500"}), "ingestion")
    assert decode_error(failed(status)).retry_after == 2.5


texts = st.text(max_size=3_000)


@given(
    st.sampled_from([kind for kind, _, _ in KINDS]),
    texts,
    st.dictionaries(texts, texts, max_size=30),
    st.lists(st.builds(Violation, texts, texts, texts, st.just("FIELD_INVALID")), max_size=400),
)
def test_a_status_always_fits_into_trailers(
    kind: type[Refusal], message: str, metadata: dict[str, str], violations: list[Violation]
) -> None:
    """However much there is to say, a caller gets the status and not a broken stream: 8 KiB is what it takes."""
    status = status_of(kind("REASON", message, metadata, tuple(violations)), "ingestion")
    # The message travels twice: percent-encoded in grpc-message, up to three times as long, and inside the details
    # (base64).
    assert len(status.message.encode()) <= 1_000
    assert status.ByteSize() * 4 / 3 < 8_000
    remote = decode_error(failed(status))
    assert remote.reason == "REASON"
    if violations and kind is InvalidError:
        assert remote.violations


def test_what_cannot_be_read_is_left_out() -> None:
    """Errors of other servers, without details or with garbage in them, are still errors with code and message."""
    plain = grpc.aio.AioRpcError(
        grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), details="connection refused"
    )
    assert decode_error(plain) == RemoteRefusal(grpc.StatusCode.UNAVAILABLE, "connection refused")
    garbage = grpc.aio.Metadata(("grpc-status-details-bin", b"\xff\xff\xff"), ("other", "x"))
    remote = decode_error(grpc.aio.AioRpcError(grpc.StatusCode.INTERNAL, grpc.aio.Metadata(), garbage, details="x"))
    assert (remote.code, remote.message, remote.reason) == (grpc.StatusCode.INTERNAL, "x", "")


def test_a_stream_that_ended_under_a_write_is_a_connection_that_ended() -> None:
    """What gRPC's client puts over the true status is worth another try; what a service calls internal is not."""

    def internal(details: str) -> RemoteRefusal:
        nothing = grpc.aio.Metadata()
        return decode_error(grpc.aio.AioRpcError(grpc.StatusCode.INTERNAL, nothing, nothing, details=details))

    assert internal("Internal error from Core").code is grpc.StatusCode.UNAVAILABLE
    assert internal("something unexpected").code is grpc.StatusCode.INTERNAL


def test_the_reasons_given_here_are_in_the_contract() -> None:
    """What the host, the log service and the proof service refuse with is named for callers."""
    named = {name.removeprefix("ERROR_REASON_") for name in ErrorReason.keys()}  # noqa: SIM118 -- a protobuf enum
    assert {
        "FIELD_INVALID",
        "REQUEST_UNREADABLE",
        "STATE_NOT_FOUND",
        "LOG_UNAVAILABLE",
        "LOG_NEWER",
        "LOG_SEALED",
        "LOG_MISMATCH",
        "SHUTTING_DOWN",
        "UNEXPECTED",
        "CHECKPOINT_NOT_FOUND",
        "POSITION_NOT_FOUND",
        "ROLE_FORBIDS",
        "ROLE_REQUIRED",
        "SOURCE_FORBIDS",
        "CREDENTIALS_REQUIRED",
        "TOKEN_INVALID",
        "TOKEN_EXPIRED",
        "CERTIFICATE_UNKNOWN",
        "CERTIFICATE_EXPIRED",
        "KEYS_UNAVAILABLE",
    } == named - {"UNSPECIFIED"}
