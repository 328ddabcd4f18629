"""Puts a log on the bus, in chunks and in order; two relays of one log cannot fork its stream."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError

from throughline.eventlog.v1.eventlog_pb2 import Envelope, EventChunk, LoggedEvent
from throughline_eventlog.bus import (
    WRONG_LAST_MSG_ID,
    WRONG_LAST_SEQUENCE,
    BusError,
    Connection,
    StreamState,
)
from throughline_eventlog.observing import Observer, Unobserved, some_traceparents
from throughline_eventlog.records import LoggedRow
from throughline_eventlog.store import Store
from throughline_eventlog.streams import (
    END_HEADER,
    EVENTS_HEADER,
    EXPECTED_ID,
    EXPECTED_SEQUENCE,
    MESSAGE_ID,
    stream_config,
    stream_flaw,
    stream_name,
    subject_name,
)
from throughline_kernel import UnavailableError

CHUNK_EVENTS: Final = 500
CHUNK_BYTES: Final = 768 * 1024
ENVELOPE_ROOM: Final = 1_024
"""Bytes of a message that are not envelopes, with room to spare."""
POLL_SECONDS: Final = 0.5
"""How often the log is looked at though nobody rang: another process may have written to it."""
BACKOFF_SECONDS: Final = (0.1, 5.0)
STREAM_POLLS: Final = 4
"""Looks at a quiet log after which the stream is looked at too."""
LOOK_BACK: Final = 1_000
"""Messages that are looked through, from the last, for one that a relay put there."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Tail:
    """Where the stream ends: the log's position, the id of the last message and its sequence."""

    position: int
    message_id: str
    sequence: int


@dataclass(frozen=True, slots=True)
class _Chunk:
    payload: bytes
    end: int
    events: int
    traceparents: list[str]


class RelayStuckError(Exception):
    """What only a person can mend; the message says what it is."""


