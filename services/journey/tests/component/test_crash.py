"""Killed at any moment: nothing is lost, nothing counts twice."""

from __future__ import annotations

import asyncio
import base64
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from journey.application import rows
from throughline_directory import DIRECTORY_TABLES
from throughline_eventlog import NatsServer, StoreSettings, open_store
from throughline_testkit import eventually
from throughline_testkit.proofs import SIGNING_ENVIRONMENT

EVENTS = 6_000
CLIENTS = 150
KILLS = 5


@pytest.fixture
def journey_environment(
    say: SimpleNamespace,
    store_settings: Callable[[str], StoreSettings],
    stream_prefix: str,
    nats_server: NatsServer,
) -> dict[str, str]:
    """What a process of the service is told."""
    return {
        **os.environ,
        **store_settings("journey").environment,
        **SIGNING_ENVIRONMENT,
        "THROUGHLINE_NATS_URL": nats_server.url,
        "THROUGHLINE_STREAM_PREFIX": stream_prefix,
        "THROUGHLINE_HASH_KEY": base64.b64encode(say.HASH_KEY).decode(),
        "THROUGHLINE_LOG_LEVEL": "WARNING",
        "JOURNEY_SWEEP_SECONDS": "0.2",
        "JOURNEY_PORT": "0",
    }


@pytest.mark.timeout(180)
@pytest.mark.chaos
async def test_law_4_killed_while_consuming_it_takes_every_event_once(
    say: SimpleNamespace,
    upstreams: dict[str, Any],
    store_settings: Callable[[str], StoreSettings],
    journey_environment: dict[str, str],
    tmp_path: Path,
) -> None:
    """SIGKILL again and again while the bus is full: each interaction is there once, the state is the replay's."""
    chance = random.Random(5)
    log = say.Upstream("identity")
    channels = [("instagram", "post", "social"), ("web", "visit", "site"), ("store", "visit", "store")]
    for index in range(EVENTS):
        channel, kind, group = chance.choice(channels)
        at = index * say.MINUTE + chance.randrange(say.DAY)
        who = say.client(str(chance.randrange(CLIENTS)))
        log.attributed(who, say.fact(at, channel, kind, group=group, id=str(index)))
    settings = store_settings("journey")
    with (tmp_path / "journey.log").open("wb") as output:

        def start() -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                [sys.executable, "-m", "journey"], env=journey_environment, stdout=output, stderr=subprocess.STDOUT
            )

        store = open_store(settings, tables=(*rows.TABLES, *DIRECTORY_TABLES))
        process = start()
        try:
            kills = 0
            for part in range(KILLS):
                upstreams["identity"].publish(log.events[: EVENTS * (part + 1) // KILLS])
                reached = position(store)
                await eventually(lambda before=reached: position(store) > before, 60)
                process.send_signal(signal.SIGKILL)
                await asyncio.to_thread(process.wait)
                kills += 1
                process = start()
            await eventually(lambda: inbox(store) == upstreams["identity"].position, 90)
        finally:
            process.kill()
            process.wait()
    with store.snapshot() as reader:
        events = reader.read()
    noted = [event for event in events if event.type.endswith("InteractionNoted")]
    assert kills == KILLS
    assert len(noted) == EVENTS
    line = say.Line(store)
    line.sweep()
    assert line.live() == line.replayed()
    with store.snapshot() as reader:
        assert reader.count(rows.OWNERS) == EVENTS
    store.close()


def position(store: Any) -> int:
    """How far the log goes."""
    with store.snapshot() as reader:
        return reader.last_position()


def inbox(store: Any) -> int:
    """How far identity's log is taken."""
    with store.snapshot() as reader:
        return max((each.position for each in reader.inboxes() if "IDENTITY" in each.stream), default=0)
