"""Every read is in the access log before its answer leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio

from throughline.access.v1 import options_pb2
from throughline.accesslog.v1 import accesslog_pb2, accesslog_pb2_grpc
from throughline.accesslog.v1.events_pb2 import AccessRecorded
from throughline.eventlog.v1 import eventlog_pb2, eventlog_pb2_grpc
from throughline.feedback.v1 import feedback_pb2, feedback_pb2_grpc
from throughline.identity.v1 import identity_pb2, identity_pb2_grpc
from throughline_eventlog import StoreSettings, open_store
from throughline_kernel import AUDIT, UnavailableError, hex_id
from throughline_proof.concerns import subjects_of
from throughline_rpc import (
    EVERYBODY,
    AccessLog,
    Caller,
    Hosted,
    HostSettings,
    RemoteRefusal,
    ServiceHost,
    decode_error,
    open_channel,
)
from throughline_rpc.access_log import BY_ID
from throughline_rpc.guarding import AT_ONCE

ANN, BOB, CASE, ITEM = (hex_id("test", name) for name in ("ann", "bob", "case", "item"))
IDA = Caller("ida", "auditor", AUDIT).metadata()


class Desk(
    feedback_pb2_grpc.FeedbackServiceServicer,
    identity_pb2_grpc.IdentityServiceServicer,
    eventlog_pb2_grpc.EventLogServiceServicer,
):
    """Answers as the services do, about two clients."""

    def __init__(self) -> None:
        self.clients: Sequence[str] = (ANN, ANN, BOB)
        self.another = asyncio.Event()

    async def GetFeedback(  # noqa: N802 -- named by the contract
        self, request: feedback_pb2.GetFeedbackRequest, context: Any
    ) -> feedback_pb2.GetFeedbackResponse:
        item = feedback_pb2.Item(feedback_id=request.feedback_id, client_id=ANN, verbatim="too slow")
        return feedback_pb2.GetFeedbackResponse(item=item)

    async def ListInbox(  # noqa: N802 -- named by the contract
        self, request: feedback_pb2.ListInboxRequest, context: Any
    ) -> feedback_pb2.ListInboxResponse:
        cases = [feedback_pb2.Case(case_id=CASE, client_id=each) for each in (ANN, BOB)] if request.department else []
        return feedback_pb2.ListInboxResponse(cases=cases)

    async def WatchInbox(  # noqa: N802 -- named by the contract
        self, request: feedback_pb2.WatchInboxRequest, context: Any
    ) -> AsyncIterator[feedback_pb2.WatchInboxResponse]:
        for client in self.clients:
            yield feedback_pb2.WatchInboxResponse(case=feedback_pb2.Case(client_id=client))
        if request.department:
            await self.another.wait()
            yield feedback_pb2.WatchInboxResponse(case=feedback_pb2.Case(client_id=hex_id("another")))

    async def GetRoutes(  # noqa: N802 -- named by the contract
        self, request: feedback_pb2.GetRoutesRequest, context: Any
    ) -> feedback_pb2.GetRoutesResponse:
        return feedback_pb2.GetRoutesResponse()

    async def RecordConsent(  # noqa: N802 -- named by the contract
        self, request: identity_pb2.RecordConsentRequest, context: Any
    ) -> identity_pb2.RecordConsentResponse:
        return identity_pb2.RecordConsentResponse(position=1)

    async def GetState(  # noqa: N802 -- named by the contract
        self, request: eventlog_pb2.GetStateRequest, context: Any
    ) -> eventlog_pb2.GetStateResponse:
        return eventlog_pb2.GetStateResponse(position=1)

    async def ReadEvents(  # noqa: N802 -- named by the contract
        self, request: eventlog_pb2.ReadEventsRequest, context: Any
    ) -> AsyncIterator[eventlog_pb2.ReadEventsResponse]:
        for position in (1, 2):
            yield eventlog_pb2.ReadEventsResponse(events=[eventlog_pb2.LoggedEvent(position=position)])


def host_of(desk: Desk, access: AccessLog) -> ServiceHost:
    """Hosts it with an access log."""
    added: list[tuple[Any, Callable[[Any, Any], None]]] = [
        (feedback_pb2, feedback_pb2_grpc.add_FeedbackServiceServicer_to_server),
        (identity_pb2, identity_pb2_grpc.add_IdentityServiceServicer_to_server),
        (eventlog_pb2, eventlog_pb2_grpc.add_EventLogServiceServicer_to_server),
    ]
    hosted = [
        Hosted(next(iter(contract.DESCRIPTOR.services_by_name.values())).full_name, add, desk)
        for contract, add in added
    ]
    return ServiceHost(HostSettings("desk", grace_seconds=1.0), hosted, access=access)


class Calls:
    """Calls the desk as somebody."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.feedback = feedback_pb2_grpc.FeedbackServiceStub(channel)
        self.identity = identity_pb2_grpc.IdentityServiceStub(channel)
        self.log = eventlog_pb2_grpc.EventLogServiceStub(channel)
        self.access = accesslog_pb2_grpc.AccessLogServiceStub(channel)

    async def logged(self, *ids: str) -> list[AccessRecorded]:
        """What the access log has, the reading of it left out."""
        answer = await self.access.ListAccess(accesslog_pb2.ListAccessRequest(ids=ids), metadata=IDA)
        return [each.access for each in answer.entries if not each.access.method.endswith("/ListAccess")]


