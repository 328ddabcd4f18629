"""A role in PostgreSQL for each service, made and let in as the chart says, on a real server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import permutations
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from chart.rendering import SERVICES, VALUES, Document, changed, environment, labels, of_kind, pods, render
from click.testing import CliRunner, Result
from psycopg import sql

from throughline_client.commands import main
from throughline_client.preparing import BESIDE
from throughline_eventlog import StoreSettings, open_store
from throughline_privacy import PostgresKeyStore
from throughline_privacy.vault import WrappedKey
from throughline_testkit.logs import noted
from throughline_testkit.postgres import PostgresServer


@dataclass(frozen=True)
class Prepared:
    """An installation's stores in a real server, as its services' pods and its preparing Job are told."""

    server: PostgresServer
    run: str
    documents: list[Document]

    def role(self, service: str) -> str:
        return f"{self.run}_{service}"

    @property
    def keys(self) -> str:
        return f"{self.run}_throughline_keys"

    def store(self, service: str) -> StoreSettings:
        """Of the service, as its container is told."""
        (pod,) = (
            each for each in pods(self.documents).values() if labels(each)["app.kubernetes.io/component"] == service
        )
        told = {name: value for name, value in environment(self.documents, pod).items() if isinstance(value, str)}
        return StoreSettings.from_env(service, {**told, **self.place, "POSTGRES_PASSWORD": f"{service} secret"})

    def stores(self, service: str) -> list[StoreSettings]:
        """That, and those beside it."""
        store = self.store(service)
        return [store, *map(store.beside, BESIDE)]

    @property
    def place(self) -> dict[str, str]:
        return {
            "POSTGRES_HOST": self.server.host,
            "POSTGRES_PORT": str(self.server.port),
            "POSTGRES_DBNAME": self.server.dbname,
        }

    def prepare(self) -> Result:
        """Runs what the Job runs, told what it is told."""
        (job,) = (
            each for each in of_kind(self.documents, "Job") if labels(each)["app.kubernetes.io/component"] == "prepare"
        )
        (container,) = job["spec"]["template"]["spec"]["containers"]
        told = {each["name"]: each["value"] for each in container["env"] if "value" in each}
        secrets = {f"{service.upper()}_POSTGRES_PASSWORD": f"{service} secret" for service in SERVICES}
        admin = {"POSTGRES_ADMIN_USER": self.server.user, "POSTGRES_ADMIN_PASSWORD": self.server.password}
        ours = {"PGSSLMODE": "prefer", "PGSSLROOTCERT": ""}
        return CliRunner().invoke(main, container["args"], env={**told, **secrets, **admin, **self.place, **ours})

    def connect(self, service: str) -> psycopg.Connection[Any]:
        """As the service's role."""
        return psycopg.connect(
            host=self.server.host,
            port=self.server.port,
            dbname=self.server.dbname,
            user=self.role(service),
            password=f"{service} secret",
            autocommit=True,
        )


def installation(name: str, server: PostgresServer) -> Prepared:
    """With names that no other test has."""
    run = f"t{uuid4().hex[:8]}"
    values = changed(VALUES[name], postgres__schemaPrefix=f"{run}_", postgres__user=run)
    if name == "production":
        for service in SERVICES:
            values = changed(values, **{f"services__{service}__postgres__user": f"{run}_{service}"})
    return Prepared(server, run, render(values))


@pytest.fixture(params=["default", "production"])
def prepared(request: pytest.FixtureRequest, postgres: PostgresServer) -> Iterator[Prepared]:
    """The chart's own PostgreSQL, where roles are made, and another, where somebody made roles that may only sign in;
    nothing is prepared yet.
    """
    made = installation(request.param, postgres)
    with postgres.connect() as connection:
        if request.param == "production":
            for service in SERVICES:
                connection.execute(
                    sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(
                        sql.Identifier(made.role(service)), sql.Literal(f"{service} secret")
                    )
                )
    yield made
    with postgres.connect() as connection:
        named = connection.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE %s", (f"{made.run}%",))
        for (schema,) in named.fetchall():
            postgres.drop_schema(schema)
        for service in SERVICES:
            connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(made.role(service))))


def refused(connection: psycopg.Connection[Any], statement: str, *names: str) -> None:
    """Asserts that the server does not let the role."""
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))  # pyright: ignore[reportArgumentType]


