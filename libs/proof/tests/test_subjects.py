"""A map says of every subject how many events there are and which: no other head passes for it."""

from __future__ import annotations

from hashlib import sha256

from hypothesis import given
from hypothesis import strategies as st

from throughline_proof.subjects import SubjectMap
from throughline_proof.verifier import (
    ENTRY_BYTES,
    FAN,
    NOTHING,
    Head,
    SubjectProof,
    head_over,
    key_of,
    leaf_hash,
    verify_subject,
)

SUBJECTS = [sha256(bytes((number,))).digest()[:16] for number in range(6)]


def same_bucket(count: int) -> list[bytes]:
    """Subjects that share a bucket."""
    found: dict[bytes, list[bytes]] = {}
    number = 0
    while True:
        subject = number.to_bytes(16, "big")
        together = found.setdefault(key_of(subject)[:2], [])
        together.append(subject)
        if len(together) == count:
            return together
        number += 1


def hashes(count: int) -> list[bytes]:
    """Leaf hashes."""
    return [leaf_hash(number.to_bytes(2, "big")) for number in range(count)]


def mapped(concerns: list[list[bytes]]) -> SubjectMap:
    """The map of a log whose events concern these subjects."""
    made = SubjectMap()
    for index, (leaf, subjects) in enumerate(zip(hashes(len(concerns)), concerns, strict=True)):
        for subject in subjects:
            made.join(subject, index, leaf)
    return made


@given(st.lists(st.lists(st.sampled_from(SUBJECTS), unique=True, max_size=3), max_size=30), st.integers(0, 29))
def test_the_whole_list_is_proved_and_no_other(concerns: list[list[bytes]], place: int) -> None:
    """Leaving out, adding or swapping an event of a subject gives a head that the map does not say."""
    made = mapped(concerns)
    root, leaves = made.tree().root, hashes(len(concerns))
    for subject in SUBJECTS:
        own = [leaf for leaf, subjects in zip(leaves, concerns, strict=True) if subject in subjects]
        proof = made.prove(subject)
        assert made.head(subject) == head_over(own)
        assert verify_subject(subject, head_over(own), proof, root)
        if own:
            left_out = place % len(own)
            assert not verify_subject(subject, head_over(own[:left_out] + own[left_out + 1 :]), proof, root)
            assert not verify_subject(subject, NOTHING, proof, root)
        assert not verify_subject(subject, head_over([*own, leaf_hash(b"added")]), proof, root)
        if len(own) > 1:
            assert not verify_subject(subject, head_over([own[1], own[0], *own[2:]]), proof, root)


def test_subjects_of_one_bucket_are_told_apart() -> None:
    """Each has its own entry; one that is not there is proved to be not there."""
    *there, absent = same_bucket(4)
    made = mapped([there[:1], there[1:], there])
    root, leaves = made.tree().root, hashes(3)
    proof = made.prove(there[0])
    assert len(proof.entries) == 3 * ENTRY_BYTES
    assert verify_subject(there[0], head_over([leaves[0], leaves[2]]), proof, root)
    assert verify_subject(there[1], head_over(leaves[1:]), proof, root)
    assert verify_subject(absent, NOTHING, proof, root)
    assert not verify_subject(absent, Head(1, bytes(32)), proof, root)


def test_a_proof_that_is_bent_proves_nothing() -> None:
    """Any byte of it, its entries in another order, or an entry too many."""
    first, second, _ = there = same_bucket(3)
    made = mapped([there, [second]])
    head, root, proof = made.head(first), made.tree().root, made.prove(first)
    assert verify_subject(first, head, proof, root)
    for name, part in proof._asdict().items():
        for at in range(0, len(part), 7):
            bent = part[:at] + bytes((part[at] ^ 1,)) + part[at + 1 :]
            assert not verify_subject(first, head, proof._replace(**{name: bent}), root)
    entries = [proof.entries[at : at + ENTRY_BYTES] for at in range(0, len(proof.entries), ENTRY_BYTES)]
    for forged in (entries[::-1], entries[1:], [*entries, entries[-1]], [*entries, bytes(ENTRY_BYTES)]):
        assert not verify_subject(first, head, proof._replace(entries=b"".join(forged)), root)
    assert not verify_subject(first, head, SubjectProof(proof.entries, proof.group[:-32], proof.top), root)
    assert not verify_subject(first, head, SubjectProof(proof.entries, proof.group, proof.top + bytes(32)), root)
    assert not verify_subject(first, head, proof, bytes(32))


def test_the_root_follows_from_the_events_alone() -> None:
    """Whatever the order in which subjects first came; and an empty map has the root of 65,536 empty buckets."""
    both = SUBJECTS[:2]
    assert mapped([both]).tree().root == mapped([both[::-1]]).tree().root
    group = sha256(b"\x04" + sha256(b"\x03").digest() * FAN).digest()
    assert SubjectMap().tree().root == sha256(b"\x04" + group * FAN).digest()
