"""A running host, and channels to it."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import pytest
import pytest_asyncio

from throughline_rpc import ServiceHost, open_channel

sys.path.insert(0, str(Path(__file__).parent))

from served import Told, host_of, make_told


@pytest.fixture
def told() -> Told:
    """The servicer that does what it is told."""
    return make_told()


@pytest_asyncio.fixture
async def host(told: Told) -> AsyncIterator[ServiceHost]:
    """Hosts it on a free port."""
    host = host_of(told)
    await host.start()
    yield host
    await host.stop()


@pytest_asyncio.fixture
async def channel(host: ServiceHost) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to the host."""
    async with open_channel(f"127.0.0.1:{host.port}") as channel:
        yield channel
