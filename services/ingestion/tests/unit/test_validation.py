"""Every rule of an offered interaction, by field, with its remedy."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ingestion_offers import DAY, NOTHING, NOW, PURCHASE

from ingestion.domain.interaction import Exchange, Feedback, Identifier, Money, PromiseMade
from ingestion.domain.validation import MAX_ATTRIBUTES_BYTES, json_object, validate
from throughline_kernel import Violation

LONG = "x" * 257


def feedback(**changes: Any) -> Feedback:
    """A satisfied answer on the own scale of CSAT."""
    return Feedback(2, 4, 1, 5, "", "", "", True, 1_000_000)._replace(**changes)


def test_an_interaction_with_the_five_required_fields_and_nobody_in_it_is_valid() -> None:
    """Anonymous is allowed."""
    assert validate(PURCHASE._replace(identifiers=()), NOW) == []


def test_every_missing_field_is_reported_at_once() -> None:
    """Whoever mends an event learns everything in one go."""
    found = validate(NOTHING, NOW)
    assert [violation.field for violation in found] == [
        "source",
        "source_interaction_id",
        "channel",
        "kind",
        "occurred_at",
    ]
    assert {violation.reason for violation in found} == {"FIELD_REQUIRED"}


@pytest.mark.parametrize(
    ("field", "value", "broken"),
    [
        ("source", "Till 4", "source"),
        ("source", "x" * 65, "source"),
        ("source_interaction_id", LONG, "source_interaction_id"),
        ("source_interaction_id", "a\0b", "source_interaction_id"),
        ("channel", "Store!", "channel"),
        ("kind", "Purchase", "kind"),
        ("kind", "coupon-redeemed", "kind"),
        ("occurred_at", NOW + DAY + 1, "occurred_at"),
        ("occurred_at", 631_151_999_999_999, "occurred_at"),
        ("occurred_at", -1, "occurred_at"),
        ("touchpoint", LONG, "touchpoint"),
        ("session_id", "s\0", "session_id"),
        ("conversation_id", LONG, "conversation_id"),
        ("case_id", LONG, "case_id"),
        ("campaign_id", LONG, "campaign_id"),
        ("staff_id", LONG, "staff_id"),
        ("location_id", LONG, "location_id"),
        ("matter", LONG, "matter"),
        ("outcome", "On Time", "outcome"),
        ("identifiers", (Identifier("email", "a@b.c", 1),) * 33, "identifiers"),
        ("identifiers", (Identifier("", "a@b.c", 1),), "identifiers[0].type"),
        ("identifiers", (Identifier("E-Mail", "a@b.c", 1),), "identifiers[0].type"),
        ("identifiers", (Identifier("email", "x" * 513, 1),), "identifiers[0].value"),
        ("identifiers", (Identifier("email", "x\0", 1),), "identifiers[0].value"),
        ("identifiers", (Identifier("email", "x", 1), Identifier("email", "x", 9)), "identifiers[1].assurance"),
        ("value", Money(1, ""), "value.currency"),
        ("value", Money(1, "usd"), "value.currency"),
        ("cost", Money(1, "EURO"), "cost.currency"),
        ("wait_time", -1, "wait_time"),
        ("handling_time", -1, "handling_time"),
        ("sequence", -1, "sequence"),
        ("exchanges", (Exchange("q", "a", 1),) * 65, "exchanges"),
        ("exchanges", (Exchange("", "a", 1),), "exchanges[0].question"),
        ("exchanges", (Exchange("q", "a" * 4_097, 1),), "exchanges[0].answer"),
        ("exchanges", (Exchange("q", "a", 7),), "exchanges[0].sensitivity"),
        ("promises", (PromiseMade("p", "t", 0),) * 65, "promises"),
        ("promises", (PromiseMade("", "t", 0),), "promises[0].promise_id"),
        ("promises", (PromiseMade("p", "t" * 4_097, 0),), "promises[0].text"),
        ("promises", (PromiseMade("p", "t", 1_000),), "promises[0].due_at"),
        ("promises_kept", ("p",) * 65, "promises_kept"),
        ("promises_kept", ("p", ""), "promises_kept[1]"),
        ("subject_type", 3, "subject_type"),
        ("feedback", (feedback(),) * 65, "feedback"),
        ("feedback", (feedback(kind=0),), "feedback[0].kind"),
        ("feedback", (feedback(kind=7),), "feedback[0].kind"),
        ("feedback", (feedback(score=6),), "feedback[0].score"),
        ("feedback", (feedback(score=0),), "feedback[0].score"),
        ("feedback", (feedback(scale_min=5, scale_max=1),), "feedback[0].scale_max"),
        ("feedback", (feedback(kind=1, scale_min=1, scale_max=5),), "feedback[0].scale_min"),
        ("feedback", (feedback(kind=5, score=3, scale_min=0, scale_max=0),), "feedback[0].score"),
        ("feedback", (feedback(verbatim="x" * 65_537),), "feedback[0].verbatim"),
        ("feedback", (feedback(topic=LONG),), "feedback[0].topic"),
        ("feedback", (feedback(aspect=LONG),), "feedback[0].aspect"),
        ("feedback", (feedback(weight_micros=-1),), "feedback[0].weight_micros"),
    ],
)
def test_a_broken_rule_names_field_rule_and_remedy(field: str, value: object, broken: str) -> None:
    """One broken rule is one violation, at its path."""
    found = validate(PURCHASE._replace(**{field: value}), NOW)
    assert [violation.field for violation in found] == [broken]
    assert found[0].rule
    assert found[0].remedy


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("occurred_at", NOW + DAY),
        ("occurred_at", 631_152_000_000_000),
        ("source_interaction_id", "x" * 256),
        ("identifiers", (Identifier("email", "", 1),) * 32),
        ("value", Money(-1_250_000, "EUR")),
        ("feedback", (feedback(score=None),)),
        ("feedback", (feedback(kind=1, score=0, scale_min=0, scale_max=10),)),
        ("feedback", (feedback(kind=6, score=9, scale_min=1, scale_max=10),)),
        ("feedback", (feedback(kind=5, score=None, scale_min=0, scale_max=0, verbatim="x" * 65_536),)),
        ("subject_type", 2),
    ],
)
def test_the_edge_of_a_rule_is_inside(field: str, value: object) -> None:
    """Limits say what is still allowed."""
    assert validate(PURCHASE._replace(**{field: value}), NOW) == []


@pytest.mark.parametrize(("occurred_at", "unit"), [(1_760_000_000, "seconds"), (1_760_000_000_000, "milliseconds")])
def test_a_time_in_another_unit_is_recognised(occurred_at: int, unit: str) -> None:
    """The commonest mistake is told by its name."""
    (violation,) = validate(PURCHASE._replace(occurred_at=occurred_at), NOW)
    assert violation.remedy.endswith(unit)


def test_attributes_of_a_megabyte_are_refused_unread() -> None:
    """The size is looked at first: nobody parses what is refused anyway."""

    def canonical(_: bytes) -> bytes:
        raise AssertionError("was read")

    found: list[Violation] = []
    raw = b'{"a":"' + b"x" * 1_000_000 + b'"}'
    assert json_object("attributes", raw, canonical, found) == raw
    assert [violation.rule for violation in found] == [f"at most {MAX_ATTRIBUTES_BYTES} bytes"]


@given(
    st.builds(
        NOTHING._replace,
        source=st.text(max_size=70),
        source_interaction_id=st.text(max_size=300),
        channel=st.text(max_size=70),
        kind=st.text(max_size=70),
        occurred_at=st.integers(-(2**63), 2**63 - 1),
        identifiers=st.lists(st.builds(Identifier, st.text(), st.text(), st.integers(-5, 5)), max_size=40).map(tuple),
        wait_time=st.integers(-(2**63), 2**63 - 1),
        feedback=st.lists(
            st.builds(
                Feedback,
                st.integers(-1, 9),
                st.none() | st.integers(-(2**31), 2**31 - 1),
                st.integers(-(2**31), 2**31 - 1),
                st.integers(-(2**31), 2**31 - 1),
                st.text(),
                st.text(),
                st.text(),
                st.booleans(),
                st.integers(-(2**63), 2**63 - 1),
            ),
            max_size=3,
        ).map(tuple),
    )
)
def test_whatever_is_offered_is_judged_and_never_raises(interaction: Any) -> None:
    """Validation answers with violations, in words, for anything a message can hold."""
    for violation in validate(interaction, NOW):
        assert violation.field
        assert violation.rule
        assert violation.remedy
        assert violation.reason in {"FIELD_INVALID", "FIELD_REQUIRED"}
