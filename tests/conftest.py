"""Fixtures for tests that need the whole line."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from uuid import uuid4

import pytest
from eventful import Lived, live
from line import Line, StartSuite, connect, postgres_environment

from throughline_client.endpoints import SERVICES
from throughline_client.suite.suite import Suite
from throughline_testkit.postgres import PostgresServer


@pytest.fixture
def start_suite(tmp_path: Path) -> Iterator[StartSuite]:
    """All suites that are started are stopped at the end of the test."""
    started: list[Suite] = []

    def start(name: str = "suite", *, keys_of: Suite | None = None) -> Suite:
        suite = Suite(tmp_path / name)
        if keys_of is not None:
            suite.folder.mkdir(parents=True)
            shutil.copy2(keys_of.folder / "keys.json", suite.folder / "keys.json")
        suite.start()
        started.append(suite)
        return suite

    yield start
    for suite in started:
        suite.stop()


@pytest.fixture
async def line(start_suite: StartSuite) -> AsyncIterator[Line]:
    """A suite that runs, with channels and sources registered."""
    async with connect(start_suite()) as connected:
        await connected.register()
        yield connected


@pytest.fixture(scope="session")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Lived:
    """Lived once for all tests: none of them changes anything in it."""
    return _lived(tmp_path_factory.mktemp("lived") / "suite", {})


@pytest.fixture(scope="session")
def lived_on_postgres(tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer) -> Iterator[Lived]:
    """The same on PostgreSQL, where positions have gaps, also within a transaction. None of the tests changes it."""
    run = f"t_{uuid4().hex[:16]}"
    yield _lived(
        tmp_path_factory.mktemp("lived") / "suite",
        postgres_environment(postgres, run),
        started=lambda: _leave_gaps(postgres, run),
    )
    for place in (*SERVICES, *(f"{service}_proofs" for service in SERVICES), "keys"):
        postgres.drop_schema(f"{run}_{place}")


def _lived(folder: Path, environment: Mapping[str, str], started: Callable[[], None] = lambda: None) -> Lived:
    often = {"FEEDBACK_SWEEP_SECONDS": "0.1", "IDENTITY_SWEEP_SECONDS": "0.1", "JOURNEY_SWEEP_SECONDS": "0.1"}

    async def live_on(suite: Suite) -> None:
        async with connect(suite) as line:
            await line.register()
            await live(line)

    async def ask(suite: Suite) -> dict[str, str]:
        async with connect(suite) as line:
            return await line.digests()

    with Suite(folder, environment={**environment, **often}) as suite:
        started()
        asyncio.run(live_on(suite))
    # Clocks decide no more: what is asked now is how it ended.
    with Suite(folder, environment={**environment, **dict.fromkeys(often, "3600")}) as suite:
        digests = asyncio.run(ask(suite))
    return Lived(folder, digests, environment)


def _leave_gaps(postgres: PostgresServer, run: str) -> None:
    """As transactions do that took positions and were rolled back: before every event, two positions are nobody's."""
    with postgres.connect() as connection:
        named = connection.execute(
            "SELECT format('%%I.%%I', schemaname, sequencename) FROM pg_sequences WHERE schemaname LIKE %s",
            (f"{run}_%",),
        ).fetchall()
        for (sequence,) in named:
            connection.execute(f"ALTER SEQUENCE {sequence} INCREMENT BY 3".encode())
