"""Names from which no value can be read back."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from throughline_privacy import (
    IdentifierHasher,
    Shape,
    persona_id,
    persona_of_interaction,
    persona_of_session,
)

KEY = bytes(range(32))
identifiers = st.lists(
    st.tuples(st.sampled_from(["email", "phone"]), st.binary(min_size=32, max_size=32), st.integers(1, 2)),
    min_size=1,
    max_size=4,
)


def test_a_hash_is_the_hmac_that_the_contract_names() -> None:
    """HMAC-SHA256 over `type NUL normalised value` under the installation's key."""
    for key in (KEY, bytes(range(64)), bytes(range(200))):
        expected = hmac.new(key, b"email\x00anna@firma.de", hashlib.sha256).digest()
        assert IdentifierHasher(key).hash("email", " Anna@Firma.de") == expected


def test_hashes_differ_by_type_value_and_key() -> None:
    """Equal hashes mean equal identifiers of one installation and nothing else."""
    one, other = IdentifierHasher(KEY), IdentifierHasher(bytes(32))
    hashes = {
        one.hash("email", "a@firma.de"),
        one.hash("email", "b@firma.de"),
        one.hash("cookie", "a@firma.de"),
        other.hash("email", "a@firma.de"),
    }
    assert len(hashes) == 4


def test_a_hash_does_not_depend_on_what_is_cached() -> None:
    """A cache that overflows, or is dropped, changes no result."""
    values = [("email", f"{number}@firma.de") for number in range(40)]
    small, large = IdentifierHasher(KEY, cache_size=3), IdentifierHasher(KEY)
    assert small.hash_many(values) == large.hash_many(values) == small.hash_many(values)
    large.drop_cache()
    assert large.hash_many(values[:1])[0].shape is Shape.NORMAL
    assert large.identify(*values[7]) == small.identify(*values[7])


def test_a_short_key_is_refused() -> None:
    """A key that could be guessed protects nobody."""
    with pytest.raises(ValueError, match="at least 32"):
        IdentifierHasher(b"short")


@given(identifiers, st.randoms(use_true_random=False))
def test_a_persona_is_a_set(presented: list[tuple[str, bytes, int]], random: object) -> None:
    """Order and repetition of what was presented together say nothing."""
    shuffled = presented + presented[:1]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert persona_id(shuffled) == persona_id(presented)
    assert len(persona_id(presented)) == 16


@given(identifiers, identifiers)
def test_other_identifiers_are_another_persona(
    one: list[tuple[str, bytes, int]], other: list[tuple[str, bytes, int]]
) -> None:
    """Personas are equal only where the sets are, assurance included."""
    assert (persona_id(one) == persona_id(other)) == (set(one) == set(other))


def test_kinds_sources_and_generations_of_personas_never_meet() -> None:
    """A session, an interaction and an identifier of one name are three; a forgotten persona begins anew as another."""
    hasher = IdentifierHasher(KEY)
    personas = [
        persona_of_session("web", "s1"),
        persona_of_session("web", "s1", 1),
        persona_of_session("app", "s1"),
        persona_of_session("we", "bs1"),
        hasher.persona_of_session("web", "s1"),
        hasher.persona_of_session("web", "s1", 1),
        persona_of_interaction("s1"),
        persona_of_interaction("s1", 1),
        persona_of_interaction("s1", 2),
        persona_id([("s1", b"", 0)]),
        persona_id([]),
    ]
    assert len(set(personas)) == len(personas)
    assert persona_of_session("web", "s1", 0) == persona_of_session("web", "s1")
