"""Identity's tables as they stand, or as the commit of an earlier instant left them."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Iterator
from itertools import groupby, islice
from typing import Final, NamedTuple

import msgspec

from identity.application import messages, records
from identity.application.ledger import Row, Table, Tables, stream_of
from identity.application.records import (
    ClientRow,
    ForgettingRow,
    IdentifierRow,
    MergeRow,
    ProposalRow,
    until_key,
)
from identity.domain.personas import Presented
from throughline.identity.v1 import events_pb2 as pb
from throughline_eventlog import Commit, Reader
from throughline_kernel import Consent, Consents, Recorded

_ID: Final = 16


class Member(NamedTuple):
    """A persona of a client: what it presents, when it was first and last seen (microseconds), how often."""

    identifiers: tuple[Presented, ...]
    first_seen_at: int
    last_seen_at: int
    interactions: int


class Present:
    """The tables as they stand, from one consistent view. Ids are bytes, as in `records`."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._tables = Tables(reader)

    def commit(self) -> Commit:
        """The commit that the answers stand on."""
        return self._reader.commit_at()

    def client(self, client_id: bytes) -> ClientRow | None:
        """What an id means, None where it was not given out."""
        return self._tables.clients.get(client_id)

    def identifiers(self, keys: Collection[bytes]) -> dict[bytes, IdentifierRow]:
        """Those of the identifiers that were seen."""
        return self._tables.identifiers.get_many(keys)

    def members(self, client_id: bytes) -> dict[bytes, Member]:
        """The personas of a client (no alias)."""
        found = self._tables.personas.get_many(self._suffixes(records.MEMBERS, client_id))
        return {
            key: Member(row.identifiers, row.first.occurred_at, row.last_seen, row.count) for key, row in found.items()
        }

    def merges(self, client_ids: Iterable[bytes]) -> dict[bytes, MergeRow]:
        """The merges of any of the ids."""
        return self._tables.merges.get_many(self._merge_ids(client_ids))

    def proposals_of(self, client_id: bytes) -> dict[bytes, ProposalRow]:
        """The merges of a client (no alias) that wait for a person."""
        return self._tables.proposals.get_many(set(self._suffixes(records.CLIENT_PROPOSALS, client_id)))

    def proposals(self, after: bytes, size: int) -> list[tuple[bytes, ProposalRow]]:
        """Merges that wait for a person, by id, at most `size`, behind `after`."""
        return list(self._tables.proposals.scan(after=after, limit=size))

    def scheduled(self, after: bytes, size: int) -> list[tuple[bytes, ForgettingRow]]:
        """Clients that are to be forgotten, by id, at most `size`, behind `after`."""
        return list(self._tables.forgettings.scan(after=after, limit=size))

    def consents(self, client_ids: Iterable[bytes]) -> Consents:
        """What holds of all that was said under any of these ids of one client."""
        return Consents.of(
            row.word(key) for client_id in client_ids for key, row in self._tables.consents.scan(client_id)
        )

    def streams(self, stream_ids: Collection[bytes]) -> dict[bytes, list[Recorded]]:
        """Streams of the log; those without events are left out."""
        return self._reader.read_streams(stream_ids)

    def _merge_ids(self, client_ids: Iterable[bytes]) -> set[bytes]:
        return {merge for each in client_ids for merge in self._suffixes(records.CLIENT_MERGES, each)}

    def _suffixes(self, table: str, prefix: bytes) -> list[bytes]:
        return [key[len(prefix) :] for key, _ in self._reader.scan(table, prefix=prefix)]


