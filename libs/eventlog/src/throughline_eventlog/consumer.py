"""Takes another service's log from the bus, once in effect: what is decided and the position commit together."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol, Self, cast
from uuid import uuid4

from google.protobuf.message import DecodeError
from nats.aio.msg import Msg

from throughline.eventlog.v1.eventlog_pb2 import EventChunk, LoggedEvent
from throughline_eventlog.bus import BusAwayError, BusError, Connection, StreamGoneError, StreamState
from throughline_eventlog.codec import Codec
from throughline_eventlog.errors import InboxConflictError, NewerLogError, PositionLostError
from throughline_eventlog.observing import Observer, Unobserved, some_traceparents
from throughline_eventlog.records import InboxPosition, LoggedRow
from throughline_eventlog.schemas import SCHEMAS, Schemas
from throughline_eventlog.steps import note_step
from throughline_eventlog.store import POISON, Transaction
from throughline_eventlog.streams import API, EVENTS_HEADER
from throughline_eventlog.writer import Writer
from throughline_kernel import Recorded, Refusal, UnavailableError

BATCH_EVENTS: Final = 2_000
PULL_MESSAGES: Final = 16
PULL_BYTES: Final = 16 * 1024 * 1024
PULL_SECONDS: Final = 30.0
HEARTBEAT_SECONDS: Final = 2.0
SILENCE_SECONDS: Final = 5.0
"""Without a message or a heartbeat for so long, the pull is dead whatever the server thinks."""
INACTIVE_SECONDS: Final = 60.0
BACKOFF_SECONDS: Final = (0.1, 5.0)
REWINDS: Final = 1_000
"""Nanoseconds after a stream's creation that are used to tell its rewound selves apart."""

logger = logging.getLogger(__name__)


class Handler(Protocol):
    """What a service does with another's events."""

    def __call__(self, tx: Transaction, events: Sequence[Recorded], /) -> None:
        """Takes the events, in order, inside the transaction that also moves the inbox."""
        ...

    def rolled_back(self) -> None:
        """Drops what was remembered from transactions: it is not, or not all, in the log."""
        ...


@dataclass(frozen=True, slots=True)
class _Batch:
    """Events to take, and where the inbox stands before and after."""

    before: InboxPosition | None
    after: InboxPosition
    events: Sequence[Recorded]
    rows: Sequence[LoggedRow]


@dataclass(frozen=True, slots=True)
class _Quarantine:
    """Something to put aside instead of taking it."""

    before: InboxPosition | None
    after: InboxPosition
    key: bytes
    record: bytes


@dataclass(frozen=True, slots=True)
class _Redrive:
    """Something that was put aside, to be tried again."""

    key: bytes
    events: Sequence[Recorded]


class OvertakenError(Exception):
    """The inbox moved under this consumer: another one took these events."""


class _Restart(Exception):  # noqa: N818 # ends a session, and is no error
    """The session is over; the reason is the message."""


class _Taking:
    """The consumer's work in the writer's thread."""

    def __init__(self, handler: Handler, observer: Observer, service: str, stream: str) -> None:
        self._handler = handler
        self._observer = observer
        self._service = service
        self._stream = stream

    def __call__(self, tx: Transaction, items: Sequence[_Batch | _Quarantine | _Redrive], /) -> Sequence[bool]:
        """Whether each was taken; False where the inbox is not where the item expects it."""
        return [self._one(tx, item) for item in items]

    def _one(self, tx: Transaction, item: _Batch | _Quarantine | _Redrive) -> bool:
        if isinstance(item, _Redrive):
            if tx.get(POISON, item.key) is None:
                return False
            self._handle(tx, item.events)
            tx.delete(POISON, item.key)
            return True
        if tx.inbox(self._stream) != item.before:
            return False
        if isinstance(item, _Quarantine):
            tx.put(POISON, item.key, item.record)
        elif item.events:
            self._handle(tx, item.events)
        tx.set_inbox(item.after)
        return True

    def _handle(self, tx: Transaction, events: Sequence[Recorded]) -> None:
        links = some_traceparents([event.traceparent for event in events])
        attributes = {"service": self._service, "stream": self._stream, "events": len(events)}
        with self._observer.batch("consume", links, attributes) as traceparent:
            commits = tx.traceparent
            tx.traceparent = traceparent or commits
            before = tx.last_position()
            self._handler(tx, events)
            note_step(tx, self._stream, before, events[0].position, events[-1].position)
            tx.traceparent = commits

    def rolled_back(self) -> None:
        """Passed on."""
        self._handler.rolled_back()


