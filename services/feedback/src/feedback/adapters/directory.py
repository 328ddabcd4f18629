"""Who is meant, as identity has told; and identifiers without their values."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from typing import Final

from feedback.application.ports import Hashed
from throughline_directory import Directory, resolve
from throughline_eventlog import Reader, Transaction
from throughline_kernel import Recorded
from throughline_privacy import IdentifierHasher, Shape

_CONTENT: Final = b"throughline.feedback.content.v1\0"
_MAC_BYTES: Final = 16
_SHAPES: Final = {
    Shape.NORMAL: 1,
    Shape.BLANK: 2,
    Shape.REPEATED: 3,
    Shape.PLACEHOLDER: 4,
    Shape.TEST: 5,
}


class DirectoryClients:
    """The directory in this service's own tables."""

    def __init__(self, hasher: IdentifierHasher) -> None:
        self._directory = Directory(hasher)

    def apply(self, tx: Transaction, events: Sequence[Recorded]) -> None:
        """Takes what identity published."""
        self._directory.apply(tx, events)

    def resolve(self, reader: Reader, client_id: str, identifiers: Sequence[tuple[str, bytes]]) -> str:
        """The client id that these mean now, empty where they mean nobody or somebody forgotten.

        An id that identity has not told of yet stands for itself.
        """
        found = resolve(reader, client_id, [hash_ for _, hash_ in identifiers])
        if found.forgotten:
            return ""
        return found.client_id or client_id

    def all_ids(self, reader: Reader, client_id: str) -> tuple[str, ...]:
        """The client's id and every alias of it, from any of them; the id itself where identity has not told of it."""
        return resolve(reader, client_id, ()).all_ids or (client_id,)


class KeyedIdentifiers:
    """Names identifiers and content under the installation's hash key."""

    def __init__(self, hasher: IdentifierHasher, hash_key: bytes) -> None:
        self._hasher = hasher
        self._key = hmac.digest(hash_key, _CONTENT, "sha256")

    def hash(self, type_: str, value: str, assurance: int) -> Hashed:
        """The identifier without its value."""
        found = self._hasher.identify(type_, value)
        # Unsaid is claimed, as it is everywhere.
        return Hashed(type_, found.hash, assurance or 1, _SHAPES[found.shape])

    def content_mac(self, parts: Sequence[bytes]) -> bytes:
        """16 bytes that tell the same content from another: HMAC-SHA256 over the length-prefixed parts."""
        framed = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
        return hmac.digest(self._key, framed, "sha256")[:_MAC_BYTES]
