"""Keeps the proofs of one log beside it: its tree, its map of subjects, and the checkpoints signed over both.

Everything here follows from the log and may be made again; only what was signed is new, so that is an event in a log of
its own. The notary reads what is committed already: nobody who appends waits for it.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from struct import Struct
from typing import Final

from throughline.proof.v1 import proof_pb2 as pb
from throughline_eventlog import Clock, LoggedRow, NewEvent, Reader, Store, StoreSettings, Transaction, open_store
from throughline_kernel import NotFoundError
from throughline_proof.concerns import subjects_of
from throughline_proof.signing import SigningKeys
from throughline_proof.subjects import Bucket, Listed, MapTree, bucket_of
from throughline_proof.tree import Frontier, NodeAt, consistency_proof, inclusion_proof
from throughline_proof.verifier import (
    EMPTY_ROOT,
    Checkpoint,
    Head,
    SubjectProof,
    bucket_hash,
    key_of,
    leaf_hash,
    leaf_of,
    next_head,
    node_hash,
)

STEP: Final = 5_000
"""Events that one transaction takes over at most."""
TILE: Final = 256
"""Nodes that a row holds: those of every eighth level."""
PROOF_TABLES: Final = ("tiles", "places", "links", "buckets")
CHECKPOINTS: Final = bytes(15) + b"\x01"
"""The stream of what was signed."""
_TILE_LEVELS: Final = 8
_HASH: Final = 32
# A link: place in the tile, the first bytes of the subject's key, the index of the event before, plus one (0: none).
_LINK_KEY: Final = 7
_LINK: Final = Struct(f">B{_LINK_KEY}sQ")


def proofs_of(settings: StoreSettings) -> StoreSettings:
    """Where the proofs of a service's log are kept: beside it, in a file or schema of their own."""
    return settings.beside("proofs")


def open_proofs(settings: StoreSettings, clock: Clock) -> Store:
    """Opens the store of the proofs of the log in these settings. Raises what `open_store` raises."""
    return open_store(proofs_of(settings), tables=PROOF_TABLES, clock=clock)


@dataclass(frozen=True, slots=True)
class Placed:
    """An event's place in the tree of a checkpoint, and what proves it."""

    position: int
    index: int
    hashes: Sequence[bytes]
    # Where asked for.
    row: LoggedRow | None = None


@dataclass(frozen=True, slots=True)
class Complete:
    """All events of a subject, by position, and what proves that they are all."""

    checkpoint: pb.CheckpointSigned
    positions: Sequence[int]
    head: Head
    proof: SubjectProof