class Consumer:
    """Takes one stream for as long as `run` runs, from where its own store says it has got to.

    Every event of the upstream log is handed to the handler once, in log order, in batches of up to `batch_events`; the
    inbox moves in the same transaction. An event that the handler fails on alone is put into the table `poison`,
    whole, and tried again at the next start. An event of a version that `schemas` does not know stops the
    consumer.
    """

    def __init__(
        self,
        writer: Writer,
        connection: Connection,
        upstream_stream: str,
        handler: Handler,
        *,
        batch_events: int = BATCH_EVENTS,
        schemas: Schemas = SCHEMAS,
        stuck_after: float = 30.0,
        monotonic: Callable[[], float] = time.monotonic,
        observer: Observer | None = None,
        silence: float = SILENCE_SECONDS,
    ) -> None:
        self.stream = upstream_stream
        self.taken = 0
        self.lag = 0
        self.poisoned = 0
        self.position = 0
        self._writer = writer
        self._connection = connection
        self._taking = _Taking(handler, observer or Unobserved(), writer.store.service, upstream_stream)
        self._batch_events = batch_events
        self._codec = Codec("", schemas)
        self._stuck_after = stuck_after
        self._silence = silence
        self._monotonic = monotonic
        self._moved = monotonic()
        self._stopped: str | None = None
        self._lost: str | None = None
        self._trouble = ""
        self._waiting = False
        self._from_start = False

    def health(self) -> str | None:
        """None, or why events wait that should be taken by now."""
        fatal = self._stopped or self._lost
        if fatal is not None:
            return f"consumer of {self.stream}: {fatal}"
        waited = self._monotonic() - self._moved
        if self._waiting or waited < self._stuck_after:
            return None
        return (
            f"consumer of {self.stream}: nothing moved for {waited:.0f} s: "
            f"{self._trouble or self._connection.last_error or 'no answer from the bus'}"
        )

    def degraded(self) -> str | None:
        """None, or what it could not take and put aside; the rest goes on."""
        if not self.poisoned:
            return None
        return (
            f"consumer of {self.stream}: {self.poisoned} events are in the table poison, to be tried again at the next "
            "start"
        )

    async def run(self) -> None:
        """Takes events until it is cancelled, whatever becomes of the bus and the store meanwhile."""
        shortest, longest = BACKOFF_SECONDS
        wait = shortest
        redriven = False
        while self._stopped is None:
            before = self.taken
            try:
                if not redriven:
                    await self._redrive()
                    redriven = True
                await self._session()
            except NewerLogError as error:
                self._stopped = f"stopped: {error.message}"
                logger.error("consumer of %s %s", self.stream, self._stopped)  # noqa: TRY400 # its sentence says all
                break
            except PositionLostError as error:
                # Once from the start of the stream; what is not there then is nowhere.
                self._lost = str(error) if self._from_start or self._lost else None
                self._from_start = self._lost is None
                self._trouble = str(error)
            except (BusError, Refusal, OvertakenError, _Restart) as error:
                self._trouble = str(error)
                logger.debug("consumer of %s: %s", self.stream, error)
            except Exception as error:
                self._trouble = f"{type(error).__name__}: {error}"
                logger.exception("consumer of %s", self.stream)
            self._waiting = False
            wait = shortest if self.taken > before else min(longest, wait * 2)
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))
        await asyncio.Event().wait()

    async def _submit(self, item: _Batch | _Quarantine | _Redrive, weight: int) -> bool:
        return await self._writer.submit(self._taking, item, weight=weight)

    async def _session(self) -> None:
        """One subscription, from the inbox on, until something ends it."""
        await self._connection.ready()
        state = await self._await_stream()
        inbox = await asyncio.to_thread(self._inbox)
        self.position = 0 if inbox is None else inbox.position
        start = self._start(state, inbox)
        async with _Pull(self._connection, self.stream, start.sequence + 1, self._silence) as pull:
            await self._take_from(pull, inbox, start)

    async def _await_stream(self) -> StreamState:
        """The stream, once it is there: a service may start before the one that it listens to."""
        while True:
            try:
                return await self._connection.stream(self.stream)
            except StreamGoneError:
                self._waiting = True
                self.lag = 0
                self._moved = self._monotonic()
                await asyncio.sleep(random.uniform(0.2, 0.5))

    def _inbox(self) -> InboxPosition | None:
        with self._writer.store.snapshot() as reader:
            return reader.inbox(self.stream)

    def _start(self, state: StreamState, inbox: InboxPosition | None) -> InboxPosition:
        """Where to read from, as the inbox will say it: (stream, created, last sequence taken, position)."""
        if inbox is None:
            return InboxPosition(self.stream, state.created, 0, 0)
        same = 0 <= inbox.created - state.created < REWINDS
        if not same:
            # Deleted and made anew: it counts from 1 again, and brings the whole log again.
            return InboxPosition(self.stream, state.created, 0, inbox.position)
        if inbox.sequence > state.last_sequence or self._from_start:
            # It lost its end, or a part before it: what follows is numbered as what was lost, so it is another stream.
            return InboxPosition(self.stream, inbox.created + 1, 0, inbox.position)
        return inbox

    async def _take_from(self, pull: _Pull, inbox: InboxPosition | None, reached: InboxPosition) -> None:
        while True:
            messages = await self._gather(pull)
            if not messages:
                continue
            before, events, rows, count = inbox, list[Recorded](), list[LoggedRow](), 0
            failed: Exception | None = None
            for message in messages:
                sequence = message.metadata.sequence.stream
                if sequence <= reached.sequence:
                    continue
                try:
                    chunk = self._chunk(message.data)
                    taken, taken_rows = self._open(chunk, reached.position)
                except DecodeError as error:
                    inbox = await self._take(before, reached, events, rows)
                    inbox, reached = await self._set_aside(inbox, reached, message, error)
                    before, events, rows = inbox, [], []
                    continue
                except (NewerLogError, PositionLostError) as error:
                    failed = error
                    break
                events += taken
                rows += taken_rows
                count += 1
                reached = replace(reached, sequence=sequence, position=max(reached.position, chunk.end))
            if count:
                inbox = await self._take(before, reached, events, rows)
            if failed is not None:
                raise failed
            self.lag = messages[-1].metadata.num_pending + len(pull.messages)
            self._from_start = False
            self._lost = None

    async def _gather(self, pull: _Pull) -> list[Msg]:
        """The messages that are here, at least one, for one transaction."""
        self._waiting = not pull.messages
        if self._waiting:
            self.lag = 0
            self._moved = self._monotonic()
        first = await pull.next()
        if self._waiting:
            self._moved = self._monotonic()
            self._waiting = False
        found, size = [first], _events_in(first)
        while pull.messages and size + _events_in(pull.messages[0]) <= self._batch_events:
            found.append(pull.messages.popleft())
            size += _events_in(found[-1])
        return found

    def _chunk(self, data: bytes) -> EventChunk:
        """The message as a chunk of the log that this stream is of.

        Raises: DecodeError where it is none: whoever may read a stream can have JetStream put it into another.
        """
        chunk = EventChunk.FromString(data)
        if not self.stream.endswith(f"_{chunk.service.upper()}_{chunk.partition}"):
            raise DecodeError(f"of the log of {chunk.service or 'nobody'}, partition {chunk.partition}")
        return chunk

    def _open(self, chunk: EventChunk, position: int) -> tuple[list[Recorded], list[LoggedRow]]:
        """The chunk's events behind the position. Raises PositionLostError where some before them are missing."""
        if chunk.start > position:
            raise PositionLostError(
                f"the stream lacks positions {position + 1} to {chunk.start} of the upstream log: restore the stream, "
                "or delete it, and its relay publishes the whole log anew"
            )
        if chunk.end <= position:
            return [], []
        rows = [
            LoggedRow(event.position, event.stream_id, event.version, event.type, event.envelope)
            for event in chunk.events
            if event.position > position
        ]
        return self._codec.decode(rows), rows

    async def _take(
        self,
        before: InboxPosition | None,
        after: InboxPosition,
        events: Sequence[Recorded],
        rows: Sequence[LoggedRow],
    ) -> InboxPosition | None:
        """Takes the events, by halves where they fail together, and gives the inbox as it then is."""
        if before == after or (before is None and not after.sequence and not events):
            return before
        try:
            taken = await self._submit(_Batch(before, after, events, rows), max(1, len(events)))
        except (UnavailableError, InboxConflictError, NewerLogError):
            raise
        except Exception as error:
            if len(events) > 1:
                half = len(events) // 2
                middle = self._within(before, after, events[half - 1].position)
                reached = await self._take(before, middle, events[:half], rows[:half])
                return await self._take(reached, after, events[half:], rows[half:])
            if not events:
                raise
            return await self._isolate(_Batch(before, after, events, rows), error)
        if not taken:
            raise OvertakenError("another consumer moved the inbox")
        self._advance(after, len(events))
        return after

    def _within(self, before: InboxPosition | None, after: InboxPosition, position: int) -> InboxPosition:
        """The inbox inside what is being taken: no further message is taken whole."""
        same = before is not None and before.created == after.created
        return replace(after, sequence=before.sequence if before is not None and same else 0, position=position)

    async def _isolate(self, batch: _Batch, error: Exception) -> InboxPosition:
        """One event, tried once more; then it is put aside, whole, so that the others can go on."""
        event, row = batch.events[0], batch.rows[0]
        try:
            taken = await self._submit(batch, 1)
        except (UnavailableError, InboxConflictError, NewerLogError):
            raise
        except Exception as again:  # whatever it is, it is the handler's, and it is kept
            error = again
            record = {
                "stream": self.stream,
                "position": event.position,
                "type": event.type,
                "error": f"{type(error).__name__}: {error}",
                "at": self._writer.store.clock(),
                "event": base64.b64encode(_logged(row).SerializeToString()).decode(),
            }
            taken = await self._quarantine(batch.before, batch.after, event.position, record)
            logger.exception("consumer of %s: event %d put aside", self.stream, event.position, exc_info=error)
        if not taken:
            raise OvertakenError("another consumer moved the inbox")
        self._advance(batch.after, 1)
        return batch.after

    async def _set_aside(
        self, inbox: InboxPosition | None, reached: InboxPosition, message: Msg, error: Exception
    ) -> tuple[InboxPosition, InboxPosition]:
        """A message that is no chunk of a log."""
        sequence = message.metadata.sequence.stream
        after = replace(reached, sequence=sequence)
        record = {
            "stream": self.stream,
            "sequence": sequence,
            "error": f"no chunk of this log: {error}",
            "at": self._writer.store.clock(),
            "message": base64.b64encode(message.data).decode(),
        }
        logger.error("consumer of %s: message %d is no chunk of a log, put aside", self.stream, sequence)
        if not await self._quarantine(inbox, after, -sequence, record):
            raise OvertakenError("another consumer moved the inbox")
        return after, after

    async def _quarantine(
        self, before: InboxPosition | None, after: InboxPosition, number: int, record: dict[str, Any]
    ) -> bool:
        key = self._poison_prefix + number.to_bytes(8, "big", signed=True)
        taken = await self._submit(_Quarantine(before, after, key, json.dumps(record).encode()), 1)
        self.poisoned += taken
        return taken

    @property
    def _poison_prefix(self) -> bytes:
        return self.stream.encode() + b"\x00"

    async def _redrive(self) -> None:
        """Tries again what was put aside before."""

        def waiting() -> list[tuple[bytes, bytes]]:
            with self._writer.store.snapshot() as reader:
                return list(reader.scan(POISON, prefix=self._poison_prefix))

        aside = await asyncio.to_thread(waiting)
        left = 0
        for key, record in aside:
            kept = json.loads(record).get("event")
            if kept is None:
                left += 1
                continue
            event = LoggedEvent.FromString(base64.b64decode(kept))
            row = LoggedRow(event.position, event.stream_id, event.version, event.type, event.envelope)
            try:
                await self._submit(_Redrive(key, self._codec.decode([row])), 1)
            except UnavailableError:
                raise
            except Exception as error:  # noqa: BLE001 # it stays where it is
                left += 1
                logger.warning("consumer of %s: event %d fails still: %s", self.stream, event.position, error)
        self.poisoned = left

    def _advance(self, reached: InboxPosition, events: int) -> None:
        self.taken += events
        self.position = reached.position
        self._moved = self._monotonic()
        self._trouble = ""


