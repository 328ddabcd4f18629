"""Scoring with a real bus, a real store of each kind and real calls; upstream logs published by real relays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field

import pytest
import pytest_asyncio
from scoring_upstream import Log, Upstream

from scoring.bootstrap import Scoring, build
from scoring.settings import Settings
from throughline.eventlog.v1 import eventlog_pb2_grpc
from throughline.scoring.v1 import scoring_pb2_grpc
from throughline_eventlog import (
    BusSettings,
    Connection,
    NatsServer,
    NewEvent,
    Relay,
    Store,
    StoreSettings,
    open_store,
)
from throughline_rpc import HostSettings, open_channel
from throughline_testkit import eventually
from throughline_testkit.proofs import new_proof_settings

SERVICES = ("identity", "feedback", "journey")


@dataclass
class Publisher:
    """An upstream service's log and its relay."""

    store: Store
    relay: Relay
    published: int = 0

    def publish(self, log: Log, until: int | None = None) -> None:
        """Appends those events that are not in the log yet."""
        fresh = log.events[self.published : until]
        with self.store.transaction() as tx:
            tx.append(
                [
                    NewEvent(
                        event.position.to_bytes(16, "big"),
                        1,
                        event.type,
                        event.payload,
                        event.occurred_at,
                        event.event_id,
                    )
                    for event in fresh
                ]
            )
        self.published += len(fresh)

    @property
    def position(self) -> int:
        with self.store.snapshot() as reader:
            return reader.last_position()


@dataclass
class Running:
    """Scoring, and those it listens to."""

    scoring: Scoring
    publishers: dict[str, Publisher]
    stub: scoring_pb2_grpc.ScoringServiceStub
    log: eventlog_pb2_grpc.EventLogServiceStub
    up: Upstream = field(default_factory=Upstream)

    async def publish(self) -> None:
        """Publishes what the upstream logs have gained and waits until it is taken."""
        for name, publisher in self.publishers.items():
            publisher.publish(getattr(self.up, name))

        def taken() -> bool:
            with self.scoring.store.snapshot() as reader:
                reached = {inbox.stream.split("_")[-2].lower(): inbox.position for inbox in reader.inboxes()}
            return all(
                reached.get(name, 0) >= publisher.position
                for name, publisher in self.publishers.items()
                if publisher.published
            )

        await eventually(taken, 60)


@pytest_asyncio.fixture
async def publishers(
    nats: Connection, store_settings: Callable[[str], StoreSettings], stream_prefix: str
) -> AsyncIterator[dict[str, Publisher]]:
    """The three upstream logs on the bus."""
    async with AsyncExitStack() as stack:
        made: dict[str, Publisher] = {}
        for service in SERVICES:
            store = open_store(store_settings(service))
            stack.callback(store.close)
            relay = Relay(store, nats, service, prefix=stream_prefix)
            task = asyncio.create_task(relay.run())

            async def stop(task: asyncio.Task[None] = task) -> None:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

            stack.push_async_callback(stop)
            made[service] = Publisher(store, relay)
        yield made


@pytest.fixture
def scoring_settings(
    nats_server: NatsServer, store_settings: Callable[[str], StoreSettings], stream_prefix: str
) -> Settings:
    """Scoring on this test's store and streams, on a free port; it holds hardly anything in memory."""
    return Settings(
        host=HostSettings("scoring", grace_seconds=2.0, health_interval_seconds=0.1),
        store=store_settings("scoring"),
        bus=BusSettings(nats_server.url, prefix=stream_prefix),
        proofs=new_proof_settings(),
        held_facts=20,
    )


@pytest_asyncio.fixture
async def running(publishers: dict[str, Publisher], scoring_settings: Settings) -> AsyncIterator[Running]:
    """Scoring, serving."""
    async with AsyncExitStack() as stack:
        scoring = build(scoring_settings)
        await scoring.start()
        port = await scoring.host.start()
        stack.push_async_callback(scoring.host.stop)
        channel = open_channel(f"127.0.0.1:{port}")
        stack.push_async_callback(channel.close)
        yield Running(
            scoring,
            publishers,
            scoring_pb2_grpc.ScoringServiceStub(channel),
            eventlog_pb2_grpc.EventLogServiceStub(channel),
        )
