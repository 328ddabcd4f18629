"""What an identifier is once its accidents of writing are gone."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from throughline.ingestion.v1.interaction_pb2 import IdentifierShape
from throughline_privacy import PHONE_TYPES, Shape, normalise, shape

types = st.sampled_from(["email", "phone", "loyalty_card", "cookie", "social_handle", "household"])


@pytest.mark.parametrize(
    ("type_", "written", "one_form"),
    [
        ("email", "  Anna.Meier@Firma.DE ", "anna.meier@firma.de"),
        ("email", "anna @firma.de", "anna@firma.de"),
        ("email", "\uff41nna@firma.de", "anna@firma.de"),
        ("email", "STRASSE@x.de", "strasse@x.de"),
        ("email", "straße@x.de", "strasse@x.de"),
        ("email", "anna\u200b@firma.de", "anna@firma.de"),
        ("phone", "+49 (30) 1234-567", "+49301234567"),
        ("phone", "0049 30 1234567", "+49301234567"),
        ("phone", "tel:+49-30-1234567", "+49301234567"),
        ("phone", "+44 (0)20 7123 4567", "+442071234567"),
        ("phone", "\uff0b\uff14\uff19 30 12", "+493012"),
        ("phone", "(030) 1234567", "0301234567"),
        ("phone", "none", ""),
        ("social_handle", "  Anna\t Meier ", "anna meier"),
        ("loyalty_card", "ÄB\u00a012", "äb 12"),
        ("cookie", "ab\x00c\x07", "abc"),
        ("household", "2469", "2469"),
    ],
)
def test_ways_of_writing_the_same_thing_come_out_equal(type_: str, written: str, one_form: str) -> None:
    """Case, spaces, width, composition and punctuation of numbers say nothing."""
    assert normalise(type_, written) == one_form


@given(types, st.text())
@example("cookie", "e\u200b\u0301")
@example("cookie", "\u0390\u200b")
@example("email", "T\xa8")
@example("phone", "+(0)(0)12")
def test_normalising_again_changes_nothing(type_: str, value: str) -> None:
    """The normal form is stable, or one person would have two hashes."""
    once = normalise(type_, value)
    assert normalise(type_, once) == once


@given(types.filter(lambda each: each not in PHONE_TYPES), st.text())
def test_composed_and_decomposed_text_are_one(type_: str, value: str) -> None:
    """A phone that writes é as two code points and a till that writes one mean the same person."""
    assert normalise(type_, unicodedata.normalize("NFD", value)) == normalise(
        type_, unicodedata.normalize("NFC", value)
    )


@pytest.mark.parametrize(
    ("type_", "value", "expected"),
    [
        ("email", "anna.meier@firma.de", Shape.NORMAL),
        ("email", "   ", Shape.BLANK),
        ("phone", "-", Shape.BLANK),
        ("loyalty_card", "0", Shape.REPEATED),
        ("loyalty_card", "000-00-0000", Shape.REPEATED),
        ("loyalty_card", "9999999999", Shape.REPEATED),
        ("cookie", "xxxx", Shape.REPEATED),
        ("cookie", "----", Shape.REPEATED),
        ("household", "111", Shape.NORMAL),
        ("household", "7", Shape.NORMAL),
        ("customer_number", "100000", Shape.NORMAL),
        ("phone", "+1 999 999 9999", Shape.REPEATED),
        ("phone", "000", Shape.REPEATED),
        ("customer_number", "-1", Shape.PLACEHOLDER),
        ("phone", "-1", Shape.PLACEHOLDER),
        ("phone", "1234567890", Shape.PLACEHOLDER),
        ("customer_number", "NULL", Shape.PLACEHOLDER),
        ("customer_number", "(none)", Shape.PLACEHOLDER),
        ("customer_number", "N/A", Shape.PLACEHOLDER),
        ("customer_number", "Anonymous", Shape.PLACEHOLDER),
        ("customer_number", "not provided", Shape.PLACEHOLDER),
        ("customer_number", "test", Shape.PLACEHOLDER),
        ("customer_number", "Unbekannt", Shape.PLACEHOLDER),
        ("customer_number", "Inconnu", Shape.PLACEHOLDER),
        ("customer_number", "Desconocido", Shape.PLACEHOLDER),
        ("customer_number", "Неизвестно", Shape.PLACEHOLDER),
        ("customer_number", "不明", Shape.PLACEHOLDER),
        ("customer_number", "غير معروف", Shape.PLACEHOLDER),
        ("email", "none@none.com", Shape.PLACEHOLDER),
        ("email", "unknown@firma.de", Shape.PLACEHOLDER),
        ("email", "a@a.com", Shape.PLACEHOLDER),
        ("email", "@firma.de", Shape.PLACEHOLDER),
        ("email", "test@firma.de", Shape.TEST),
        ("email", "test123+x@firma.de", Shape.TEST),
        ("email", "anna@example.com", Shape.TEST),
        ("email", "anna@mail.example.org", Shape.TEST),
        ("email", "anna@shop.test", Shape.TEST),
        ("email", "testa.rossi@firma.it", Shape.NORMAL),
        ("email", "anna@examplecom.de", Shape.NORMAL),
        ("phone", "+1 555 0123", Shape.TEST),
        ("phone", "+1 (212) 555-0199", Shape.TEST),
        ("phone", "+1 212 555 0299", Shape.NORMAL),
        ("phone", "+44 7700 900123", Shape.TEST),
        ("phone", "+49 30 1234567", Shape.NORMAL),
    ],
)
def test_what_systems_write_where_they_have_nothing_is_seen(type_: str, value: str, expected: Shape) -> None:
    """Identity never links two people by `null`, and never takes household 111 for a blank."""
    assert shape(type_, normalise(type_, value)) is expected


@pytest.mark.parametrize(
    ("type_", "value", "expected"),
    [
        ("social_handle", "@mira.kw", Shape.NORMAL),
        ("social_handle", "@anonymous", Shape.PLACEHOLDER),
        ("email", "@mira.kw", Shape.PLACEHOLDER),
    ],
)
def test_a_handle_may_begin_with_the_sign_of_an_address(type_: str, value: str, expected: Shape) -> None:
    """`@mira.kw` is a handle; as an address it has nothing before its sign."""
    assert shape(type_, normalise(type_, value)) is expected


@given(types, st.text())
def test_every_value_has_a_shape(type_: str, value: str) -> None:
    """No input, however odd, stops the line."""
    assert shape(type_, normalise(type_, value)) in Shape


def test_shapes_are_those_of_the_contract() -> None:
    """The numbers cross the bus as `IdentifierShape`."""
    contract = {name.removeprefix("IDENTIFIER_SHAPE_"): number for name, number in IdentifierShape.items() if number}
    assert {each.name: each.value for each in Shape} == contract
