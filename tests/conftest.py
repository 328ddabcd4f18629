"""Fixtures for tests that need the whole line."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from uuid import uuid4

import pytest
from eventful import Lived, live
from line import Line, StartSuite, connect, drop_schemas, leave_gaps, postgres_environment

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
        started=lambda: leave_gaps(postgres, run),
    )
    drop_schemas(postgres, run)


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
