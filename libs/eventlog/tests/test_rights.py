"""Each service's user on a real nats-server: what it may do there, and all that it may not."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from nats.aio.client import Client

from throughline_eventlog import (
    BusForbiddenError,
    BusRights,
    BusSettings,
    Connection,
    Consumer,
    NatsServer,
    Relay,
    SettingsError,
    Store,
    StoreSettings,
    Writer,
    all_rights,
    inbox_of,
    open_store,
    rights_of,
    server_lines,
)
from throughline_eventlog.streams import END_HEADER, stream_config
from throughline_kernel import UPSTREAMS
from throughline_testkit import eventually
from throughline_testkit.logs import Noting, noted

SERVICES = ("ingestion", "identity", "journey", "feedback", "scoring")
PREFIX = "CRM"
LOGS = {service: (service, f"{service}_proofs", f"{service}_access_proofs") for service in SERVICES}
TAKES = {
    "ingestion": {"identity"},
    "identity": {"ingestion"},
    "journey": {"identity", "feedback"},
    "feedback": {"identity"},
    "scoring": {"identity", "feedback", "journey"},
}
"""The arrows of docs/design.md, written here once more: whoever changes one is asked about the other."""
OF_A_STREAM = (
    *("INFO", "CREATE", "UPDATE", "DELETE", "PURGE", "MSG.GET", "MSG.DELETE", "SNAPSHOT", "RESTORE"),
    *("LEADER.STEPDOWN", "PEER.REMOVE"),
)
OF_CONSUMERS = ("CREATE", "DURABLE.CREATE", "MSG.NEXT", "INFO", "DELETE", "NAMES", "LIST", "PAUSE")
OF_ALL = (
    *("$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST", "$JS.API.ACCOUNT.PURGE.CRM"),
    *("$JS.API.META.LEADER.STEPDOWN", "$JS.API.SERVER.REMOVE", "$SYS.REQ.USER.INFO", "crm.anything", "_INBOX.any"),
)


def passwords() -> dict[str, str]:
    return {service: f'"{service}-secret"' for service in SERVICES}


def configured(rights: tuple[BusRights, ...]) -> str:
    """Lines for a server with these users, and one who may do everything."""
    everything = '    {user: all, password: "all-secret"}\n'
    return server_lines(rights, passwords()).replace("  users: [\n", f"  users: [\n{everything}")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """One with the five users, each with what it needs."""
    with NatsServer(tmp_path_factory.mktemp("users"), more=configured(all_rights(prefix=PREFIX))) as running:
        yield running


def settings(server: NatsServer, service: str) -> BusSettings:
    """What the service is told of that bus."""
    return BusSettings(server.url, prefix=PREFIX, service=service, user=f"crm_{service}", password=f"{service}-secret")


def connect(server: NatsServer, service: str) -> Connection:
    return settings(server, service).connect(f"{service}-0")


def everything(server: NatsServer) -> Connection:
    return Connection(server.url, name="all", user="all", password="all-secret")


async def refusals(server: NatsServer, service: str, publish: set[str], subscribe: set[str]) -> set[str]:
    """Those of the subjects that the server itself does not let the service's user publish or subscribe to."""
    said: list[str] = []

    async def heard(error: Exception) -> None:
        said.append(str(error).lower())

    client = Client()
    await client.connect(server.url, user=f"crm_{service}", password=f"{service}-secret", error_cb=heard)
    try:
        for subject in publish:
            await client.publish(subject, b"{}", headers={"Nats-Expected-Stream": "none"})
        for subject in subscribe:
            await client.subscribe(subject)
        # The first ping overtakes what the client has not sent yet.
        await client.flush()
        await client.flush()
    finally:
        await client.close()
    return {
        subject
        for what, subjects in (("publish", publish), ("subscription", subscribe))
        for subject in subjects
        if f'nats: permissions violation for {what} to "{subject.lower()}"' in said
    }


