"""Old events for ever: which versions of each event this program reads, and how older payloads are brought up.

The log is never rewritten. A payload of an older version goes, wherever it is read, through one pure function a
version, and whoever takes it sees the present version alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

Upcaster = Callable[[bytes], bytes]
"""Makes the serialised payload of one version that of the next. Pure, and never refuses: history already happened."""


class Schemas:
    """The upcasters of each event type, by full message name: the first from version 1 to 2, and so on.

    The present version of an event is one above the number of its upcasters; it is the one that is written.
    """

    def __init__(self, upcasters: Mapping[str, Sequence[Upcaster]] | None = None) -> None:
        self._upcasters = {type_: tuple(steps) for type_, steps in (upcasters or {}).items() if steps}
        self.evolved: frozenset[str] = frozenset(self._upcasters)

    def present(self, type_: str) -> int:
        """The version that is written, and the newest that is read."""
        return len(self._upcasters.get(type_, ())) + 1

    def upcast(self, type_: str, version: int, payload: bytes) -> bytes:
        """The payload in the present version, from an older or the same."""
        for step in self._upcasters.get(type_, ())[version - 1 :]:
            payload = step(payload)
        return payload


SCHEMAS: Final = Schemas()
"""Of every event of the suite: whoever reads a log or the bus needs them, whichever service wrote it. All are in their
first version."""
