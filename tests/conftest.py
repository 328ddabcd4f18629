"""Fixtures for tests that need the whole line."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from line import Line, StartSuite, connect

from throughline_client.suite.suite import Suite


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
