"""Where telemetry looks in: one span per batch, linked with what caused it."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from throughline_eventlog import Connection, Consumer, Relay, Writer
from throughline_eventlog.observing import LINKS
from throughline_testkit import eventually
from throughline_testkit.logs import Appending, Noting, noted
from throughline_testkit.plugin import OpenStore


@dataclass
class Notebook:
    """Notes each batch and names its span."""

    name: str
    batches: list[tuple[str, list[str], dict[str, str | int]]] = field(
        default_factory=list[tuple[str, list[str], dict[str, str | int]]]
    )

    @contextmanager
    def batch(self, kind: str, traceparents: Sequence[str], attributes: Mapping[str, str | int]) -> Generator[str]:
        self.batches.append((kind, list(traceparents), dict(attributes)))
        yield f"{self.name}-{kind}"


async def test_the_edges_of_a_line(open_test_store: OpenStore, nats: Connection, stream_prefix: str) -> None:
    """The call's context is in the commit's links, the event's in the relay's and the consumer's, and what a handler
    appends carries the consumer's own."""
    up, down = open_test_store(service="up"), open_test_store(service="down", tables=("things",))
    seen, beyond = Notebook("up"), Notebook("down")
    writer, further = Writer(up, observer=seen), Writer(down, observer=beyond)
    relay = Relay(up, nats, "up", prefix=stream_prefix, observer=seen)
    consumer = Consumer(further, nats, relay.stream, Noting(), observer=beyond)
    await writer.submit(Appending(), noted("plain"), traceparent="call-1")
    await writer.submit(Appending(), noted("own")._replace(traceparent="own-1"), traceparent="call-2")
    tasks = [asyncio.create_task(relay.run()), asyncio.create_task(consumer.run())]
    await eventually(lambda: consumer.taken == 2)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert [(kind, links) for kind, links, _ in seen.batches] == [
        ("commit", ["call-1"]),
        ("commit", ["call-2"]),
        ("publish", ["up-commit", "own-1"]),
    ]
    consumed = [(links, attributes) for kind, links, attributes in beyond.batches if kind == "consume"]
    assert consumed == [(["up-commit", "own-1"], {"service": "down", "stream": relay.stream, "events": 2})]
    with down.snapshot() as reader:
        assert {event.traceparent for event in reader.read()} == {"down-consume"}
    await writer.close()
    await further.close()


async def test_links_are_few_and_each_once(open_test_store: OpenStore) -> None:
    """A batch of a thousand traced events has a handful of links."""
    seen = Notebook("up")
    writer, work = Writer(open_test_store(), observer=seen), Appending()
    await asyncio.gather(*(writer.submit(work, noted(n), traceparent=f"call-{n // 2}") for n in range(400)))
    links = [links for kind, links, _ in seen.batches]
    assert all(len(each) <= LINKS and len(set(each)) == len(each) for each in links)
    await writer.close()
