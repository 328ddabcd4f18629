"""The load generator: a process of its own that sends requests made before, and says how it went.

`python -m bench.offering ADDRESS FILE IN_FLIGHT [REQUESTS_A_SECOND]`: unary calls or batches, as the file has them.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc.aio
import uvloop
from bench.loads import read_requests

from throughline.ingestion.v1 import events_pb2, ingestion_pb2
from throughline_rpc import open_channel

BATCHES = "/throughline.ingestion.v1.IngestionService/RecordInteractions"
SINGLY = "/throughline.ingestion.v1.IngestionService/RecordInteraction"


@dataclass
class Offering:
    """Requests on their way: `rate` requests a second at most, 0 for as many as there is room for."""

    requests: Iterator[tuple[int, bytes]]
    singly: bool
    rate: float
    began: float = 0.0
    verdicts: Counter[int] = field(default_factory=Counter[int])
    took: list[float] = field(default_factory=list[float])

    async def work(self, call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]) -> None:
        """Sends one request after the other until there are none."""
        for number, request in self.requests:
            if self.rate:
                # The pace of the load, not a wait for anything.
                await asyncio.sleep(max(0.0, self.began + number / self.rate - time.perf_counter()))
            sent = time.perf_counter()
            answer = await call(request)
            self.took.append(time.perf_counter() - sent)
            if self.singly:
                result = ingestion_pb2.RecordInteractionResponse.FromString(answer).result
                self.verdicts[result.verdict] += 1
            else:
                response = ingestion_pb2.RecordInteractionsResponse.FromString(answer)
                self.verdicts.update(result.verdict for result in response.results)


async def offer(address: str, file: Path, in_flight: int, rate: float) -> dict[str, float]:
    """Sends every request of a file, `in_flight` at a time."""
    offering = Offering(enumerate(read_requests(file)), file.suffix == ".unary", rate)
    async with open_channel(address) as channel:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
            SINGLY if offering.singly else BATCHES
        )
        await channel.channel_ready()
        offering.began = time.perf_counter()
        await asyncio.gather(*(offering.work(call) for _ in range(in_flight)))
        seconds = time.perf_counter() - offering.began
    took = sorted(offering.took)
    return {
        "events": sum(offering.verdicts.values()),
        "recorded": offering.verdicts[events_pb2.VERDICT_RECORDED],
        "seconds": seconds,
        "cpu_seconds": time.process_time(),
        "p50_ms": took[len(took) // 2] * 1_000,
        "p99_ms": took[len(took) * 99 // 100] * 1_000,
    }


if __name__ == "__main__":
    where, what, at_once, *pace = sys.argv[1:]
    told = uvloop.run(offer(where, Path(what), int(at_once), float(pace[0]) if pace else 0.0))
    sys.stdout.write(json.dumps(told))
