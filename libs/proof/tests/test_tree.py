"""The tree is RFC 6962's and RFC 9162's: their vectors, their recursive definition, and proofs that cannot be bent."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from throughline_proof.tree import Frontier, consistency_proof, inclusion_proof, subtree_hash
from throughline_proof.verifier import EMPTY_ROOT, leaf_hash, node_hash, verify_consistency, verify_inclusion

# The leaves, roots and proofs that implementations of RFC 6962 test themselves with (the reference data of Certificate
# Transparency): facts, written out by hand.
LEAVES = [bytes.fromhex(each) for each in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657")] + [
    bytes.fromhex("606162636465666768696a6b6c6d6e6f")
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
# Leaf, size and proof.
INCLUSIONS = [
    (0, 1, []),
    (
        0,
        8,
        [
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ],
    ),
    (
        5,
        8,
        [
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
    (2, 3, ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"]),
    (
        1,
        5,
        [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ],
    ),
]
# Old size, new size and proof.
CONSISTENCIES = [
    (1, 1, []),
    (
        1,
        8,
        [
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ],
    ),
    (
        6,
        8,
        [
            "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
    (
        2,
        5,
        [
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ],
    ),
]


class Tree:
    """A tree kept as its nodes, grown in steps."""

    def __init__(self, leaves: list[bytes], steps: list[int] | None = None) -> None:
        self.levels: list[list[bytes]] = [[]]
        self.frontier = Frontier()
        hashes = [leaf_hash(leaf) for leaf in leaves]
        start = 0
        for step in [*(steps or []), len(hashes)]:
            some = hashes[start : start + step]
            for level, nodes in enumerate(self.frontier.grow(some)):
                if level == len(self.levels):
                    self.levels.append([])
                self.levels[level] += nodes
            start += len(some)

    def __len__(self) -> int:
        return len(self.levels[0])

    def node_at(self, level: int, index: int) -> bytes:
        """A node."""
        return self.levels[level][index]

    def root(self, size: int) -> bytes:
        """The root of the first leaves."""
        return subtree_hash(0, size, self.node_at) if size else EMPTY_ROOT


def defined(leaves: list[bytes]) -> bytes:
    """MTH as RFC 6962, section 2.1, defines it."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaf_hash(leaves[0])
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return node_hash(defined(leaves[:split]), defined(leaves[split:]))


def test_the_published_roots() -> None:
    """Of the empty tree, and of every beginning of the eight leaves."""
    tree = Tree(LEAVES)
    assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert tree.root(0) == EMPTY_ROOT
    assert [tree.root(size).hex() for size in range(1, 9)] == ROOTS


@pytest.mark.parametrize(("index", "size", "proof"), INCLUSIONS)
def test_the_published_inclusion_proofs(index: int, size: int, proof: list[str]) -> None:
    """Made and verified."""
    tree = Tree(LEAVES)
    made = inclusion_proof(index, size, tree.node_at)
    assert [each.hex() for each in made] == proof
    assert verify_inclusion(leaf_hash(LEAVES[index]), index, size, made, tree.root(size))


@pytest.mark.parametrize(("old", "new", "proof"), CONSISTENCIES)
def test_the_published_consistency_proofs(old: int, new: int, proof: list[str]) -> None:
    """Made and verified."""
    tree = Tree(LEAVES)
    made = consistency_proof(old, new, tree.node_at)
    assert [each.hex() for each in made] == proof
    assert verify_consistency(old, new, tree.root(old), tree.root(new), made)


@given(st.lists(st.binary(max_size=4), max_size=70), st.lists(st.integers(1, 9), max_size=12))
def test_a_tree_grown_in_any_steps_is_the_tree_of_the_definition(leaves: list[bytes], steps: list[int]) -> None:
    """For every size on the way."""
    tree = Tree(leaves, steps)
    for size in range(len(leaves) + 1):
        assert tree.root(size) == Frontier(size, tree.node_at).root == defined(leaves[:size])
    assert tree.frontier.root == defined(leaves)


@given(st.data())
def test_every_leaf_is_proved_and_no_other_passes_for_it(data: st.DataObject) -> None:
    """A proof holds for its leaf, place, size and root alone."""
    leaves = [number.to_bytes(2, "big") for number in range(data.draw(st.integers(1, 80)))]
    tree, size = Tree(leaves), len(leaves)
    index = data.draw(st.integers(0, size - 1))
    proof, root, leaf = inclusion_proof(index, size, tree.node_at), tree.root(size), leaf_hash(leaves[index])
    assert verify_inclusion(leaf, index, size, proof, root)
    assert not verify_inclusion(leaf_hash(b"other"), index, size, proof, root)
    assert not verify_inclusion(leaf, index, size, [*proof, leaf], root)
    other = data.draw(st.integers(0, size))
    assert other == index or not verify_inclusion(leaf, other, size, proof, root)
    for place in range(len(proof)):
        assert not verify_inclusion(leaf, index, size, proof[:place] + proof[place + 1 :], root)
        bent = bytes([proof[place][0] ^ 1]) + proof[place][1:]
        assert not verify_inclusion(leaf, index, size, [*proof[:place], bent, *proof[place + 1 :]], root)


@given(st.data())
def test_growth_is_proved_and_a_rewritten_past_is_not(data: st.DataObject) -> None:
    """Whatever is changed in the old leaves, no proof makes the old root fit."""
    leaves = [number.to_bytes(2, "big") for number in range(data.draw(st.integers(1, 80)))]
    tree, new = Tree(leaves), len(leaves)
    old = data.draw(st.integers(0, new))
    proof = consistency_proof(old, new, tree.node_at)
    assert verify_consistency(old, new, tree.root(old), tree.root(new), proof)
    if old:
        changed = list(leaves)
        changed[data.draw(st.integers(0, old - 1))] = b"rewritten"
        rewritten = Tree(changed)
        forged = consistency_proof(old, new, rewritten.node_at)
        assert not verify_consistency(old, new, tree.root(old), rewritten.root(new), forged)
        assert not verify_consistency(old, new, tree.root(old), rewritten.root(new), proof)
        assert not verify_consistency(old, new, tree.root(old), tree.root(new), [*proof, tree.root(new)])


def test_what_cannot_be_proved_is_refused() -> None:
    """A leaf beyond the tree, a tree larger than the one it should be the beginning of."""
    tree = Tree(LEAVES)
    with pytest.raises(ValueError, match="leaf 8"):
        inclusion_proof(8, 8, tree.node_at)
    with pytest.raises(ValueError, match="tree of 5"):
        consistency_proof(5, 4, tree.node_at)
    assert subtree_hash(2, 4, tree.node_at) == node_hash(leaf_hash(LEAVES[2]), leaf_hash(LEAVES[3]))
