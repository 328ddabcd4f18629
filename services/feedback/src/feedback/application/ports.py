"""What feedback needs beside its own log and tables."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from throughline_eventlog import Reader, Transaction
from throughline_kernel import Recorded


@dataclass(frozen=True, slots=True)
class Hashed:
    """An identifier without its value: type, 32 bytes, assurance and shape as numbered in the contract."""

    type: str
    hash: bytes
    assurance: int
    shape: int


@dataclass(frozen=True, slots=True)
class SealedWords:
    """Words under a persona's key."""

    key_id: bytes
    box: bytes = field(repr=False)


class Words(Protocol):
    """Opens and seals the client's own words. Nothing else does."""

    def open_many(self, sealed: Sequence[tuple[SealedWords, int]]) -> list[str | None]:
        """The words of each box's entry; None where the person was forgotten."""
        ...

    def seal_many(self, items: Sequence[tuple[str, Sequence[Hashed], str]]) -> list[SealedWords]:
        """Seals each (feedback id, identifiers, words) under its persona's key.

        An item that names nobody has a key of its own.
        """
        ...

    def destroy(self, key_ids: Collection[bytes]) -> None:
        """Destroys keys for good."""
        ...


class Identifiers(Protocol):
    """Names for identifiers from which no value can be read back."""

    def hash(self, type_: str, value: str, assurance: int) -> Hashed:
        """The identifier without its value."""
        ...

    def content_mac(self, parts: Sequence[bytes]) -> bytes:
        """16 bytes that tell the same content from another, under the installation's key."""
        ...


class Clients(Protocol):
    """Who an id or an identifier means now, folded from identity's log in this service's own tables."""

    def apply(self, tx: Transaction, events: Sequence[Recorded]) -> None:
        """Takes what identity published."""
        ...

    def resolve(self, reader: Reader, client_id: str, identifiers: Sequence[tuple[str, bytes]]) -> str:
        """The client id that these mean now, empty where they mean nobody or somebody forgotten.

        An id that identity has not told of yet stands for itself.
        """
        ...

    def all_ids(self, reader: Reader, client_id: str) -> tuple[str, ...]:
        """The client's id and every alias of it, from any of them; the id itself where identity has not told of it."""
        ...