def of_streams(log: str) -> set[str]:
    """Every request to JetStream about a log's stream, and the log's subject."""
    stream = f"{PREFIX}_{log.upper()}_0"
    return {
        f"{PREFIX.lower()}.{log}.v1.0",
        *(f"$JS.API.STREAM.{what}.{stream}" for what in OF_A_STREAM),
        *(f"$JS.API.CONSUMER.{what}.{stream}.any" for what in OF_CONSUMERS),
        f"$JS.API.CONSUMER.CREATE.{stream}",
        f"$JS.API.CONSUMER.CREATE.{stream}.any.{PREFIX.lower()}.{log}.v1.0",
        f"$JS.API.DIRECT.GET.{stream}",
        f"$JS.ACK.{stream}.any.1.1.1.1.1",
    }


def test_the_arrows_are_those_of_the_design() -> None:
    """Who takes whose log stands in two places, of which one is read by people."""
    assert {service: set(upstreams) for service, upstreams in UPSTREAMS.items()} == TAKES


@pytest.mark.parametrize(("service", "other"), list(itertools.product(SERVICES, SERVICES)))
async def test_a_service_s_user_may_touch_of_another_s_logs_only_what_it_takes(
    service: str, other: str, server: NatsServer
) -> None:
    """All pairs, asked of the server: no publishing to another's subject, no request about another's stream but the
    reading of an upstream's; of its own logs, none to alter, empty or delete them.
    """
    tried = {subject for log in LOGS[other] for subject in of_streams(log)}
    allowed: set[str] = set()
    if other == service:
        for log in LOGS[service]:
            own = f"{PREFIX}_{log.upper()}_0"
            allowed |= {f"{PREFIX.lower()}.{log}.v1.0"}
            allowed |= {f"$JS.API.STREAM.{what}.{own}" for what in ("INFO", "CREATE", "MSG.GET")}
    if other in TAKES[service]:
        taken = f"{PREFIX}_{other.upper()}_0"
        allowed |= {f"$JS.API.STREAM.INFO.{taken}"}
        allowed |= {f"$JS.API.CONSUMER.{what}.{taken}.any" for what in ("CREATE", "MSG.NEXT", "DELETE")}
    subjects = {
        f"{PREFIX.lower()}.{other}.v1.*",
        f"{PREFIX.lower()}.{other}_proofs.v1.0",
        f"{inbox_of(other, PREFIX)}.>",
    }
    heard = {f"{inbox_of(other, PREFIX)}.>"} if other == service else set[str]()
    assert await refusals(server, service, tried, subjects) == (tried - allowed) | (subjects - heard)


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_s_user_may_do_nothing_else(service: str, server: NatsServer) -> None:
    """Nothing about the account, no other inbox, and it hears neither everything nor what JetStream tells of itself."""
    everywhere = {">", "*", "_INBOX.>", f"_INBOX_{PREFIX}.>", f"{PREFIX.lower()}.>", "$JS.>", "$JS.EVENT.>", "$SYS.>"}
    other = f"$JS.API.STREAM.INFO.TL_{service.upper()}_0"
    tried = {*OF_ALL, other}
    assert await refusals(server, service, tried, everywhere) == tried | everywhere


async def test_nobody_gets_in_without_a_user(server: NatsServer) -> None:
    """Not without a name, not with a wrong password; the reason names the user and stands in health."""
    nameless = Connection(server.url, name="nameless")
    wrong = replace(settings(server, "journey"), password="guessed").connect("journey-0")
    async with nameless, wrong:
        await eventually(lambda: "does not let in a client without a name" in nameless.last_error)
        await eventually(lambda: "does not let in user 'crm_journey'" in wrong.last_error)
        assert (nameless.generation, wrong.generation) == (0, 0)


