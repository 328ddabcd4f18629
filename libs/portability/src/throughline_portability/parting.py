"""The number of a service's partitions changed: new logs are made of the old ones, checked, and put in their place.

Until the last of the old logs is sealed these are in force, and what was made of them is thrown away and made anew;
from then on nothing is left to decide, and whoever begins again only ends what is left to do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from heapq import merge
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final, cast

from throughline.eventlog.v1.eventlog_pb2 import Envelope
from throughline.proof.v1.proof_pb2 import CheckpointSigned
from throughline_client.installation import Installation
from throughline_eventlog import (
    PARTITIONS,
    POISON,
    ArchiveReader,
    Bookkeeping,
    Commit,
    InboxPosition,
    LoggedRow,
    LogGrewError,
    Parting,
    Partitioning,
    Predecessor,
    Projection,
    Reader,
    Restoration,
    Store,
    StoreSettings,
    discard_store,
    open_store,
    stream_name,
)
from throughline_eventlog.partitions import PARTED, listed, owner
from throughline_kernel import Recorded, UnavailableError, combine_digests, digest, hex_id
from throughline_proof import Notary, SigningKeys, open_proofs
from throughline_proof.notary import CHECKPOINTS
from throughline_proof.tree import Frontier
from throughline_proof.verifier import leaf_hash, leaf_of
from throughline_replay import Replayed, make_folds

PAGE: Final = 2_000
READERS: Final[Mapping[str, tuple[str, ...]]] = {"ingestion": ("identity",)}
"""The services that take a parted service's events from the bus."""
_NAME_BYTES: Final = 63
_LONGEST_BESIDE: Final = "_access_proofs"
_NOT_ALLOWED: Final = "42501"
"""What PostgreSQL calls a lack of rights."""

Told = Callable[[str, int], None]
"""Hears of what is being done, and of events with which it is done."""


class PartitionsError(Exception):
    """The number cannot be changed now; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A partition that is in force: its log's events, the position of its PartitionOpened, and its state's digest (hex;
    empty where it was opened by an earlier attempt).
    """

    number: int
    events: int
    position: int
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Changed:
    """What came of it. `followed` are the logs that were sealed, `positions` where each reader begins by stream."""

    service: str
    partitioning: Partitioning
    opened: tuple[Opened, ...]
    followed: tuple[int, ...]
    positions: Mapping[str, int]


def change_partitions(
    installation: Installation,
    service: str,
    count: int,
    *,
    keys: Callable[[], SigningKeys],
    told: Told,
    keep: Callable[[Partitioning], None],
) -> Changed:
    """Parts a service's logs anew, of which nothing may be running. `keys` sign where a log has no last checkpoint;
    `keep` writes down how the installation is parted from here on.

    Raises: PartitionsError, LogGrewError, SettingsError, UnavailableError, NewerLogError.
    """
    now = installation.partitioning
    if service in PARTED and count == now.count(service):
        raise PartitionsError(f"{service} has {listed(now.in_force(service))} already: give another number")
    change = _Change(installation, service, now.followed_by(service, count), told)
    change.check_names()
    with ExitStack() as open_things:
        olds = {number: change.open(open_things, number) for number in now.in_force(service)}
        made: Mapping[int, str] = {}
        if change.left_to_seal(olds):
            made = change.make(olds, keys)
        return change.finish(made, keep)


