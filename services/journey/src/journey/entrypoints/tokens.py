"""Tokens: random ones for hand-offs, and page tokens that say where a history goes on."""

from __future__ import annotations

import base64
import binascii
import secrets
import struct
from hashlib import blake2b
from typing import Final, NamedTuple

from throughline_kernel import Interval, InvalidError, Violation

_FORM: Final = struct.Struct(">16sqqqqi")
_SUM: Final = 4


def new_token() -> str:
    """A hand-off's token: 256 random bits, URL-safe."""
    return secrets.token_urlsafe(32)


class PageToken(NamedTuple):
    """Where a history goes on: whose, as of when and of which interval as it was asked for, then the instant that the
    answer stands on, and from which entry.
    """

    client_id: str
    as_of: int
    between: Interval
    instant: int
    start: int

    def text(self) -> str:
        """The token as a caller gets it."""
        raw = _FORM.pack(bytes.fromhex(self.client_id), self.as_of, *self.between, self.instant, self.start)
        return base64.urlsafe_b64encode(raw + _sum(raw)).decode().rstrip("=")


def read_page_token(text: str) -> PageToken:
    """The token that a caller gives back.

    Raises: InvalidError (PAGE_TOKEN_INVALID).
    """
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != _FORM.size + _SUM or _sum(raw[: _FORM.size]) != raw[_FORM.size :]:
        raise InvalidError.of(
            Violation(
                "page_token",
                "is one of ours",
                "give next_page_token as it came, with the same client, instant and interval",
                "PAGE_TOKEN_INVALID",
            )
        )
    client, as_of, begin, end, instant, start = _FORM.unpack(raw[: _FORM.size])
    return PageToken(client.hex(), as_of, Interval(begin, end), instant, start)


def _sum(raw: bytes) -> bytes:
    return blake2b(raw, digest_size=_SUM, person=b"journey.page").digest()