async def test_what_is_asked_without_permission_is_answered_at_once(server: NatsServer) -> None:
    """Not after a time-out: the error names the subject, the user and the remedy, and what is allowed goes on."""
    async with connect(server, "journey") as connection:
        await connection.ready()
        for refused in (
            connection.request("STREAM.INFO.CRM_SCORING_0", timeout=300),
            connection.publish("crm.scoring.v1.0", b"", {}, timeout=300),
            connection.request("INFO", timeout=300),
        ):
            with pytest.raises(BusForbiddenError, match=r"user 'crm_journey' publish to .*throughline bus permissions"):
                await refused
        assert await connection.refused(rights_of("journey", prefix=PREFIX).publish) == []
        tried = ["crm.scoring.v1.0", "crm.journey.v1.0", "$JS.API.CONSUMER.CREATE.CRM_INGESTION_0.*"]
        assert await connection.refused(tried) == [tried[0], tried[2]]


async def test_trying_what_is_allowed_leaves_nothing_behind(server: NatsServer) -> None:
    """Neither a message in a log's stream, nor a stream, nor a consumer."""
    async with everything(server) as sees, connect(server, "scoring") as connection:
        await sees.ready()
        for log in ("scoring", "identity"):
            await sees.make_stream(stream_config(f"CRM_{log.upper()}_0", f"crm.{log}.v1.0", 1))
        before = await sees.request("STREAM.LIST")
        assert await connection.refused(rights_of("scoring", prefix=PREFIX).publish) == []
        after = await sees.request("STREAM.LIST")
        for told in (before, after):
            for stream in told["streams"]:
                stream.pop("ts", None)
        assert after["streams"] == before["streams"]
        assert {stream["state"]["messages"] for stream in after["streams"]} == {0}


async def test_answers_that_cannot_be_heard_are_told(tmp_path: Path) -> None:
    """A user who may not listen where its answers come: every request says so, at once."""
    rights = tuple(replace(each, subscribe=("_INBOX.>",)) for each in all_rights(prefix=PREFIX))
    with NatsServer(tmp_path / "nats", more=configured(rights)) as server:
        async with connect(server, "identity") as connection:
            await connection.ready()
            for _ in range(2):
                with pytest.raises(BusForbiddenError, match=r"user 'crm_identity' listen below _INBOX_CRM_IDENTITY"):
                    await connection.request("STREAM.INFO.CRM_IDENTITY_0", timeout=300)


def without(service: str, word: str) -> tuple[BusRights, ...]:
    """Everybody's rights, but for those of one service that have the word in them."""
    return tuple(
        replace(each, publish=tuple(subject for subject in each.publish if word not in subject))
        if each.service == service
        else each
        for each in all_rights(prefix=PREFIX)
    )


@pytest.mark.parametrize("word", ["crm.identity.v1.0", "STREAM.INFO.CRM_IDENTITY_0", "STREAM.CREATE", "MSG.GET"])
async def test_a_relay_that_may_not_publish_says_so(word: str, tmp_path: Path) -> None:
    """Health names the subject and the user, and once it is allowed everything is on the bus."""
    with NatsServer(tmp_path / "nats", more=configured(without("identity", word))) as server:
        async with everything(server) as sees:
            await sees.ready()
            if word == "MSG.GET":
                # Only a stream with something in it is looked into.
                await sees.make_stream(stream_config("CRM_IDENTITY_0", "crm.identity.v1.0", 1))
                await sees.publish("crm.identity.v1.0", b"", {})
        store = open_store(StoreSettings.sqlite("identity", tmp_path / "identity.db"))
        with store.transaction() as tx:
            tx.append([noted(1)])
        async with connect(server, "identity") as connection:
            relay = Relay(store, connection, "identity", prefix=PREFIX, stuck_after=0.0)
            running = asyncio.create_task(relay.run())
            try:
                await eventually(lambda: word.lower() in (relay.health() or "").lower())
                assert "does not let user 'crm_identity' publish to" in (relay.health() or "")
                server.more = configured(all_rights(prefix=PREFIX))
                server.restart()
                await eventually(lambda: relay.events == 1 and relay.health() is None)
            finally:
                running.cancel()
                with suppress(asyncio.CancelledError):
                    await running
        store.close()


