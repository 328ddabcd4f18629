"""What tells a duplicate from a conflict: a keyed code over an interaction's content."""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

import msgspec

from ingestion.domain.interaction import Interaction

MAC_BYTES: Final = 16
_VERSION: Final = b"throughline.ingestion.content.v1\0"
_FIRST_FIELDS: Final = 27
_IDENTIFIERS: Final = Interaction._fields.index("identifiers")

_encode: Final = msgspec.msgpack.Encoder().encode


class ContentMac:
    """Keyed BLAKE2b, 16 bytes, over MessagePack of the fields in their order, under a key of its own.

    Equal content has one code for ever, whatever library wrote the message: the form is this module's own, and a
    golden test holds it. Identifiers count as a set, JSON objects by what they say, defaults as if they had been
    written out. Keyed, because content holds personal values that could be guessed from a plain hash.
    """

    def __init__(self, hash_key: bytes) -> None:
        self._key = blake2b(_VERSION, key=hash_key[:64], digest_size=32).digest()

    def of(self, interaction: Interaction) -> bytes:
        """16 bytes."""
        identifiers = interaction.identifiers
        if len(identifiers) > 1:
            as_set = (tuple(sorted(set(identifiers))),)
            content = _encode(interaction[:_IDENTIFIERS] + as_set + interaction[_IDENTIFIERS + 1 : _FIRST_FIELDS])
        else:
            content = _encode(interaction[:_FIRST_FIELDS])
        # A field added after the first release counts only where it is set: what was recorded before keeps its code.
        return blake2b(content, key=self._key, digest_size=MAC_BYTES).digest()
