"""A Merkle tree over a log, as RFC 6962 and RFC 9162 define it: how it grows, and what proves leaves and growth.

Leaf hashes are SHA-256(0x00 || leaf), inner ones SHA-256(0x01 || left || right). A *node* (level, index) is the hash
over the leaves from index * 2^level on, 2^level of them: all that a growing tree ever has to keep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256

from throughline_proof.verifier import EMPTY_ROOT, node_hash

NodeAt = Callable[[int, int], bytes]
"""The hash of node (level, index), which the tree is large enough to have."""


def grown(size: int, last: Sequence[bytes], leaves: Iterable[bytes]) -> list[list[bytes]]:
    """The nodes that leaves add to a tree of `size` leaves, by level, each level's in order of their index.

    `last`: for every level up to the tree's height the hash of its last node, where their number is odd (elsewhere it
    does not matter): the partner of the first node that comes. Levels that get none are left out at the end.
    """
    hashing = sha256
    added = [list(leaves)]
    level = 0
    while True:
        nodes, held = added[level], size >> level
        # A node without a partner waits: the last one held, where the held ones are odd, is the first one's partner.
        pending = [last[level], *nodes] if held & 1 else nodes
        above = [
            hashing(b"\x01" + pending[place] + pending[place + 1]).digest() for place in range(0, len(pending) - 1, 2)
        ]
        if not above:
            return added
        added.append(above)
        level += 1


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


def root_hash(size: int, node_at: NodeAt) -> bytes:
    """The root of the tree of the first `size` leaves."""
    return subtree_hash(0, size, node_at) if size else EMPTY_ROOT


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
