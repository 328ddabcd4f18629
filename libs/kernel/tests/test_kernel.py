"""The kernel's promises."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from throughline_kernel import (
    InvalidError,
    Violation,
    announce,
    canonical_json,
    combine_digests,
    digest,
    hex_id,
    is_hex_id,
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(st.lists(st.text(), min_size=1), st.lists(st.text(), min_size=1))
def test_ids_are_equal_only_where_all_parts_are(left: list[str], right: list[str]) -> None:
    """("ab", "c") and ("a", "bc") never share an id."""
    assert (hex_id(*left) == hex_id(*right)) == (left == right)


def test_an_id_has_one_form() -> None:
    """32 lowercase hex digits, and nothing after them."""
    assert is_hex_id(hex_id("source", "1"))
    assert not is_hex_id(hex_id("source", "1") + "\n")
    assert not is_hex_id(hex_id("source", "1").upper() + "G")


@given(st.dictionaries(st.text(), json_values))
def test_canonical_json_does_not_depend_on_insertion_order(state: dict[str, object]) -> None:
    """The same state has the same bytes however it was built."""
    assert canonical_json(state) == canonical_json(dict(reversed(state.items())))


def test_canonical_json_refuses_floats_at_any_depth() -> None:
    """A float hidden in a list in a dictionary is found."""
    with pytest.raises(TypeError, match="floats"):
        canonical_json({"a": [{"b": 1.5}]})


def test_a_state_without_order_has_no_digest() -> None:
    """Keys out of order or repeated are refused rather than digested."""
    with pytest.raises(ValueError, match="must increase"):
        combine_digests([("b", digest(b"1")), ("a", digest(b"2"))])
    with pytest.raises(ValueError, match="must increase"):
        combine_digests([("a", digest(b"1")), ("a", digest(b"1"))])


numbers = st.dictionaries(st.text(), st.integers())


@given(numbers, numbers)
def test_announcing_leads_from_before_to_after(before: dict[str, int], after: dict[str, int]) -> None:
    """Taking away what is retracted and adding what is added gives exactly what follows now."""
    said = announce(before, after)
    kept = {key: value for key, value in before.items() if key not in said.retracted}
    assert kept | said.added == after
    assert not kept.keys() & said.added.keys()


def test_an_invalid_request_names_every_broken_rule() -> None:
    """Field, rule and remedy of each violation stand in the message."""
    refusal = InvalidError.of(
        Violation("source", "is required", "name the reporting system", "FIELD_REQUIRED"),
        Violation("score", "0 to 10", "send a number on the scale"),
    )
    assert refusal.reason == "FIELD_REQUIRED"
    assert "score: 0 to 10; send a number on the scale" in refusal.message
