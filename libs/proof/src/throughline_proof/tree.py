"""A Merkle tree over a log, as RFC 6962 and RFC 9162 define it: how it grows, and what proves leaves and growth.

Leaf hashes are SHA-256(0x00 || leaf), inner ones SHA-256(0x01 || left || right). A *node* (level, index) is the hash
over the leaves from index * 2^level on, 2^level of them: all that a growing tree ever has to keep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import sha256
from typing import Final

from throughline_proof.verifier import EMPTY_ROOT, node_hash

NodeAt = Callable[[int, int], bytes]
"""The hash of node (level, index), which the tree is large enough to have."""


LEVELS: Final = 64
"""More than any log's tree has."""


class Frontier:
    """What of a growing tree the next leaves need: of every level with an odd number of nodes the last one."""

    def __init__(self, size: int = 0, node_at: NodeAt | None = None) -> None:
        """Of a tree of `size` leaves, whose nodes `node_at` gives; of an empty one without."""
        self.size = size
        self._last = [b""] * LEVELS
        if node_at is not None:
            for level in range(LEVELS):
                if size >> level & 1:
                    self._last[level] = node_at(level, (size >> level) - 1)

    def grow(self, leaves: Iterable[bytes]) -> list[list[bytes]]:
        """Takes the hashes of the next leaves; the nodes that they add, by level, each level's in order of their index.

        Levels that get none are left out at the end.
        """
        hashing = sha256
        added = [list(leaves)]
        level = 0
        while True:
            nodes, held = added[level], self.size >> level
            # A node without a partner waits: where the held ones are odd, the last of them is the first one's partner.
            pending = [self._last[level], *nodes] if held & 1 else nodes
            above = [
                hashing(b"\x01" + pending[place] + pending[place + 1]).digest()
                for place in range(0, len(pending) - 1, 2)
            ]
            if nodes and held + len(nodes) & 1:
                self._last[level] = nodes[-1]
            if not above:
                self.size += len(added[0])
                return added
            added.append(above)
            level += 1

    @property
    def root(self) -> bytes:
        """The root of the tree."""
        root = b""
        for level, last in enumerate(self._last):
            if self.size >> level & 1:
                root = node_hash(last, root) if root else last
        return root or EMPTY_ROOT


def subtree_hash(first: int, end: int, node_at: NodeAt) -> bytes:
    """The hash over the leaves first ... end-1 of a tree: MTH(D[first:end]). At least one leaf."""
    count = end - first
    level = count.bit_length() - 1
    if count == 1 << level and not first & (count - 1):
        return node_at(level, first >> level)
    split = _largest_power_below(count)
    return node_hash(
        subtree_hash(first, first + split, node_at),
        subtree_hash(first + split, end, node_at),
    )


def inclusion_proof(index: int, size: int, node_at: NodeAt) -> list[bytes]:
    """PATH(index, D[size]): what proves that leaf `index` is in the tree of the first `size` leaves.

    Raises: ValueError where there is no such leaf.
    """
    if not 0 <= index < size:
        raise ValueError(f"leaf {index} is not among the first {size}")
    proof: list[bytes] = []
    first, end = 0, size
    while end - first > 1:
        split = first + _largest_power_below(end - first)
        if index < split:
            proof.append(subtree_hash(split, end, node_at))
            end = split
        else:
            proof.append(subtree_hash(first, split, node_at))
            first = split
    return proof[::-1]


def consistency_proof(old: int, new: int, node_at: NodeAt) -> list[bytes]:
    """PROOF(old, D[new]): what proves that the tree of `old` leaves is the beginning of that of `new`; empty for none.

    Raises: ValueError where old > new.
    """
    if not 0 <= old <= new:
        raise ValueError(f"a tree of {old} leaves is not the beginning of one of {new}")
    if old in {0, new}:
        return []
    proof: list[bytes] = []
    first, end, whole = 0, new, True
    while old != end:
        split = first + _largest_power_below(end - first)
        if old <= split:
            proof.append(subtree_hash(split, end, node_at))
            end = split
        else:
            proof.append(subtree_hash(first, split, node_at))
            first, whole = split, False
    if not whole:
        proof.append(subtree_hash(first, end, node_at))
    return proof[::-1]


def _largest_power_below(count: int) -> int:
    """The largest power of two smaller than a count above 1."""
    return 1 << ((count - 1).bit_length() - 1)
