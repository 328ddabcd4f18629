"""Killed at any moment: nothing is lost, nothing counts twice."""

from __future__ import annotations

import asyncio
import base64
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from identity_served import HASH_KEY, Ingestion, events_of, reached, recorded

from identity.application.records import IDENTITY_TABLES
from identity.application.replay import make_fold
from identity.application.states import LiveState
from throughline.identity.v1 import events_pb2 as pb
from throughline.ingestion.v1 import events_pb2 as ingestion_pb
from throughline_eventlog import NatsServer, Store, StoreSettings, open_store
from throughline_testkit import eventually
from throughline_testkit.proofs import SIGNING_ENVIRONMENT

INTERACTIONS = 4_000
KILLS = 6


@pytest.mark.timeout(400)
@pytest.mark.chaos
async def test_law_4_killed_while_consuming_it_attributes_every_interaction_once(
    ingestion: Ingestion,
    store_settings: Callable[[str], StoreSettings],
    stream_prefix: str,
    nats_server: NatsServer,
    tmp_path: Path,
) -> None:
    """SIGKILL again and again while the bus is full: one attribution each, and the state is that of a replay."""
    chance = random.Random(11)
    history = [visit(number, chance) for number in range(INTERACTIONS)]
    settings = store_settings("identity")
    environment = {
        **os.environ,
        **settings.environment,
        **SIGNING_ENVIRONMENT,
        "THROUGHLINE_NATS_URL": nats_server.url,
        "THROUGHLINE_STREAM_PREFIX": stream_prefix,
        "THROUGHLINE_HASH_KEY": base64.b64encode(HASH_KEY).decode(),
        "THROUGHLINE_KEY_ENCRYPTION_KEY": base64.b64encode(bytes(range(32))).decode(),
        "THROUGHLINE_KEY_STORE": str(tmp_path / "keys.db"),
        "THROUGHLINE_LOG_LEVEL": "WARNING",
        "IDENTITY_PORT": "0",
    }
    store = open_store(settings, tables=IDENTITY_TABLES)
    with (tmp_path / "identity.log").open("wb") as output:

        def start() -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                [sys.executable, "-m", "identity"], env=environment, stdout=output, stderr=subprocess.STDOUT
            )

        process = start()
        try:
            for part in range(KILLS):
                ingestion.record(*history[INTERACTIONS * part // KILLS : INTERACTIONS * (part + 1) // KILLS])
                before = last_position(store)
                await eventually(lambda before=before: last_position(store) > before, 120)
                process.send_signal(signal.SIGKILL)
                await asyncio.to_thread(process.wait)
                process = start()
            await eventually(lambda: reached(store) == ingestion.position, 180)
        finally:
            process.kill()
            process.wait()
    events = events_of(store)
    attributed = Counter(
        pb.InteractionAttributed.FromString(event.payload).interaction.interaction_id
        for event in events
        if event.type.endswith("InteractionAttributed")
    )
    assert attributed == Counter(each.facts.interaction_id for each in history)
    fold = make_fold()
    for event in events:
        fold.apply(event)
    with store.snapshot() as reader:
        live = dict(LiveState(reader).aggregates())
    assert live == dict(fold.aggregates())
    clients = [orjson.loads(raw) for key, raw in live.items() if key.startswith("client.")]
    assert sum(each["interactions"] for each in clients) == INTERACTIONS
    store.close()


def visit(number: int, chance: random.Random) -> ingestion_pb.InteractionRecorded:
    """Somebody of a family of three, on one of their own cookies or on the family's, logged in or not; out of order."""
    person = chance.randrange(300)
    cookie = f"family{person // 3}" if chance.random() < 0.1 else f"{person}.{chance.randrange(4)}"
    logins = [f"login:l{person}!"] if chance.random() < 0.4 else []
    return recorded(f"i{number}", chance.randrange(INTERACTIONS), f"cookie:{cookie}", *logins)


def last_position(store: Store) -> int:
    """How far the log goes."""
    with store.snapshot() as reader:
        return reader.last_position()