@pytest.mark.parametrize("word", ["STREAM.INFO.CRM_IDENTITY_0", "CONSUMER.CREATE", "MSG.NEXT"])
async def test_a_consumer_that_may_not_read_says_so(word: str, tmp_path: Path) -> None:
    """Likewise; also where it may make its consumer, and may not ask it for messages."""
    with NatsServer(tmp_path / "nats", more=configured(without("feedback", word))) as server:
        upstream = open_store(StoreSettings.sqlite("identity", tmp_path / "identity.db"))
        with upstream.transaction() as tx:
            tx.append([noted(number) for number in range(3)])
        store = open_store(StoreSettings.sqlite("feedback", tmp_path / "feedback.db"), tables=("things",))
        writer = Writer(store)
        async with connect(server, "identity") as theirs, connect(server, "feedback") as ours:
            relay = Relay(upstream, theirs, "identity", prefix=PREFIX)
            # So silent for so long that only what the bus says can be the reason.
            consumer = Consumer(writer, ours, "CRM_IDENTITY_0", Noting(), stuck_after=0.0, silence=300.0)
            running = [asyncio.create_task(each.run()) for each in (relay, consumer)]
            try:
                await eventually(lambda: word in (consumer.health() or ""))
                assert "does not let user 'crm_feedback' publish to" in (consumer.health() or "")
                server.more = configured(all_rights(prefix=PREFIX))
                server.restart()
                await eventually(lambda: consumer.taken == 3)
            finally:
                for each in running:
                    each.cancel()
                await asyncio.gather(*running, return_exceptions=True)
        await writer.close()
        store.close()
        upstream.close()


async def test_what_is_smuggled_into_another_s_stream_is_put_aside(server: NatsServer, tmp_path: Path) -> None:
    """JetStream answers wherever a request says, also where its user may not publish: so a service that was taken over
    can have another's stream get what it may read. No consumer takes it for that log, and the relay goes on.
    """
    logs: dict[str, Store] = {}
    for service, first in (("identity", 0), ("journey", 100)):
        logs[service] = open_store(StoreSettings.sqlite(service, tmp_path / f"{service}.db"))
        with logs[service].transaction() as tx:
            tx.append([noted(first), noted(first + 1)])
    store = open_store(StoreSettings.sqlite("scoring", tmp_path / "scoring.db"), tables=("things",))
    writer = Writer(store)
    async with (
        everything(server) as sees,
        connect(server, "identity") as identity,
        connect(server, "journey") as journey,
        connect(server, "feedback") as taken_over,
        connect(server, "scoring") as scoring,
    ):
        relays = [
            Relay(logs["identity"], identity, "identity", prefix=PREFIX),
            Relay(logs["journey"], journey, "journey", prefix=PREFIX, poll=0.05),
        ]
        consumer = Consumer(writer, scoring, "CRM_JOURNEY_0", Noting())
        running = [asyncio.create_task(each.run()) for each in (*relays, consumer)]
        try:
            await eventually(lambda: consumer.taken == 2 and relays[0].events == 2)
            client = await taken_over.ready()
            await client.publish("$JS.API.STREAM.INFO.CRM_IDENTITY_0", b"", reply="crm.journey.v1.0")
            await eventually(lambda: consumer.poisoned == 1)
            # By a consumer's `deliver_subject` a whole chunk would come, were its headers those of the next message.
            chunk = await sees.message("CRM_IDENTITY_0", 1)
            assert chunk is not None
            await sees.publish("crm.journey.v1.0", chunk.data, {END_HEADER: chunk.headers[END_HEADER]})
            await eventually(lambda: consumer.poisoned == 2)
            with logs["journey"].transaction() as tx:
                tx.append([noted(102)])
            await eventually(lambda: consumer.taken == 3 and relays[1].health() is None)
            assert "2 events are in the table poison" in (consumer.degraded() or "")
        finally:
            for each in running:
                each.cancel()
            await asyncio.gather(*running, return_exceptions=True)
    await writer.close()
    with store.snapshot() as reader:
        assert [event.payload for event in reader.read()] == [b"100", b"101", b"102"]
    for each in (*logs.values(), store):
        each.close()


