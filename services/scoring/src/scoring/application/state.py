"""The live state as it is compared with a replay's, and the events that concern a client."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence

from scoring.application import canonical, ledger, rows
from scoring.application.commands import stream
from scoring.domain.dimensions import Kind
from throughline_directory import resolve
from throughline_eventlog import Reader, Store
from throughline_kernel import Recorded, digest

BATCH = 200


class LiveState:
    """Reads the whole state, or a part of it, in one consistent view."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def digests(self) -> tuple[int, list[tuple[str, bytes]]]:
        """(position, the (key, digest) of every aggregate in key order)."""
        return await asyncio.to_thread(self._digests)

    async def state(self, key: str) -> tuple[int, bytes] | None:
        """(position, canonical JSON) of one aggregate, None where there is none of that key."""
        return await asyncio.to_thread(self._state, key)

    def _digests(self) -> tuple[int, list[tuple[str, bytes]]]:
        with self._store.snapshot() as reader:
            return reader.last_position(), [(key, digest(state)) for key, state in aggregates(reader)]

    def _state(self, key: str) -> tuple[int, bytes] | None:
        with self._store.snapshot() as reader:
            found = _one(reader, key)
            return None if found is None else (reader.last_position(), found)

    def client_positions(self, reader: Reader, client_id: str, interaction_ids: Sequence[str]) -> Iterable[Recorded]:
        """The events that concern the client (id or alias; empty: any) and the interactions (empty: any), by
        position.
        """
        clients: set[str] = set()
        if client_id:
            meant = resolve(reader, client_id, ())
            clients = {client_id, *meant.all_ids}
        elif interaction_ids:
            keys = [bytes.fromhex(each) for each in interaction_ids]
            clients = {rows.unpack_owner(row)[0] for row in reader.get_many(rows.OWNERS, keys).values()}
            clients |= {place[16:].hex() for key in keys for place, _ in reader.scan(rows.FORMER, prefix=key)}
        streams = {ledger.client_stream(each) for each in clients}
        streams |= {stream("scoring.scorecard", str(Kind.CLIENT.value), each) for each in clients}
        events = [event for found in reader.read_streams(streams).values() for event in found]
        named = [each.encode() for each in interaction_ids]
        return sorted(
            (event for event in events if not named or any(each in event.payload for each in named)),
            key=lambda event: event.position,
        )


def aggregates(reader: Reader, *, again: bool = False) -> Iterator[tuple[str, bytes]]:
    """Clients, metrics and subjects, in key order; `again` as in `canonical.client_state`."""
    batch: list[str] = []
    for client_id in ledger.client_ids(reader):
        batch.append(client_id)
        if len(batch) == BATCH:
            yield from _clients(reader, batch, again=again)
            batch = []
    yield from _clients(reader, batch, again=again)
    for metric, definition in sorted(ledger.in_force(ledger.definitions(reader)).items()):
        yield canonical.metric_key(metric), canonical.metric_state(definition)
    for kind in Kind:
        yield from canonical.subject_states(ledger.counters(reader, kind.value))


def _clients(reader: Reader, client_ids: Sequence[str], *, again: bool = False) -> Iterator[tuple[str, bytes]]:
    clients = ledger.load(reader, ledger.heads(reader, client_ids))
    for client_id in client_ids:
        state = canonical.client_state(clients[client_id].facts(), again=again)
        if state is not None:
            yield canonical.client_key(client_id), state


def _one(reader: Reader, key: str) -> bytes | None:
    family, _, name = key.partition("/")
    if family == "client":
        return next(
            (state for found, state in _clients(reader, list(ledger.heads(reader, [name]))) if found == key), None
        )
    if family == "metric":
        definition = ledger.in_force(ledger.definitions(reader)).get(name)
        return None if definition is None else canonical.metric_state(definition)
    kind, _, subject = name.partition("/")
    if family != "subject" or kind not in {str(each.value) for each in Kind}:
        return None
    counters = ledger.counters(reader, int(kind), subject)
    return canonical.subject_state(counters.items()) if counters else None
