"""What the log service tells of ingestion's live state, and which events concern an interaction."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from ingestion.application.ports import InteractionIndex, Tables
from ingestion.application.queries import Queries
from throughline_eventlog import Reader
from throughline_kernel import Recorded, digest


class LiveState:
    """The live state in the form in which a replay's is compared with it."""

    def __init__(self, queries: Queries, index: InteractionIndex, tables: Tables) -> None:
        self._queries = queries
        self._index = index
        self._tables = tables

    async def digests(self) -> tuple[int, list[tuple[str, bytes]]]:
        """(position, the (key, digest) of every aggregate in key order) in one view."""
        position, state = await self._queries.state()
        return position, await asyncio.to_thread(
            lambda: [(key, digest(aggregate)) for key, aggregate in state.aggregates()]
        )

    async def state(self, key: str) -> tuple[int, bytes] | None:
        """(position, canonical JSON) of one aggregate, None where there is none."""
        position, state = await self._queries.state()
        aggregate = state.aggregate(key)
        return None if aggregate is None else (position, aggregate)

    def client_positions(
        self,
        reader: Reader,
        client_id: str,
        interaction_ids: Sequence[str],
    ) -> Iterable[Recorded]:
        """All that was logged about the interactions, in position order. Clients are identity's: ask by interaction."""
        positions: set[int] = set()
        for interaction_id in interaction_ids:
            key = bytes.fromhex(interaction_id)
            entry = self._index.locate(reader, key)
            if entry is not None:
                positions.add(entry.position)
            positions.update(self._tables.asides_of(reader, key))
        for position in sorted(positions):
            yield from reader.read(position - 1, until=position, limit=1)
