"""What a suite that is open to a network lets in, and what it lets out."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import urllib.request
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import grpc
import grpc.aio
import pytest
from click.testing import CliRunner
from google.protobuf import message_factory
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from guarded import SECRET, Guarded
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from line import connect, identifier, interaction

from throughline.accesslog.v1 import accesslog_pb2
from throughline.eventlog.v1 import eventlog_pb2
from throughline.feedback.v1 import feedback_pb2
from throughline.identity.v1 import identity_pb2
from throughline.ingestion.v1 import ingestion_pb2, interaction_pb2, partition_pb2
from throughline.journey.v1 import journey_pb2
from throughline.proof.v1 import proof_pb2
from throughline.scoring.v1 import scoring_pb2
from throughline_client.commands import main
from throughline_client.endpoints import SERVICES
from throughline_rpc import RemoteRefusal, decode_error, open_blocking_channel, open_channel

pytestmark = pytest.mark.e2e

SERVICE_OF: dict[str, ServiceDescriptor] = {
    "ingestion": ingestion_pb2.DESCRIPTOR.services_by_name["IngestionService"],
    "identity": identity_pb2.DESCRIPTOR.services_by_name["IdentityService"],
    "journey": journey_pb2.DESCRIPTOR.services_by_name["JourneyService"],
    "feedback": feedback_pb2.DESCRIPTOR.services_by_name["FeedbackService"],
    "scoring": scoring_pb2.DESCRIPTOR.services_by_name["ScoringService"],
}
EVERYWHERE = (
    eventlog_pb2.DESCRIPTOR.services_by_name["EventLogService"],
    proof_pb2.DESCRIPTOR.services_by_name["ProofService"],
    accesslog_pb2.DESCRIPTOR.services_by_name["AccessLogService"],
    proof_pb2.DESCRIPTOR.services_by_name["AccessProofService"],
)
BETWEEN_PARTITIONS = partition_pb2.DESCRIPTOR.services_by_name["PartitionService"]
MEANT = ("throughline-partition", "0/1")
METHODS = [
    (service, method)
    for service, own in SERVICE_OF.items()
    for descriptor in (own, *([BETWEEN_PARTITIONS] if service == "ingestion" else []), *EVERYWHERE)
    for method in descriptor.methods
]

NPS = interaction_pb2.FEEDBACK_KIND_NPS
MAIL, PHONE, CARD = "mira.kowalska@post.eu", "+49 171 5550842", "DE-LC-77120934"
WORDS = "My neighbour Zbigniew told me that my divorce"
ANSWER = "Kastanienallee 17"
PERSONAL = (MAIL, PHONE, PHONE.replace(" ", ""), CARD, WORDS, ANSWER, "Zbigniew", "kowalska")

CLEAN = frozenset(grpc.StatusCode) - {
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DATA_LOSS,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
}
# Requests to each method; fewer to those that are listened to, since that takes time. `make fuzz` sends more.
EXAMPLES = int(os.environ.get("THROUGHLINE_TEST_REQUESTS", "25"))
LISTENED_EXAMPLES = EXAMPLES // 3
LISTENED_SECONDS = 0.1
GROWN_BYTES = 150 * 1024 * 1024


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """Started once; what the tests sent is in its logs when the last of them looks there."""
    made = Guarded.make(tmp_path_factory.mktemp("guarded"))
    with made.suite:
        asyncio.run(_register(made))
        yield made


async def _register(guarded: Guarded) -> None:
    async with connect(guarded.suite) as line:
        await line.register()


async def refusal_of(call: Any) -> RemoteRefusal:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return decode_error(error.value)


@pytest.mark.parametrize("service", SERVICES)
async def test_every_call_needs_a_credential_that_is_good_and_great_enough(service: str, guarded: Guarded) -> None:
    """Of every method: without a token, with a made-up, an expired and a too small one the call is refused, before
    anything of it is done, and nothing of the token is repeated.
    """
    made_up = guarded.with_token("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJtZSJ9.c2VjcmV0LXRva2Vu")
    cases = [
        (replace(made_up, token_file=None), "CREDENTIALS_REQUIRED"),
        (made_up, "TOKEN_INVALID"),
        (guarded.credentials("admin", seconds=-60), "TOKEN_EXPIRED"),
        (guarded.credentials("king"), "ROLE_FORBIDS"),
    ]
    for credentials, reason in cases:
        async with open_channel(guarded.suite.addresses[service], credentials=credentials) as channel:
            for name, method in METHODS:
                if name == service:
                    refusal = await refusal_of(_called(channel, method))
                    assert refusal.reason == reason, (method.full_name, refusal)
                    assert "c2VjcmV0" not in repr(refusal)


async def _called(channel: grpc.aio.Channel, method: MethodDescriptor) -> Message:
    """The first answer to an empty request, of whatever kind the method is."""
    path, request_type, response_type = _path(method)
    wires = {"request_serializer": request_type.SerializeToString, "response_deserializer": response_type.FromString}
    if method.client_streaming:
        return cast("Message", await channel.stream_stream(path, **wires)(timeout=10).read())
    if method.server_streaming:
        return cast("Message", await channel.unary_stream(path, **wires)(request_type(), timeout=10).read())
    return await channel.unary_unary(path, **wires)(request_type(), timeout=10)


async def test_a_channel_writes_for_its_own_source_only(guarded: Guarded) -> None:
    """One by one, in a batch among its own, and over a stream; and nothing of what it was refused is recorded."""
    own, other = interaction("bound-1", source="till"), interaction("bound-2", source="web")
    credentials = guarded.credentials("channel", sources=["till"])
    async with connect(guarded.suite) as admin:
        before = await admin.tallies()
        target = guarded.suite.addresses["ingestion"]
        async with open_channel(target, credentials=credentials) as channel:
            stub = type(admin.ingestion)(channel)
            assert (
                await stub.RecordInteraction(ingestion_pb2.RecordInteractionRequest(interaction=own))
            ).result.position

            async def requests() -> AsyncIterator[ingestion_pb2.StreamInteractionsRequest]:
                yield ingestion_pb2.StreamInteractionsRequest(batch_id="1", interactions=[own])
                yield ingestion_pb2.StreamInteractionsRequest(batch_id="2", interactions=[own, other])

            stream = stub.StreamInteractions(requests())
            assert cast("Any", await stream.read()).batch_id == "1"
            for call in (
                stub.RecordInteraction(ingestion_pb2.RecordInteractionRequest(interaction=other)),
                stub.RecordInteractions(ingestion_pb2.RecordInteractionsRequest(interactions=[own, other])),
                stream.read(),
            ):
                refusal = await refusal_of(call)
                assert (refusal.code, refusal.reason) == (grpc.StatusCode.PERMISSION_DENIED, "SOURCE_FORBIDS")
                assert refusal.metadata == {"source": "web", "bound": "till"}
        after = await admin.tallies()
    assert after["till"].offered - (before["till"].offered if "till" in before else 0) == 2
    assert after.get("web") == before.get("web")


def test_the_command_gets_in_with_a_token_file(guarded: Guarded) -> None:
    """And with the certificates that the environment names; without the token it is told what to do."""
    admin = guarded.suite.credentials
    assert admin.tls is not None
    environment = {
        "THROUGHLINE_DATA": str(guarded.folder / "nothing"),
        "THROUGHLINE_TLS_CA_FILE": str(admin.tls.ca),
        "THROUGHLINE_TLS_CERT_FILE": str(admin.tls.certificate),
        "THROUGHLINE_TLS_KEY_FILE": str(admin.tls.key),
        **{f"THROUGHLINE_{name.upper()}_ADDRESS": at for name, at in guarded.suite.addresses.items()},
    }
    told = CliRunner().invoke(main, ["sources", "list"], env=environment)
    assert told.exit_code == 1
    assert "--token-file" in told.output
    told = CliRunner().invoke(main, ["sources", "list", "--token-file", str(admin.token_file)], env=environment)
    assert (told.exit_code, "till" in told.output) == (0, True), told.output
    told = CliRunner().invoke(main, ["replay", "all", "--token-file", str(admin.token_file)], env=environment)
    assert told.exit_code == 0, told.output
    told = CliRunner().invoke(main, ["status"], env=environment | {"THROUGHLINE_TOKEN_FILE": "/absent/token"})
    assert told.exit_code == 2
    assert "/absent/token: No such file" in told.output


# Whatever is told.


async def test_secrets_and_personal_values_reach_no_log_trace_metric_or_error(guarded: Guarded) -> None:
    """A client's day with everything personal in it, told well and told wrongly, at log level debug and with traces:
    afterwards none of it, and no secret of the installation, is anywhere but in the sealed stores.
    """
    suite = guarded.suite
    errors: list[str] = []

    async def wrong(call: Any) -> None:
        try:
            await call
        except grpc.aio.AioRpcError as error:
            errors.append(f"{error.details()} {error.trailing_metadata()} {decode_error(error)!r}")

    async with connect(suite) as line:
        who = [identifier("email", MAIL), identifier("phone", PHONE), identifier("loyalty_card", CARD)]
        said = interaction(
            "secret-1",
            *who,
            exchanges=[interaction_pb2.Exchange(question="address", answer=ANSWER)],
            feedback=[interaction_pb2.Feedback(kind=NPS, score=1, scale_min=0, scale_max=10, verbatim=WORDS)],
            personal_attributes=json.dumps({"name": "Mira Kowalska"}).encode(),
        )
        results = await line.record([said])
        assert [result.verdict for result in results] == [1], results
        await line.settled()
        resolved = await line.identity.ResolveClient(identity_pb2.ResolveClientRequest(identifiers=who[:1]))
        assert resolved.client_id
        await line.journey.ResumeContext(journey_pb2.ResumeContextRequest(identifiers=who[:1], channel="phone"))
        given_feedback = feedback_pb2.SubmitFeedbackRequest(
            source="web",
            source_feedback_id="f-1",
            channel="web",
            occurred_at=said.occurred_at,
            identifiers=who[:1],
            feedback=interaction_pb2.Feedback(kind=NPS, score=0, scale_min=0, scale_max=10, verbatim=WORDS),
        )
        await line.feedback.SubmitFeedback(given_feedback)
        # Told wrongly: personal values in fields that break a rule, that are unknown, or where they do not belong.
        for fault in (
            {"channel": MAIL},
            {"source": MAIL},
            {"kind": WORDS},
            {"source_interaction_id": MAIL * 40},
            {"attributes": WORDS.encode()},
            {"personal_attributes": WORDS.encode()},
            {"occurred_at": -1},
            {"identifiers": [identifier(MAIL, MAIL)]},
            {"exchanges": [interaction_pb2.Exchange(question=WORDS, answer=ANSWER)]},
        ):
            changed = interaction_pb2.Interaction()
            changed.CopyFrom(said)
            for name in fault:
                changed.ClearField(cast("Any", name))
            changed.MergeFrom(interaction_pb2.Interaction(**cast("Any", fault)))
            await wrong(line.ingestion.RecordInteraction(ingestion_pb2.RecordInteractionRequest(interaction=changed)))
        nobody = identifier("email", f"not.{MAIL}")
        await wrong(line.identity.ResolveClient(identity_pb2.ResolveClientRequest(identifiers=[nobody])))
        await wrong(line.identity.GetClient(identity_pb2.GetClientRequest(client_id=MAIL)))
        await wrong(line.journey.ResumeContext(journey_pb2.ResumeContextRequest(identifiers=[nobody], channel=WORDS)))
        await wrong(line.journey.GetTimeline(journey_pb2.GetTimelineRequest(client_id=PHONE)))
        await wrong(line.feedback.SubmitFeedback(feedback_pb2.SubmitFeedbackRequest(source=MAIL, channel=WORDS)))
        await wrong(line.scoring.GetScorecard(scoring_pb2.GetScorecardRequest()))
        await line.settled()
    metrics = [_fetched(f"http://{at}/metrics") for at in suite.metrics.values()]
    told = {
        **{f"log of {name}": suite.log_file(name).read_text(errors="replace") for name in (*SERVICES, "nats")},
        "traces": (guarded.folder / "spans.jsonl").read_text(errors="replace"),
        "metrics": "\n".join(metrics),
        "errors": "\n".join(errors),
    }
    assert len(errors) >= 12
    assert all(text for name, text in told.items() if name != "log of nats")
    assert_untold(guarded, told)


def assert_untold(guarded: Guarded, told: dict[str, str]) -> None:
    """Nothing of what is known to be secret or personal stands in these texts."""
    for where, text in told.items():
        for what, secret in known_secrets(guarded):
            found = text.lower().find(secret.lower())
            assert found < 0, f"{what} in the {where}: {text[max(found - 300, 0) : found + 300]}"


def known_secrets(guarded: Guarded) -> Iterator[tuple[str, str]]:
    """What must not be told, and what it is."""
    for value in PERSONAL:
        yield "a personal value", value
    folder = guarded.suite.folder
    for name, value in json.loads((folder / "keys.json").read_text()).items():
        if isinstance(value, str) and len(value) >= 20:
            yield f"{name} of keys.json", value
            yield f"{name} of keys.json as hex", base64.b64decode(value).hex()
    for line in (folder / "signing.keys").read_text().split():
        yield "a signing key", line
    yield "the key of the tokens' issuer", SECRET
    for file in sorted(guarded.folder.glob("*.token")):
        yield "a token", file.read_text().rpartition(".")[2]
    for file in guarded.folder.glob("*/tls.key"):
        yield "a private key", file.read_text().split("\n")[1]


def _fetched(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 -- our own, on the loopback
        return answer.read().decode()


# Whatever is sent.

TEXTS = st.sampled_from(
    ("", "web", "till", "store", "email", "visit", "\0", "ж" * 70, "x" * 5_000, "9" * 32, "{}", *PERSONAL)
) | st.text(max_size=8)
BYTES = st.sampled_from((b"", b"{}", b'{"a": 1}', b"[" * 2_000, b"\x00" * 16, b"\xff" * 32, MAIL.encode())) | st.binary(
    max_size=40
)
WHOLE = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}


def values(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    """Values that a field can hold, near the edges of what it may."""
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_MESSAGE:
        return fields(cast("Any", field.message_type), depth + 1)
    if kind == FieldDescriptor.CPPTYPE_STRING:
        return BYTES if field.type == FieldDescriptor.TYPE_BYTES else TEXTS
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return st.booleans()
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        return st.integers(-1, 9)
    if kind in WHOLE:
        least, most = WHOLE[kind]
        near = [each for each in (0, 1, 2, 100, 1_000, 1_700_000_000_000_000, least, most) if least <= each <= most]
        return st.sampled_from(near)
    return st.sampled_from((0.0, 1.5, -1.0, float("nan"), float("inf")))


def fields(descriptor: Any, depth: int = 0) -> st.SearchStrategy[dict[str, Any]]:
    """What a message of this type can be made of: some fields, a few of what is repeated, not for ever deep."""
    given_fields: dict[str, st.SearchStrategy[Any]] = {}
    for field in descriptor.fields:
        if field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE and depth > 3:
            continue
        value = values(field, depth)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            entry = field.message_type.fields_by_name
            value = st.dictionaries(values(entry["key"], depth), values(entry["value"], depth), max_size=2)
        elif field.is_repeated:
            value = st.lists(value, max_size=3)
        given_fields[field.name] = value
    return st.fixed_dictionaries({}, optional=given_fields)


@pytest.mark.parametrize("service", SERVICES)
def test_whatever_is_sent_ends_in_a_clean_status(service: str, guarded: Guarded) -> None:
    """Every method of the service, with messages made from the contract and with bytes that are none: an answer or a
    refusal, never an unexpected error; afterwards it serves, has not grown, and logged nothing that is personal.
    """
    pid = guarded.suite.pids[service]
    before = resident(pid)
    with open_blocking_channel(
        guarded.suite.addresses[service], metadata=[MEANT], credentials=guarded.suite.credentials
    ) as channel:
        for name, method in METHODS:
            if name == service:
                send_anything(channel, method)
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            health_pb2.HealthCheckRequest.SerializeToString,
            health_pb2.HealthCheckResponse.FromString,
        )
        own = health_pb2.HealthCheckRequest(service=SERVICE_OF[service].full_name)
        answer = cast("health_pb2.HealthCheckResponse", check(own, timeout=10))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    assert guarded.suite.pids[service] == pid
    assert not guarded.suite.deaths()
    assert_untold(guarded, {f"log of {service}": guarded.suite.log_file(service).read_text(errors="replace")})
    assert resident(pid) - before < GROWN_BYTES


def send_anything(channel: grpc.Channel, method: MethodDescriptor) -> None:
    """Calls a method with many requests. Raises: AssertionError at a status that is not clean."""
    path, request_type, _ = _path(method)

    def serialised(made: dict[str, Any]) -> bytes:
        return request_type(**made).SerializeToString()

    examples = LISTENED_EXAMPLES if method.server_streaming and not method.client_streaming else EXAMPLES

    @settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        database=None,
    )
    @given(
        st.lists(fields(method.input_type).map(serialised), min_size=1, max_size=3)
        | st.lists(st.binary(max_size=30), min_size=1, max_size=2)
    )
    def send(requests: list[bytes]) -> None:
        code = _ended(channel, path, method, requests)
        assert code in CLEAN, (method.full_name, code, requests)

    send()


def _ended(channel: grpc.Channel, path: str, method: MethodDescriptor, requests: list[bytes]) -> grpc.StatusCode:
    listened = LISTENED_SECONDS if method.server_streaming else 20
    try:
        if method.client_streaming:
            for _ in channel.stream_stream(path)(iter(requests), timeout=20):
                pass
        elif method.server_streaming:
            for _ in channel.unary_stream(path)(requests[0], timeout=listened):
                pass
        else:
            channel.unary_unary(path)(requests[0], timeout=listened)
    except grpc.RpcError as error:
        code = cast("grpc.Call", error).code()
        # Who only listens is told nothing, for as long as nothing happens.
        quiet = method.server_streaming and not method.client_streaming and code is grpc.StatusCode.DEADLINE_EXCEEDED
        return grpc.StatusCode.OK if quiet else code
    return grpc.StatusCode.OK


def _path(method: MethodDescriptor) -> tuple[str, type[Message], type[Message]]:
    return (
        f"/{method.containing_service.full_name}/{method.name}",
        message_factory.GetMessageClass(method.input_type),
        message_factory.GetMessageClass(method.output_type),
    )


def resident(pid: int) -> int:
    """Bytes of memory that a process holds."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(encoding="ascii"))
    assert found is not None
    return int(found.group(1)) * 1024