class _Pull:
    """An unacknowledged pull consumer of the bus that begins at a sequence; gone with this object, or soon after it."""

    def __init__(self, connection: Connection, stream: str, first: int, silence: float) -> None:
        self.messages: deque[Msg] = deque()
        self._connection = connection
        self._stream = stream
        self._first = first
        self._silence = silence
        self._name = f"throughline-{uuid4().hex}"
        self._inbox = f"{connection.inbox}.{uuid4().hex}"
        self._next = f"{API}CONSUMER.MSG.NEXT.{stream}.{self._name}"
        self._pulls: dict[str, int] = {}
        self._asked = 0
        self._arrived = asyncio.Event()
        self._over: str | None = None
        self._leave: list[Callable[[], Awaitable[Any] | None]] = []

    async def __aenter__(self) -> Self:
        client = await self._connection.ready()
        await self._connection.request(
            f"CONSUMER.CREATE.{self._stream}.{self._name}",
            {
                "stream_name": self._stream,
                "config": {
                    "name": self._name,
                    "deliver_policy": "by_start_sequence",
                    "opt_start_seq": self._first,
                    # The position is kept where the events go, so there is nothing to acknowledge.
                    "ack_policy": "none",
                    "replay_policy": "instant",
                    "inactive_threshold": int(INACTIVE_SECONDS * 1e9),
                    "mem_storage": True,
                    "num_replicas": 1,
                },
            },
        )
        subscription = await cast("Any", client).subscribe(f"{self._inbox}.*", cb=self._receive)
        self._leave = [
            subscription.unsubscribe,
            self._connection.on_change(self._lost),
            self._connection.on_refusal(self._next, lambda error: self._end(str(error))),
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        unsubscribe, *forgetting = self._leave
        for forget in forgetting:
            forget()
        with suppress(Exception):
            await cast("Awaitable[Any]", unsubscribe())
        if self._connection.connected:
            with suppress(BusError):
                await self._connection.request(f"CONSUMER.DELETE.{self._stream}.{self._name}", timeout=1.0)

    async def next(self) -> Msg:
        """The next message, however long it takes. Raises BusAwayError or _Restart where this pull is over."""
        while not self.messages:
            self._check()
            await self._ask()
            self._arrived.clear()
            try:
                async with asyncio.timeout(self._silence):
                    await self._arrived.wait()
            except TimeoutError:
                raise _Restart(f"the bus was silent for {self._silence} s") from None
        message = self.messages.popleft()
        await self._ask()
        return message

    def _check(self) -> None:
        if self._over is not None:
            raise _Restart(self._over)

    def _lost(self) -> None:
        self._end("the connection to the bus changed")

    def _end(self, why: str) -> None:
        self._over = self._over or why
        self._arrived.set()

    async def _ask(self) -> None:
        """Keeps enough asked for, and not more than is good for this process's memory."""
        if self._over is not None or sum(self._pulls.values()) + len(self.messages) > PULL_MESSAGES // 2:
            return
        client = await self._connection.ready()
        self._asked += 1
        reply = f"{self._inbox}.{self._asked}"
        self._pulls[reply] = PULL_MESSAGES
        request = {
            "batch": PULL_MESSAGES,
            "max_bytes": PULL_BYTES,
            "expires": int(PULL_SECONDS * 1e9),
            "idle_heartbeat": int(HEARTBEAT_SECONDS * 1e9),
        }
        try:
            await client.publish(self._next, json.dumps(request).encode(), reply=reply)
        except Exception as error:
            raise BusAwayError(str(error) or type(error).__name__) from error

    async def _receive(self, message: Msg) -> None:
        status = (message.headers or {}).get("Status")
        if status is None:
            self.messages.append(message)
            reply = next(iter(self._pulls), None)
            if reply is not None:
                self._pulls[reply] -= 1
                if self._pulls[reply] <= 0:
                    del self._pulls[reply]
        elif status != "100":
            self._pulls.pop(message.subject, None)
            # 404 and 408 end one pull, as 409 does where it has as many bytes as it may; the rest ends the consumer.
            words = (message.headers or {}).get("Description", "")
            if status not in {"404", "408"} and "MaxBytes" not in words:
                self._end(f"{status} {words}")
        self._arrived.set()


def _events_in(message: Msg) -> int:
    """How many events a message has, as its relay says."""
    said = (message.headers or {}).get(EVENTS_HEADER, "")
    return int(said) if said.isdecimal() else 1


def _logged(row: LoggedRow) -> LoggedEvent:
    return LoggedEvent(
        position=row.position, stream_id=row.stream_id, version=row.version, type=row.type, envelope=row.envelope
    )
