"""Answers about clients and journeys, each from one consistent view of the store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import NamedTuple

from journey.application import codec, rows
from journey.application.commands import known
from journey.application.earlier import definitions_until, events_until
from journey.application.ports import Directory, Resolution
from journey.application.records import Cache, read_definitions, replay
from journey.application.timeline import Entry, entry_of, handed, standing, taken_back
from journey.application.ways import clients_after, histories, journeys
from journey.domain.context import Context, Who
from journey.domain.definitions import Definitions, JourneyDefinition
from journey.domain.facts import Handoff
from journey.domain.heeding import forbidden, summed, tell_heeding
from journey.domain.record import Record
from journey.domain.variants import JourneyCounts, Variants, Way, count_journeys, count_variants
from throughline.ingestion.v1 import interaction_pb2
from throughline_eventlog import Commit, Reader, Store
from throughline_kernel import ALWAYS, SERVICE, Consent, Consents, Interval, LeftOut, NotFoundError, Recorded

WATCH_AT_ONCE = 200


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a history: entries, the commit it stands on, and where the next part begins (-1: nowhere).

    `withheld` counts what is left out of it, since it is a forgotten client's now; `left_out` what the client's
    consents leave out.
    """

    client_id: str
    entries: tuple[Entry, ...]
    commit: Commit
    following: int
    withheld: int
    left_out: tuple[LeftOut, ...] = ()


@dataclass(frozen=True, slots=True)
class Told:
    """What a channel should know, the position that it stands on, and how much is left out as in `Page`."""

    context: Context
    position: int
    withheld: int = 0


class Seen(NamedTuple):
    """How far a watcher has come: whose stream, its version, the last position sent."""

    client_id: str
    version: int
    position: int


