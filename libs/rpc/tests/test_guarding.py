"""Callers are held to what the contract permits their roles."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_health.v1 import health_pb2, health_pb2_grpc

from throughline.eventlog.v1 import eventlog_pb2, eventlog_pb2_grpc
from throughline.feedback.v1 import feedback_pb2, feedback_pb2_grpc
from throughline.ingestion.v1 import ingestion_pb2, ingestion_pb2_grpc, interaction_pb2
from throughline_kernel import UnauthenticatedError
from throughline_rpc import (
    AccessUnstatedError,
    Caller,
    Hosted,
    HostSettings,
    Identity,
    RemoteRefusal,
    ServiceHost,
    decode_error,
    open_channel,
)


class Desk(
    feedback_pb2_grpc.FeedbackServiceServicer,
    ingestion_pb2_grpc.IngestionServiceServicer,
    eventlog_pb2_grpc.EventLogServiceServicer,
):
    """Answers everybody whom it is reached by."""

    async def GetFeedback(  # noqa: N802 -- named by the contract
        self, request: feedback_pb2.GetFeedbackRequest, context: Any
    ) -> feedback_pb2.GetFeedbackResponse:
        return feedback_pb2.GetFeedbackResponse(item=feedback_pb2.Item(verbatim="too slow"))

    async def GetRoutes(  # noqa: N802 -- named by the contract
        self, request: feedback_pb2.GetRoutesRequest, context: Any
    ) -> feedback_pb2.GetRoutesResponse:
        return feedback_pb2.GetRoutesResponse()

    async def RecordInteraction(  # noqa: N802 -- named by the contract
        self, request: ingestion_pb2.RecordInteractionRequest, context: Any
    ) -> ingestion_pb2.RecordInteractionResponse:
        return ingestion_pb2.RecordInteractionResponse()

    async def StreamInteractions(  # noqa: N802 -- named by the contract
        self, request_iterator: AsyncIterator[ingestion_pb2.StreamInteractionsRequest], context: Any
    ) -> AsyncIterator[ingestion_pb2.StreamInteractionsResponse]:
        async for request in request_iterator:
            yield ingestion_pb2.StreamInteractionsResponse(batch_id=request.batch_id)

    async def ReadEvents(  # noqa: N802 -- named by the contract
        self, request: eventlog_pb2.ReadEventsRequest, context: Any
    ) -> AsyncIterator[eventlog_pb2.ReadEventsResponse]:
        yield eventlog_pb2.ReadEventsResponse()


@dataclass
class Known:
    """Knows its callers by a token."""

    identities: Mapping[str, Identity]

    async def identify(
        self, metadata: Iterable[tuple[str, str | bytes]], auth_context: Mapping[str, Iterable[bytes]]
    ) -> Identity:
        token = dict(metadata).get("authorization")
        if not isinstance(token, str) or token not in self.identities:
            raise UnauthenticatedError("ROLE_REQUIRED", "nobody is known by this")
        return self.identities[token]


KNOWN = Known(
    {
        "ana": Identity("ana", frozenset({"agent", "channel"})),
        "otto": Identity("otto", frozenset({"operator"})),
        "ida": Identity("ida", frozenset({"auditor"})),
        "till": Identity("till", frozenset({"channel"}), frozenset({"till"})),
        "nobody": Identity("nobody", frozenset()),
    }
)


class Calls:
    """Calls the desk as somebody."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._feedback = feedback_pb2_grpc.FeedbackServiceStub(channel)
        self._ingestion = ingestion_pb2_grpc.IngestionServiceStub(channel)
        self._log = eventlog_pb2_grpc.EventLogServiceStub(channel)

    async def feedback(self, token: str, caller: Caller | None = None) -> str:
        """Reads somebody's words."""
        request = feedback_pb2.GetFeedbackRequest()
        return (await self._feedback.GetFeedback(request, metadata=_metadata(token, caller))).item.verbatim

    async def routes(self, token: str) -> None:
        """Reads the routes."""
        await self._feedback.GetRoutes(feedback_pb2.GetRoutesRequest(), metadata=_metadata(token))

    async def record(self, token: str, source: str) -> None:
        """Reports for a source."""
        interaction = interaction_pb2.Interaction(source=source)
        request = ingestion_pb2.RecordInteractionRequest(interaction=interaction)
        await self._ingestion.RecordInteraction(request, metadata=_metadata(token))

    async def stream(self, token: str, *sources: str) -> list[str]:
        """Reports for sources over one stream, a batch each."""
        requests = [
            ingestion_pb2.StreamInteractionsRequest(
                batch_id=source, interactions=[interaction_pb2.Interaction(source=source)]
            )
            for source in sources
        ]
        answers = self._ingestion.StreamInteractions(iter(requests), metadata=_metadata(token))
        return [answer.batch_id async for answer in answers]

    async def log(self, token: str) -> int:
        """Reads the log."""
        events = self._log.ReadEvents(eventlog_pb2.ReadEventsRequest(), metadata=_metadata(token))
        return len([event async for event in events])