@dataclass(slots=True)
class _Change:
    """One service's logs, from one generation to the next."""

    installation: Installation
    service: str
    after: Partitioning
    told: Told
    projection: Projection = field(init=False)
    olds: tuple[int, ...] = field(init=False)
    news: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.projection = cast("Projection", _offered("throughline.projections", self.service))
        self.olds = self.installation.partitioning.in_force(self.service)
        self.news = self.after.in_force(self.service)

    @property
    def successors(self) -> str:
        """As a sealed log names them."""
        return ", ".join(map(str, self.news))

    def parting(self) -> Parting:
        """One for a log of which nothing was seen yet."""
        return cast("Parting", _offered("throughline.partings", self.service))

    def settings(self, number: int) -> StoreSettings:
        """The store of one partition, on which a transaction may wait for the others as long as it takes."""
        given = self.installation.store(self.service, number)
        patience = {"POSTGRES_IDLE_IN_TRANSACTION_SESSION_TIMEOUT": "0"}
        return StoreSettings(given.service, {**given.environment, **patience})

    def open(self, open_things: ExitStack, number: int) -> Store:
        """Opens one partition's store. Raises what `open_store` raises."""
        store = open_store(self.settings(number), tables=self.projection.tables)
        open_things.callback(store.close)
        return store

    def open_new(self, open_things: ExitStack, number: int) -> Store:
        """Opens the store of a partition that is to be. Raises: PartitionsError where the role may not make its schema,
        and what `open_store` raises.
        """
        try:
            return self.open(open_things, number)
        except UnavailableError as error:
            if getattr(error.__cause__, "sqlstate", "") != _NOT_ALLOWED:
                raise
            raise PartitionsError(
                f"the role of {self.service} may not make or use the schema of partition {number}: make them ahead, "
                f"with `throughline prepare --admin ROLE` where {PARTITIONS} is {self.after.write()}; services keep "
                "the old text until this is done"
            ) from error

    def check_names(self) -> None:
        """Refuses a schema that leaves no room for the names of the new ones. Raises: PartitionsError."""
        for number in self.news:
            schema = self.settings(number).environment.get("POSTGRES_SCHEMA", "") + _LONGEST_BESIDE
            if len(schema.encode()) > _NAME_BYTES:
                raise PartitionsError(
                    f"partition {number} would need the schema {schema}, and names in PostgreSQL end after "
                    f"{_NAME_BYTES} bytes: bring the service into a schema with a shorter name first (throughline "
                    "export, throughline restore)"
                )

    def left_to_seal(self, olds: Mapping[int, Store]) -> bool:
        """Whether the old logs are in force. Raises: PartitionsError where other logs follow them."""
        seals = {number: store.sealed() for number, store in olds.items()}
        for number, successors in seals.items():
            if successors not in {"", self.successors}:
                raise PartitionsError(
                    f"partition {number} of {self.service} is followed by {successors} already: end what was begun, "
                    f"with the number {len(successors.split(','))}; or, where that was done long ago, bring up to date "
                    f"what says how {self.service} is parted"
                )
        return not all(seals.values())

    def make(self, olds: Mapping[int, Store], keys: Callable[[], SigningKeys]) -> Mapping[int, str]:
        """Makes the new logs and their tables of the old, checks them and seals the old; gives the states' digests."""
        commits: dict[int, Commit] = {}
        states: dict[int, dict[str, bytes]] = {}
        positions: dict[int, int] = {}
        for number, store in olds.items():
            with store.snapshot() as reader:
                commits[number], positions[number] = reader.commit_at(), reader.last_position()
                states[number] = self._state(reader)
        self._inboxes(positions)
        old = self._joined_state(states)
        predecessors = [self._proved(number, store, positions[number], keys) for number, store in olds.items()]
        for number in self.news:
            self._discard(number)
        with ExitStack() as open_things:
            news = {number: self.open_new(open_things, number) for number in self.news}
            self._take_over(olds, predecessors, news)
            self._open_partitions(olds, predecessors, news)
            try:
                digests = self._check(old, news)
            except PartitionsError:
                for number, store in olds.items():
                    with store.snapshot() as reader:
                        if reader.commit_at() != commits[number]:
                            # What was taken over is more than what was looked at, and not what is wrong.
                            raise LogGrewError(self.service) from None
                raise
        for number, store in olds.items():
            self.told(f"sealing partition {number}", 0)
            store.seal(self.successors, commits[number])
        return digests

    def finish(self, made: Mapping[int, str], keep: Callable[[Partitioning], None]) -> Changed:
        """What is left when the old logs are sealed; whatever of it was done before stays done."""
        opened: list[Opened] = []
        with ExitStack() as open_things:
            for number in self.news:
                store = self.open(open_things, number)
                if store.sealed():
                    raise PartitionsError(
                        f"partition {number} of {self.service} is followed by {store.sealed()} itself: what says how "
                        f"{self.service} is parted is older than its logs; bring it up to date"
                    )
                with store.snapshot() as reader:
                    opening = reader.read_stream(self.parting().opening)
                    if not opening:
                        raise PartitionsError(
                            f"partition {number} of {self.service} follows a sealed log and is not there: bring its "
                            "store back from where it is kept"
                        )
                    events = reader.count_events()
                opened.append(Opened(number, events, opening[-1].position, made.get(number, "")))
        positions = self._seed(opened)
        self.told("keeping the number", 0)
        keep(self.after)
        return Changed(self.service, self.after, tuple(opened), self.olds, positions)

    def _state(self, reader: Reader) -> dict[str, bytes]:
        return {key: digest(aggregate) for key, aggregate in self.projection.aggregates(reader)}

    def _joined_state(self, states: Mapping[int, Mapping[str, bytes]]) -> dict[str, bytes]:
        """The digests of all aggregates of all old logs. Raises: PartitionsError where they contradict each other."""
        everywhere = self.parting().everywhere
        joined: dict[str, bytes] = {}
        for number, state in states.items():
            for key, aggregate in state.items():
                if key in joined and not (everywhere(key) and joined[key] == aggregate):
                    raise PartitionsError(
                        f"{key} stands in partition {number} of {self.service} and otherwise in another: register it "
                        "again, so that all partitions have it alike, or rebuild the partition"
                    )
                joined[key] = aggregate
        for key in filter(everywhere, joined):
            lacking = [number for number, state in states.items() if key not in state]
            if lacking:
                raise PartitionsError(f"{key} is not known to {listed(lacking)} of {self.service}: register it again")
        return joined

    def _proved(self, number: int, store: Store, position: int, keys: Callable[[], SigningKeys]) -> Predecessor:
        """The log's last checkpoint, which says all of it; signed where there is none yet."""
        self.told(f"proving partition {number}", 0)
        with ExitStack() as open_things:
            proofs = open_proofs(self.settings(number), store.clock)
            open_things.callback(proofs.close)
            signed = _last_checkpoint(proofs)
            if signed is None or signed.position < position:
                signing = keys()
                origin = f"{signing.installation}/{self.service}/{number}"
                signed = Notary(store, proofs, signing, origin).checkpoint()
        return Predecessor(number, signed.note.partition("\n")[0], signed.size, signed.position, signed.root)

    def _discard(self, number: int) -> None:
        """Throws a half-made log away. Raises: PartitionsError for one that somebody wrote to."""
        file = self.settings(number).environment.get("SQLITE_DBNAME")
        if file and not Path(file).exists():
            return
        self.told(f"clearing partition {number}", 0)
        with ExitStack() as open_things, self.open_new(open_things, number).snapshot() as reader:
            opening = reader.read_stream(self.parting().opening)
            used = bool(opening) and reader.last_position() > opening[-1].position
        if used:
            raise PartitionsError(
                f"partition {number} of {self.service} has events of its own, and the logs that it follows are not "
                "sealed: one of the two is not what it should be; bring back the stores that belong together"
            )
        discard_store(self.settings(number))

    def _take_over(
        self, olds: Mapping[int, Store], predecessors: Sequence[Predecessor], news: Mapping[int, Store]
    ) -> None:
        """Fills the new logs, each whole or not at all."""
        with ExitStack() as views:
            archives = {number: views.enter_context(store.archive()) for number, store in olds.items()}
            kept = _joined_books([archive.bookkeeping() for archive in archives.values()])
            logs = [_ReadLog(archives[each.number], olds[each.number], each, self.told) for each in predecessors]
            shared, joined = self.parting().shared, len(olds) > 1
            targets = {
                number: _Target(views.enter_context(store.restoration()), number, shared, joined=joined)
                for number, store in news.items()
            }
            numbers, partings = self.news, {number: self.parting() for number in olds}
            owner_of = partial(_owner_of, numbers)
            ordered = merge(*logs, key=lambda taken: (taken[1].recorded_at, taken[2], taken[0].position))
            for row, event, number in ordered:
                parts = partings[number].part(event, owner_of)
                if parts is None:
                    # What belongs in each partition stood in each of the old ones.
                    parts = dict.fromkeys(numbers, event.payload) if number == self.olds[0] else {}
                for to, payload in parts.items():
                    targets[to].take(row, event, number, payload)
            for each in logs:
                each.check()
            for target in targets.values():
                target.end(kept)

    def _open_partitions(
        self, olds: Mapping[int, Store], predecessors: Sequence[Predecessor], news: Mapping[int, Store]
    ) -> None:
        """Makes the tables, and ends what was taken over."""
        poison: dict[bytes, bytes] = {}
        for store in olds.values():
            with store.snapshot() as reader:
                poison.update(reader.scan(POISON))
        for number, store in news.items():
            position = 0
            while True:
                with store.snapshot() as reader:
                    events = reader.read(position, limit=PAGE)
                if not events:
                    break
                with store.transaction() as tx:
                    self.projection.project(tx, events)
                position = events[-1].position
                self.told(f"making the tables of partition {number}", len(events))
            self.told(f"opening partition {number}", 0)
            with store.transaction() as tx:
                tx.append([self.parting().opened(number, len(self.news), predecessors, tx.now)])
                # What another service said and could not be taken is tried again by each: all take all of it.
                tx.put_many(POISON, poison)

    def _check(self, old: Mapping[str, bytes], news: Mapping[int, Store]) -> Mapping[int, str]:
        """Holds the new states against the old ones, and against their own logs. Raises: PartitionsError."""
        everywhere = self.parting().everywhere
        digests: dict[int, str] = {}
        found: dict[str, bytes] = {}
        for number, store in news.items():
            self.told(f"checking partition {number}", 0)
            replayed = Replayed(make_folds([self.service])[self.service])
            with store.snapshot() as reader:
                state = self._state(reader)
                while events := reader.read(replayed.position, limit=PAGE):
                    replayed.take(events)
            digests[number] = combine_digests(sorted(state.items()))
            if replayed.digest() != digests[number]:
                raise PartitionsError(
                    f"the tables of partition {number} are not what its log folds to; nothing changed"
                )
            lacking = [key for key in old if everywhere(key) and key not in state]
            twice = [key for key in state if key in found and not everywhere(key)]
            if lacking or twice:
                key = (lacking or twice)[0]
                what = "is lacking" if lacking else "stands in another partition as well"
                raise PartitionsError(f"{key} {what} in partition {number}; nothing changed")
            found |= state
        if found != old:
            key = next(key for key in sorted(found.keys() | old.keys()) if found.get(key) != old.get(key))
            raise PartitionsError(
                f"{key} is not what it was: its tables, or this program's parting, are wrong; nothing changed. See "
                f"`throughline rebuild {self.service} --check`"
            )
        return digests

    def _inboxes(self, positions: Mapping[int, int]) -> Mapping[str, str]:
        """What streams' names begin with, by reader. Raises: PartitionsError where one has not taken all of a log."""
        prefixes: dict[str, str] = {}
        for reader_name in READERS[self.service]:
            store = open_store(self.installation.stores[reader_name])
            try:
                with store.snapshot() as reader:
                    inboxes = reader.inboxes()
            finally:
                store.close()
            for number, position in positions.items():
                name = re.compile(rf"(.+){re.escape(stream_name(self.service, number, ''))}\Z")
                reached = {found[1]: each.position for each in inboxes if (found := name.match(each.stream))}
                furthest = max(reached, key=lambda prefix: reached[prefix], default="")
                if position and reached.get(furthest, 0) < position:
                    raise PartitionsError(
                        f"{reader_name} has taken {self.service}'s partition {number} up to position "
                        f"{reached.get(furthest, 0)} of {position}, and nobody publishes the rest once it is sealed: "
                        "start both, let no channel report, wait for it with `throughline status --wait 60`, stop "
                        f"{self.service}, and begin again"
                    )
                if furthest:
                    prefixes[reader_name] = furthest
        return prefixes

    def _seed(self, opened: Sequence[Opened]) -> Mapping[str, int]:
        """Lets every reader begin behind what it has taken from the old logs; those that have begun stay."""
        begins: dict[str, int] = {}
        for reader_name, prefix in self._inboxes(dict.fromkeys(self.olds, 0)).items():
            self.told(f"telling {reader_name}", 0)
            store = open_store(self.installation.stores[reader_name])
            try:
                with store.transaction() as tx:
                    for each in opened:
                        stream = stream_name(self.service, each.number, prefix)
                        begins[stream] = each.position
                        if tx.inbox(stream) is None:
                            # Made at no time: whatever stream of this name there will be is another, told by positions.
                            tx.set_inbox(InboxPosition(stream, 0, 0, each.position))
            finally:
                store.close()
        return begins