async def refused(call: Any) -> RemoteRefusal:
    """How a call is refused."""
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    return decode_error(failed.value)


@pytest.fixture
def desk() -> Desk:
    """The desk."""
    return Desk()  # pyright: ignore[reportAbstractUsage] -- what it lacks is not called


@pytest_asyncio.fixture
async def calls(desk: Desk, store_settings: Callable[[str], StoreSettings]) -> AsyncIterator[Calls]:
    """Calls to it, on each kind of store."""
    host = host_of(desk, AccessLog(open_store(store_settings("desk_access"), tables=(BY_ID,))))
    async with open_channel(f"127.0.0.1:{await host.start()}") as channel:
        yield Calls(channel)
    await host.stop()


async def test_a_read_is_logged_with_who_read_of_whom_and_for_what(calls: Calls) -> None:
    """One event a call, however many it tells of; what tells of nobody is not logged."""
    ana = Caller("ana", "agent", "complaints").metadata()
    await calls.feedback.GetFeedback(feedback_pb2.GetFeedbackRequest(feedback_id=ITEM), metadata=ana)
    await calls.feedback.ListInbox(feedback_pb2.ListInboxRequest(department="care"), metadata=ana)
    await calls.feedback.ListInbox(feedback_pb2.ListInboxRequest(), metadata=ana)
    await calls.feedback.GetRoutes(feedback_pb2.GetRoutesRequest(), metadata=ana)
    read, listed = await calls.logged()
    assert read.peer.startswith("ipv4:127.0.0.1:")
    read.ClearField("peer")
    assert read == AccessRecorded(
        method="/throughline.feedback.v1.FeedbackService/GetFeedback",
        reads=options_pb2.READS_PERSONAL,
        caller="ana",
        roles=["agent"],
        purpose="complaints",
        ids=[ITEM, ANN],
    )
    assert list(listed.ids) == [ANN, BOB, CASE]
    assert await calls.logged(BOB) == [listed]
    assert [each.method.rpartition("/")[2] for each in await calls.logged(ITEM, BOB)] == ["GetFeedback", "ListInbox"]


async def test_a_stream_is_logged_before_each_answer_that_tells_of_others(calls: Calls, desk: Desk) -> None:
    """One event for all that are there at once, another for who comes later, none for who was told of before."""
    many = [hex_id("many", str(number)) for number in range(AT_ONCE + 1)]
    desk.clients = (ANN, ANN, BOB)
    watching = calls.feedback.WatchInbox(feedback_pb2.WatchInboxRequest(department="care"))
    for _ in desk.clients:
        await watching.read()
    assert [list(each.ids) for each in await calls.logged()] == [[ANN, BOB]]
    desk.another.set()
    await watching.read()
    assert [list(each.ids) for each in await calls.logged()] == [[ANN, BOB], [hex_id("another")]]
    desk.clients = many
    watched = [each async for each in calls.feedback.WatchInbox(feedback_pb2.WatchInboxRequest())]
    assert [each.case.client_id for each in watched] == many
    assert [len(each.ids) for each in (await calls.logged())[2:]] == [AT_ONCE, 1]


async def test_a_stream_that_is_left_or_fails_ends_as_any_other(calls: Calls, desk: Desk) -> None:
    """The caller gets what came before, and the desk can go on."""
    watching = calls.feedback.WatchInbox(feedback_pb2.WatchInboxRequest(department="care"))
    first: Any = await watching.read()
    assert first.case.client_id == ANN
    watching.cancel()
    desk.clients = (ANN, "no id")
    watched = [each async for each in calls.feedback.WatchInbox(feedback_pb2.WatchInboxRequest())]
    assert [each.case.client_id for each in watched] == [ANN, "no id"]


