"""Places in a list, as callers carry them."""

from __future__ import annotations

import base64
import binascii
from typing import Final, NamedTuple, TypeVar

import msgspec

from identity.domain.personas import OrderKey
from identity.domain.refusals import invalid
from throughline_kernel import ALWAYS, Interval

K = TypeVar("K", OrderKey, bytes)

_ENCODER: Final = msgspec.msgpack.Encoder()


class Asked(NamedTuple):
    """What a list was asked for: as of when (microseconds, 0: now), and of which interval."""

    as_of: int
    between: Interval = ALWAYS


class _Token(msgspec.Struct, array_like=True):
    asked: Asked
    # What the first page stands on.
    instant: int
    after: msgspec.Raw


_DECODER: Final = msgspec.msgpack.Decoder(_Token)


def page_token(asked: Asked, instant: int, after: OrderKey | bytes) -> str:
    """A token for the place behind this key, in the list as the instant left it."""
    place = msgspec.Raw(_ENCODER.encode(after))
    return base64.urlsafe_b64encode(_ENCODER.encode(_Token(asked, instant, place))).decode()


def read_page_token(token: str, asked: Asked, key: type[K]) -> tuple[int, K | None]:
    """The instant that the list stands on, and the place that a token names; none for an empty one.

    Raises: InvalidError, also where the token is of another list.
    """
    if not token:
        return asked.as_of, None
    try:
        found = _DECODER.decode(base64.urlsafe_b64decode(token))
        after = msgspec.msgpack.decode(found.after, type=key)
    except (binascii.Error, msgspec.DecodeError, ValueError) as error:
        raise _not_ours() from error
    if found.asked != asked:
        raise _not_ours()
    return found.instant, after


def _not_ours() -> Exception:
    return invalid(
        "page_token", "a token of this list", "give the next_page_token of the page before, and ask for the same"
    )