@dataclass(slots=True)
class _ReadLog:
    """An old log in order, held against its checkpoint while it is read: (row, event, number) each."""

    archive: ArchiveReader
    store: Store
    predecessor: Predecessor
    told: Told
    tree: Frontier = field(default_factory=Frontier)

    def __iter__(self) -> Iterator[tuple[LoggedRow, Recorded, int]]:
        position = 0
        while rows := self.archive.read_logged(position, until=self.predecessor.position, limit=PAGE):
            self.tree.grow([leaf_hash(leaf_of(*row)) for row in rows])
            for row, event in zip(rows, self.store.codec.decode(rows), strict=True):
                yield row, event, self.predecessor.number
            position = rows[-1].position
            self.told("taking events over", len(rows))

    def check(self) -> None:
        """Raises: PartitionsError where the log is not what its checkpoint says."""
        if (self.tree.size, self.tree.root) != (self.predecessor.size, self.predecessor.root):
            raise PartitionsError(
                f"the log of partition {self.predecessor.number} has {self.tree.size} events and the root "
                f"{self.tree.root.hex()}, and its last checkpoint says {self.predecessor.size} and "
                f"{self.predecessor.root.hex()}: it was changed; see `throughline audit`. Nothing was changed"
            )


class _Target:
    """A new log while it is filled: events of one old log keep their positions, those `joined` from several get new."""

    def __init__(self, restoration: Restoration, number: int, shared: Collection[bytes], *, joined: bool) -> None:
        self._restoration = restoration
        self._number = number
        self._shared = shared
        self._joined = joined
        self._rows: list[LoggedRow] = []
        self._commits: list[Commit] = []
        self._position = self._recorded_at = 0
        self._versions: dict[bytes, int] = {}
        # The ids of events of shared streams: those of two old logs can be the same.
        self._ids: set[bytes] = set()

    def take(self, row: LoggedRow, event: Recorded, old: int, payload: bytes) -> None:
        """The next event, whole or the part of it that is this log's."""
        if event.recorded_at != self._recorded_at:
            self._commit()
            if len(self._rows) >= PAGE:
                self._write()
            self._recorded_at = event.recorded_at
        version, envelope = row.version, row.envelope
        if row.stream_id in self._shared:
            version = max(version, self._versions.get(row.stream_id, 0) + 1)
            self._versions[row.stream_id] = version
            if payload != event.payload or event.event_id in self._ids:
                envelope = self._parted(event, old, payload)
            self._ids.add(event.event_id)
        self._position = self._position + 1 if self._joined else row.position
        self._rows.append(LoggedRow(self._position, row.stream_id, version, row.type, envelope))

    def end(self, kept: Bookkeeping) -> None:
        """Writes what is left, and what is kept beside events."""
        self._commit()
        self._write()
        self._restoration.add_bookkeeping(kept)

    def _parted(self, event: Recorded, old: int, payload: bytes) -> bytes:
        """The envelope of an event that no log had: under an id of its own, caused by the one that it is of."""
        event_id = hex_id("partitions.parted", event.event_id.hex(), str(old), str(self._number))
        return Envelope(
            event_id=bytes.fromhex(event_id),
            schema_version=event.schema_version,
            occurred_at=event.occurred_at,
            recorded_at=event.recorded_at,
            correlation_id=event.correlation_id,
            causation_id=event.event_id.hex(),
            traceparent=event.traceparent,
            payload=payload,
        ).SerializeToString()

    def _commit(self) -> None:
        if self._position:
            self._commits.append(Commit(self._recorded_at, self._position))

    def _write(self) -> None:
        if not self._rows:
            return
        self._restoration.add_events(self._rows)
        self._restoration.add_commits(self._commits)
        self._rows, self._commits = [], []


