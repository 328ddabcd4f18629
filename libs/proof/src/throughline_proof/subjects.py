"""The map from every subject of a log to the head of its list of events, as it grows.

A checkpoint signs the root of the map: it says for every subject how many events of the log concern it, and which.
Whoever is shown a subject's events can tell whether one was left out. `verifier` has the construction.
"""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct
from typing import Final, NamedTuple

from throughline_proof.verifier import (
    ENTRY_BYTES,
    FAN,
    NO_HEAD,
    Head,
    SubjectProof,
    bucket_hash,
    commitment,
    group_hash,
    key_of,
    next_head,
)

BUCKETS: Final = FAN * FAN
_HASH: Final = 32
_LIST: Final = Struct(f">Q{_HASH}sQ")
_KEPT: Final = ENTRY_BYTES + _LIST.size


class Listed(NamedTuple):
    """A subject's list: how many events, the hash over them, and the index of the last one, plus one (0: none)."""

    events: int
    head: bytes
    last: int


UNLISTED: Final = Listed(0, NO_HEAD, 0)
"""The list of a subject that no event concerns."""


def bucket_of(key: bytes) -> int:
    """The bucket of a key."""
    return key[0] << 8 | key[1]


class Bucket:
    """The subjects of one bucket and their lists, in key order. `entries` is what a proof shows."""

    __slots__ = ("_lists", "entries")

    def __init__(self, kept: bytes = b"") -> None:
        # As a store keeps it: all entries, then all lists.
        shown = len(kept) // _KEPT * ENTRY_BYTES
        self.entries = kept[:shown]
        self._lists = kept[shown:]

    @property
    def kept(self) -> bytes:
        """The bucket, serialised."""
        return self.entries + self._lists

    def get(self, key: bytes) -> Listed:
        """A subject's list."""
        at = self._place(key)
        return UNLISTED if at < 0 else Listed(*_LIST.unpack_from(self._lists, at * _LIST.size))

    def put(self, key: bytes, listed: Listed) -> None:
        """Sets a subject's list."""
        at = self._place(key)
        follows = at + 1
        if at < 0:
            keys = (self.entries[start : start + _HASH] for start in range(0, len(self.entries), ENTRY_BYTES))
            at = follows = sum(each < key for each in keys)
        entry = key + commitment(Head(listed.events, listed.head))
        self.entries = self.entries[: at * ENTRY_BYTES] + entry + self.entries[follows * ENTRY_BYTES :]
        self._lists = b"".join(
            (self._lists[: at * _LIST.size], _LIST.pack(*listed), self._lists[follows * _LIST.size :])
        )

    def _place(self, key: bytes) -> int:
        at = self.entries.find(key)
        while at % ENTRY_BYTES and at > 0:
            at = self.entries.find(key, at + 1)
        return at // ENTRY_BYTES


class MapTree:
    """The hashes above the buckets, in memory: 2 MiB, however many subjects there are."""

    def __init__(self) -> None:
        group = bucket_hash(b"") * FAN
        self._groups = [bytearray(group) for _ in range(FAN)]
        self._top = bytearray(group_hash(group) * FAN)

    def put(self, hashes: Iterable[tuple[int, bytes]]) -> None:
        """Sets buckets' hashes, and renews what stands above them once."""
        touched: set[int] = set()
        for bucket, hashed in hashes:
            group, place = bucket >> 8, (bucket & 0xFF) * _HASH
            self._groups[group][place : place + _HASH] = hashed
            touched.add(group)
        for group in touched:
            place = group * _HASH
            self._top[place : place + _HASH] = group_hash(bytes(self._groups[group]))

    @property
    def root(self) -> bytes:
        """The map's root."""
        return group_hash(bytes(self._top))

    def proof(self, bucket: int, entries: bytes) -> SubjectProof:
        """What leads from a bucket's entries to the root."""
        return SubjectProof(entries, bytes(self._groups[bucket >> 8]), bytes(self._top))


class SubjectMap:
    """A whole map in memory: what an auditor who holds the log recomputes."""

    def __init__(self) -> None:
        self._buckets: dict[int, Bucket] = {}

    def join(self, subject: bytes, index: int, leaf: bytes) -> None:
        """Adds an event, by index and leaf hash, to a subject's list."""
        key = key_of(subject)
        bucket = self._buckets.setdefault(bucket_of(key), Bucket())
        events, head, _ = bucket.get(key)
        bucket.put(key, Listed(events + 1, next_head(head, leaf), index + 1))

    def head(self, subject: bytes) -> Head:
        """A subject's head."""
        key = key_of(subject)
        listed = self._buckets.get(bucket_of(key), Bucket()).get(key)
        return Head(listed.events, listed.head)

    def tree(self) -> MapTree:
        """The hashes above the buckets."""
        tree = MapTree()
        tree.put((number, bucket_hash(bucket.entries)) for number, bucket in self._buckets.items())
        return tree

    def prove(self, subject: bytes) -> SubjectProof:
        """What proves a subject's head against the root."""
        number = bucket_of(key_of(subject))
        return self.tree().proof(number, self._buckets.get(number, Bucket()).entries)
