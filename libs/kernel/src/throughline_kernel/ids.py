"""Ids that follow from what they name, so that no decision needs randomness."""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Final

HEX_ID: Final = re.compile(r"[0-9a-f]{32}\Z")


def hex_id(*parts: str | bytes) -> str:
    """Names whatever the parts name: 32 hex digits, BLAKE2b-128 over the length-prefixed parts.

    The length prefix keeps ("ab", "c") and ("a", "bc") apart.
    """
    hashed = blake2b(digest_size=16)
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        hashed.update(len(raw).to_bytes(4, "big"))
        hashed.update(raw)
    return hashed.hexdigest()


def is_hex_id(text: str) -> bool:
    """Tells whether the text has the form of an id: 32 lowercase hex digits."""
    return HEX_ID.match(text) is not None
