"""Preflight and preparation, on a real nats-server and a real PostgreSQL."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from click.testing import CliRunner, Result

from throughline_client.commands import main
from throughline_client.endpoints import SERVICES
from throughline_client.preparing import BESIDE
from throughline_eventlog import (
    Connection,
    NatsServer,
    Partitioning,
    StoreSettings,
    all_rights,
    open_store,
    server_lines,
    user_of,
)
from throughline_eventlog.durability import AwayError, postgres_flaw, server_findings, server_flaw
from throughline_eventlog.nats_server import free_port
from throughline_eventlog.streams import stream_config
from throughline_privacy import PostgresKeyStore
from throughline_privacy.vault import WrappedKey
from throughline_testkit.postgres import PostgresServer


@dataclass(frozen=True)
class Bus:
    """A server that tells of itself."""

    url: str
    monitor: str


@contextmanager
def run_bus(folder: Path, *, sync_always: bool = True) -> Iterator[Bus]:
    port = free_port()
    with NatsServer(folder, sync_always=sync_always, more=f'http: "127.0.0.1:{port}"\n') as server:
        yield Bus(server.url, f"http://127.0.0.1:{port}")


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bus]:
    """A server that syncs, and tells of itself."""
    with run_bus(tmp_path_factory.mktemp("bus")) as server:
        yield server


@pytest.fixture
def environment(bus: Bus, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """What services of an installation of its own are told."""
    run = uuid4().hex[:8]
    told = {
        **postgres.environment("unused"),
        **{f"{service.upper()}_POSTGRES_SCHEMA": f"t_{run}_{service}" for service in SERVICES},
        "THROUGHLINE_KEY_STORE_SCHEMA": f"t_{run}_keys",
        "THROUGHLINE_NATS_URL": bus.url,
        "THROUGHLINE_NATS_MONITORS": bus.monitor,
        "THROUGHLINE_STREAM_PREFIX": f"T{run.upper()}",
    }
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    yield told
    with postgres.connect() as connection:
        made = connection.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE %s", (f"t_{run}_%",)).fetchall()
        for (name,) in made:
            connection.execute(f'DROP SCHEMA "{name}" CASCADE'.encode())


@pytest.fixture
def roles(
    postgres: PostgresServer, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[str]]:
    """A role for each service, that may make nothing in the database."""
    made = [f"t_{uuid4().hex[:8]}_{service}" for service in SERVICES]
    with postgres.connect() as connection:
        for service, role in zip(SERVICES, made, strict=True):
            connection.execute(f"CREATE ROLE \"{role}\" LOGIN PASSWORD 'p@ss/{service}'".encode())
            monkeypatch.setenv(f"{service.upper()}_POSTGRES_USER", role)
            monkeypatch.setenv(f"{service.upper()}_POSTGRES_PASSWORD", f"p@ss/{service}")
    yield made
    with postgres.connect() as connection:
        for role in made:
            connection.execute(f'DROP OWNED BY "{role}" CASCADE'.encode())
            connection.execute(f'DROP ROLE "{role}"'.encode())


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def found(*arguments: str) -> dict[str, dict[str, str]]:
    """What preflight read, by thing."""
    read: list[dict[str, str]] = json.loads(run("preflight", "--output", "json", *arguments).stdout)
    return {each["thing"]: each for each in read}


def test_what_keeps_everything_passes(environment: dict[str, str]) -> None:
    """Every service's role signs in, the bus answers, its server syncs; the answer says what was read."""
    result = run("preflight")
    assert result.exit_code == 0, result.output
    assert "fsync=on, synchronous_commit=on, full_page_writes=on" in " ".join(result.output.split())
    assert "synced always" in result.output
    assert len(found()) == 2 * len(SERVICES) + 1
    assert run("preflight", "--least-standbys", "1").exit_code == 1


