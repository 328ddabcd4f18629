"""Places in a list, as callers carry them."""

from __future__ import annotations

import base64
import binascii

import msgspec

from identity.domain.personas import OrderKey
from identity.domain.refusals import invalid

_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(OrderKey)


def order_token(key: OrderKey) -> str:
    """A token for the place behind this interaction."""
    return base64.urlsafe_b64encode(_ENCODER.encode(key)).decode()


def read_order_token(token: str) -> OrderKey | None:
    """The place that a token names, None for an empty one. Raises: InvalidError."""
    if not token:
        return None
    try:
        return _DECODER.decode(base64.urlsafe_b64decode(token))
    except (binascii.Error, msgspec.DecodeError, ValueError) as error:
        raise invalid("page_token", "a token of ours", "give the next_page_token of the page before") from error
