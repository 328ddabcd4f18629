"""Takes everything offered in one group commit through one decision, one sealing and one append."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from ingestion.application.ports import (
    Codec,
    IndexEntry,
    InteractionIndex,
    Quarantined,
    Result,
    Seal,
    Tables,
    ToSeal,
)
from ingestion.domain.accounting import Tally, Verdict
from ingestion.domain.deciding import Judgement, Known, Offer, Said, judge, tally
from ingestion.domain.registry import Registry
from throughline_eventlog import NewEvent, Transaction
from throughline_eventlog.partitions import opening_stream
from throughline_kernel import hex_id

RECORDED: Final = "throughline.ingestion.v1.InteractionRecorded"
CONFLICTED: Final = "throughline.ingestion.v1.InteractionConflicted"
QUARANTINED: Final = "throughline.ingestion.v1.InteractionQuarantined"
REDRIVEN: Final = "throughline.ingestion.v1.QuarantineRedriven"
TALLIED: Final = "throughline.ingestion.v1.OffersTallied"
CHANNEL_REGISTERED: Final = "throughline.ingestion.v1.ChannelRegistered"
SOURCE_REGISTERED: Final = "throughline.ingestion.v1.SourceRegistered"
PARTITION_OPENED: Final = "throughline.ingestion.v1.PartitionOpened"

REGISTRY_STREAM: Final = bytes.fromhex(hex_id("ingestion.registry"))
ACCOUNT_STREAM: Final = bytes.fromhex(hex_id("ingestion.account"))
PARTITION_STREAM: Final = opening_stream("ingestion")


def source_stream(source: str) -> bytes:
    """The stream of everything one source reported: neighbours in the log are neighbours in its index."""
    return bytes.fromhex(hex_id("ingestion.source", source))


class Stored(NamedTuple):
    """An offer that is new to the log."""

    offer: Offer
    said: Said
    judgement: Judgement


class Recorder:
    """Appends what was decided and keeps the rows beside the log in step. Shared by recording and redriving."""

    def __init__(self, codec: Codec, seal: Seal, index: InteractionIndex, tables: Tables) -> None:
        self.codec = codec
        self.seal = seal
        self.index = index
        self.tables = tables

    def known(self, tx: Transaction, offers: Sequence[Offer], registry: Registry) -> Known:
        """What the log holds about these offers: only their own keys are looked up."""
        entries = self.index.find(tx, {offer.key for offer in offers if offer.key})
        recorded = {key: entry.content_mac for key, entry in entries.items()}
        conflicting: list[bytes] = []
        waiting: list[bytes] = []
        for offer in offers:
            if offer.said is None:
                continue
            mac = recorded.get(offer.key)
            if mac is None:
                if registry.standing(offer.source, offer.said.channel) is not None:
                    waiting.append(offer.key + offer.content_mac)
            elif mac != offer.content_mac:
                conflicting.append(offer.key + offer.content_mac)
        return Known(
            recorded,
            self.tables.known_conflicts(tx, conflicting),
            set(self.tables.known_quarantined(tx, waiting)),
        )

    def events(self, stored: Sequence[Stored], known: Known, registry: Registry, versions: Versions) -> list[NewEvent]:
        """The event for each, in order. Their keys are durable in the key store when this returns."""
        codec = self.codec
        presences = self.seal.seal(
            [ToSeal(said, judgement.verdict == Verdict.QUARANTINED) for _, said, judgement in stored]
        )
        traits = {channel: codec.traits(registered) for channel, registered in registry.channels.items()}
        events: list[NewEvent] = []
        for (offer, said, judgement), presence in zip(stored, presences, strict=True):
            event_id = None
            if judgement.verdict == Verdict.RECORDED:
                type_, event_id = RECORDED, offer.key
                payload = codec.recorded(offer, said, traits[said.channel], presence)
            elif judgement.standing is not None and presence.sealed is not None:
                type_ = QUARANTINED
                payload = codec.quarantined(offer, said, judgement.standing, presence.sealed)
            else:
                type_ = CONFLICTED
                # Its channel need not be registered.
                stamped, first = traits.get(said.channel, b""), known.recorded[offer.key]
                payload = codec.conflicted(offer, said, stamped, presence, recorded_content_mac=first)
            stream, version = versions.next(offer.source)
            events.append(NewEvent(stream, version, type_, payload, said.occurred_at, event_id, offer.interaction_id))
        return events

    def store(self, tx: Transaction, stored: Sequence[Stored], positions: Sequence[int]) -> None:
        """Indexes what was appended as recorded, and as conflicting."""
        recorded: dict[bytes, IndexEntry] = {}
        conflicts: dict[bytes, int] = {}
        for (offer, _, judgement), position in zip(stored, positions, strict=True):
            if judgement.verdict == Verdict.RECORDED:
                recorded[offer.key] = IndexEntry(position, offer.content_mac)
            elif judgement.verdict == Verdict.CONFLICT:
                conflicts[offer.key + offer.content_mac] = position
        self.index.add(tx, recorded)
        if conflicts:
            self.tables.put_conflicts(tx, conflicts)
        self.tables.put_asides(
            tx,
            [
                (offer.interaction_id, position)
                for (offer, _, judgement), position in zip(stored, positions, strict=True)
                if judgement.verdict != Verdict.RECORDED
            ],
        )


class Versions:
    """Hands out the next version of each source's stream, and of the account's, within one transaction."""

    def __init__(self, tx: Transaction, sources: set[str]) -> None:
        self._streams = {source: source_stream(source) for source in sources}
        self._last = tx.last_versions([ACCOUNT_STREAM, *self._streams.values()])

    def next(self, source: str) -> tuple[bytes, int]:
        """(stream id, version) for the source's next event."""
        stream = self._streams[source]
        version = self._last[stream] = self._last[stream] + 1
        return stream, version

    def next_account(self) -> tuple[bytes, int]:
        """(stream id, version) for the account's next event."""
        version = self._last[ACCOUNT_STREAM] = self._last[ACCOUNT_STREAM] + 1
        return ACCOUNT_STREAM, version