def _offered(group: str, service: str) -> Any:
    """What the service offers under an entry point group, made. Raises: PartitionsError where it is not installed."""
    found = {point.name: point for point in entry_points(group=group)}.get(service)
    if found is None:
        raise PartitionsError(
            f"nothing is installed that knows the logs of {service!r}: install the package throughline-{service}, "
            f"which offers it under the entry point group {group}"
        )
    return found.load()()


def _owner_of(numbers: Sequence[int], key: str) -> int:
    return numbers[owner(key, len(numbers))]


def _last_checkpoint(proofs: Store) -> CheckpointSigned | None:
    with proofs.snapshot() as reader:
        events = reader.read_stream(CHECKPOINTS, after_version=reader.last_version(CHECKPOINTS) - 1)
    return CheckpointSigned.FromString(events[-1].payload) if events else None


def _joined_books(books: Sequence[Bookkeeping]) -> Bookkeeping:
    """What the new logs begin with. Where the old ones had not got equally far in a stream, the least; what is taken
    twice changes nothing, for a service that is parted hears of others only what may be heard again.
    """
    inboxes: dict[str, InboxPosition] = {}
    for stream in {each.stream for book in books for each in book.inboxes}:
        reached = [each for book in books for each in book.inboxes if each.stream == stream]
        if len(reached) == len(books) and len({each.created for each in reached}) == 1:
            inboxes[stream] = min(reached, key=lambda each: (each.sequence, each.position))
    return Bookkeeping(
        types=tuple(sorted({each for book in books for each in book.types})),
        trackings=tuple(
            (f"{each.stream}@{each.created}", each.sequence) for _, each in sorted(inboxes.items()) if each.sequence
        ),
        inboxes=tuple(inbox for _, inbox in sorted(inboxes.items())),
        tables=(),
    )
