"""Two states of one service held side by side, aggregate by aggregate, whatever their size."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import islice
from typing import Any, Final

from throughline_kernel import digest
from throughline_replay.comparing import Difference, difference_within, differences_within

_FAMILY: Final = re.compile("[./]")
LISTED: Final = 50
"""Aggregates of a kind that are named one by one; the others are counted."""

Parts = Callable[[str, Any], Iterable[tuple[str, str, Any]]]
"""What is counted within an aggregate, given by its key and JSON value: (kind, id, value) each."""


@dataclass(slots=True)
class Family:
    """How many aggregates, or parts of them, of a kind are alike in two states, changed, gone and new."""

    alike: int = 0
    changed: int = 0
    gone: int = 0
    new: int = 0

    def count(self, there: object, here: object) -> None:
        """One more that is this in either state, None where it is not."""
        self.alike += there == here
        self.gone += here is None
        self.new += there is None
        self.changed += there is not None and here is not None and there != here


@dataclass(frozen=True, slots=True)
class Standing:
    """Two states compared: digests (hex), counts by the kind of aggregate (what its key begins with), the first
    aggregates of each kind that differ, and counts by the kind of part, where parts are counted.

    In a `Difference`, `live` is what stands and `replayed` what would stand. A part that would be in another aggregate
    counts as one that would not be and one that would be new.
    """

    digest: str
    derived_digest: str
    families: Mapping[str, Family]
    listed: tuple[Difference, ...]
    parts: Mapping[str, Family] = field(default_factory=dict[str, Family])

    @property
    def same(self) -> bool:
        """The two are the same to the last bit."""
        return self.digest == self.derived_digest

    @property
    def first(self) -> Difference | None:
        """The first aggregate that differs, in key order."""
        return self.listed[0] if self.listed else None


def compare_states(
    standing: Iterable[tuple[str, bytes]],
    derived: Iterable[tuple[str, bytes]],
    named: Sequence[str] = (),
    parts: Parts | None = None,
) -> Standing:
    """Compares two states given as (key, canonical JSON) in key order, in memory for two aggregates.

    With `named`, only aggregates whose key ends in one of these are looked at, and all that differs in them is listed,
    not the first difference of each alone. Raises ValueError where keys do not increase.
    """
    ours, theirs = _Keyed(standing, named), _Keyed(derived, named)
    families: dict[str, Family] = {}
    counted: dict[str, Family] = {}
    listed: list[Difference] = []
    while ours.key is not None or theirs.key is not None:
        key = min(key for key in (ours.key, theirs.key) if key is not None)
        there, here = ours.take(key), theirs.take(key)
        family = families.setdefault(family_of(key), Family())
        family.count(there, here)
        if parts is not None:
            _count_parts(counted, _parts_of(parts, key, there), _parts_of(parts, key, here))
        if there == here:
            continue
        if named and there is not None and here is not None:
            listed += islice(differences_within(key, there, here), LISTED)
        elif family.changed + family.gone + family.new <= LISTED:
            listed.append(difference_within(key, there or b"", here or b""))
    return Standing(ours.digest(), theirs.digest(), families, tuple(listed), counted)


def family_of(key: str) -> str:
    """The kind of aggregate that has the key."""
    return _FAMILY.split(key, 1)[0]


def _parts_of(parts: Parts, key: str, state: bytes | None) -> dict[tuple[str, str], Any]:
    return {} if state is None else {(kind, name): value for kind, name, value in parts(key, json.loads(state))}


def _count_parts(
    counted: dict[str, Family], there: Mapping[tuple[str, str], Any], here: Mapping[tuple[str, str], Any]
) -> None:
    for part in there.keys() | here.keys():
        counted.setdefault(part[0], Family()).count(there.get(part), here.get(part))


class _Keyed:
    """Aggregates one by one, and the digest of those that went by: as `combine_digests` has it."""

    def __init__(self, aggregates: Iterable[tuple[str, bytes]], named: Sequence[str]) -> None:
        self._left: Iterator[tuple[str, bytes]] = (
            (key, state) for key, state in aggregates if not named or key.endswith(tuple(named))
        )
        self._hashed = sha256()
        self._state = b""
        self.key: str | None = None
        self._next()

    def take(self, key: str) -> bytes | None:
        """The aggregate, where it is the next one."""
        if self.key != key:
            return None
        state = self._state
        self._hashed.update(key.encode() + b"\x00" + digest(state))
        self._next()
        return state

    def digest(self) -> str:
        """SHA-256, hex."""
        return self._hashed.hexdigest()

    def _next(self) -> None:
        before = self.key
        self.key, self._state = next(self._left, (None, b""))
        if self.key is not None and before is not None and self.key <= before:
            raise ValueError(f"state keys must increase: {self.key!r} follows {before!r}")
