"""One way to turn state into bytes, and bytes into a digest, so that two states can be compared."""

from __future__ import annotations

import json
from collections.abc import Iterable
from hashlib import sha256


def canonical_json(value: object) -> bytes:
    """Writes JSON of which there is one form only: sorted keys, no white space, UTF-8. Floats and NaN are refused.

    Floats have no place in a state that two replays must agree on to the last bit: amounts and weights are integers.

    Raises: TypeError where a float or an unknown type stands in the value.
    """
    _refuse_floats(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _refuse_floats(value: object) -> None:
    if isinstance(value, float):
        raise TypeError(f"canonical state holds no floats: {value!r}; store integers (micros)")
    if isinstance(value, dict):
        for item in value.values():  # pyright: ignore[reportUnknownVariableType] -- any JSON value
            _refuse_floats(item)  # pyright: ignore[reportUnknownArgumentType] -- any JSON value
    elif isinstance(value, list | tuple):
        for item in value:  # pyright: ignore[reportUnknownVariableType] -- any JSON value
            _refuse_floats(item)  # pyright: ignore[reportUnknownArgumentType] -- any JSON value


def digest(data: bytes) -> bytes:
    """SHA-256 of the bytes: 32 bytes."""
    return sha256(data).digest()


def combine_digests(digests: Iterable[tuple[str, bytes]]) -> str:
    """SHA-256, hex, over (key, digest) pairs in key order: the digest of a whole state.

    Raises: ValueError where keys are not strictly increasing: an unordered state has no digest.
    """
    hashed = sha256()
    previous: str | None = None
    for key, value in digests:
        if previous is not None and key <= previous:
            raise ValueError(f"state keys must increase: {key!r} follows {previous!r}")
        previous = key
        hashed.update(key.encode() + b"\x00" + value)
    return hashed.hexdigest()
