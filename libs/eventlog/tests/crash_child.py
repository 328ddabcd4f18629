"""A process to be killed: writes numbered events, or takes a stream, and says what was acknowledged.

Reads {"mode", "environment", "first", "count", "nats", "stream"} from its first argument, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from throughline_eventlog import Connection, Consumer, Relay, StoreSettings, Transaction, Writer, open_store
from throughline_testkit.logs import Noting, noted, stream_of


def say(line: str) -> None:
    """One line at once: what was said before a SIGKILL was said."""
    os.write(1, f"{line}\n".encode())


class Once:
    """Appends each number once, with a row beside it; says whether it was there already."""

    def __call__(self, tx: Transaction, items: Sequence[int], /) -> Sequence[bool]:
        """False for those that were there."""
        there = tx.get_many("things", [stream_of(item) for item in items])
        new = [item for item in items if stream_of(item) not in there]
        tx.append([noted(item) for item in new])
        tx.put_many("things", {stream_of(item): str(item).encode() for item in new})
        return [stream_of(item) not in there for item in items]

    def rolled_back(self) -> None:
        """Remembers nothing."""


async def write(order: Mapping[str, Any]) -> None:
    store = open_store(StoreSettings("up", order["environment"]), tables=("things",))
    writer, work = Writer(store, group_weight=50), Once()
    say("ready")

    async def offer(number: int) -> None:
        await writer.submit(work, number)
        say(f"ack {number}")

    first, count = order["first"], order["count"]
    for start in range(first, first + count, 64):
        await asyncio.gather(*(offer(number) for number in range(start, min(start + 64, first + count))))
    say("done")


async def line(order: Mapping[str, Any]) -> None:
    """Relay and consumer in one process, over the bus."""
    up = open_store(StoreSettings("up", order["up"]), tables=("things",))
    down = open_store(StoreSettings("down", order["down"]), tables=("things",))
    async with Connection(order["nats"], name="child") as connection:
        relay = Relay(up, connection, "up", prefix=order["prefix"], chunk_events=17)
        consumer = Consumer(Writer(down), connection, relay.stream, Noting(), batch_events=40)
        say("ready")
        await asyncio.gather(relay.run(), consumer.run())


def main() -> None:
    order = json.loads(sys.argv[1])
    asyncio.run(write(order) if order["mode"] == "write" else line(order))


if __name__ == "__main__":
    main()
