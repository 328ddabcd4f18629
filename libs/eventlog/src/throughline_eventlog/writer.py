"""The one writer of a service: groups what is queued into one transaction, so that many share one sync."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar, cast

from throughline_eventlog.errors import LogUnavailableError
from throughline_eventlog.observing import Observer, Unobserved, some_traceparents
from throughline_eventlog.store import Store, Transaction
from throughline_kernel import Refusal, UnavailableError

T_contra = TypeVar("T_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")
R = TypeVar("R")

logger = logging.getLogger(__name__)


class Work(Protocol[T_contra, R_co]):
    """What is done with items inside a transaction, in the writer's thread."""

    def __call__(self, tx: Transaction, items: Sequence[T_contra], /) -> Sequence[R_co | Refusal]:
        """One result per item, in order; a Refusal is raised to that item's caller alone.

        Where it raises, everything of the transaction is undone and each item is tried alone.
        """
        ...

    def rolled_back(self) -> None:
        """Drops what was remembered from transactions: it is not, or not all, in the log."""
        ...


@dataclass(slots=True, eq=False)
class _Item:
    work: Work[Any, Any]
    item: Any
    weight: int
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    traceparent: str
    result: Any = None
    error: BaseException | None = None


@dataclass(slots=True)
class _Waiting:
    weight: int
    loop: asyncio.AbstractEventLoop
    room: asyncio.Future[None]


class Flushed(Generic[T]):
    """Does nothing, in its turn: when it is done, so is everything that was queued before it."""

    def __call__(self, tx: Transaction, items: Sequence[T], /) -> Sequence[None]:
        """Nothing for each."""
        return [None] * len(items)

    def rolled_back(self) -> None:
        """Remembers nothing."""


