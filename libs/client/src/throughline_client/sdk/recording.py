"""Interactions offered in batches over one stream, through every interruption, each answered in order."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

import grpc
import grpc.aio

from throughline.ingestion.v1 import events_pb2, ingestion_pb2, ingestion_pb2_grpc, interaction_pb2
from throughline_rpc import RemoteRefusal, decode_error

BATCH: Final = 1_000
# A batch is sent early once it is this big: servers take messages of up to 32 MB.
BATCH_BYTES: Final = 4 * 1024 * 1024
IN_FLIGHT: Final = 8
FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 5.0
# gRPC sheds load with CANCELLED before the handler runs; offering again is safe whatever had happened.
RETRYABLE: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.ABORTED,
    }
)
VERDICTS: Final = {
    events_pb2.VERDICT_RECORDED: "recorded",
    events_pb2.VERDICT_DUPLICATE: "duplicate",
    events_pb2.VERDICT_CONFLICT: "conflict",
    events_pb2.VERDICT_QUARANTINED: "quarantined",
    events_pb2.VERDICT_REFUSED: "refused",
}

Interactions = list[interaction_pb2.Interaction]


@dataclass(slots=True)
class Verdicts:
    """The five ends that offered interactions came to; `offered` is their sum."""

    recorded: int = 0
    duplicate: int = 0
    conflict: int = 0
    quarantined: int = 0
    refused: int = 0

    @property
    def offered(self) -> int:
        return self.recorded + self.duplicate + self.conflict + self.quarantined + self.refused

    def add(self, results: Iterable[ingestion_pb2.InteractionResult]) -> None:
        """Counts the results of one batch."""
        for result in results:
            name = VERDICTS.get(result.verdict, "refused")
            setattr(self, name, getattr(self, name) + 1)

    def as_dict(self) -> dict[str, int]:
        """By name, `offered` first."""
        return {"offered": self.offered, **{name: getattr(self, name) for name in VERDICTS.values()}}


@dataclass(slots=True)
class Answered:
    """A batch and what became of each of its interactions, in the same order."""

    interactions: Interactions
    results: list[ingestion_pb2.InteractionResult]


def is_retryable(refusal: RemoteRefusal) -> bool:
    """Whether offering the same again may succeed by waiting."""
    return refusal.code in RETRYABLE


@dataclass(slots=True)
class Pauses:
    """Growing pauses between attempts, with jitter; they start over after each success."""

    pause: float = FIRST_PAUSE

    def succeeded(self) -> None:
        self.pause = FIRST_PAUSE

    async def wait(self, refusal: RemoteRefusal) -> float:
        """Waits about as long as the server asked for, and longer each time; answers the seconds."""
        pause = max(self.pause, refusal.retry_after or 0.0) * random.uniform(0.7, 1.3)
        self.pause = min(self.pause * 2, LONGEST_PAUSE)
        await asyncio.sleep(pause)
        return pause


@dataclass(slots=True)
class _Window:
    """Batches that are not answered yet, oldest first; a lost stream sends them all again."""

    batches: Iterator[Interactions]
    size: int
    unanswered: deque[tuple[str, Interactions]] = field(default_factory=deque[tuple[str, Interactions]])
    number: int = 0

    def next(self) -> tuple[str, Interactions] | None:
        batch = next(self.batches, None)
        if batch is None:
            return None
        self.number += 1
        entry = (str(self.number), batch)
        self.unanswered.append(entry)
        return entry


async def offer_batches(
    stub: ingestion_pb2_grpc.IngestionServiceStub,
    batches: Iterable[Interactions],
    *,
    in_flight: int = IN_FLIGHT,
    patience: float | None = None,
    interrupted: Callable[[RemoteRefusal], None] | None = None,
) -> AsyncIterator[Answered]:
    """Offers batches of up to 1,000 and gives each with its results, in order.

    While ingestion is away or overloaded the batches without an answer are offered again, for ever, or for `patience`
    seconds without any success. `interrupted` hears of each interruption. Safe whatever had been recorded: ingestion
    knows its duplicates.

    Raises: RemoteRefusal where offering again cannot help, or patience is over.
    """
    window = _Window(iter(batches), in_flight)
    pauses = Pauses()
    loop = asyncio.get_running_loop()
    last_success = loop.time()
    while True:
        try:
            async for answered in _one_stream(stub, window):
                pauses.succeeded()
                last_success = loop.time()
                yield answered
            return
        except RemoteRefusal as refusal:
            waited = loop.time() - last_success
            if not is_retryable(refusal) or (patience is not None and waited >= patience):
                raise
            if interrupted is not None:
                interrupted(refusal)
            await pauses.wait(refusal)


async def _one_stream(stub: ingestion_pb2_grpc.IngestionServiceStub, window: _Window) -> AsyncIterator[Answered]:
    stream = stub.StreamInteractions()
    room = asyncio.Semaphore(window.size)
    writer = asyncio.create_task(_write(stream, window, room))
    try:
        async for response in stream:
            if not window.unanswered or window.unanswered[0][0] != response.batch_id:
                raise _interrupted(f"batch {response.batch_id!r} was answered out of order")
            _, batch = window.unanswered.popleft()
            room.release()
            yield Answered(batch, list(response.results))
        await writer
    except grpc.aio.AioRpcError as error:
        raise decode_error(error) from None
    except asyncio.InvalidStateError as error:
        raise _interrupted(str(error)) from None
    except asyncio.CancelledError:
        # The writer cancels the stream where it fails: then its reason is the reason.
        failure = writer.exception() if writer.done() and not writer.cancelled() else None
        if isinstance(failure, grpc.aio.AioRpcError):
            raise decode_error(failure) from None
        if isinstance(failure, asyncio.InvalidStateError):
            raise _interrupted(str(failure)) from None
        if failure is not None:
            raise failure from None
        raise
    finally:
        writer.cancel()
        stream.cancel()
        await asyncio.gather(writer, return_exceptions=True)
    if window.unanswered:
        raise _interrupted("the stream ended before every batch was answered")


def _interrupted(message: str) -> RemoteRefusal:
    return RemoteRefusal(grpc.StatusCode.UNAVAILABLE, message)


async def _write(
    stream: grpc.aio.StreamStreamCall[
        ingestion_pb2.StreamInteractionsRequest, ingestion_pb2.StreamInteractionsResponse
    ],
    window: _Window,
    room: asyncio.Semaphore,
) -> None:
    try:
        for batch_id, batch in list(window.unanswered):
            await room.acquire()
            await stream.write(ingestion_pb2.StreamInteractionsRequest(batch_id=batch_id, interactions=batch))
        while True:
            await room.acquire()
            entry = window.next()
            if entry is None:
                break
            await stream.write(ingestion_pb2.StreamInteractionsRequest(batch_id=entry[0], interactions=entry[1]))
        await stream.done_writing()
    except BaseException:
        # Whoever reads must not wait for answers to what was never sent.
        stream.cancel()
        raise


def in_batches(
    interactions: Iterable[interaction_pb2.Interaction], size: int = BATCH, limit: int = BATCH_BYTES
) -> Iterator[Interactions]:
    """Cuts into batches of at most `size` interactions and about `limit` bytes."""
    batch: Interactions = []
    weight = 0
    for interaction in interactions:
        batch.append(interaction)
        weight += interaction.ByteSize()
        if len(batch) >= size or weight >= limit:
            yield batch
            batch, weight = [], 0
    if batch:
        yield batch
