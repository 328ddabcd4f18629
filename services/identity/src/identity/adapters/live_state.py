"""The live state, as the log service asks for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from identity.application.queries import Queries
from identity.application.states import LiveState
from throughline_eventlog import Reader, Store
from throughline_kernel import Recorded, digest

R = TypeVar("R")


class StoredState:
    """Reads aggregates and histories from the store, in threads."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def digests(self) -> tuple[int, list[tuple[str, bytes]]]:
        """The log's position, and each aggregate's digest in key order, in one view."""

        def read(reader: Reader) -> tuple[int, list[tuple[str, bytes]]]:
            return reader.last_position(), [(key, digest(raw)) for key, raw in LiveState(reader).aggregates()]

        return await self._read(read)

    async def state(self, key: str) -> tuple[int, bytes] | None:
        """The log's position, and one aggregate's canonical JSON."""

        def read(reader: Reader) -> tuple[int, bytes] | None:
            found = LiveState(reader).aggregate(key)
            return None if found is None else (reader.last_position(), found)

        return await self._read(read)

    def client_positions(self, reader: Reader, client_id: str, interaction_ids: Sequence[str]) -> Iterable[Recorded]:
        """The events that concern the client and the interactions, in position order."""
        return Queries(reader).concerning(client_id, interaction_ids)

    async def _read(self, work: Callable[[Reader], R]) -> R:
        def read() -> R:
            with self._store.snapshot() as reader:
                return work(reader)

        return await asyncio.to_thread(read)
