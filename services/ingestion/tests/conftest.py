"""Starts ingestion for tests, on each kind of store in turn."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest_asyncio

from throughline_eventlog import BusSettings, NatsServer, StoreSettings

sys.path.insert(0, str(Path(__file__).parent))

from ingestion_world import StartIngestion, World, open_partition, settings_for


@pytest_asyncio.fixture
async def start(
    store_settings: Callable[[str], StoreSettings], tmp_path: Path, nats_server: NatsServer, stream_prefix: str
) -> AsyncIterator[StartIngestion]:
    """Starts ingestions on one log; those that still run are stopped at the end."""
    nats_server.start()
    started: list[World] = []

    async def starting(*, publish: bool = True, opened: bool = True, **more: Any) -> World:
        bus = BusSettings(nats_server.url, prefix=stream_prefix)
        settings = replace(settings_for(tmp_path, store_settings("ingestion"), bus), **more)
        settings = replace(settings, store=settings.store.of_partition(settings.host.partition))
        if opened:
            open_partition(settings)
        world = await World.start(settings, publish=publish)
        started.append(world)
        return world

    yield starting
    for world in started:
        await world.stop()


@pytest_asyncio.fixture
async def world(start: StartIngestion) -> World:
    """An ingestion without a bus, with the channel `store` and the source `till`."""
    return await (await start(publish=False)).register()
