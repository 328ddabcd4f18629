"""Who waits for news of a client, and how they hear that there are some: a bell, never a buffer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Generator
from contextlib import contextmanager
from threading import Lock

from throughline_eventlog import Store


class Bells:
    """One bell per watcher. The writer says whose record a transaction touches; the bells ring once it is durable.

    A watcher reads what it has not seen from the log at its own pace, so that a slow one holds up nobody and nothing is
    kept for it.
    """

    def __init__(self) -> None:
        self._touched: set[str] = set()
        self._lock = Lock()
        self._bells: dict[str, set[asyncio.Event]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    def touched(self, clients: Collection[str]) -> None:
        """Remembers whose records the transaction under way touches. In the writer's thread."""
        with self._lock:
            self._touched.update(clients)

    def attach(self, store: Store) -> Callable[[], None]:
        """Rings from now on when the log has grown, in the event loop that calls this; returns what ends it."""
        self._loop = asyncio.get_running_loop()
        return store.grew.subscribe(self._grown)

    def watchers(self) -> int:
        """How many wait."""
        return len({bell for bells in self._bells.values() for bell in bells})

    @contextmanager
    def bell(self, clients: Collection[str]) -> Generator[asyncio.Event]:
        """A bell that rings for any of these clients, for the time of the block. In the event loop."""
        bell = asyncio.Event()
        for client in clients:
            self._bells.setdefault(client, set()).add(bell)
        try:
            yield bell
        finally:
            for client in clients:
                waiting = self._bells[client]
                waiting.discard(bell)
                if not waiting:
                    del self._bells[client]

    def _grown(self) -> None:
        with self._lock:
            touched, self._touched = self._touched, set()
        if touched and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._ring, touched)

    def _ring(self, touched: set[str]) -> None:
        for client in touched & self._bells.keys():
            for bell in self._bells[client]:
                bell.set()