class Writer:
    """Runs work in one thread of its own, one transaction after the other; callers wait for the commit.

    `group_weight` is how much one transaction takes at most, `queue_weight` how much may wait for its turn: beyond it,
    submit waits for room. Raises SealedLogError for a log that takes nothing more, UnavailableError.
    """

    def __init__(
        self,
        store: Store,
        *,
        group_weight: int = 2_000,
        queue_weight: int = 20_000,
        observer: Observer | None = None,
    ) -> None:
        store.refuse_sealed()
        self.store = store
        self.commits = 0
        self.failures = 0
        self._group_weight = group_weight
        self._queue_weight = queue_weight
        self._observer: Observer = observer or Unobserved()
        self._queue: deque[_Item] = deque()
        self._waiting: deque[_Waiting] = deque()
        self._queued = 0
        self._known: dict[int, Work[Any, Any]] = {}
        self._changed = threading.Condition()
        self._closing = False
        self._unavailable: str | None = None
        self._thread = threading.Thread(target=self._run, name=f"{store.service}-writer", daemon=True)
        self._thread.start()

    @property
    def depth(self) -> int:
        """The weight that waits for its turn."""
        return self._queued

    def health(self) -> str | None:
        """None, or why the last transaction could not be written."""
        return self._unavailable

    async def submit(self, work: Work[T, R], item: T, *, weight: int = 1, traceparent: str = "") -> R:
        """Runs `work` with the item, together with others of its kind, and returns its result once it is durable.

        A caller that is cancelled while it waits does not stop the commit. Raises the item's Refusal, UnavailableError
        where the store is away or the writer is closing, and whatever the work raised with this item alone.
        """
        loop = asyncio.get_running_loop()
        queued = _Item(work, item, weight, loop, loop.create_future(), traceparent)
        room: asyncio.Future[None] | None = None
        with self._changed:
            self._refuse_when_closing()
            if self._waiting or self._queued >= self._queue_weight:
                room = loop.create_future()
                self._waiting.append(_Waiting(weight, loop, room))
            else:
                self._enqueue(queued)
        if room is not None:
            await self._wait(room, queued)
        return cast("R", await queued.future)

    async def flush(self) -> None:
        """Returns when everything submitted before is durable or refused."""
        await self.submit(_FLUSHED, None, weight=0)

    async def close(self) -> None:
        """Writes what is queued, then stops; further work is refused."""
        with self._changed:
            self._closing = True
            waiting = list(self._waiting)
            self._waiting.clear()
            self._changed.notify_all()
        for waiter in waiting:
            waiter.loop.call_soon_threadsafe(_grant, waiter.room)
        await asyncio.to_thread(self._thread.join)

    def _refuse_when_closing(self) -> None:
        if self._closing:
            raise UnavailableError(
                "LOG_UNAVAILABLE", "the service is stopping; retry with back-off", {"cause": "stopping"}
            )

    def _enqueue(self, item: _Item) -> None:
        self._queue.append(item)
        self._queued += item.weight
        self._changed.notify_all()

    async def _wait(self, room: asyncio.Future[None], item: _Item) -> None:
        """Waits for the writer to catch up. Room that comes to a caller who has gone is passed on."""
        try:
            await room
        finally:
            with self._changed:
                if not room.done() or room.cancelled():
                    self._waiting = deque(waiter for waiter in self._waiting if waiter.room is not room)
                    self._grant_room()
        with self._changed:
            self._refuse_when_closing()
            self._enqueue(item)

    def _grant_room(self) -> None:
        granted = self._queued
        while self._waiting and granted < self._queue_weight:
            waiter = self._waiting.popleft()
            granted += max(1, waiter.weight)
            waiter.loop.call_soon_threadsafe(_grant, waiter.room)

    def _run(self) -> None:
        while (group := self._next_group()) is not None:
            try:
                self._settle(group)
            except BaseException as error:
                logger.exception("the writer failed outside of any work")
                for item in group:
                    item.error = item.error or error
            finally:
                _deliver(group)

    def _next_group(self) -> list[_Item] | None:
        with self._changed:
            while not self._queue:
                if self._closing:
                    return None
                self._changed.wait()
            group = [self._queue.popleft()]
            weight = group[0].weight
            while self._queue and weight + self._queue[0].weight <= self._group_weight:
                group.append(self._queue.popleft())
                weight += group[-1].weight
            self._queued -= weight
            self._grant_room()
        return group

    def _settle(self, group: list[_Item]) -> None:
        """Writes the group together; where that fails for what is in it, each alone."""
        error = self._attempt(group)
        if error is None:
            return
        if len(group) == 1 or isinstance(error, LogUnavailableError):
            for item in group:
                item.error = error
            return
        for item in group:
            item.error = self._attempt([item])

    def _attempt(self, group: list[_Item]) -> BaseException | None:
        """One transaction. Gives the error where nothing of it was written."""
        batches: dict[int, list[_Item]] = {}
        for item in group:
            batches.setdefault(id(item.work), []).append(item)
        works = {id(item.work): item.work for item in group}
        links = some_traceparents([item.traceparent for item in group])
        try:
            with (
                self._observer.batch("commit", links, {"service": self.store.service, "items": len(group)}) as trace,
                self.store.transaction() as tx,
            ):
                if tx.overtaken:
                    _forget(self._known.values())
                tx.traceparent = trace
                for items in batches.values():
                    _take(items, items[0].work(tx, [item.item for item in items]))
        except BaseException as error:  # noqa: BLE001 # handed to the callers
            self.failures += 1
            self._unavailable = str(error) if isinstance(error, LogUnavailableError) else None
            _forget(works.values())
            return error
        self._known |= works
        self.commits += 1
        self._unavailable = None
        return None


_FLUSHED: Work[None, None] = Flushed()


def _take(items: Sequence[_Item], results: Sequence[Any]) -> None:
    if len(results) != len(items):
        raise RuntimeError(f"{items[0].work!r} gave {len(results)} results for {len(items)} items")
    for item, result in zip(items, results, strict=True):
        item.result = result


def _forget(works: Iterable[Work[Any, Any]]) -> None:
    for work in works:
        work.rolled_back()


def _grant(room: asyncio.Future[None]) -> None:
    if not room.done():
        room.set_result(None)


def _deliver(group: Sequence[_Item]) -> None:
    """Wakes the callers, each loop once."""
    loops: dict[asyncio.AbstractEventLoop, list[_Item]] = {}
    for item in group:
        loops.setdefault(item.loop, []).append(item)
    for loop, items in loops.items():
        try:
            loop.call_soon_threadsafe(_resolve, items)
        except RuntimeError:
            logger.warning("%d callers are gone with their event loop", len(items))


def _resolve(items: Sequence[_Item]) -> None:
    for item in items:
        if item.future.done():
            continue
        outcome = item.error if item.error is not None else item.result
        if isinstance(outcome, BaseException):
            item.future.set_exception(outcome)
        else:
            item.future.set_result(item.result)
