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
from pathlib import Path

import grpc.aio
import uvloop
from bench.loads import read_requests

from throughline.ingestion.v1 import events_pb2, ingestion_pb2
from throughline_rpc import open_channel

BATCHES = "/throughline.ingestion.v1.IngestionService/RecordInteractions"
SINGLY = "/throughline.ingestion.v1.IngestionService/RecordInteraction"


async def offer(address: str, file: Path, in_flight: int, rate: float) -> dict[str, float]:
    """Sends every request, `in_flight` at a time, and with a rate no faster than that."""
    singly = file.suffix == ".unary"
    requests = read_requests(file)
    verdicts: Counter[int] = Counter()
    took: list[float] = []
    async with open_channel(address) as channel:
        call = channel.unary_unary(SINGLY if singly else BATCHES)
        await channel.channel_ready()
        began = time.perf_counter()
        numbered = enumerate(requests)
        await asyncio.gather(
            *(_worker(call, numbered, singly, rate, began, verdicts, took) for _ in range(in_flight))
        )
        seconds = time.perf_counter() - began
    took.sort()
    return {
        "events": sum(verdicts.values()),
        "recorded": verdicts[events_pb2.VERDICT_RECORDED],
        "seconds": seconds,
        "cpu_seconds": time.process_time(),
        "p50_ms": took[len(took) // 2] * 1_000,
        "p99_ms": took[len(took) * 99 // 100] * 1_000,
    }


async def _worker(
    call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes],
    requests: Iterator[tuple[int, bytes]],
    singly: bool,
    rate: float,
    began: float,
    verdicts: Counter[int],
    took: list[float],
) -> None:
    for number, request in requests:
        if rate:
            # The pace of the load, not a wait for anything.
            await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
        sent = time.perf_counter()
        answer = await call(request)
        took.append(time.perf_counter() - sent)
        if singly:
            verdicts[ingestion_pb2.RecordInteractionResponse.FromString(answer).result.verdict] += 1
        else:
            response = ingestion_pb2.RecordInteractionsResponse.FromString(answer)
            verdicts.update(result.verdict for result in response.results)


if __name__ == "__main__":
    where, what, at_once, *pace = sys.argv[1:]
    told = uvloop.run(offer(where, Path(what), int(at_once), float(pace[0]) if pace else 0.0))
    sys.stdout.write(json.dumps(told))
