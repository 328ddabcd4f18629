"""What a client says about purposes, and when it was said."""

from __future__ import annotations

from typing import Final

from identity.domain.refusals import invalid
from throughline_kernel import AUDIT

# A caller's clock may be ahead by so much, in microseconds: what it dates so is said now.
_AHEAD: Final = 60_000_000


def check_purpose(purpose: str) -> None:
    """Raises: InvalidError for the purpose that no consent is asked for."""
    if purpose == AUDIT:
        raise invalid("purpose", f"any but {AUDIT}: no consent is asked for it", "name what the client spoke of")


def said_at(at: int, now: int) -> int:
    """When a word was said, microseconds: as told (0: now). Raises: InvalidError where that is still to come."""
    if at > now + _AHEAD:
        raise invalid("at", "not in the future", "give when the client said so, or 0 for now")
    return min(at, now) or now
