"""A log summed up as its checkpoints sum it up, recomputed from the events alone."""

from __future__ import annotations

from collections.abc import Sequence

from throughline_eventlog import LoggedRow
from throughline_proof.concerns import subjects_of
from throughline_proof.subjects import SubjectMap
from throughline_proof.tree import Frontier
from throughline_proof.verifier import Head, SubjectProof, leaf_hash, leaf_of


class LogSummary:
    """Root and map of the events taken so far. Keeps one hash a level of the tree, and one entry a subject."""

    def __init__(self) -> None:
        self._tree = Frontier()
        self._map = SubjectMap()

    def take(self, rows: Sequence[LoggedRow]) -> None:
        """Takes the next events of the log, in order."""
        leaves = [leaf_hash(leaf_of(*row)) for row in rows]
        for index, (leaf, subjects) in enumerate(zip(leaves, subjects_of(rows), strict=True), self.size):
            for subject in subjects:
                self._map.join(subject, index, leaf)
        self._tree.grow(leaves)

    @property
    def size(self) -> int:
        """How many events."""
        return self._tree.size

    @property
    def root(self) -> bytes:
        """The RFC 6962 root over the events."""
        return self._tree.root

    @property
    def map_root(self) -> bytes:
        """The root of the map of subjects."""
        return self._map.tree().root

    def head(self, subject: bytes) -> Head:
        """The head of a subject's list."""
        return self._map.head(subject)

    def prove(self, subject: bytes) -> SubjectProof:
        """What proves a subject's head against the map's root."""
        return self._map.prove(subject)