async def test_a_read_of_a_whole_log_is_one_of_everybody(calls: Calls) -> None:
    """And of one client where it names them; the access log is a log too."""
    otto = Caller("otto", "operator").metadata()
    events = [each async for each in calls.log.ReadEvents(eventlog_pb2.ReadEventsRequest(), metadata=otto)]
    assert len(events) == 2
    await calls.log.GetState(eventlog_pb2.GetStateRequest(key=f"client/{BOB}"), metadata=otto)
    assert [list(each.ids) for each in await calls.logged()] == [[EVERYBODY], [BOB]]
    answer = await calls.access.ListAccess(accesslog_pb2.ListAccessRequest(ids=[EVERYBODY]), metadata=IDA)
    assert [each.access.method.rpartition("/")[2] for each in answer.entries] == ["ReadEvents", "ListAccess"]


async def test_who_is_refused_to_read_is_logged_too(calls: Calls) -> None:
    """An operator who asks for words; an auditor who would change something is refused and read nothing."""
    request = feedback_pb2.GetFeedbackRequest(feedback_id=ITEM)
    refusal = await refused(calls.feedback.GetFeedback(request, metadata=Caller("otto", "operator").metadata()))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.PERMISSION_DENIED, "ROLE_FORBIDS")
    consent = identity_pb2.RecordConsentRequest(client_id=ANN, purpose="service")
    assert (await refused(calls.identity.RecordConsent(consent, metadata=IDA))).reason == "ROLE_FORBIDS"
    (entry,) = await calls.logged()
    assert (entry.caller, list(entry.roles), list(entry.ids)) == ("otto", ["operator"], [ITEM])
    assert entry.refused == "ROLE_FORBIDS"


async def test_only_auditors_and_admins_see_who_read_what(calls: Calls) -> None:
    """In pages; ids and tokens that are none of ours are refused by field."""
    for role in ("channel", "agent", "analyst", "operator", "service"):
        asked = calls.access.ListAccess(accesslog_pb2.ListAccessRequest(), metadata=Caller(role=role).metadata())
        assert (await refused(asked)).reason == "ROLE_FORBIDS"
    found: list[int] = []
    token = ""
    while True:
        request = accesslog_pb2.ListAccessRequest(page_size=2, page_token=token)
        answer = await calls.access.ListAccess(request, metadata=IDA)
        found += [each.position for each in answer.entries if each.access.refused]
        token = answer.next_page_token
        if not token:
            break
    assert len(found) == 5
    assert found == sorted(set(found))
    for request in (
        accesslog_pb2.ListAccessRequest(ids=["ann"]),
        accesslog_pb2.ListAccessRequest(ids=[ANN] * 1_001),
        accesslog_pb2.ListAccessRequest(page_size=-1),
        accesslog_pb2.ListAccessRequest(page_token="x"),
    ):
        assert (await refused(calls.access.ListAccess(request, metadata=IDA))).violations


async def test_nothing_is_told_where_it_cannot_be_logged(desk: Desk, tmp_path: Path) -> None:
    """No answer leaves before the read is durable; what reads nobody is answered."""

    class Broken(AccessLog):
        async def record(self, event: AccessRecorded) -> None:
            raise UnavailableError("LOG_UNAVAILABLE", "disk full; free some, then retry", {"cause": "disk full"})

    host = host_of(desk, Broken(open_store(StoreSettings.sqlite("desk_access", tmp_path / "desk.db"), tables=(BY_ID,))))
    async with open_channel(f"127.0.0.1:{await host.start()}") as channel:
        calls = Calls(channel)
        asked = calls.feedback.GetFeedback(feedback_pb2.GetFeedbackRequest(feedback_id=ITEM))
        assert (await refused(asked)).reason == "LOG_UNAVAILABLE"
        watched = calls.feedback.WatchInbox(feedback_pb2.WatchInboxRequest()).read()
        assert (await refused(watched)).reason == "LOG_UNAVAILABLE"
        await calls.feedback.GetRoutes(feedback_pb2.GetRoutesRequest())
    await host.stop()


def test_every_id_that_was_read_is_a_subject_of_the_event(tmp_path: Path) -> None:
    """So that the proofs of an access log can say of anybody that no read of them is missing."""
    store = open_store(StoreSettings.sqlite("desk_access", tmp_path / "desk.db"), tables=(BY_ID,))
    log = AccessLog(store)

    async def record() -> None:
        await log.record(AccessRecorded(ids=[BOB, ANN]))
        await log.record(AccessRecorded(ids=[EVERYBODY]))

    asyncio.run(record())
    with store.snapshot() as reader:
        subjects = subjects_of(reader.read_logged())
    assert subjects == [sorted(map(bytes.fromhex, (ANN, BOB))), [bytes(16)]]
    asyncio.run(log.close())
