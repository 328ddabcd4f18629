"""One form for the JSON objects that are sent along."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestion.adapters.json_objects import (
    DEPTH_RULE,
    NOT_AN_OBJECT,
    NUL_RULE,
    NUMBER_RULE,
    canonical_object,
)

texts = st.text().filter(lambda text: "\0" not in text and text.isprintable())
scalars = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | texts
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=8
)


@given(st.dictionaries(texts, values, max_size=6), st.randoms(use_true_random=False))
def test_order_and_white_space_do_not_matter(members: dict[str, Any], random: Any) -> None:
    """Two ways of writing the same object come out equal, say the same, and come out the same again."""
    shuffled = list(members.items())
    random.shuffle(shuffled)
    compact = json.dumps(members, ensure_ascii=False).encode()
    spaced = json.dumps(dict(shuffled), indent=3).encode()
    written = canonical_object(compact)
    assert written == canonical_object(spaced)
    assert json.loads(written or b"{}") == members
    assert not written or canonical_object(written) == written


def test_an_empty_object_is_as_good_as_none() -> None:
    """A source that always sends braces does not differ from one that sends nothing."""
    assert canonical_object(b" { } ") == b""


@pytest.mark.parametrize(
    ("raw", "rule"),
    [
        (b"[1]", NOT_AN_OBJECT),
        (b"3", NOT_AN_OBJECT),
        (b'{"a":', NOT_AN_OBJECT),
        (b'{"a":"\xff"}', NOT_AN_OBJECT),
        (b'{"a":NaN}', NOT_AN_OBJECT),
        (b'{"a":"\\ud800"}', NOT_AN_OBJECT),
        (b'{"a":1e400}', NOT_AN_OBJECT),
        (b'{"a":123456789012345678901}', NUMBER_RULE),
        (b'{"a":-9223372036854775809}', NUMBER_RULE),
        (b'{"a":' + b"9" * 300 + b"}", NUMBER_RULE),
        (b'{"a":' + b"9" * 5_000 + b"}", NOT_AN_OBJECT),
        (b'{"a":"x\\u0000"}', NUL_RULE),
        (b'{"a\\u0000":1}', NUL_RULE),
        (b'{"a":' + b"[" * 16 + b"]" * 16 + b"}", DEPTH_RULE),
        (b'{"a":' + b"[" * 900 + b"]" * 900 + b"}", DEPTH_RULE),
        (b'{"a":' + b"[" * 9_000 + b"]" * 9_000 + b"}", NOT_AN_OBJECT),
        (b'{"n":"1234567890123456789","a":' + b"[" * 1_000 + b"]" * 1_000 + b"}", DEPTH_RULE),
    ],
)
def test_what_is_no_such_object_is_refused_with_the_rule(raw: bytes, rule: str) -> None:
    """Nothing that two readers could take for different things gets in."""
    with pytest.raises(ValueError, match=re.escape(rule)):
        canonical_object(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a":18446744073709551615,"b":-9223372036854775808}',
        b'{"a":1e3}',
        b'{"a":"\\\\u0000"}',
        b'{"a":"1234567890123456789012345678901234567890"}',
        b'{"a":' + b"[" * 15 + b"]" * 15 + b"}",
    ],
)
def test_what_only_looks_suspicious_passes(raw: bytes) -> None:
    """The quick looks are followed by exact ones."""
    assert json.loads(canonical_object(raw)) == json.loads(raw)
