"""Ingestion's tables again from its log alone: without bus, key store and gRPC (law 5)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from heapq import merge
from operator import itemgetter
from typing import Final

from ingestion.adapters.codec import ContractCodec
from ingestion.adapters.index import RUNS, SETTLED, entry_value, read_runs
from ingestion.adapters.tables import TABLES, StoreTables
from ingestion.application import recording
from ingestion.application.ports import IndexEntry, Quarantined
from ingestion.application.queries import read_state
from ingestion.domain.accounting import Account, Tally
from ingestion.domain.registry import ChannelTraits, Source
from throughline.ingestion.v1 import events_pb2
from throughline_eventlog import Reader, Transaction
from throughline_kernel import Recorded

_LATER: Final = frozenset({recording.CONFLICTED, recording.QUARANTINED, recording.REDRIVEN})
"""What is logged about an interaction beside its recording."""


class IngestionProjection:
    """See `Projection`. Verdicts that left no event of their own are in the tallies, so that the log has them all."""

    service = "ingestion"
    tables = TABLES

    def __init__(self) -> None:
        self._codec = ContractCodec()
        self._tables = StoreTables()

    def project(self, tx: Transaction, events: Sequence[Recorded]) -> None:
        """Takes the next events of the log."""
        tables = self._tables
        accounts: dict[str, Account] = {}
        for event in events:
            if event.type == recording.TALLIED:
                self._tallied(tx, event, accounts)
            elif event.type == recording.CHANNEL_REGISTERED:
                channel = events_pb2.ChannelRegistered.FromString(event.payload)
                traits = channel.traits
                registered = ChannelTraits(traits.name, traits.physical, traits.assisted, traits.group)
                tables.put_channel(tx, channel.channel, registered)
            elif event.type == recording.SOURCE_REGISTERED:
                source = events_pb2.SourceRegistered.FromString(event.payload)
                tables.put_source(tx, Source(source.source, source.name, tuple(source.channels)))
            elif event.type in {recording.RECORDED, *_LATER}:
                self._offered(tx, event, accounts)
        tables.put_accounts(tx, accounts)

    def aggregates(self, reader: Reader) -> Iterator[tuple[str, bytes]]:
        """The registry, the accounts and the quarantine."""
        return read_state(reader, self._tables).aggregates()

    def rows(self, reader: Reader, table: str) -> Iterator[tuple[bytes, bytes]]:
        """The rows of a table; of the index what it says, wherever it is written."""
        if table == RUNS:
            return iter(())
        if table == SETTLED:
            return merge(reader.scan(SETTLED), sorted(read_runs(reader)), key=itemgetter(0))
        return reader.scan(table)

    def level(self, tx: Transaction) -> None:
        """Merges all runs of the index."""
        tx.put_many(SETTLED, dict(read_runs(tx)))
        for name, _ in list(tx.scan(RUNS)):
            tx.delete(RUNS, name)

    def _account(self, tx: Transaction, accounts: dict[str, Account], source: str) -> Account:
        if source not in accounts:
            accounts.update(self._tables.accounts(tx, {source}))
        return accounts[source]

    def _offered(self, tx: Transaction, event: Recorded, accounts: dict[str, Account]) -> None:
        tables, position = self._tables, event.position
        if event.type == recording.RECORDED:
            recorded = events_pb2.InteractionRecorded.FromString(event.payload)
            tx.put(SETTLED, event.event_id, entry_value(IndexEntry(position, recorded.content_mac)))
            account = self._account(tx, accounts, recorded.facts.source)
            member = event.event_id + recorded.content_mac
            accounts[recorded.facts.source] = account.recording((member,))
            return
        if event.type == recording.CONFLICTED:
            conflicted = events_pb2.InteractionConflicted.FromString(event.payload)
            interaction_id, source = conflicted.facts.interaction_id, conflicted.facts.source
            member = bytes.fromhex(interaction_id) + conflicted.content_mac
            tables.put_conflicts(tx, {member: position})
            accounts[source] = self._account(tx, accounts, source).keeping_conflicts((member,))
        elif event.type == recording.QUARANTINED:
            waiting = self._codec.read_quarantined(event.payload, event.recorded_at, position)
            interaction_id = waiting.interaction_id
            tables.put_quarantined(tx, [waiting])
        else:
            redriven = events_pb2.QuarantineRedriven.FromString(event.payload)
            interaction_id = redriven.interaction_id
            tables.release(tx, self._waiting(tx, bytes.fromhex(interaction_id) + redriven.content_mac))
            account = self._account(tx, accounts, redriven.source)
            accounts[redriven.source] = account.redriven(redriven.verdict, redriven.offers)
        tables.put_asides(tx, [(interaction_id, position)])

    def _tallied(self, tx: Transaction, event: Recorded, accounts: dict[str, Account]) -> None:
        message = events_pb2.OffersTallied.FromString(event.payload)
        for line in message.tallies:
            tally = Tally(line.recorded, line.duplicate, line.conflict, line.quarantined, line.refused)
            accounts[line.source] = self._account(tx, accounts, line.source).tallied(tally)
        for again in message.quarantined_again:
            waiting = self._waiting(tx, bytes.fromhex(again.interaction_id) + again.content_mac)
            more = [each._replace(offers=each.offers + again.offers) for each in waiting]
            self._tables.put_quarantined(tx, more)

    def _waiting(self, tx: Transaction, member: bytes) -> list[Quarantined]:
        positions = self._tables.known_quarantined(tx, [member]).values()
        return list(self._tables.quarantined_at(tx, list(positions)).values())


def make_projection() -> IngestionProjection:
    """The projection."""
    return IngestionProjection()