def _metadata(token: str, caller: Caller | None = None) -> tuple[tuple[str, str], ...]:
    return ((("authorization", token),) if token else ()) + (caller or Caller()).metadata()


async def refused(call: Any) -> RemoteRefusal:
    """How a call is refused."""
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    return decode_error(failed.value)


def _hosted() -> list[Hosted[Any]]:
    desk = Desk()  # pyright: ignore[reportAbstractUsage] -- what it lacks is not called
    return [
        Hosted(_name(feedback_pb2), feedback_pb2_grpc.add_FeedbackServiceServicer_to_server, desk),
        Hosted(_name(ingestion_pb2), ingestion_pb2_grpc.add_IngestionServiceServicer_to_server, desk),
        Hosted(_name(eventlog_pb2), eventlog_pb2_grpc.add_EventLogServiceServicer_to_server, desk),
    ]


def _name(contract: Any) -> str:
    return next(iter(contract.DESCRIPTOR.services_by_name.values())).full_name


@pytest_asyncio.fixture
async def channel() -> AsyncIterator[grpc.aio.Channel]:
    """A channel to the desk, which knows some callers."""
    host = ServiceHost(HostSettings("desk", grace_seconds=1.0), _hosted(), authenticator=KNOWN)
    async with open_channel(f"127.0.0.1:{await host.start()}") as channel:
        yield channel
    await host.stop()


@pytest.fixture
def calls(channel: grpc.aio.Channel) -> Calls:
    """Calls to the desk."""
    return Calls(channel)


async def test_a_caller_gets_what_one_of_their_roles_may(calls: Calls) -> None:
    """And is refused the rest, with who may; unary and streamed."""
    assert await calls.feedback("ana") == "too slow"
    assert await calls.feedback("ida") == "too slow"
    refusal = await refused(calls.feedback("otto"))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.PERMISSION_DENIED, "ROLE_FORBIDS")
    assert refusal.metadata == {
        "method": "/throughline.feedback.v1.FeedbackService/GetFeedback",
        "roles": "operator",
        "permitted": "admin, agent, auditor",
    }
    await calls.routes("otto")
    assert await calls.log("otto") == 1
    assert (await refused(calls.log("ana"))).reason == "ROLE_FORBIDS"
    assert (await refused(calls.routes("nobody"))).reason == "ROLE_FORBIDS"
    assert (await refused(calls.stream("ida", "till"))).reason == "ROLE_FORBIDS"


async def test_a_role_in_the_metadata_selects_and_never_adds(calls: Calls) -> None:
    """Whoever names one acts in it alone."""
    assert await calls.feedback("ana", Caller(role="agent")) == "too slow"
    assert (await refused(calls.feedback("ana", Caller(role="channel")))).metadata["roles"] == "channel"
    assert "may not act as admin" in (await refused(calls.feedback("otto", Caller(role="admin")))).message


async def test_only_who_audits_reads_for_an_audit(calls: Calls) -> None:
    """Nothing is left out of what is read for it, whatever clients withdrew."""
    assert await calls.feedback("ida", Caller(purpose="audit")) == "too slow"
    assert "may not read for audit" in (await refused(calls.feedback("ana", Caller(purpose="audit")))).message


async def test_who_is_not_known_gets_nothing(calls: Calls, channel: grpc.aio.Channel) -> None:
    """But health, which a probe asks for."""
    for call in (calls.routes(""), calls.log("mallory"), calls.stream("", "till")):
        assert (await refused(call)).code is grpc.StatusCode.UNAUTHENTICATED
    health: Any = health_pb2_grpc.HealthStub(channel)
    assert (await health.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING


async def test_a_caller_that_is_bound_to_sources_reports_for_no_other(calls: Calls) -> None:
    """In one call or in the midst of a stream; what came before it was taken."""
    await calls.record("till", "till")
    await calls.record("ana", "anything")
    refusal = await refused(calls.record("till", "web"))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.PERMISSION_DENIED, "SOURCE_FORBIDS")
    assert refusal.metadata == {"source": "web", "bound": "till"}
    assert await calls.stream("till", "till", "till") == ["till", "till"]
    assert (await refused(calls.stream("till", "till", "web"))).reason == "SOURCE_FORBIDS"


def test_a_service_whose_contract_is_silent_does_not_start() -> None:
    """About one method is enough; it is named."""
    written = descriptor_pb2.FileDescriptorProto(name="silent.proto", package="throughline.silent.v1", syntax="proto3")
    written.message_type.add(name="Asked")
    service = written.service.add(name="SilentService")
    service.method.add(
        name="Ask", input_type=".throughline.silent.v1.Asked", output_type=".throughline.silent.v1.Asked"
    )
    descriptor_pool.Default().AddSerializedFile(written.SerializeToString())
    silent: Hosted[Any] = Hosted("throughline.silent.v1.SilentService", lambda *_: None, None)
    with pytest.raises(AccessUnstatedError, match=r"SilentService/Ask does not say"):
        ServiceHost(HostSettings("desk"), [*_hosted(), silent])
