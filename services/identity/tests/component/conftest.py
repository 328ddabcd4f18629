"""Identity with a real bus, a real store of each kind and real calls; ingestion's log published by a real relay."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest
import pytest_asyncio
from identity_served import HASH_KEY, Ingestion, Served

from identity.bootstrap import build
from identity.settings import Settings
from throughline.eventlog.v1 import eventlog_pb2_grpc
from throughline.identity.v1 import identity_pb2_grpc
from throughline_eventlog import BusSettings, Connection, NatsServer, Relay, StoreSettings, open_store
from throughline_privacy import KeyEncryptionKey, PrivacySettings
from throughline_rpc import HostSettings, open_channel
from throughline_testkit.proofs import new_proof_settings


@pytest_asyncio.fixture
async def ingestion(
    nats: Connection, store_settings: Callable[[str], StoreSettings], stream_prefix: str
) -> AsyncIterator[Ingestion]:
    """Ingestion's log, on the bus."""
    store = open_store(store_settings("ingestion"))
    relay = Relay(store, nats, "ingestion", prefix=stream_prefix)
    task = asyncio.create_task(relay.run())
    yield Ingestion(store)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    store.close()


@pytest.fixture
def identity_settings(
    nats_server: NatsServer,
    store_settings: Callable[[str], StoreSettings],
    stream_prefix: str,
    tmp_path: Path,
) -> Settings:
    """Identity on this test's store and streams, on a free port."""
    return Settings(
        host=HostSettings("identity", grace_seconds=2.0, health_interval_seconds=0.1),
        store=store_settings("identity"),
        bus=BusSettings(nats_server.url, prefix=stream_prefix),
        proofs=new_proof_settings(),
        privacy=PrivacySettings(
            hash_key=HASH_KEY,
            key_encryption_key=KeyEncryptionKey(bytes(range(32))),
            key_store=str(tmp_path / "keys.db"),
        ),
        sweep_seconds=3_600,
    )


@pytest_asyncio.fixture
async def served(ingestion: Ingestion, identity_settings: Settings) -> AsyncIterator[Served]:
    """Identity, serving."""
    async with AsyncExitStack() as stack:
        identity = await build(identity_settings)
        await identity.start()
        port = await identity.host.start()
        stack.push_async_callback(identity.host.stop)
        channel = open_channel(f"127.0.0.1:{port}")
        stack.push_async_callback(channel.close)
        yield Served(
            identity,
            ingestion,
            identity_pb2_grpc.IdentityServiceStub(channel),
            eventlog_pb2_grpc.EventLogServiceStub(channel),
            f"127.0.0.1:{port}",
        )
