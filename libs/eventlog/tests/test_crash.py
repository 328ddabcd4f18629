"""Killed at any moment: nothing acknowledged is lost, nothing is there twice."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from throughline_eventlog import Connection, Consumer, Relay, StoreSettings, Writer
from throughline_testkit import eventually, eventually_sync
from throughline_testkit.logs import Noting, noted
from throughline_testkit.plugin import OpenStore

CHILD = Path(__file__).with_name("crash_child.py")


class Child:
    """The process, and what it said."""

    def __init__(self, order: Mapping[str, Any]) -> None:
        self.said: list[str] = []
        self._process = subprocess.Popen(
            [sys.executable, str(CHILD), json.dumps(order)], stdout=subprocess.PIPE, text=True
        )
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.said.append(line.strip())

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._listener.join()
        assert self._process.stdout is not None
        self._process.stdout.close()

    @property
    def acknowledged(self) -> set[int]:
        return {int(line.split()[1]) for line in self.said if line.startswith("ack ")}


@pytest.mark.chaos
def test_a_killed_writer_loses_nothing_that_it_acknowledged(
    open_test_store: OpenStore, store_settings: Callable[[str], StoreSettings]
) -> None:
    """Three processes in turn are killed while they write, each offers again what the last may not have got to."""
    chance = random.Random(20261122)
    environment = dict(store_settings("up").environment)
    acknowledged: set[int] = set()
    first, each = 0, 1_000_000
    for _ in range(3):
        child = Child({"mode": "write", "environment": environment, "first": first, "count": each})
        enough = chance.randrange(1, 600)
        eventually_sync(lambda child=child, enough=enough: len(child.acknowledged) >= enough, 60)
        child.kill()
        acknowledged |= child.acknowledged
        first = max(0, max(acknowledged) - 200)
    store = open_test_store(service="up", tables=("things",))
    with store.snapshot() as reader:
        logged = [int(event.payload) for event in reader.read()]
        rows = {int(value) for _, value in reader.scan("things")}
    assert len(logged) == len(set(logged))
    assert set(logged) == rows
    assert acknowledged <= rows
    assert len(rows) < each


@pytest.mark.chaos
async def test_a_killed_relay_and_consumer_lose_and_repeat_nothing(
    open_test_store: OpenStore,
    store_settings: Callable[[str], StoreSettings],
    nats: Connection,
    stream_prefix: str,
) -> None:
    """A process that relays and consumes is killed three times while the log grows; nothing of it shows."""
    chance = random.Random(20261122)
    up = open_test_store(service="up", tables=("things",))
    down = open_test_store(service="down", tables=("things",))
    order = {
        "mode": "line",
        "up": dict(store_settings("up").environment),
        "down": dict(store_settings("down").environment),
        "nats": nats.servers[0],
        "prefix": stream_prefix,
    }
    count = 0

    def append() -> None:
        nonlocal count
        with up.transaction() as tx:
            tx.append([noted(number) for number in range(count, count + 300)])
        count += 300

    def taken() -> int:
        with down.snapshot() as reader:
            return reader.count("things")

    for _ in range(3):
        before = taken()
        child = Child(order)
        append()
        enough = before + chance.randrange(1, 280)
        await eventually(lambda enough=enough: taken() >= enough, 60)
        append()
        await asyncio.to_thread(child.kill)
    writer = Writer(down)
    relay = Relay(up, nats, "up", prefix=stream_prefix)
    consumer = Consumer(writer, nats, relay.stream, Noting())
    tasks = [asyncio.create_task(relay.run()), asyncio.create_task(consumer.run())]
    await eventually(lambda: taken() == count, 60)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    with down.snapshot() as reader:
        assert [int(event.payload) for event in reader.read()] == list(range(count))
    await writer.close()
