"""Killed at any moment: nothing is lost, nothing counts twice."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from scoring_upstream import ALL_TABLES, MINUTE, Upstream, live, replayed

from scoring.application import rows
from throughline_eventlog import NatsServer, Store, StoreSettings, open_store
from throughline_testkit import eventually
from throughline_testkit.proofs import SIGNING_ENVIRONMENT

if TYPE_CHECKING:
    from conftest import Publisher

EVENTS = 4_000
CLIENTS = 120
KILLS = 8


@pytest.mark.timeout(240)
@pytest.mark.chaos
async def test_law_4_killed_while_consuming_it_takes_every_event_once(
    publishers: dict[str, Publisher],
    store_settings: Callable[[str], StoreSettings],
    stream_prefix: str,
    nats_server: NatsServer,
    tmp_path: Path,
) -> None:
    """SIGKILL again and again while the bus is full: each contact and answer counts once, as in a replay."""
    chance = random.Random(5)
    up = Upstream()
    for index in range(EVENTS):
        who = f"c{chance.randrange(CLIENTS)}"
        kind = chance.choice(["purchase", "visit", "call"])
        up.attributed(
            who, f"i{index}", index * MINUTE, kind=kind, channel=chance.choice(["web", "store"]), matter="bill"
        )
        if index % 4 == 0:
            up.received(who, f"f{index}", index * MINUTE, f"i{index}", score=chance.randrange(11))
    settings = store_settings("scoring")
    environment = {
        **os.environ,
        **settings.environment,
        **SIGNING_ENVIRONMENT,
        "THROUGHLINE_NATS_URL": nats_server.url,
        "THROUGHLINE_STREAM_PREFIX": stream_prefix,
        "THROUGHLINE_LOG_LEVEL": "WARNING",
        "SCORING_PORT": "0",
        "SCORING_HELD_FACTS": "1000",
    }
    with (tmp_path / "scoring.log").open("wb") as output:

        def start() -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                [sys.executable, "-m", "scoring"], env=environment, stdout=output, stderr=subprocess.STDOUT
            )

        store = open_store(settings, tables=ALL_TABLES)
        process = start()
        try:
            for part in range(1, KILLS + 1):
                reached = position(store)
                publishers["identity"].publish(up.identity, EVENTS * part // KILLS)
                publishers["feedback"].publish(up.feedback, EVENTS * part // KILLS // 4)
                await eventually(lambda before=reached: position(store) > before, 60)
                process.send_signal(signal.SIGKILL)
                await asyncio.to_thread(process.wait)
                process = start()
            await eventually(lambda: taken(store, "IDENTITY") == publishers["identity"].position, 90)
            await eventually(lambda: taken(store, "FEEDBACK") == publishers["feedback"].position, 90)
        finally:
            process.kill()
            process.wait()
    with store.snapshot() as reader:
        events = reader.read()
        assert reader.count(rows.OWNERS) == EVENTS
        state = live(reader)
    store.close()
    kinds = [event.type.rpartition(".")[2] for event in events]
    assert kinds.count("ContactNoted") == EVENTS
    assert kinds.count("FeedbackScored") == EVENTS // 4
    assert state == replayed(events)
    assert f'"volume\\u001f\\u001fn":{EVENTS}'.encode() in state["subject/1/"]


def position(store: Store) -> int:
    """How far the log goes."""
    with store.snapshot() as reader:
        return reader.last_position()


def taken(store: Store, upstream: str) -> int:
    """How far an upstream log is taken."""
    with store.snapshot() as reader:
        return max((each.position for each in reader.inboxes() if upstream in each.stream), default=0)