class Queries:
    """Reads for any thread. Records are kept while there is room, and brought up to date from their streams."""

    def __init__(self, store: Store, directory: Directory, cache: int) -> None:
        self._store = store
        self._directory = directory
        self._cache = Cache(cache)
        self._lock = Lock()
        self._definitions = (-1, Definitions())

    def context(
        self,
        client_id: str,
        identifiers: Sequence[interaction_pb2.Identifier],
        channel: str,
        now: int,
        *,
        purpose: str = SERVICE,
    ) -> Told:
        """What the channel should know now (microseconds) for this purpose.

        Raises: NotFoundError (CLIENT_NOT_FOUND, IDENTIFIERS_UNKNOWN), PreconditionError (CLIENT_FORGOTTEN).
        """
        # One view after the other: a kept record never knows more than the position that is answered with it.
        with self._lock, self._store.snapshot() as reader:
            who = self._resolve(reader, client_id, identifiers)
            position = reader.last_position()
            record = self._record(reader, who.client_id)
            handoffs = self._offered_to_aliases(reader, who, position)
            told = tell_heeding(record, _named(who), channel, now, handoffs, consents=record.consents, purpose=purpose)
            return Told(told, position)

    def earlier_context(
        self,
        client_id: str,
        identifiers: Sequence[interaction_pb2.Identifier],
        channel: str,
        as_of: int,
        *,
        purpose: str = SERVICE,
    ) -> Told:
        """What the channel would have been told at that instant (microseconds), by the client's consents of now.

        Raises: as `context`.
        """
        with self._store.snapshot() as reader:
            commit = reader.commit_at(as_of)
            who = self._resolve(reader, client_id, identifiers, commit.recorded_at)
            record = Record(who.client_id, definitions_until(reader, commit.position), announcing=False)
            events, withheld = events_until(reader, who.client_id, commit.position)
            replay(record, events)
            handoffs = self._offered_to_aliases(reader, who, commit.position)
            consents = self._consents(reader, who.client_id)
            told = tell_heeding(record, _named(who), channel, as_of, handoffs, consents=consents, purpose=purpose)
            return Told(told, commit.position, withheld)

    def timeline(
        self, client_id: str, as_of: int, between: Interval, start: int, size: int, *, purpose: str = SERVICE
    ) -> Page:
        """Part of what happened in the interval, as it was known at `as_of` (0: now), from entry `start` on; without
        what the client's consents, as they are now, forbid to tell for the purpose.

        Raises: as `context`.
        """
        with self._store.snapshot() as reader:
            commit = reader.commit_at(as_of or None)
            who = self._resolve(reader, client_id, as_of=commit.recorded_at if as_of else None)
            events, withheld = events_until(reader, who.client_id, commit.position)
            for alias in self._aliases_with_handoffs(reader, who):
                events += handed(events_until(reader, alias, commit.position).events)
            consents = self._consents(reader, who.client_id)
        entries = [entry for entry in standing(events) if between.holds(entry.occurred_at)]
        following = start + size if start + size < len(entries) else -1
        given_in = {entry.event_id: entry.channel for entry in entries if entry.type == "interaction"}
        told, left_out = _heeded(consents, purpose, entries[start : start + size], given_in)
        return Page(who.client_id, tuple(told), commit, following, withheld, left_out)

    def begin_watching(self, client_id: str, after_position: int) -> Seen:
        """Where a watcher of this client begins: behind the position, or now.

        Raises: as `context`.
        """
        with self._store.snapshot() as reader:
            who = self._resolve(reader, client_id)
            if after_position:
                return Seen(who.client_id, 0, after_position)
            return Seen(who.client_id, reader.last_version(codec.stream_of(who.client_id)), reader.last_position())

    def watch(
        self, asked: str, seen: Seen, *, purpose: str = SERVICE
    ) -> tuple[list[Entry], tuple[LeftOut, ...], Seen, bool]:
        """What a watcher has not seen yet, what of it the client's consents leave out, how far it has come then, and
        whether there is more already.

        Follows the client where it has become part of another one. Raises: as `context`.
        """
        with self._lock, self._store.snapshot() as reader:
            who = self._resolve(reader, asked)
            record = self._record(reader, who.client_id)
            consents = record.consents
            given_in = {fact.id: fact.channel for fact in record.facts} if consents else {}
            version = seen.version if who.client_id == seen.client_id else 0
            events = reader.read_stream(codec.stream_of(who.client_id), after_version=version, limit=WATCH_AT_ONCE)
        entries: list[Entry] = []
        position = seen.position
        for event in events:
            if event.position <= seen.position:
                continue
            position = event.position
            entry = entry_of(event) or taken_back(event)
            if entry is not None:
                entries.append(entry)
        version = events[-1].version if events else version
        told, left_out = _heeded(consents, purpose, entries, given_in)
        return told, left_out, Seen(who.client_id, version, position), len(events) == WATCH_AT_ONCE

    def definitions(self, as_of: int = 0) -> tuple[JourneyDefinition, ...]:
        """Every definition that holds, or held at an instant (microseconds, 0: now), by name."""
        with self._store.snapshot() as reader:
            return self._in_force(reader, reader.commit_at(as_of) if as_of else None).all()

    def variants(
        self, journey: str, top: int, now: int, as_of: int = 0, between: Interval = ALWAYS
    ) -> tuple[Variants, Commit]:
        """Channel sequences of one definition's journeys that were started in an interval, or of what of clients' whole
        histories happened in it, and the commit that they stand on. As of an instant as `stats`.

        Raises: NotFoundError (JOURNEY_NOT_FOUND).
        """
        with self._store.snapshot() as reader:
            commit = reader.commit_at(as_of or None)
            if journey:
                _, ways = self._journeys(reader, journey, now, as_of, between)
            else:
                changed = clients_after(reader, commit.position) if as_of else ()
                ways = histories(reader, between, changed, commit.position)
            return count_variants(ways, top), commit

    def stats(
        self, journey: str, now: int, as_of: int = 0, between: Interval = ALWAYS
    ) -> tuple[JourneyDefinition, JourneyCounts, Commit]:
        """How the journeys of one definition went that were started in an interval, and the commit that this stands on.

        As of an instant (microseconds, 0: now) by the definition of then, and as it was known then: who changed since
        is told again; so is everybody with such a journey, where the definition did. Silence is judged at the instant.
        Raises: NotFoundError (JOURNEY_NOT_FOUND).
        """
        with self._store.snapshot() as reader:
            definition, ways = self._journeys(reader, journey, now, as_of, between)
            return definition, count_journeys(definition, ways), reader.commit_at(as_of or None)

    def concerning(self, reader: Reader, client_id: str, interaction_ids: Sequence[str]) -> list[Recorded]:
        """The events that concern a client (id or alias; empty: any) and interactions (empty: any), in log order."""
        clients: set[str] = set()
        if client_id:
            who = self._directory.resolve(reader, client_id=client_id)
            clients = {client_id, who.client_id, *who.alias_ids} - {""}
        wanted = frozenset(interaction_ids)
        if wanted and not client_id:
            owners = reader.get_many(rows.OWNERS, [bytes.fromhex(each) for each in wanted])
            for row in owners.values():
                owner = rows.owner_of(row)
                clients.update((owner.client_id, *owner.former))
        streams = reader.read_streams([codec.stream_of(client) for client in clients])
        events = [event for stream in streams.values() for event in stream]
        if wanted:
            events = [event for event in events if codec.interactions_of(event) & wanted]
        return sorted(events, key=lambda event: event.position)

    def _resolve(
        self,
        reader: Reader,
        client_id: str,
        identifiers: Sequence[interaction_pb2.Identifier] = (),
        as_of: int | None = None,
    ) -> Resolution:
        resolution = self._directory.resolve(reader, client_id=client_id, identifiers=identifiers, as_of=as_of)
        return known(resolution, client_id, len(identifiers), as_of)

    def _consents(self, reader: Reader, client_id: str) -> Consents:
        """What holds now of the consents of the client that an id, of now or earlier, means now."""
        meant = self._directory.resolve(reader, client_id=client_id).client_id
        holding = Consents()
        for event in reader.read_stream(codec.stream_of(meant)):
            if event.type == codec.CONSENT_NOTED:
                holding = codec.consents_of(event.payload)
            elif event.type == codec.CLIENT_DROPPED:
                holding = Consents()
        return holding

    def _record(self, reader: Reader, client_id: str) -> Record:
        definitions = self._current(reader)
        record = self._cache.get(client_id)
        if record is None or record.definitions is not definitions:
            record = Record(client_id, definitions, announcing=False)
        events = reader.read_stream(codec.stream_of(client_id), after_version=record.version)
        if events:
            replay(record, events)
        self._cache.keep(record)
        return record

    def _current(self, reader: Reader) -> Definitions:
        generation = rows.number(reader.get(rows.META, rows.GENERATION))
        if self._definitions[0] != generation:
            self._definitions = (generation, read_definitions(reader))
        return self._definitions[1]

    def _in_force(self, reader: Reader, commit: Commit | None) -> Definitions:
        return self._current(reader) if commit is None else definitions_until(reader, commit.position)

    def _journeys(
        self, reader: Reader, journey: str, now: int, as_of: int, between: Interval
    ) -> tuple[JourneyDefinition, Iterator[Way]]:
        commit = reader.commit_at(as_of) if as_of else None
        definition = self._in_force(reader, commit).get(journey)
        if definition is None:
            raise NotFoundError(
                "JOURNEY_NOT_FOUND",
                f"no journey has the name {journey!r}: ListJourneys names them",
                {"journey": journey},
            )
        if commit is None:
            ways = journeys(reader, definition, now, (), 0)
        else:
            # Of another definition every journey is announced anew: all who have one are among these.
            changed = clients_after(reader, commit.position)
            ways = journeys(reader, definition, min(as_of, now), changed, commit.position)
        return definition, (way for way in ways if between.holds(way.started_at))

    def _aliases_with_handoffs(self, reader: Reader, who: Resolution) -> list[str]:
        if not who.alias_ids:
            return []
        found = reader.get_many(rows.OFFERED, [bytes.fromhex(alias) for alias in who.alias_ids])
        return sorted(key.hex() for key in found)

    def _offered_to_aliases(self, reader: Reader, who: Resolution, position: int) -> list[Handoff]:
        handoffs: list[Handoff] = []
        for alias in self._aliases_with_handoffs(reader, who):
            record = Record(alias, Definitions(), announcing=False)
            replay(record, handed(events_until(reader, alias, position).events))
            handoffs += record.handoffs.values()
        return handoffs


def _named(who: Resolution) -> Who:
    return Who(who.client_id, who.known_person, tuple(who.alias_ids))


def _heeded(
    consents: Consents, purpose: str, entries: list[Entry], given_in: Mapping[str, str]
) -> tuple[list[Entry], tuple[LeftOut, ...]]:
    """The entries that may be told for the purpose, and what is left out. `given_in` is interaction -> channel."""
    if not consents:
        return entries, ()
    gone: Counter[tuple[str, Consent]] = Counter()
    told: list[Entry] = []
    for entry in entries:
        channels = {entry.channel, *entry.channels, given_in.get(entry.given_in, "")} - {""}
        word = forbidden(consents, purpose, sorted(channels))
        if word is None:
            told.append(entry)
        else:
            gone["entries", word] += 1
    return told, summed(gone)
