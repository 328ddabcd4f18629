"""The service with a real bus, a real store of each kind and real calls; upstream logs published by real relays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio

from journey.bootstrap import Journey, build
from journey.settings import Settings
from throughline.eventlog.v1 import eventlog_pb2_grpc
from throughline.journey.v1 import journey_pb2_grpc
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


@dataclass
class Publisher:
    """An upstream service's log, and its relay."""

    store: Store
    relay: Relay
    task: asyncio.Task[None]
    published: int = 0

    def publish(self, events: list[Any]) -> None:
        """Appends those of the upstream's events that are not in its log yet."""
        fresh = events[self.published :]
        with self.store.transaction() as tx:
            tx.append(
                [
                    NewEvent(
                        event.stream_id,
                        1,
                        event.type,
                        event.payload,
                        event.occurred_at,
                        event.event_id,
                        event.correlation_id,
                    )
                    for event in fresh
                ]
            )
        self.published = len(events)

    @property
    def position(self) -> int:
        with self.store.snapshot() as reader:
            return reader.last_position()


@dataclass
class Running:
    """The service and those it listens to."""

    journey: Journey
    upstreams: dict[str, Publisher]
    stub: Any
    log: Any
    address: str
    events: dict[str, Any] = field(default_factory=dict)

    async def caught_up(self) -> None:
        """Waits until all that was published is taken."""

        def taken() -> bool:
            with self.journey.store.snapshot() as reader:
                reached = {inbox.stream.split("_")[-2].lower(): inbox.position for inbox in reader.inboxes()}
            return all(
                reached.get(name, 0) >= upstream.position
                for name, upstream in self.upstreams.items()
                if upstream.published
            )

        await eventually(taken)

    async def publish(self) -> None:
        """Publishes what the upstream logs have gained and waits until it is taken."""
        for name, upstream in self.upstreams.items():
            upstream.publish(self.events[name].events)
        await self.caught_up()


async def publisher(
    service: str, settings: StoreSettings, connection: Connection, prefix: str, stack: AsyncExitStack
) -> Publisher:
    """An upstream log with a relay that runs until the stack ends."""
    store = open_store(settings)
    stack.callback(store.close)
    relay = Relay(store, connection, service, prefix=prefix)
    task = asyncio.create_task(relay.run())

    async def stop() -> None:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    stack.push_async_callback(stop)
    return Publisher(store, relay, task)


@pytest_asyncio.fixture
async def upstreams(
    nats: Connection, store_settings: Callable[[str], StoreSettings], stream_prefix: str
) -> AsyncIterator[dict[str, Publisher]]:
    """The logs of identity and feedback on the bus."""
    async with AsyncExitStack() as stack:
        yield {
            service: await publisher(service, store_settings(service), nats, stream_prefix, stack)
            for service in ("identity", "feedback")
        }


@pytest.fixture
def journey_settings(
    say: SimpleNamespace,
    nats_server: NatsServer,
    store_settings: Callable[[str], StoreSettings],
    stream_prefix: str,
) -> Settings:
    """The service on this test's store and streams, on a free port."""
    return Settings(
        host=HostSettings("journey", grace_seconds=2.0, health_interval_seconds=0.1),
        store=store_settings("journey"),
        bus=BusSettings(nats_server.url, prefix=stream_prefix),
        proofs=new_proof_settings(),
        hash_key=say.HASH_KEY,
        sweep_seconds=0.05,
    )


@pytest_asyncio.fixture
async def running(
    say: SimpleNamespace, upstreams: dict[str, Publisher], journey_settings: Settings
) -> AsyncIterator[Running]:
    """The service, serving."""
    async with AsyncExitStack() as stack:
        journey = build(journey_settings)
        await journey.start()
        port = await journey.host.start()
        stack.push_async_callback(journey.host.stop)
        channel = open_channel(f"127.0.0.1:{port}")
        stack.push_async_callback(channel.close)
        yield Running(
            journey,
            upstreams,
            journey_pb2_grpc.JourneyServiceStub(channel),
            eventlog_pb2_grpc.EventLogServiceStub(channel),
            f"127.0.0.1:{port}",
            {name: say.Upstream(name) for name in upstreams},
        )