class Earlier(Present):
    """The tables as the commit of an instant left them, without whom was forgotten since.

    What an event says, and the log alone, is read from its streams up to the commit; what a decision changed in rows,
    from the rows as they were kept when it did. A client costs what reading its own streams costs.
    """

    def __init__(self, reader: Reader, as_of: int) -> None:
        super().__init__(reader)
        self._commit = reader.commit_at(as_of)

    def commit(self) -> Commit:
        """The last commit up to the instant."""
        return self._commit

    def client(self, client_id: bytes) -> ClientRow | None:
        """What an id meant, None where it was not given out yet. Who is forgotten is forgotten at every instant."""
        now = super().client(client_id)
        if now is None or now.state == records.GONE:
            return now
        opened = self._reader.read_stream(stream_of("client", client_id), limit=1)
        if not opened or opened[0].position > self._commit.position:
            return None
        row = self._then(self._tables.clients, records.CLIENTS_UNTIL, client_id) or now
        return msgspec.structs.replace(row, aliases=tuple(each for each in row.aliases if not self._is_gone(each)))

    def identifiers(self, keys: Collection[bytes]) -> dict[bytes, IdentifierRow]:
        """Those of the identifiers that were linked or demoted by then, and not to somebody who is forgotten."""
        seen = self.streams([stream_of("identifier", key) for key in keys])
        found: dict[bytes, IdentifierRow] = {}
        for key in keys:
            if stream_of("identifier", key) in seen:
                row = self._then(self._tables.identifiers, records.IDENTIFIERS_UNTIL, key)
                if row is not None and not (row.client and self._is_gone(row.client)):
                    found[key] = row
        return found

    def members(self, client_id: bytes) -> dict[bytes, Member]:
        """The personas that a client had."""
        candidates = {*self._suffixes(records.MEMBERS, client_id), *self._suffixes(records.FORMER_MEMBERS, client_id)}
        # Who is forgotten has no row any more.
        rows = self._tables.personas.get_many(candidates)
        streams = self.streams([stream_of("persona", each) for each in rows])
        found: dict[bytes, Member] = {}
        for persona_id, row in rows.items():
            stream = streams.get(stream_of("persona", persona_id))
            if stream and messages.attribution(stream[-1]).client_id == client_id.hex():
                seen = [each.facts.occurred_at for each in messages.last_attributions(stream).values()]
                found[persona_id] = Member(row.identifiers, min(seen), max(seen), len(seen))
        return found

    def merges(self, client_ids: Iterable[bytes]) -> dict[bytes, MergeRow]:
        """The merges of any of the ids that were announced by then, undone where they were undone by then."""
        return self._those(self._tables.merges, records.MERGES_UNTIL, self._merge_ids(client_ids))

    def proposals_of(self, client_id: bytes) -> dict[bytes, ProposalRow]:
        """The merges of a client (no alias) that waited for a person."""
        tables = (records.CLIENT_PROPOSALS, records.FORMER_PROPOSALS)
        ids = {merge for table in tables for merge in self._suffixes(table, client_id)}
        return self._those(self._tables.proposals, records.PROPOSALS_UNTIL, ids)

    def proposals(self, after: bytes, size: int) -> list[tuple[bytes, ProposalRow]]:
        """Merges that waited for a person. Looks at all that ever did, up to the last one given."""
        return list(islice(self._all(self._tables.proposals, records.PROPOSALS_UNTIL, after), size))

    def scheduled(self, after: bytes, size: int) -> list[tuple[bytes, ForgettingRow]]:
        """Clients that were to be forgotten, and were not since. Looks at all that ever were, up to the last one."""
        return list(islice(self._all(self._tables.forgettings, records.FORGETTINGS_UNTIL, after), size))

    def consents(self, client_ids: Iterable[bytes]) -> Consents:
        """What held of all that was said by then."""
        streams = self.streams([stream_of("client", each) for each in client_ids])
        return Consents.of(
            _word(event) for stream in streams.values() for event in stream if event.type == messages.CONSENT_RECORDED
        )

    def streams(self, stream_ids: Collection[bytes]) -> dict[bytes, list[Recorded]]:
        """Streams up to the commit; those without events by then are left out."""
        position = self._commit.position
        found = super().streams(stream_ids)
        until = {key: [each for each in stream if each.position <= position] for key, stream in found.items()}
        return {key: stream for key, stream in until.items() if stream}

    def _is_gone(self, client_id: bytes) -> bool:
        row = super().client(client_id)
        return row is not None and row.state == records.GONE

    def _then(self, table: Table[Row], until: str, key: bytes) -> Row | None:
        after = until_key(key, self._commit.recorded_at)
        for _, raw in self._reader.scan(until, prefix=key, after=after, limit=1):
            return table.decode(raw) if raw else None
        return table.get(key)

    def _those(self, table: Table[Row], until: str, keys: Iterable[bytes]) -> dict[bytes, Row]:
        found = {key: self._then(table, until, key) for key in keys}
        return {key: row for key, row in found.items() if row is not None}

    def _all(self, table: Table[Row], until: str, after: bytes) -> Iterator[tuple[bytes, Row]]:
        """All rows in key order, behind `after`."""
        standing = (key for key, _ in self._reader.scan(table.name, after=after))
        changed = (key[:_ID] for key, _ in self._reader.scan(until, after=after and after + b"\xff" * 8))
        for key, _ in groupby(heapq.merge(standing, changed)):
            row = self._then(table, until, key)
            if row is not None:
                yield key, row


def tables_at(reader: Reader, as_of: int) -> Present:
    """The tables as of an instant (microseconds), 0 for now."""
    return Earlier(reader, as_of) if as_of else Present(reader)


def _word(event: Recorded) -> Consent:
    said = pb.ConsentRecorded.FromString(event.payload)
    return Consent(said.purpose, said.scope, said.granted, event.occurred_at, said.source, event.event_id.hex())
