"""The whole service: a real bus, a real server, a real store of each kind."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import grpc.aio
import pytest
import pytest_asyncio
from feedback_world import HASH_KEY, HOUR, KEK, START, Clock, Identity, World, answer, client

from feedback.application import codec
from feedback.application.replay import make_fold
from feedback.application.tables import ROUTES_STREAM
from feedback.bootstrap import FeedbackService, build
from feedback.settings import Settings
from throughline.eventlog.v1 import eventlog_pb2 as log_pb
from throughline.eventlog.v1 import eventlog_pb2_grpc as log_grpc
from throughline.feedback.v1 import error_reason_pb2, feedback_pb2_grpc
from throughline.feedback.v1 import feedback_pb2 as pb
from throughline.ingestion.v1 import interaction_pb2 as interaction
from throughline_eventlog import (
    BusSettings,
    NatsServer,
    NewEvent,
    Relay,
    Store,
    StoreSettings,
    StreamConflictError,
    open_store,
)
from throughline_kernel import combine_digests, digest, hex_id
from throughline_privacy import KeyEncryptionKey, PrivacySettings, open_vault
from throughline_rpc import HostSettings, decode_error, open_channel
from throughline_testkit import eventually
from throughline_testkit.proofs import SIGNING_ENVIRONMENT, new_proof_settings

StoreOf = Callable[[str], StoreSettings]
PREFIX = "ERROR_REASON_"


@dataclass
class Suite:
    """Feedback as it runs, and an identity that publishes to it."""

    service: FeedbackService
    stub: Any
    log: Any
    identity: Identity
    upstream: Store
    clock: Clock
    said: int = 0

    def publish(self) -> None:
        """Puts what identity has said since into its log; its relay does the rest."""
        with self.upstream.transaction() as tx:
            tx.append(self.identity.new_events(after=self.said))
        self.said = len(self.identity.events)

    async def taken(self) -> None:
        """Returns when feedback has taken all of it."""
        await eventually(lambda: self.service.consumer.position >= self.said)
        with self.service.store.snapshot() as reader:
            await eventually(lambda: self.inbox() >= self.said)
            assert reader.last_position() >= 0

    def inbox(self) -> int:
        with self.service.store.snapshot() as reader:
            return max((each.position for each in reader.inboxes()), default=0)


@pytest_asyncio.fixture
async def suite(
    store_settings: StoreOf, nats_server: NatsServer, stream_prefix: str, tmp_path: Path
) -> AsyncIterator[Suite]:
    """Running, with a clock that the test sets and no sweeps by itself."""
    privacy = PrivacySettings(HASH_KEY, KeyEncryptionKey(KEK), str(tmp_path / "keys.db"))
    bus = BusSettings(servers=nats_server.url, prefix=stream_prefix)
    host = HostSettings("feedback", grace_seconds=1.0)
    clock = Clock()
    service = await build(
        Settings(host, store_settings("feedback"), bus, new_proof_settings(), privacy, sweep_seconds=0), clock=clock
    )
    service.connection.start()
    port = await service.host.start()
    upstream = open_store(store_settings("identity"))
    vault = open_vault(privacy)
    connection = bus.connect("identity")
    relay = Relay(upstream, connection, "identity", prefix=stream_prefix)
    connection.start()
    relaying = asyncio.create_task(relay.run())
    async with open_channel(f"127.0.0.1:{port}") as channel:
        yield Suite(
            service,
            feedback_pb2_grpc.FeedbackServiceStub(channel),
            log_grpc.EventLogServiceStub(channel),
            Identity(vault),
            upstream,
            clock,
        )
    await service.host.stop()
    relaying.cancel()
    await asyncio.gather(relaying, return_exceptions=True)
    await connection.close()
    upstream.close()
    vault.close()


def request(name: str = "s1", **changes: Any) -> pb.SubmitFeedbackRequest:
    values: dict[str, Any] = {
        "source": "survey",
        "source_feedback_id": name,
        "channel": "survey",
        "occurred_at": START,
        "feedback": interaction.Feedback(kind=interaction.FEEDBACK_KIND_NPS, score=2),
    } | changes
    return pb.SubmitFeedbackRequest(**values)


async def refused(call: Any) -> str:
    """The reason that a call is refused for."""
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    return decode_error(failed.value).reason


async def test_a_complaint_crosses_the_bus_into_an_inbox_and_is_closed(suite: Suite) -> None:
    """From identity's log over the bus to the department's watch stream; acknowledged, resolved, reopened, replayed."""
    watch = suite.stub.WatchInbox(pb.WatchInboxRequest(department="billing"))
    suite.identity.attributed("a", "i1", START, [answer(words="I was overcharged, refund me")])
    suite.publish()
    change = await asyncio.wait_for(watch.read(), 20)
    case_id = change.case.case_id
    assert (change.case.state, change.case.client_id) == (pb.CASE_STATE_OPEN, client("a"))
    item = (await suite.stub.GetFeedback(pb.GetFeedbackRequest(feedback_id=change.case.feedback_ids[0]))).item
    assert item.verbatim == "I was overcharged, refund me"
    assert item.assignments[0].because.startswith("keyword: ")
    await suite.stub.AcknowledgeCase(pb.AcknowledgeCaseRequest(case_id=case_id, by="ana"))
    assert (await asyncio.wait_for(watch.read(), 20)).case.state == pb.CASE_STATE_ACKNOWLEDGED
    suite.clock.now = START + HOUR
    done = await suite.stub.ResolveCase(
        pb.ResolveCaseRequest(case_id=case_id, by="ana", resolution="paid back", root_cause="price_label")
    )
    assert (done.case.state, done.case.root_cause) == (pb.CASE_STATE_RESOLVED, "price_label")
    suite.identity.attributed("a", "i2", START + 2 * HOUR, [answer(words="refund again!")])
    suite.publish()
    await suite.taken()
    again = (await suite.stub.GetCase(pb.GetCaseRequest(case_id=case_id))).case
    assert (again.state, again.reopened) == (pb.CASE_STATE_OPEN, 1)
    assert [step.type for step in again.steps] == [
        "CaseOpened",
        "CaseAcknowledged",
        "CaseResolved",
        "CaseReopened",
    ]
    watch.cancel()
    stats = await suite.stub.GetDepartmentStats(pb.GetDepartmentStatsRequest())
    billing = next(each for each in stats.departments if each.department == "billing")
    assert (billing.items, billing.cases, billing.open, billing.reopened) == (2, 1, 1, 1)
    checkpoint = await suite.log.GetCheckpoint(log_pb.GetCheckpointRequest(digest=True))
    fold = make_fold()
    with suite.service.store.snapshot() as reader:
        for event in reader.read():
            fold.apply(event)
    replayed = combine_digests((key, digest(state)) for key, state in fold.aggregates())
    assert checkpoint.digest == replayed
    assert checkpoint.inbox[0].position == 2


async def test_every_reason_of_the_contract_is_given_where_it_holds(suite: Suite, tmp_path: Path) -> None:
    """Each value of ErrorReason has a call that gets it."""
    stub = suite.stub
    seen: dict[str, str] = {}

    async def expect(reason: str, call: Any) -> None:
        seen[reason] = await refused(call)

    known = await stub.SubmitFeedback(request(identifiers=[interaction.Identifier(type="email", value="a@b.c")]))
    case_id = known.assignments[0].case_id
    nowhere = hex_id("nowhere")
    bad = interaction.Feedback(kind=interaction.FEEDBACK_KIND_NPS, score=11)
    routes = (await stub.GetRoutes(pb.GetRoutesRequest())).routes
    await expect("FIELD_INVALID", stub.SubmitFeedback(request("s2", feedback=bad)))
    await expect("FIELD_REQUIRED", stub.AcknowledgeCase(pb.AcknowledgeCaseRequest(case_id=case_id)))
    await expect("FEEDBACK_NOT_FOUND", stub.GetFeedback(pb.GetFeedbackRequest(feedback_id=nowhere)))
    await expect("FEEDBACK_CONFLICT", stub.SubmitFeedback(request(channel="mail")))
    await expect("CASE_NOT_FOUND", stub.GetCase(pb.GetCaseRequest(case_id=nowhere)))
    await expect("CASE_NOT_RESOLVED", stub.ReopenCase(pb.ReopenCaseRequest(case_id=case_id, by="ana")))
    await stub.AcknowledgeCase(pb.AcknowledgeCaseRequest(case_id=case_id, by="ana"))
    await expect("CASE_ACKNOWLEDGED", stub.AcknowledgeCase(pb.AcknowledgeCaseRequest(case_id=case_id, by="bo")))
    await expect("DEPARTMENT_UNKNOWN", stub.ListInbox(pb.ListInboxRequest(department="nobody")))
    token = pb.ListInboxRequest(department="customer_care", page_token="x")
    await expect("PAGE_TOKEN_INVALID", stub.ListInbox(token))
    await stub.ResolveCase(pb.ResolveCaseRequest(case_id=case_id, by="ana"))
    await expect("CASE_RESOLVED", stub.AcknowledgeCase(pb.AcknowledgeCaseRequest(case_id=case_id, by="ana")))
    routes.version = 7
    await expect("ROUTES_VERSION_STALE", stub.PublishRoutes(pb.PublishRoutesRequest(routes=routes)))
    routes.default_department = ""
    await expect("ROUTES_INVALID", stub.PublishRoutes(pb.PublishRoutesRequest(routes=routes)))
    email = suite.identity.email("a@b.c")
    suite.identity.opened("a")
    suite.identity.linked("a", "a@b.c")
    assert email.hash
    suite.publish()
    await suite.taken()
    await expect("CASE_WITHDRAWN", stub.ReopenCase(pb.ReopenCaseRequest(case_id=case_id, by="ana")))
    with pytest.raises(StreamConflictError) as conflict, suite.service.store.transaction() as tx:
        tx.append([NewEvent(ROUTES_STREAM, 1, codec.ROUTES_PUBLISHED, b"", START)])
    seen["CONCURRENT_CHANGE"] = conflict.value.reason
    await suite.service.writer.close()
    await expect("LOG_UNAVAILABLE", stub.SubmitFeedback(request("s3")))
    assert seen == {reason: reason for reason in seen}
    names = {name.removeprefix(PREFIX) for name in error_reason_pb2.ErrorReason.keys()}  # noqa: SIM118 # an enum wrapper
    assert set(seen) == names - {"UNSPECIFIED"}


async def test_requests_that_name_nothing_are_told_the_field(suite: Suite) -> None:
    """Each call that needs an id, a person or a department says which is missing or malformed."""
    stub = suite.stub
    for call in (
        stub.GetFeedback(pb.GetFeedbackRequest()),
        stub.GetCase(pb.GetCaseRequest()),
        stub.ListInbox(pb.ListInboxRequest()),
        stub.ResolveCase(pb.ResolveCaseRequest(case_id=hex_id("x"), by=" ")),
        stub.ReassignCase(pb.ReassignCaseRequest(case_id=hex_id("x"), by="ana")),
        stub.SubmitFeedback(pb.SubmitFeedbackRequest()),
    ):
        assert await refused(call) == "FIELD_REQUIRED"
    for call in (
        stub.GetFeedback(pb.GetFeedbackRequest(feedback_id="x")),
        stub.ListInbox(pb.ListInboxRequest(department="billing", states=[99])),  # pyright: ignore[reportArgumentType]
        stub.SubmitFeedback(request(attributes=b"[1]")),
        # More than the reader takes, than the writer takes, and than the rule allows.
        *(
            stub.SubmitFeedback(request(attributes=b'{"a":' + b"[" * depth + b"]" * depth + b"}"))
            for depth in (2_000, 1_000, 16)
        ),
        stub.ResolveCase(pb.ResolveCaseRequest(case_id=hex_id("x"), by="ana", resolution="x" * 5_000)),
    ):
        assert await refused(call) == "FIELD_INVALID"


async def test_nothing_personal_crosses_the_bus_or_is_logged(
    suite: Suite, stream_prefix: str, nats_server: NatsServer, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """Not the words, not the address: not in feedback's messages on the bus, not in its log lines."""
    words, address = "an unmistakable sentence", "unmistakable@person.example.org"
    await suite.stub.SubmitFeedback(
        request(
            feedback=interaction.Feedback(kind=interaction.FEEDBACK_KIND_VERBATIM, verbatim=words),
            identifiers=[interaction.Identifier(type="email", value=address)],
        )
    )
    await eventually(lambda: suite.service.relay.published_position >= 3)
    connection = suite.service.connection
    name = f"{stream_prefix}_FEEDBACK_0"
    state = await connection.stream(name)
    published = b""
    for sequence in range(1, state.last_sequence + 1):
        message = await connection.message(name, sequence)
        published += message.data if message else b""
    assert b"FeedbackReceived" in published
    said = b"".join(capfdbinary.readouterr())
    for secret in (words.encode(), address.encode()):
        assert secret not in published
        assert secret not in said
    assert nats_server.running