class Notary:
    """One log's. Thread-safe, one step at a time. Another process may keep the same proofs: neither forks them."""

    def __init__(self, log: Store, proofs: Store, keys: SigningKeys, origin: str, *, step: int = STEP) -> None:
        self._log = log
        self._proofs = proofs
        self._keys = keys
        self._vkeys = [key.public.vkey for key in keys.active]
        self._origin = origin
        self._step = step
        self._lock = threading.Lock()
        # What stands in memory belongs to this checkpoint, None before anything was read.
        self._at: pb.CheckpointSigned | None = None
        self._tree = Frontier()
        self._map = MapTree()

    @property
    def keys(self) -> SigningKeys:
        """The keys that sign, and those that did."""
        return self._keys

    def checkpoint(self) -> pb.CheckpointSigned:
        """Takes over the log as it ends now, and signs: the last checkpoint says all of it from here on.

        Raises: UnavailableError where a store is away; NewerLogError for an event that this code is too old for.
        """
        with self._log.snapshot() as reader:
            end = reader.last_position()
        while True:
            signed = self.advance()
            if signed.position >= end:
                return signed

    def follow(self) -> bool:
        """Takes over what the log has more, a step at most, and signs it; answers whether the log has still more.

        Raises: as `checkpoint`.
        """
        signed = self.advance()
        with self._log.snapshot() as reader:
            return reader.last_position() > signed.position

    def advance(self) -> pb.CheckpointSigned:
        """Takes over what the log has more, a step at most, and signs it; else gives the last checkpoint.

        Raises: as `checkpoint`.
        """
        with self._lock:
            try:
                with self._proofs.transaction() as tx:
                    return self._step_in(tx)
            except BaseException:
                # What is in memory may be ahead of what was committed.
                self._at = None
                raise

    def _step_in(self, tx: Transaction) -> pb.CheckpointSigned:
        before = self._load(tx)
        with self._log.snapshot() as reader:
            rows = reader.read_logged(before.position, limit=self._step)
        if before.note and not rows and list(before.vkeys) == self._vkeys:
            self._at = before
            return before
        if rows:
            leaves = [leaf_hash(leaf_of(*row)) for row in rows]
            self._grow_map(tx, before.size, leaves, subjects_of(rows))
            self._grow_tree(tx, before.size, rows, leaves)
        size, root = self._tree.size, self._tree.root
        position = rows[-1].position if rows else before.position
        said = Checkpoint(self._origin, size, root, self._map.root, position, tx.now)
        signed = pb.CheckpointSigned(
            note=self._keys.sign(said.text()),
            size=size,
            position=position,
            root=root,
            map_root=said.map_root,
            vkeys=self._vkeys,
        )
        tx.append(
            [
                NewEvent(
                    CHECKPOINTS,
                    tx.last_version(CHECKPOINTS) + 1,
                    pb.CheckpointSigned.DESCRIPTOR.full_name,
                    signed.SerializeToString(deterministic=True),
                    tx.now,
                )
            ]
        )
        self._at = signed
        return signed

    def _load(self, tx: Transaction) -> pb.CheckpointSigned:
        """The last checkpoint; what is kept in memory is made to belong to it."""
        last = _last_signed(tx) or pb.CheckpointSigned(root=EMPTY_ROOT)
        if self._at == last:
            return last
        # Nothing was read yet, or another notary went on.
        self._tree = Frontier(last.size, _nodes(tx))
        self._map = MapTree()
        self._map.put((bucket_of(number), bucket_hash(Bucket(kept).entries)) for number, kept in tx.scan("buckets"))
        return last

    def _grow_tree(self, tx: Transaction, size: int, rows: Sequence[LoggedRow], leaves: Sequence[bytes]) -> None:
        tiles: dict[bytes, bytes] = {}
        for level, nodes in enumerate(self._tree.grow(leaves)):
            if level % _TILE_LEVELS == 0:
                tiles |= _tiled(tx, level // _TILE_LEVELS, size >> level, nodes)
        tx.put_many("tiles", tiles)
        tx.put_many("places", dict(_placed(tx, size, [row.position for row in rows])))

    def _grow_map(
        self, tx: Transaction, size: int, leaves: Sequence[bytes], subjects: Sequence[Sequence[bytes]]
    ) -> None:
        keys = {subject: key_of(subject) for each in subjects for subject in each}
        numbers = {key[:2] for key in keys.values()}
        stored = tx.get_many("buckets", numbers)
        buckets = {number: Bucket(stored.get(number, b"")) for number in numbers}
        lists = {subject: buckets[key[:2]].get(key) for subject, key in keys.items()}
        links: dict[int, list[bytes]] = {}
        join, link = next_head, _LINK.pack
        for index, (leaf, each) in enumerate(zip(leaves, subjects, strict=True), size):
            for subject in each:
                events, head, last = lists[subject]
                lists[subject] = Listed(events + 1, join(head, leaf), index + 1)
                links.setdefault(index // TILE, []).append(link(index % TILE, keys[subject], last))
        for subject, listed in lists.items():
            key = keys[subject]
            buckets[key[:2]].put(key, listed)
        tx.put_many("buckets", {number: bucket.kept for number, bucket in buckets.items()})
        held = tx.get_many("links", [_u64(tile) for tile in links])
        tx.put_many("links", {_u64(tile): held.get(_u64(tile), b"") + b"".join(each) for tile, each in links.items()})
        self._map.put((bucket_of(number), bucket_hash(bucket.entries)) for number, bucket in buckets.items())

    def checkpoints(
        self, *, after: int = 0, limit: int, newest_first: bool = False
    ) -> list[tuple[int, pb.CheckpointSigned]]:
        """What was signed, each with its number from 1: in order behind `after`, or down from it (0: the end)."""
        with self._proofs.snapshot() as reader:
            if not newest_first:
                found = reader.read_stream(CHECKPOINTS, after_version=after, limit=limit)
            else:
                end = after or reader.last_version(CHECKPOINTS) + 1
                first = max(1, end - limit)
                found = reader.read_stream(CHECKPOINTS, after_version=first - 1, limit=end - first)[::-1]
        return [(event.version, pb.CheckpointSigned.FromString(event.payload)) for event in found]

    def inclusion(self, size: int, positions: Iterable[int], *, events: bool = False) -> tuple[int, list[Placed]]:
        """What proves events, by position, in the log of the checkpoint of a size (0: the last); that size too.

        Raises: NotFoundError for a size that no checkpoint has, or a position that its log does not have.
        """
        with self._proofs.snapshot() as reader:
            last = _known_last(reader).size
            size = size or last
            if not 0 < size <= last:
                raise NotFoundError(
                    "CHECKPOINT_NOT_FOUND",
                    f"no checkpoint has the size {size}: give that of one that was made; the last one has {last}",
                    {"size": str(size)},
                )
            node_at = _nodes(reader)
            places = _Places(reader)
            found = [(position, places.index_of(position, size)) for position in positions]
            placed = [Placed(position, index, inclusion_proof(index, size, node_at)) for position, index in found]
        if events:
            with self._log.snapshot() as log:
                placed = [
                    replace(each, row=log.read_logged(each.position - 1, until=each.position)[0]) for each in placed
                ]
        return size, placed

    def consistency(self, old_size: int, new_size: int) -> list[bytes]:
        """What proves the log of `old_size` events to be the beginning of that of `new_size`.

        Raises: NotFoundError where there are not so many yet, or old_size > new_size.
        """
        with self._proofs.snapshot() as reader:
            last = _known_last(reader).size
            if not 0 <= old_size <= new_size <= last:
                raise NotFoundError(
                    "CHECKPOINT_NOT_FOUND",
                    f"no proof leads from {old_size} to {new_size} events: give the sizes of two checkpoints, the "
                    f"older first; the last one has {last}",
                    {"size": str(new_size)},
                )
            return consistency_proof(old_size, new_size, _nodes(reader))

    def complete(self, subject: bytes) -> Complete:
        """All events of a subject up to the last checkpoint. Raises: NotFoundError before the first."""
        key = key_of(subject)
        while True:
            with self._lock, self._proofs.snapshot() as reader:
                signed = _known_last(reader)
                if self._at is not None and self._at.position == signed.position:
                    bucket = Bucket(reader.get("buckets", key[:2]) or b"")
                    listed = bucket.get(key)
                    indices = list(_indices(reader, key, listed))
                    proof = self._map.proof(bucket_of(key), bucket.entries)
                    places = _Places(reader)
                    positions = [places.position_of(index) for index in reversed(indices)]
                    return Complete(signed, positions, Head(listed.events, listed.head), proof)
            # Nothing is in memory yet, or another process went on: this one follows.
            self.advance()


def _tiled(reader: Reader, level: int, first: int, nodes: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """The rows of a level of tiles that nodes, the first of them at index `first`, change."""
    at, held = first, b""
    if first % TILE and nodes:
        key = _tile_key(level, first // TILE)
        held = reader.get("tiles", key) or b""
    taken = 0
    while taken < len(nodes):
        room = TILE - at % TILE
        some = nodes[taken : taken + room]
        yield _tile_key(level, at // TILE), held + b"".join(some)
        taken, at, held = taken + len(some), at + len(some), b""


def _placed(reader: Reader, first: int, positions: Sequence[int]) -> Iterator[tuple[bytes, bytes]]:
    """The rows of places that positions, the first of them at index `first`, change."""
    at, held = first, reader.get("places", _u64(first // TILE)) or b"" if first % TILE else b""
    while positions:
        some, positions = positions[: TILE - at % TILE], positions[TILE - at % TILE :]
        yield _u64(at // TILE), held + Struct(f">{len(some)}Q").pack(*some)
        at, held = at + len(some), b""


class _Places:
    """Where events of a tree stand in the log, and the other way round: positions may have gaps."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._tiles: dict[int, tuple[int, ...]] = {}

    def position_of(self, index: int) -> int:
        return self._tile(index // TILE)[index % TILE]

    def index_of(self, position: int, size: int) -> int:
        """Raises: NotFoundError where the first `size` events have none at the position."""
        # A tile begins no earlier than at the position behind its index.
        low, high = 0, min(max(position - 1, 0), max(size - 1, 0)) // TILE
        while low < high:
            middle = (low + high + 1) // 2
            if self._tile(middle)[0] <= position:
                low = middle
            else:
                high = middle - 1
        tile = self._tile(low)
        at = bisect_left(tile, position)
        index = low * TILE + at
        if at == len(tile) or tile[at] != position or index >= size:
            raise NotFoundError(
                "POSITION_NOT_FOUND",
                f"the log of {size} events has none at position {position}: give the position of one of them",
                {"position": str(position), "size": str(size)},
            )
        return index

    def _tile(self, number: int) -> tuple[int, ...]:
        found = self._tiles.get(number)
        if found is None:
            kept = self._reader.get("places", _u64(number)) or b""
            found = self._tiles[number] = Struct(f">{len(kept) // 8}Q").unpack(kept)
        return found


def _u64(number: int) -> bytes:
    return number.to_bytes(8, "big")


def _tile_key(level: int, tile: int) -> bytes:
    return bytes((level,)) + _u64(tile)


def _nodes(reader: Reader) -> NodeAt:
    """The nodes of the tree as a reader sees it; those between the levels that are kept are hashed once."""
    tiles: dict[bytes, bytes] = {}
    hashed: dict[tuple[int, int], bytes] = {}

    def node_at(level: int, index: int) -> bytes:
        kept, between = divmod(level, _TILE_LEVELS)
        if between:
            found = hashed.get((level, index))
            if found is None:
                found = node_hash(node_at(level - 1, 2 * index), node_at(level - 1, 2 * index + 1))
                hashed[level, index] = found
            return found
        key = _tile_key(kept, index // TILE)
        tile = tiles.get(key)
        if tile is None:
            tile = tiles[key] = reader.get("tiles", key) or b""
        start = index % TILE * _HASH
        return tile[start : start + _HASH]

    return node_at


def _last_signed(reader: Reader) -> pb.CheckpointSigned | None:
    events = reader.read_stream(CHECKPOINTS, after_version=reader.last_version(CHECKPOINTS) - 1)
    return pb.CheckpointSigned.FromString(events[-1].payload) if events else None


def _known_last(reader: Reader) -> pb.CheckpointSigned:
    signed = _last_signed(reader)
    if signed is None:
        raise NotFoundError("CHECKPOINT_NOT_FOUND", "no checkpoint was made yet: make one", {"size": "0"})
    return signed


def _indices(reader: Reader, key: bytes, listed: Listed) -> Iterator[int]:
    """The indices of a subject's events, last first, along the links of its list."""
    tile_held, links = -1, b""
    following = listed.last
    while following:
        index = following - 1
        yield index
        if index // TILE != tile_held:
            tile_held = index // TILE
            links = reader.get("links", _u64(tile_held)) or b""
        wanted = _LINK.pack(index % TILE, key, 0)[: 1 + _LINK_KEY]
        at = next(at for at in range(0, len(links), _LINK.size) if links.startswith(wanted, at))
        following = _LINK.unpack_from(links, at)[2]
