"""Long requests are read in a process of their own, on another core than the one that writes.

Reading an event (decoding, validating, hashing, writing its facts) costs about as much as deciding, sealing and storing
it, and one interpreter does one thing at a time.
"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import struct
import subprocess
import sys
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final, NamedTuple

import msgspec

from ingestion.adapters.content import ContentMac
from ingestion.adapters.personas import Personas
from ingestion.adapters.reading import ContractReader
from ingestion.application.ports import Request, RequestRead
from throughline_eventlog import Clock, collecting_seldom
from throughline_privacy import IdentifierHasher, PrivacySettings
from throughline_telemetry import logger

SHORT: Final = 8 * 1024
"""Bytes of a request that are read faster than another process is asked to."""
_BUFFER: Final = 4 * 1024 * 1024
_AGAIN_SECONDS: Final = 1.0
# Length of what follows, kind of request, the time as of which it is read.
_ASKED: Final = struct.Struct("<IBq")
_ANSWERED: Final = struct.Struct("<I")
_REMEMBERED: Final = 4_096
"""Identifiers, and sets of them, that the process keeps at hand: some 5 MB."""

_write: Final = msgspec.msgpack.Encoder().encode
_read: Final = msgspec.msgpack.Decoder(RequestRead).decode


class _Waiting(NamedTuple):
    """A request that the process was asked to read, and who waits for the answer."""

    kind: Request
    raw: bytes
    now: int
    answer: asyncio.Future[RequestRead]


class ReadingProcess:
    """Reads requests, each as it would be read here, in the order in which they were asked for.

    Short ones are read at once where `in_turn` does not forbid it. While the process is away (`pid` is None; it is
    started again) long ones are read in a thread: slower, and to the same end.
    """

    def __init__(self, reader: ContractReader, clock: Clock) -> None:
        self._reader = reader
        self._clock = clock
        # One thread: more would only take turns, and could change the order.
        self._thread = ThreadPoolExecutor(1, "reading")
        self._process: subprocess.Popen[bytes] | None = None
        self._to: asyncio.StreamWriter | None = None
        # What the process was asked and has not answered, and how many requests the thread has.
        self._waiting: deque[_Waiting] = deque()
        self._in_thread = 0

    @property
    def pid(self) -> int | None:
        """The process that reads, None while it is away."""
        process = self._process
        return None if process is None else process.pid

    def forget_remembered(self) -> None:
        """Ends the process, and with it all that it remembers of what it read; it is started again. From any thread."""
        process = self._process
        if process is not None:
            process.kill()

    async def run(self) -> None:
        """Keeps the process running until cancelled."""
        while True:
            try:
                await self._session()
            except (OSError, asyncio.IncompleteReadError, msgspec.MsgspecError) as error:
                logger().warning("reading_process_ended", reason=str(error))
            await asyncio.sleep(_AGAIN_SECONDS)

    def health(self) -> str | None:
        """Never a reason not to serve: what the process does not read is read here."""
        return None

    async def read(self, kind: Request, raw: bytes, *, in_turn: bool) -> RequestRead:
        """Reads a request as of now."""
        now = self._clock()
        if len(raw) <= SHORT and not in_turn:
            return self._reader.request(kind, raw, now)
        asked = _Waiting(kind, raw, now, asyncio.get_running_loop().create_future())
        # A process that has come back must not overtake what the thread still reads of the same stream.
        if self._to is None or (in_turn and self._in_thread):
            self._read_in_thread(asked)
        else:
            self._waiting.append(asked)
            self._to.write(_ASKED.pack(len(raw), kind, now))
            self._to.write(raw)
        return await asked.answer

    async def close(self) -> None:
        """Lets go of the thread."""
        await asyncio.to_thread(self._thread.shutdown)

    def _read_in_thread(self, asked: _Waiting) -> None:
        kind, raw, now, answer = asked
        self._in_thread += 1

        def passed_on(read: asyncio.Future[RequestRead]) -> None:
            self._in_thread -= 1
            if answer.done() or read.cancelled():
                return
            error = read.exception()
            if error is None:
                answer.set_result(read.result())
            else:
                answer.set_exception(error)

        loop = asyncio.get_running_loop()
        loop.run_in_executor(self._thread, self._reader.request, kind, raw, now).add_done_callback(passed_on)

    async def _session(self) -> None:
        here, there = socket.socketpair()
        for end in (here, there):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        with there:
            reader, writer = await asyncio.open_connection(sock=here, limit=_BUFFER)
            # Not the loop's own way of starting one: that forks, which gRPC does not survive; this does not.
            process = subprocess.Popen(  # noqa: ASYNC220 -- returns at once
                [sys.executable, "-m", __name__, str(there.fileno())],
                pass_fds=[there.fileno()],
                stdin=subprocess.DEVNULL,
            )
        try:
            # The first answer says that it is ready.
            await _answer(reader)
            self._to, self._process = writer, process
            while True:
                answered = _read(await _answer(reader))
                answer = self._waiting.popleft().answer
                if not answer.done():
                    answer.set_result(answered)
        finally:
            self._to = self._process = None
            writer.close()
            # It ended over the first of these, or over something else: nothing was decided yet. Now, before anything
            # that comes later, and in their order.
            while self._waiting:
                self._read_in_thread(self._waiting.popleft())
            process.kill()
            await asyncio.to_thread(process.wait)


async def _answer(reader: asyncio.StreamReader) -> bytes:
    (length,) = _ANSWERED.unpack(await reader.readexactly(_ANSWERED.size))
    return await reader.readexactly(length)


def serve(end: socket.socket, reader: ContractReader) -> None:
    """Reads what is asked for, one request after the other, until the other side is gone."""
    with end, end.makefile("rb", buffering=_BUFFER) as asked:
        end.sendall(_ANSWERED.pack(0))
        while len(head := asked.read(_ASKED.size)) == _ASKED.size:
            length, kind, now = _ASKED.unpack(head)
            answer = _write(reader.request(Request(kind), asked.read(length), now))
            end.sendall(_ANSWERED.pack(len(answer)))
            end.sendall(answer)


def main() -> None:
    """Serves the socket whose number is given, with the keys of the environment."""
    settings = PrivacySettings.from_env(os.environ)
    personas = Personas(IdentifierHasher(settings.hash_key, cache_size=_REMEMBERED), remembered=_REMEMBERED)
    reader = ContractReader(ContentMac(settings.hash_key), personas)
    gc.freeze()
    # Whoever started it ends it, by closing the socket or by being gone.
    with collecting_seldom(), suppress(ConnectionError, KeyboardInterrupt):
        serve(socket.socket(fileno=int(sys.argv[1])), reader)


if __name__ == "__main__":
    main()
