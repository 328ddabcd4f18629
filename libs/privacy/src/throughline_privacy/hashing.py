"""Names for identifiers and for those who present them, from which no value can be read back."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from functools import lru_cache
from hashlib import blake2b, sha256
from typing import Final, NamedTuple

from throughline_privacy.identifiers import Shape, normalise, shape

HASH_KEY_BYTES: Final = 32
_BLOCK: Final = 64
_LENGTHS: Final = tuple(length.to_bytes(4, "big") for length in range(256))


class HashedIdentifier(NamedTuple):
    """An identifier as it may cross the bus: its type, 32 bytes, and what can be told of its shape."""

    type: str
    hash: bytes
    shape: Shape


class IdentifierHasher:
    """Hashes identifiers under the installation's key: HMAC-SHA256 over `type NUL normalised value`.

    Whoever lacks the key cannot test a guess. Up to `cache_size` results are remembered, by value.
    Raises: ValueError where the key is shorter than 32 bytes.
    """

    def __init__(self, key: bytes, *, cache_size: int = 65_536) -> None:
        if len(key) < HASH_KEY_BYTES:
            raise ValueError(f"the hash key has {len(key)} bytes; give at least {HASH_KEY_BYTES}")

        # HMAC by its definition (RFC 2104): both padded keys are hashed once, and copied for each message. A third of
        # the time.
        padded = (key if len(key) <= _BLOCK else sha256(key).digest()).ljust(_BLOCK, b"\0")
        inner, outer = sha256(bytes(byte ^ 0x36 for byte in padded)), sha256(bytes(byte ^ 0x5C for byte in padded))

        @lru_cache(maxsize=cache_size)
        def identify(type: str, value: str) -> HashedIdentifier:  # noqa: A002 -- the word of the contract
            normalised = normalise(type, value)
            within, around = inner.copy(), outer.copy()
            within.update(f"{type}\0{normalised}".encode("utf-8", "surrogatepass"))
            around.update(within.digest())
            return HashedIdentifier(type, around.digest(), shape(type, normalised))

        self._identify = identify
        self._session_key = hmac.digest(key, b"session", "sha256")

    def identify(self, type: str, value: str) -> HashedIdentifier:  # noqa: A002 -- the word of the contract
        """Hash and shape of one identifier, given in the clear and in any way of writing."""
        return self._identify(type, value)

    def hash(self, type: str, value: str) -> bytes:  # noqa: A002 -- the word of the contract
        """The 32 bytes of one identifier."""
        return self._identify(type, value).hash

    def hash_many(self, identifiers: Iterable[tuple[str, str]]) -> list[HashedIdentifier]:
        """Hash and shape of each (type, value), in the order given."""
        identify = self._identify
        return [identify(type_, value) for type_, value in identifiers]

    def persona_of_session(self, source: str, session_id: str, generation: int = 0) -> bytes:
        """The persona of an anonymous session, 16 bytes; keyed, so that nobody else can test a session id
        against it.
        """
        return persona_of_session(source, session_id, generation, key=self._session_key)

    def drop_cache(self) -> None:
        """Forgets the values remembered: after a person was forgotten none of theirs stays in memory."""
        self._identify.cache_clear()


def persona_id(identifiers: Iterable[tuple[str, bytes, int]], generation: int = 0) -> bytes:
    """The persona that presents these (type, hash, assurance) together: 16 bytes, whatever their order and
    repetition.

    After a persona was forgotten the same identifiers begin anew under the next generation.
    """
    parts: list[bytes] = [b"identifiers"]
    for type_, hash_, assurance in sorted(set(identifiers)):
        parts += (type_.encode(), hash_, b"%d" % assurance)
    return _persona(parts, generation)


def persona_of_session(source: str, session_id: str, generation: int = 0, *, key: bytes = b"") -> bytes:
    """The persona of an anonymous session at one source, 16 bytes.

    A session id is personal and often easy to guess: give a `key` (at most 64 bytes), as `IdentifierHasher`
    does.
    """
    return _persona([b"session", source.encode(), session_id.encode("utf-8", "surrogatepass")], generation, key)


def persona_of_interaction(interaction_id: str, generation: int = 0) -> bytes:
    """The persona of an interaction that names nobody, 16 bytes: it stands alone."""
    return _persona([b"interaction", interaction_id.encode()], generation)


def _persona(parts: list[bytes], generation: int, key: bytes = b"") -> bytes:
    if generation:
        parts.append(b"generation %d" % generation)
    # The length before each part keeps ("ab", "c") and ("a", "bc") apart.
    framed: list[bytes] = []
    for part in parts:
        length = len(part)
        framed += (_LENGTHS[length] if length < 256 else length.to_bytes(4, "big"), part)
    return blake2b(b"".join(framed), digest_size=16, key=key, person=b"persona").digest()