def test_a_bus_that_syncs_later_than_it_acknowledges_is_refused(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """JetStream's own default; the message names the server and the setting."""
    with run_bus(tmp_path / "lazy", sync_always=False) as lazy:
        monkeypatch.setenv("THROUGHLINE_NATS_URL", lazy.url)
        result = run("preflight", "--monitor", lazy.monitor)
    assert result.exit_code == 1
    assert 'acknowledges 120 s before it syncs: set `sync_interval: "always"` under jetstream' in result.stderr


def test_too_few_servers_for_the_replicas_asked_for_are_refused(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One server cannot keep three copies."""
    monkeypatch.setenv("THROUGHLINE_NATS_REPLICAS", "3")
    result = run("preflight")
    assert result.exit_code == 1
    assert "its cluster has 1 servers, too few for streams of 3 replicas" in result.stderr


def test_a_stream_that_forgets_is_refused(environment: dict[str, str], bus: Bus) -> None:
    """One that somebody else made, with a limit, or with fewer copies than asked for; the others are told."""
    prefix = environment["THROUGHLINE_STREAM_PREFIX"]

    async def make() -> None:
        async with Connection(bus.url, name="test") as connection:
            await connection.ready()
            for service, limit in (("IDENTITY", 5), ("JOURNEY_PROOFS", -1)):
                subject = f"{prefix.lower()}.{service.lower()}.v1.0"
                await connection.make_stream(stream_config(f"{prefix}_{service}_0", subject, 1) | {"max_msgs": limit})

    asyncio.run(make())
    result = run("preflight")
    assert result.exit_code == 1
    assert f"nats stream edit {prefix}_IDENTITY_0" in result.stderr
    assert found("--service", "journey")[f"stream {prefix}_JOURNEY_PROOFS_0"]["flaw"] == ""


def test_a_user_who_may_not_do_what_its_service_needs_is_refused(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By each service's own user: what is missing is named, with the service and the remedy; nothing else is wrong."""
    prefix = environment["THROUGHLINE_STREAM_PREFIX"]
    rights = [
        replace(each, publish=each.publish[1:]) if each.service == "journey" else each
        for each in all_rights(prefix=prefix)
    ]
    port = free_port()
    users = server_lines(rights, {service: f'"{service}"' for service in SERVICES})
    for service in SERVICES:
        monkeypatch.setenv(f"{service.upper()}_NATS_USER", user_of(service, prefix))
        monkeypatch.setenv(f"{service.upper()}_NATS_PASSWORD", service)
    with NatsServer(tmp_path / "nats", more=f'http: "127.0.0.1:{port}"\n{users}') as server:
        monkeypatch.setenv("THROUGHLINE_NATS_URL", server.url)
        result = run("preflight", "--monitor", f"http://127.0.0.1:{port}")
        assert result.exit_code == 1
        assert f"may not publish to {prefix.lower()}.journey.v1.0: `throughline bus permissions" in result.stderr
        assert f"for journey as user '{prefix.lower()}_journey'" in result.stderr
        assert len(result.stderr.splitlines()) == 1
        monkeypatch.setenv("SCORING_NATS_PASSWORD", "guessed")
        result = run("preflight", "--monitor", f"http://127.0.0.1:{port}", "--service", "scoring")
        assert result.exit_code == 3
        assert f"the bus does not let in user '{prefix.lower()}_scoring'" in result.stderr
        allowed = run("preflight", "--monitor", f"http://127.0.0.1:{port}", "--service", "identity")
        assert allowed.exit_code == 0, allowed.output
        monkeypatch.setenv("THROUGHLINE_PARTITIONS", "ingestion=1:2")
        result = run("preflight", "--monitor", f"http://127.0.0.1:{port}", "--service", "identity")
        assert result.exit_code == 1
        assert f"STREAM.INFO.{prefix}_INGESTION_101" in result.stderr
    numbers = Partitioning.parse("ingestion=1:2").numbers_in_force(SERVICES)
    rights = list(all_rights(prefix=prefix, partitions=numbers))
    users = server_lines(rights, {service: f'"{service}"' for service in SERVICES})
    with NatsServer(tmp_path / "parted", more=f'http: "127.0.0.1:{port}"\n{users}') as server:
        monkeypatch.setenv("THROUGHLINE_NATS_URL", server.url)
        for service in ("ingestion", "identity"):
            allowed = run("preflight", "--monitor", f"http://127.0.0.1:{port}", "--service", service)
            assert allowed.exit_code == 0, allowed.output


def test_without_the_servers_own_word_nothing_is_entrusted(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether JetStream syncs only its monitoring tells: no address of it is a refusal, a wrong one bad input."""
    monkeypatch.delenv("THROUGHLINE_NATS_MONITORS")
    result = run("preflight")
    assert result.exit_code == 1
    assert "only the servers' monitoring says whether they sync" in result.stderr
    wrong = run("preflight", "--monitor", "nats.messaging:8222")
    assert wrong.exit_code == 2
    assert "write http://HOST:8222" in wrong.stderr


def test_who_does_not_answer_is_told_from_who_forgets(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 3; a bus that is away may be forgiven to a service that starts, a store never."""
    monkeypatch.setenv("THROUGHLINE_NATS_URL", f"nats://127.0.0.1:{free_port()}")
    monkeypatch.setattr("throughline_eventlog.durability.TIMEOUT", 0.3)
    gone = f"http://127.0.0.1:{free_port()}"
    assert run("preflight", "--monitor", gone).exit_code == 3
    assert run("preflight", "--monitor", gone, "--bus-may-be-away").exit_code == 0
    monkeypatch.setenv("POSTGRES_PORT", str(free_port()))
    result = run("preflight", "--monitor", gone, "--bus-may-be-away", "--service", "identity")
    assert result.exit_code == 3
    assert "PostgreSQL of identity" in result.stderr


def test_a_role_whose_commits_are_not_synced_is_refused(
    environment: dict[str, str], roles: list[str], postgres: PostgresServer
) -> None:
    """What counts is what the service's own role gets, whatever the server's default."""
    with postgres.connect() as connection:
        connection.execute(f'ALTER ROLE "{roles[1]}" SET synchronous_commit = off'.encode())
    result = run("preflight")
    assert result.exit_code == 1
    assert result.stderr.count("synchronous_commit is off") == 1
    assert f"as {roles[1]}" in result.stderr


def test_a_server_without_fsync_is_refused(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The real thing, switched off on a server of its own."""
    server = PostgresServer()
    server.start()
    try:
        with server.connect() as connection:
            connection.execute("ALTER SYSTEM SET fsync = off")
            connection.execute("SELECT pg_reload_conf()")
        monkeypatch.setenv("POSTGRES_PORT", str(server.port))
        monkeypatch.setenv("POSTGRES_HOST", server.host)
        result = run("preflight", "--wait", "5")
    finally:
        server.remove()
    assert result.exit_code == 1
    assert "fsync is off: set it to on" in result.stderr


@pytest.mark.parametrize(
    ("settings", "recovering", "standbys", "flaw"),
    [
        ({}, False, 1, ""),
        ({"full_page_writes": "off"}, False, 1, "full_page_writes is off"),
        ({"synchronous_commit": "remote_apply"}, False, 1, ""),
        ({"default_transaction_read_only": "on"}, False, 1, "default_transaction_read_only is on"),
        ({}, True, 1, "it is a standby"),
        ({}, False, 0, "0 of 1 standbys"),
    ],
)
def test_what_is_wrong_with_a_postgres(settings: dict[str, str], recovering: bool, standbys: int, flaw: str) -> None:
    """Each in its own words, and nothing where all is kept."""
    said = postgres_flaw(settings, recovering=recovering, standbys=standbys, least_standbys=1)
    assert said.startswith(flaw)
    assert bool(said) == bool(flaw)


@pytest.mark.parametrize(
    ("about", "cluster", "flaw"),
    [
        ({"jetstream": {"config": {"sync_always": True}}}, {"cluster_size": 3}, ""),
        ({"jetstream": {"config": {"sync_always": True}}}, {"cluster_size": 2}, "its cluster has 2 servers"),
        ({"jetstream": {"config": {"sync_interval": 2_000_000_000}}}, {"cluster_size": 3}, "it acknowledges 2 s"),
        ({}, {}, "JetStream is off"),
    ],
)
def test_what_is_wrong_with_a_nats_server(about: dict[str, Any], cluster: dict[str, Any], flaw: str) -> None:
    """Likewise."""
    _, said = server_flaw(about, cluster, 3)
    assert said.startswith(flaw)
    assert bool(said) == bool(flaw)


def test_every_server_behind_a_name_is_asked(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name with several addresses stands for as many servers, as a headless Service does."""
    resolve = socket.getaddrinfo

    def two(host: str, *rest: Any, **named: Any) -> Any:
        addresses = ("127.0.0.1", "127.0.0.2") if host == "nats" else (host,)
        return [entry for address in addresses for entry in resolve(address, *rest, **named)]

    monkeypatch.setattr(socket, "getaddrinfo", two)
    # The second address of the loopback, where nobody listens.
    with pytest.raises(AwayError, match=r"127\.0\.0\.2"):
        server_findings(bus.monitor.replace("127.0.0.1", "nats"), 1)


def test_roles_that_may_make_nothing_work_in_what_was_prepared(
    environment: dict[str, str], roles: list[str], postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each opens its log and what is beside it, those that seal share the key store, nobody sees another's."""
    monkeypatch.setenv("POSTGRES_ADMIN_PASSWORD", postgres.password)
    for _ in range(2):
        result = run("prepare", "--admin", postgres.user, "--output", "json")
        assert result.exit_code == 0, result.output
    made = {each["schema"]: each["roles"] for each in json.loads(result.stdout)}
    keys = environment["THROUGHLINE_KEY_STORE_SCHEMA"]
    assert len(made) == 4 * len(SERVICES) + 1
    assert set(made[keys]) == {role for role in roles if role.endswith(("ingestion", "identity", "feedback"))}
    stores = {service: StoreSettings.from_env(service) for service in SERVICES}
    for store in stores.values():
        for each in (store, *map(store.beside, BESIDE)):
            open_store(each, tables=("things",)).close()
    wrapped = {b"k" * 16: WrappedKey("kek", b"sealed")}
    for role in made[keys]:
        store = PostgresKeyStore(f"postgresql://{role}@{postgres.host}:{postgres.port}/{postgres.dbname}", keys)
        store.add(wrapped)
        assert store.fetch([b"k" * 16]) == wrapped
        store.close()
    identity = stores["identity"].environment
    with (
        psycopg.connect(
            host=postgres.host, port=postgres.port, dbname=postgres.dbname, user=roles[2], autocommit=True
        ) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute(f"TABLE {identity['POSTGRES_SCHEMA']}.tl_commits".encode())


def test_partitions_have_schemas_of_their_own(
    roles: list[str], postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that are, were and are to be, as far as the installation's text names them."""
    monkeypatch.setenv("POSTGRES_ADMIN_PASSWORD", postgres.password)
    monkeypatch.setenv("THROUGHLINE_PARTITIONS", "ingestion=1:2")
    result = run("prepare", "--admin", postgres.user, "--service", "ingestion", "--output", "json")
    assert result.exit_code == 0, result.output
    store = StoreSettings.from_env("ingestion")
    made = {each["schema"] for each in json.loads(result.stdout)}
    for number in (0, 100, 101):
        for each in (store.of_partition(number), *map(store.of_partition(number).beside, BESIDE)):
            assert each.environment["POSTGRES_SCHEMA"] in made
            open_store(each, tables=("things",)).close()
    assert len(made) == 3 * 4 + 1
    assert roles


def test_preparing_without_the_right_to_is_told(environment: dict[str, str], roles: list[str]) -> None:
    """PostgreSQL's own reason, and who asked."""
    result = run("prepare", "--admin", roles[0])
    assert result.exit_code == 3
    assert f"schemas cannot be made as {roles[0]}: permission denied" in result.stderr


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"JOURNEY_POSTGRES_USER": "postgres"}, "journey and the admin would be the same role"),
        (
            {"SCORING_POSTGRES_USER": "one", "JOURNEY_POSTGRES_USER": "one"},
            "scoring and journey would be the same role",
        ),
        ({"IDENTITY_POSTGRES_PASSWORD": ""}, "IDENTITY_POSTGRES_PASSWORD is not set"),
    ],
)
@pytest.mark.usefixtures("roles")
def test_roles_that_would_be_no_wall_are_not_made(
    told: dict[str, str],
    said: str,
    environment: dict[str, str],
    postgres: PostgresServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One role for two, the admin's own, one without a password: refused before anything is made."""
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    result = run("prepare", "--admin", "postgres", "--make-roles")
    assert result.exit_code == 2
    assert said in result.stderr
    with postgres.connect() as connection:
        schema = environment["IDENTITY_POSTGRES_SCHEMA"]
        assert not connection.execute("SELECT FROM pg_namespace WHERE nspname = %s", (schema,)).fetchall()