def started(environment: dict[str, str], output: IO[bytes]) -> subprocess.Popen[bytes]:
    """A process of the service's own."""
    return subprocess.Popen([sys.executable, "-m", "feedback"], env=environment, stderr=output)


@pytest.mark.chaos
async def test_killed_while_consuming_it_has_everything_once(
    store_settings: StoreOf, nats_server: NatsServer, stream_prefix: str, tmp_path: Path
) -> None:
    """Law 4: SIGKILL at any moment, several times: every item once, and the state of one that was never killed."""
    settings = store_settings("feedback")
    privacy = PrivacySettings(HASH_KEY, KeyEncryptionKey(KEK), str(tmp_path / "keys.db"))
    vault = open_vault(privacy)
    identity = Identity(vault)
    for number in range(3_000):
        identity.attributed(f"c{number % 700}", str(number), START + number, [answer(words="refund", topic="seats")])
    upstream = open_store(store_settings("identity"))
    connection = BusSettings(servers=nats_server.url, prefix=stream_prefix).connect("identity")
    connection.start()
    relay = Relay(upstream, connection, "identity", prefix=stream_prefix, chunk_events=50)
    relaying = asyncio.create_task(relay.run())
    with upstream.transaction() as tx:
        tx.append(identity.new_events())
    environment = {
        **os.environ,
        **settings.environment,
        "THROUGHLINE_NATS_URL": nats_server.url,
        "THROUGHLINE_STREAM_PREFIX": stream_prefix,
        **SIGNING_ENVIRONMENT,
        "THROUGHLINE_HASH_KEY": base64.b64encode(HASH_KEY).decode(),
        "THROUGHLINE_KEY_ENCRYPTION_KEY": base64.b64encode(KEK).decode(),
        "THROUGHLINE_KEY_STORE": str(tmp_path / "keys.db"),
        "FEEDBACK_PORT": "0",
        "FEEDBACK_SWEEP_SECONDS": "0",
    }

    def position() -> int:
        store = open_store(settings)
        try:
            with store.snapshot() as reader:
                return max((each.position for each in reader.inboxes()), default=0)
        finally:
            store.close()

    reached = 0
    for _ in range(3):
        with (tmp_path / "feedback.log").open("ab") as output:
            process = started(environment, output)
        before = reached
        reached = await eventually(lambda low=before: (now := position()) > low and now, deadline=60)
        process.send_signal(signal.SIGKILL)
        process.wait()
    log = tmp_path / "last.log"
    with log.open("ab") as output:
        process = started(environment, output)
    # The one before may have come to the end: told to stop before it listens, a process would just be gone.
    await eventually(lambda: position() == 3_000 and b"listening" in log.read_bytes(), deadline=90)
    process.terminate()
    assert process.wait(30) == 0
    from feedback_world import ALL_TABLES

    world = World(open_store(settings, tables=ALL_TABLES), tmp_path)
    received = [each.event_id for each in world.log() if each.type == codec.RECEIVED]
    assert len(received) == len(set(received)) == 3_000
    state = await world.checked()
    assert len(state) == 701
    await world.close()
    world.store.close()
    relaying.cancel()
    await asyncio.gather(relaying, return_exceptions=True)
    await connection.close()
    upstream.close()
    vault.close()
