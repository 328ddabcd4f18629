"""The live state as digests, to hold beside what a replay of the log gives."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from journey.application import codec, rows
from journey.application.queries import Queries
from journey.application.records import Records, read_definitions, replay
from journey.application.replay import WATERMARK_KEY, client_key, definition_key
from journey.domain.definitions import Definitions
from journey.domain.record import Record
from throughline_eventlog import Reader, Store, Transaction, Writer
from throughline_kernel import Recorded, canonical_json, digest

_AT_ONCE = 200
_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class _Cut:
    """The live state at one position: what is kept in memory digested, the rest to be read."""

    position: int
    watermark: int
    definitions: Definitions
    digests: dict[str, bytes]


class _TakeCut:
    """Digests the records that are kept, in the writer's thread, between two transactions."""

    def __init__(self, records: Records) -> None:
        self._records = records

    def rolled_back(self) -> None:
        """Forgets what was remembered."""
        self._records.rolled_back()

    def __call__(self, tx: Transaction, items: Sequence[None]) -> Sequence[_Cut]:
        """The same cut for all."""
        watermark = self._records.watermark(tx)
        digests = {
            record.client_id: digest(canonical_json(record.canonical(watermark)))
            for record in self._records.cache.peek()
            if not record.empty
        }
        cut = _Cut(tx.last_position(), watermark, self._records.definitions(tx), digests)
        return [cut] * len(items)


class _TakeOne:
    """One client's live state, in the writer's thread."""

    def __init__(self, records: Records) -> None:
        self._records = records

    def rolled_back(self) -> None:
        """Forgets what was remembered."""
        self._records.rolled_back()

    def __call__(self, tx: Transaction, items: Sequence[str]) -> Sequence[tuple[int, bytes] | None]:
        """(position, canonical JSON) for each key."""
        return [self._one(tx, key) for key in items]

    def _one(self, tx: Transaction, key: str) -> tuple[int, bytes] | None:
        position, watermark = tx.last_position(), self._records.watermark(tx)
        kind, _, name = key.partition("/")
        if key == WATERMARK_KEY:
            return position, canonical_json(watermark)
        if kind == "definition":
            definition = self._records.definitions(tx).get(name)
            return None if definition is None else (position, canonical_json(codec.definition_state(definition)))
        if kind != "client":
            return None
        record = self._records.cache.get(name) or next(iter(self._records.read(tx, [name])))
        return None if record.empty else (position, canonical_json(record.canonical(watermark)))


class LiveState:
    """What journey's EventLogService tells of its state: clients, definitions, watermark."""

    def __init__(self, store: Store, writer: Writer, records: Records, queries: Queries) -> None:
        self._store = store
        self._writer = writer
        self._cut = _TakeCut(records)
        self._one = _TakeOne(records)
        self._queries = queries

    async def digests(self) -> tuple[int, list[tuple[str, bytes]]]:
        """Position, and the digest of every aggregate in key order."""
        cut, digests = await self._attempt()
        for _ in range(_ATTEMPTS - 1):
            if digests is not None:
                break
            cut, digests = await self._attempt()
        if digests is None:
            digests = await asyncio.to_thread(self._read_cold, cut, hold_still=False)
        assert digests is not None  # noqa: S101 -- it gives up only where it is asked to hold still
        found = {client_key(client_id): value for client_id, value in digests.items()}
        for definition in cut.definitions.all():
            found[definition_key(definition.journey)] = digest(canonical_json(codec.definition_state(definition)))
        found[WATERMARK_KEY] = digest(canonical_json(cut.watermark))
        return cut.position, sorted(found.items())

    async def state(self, key: str) -> tuple[int, bytes] | None:
        """Position and canonical JSON of one aggregate, None where there is none."""
        return await self._writer.submit(self._one, key)

    def client_positions(self, reader: Reader, client_id: str, interaction_ids: Sequence[str]) -> Iterable[Recorded]:
        """The events that concern the client and the interactions, in position order."""
        return self._queries.concerning(reader, client_id, interaction_ids)

    async def _attempt(self) -> tuple[_Cut, dict[str, bytes] | None]:
        cut = await self._writer.submit(self._cut, None)
        return cut, await asyncio.to_thread(self._read_cold, cut, hold_still=True)

    def _read_cold(self, cut: _Cut, *, hold_still: bool) -> dict[str, bytes] | None:
        """All clients' digests at the cut, those that were not kept read from their streams up to it.

        None where the log has grown since and it should hold still.
        """
        digests = dict(cut.digests)
        with self._store.snapshot() as reader:
            if hold_still and reader.last_position() != cut.position:
                return None
            cold = (key.hex() for key, _ in reader.scan(rows.CLIENTS) if key.hex() not in cut.digests)
            while clients := list(islice(cold, _AT_ONCE)):
                streams = reader.read_streams([codec.stream_of(client_id) for client_id in clients])
                for client_id in clients:
                    record = Record(client_id, cut.definitions, announcing=False)
                    events = streams.get(codec.stream_of(client_id), ())
                    replay(record, [event for event in events if event.position <= cut.position])
                    if not record.empty:
                        digests[client_id] = digest(canonical_json(record.canonical(cut.watermark)))
        return digests


def aggregates(reader: Reader, unversioned: str = "") -> Iterator[tuple[str, bytes]]:
    """The whole state as it stands in the store: (key, canonical JSON) in key order.

    The journey called `unversioned` shows without its version, so that two states differ only where its content does.
    """
    definitions, watermark = read_definitions(reader), rows.number(reader.get(rows.META, rows.WATERMARK))
    if (definition := definitions.get(unversioned)) is not None:
        definitions = definitions.with_(replace(definition, version=0))
    cold = (key.hex() for key, _ in reader.scan(rows.CLIENTS))
    while clients := list(islice(cold, _AT_ONCE)):
        streams = reader.read_streams([codec.stream_of(client_id) for client_id in clients])
        for client_id in clients:
            record = Record(client_id, definitions, announcing=False)
            replay(record, streams.get(codec.stream_of(client_id), ()))
            if not record.empty:
                yield client_key(client_id), canonical_json(record.canonical(watermark))
    for definition in definitions.all():
        yield definition_key(definition.journey), canonical_json(codec.definition_state(definition))
    yield WATERMARK_KEY, canonical_json(watermark)