class Relay:
    """Publishes one service's log to its stream for as long as `run` runs.

    The stream itself says how far the log is published, so nothing is kept here: after a crash, a change of host or the
    loss of the stream the relay continues from what is there.
    """

    def __init__(
        self,
        store: Store,
        connection: Connection,
        service: str,
        partition: int = 0,
        *,
        prefix: str = "TL",
        replicas: int = 1,
        chunk_events: int = CHUNK_EVENTS,
        stuck_after: float = 30.0,
        poll: float = POLL_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
        observer: Observer | None = None,
    ) -> None:
        self.service = service
        self.partition = partition
        self.stream = stream_name(service, partition, prefix)
        self.subject = subject_name(service, partition, prefix)
        self.published_position = 0
        self.chunks = 0
        self.events = 0
        self._store = store
        self._tail = store.follow()
        self._connection = connection
        self._replicas = replicas
        self._chunk_events = chunk_events
        self._stuck_after = stuck_after
        self._poll = poll
        self._monotonic = monotonic
        self._observer: Observer = observer or Unobserved()
        self._observed = observer is not None
        self._grew = asyncio.Event()
        # Until the stream has said how far it is, there may be something to publish.
        self._behind_since: float | None = monotonic()
        self._trouble = ""
        self._polls = 0

    def health(self) -> str | None:
        """None, or why events wait that should be on the bus by now."""
        since = self._behind_since
        if since is None:
            return None
        waited = self._monotonic() - since
        if waited < self._stuck_after:
            return None
        return (
            f"relay of {self.service}: events after position {self.published_position} are not on the bus, and nothing "
            f"moved for {waited:.0f} s: {self._trouble or self._connection.last_error or 'no answer from the bus'}"
        )

    def outbox_age(self, now: int | None = None) -> int:
        """Microseconds since the oldest event that is not known to be on the bus was recorded, 0 where there is none.

        Reads the store. Raises UnavailableError where that is away.
        """
        with self._store.snapshot() as reader:
            oldest = reader.read_logged(self.published_position, limit=1)
        if not oldest:
            return 0
        recorded_at = Envelope.FromString(oldest[0].envelope).recorded_at
        return max(0, (self._store.clock() if now is None else now) - recorded_at)

    async def run(self) -> None:
        """Publishes until it is cancelled, whatever becomes of the bus meanwhile."""
        loop = asyncio.get_running_loop()
        quit_bell = self._store.grew.subscribe(lambda: _call(loop, self._rang))
        shortest, longest = BACKOFF_SECONDS
        wait = shortest
        try:
            while True:
                before = self.chunks
                try:
                    await self._session()
                except (BusError, UnavailableError, RelayStuckError) as error:
                    self._trouble = str(error)
                    logger.debug("relay of %s: %s", self.service, error)
                except Exception as error:
                    self._trouble = f"{type(error).__name__}: {error}"
                    logger.exception("relay of %s", self.service)
                wait = shortest if self.chunks > before else min(longest, wait * 2)
                await asyncio.sleep(wait * random.uniform(0.5, 1.0))
        finally:
            quit_bell()

    def _rang(self) -> None:
        self._grew.set()
        if self._behind_since is None:
            self._behind_since = self._monotonic()

    async def _session(self) -> None:
        """Publishes from where the stream ends until something goes wrong."""
        await self._connection.ready()
        if self._behind_since is None:
            # Once more the stream has to say how far it is.
            self._behind_since = self._monotonic()
        tail = await self._find_tail()
        while True:
            self._grew.clear()
            chunk = await asyncio.to_thread(self._read, tail.position)
            if chunk is None:
                await self._rest(tail)
                continue
            overtaken = await self._publish(chunk, tail)
            if overtaken is not None:
                tail = overtaken
                continue
            # A rival was faster: it may lead, and this relay looks again now and then.
            await asyncio.sleep(random.uniform(0.2, 1.0))
            tail = await self._find_tail()

    async def _rest(self, tail: _Tail) -> None:
        """Nothing to publish: waits for the bell, or until it is time to look."""
        if not self._grew.is_set():
            self._behind_since = None
            self._trouble = ""
        try:
            async with asyncio.timeout(self._poll):
                await self._grew.wait()
        except TimeoutError:
            self._polls += 1
            if self._polls % STREAM_POLLS or not self._connection.connected:
                return
            # A stream that is gone must not be missed because the log is quiet.
            state = await self._stream()
            if state.last_sequence != tail.sequence:
                raise BusError("the stream has changed") from None

    async def _publish(self, chunk: _Chunk, tail: _Tail) -> _Tail | None:
        """Publishes the chunk behind the tail. None where a rival has been there."""
        message_id = f"{self.service}.{self.partition}:{tail.position}"
        headers = {
            MESSAGE_ID: message_id,
            END_HEADER: str(chunk.end),
            EVENTS_HEADER: str(chunk.events),
            EXPECTED_SEQUENCE: str(tail.sequence),
        }
        if tail.message_id:
            headers[EXPECTED_ID] = tail.message_id
        attributes = {"service": self.service, "events": chunk.events, "start": tail.position, "end": chunk.end}
        with self._observer.batch("publish", chunk.traceparents, attributes):
            try:
                answer = await self._connection.publish(self.subject, chunk.payload, headers)
            except BusError as error:
                if error.code in {WRONG_LAST_MSG_ID, WRONG_LAST_SEQUENCE}:
                    return None
                raise
        if answer.get("duplicate"):
            return None
        if answer.get("stream") != self.stream:
            raise RelayStuckError(f"{self.subject} went to stream {answer.get('stream')}, not to {self.stream}")
        self.chunks += 1
        self.events += chunk.events
        self._progress(chunk.end)
        return _Tail(chunk.end, message_id, answer["seq"])

    def _progress(self, position: int) -> None:
        if position != self.published_position:
            self.published_position = position
            self._behind_since = self._monotonic()
            self._trouble = ""

    async def _stream(self) -> StreamState:
        return await self._connection.make_stream(stream_config(self.stream, self.subject, self._replicas))

    async def _find_tail(self) -> _Tail:
        """Asks the stream how far the log is published."""
        state = await self._stream()
        flaw = stream_flaw(state.config, self.subject, self._replicas)
        if flaw is not None:
            raise RelayStuckError(f"stream {self.stream} would lose events: {flaw}; correct it or delete it")
        tail = _Tail(0, "", state.last_sequence)
        first = max(1, state.first_sequence, state.last_sequence - LOOK_BACK)
        for sequence in range(state.last_sequence, first - 1, -1):
            message = await self._connection.message(self.stream, sequence)
            if message is None or not message.headers.get(END_HEADER, "").isdecimal():
                continue
            if await asyncio.to_thread(self._is_ours, message.data):
                last = sequence == state.last_sequence
                tail = _Tail(
                    int(message.headers[END_HEADER]),
                    message.headers.get(MESSAGE_ID, "") if last else "",
                    state.last_sequence,
                )
                break
        end = await asyncio.to_thread(self._log_end)
        if tail.position > end:
            raise RelayStuckError(
                f"stream {self.stream} ends at position {tail.position} and the log at {end}: the log has lost events, "
                "e.g. by an old backup; restore it, or delete the stream once the log is what should count"
            )
        self._progress(tail.position)
        self.published_position = tail.position
        return tail

    def _is_ours(self, data: bytes) -> bool:
        """Whether it is a chunk of such a log at all: whoever may read a stream can have JetStream put it into another.

        Raises: RelayStuckError where the chunk's last event stands in this log otherwise, or not at all.
        """
        try:
            chunk = EventChunk.FromString(data)
            there = chunk.events[-1]
        except (DecodeError, IndexError) as error:
            raise RelayStuckError(f"stream {self.stream} has chunks that no relay made: delete it") from error
        if (chunk.service, chunk.partition) != (self.service, self.partition):
            logger.warning("stream %s has a chunk of %s, partition %d", self.stream, chunk.service, chunk.partition)
            return False
        with self._store.snapshot() as reader:
            if there.position > reader.last_position():
                return True
            rows = reader.read_logged(there.position - 1, until=there.position)
        if rows != [LoggedRow(there.position, there.stream_id, there.version, there.type, there.envelope)]:
            raise RelayStuckError(
                f"stream {self.stream} has another log's event at position {there.position}: give each installation on "
                "a bus a THROUGHLINE_STREAM_PREFIX of its own, or delete the stream where this log took another's place"
            )
        return True

    def _log_end(self) -> int:
        with self._store.snapshot() as reader:
            return reader.last_position()

    def _read(self, after: int) -> _Chunk | None:
        """The next chunk of the log, None at its end."""
        rows = self._tail.take(after, self._chunk_events)
        if not rows:
            with self._store.snapshot() as reader:
                rows = reader.read_logged(after, limit=self._chunk_events)
        if not rows:
            return None
        most = self._connection.max_payload - ENVELOPE_ROOM
        if len(rows[0].envelope) > most:
            raise RelayStuckError(
                f"the event at position {rows[0].position} has {len(rows[0].envelope)} bytes and the bus takes {most}: "
                "raise max_payload of nats-server"
            )
        rows = _within(rows, min(CHUNK_BYTES, most))
        chunk = EventChunk(
            service=self.service,
            partition=self.partition,
            start=after,
            end=rows[-1].position,
            events=[
                LoggedEvent(position=position, stream_id=stream_id, version=version, type=type_, envelope=envelope)
                for position, stream_id, version, type_, envelope in rows
            ],
        )
        links = (
            some_traceparents([Envelope.FromString(row.envelope).traceparent for row in rows]) if self._observed else []
        )
        return _Chunk(chunk.SerializeToString(), rows[-1].position, len(rows), links)


def _within(rows: list[LoggedRow], most: int) -> list[LoggedRow]:
    """The first rows, at least one, that together stay below the size."""
    size = 0
    for taken, row in enumerate(rows):
        size += len(row.envelope) + len(row.type) + 64
        if taken and size > most:
            return rows[:taken]
    return rows


def _call(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(callback)
