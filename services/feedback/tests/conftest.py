"""What feedback's tests share."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from throughline_testkit.plugin import OpenStore

sys.path.insert(0, str(Path(__file__).parent))

from feedback_world import ALL_TABLES, World


@pytest_asyncio.fixture
async def world(open_test_store: OpenStore, tmp_path: Path) -> AsyncIterator[World]:
    """A feedback with routes and nothing else, on each kind of store in turn."""
    world = await World(open_test_store(tables=ALL_TABLES, service="feedback"), tmp_path).begin()
    yield world
    await world.close()