def members_of(stored: Sequence[Stored], verdict: Verdict) -> dict[str, list[bytes]]:
    """Id and MAC, 32 bytes, of what is stored with this verdict, by source."""
    members: dict[str, list[bytes]] = {}
    for offer, _, judgement in stored:
        if judgement.verdict == verdict:
            members.setdefault(offer.source, []).append(offer.key + offer.content_mac)
    return members


class Answer(NamedTuple):
    """One result per event of a batch, in order, and what became of it by source."""

    results: list[Result]
    tallies: dict[str, Tally]


class RecordOffers:
    """The work of every RecordInteraction, RecordInteractions and StreamInteractions call."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def __call__(self, tx: Transaction, items: Sequence[Sequence[Offer]], /) -> Sequence[Answer]:
        """Records all batches together; a bad event ends as refused and harms no other."""
        recorder = self._recorder
        offers = [offer for batch in items for offer in batch]
        registry = recorder.tables.registry(tx)
        known = recorder.known(tx, offers, registry)
        judgements = [judge(offer, known, registry) for offer in offers]
        batches = list(_tallied(items, judgements))
        if not offers:
            return [Answer([], counted) for counted in batches]
        tallies: dict[str, Tally] = {}
        for batch in batches:
            for source, counted in batch.items():
                tallies[source] = tallies[source] + counted if source in tallies else counted
        stored = [
            Stored(offer, offer.said, judgement)
            for offer, judgement in zip(offers, judgements, strict=True)
            if judgement.stored and offer.said is not None
        ]
        # What waits in quarantine is stored once, but every offer of it waits with it.
        again: dict[bytes, int] = {}
        for offer, judgement in zip(offers, judgements, strict=True):
            if judgement.verdict == Verdict.QUARANTINED and not judgement.stored:
                member = offer.key + offer.content_mac
                again[member] = again.get(member, 0) + 1

        versions = Versions(tx, set(tallies))
        events = recorder.events(stored, known, registry, versions)
        events.append(NewEvent(*versions.next_account(), TALLIED, recorder.codec.tallied(tallies, again), tx.now))
        positions = tx.append(events)
        recorder.store(tx, stored, positions[:-1])
        self._quarantine(tx, stored, events, positions, again)
        self._account(tx, tallies, stored)
        return _answers(items, batches, judgements, positions)

    def rolled_back(self) -> None:
        """What was indexed last is not in the log."""
        self._recorder.index.rolled_back()

    def _account(self, tx: Transaction, tallies: Mapping[str, Tally], stored: Sequence[Stored]) -> None:
        tables = self._recorder.tables
        accounts = tables.accounts(tx, set(tallies))
        recorded, conflicting = members_of(stored, Verdict.RECORDED), members_of(stored, Verdict.CONFLICT)
        tables.put_accounts(
            tx,
            {
                source: accounts[source]
                .tallied(counted)
                .recording(recorded.get(source, ()))
                .keeping_conflicts(conflicting.get(source, ()))
                for source, counted in tallies.items()
            },
        )

    def _quarantine(
        self,
        tx: Transaction,
        stored: Sequence[Stored],
        events: Sequence[NewEvent],
        positions: Sequence[int],
        again: dict[bytes, int],
    ) -> None:
        codec, tables = self._recorder.codec, self._recorder.tables
        rows: dict[bytes, Quarantined] = {}
        for (offer, _, judgement), event, position in zip(stored, events, positions, strict=False):
            if judgement.standing is not None:
                waiting = codec.read_quarantined(event.payload, tx.now, position)
                rows[offer.key + offer.content_mac] = waiting
        if again:
            before = tables.known_quarantined(tx, [member for member in again if member not in rows])
            waiting_at = tables.quarantined_at(tx, list(before.values()))
            for member, position in before.items():
                rows[member] = waiting_at[position]
            for member, offers in again.items():
                rows[member] = rows[member]._replace(offers=rows[member].offers + offers)
        if rows:
            tables.put_quarantined(tx, list(rows.values()))


def _tallied(items: Sequence[Sequence[Offer]], judgements: Sequence[Judgement]) -> Iterator[dict[str, Tally]]:
    judged = iter(judgements)
    for batch in items:
        yield tally([(offer.source, next(judged).verdict) for offer in batch])


def _answers(
    items: Sequence[Sequence[Offer]],
    tallies: Sequence[dict[str, Tally]],
    judgements: Sequence[Judgement],
    positions: Sequence[int],
) -> list[Answer]:
    judged, place = iter(judgements), iter(positions)
    answers: list[Answer] = []
    for batch, counted in zip(items, tallies, strict=True):
        results: list[Result] = []
        for offer in batch:
            judgement = next(judged)
            position = next(place) if judgement.stored else 0
            results.append(Result(judgement.verdict, offer.interaction_id, position, judgement.violations))
        answers.append(Answer(results, counted))
    return answers
