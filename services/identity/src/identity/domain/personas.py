"""What was presented: identifiers, and the personas that present them together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from throughline_kernel import hex_id


class OrderKey(NamedTuple):
    """The canonical place of an interaction; `interaction_id` has 16 bytes, times are microseconds UTC."""

    occurred_at: int
    source: str
    sequence: int
    interaction_id: bytes


class Presented(NamedTuple):
    """An identifier as a persona presents it. `usable` is false for blanks, placeholders, repeats and test values."""

    type: str
    hash: bytes
    verified: bool
    usable: bool


@dataclass(frozen=True, slots=True)
class Persona:
    """Identifiers that are presented together, since `first`. A session or a nameless interaction presents none."""

    id: bytes
    identifiers: tuple[Presented, ...]
    first: OrderKey


class Anchor(NamedTuple):
    """What a client's id was made of: an identifier in its generation, or a persona (then `type` is empty)."""

    type: str
    key: bytes
    generation: int = 0

    @property
    def client_id(self) -> bytes:
        """16 bytes: the same anchor gives the same id wherever and whenever it is made."""
        return bytes.fromhex(hex_id("client", self.type, self.key, str(self.generation)))


def anchor_of(persona: Persona, identifier: Presented | None, generations: Mapping[bytes, int]) -> Anchor:
    """The anchor of a client that begins with this persona, by the identifier that speaks first for it."""
    if identifier is None:
        return Anchor("", persona.id)
    return Anchor(identifier.type, identifier.hash, generations.get(identifier.hash, 0))


def automatic_merge_id(one: bytes, other: bytes) -> bytes:
    """Names the merge of two clients by evidence, whichever way round: 16 bytes."""
    low, high = sorted((one.hex(), other.hex()))
    return bytes.fromhex(hex_id("merge", low, high))


def decided_merge_id(one: bytes, other: bytes, number: int) -> bytes:
    """Names the number-th decision of a person (from 1) to merge these two: 16 bytes, never given twice."""
    low, high = sorted((one.hex(), other.hex()))
    return bytes.fromhex(hex_id("merge", low, high, "decided", str(number)))
