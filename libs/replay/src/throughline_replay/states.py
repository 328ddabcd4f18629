"""Two states of one service held side by side, aggregate by aggregate, whatever their size."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from typing import Final

from throughline_kernel import digest
from throughline_replay.comparing import Difference, difference_within, differences_within

_FAMILY: Final = re.compile("[./]")
LISTED: Final = 50
"""Aggregates that are named one by one; the others are counted."""


@dataclass(slots=True)
class Family:
    """How many aggregates of a kind are alike in two states, changed, gone and new."""

    alike: int = 0
    changed: int = 0
    gone: int = 0
    new: int = 0


@dataclass(frozen=True, slots=True)
class Standing:
    """Two states compared: digests (hex), counts by the kind of aggregate (what its key begins with), and the first
    aggregates that differ.

    In a `Difference`, `live` is what stands and `replayed` what would stand.
    """

    digest: str
    derived_digest: str
    families: Mapping[str, Family]
    listed: tuple[Difference, ...]

    @property
    def same(self) -> bool:
        """The two are the same to the last bit."""
        return self.digest == self.derived_digest

    @property
    def first(self) -> Difference | None:
        """The first aggregate that differs, in key order."""
        return self.listed[0] if self.listed else None


def compare_states(
    standing: Iterable[tuple[str, bytes]], derived: Iterable[tuple[str, bytes]], named: Sequence[str] = ()
) -> Standing:
    """Compares two states given as (key, canonical JSON) in key order, in memory for two aggregates.

    With `named`, only aggregates whose key ends in one of these are looked at, and all that differs in them is listed,
    not the first difference of each alone. Raises ValueError where keys do not increase.
    """
    ours, theirs = _Keyed(standing, named), _Keyed(derived, named)
    families: dict[str, Family] = {}
    listed: list[Difference] = []
    while ours.key is not None or theirs.key is not None:
        key = min(key for key in (ours.key, theirs.key) if key is not None)
        there, here = ours.take(key), theirs.take(key)
        family = families.setdefault(_FAMILY.split(key, 1)[0], Family())
        if there == here:
            family.alike += 1
            continue
        family.gone += here is None
        family.new += there is None
        family.changed += there is not None and here is not None
        if named and there is not None and here is not None:
            listed += islice(differences_within(key, there, here), LISTED)
        elif len(listed) < LISTED:
            listed.append(difference_within(key, there or b"", here or b""))
    return Standing(ours.digest(), theirs.digest(), families, tuple(listed))


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