def named_credentials(folder: Path) -> Path:
    """A credentials file as `nsc` writes them, of a user with this name; nobody vouches for it."""
    payload = base64.urlsafe_b64encode(json.dumps({"name": "crm-identity", "sub": "U"}).encode()).decode().rstrip("=")
    file = folder / "user.creds"
    file.write_text(
        f"-----BEGIN NATS USER JWT-----\neyJhbGciOiJub25lIn0.{payload}.c2ln\n------END NATS USER JWT------\n"
    )
    return file


def test_who_one_is_to_the_bus_is_said_without_secrets(tmp_path: Path) -> None:
    """A user by name, by address or by credentials; what one signs in with is in no sentence."""
    named: Callable[..., Connection] = lambda servers="nats://bus", **given: Connection(servers, name="x", **given)  # noqa: E731
    assert named(user="identity", password="s3cret").who == "user 'identity'"
    assert named("nats://scoring:s3cret@bus:4222, nats://other").who == "user 'scoring'"
    assert named(credentials=named_credentials(tmp_path)).who == "user 'crm-identity'"
    assert named(credentials=tmp_path / "absent").who == named().who == "a client without a name"
    assert named("nats://scoring:s3cret@bus:4222,nats://other").places == "nats://bus:4222, nats://other"
    assert "s3cret" not in repr(BusSettings(user="identity", password="s3cret"))


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"THROUGHLINE_NATS_USER": "identity"}, "belong together"),
        ({"IDENTITY_NATS_PASSWORD": "secret"}, "belong together"),
        (
            {"IDENTITY_NATS_USER": "a", "IDENTITY_NATS_PASSWORD": "b", "IDENTITY_NATS_CREDENTIALS": "c"},
            "signs in with one of them",
        ),
        ({"THROUGHLINE_NATS_USER": "a", "THROUGHLINE_NATS_PASSWORD_FILE": "/absent"}, "which cannot be read"),
    ],
)
def test_settings_by_which_nobody_could_sign_in_are_refused(env: dict[str, str], said: str) -> None:
    """The message names them."""
    with pytest.raises(SettingsError, match=said):
        BusSettings.from_env(env, service="identity")


def test_a_service_s_own_user_is_stronger_than_everybody_s(tmp_path: Path) -> None:
    """One way of signing in instead of another; the password may be in a file; others have what is for all."""
    (tmp_path / "password").write_text("own\n")
    env = {
        "THROUGHLINE_NATS_CREDENTIALS": "/shared.creds",
        "THROUGHLINE_NATS_REPLICAS": "3",
        "IDENTITY_NATS_USER": "identity",
        "IDENTITY_NATS_PASSWORD_FILE": str(tmp_path / "password"),
    }
    own, other = (BusSettings.from_env(env, service=service) for service in ("identity", "journey"))
    assert (own.user, own.password, own.credentials, own.replicas) == ("identity", "own", None, 3)
    assert (other.user, other.credentials) == ("", Path("/shared.creds"))
    assert own.connect("identity-0").inbox == "_INBOX_TL_IDENTITY"


def test_rights_follow_prefix_and_partitions() -> None:
    """A service with two partitions, of which another takes both."""
    rights = rights_of("identity", prefix="CRM", partitions={"ingestion": (100, 101)})
    assert "$JS.API.CONSUMER.MSG.NEXT.CRM_INGESTION_101.*" in rights.publish
    assert not any("TL_" in subject or "INGESTION_0" in subject for subject in rights.publish)
    own = rights_of("ingestion", partitions={"ingestion": (100, 101)})
    assert {"tl.ingestion.v1.100", "tl.ingestion_proofs.v1.101", "$JS.API.STREAM.INFO.TL_IDENTITY_0"} <= set(
        own.publish
    )
