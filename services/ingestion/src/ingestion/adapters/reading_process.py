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
from typing import Final

import msgspec

from ingestion.adapters.content import ContentMac
from ingestion.adapters.personas import Personas
from ingestion.adapters.reading import ContractReader
from ingestion.application.ports import Request, RequestRead
from throughline_eventlog import Clock
from throughline_privacy import IdentifierHasher, PrivacySettings
from throughline_telemetry import logger

SHORT: Final = 8 * 1024
"""Bytes of a request that are read faster than another process is asked to."""
_BUFFER: Final = 4 * 1024 * 1024
_AGAIN_SECONDS: Final = 1.0
# Length of what follows, kind of request, the time as of which it is read.
_ASKED: Final = struct.Struct("<IBq")
_ANSWERED: Final = struct.Struct("<I")
_GARBAGE_THRESHOLD: Final = 100_000
_REMEMBERED: Final = 4_096
"""Identifiers, and sets of them, that the process keeps at hand: some 5 MB."""

_write: Final = msgspec.msgpack.Encoder().encode
_read: Final = msgspec.msgpack.Decoder(RequestRead).decode


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
        self._waiting: deque[asyncio.Future[RequestRead]] = deque()

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
        if self._to is not None:
            if len(raw) <= SHORT and not in_turn:
                return self._reader.request(kind, raw, now)
            answer: asyncio.Future[RequestRead] = asyncio.get_running_loop().create_future()
            self._waiting.append(answer)
            self._to.write(_ASKED.pack(len(raw), kind, now))
            self._to.write(raw)
            try:
                return await answer
            except ConnectionError:
                pass  # It ended over this, or over something before it: nothing was decided yet.
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._reader.request, kind, raw, now)

    async def close(self) -> None:
        """Lets go of the thread."""
        await asyncio.to_thread(self._thread.shutdown)

    async def _session(self) -> None:
        here, there = socket.socketpair()
        for end in (here, there):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        with there:
            # Not the loop's own way of starting one: that forks, which gRPC does not survive; this does not.
            process = subprocess.Popen(  # noqa: ASYNC220 -- returns at once
                [sys.executable, "-m", __name__, str(there.fileno())],
                pass_fds=[there.fileno()],
                stdin=subprocess.DEVNULL,
            )
        reader, writer = await asyncio.open_connection(sock=here, limit=_BUFFER)
        try:
            # The first answer says that it is ready.
            await _answer(reader)
            self._to, self._process = writer, process
            while True:
                answered = _read(await _answer(reader))
                waiting = self._waiting.popleft()
                if not waiting.done():
                    waiting.set_result(answered)
        finally:
            self._to = self._process = None
            writer.close()
            while self._waiting:
                lost = self._waiting.popleft()
                if not lost.done():
                    lost.set_exception(ConnectionError("the process that reads ended"))
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
    gc.set_threshold(_GARBAGE_THRESHOLD)
    # Whoever started it ends it, by closing the socket or by being gone.
    with suppress(ConnectionError, KeyboardInterrupt):
        serve(socket.socket(fileno=int(sys.argv[1])), reader)


if __name__ == "__main__":
    main()
