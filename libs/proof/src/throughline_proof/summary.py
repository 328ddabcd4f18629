"""A log summed up as its checkpoints sum it up, recomputed from the events alone."""

from __future__ import annotations

from collections.abc import Sequence

from throughline_eventlog import LoggedRow
from throughline_proof.concerns import subjects_of
from throughline_proof.subjects import SubjectMap
from throughline_proof.tree import grown
from throughline_proof.verifier import EMPTY_ROOT, Head, SubjectProof, leaf_hash, leaf_of, node_hash

_LEVELS = 64


class LogSummary:
    """Root and map of the events taken so far. Keeps one hash a level of the tree, and one entry a subject."""

    def __init__(self) -> None:
        self.size = 0
        self._last = [b""] * _LEVELS
        self._map = SubjectMap()

    def take(self, rows: Sequence[LoggedRow]) -> None:
        """Takes the next events of the log, in order."""
        leaves = [leaf_hash(leaf_of(*row)) for row in rows]
        for level, nodes in enumerate(grown(self.size, self._last, leaves)):
            if (self.size >> level) + len(nodes) & 1:
                self._last[level] = nodes[-1]
        for index, (leaf, subjects) in enumerate(zip(leaves, subjects_of(rows), strict=True), self.size):
            for subject in subjects:
                self._map.join(subject, index, leaf)
        self.size += len(rows)

    @property
    def root(self) -> bytes:
        """The RFC 6962 root over the events."""
        root = b""
        for level in range(_LEVELS):
            if self.size >> level & 1:
                root = node_hash(self._last[level], root) if root else self._last[level]
        return root or EMPTY_ROOT

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
