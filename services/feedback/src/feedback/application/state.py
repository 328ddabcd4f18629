"""The live state for comparisons: read from the tables, not from the log, so that a replay has something to prove."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Final, TypeVar

from feedback.application import codec, tables
from feedback.application.intake import interaction_feedback_id
from feedback.application.ports import Clients
from feedback.application.replay import EVENT_KINDS, routes_state_key, state_key
from feedback.domain.canonical import client_state
from throughline.feedback.v1 import events_pb2 as events
from throughline.feedback.v1 import routes_pb2
from throughline_eventlog import Reader, Store
from throughline_kernel import Recorded, canonical_json, digest, is_hex_id

_ENTRIES: Final = 64
"""Answers that one interaction has at most."""

R = TypeVar("R")


class LiveState:
    """What feedback tells of its live state."""

    def __init__(self, store: Store, clients: Clients) -> None:
        self._store = store
        self._clients = clients

    async def digests(self) -> tuple[int, list[tuple[str, bytes]]]:
        """Position of the log and the digest of every aggregate, in key order, from one view."""
        return await self._read(
            lambda reader: (
                reader.last_position(),
                [(key, digest(state)) for key, state in aggregates(reader)],
            )
        )

    async def state(self, key: str) -> tuple[int, bytes] | None:
        """Position of the log and one aggregate, None where there is none."""
        return await self._read(lambda reader: _aggregate(reader, key))

    def client_positions(self, reader: Reader, client_id: str, interaction_ids: Sequence[str]) -> Iterable[Recorded]:
        """The events of a client (any of its ids) and of interactions, in position order."""
        own: set[bytes] = set()
        foreign: set[bytes] = set()
        items: set[str] = set()
        for each in self._clients.all_ids(reader, client_id) if client_id else ():
            own.add(tables.stream_of(each, ""))
            for key, row in reader.scan(tables.STATE, prefix=bytes.fromhex(each) + tables.ITEM):
                items.add(key[17:].hex())
                # What came from elsewhere was received in another stream.
                foreign.add(tables.unpack_item(row).origin)
        asked = _items_of(reader, interaction_ids)
        if not client_id:
            items = set(asked)
            foreign.update(*asked.values())
        streams = reader.read_streams(own | foreign)
        found = [event for stream in own for event in streams.get(stream, ())]
        found += _about((event for stream in foreign - own for event in streams.get(stream, ())), items)
        found.sort(key=lambda event: event.position)
        if interaction_ids:
            found = _about(found, set(asked))
        return found

    async def _read(self, work: Callable[[Reader], R]) -> R:
        def read() -> R:
            with self._store.snapshot() as reader:
                return work(reader)

        return await asyncio.to_thread(read)


def aggregates(reader: Reader) -> Iterator[tuple[str, bytes]]:
    """The whole state as it stands in the tables: (key, canonical JSON) in key order."""
    for owner, rows in groupby(reader.scan(tables.STATE), key=lambda row: row[0][:16]):
        found = _client(owner, rows)
        if found is not None:
            yield found
    for key, row in reader.scan(tables.ROUTES):
        yield routes_state_key(int.from_bytes(key, "big")), _routes(row)


def _aggregate(reader: Reader, key: str) -> tuple[int, bytes] | None:
    kind, _, name = key.partition("/")
    if kind == "routes" and name.isdecimal() and int(name) < 1 << 32:
        row = reader.get(tables.ROUTES, tables.routes_key(int(name)))
        return None if row is None else (reader.last_position(), _routes(row))
    if kind != "feedback" or not is_hex_id(name):
        return None
    owner = bytes.fromhex(name)
    found = _client(owner, reader.scan(tables.STATE, prefix=owner))
    return None if found is None else (reader.last_position(), found[1])


def _client(owner: bytes, rows: Iterable[tuple[bytes, bytes]]) -> tuple[str, bytes] | None:
    """A client's state as its rows have it; None where only withdrawn cases are left."""
    records: list[tuple[events.FeedbackReceived, tables.ItemRecord]] = []
    cases: list[bytes] = []
    for key, row in rows:
        kind = key[16:17]
        if kind == tables.ITEM:
            record = tables.unpack_item(row)
            records.append((record.message(), record))
        elif kind == tables.CASE:
            cases.append(row)
    if not records:
        return None
    client_id = records[0][1].client_id
    state = client_state(
        client_id,
        (
            (
                codec.item_of(message, record.assigned(), record.routes_version),
                codec.item_facts(message),
                tuple(record.case_ids),
            )
            for message, record in records
        ),
        map(tables.unpack_case, cases),
    )
    return state_key(client_id, owner.hex()), canonical_json(state)


def _routes(row: bytes) -> bytes:
    return canonical_json(codec.routes_state(codec.routes_of(routes_pb2.RouteSet.FromString(row))))


def _items_of(reader: Reader, interaction_ids: Sequence[str]) -> dict[str, set[bytes]]:
    """Items of the interactions, and the streams that tell of each."""
    ids = [
        bytes.fromhex(interaction_feedback_id(interaction_id, entry))
        for interaction_id in interaction_ids
        for entry in range(_ENTRIES)
    ]
    found: dict[str, set[bytes]] = {}
    for key, row in reader.get_many(tables.PLACES, ids).items() if ids else ():
        kept = reader.get(tables.STATE, tables.item_key(tables.unpack_place(row).owner, key.hex()))
        if kept is not None:
            record = tables.unpack_item(kept)
            found[key.hex()] = {record.origin, tables.stream_of(record.client_id, key.hex())}
    return found


def _about(logged: Iterable[Recorded], items: Collection[str]) -> list[Recorded]:
    """The events about these items and about the cases that they were in, in the order given."""
    told = [
        (event, kind.FromString(event.payload)) for event in logged if (kind := EVENT_KINDS.get(event.type)) is not None
    ]
    cases = {getattr(message, "case_id", "") for _, message in told if getattr(message, "feedback_id", "") in items}
    cases.discard("")
    return [
        event
        for event, message in told
        if getattr(message, "feedback_id", "") in items or getattr(message, "case_id", "") in cases
    ]