def test_each_role_has_its_own_schemas_and_nothing_else(prepared: Prepared, postgres: PostgresServer) -> None:
    """All pairs, asked of the server: no reading, writing, making or dropping in another's schemas; the key store for
    those who seal alone, and not to alter; no schema, role or table elsewhere, and nobody's rights but its own.
    """
    for _ in range(2):
        result = prepared.prepare()
        assert result.exit_code == 0, result.output
    for service in SERVICES:
        for store in prepared.stores(service):
            assert store.environment["POSTGRES_USER"] == prepared.role(service)
            opened = open_store(store, tables=("things",))
            with opened.transaction() as tx:
                tx.append([noted(1)])
            opened.close()
    for service, other in permutations(SERVICES, 2):
        with prepared.connect(service) as connection:
            for store in prepared.stores(other):
                schema = store.environment["POSTGRES_SCHEMA"]
                refused(connection, "SELECT FROM {}.tl_commits", schema)
                refused(connection, "INSERT INTO {}.tl_meta VALUES ('a', 'b')", schema)
                refused(connection, "CREATE TABLE {}.mine ()", schema)
                refused(connection, "DROP TABLE {}.tl_meta", schema)
    for service in SERVICES:
        role = prepared.role(service)
        with prepared.connect(service) as connection:
            url = f"postgresql://{role}@{postgres.host}:{postgres.port}/{postgres.dbname}"
            if service in {"ingestion", "identity", "feedback"}:
                keys = PostgresKeyStore(url, prepared.keys)
                assert keys.add({service.encode(): WrappedKey("kek", b"sealed")})
                assert keys.destroy([service.encode()]) == 1
                keys.close()
            else:
                refused(connection, "SELECT FROM {}.wrapped_keys", prepared.keys)
                refused(connection, "INSERT INTO {}.destroyed_keys (key_id) VALUES ('a')", prepared.keys)
            refused(connection, "CREATE TABLE {}.mine ()", prepared.keys)
            refused(connection, "DROP TABLE {}.wrapped_keys", prepared.keys)
            refused(connection, "TRUNCATE {}.wrapped_keys", prepared.keys)
            refused(connection, "CREATE SCHEMA {}", f"{prepared.run}_more")
            refused(connection, "CREATE TABLE public.mine ()")
            refused(connection, "CREATE ROLE {}", f"{prepared.run}_more")
            refused(connection, "SET ROLE {}", postgres.user)
            about = connection.execute(
                "SELECT rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls, (SELECT count(*) FROM"
                " pg_auth_members WHERE member = pg_roles.oid) FROM pg_roles WHERE rolname = %s",
                (role,),
            ).fetchone()
            assert about == (False, False, False, False, False, 0)


def test_a_store_of_one_role_for_all_becomes_one_of_a_role_each(postgres: PostgresServer) -> None:
    """As an upgrade does it: the owner's tables become the services' own, with what is in them, and their passwords are
    not in the clear anywhere.
    """
    before = installation("default", postgres)
    owner = {"POSTGRES_USER": postgres.user, "POSTGRES_PASSWORD": postgres.password}
    try:
        for service in SERVICES:
            for store in before.stores(service):
                opened = open_store(StoreSettings(store.service, {**store.environment, **owner}), tables=("things",))
                with opened.transaction() as tx:
                    tx.append([noted("before")])
                opened.close()
        place = f"postgresql://{postgres.user}@{postgres.host}:{postgres.port}/{postgres.dbname}"
        with closing(PostgresKeyStore(place, before.keys)) as keys:
            keys.add({b"key": WrappedKey("kek", b"sealed")})
        result = before.prepare()
        assert result.exit_code == 0, result.output
        for service in SERVICES:
            for store in before.stores(service):
                opened = open_store(store, tables=("things", "more"))
                with opened.transaction() as tx:
                    tx.append([noted("after")])
                with opened.snapshot() as reader:
                    assert [event.payload for event in reader.read()] == [b"before", b"after"]
                opened.close()
        mine = place.replace(f"//{postgres.user}@", f"//{before.role('feedback')}@")
        with closing(PostgresKeyStore(mine, before.keys)) as keys:
            assert keys.fetch([b"key"]) == {b"key": WrappedKey("kek", b"sealed")}
        with postgres.connect() as connection:
            kept = connection.execute(
                "SELECT rolpassword FROM pg_authid WHERE rolname LIKE %s", (f"{before.run}%",)
            ).fetchall()
        assert len(kept) == len(SERVICES)
        assert all(hashed.startswith("SCRAM-SHA-256$") for (hashed,) in kept)
    finally:
        with postgres.connect() as connection:
            named = connection.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE %s", (f"{before.run}%",))
            for (schema,) in named.fetchall():
                postgres.drop_schema(schema)
            for service in SERVICES:
                connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(before.role(service))))


def test_the_owner_is_in_no_pod_but_its_own_and_the_jobs() -> None:
    """The password of who may do everything in the chart's PostgreSQL reaches no service, nor a replay."""
    documents = render({"k8sClient": {"enabled": True}})
    having = {
        labels(pod)["app.kubernetes.io/component"]
        for pod in pods(documents).values()
        for container in [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]
        for variable in container.get("env", [])
        if variable.get("valueFrom", {}).get("secretKeyRef", {}).get("name") == "shop-throughline-postgres"
    }
    assert having == {"postgres", "preflight", "prepare"}
