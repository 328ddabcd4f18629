"""Metrics as data: what may be defined, and what a condition matches."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scoring.domain.facts import Contact
from scoring.domain.metrics import Condition, MetricDefinition, Unit, define
from throughline_kernel import ConflictError, InvalidError
from throughline_testkit import given

METRIC = MetricDefinition(
    "solved", 1, "Solved", "Ended resolved", Unit.CASE, Condition(), Condition(outcomes=frozenset({"resolved"}))
)


def known(*definitions: MetricDefinition) -> dict[str, MetricDefinition]:
    return {definition.metric: definition for definition in definitions}


def test_versions_follow_one_another() -> None:
    """The first is 1; the same again is nothing new; a gap is refused and told the next one."""
    second = replace(METRIC, version=2)
    given(lambda state, _: state, known()).when(define, METRIC).then(METRIC)
    given(lambda state, _: state, known(METRIC)).when(define, METRIC).then_nothing()
    given(lambda state, _: state, known(METRIC)).when(define, second).then(second)
    given(lambda state, _: state, known(METRIC)).when(define, replace(METRIC, version=3)).then_refused(
        ConflictError, reason="METRIC_VERSION_STALE", version="3", next="2"
    )


@pytest.mark.parametrize(
    ("broken", "field", "reason"),
    [
        (replace(METRIC, metric=""), "definition.metric", "FIELD_REQUIRED"),
        (replace(METRIC, metric="Solved!"), "definition.metric", "METRIC_INVALID"),
        (replace(METRIC, metric="nps"), "definition.metric", "METRIC_INVALID"),
        (replace(METRIC, name=""), "definition.name", "FIELD_REQUIRED"),
        (replace(METRIC, definition=""), "definition.definition", "FIELD_REQUIRED"),
        (replace(METRIC, unit=Unit.UNSPECIFIED), "definition.unit", "METRIC_INVALID"),
        (replace(METRIC, numerator=Condition()), "definition.numerator", "METRIC_INVALID"),
    ],
)
def test_a_definition_that_breaks_a_rule_is_told_which(broken: MetricDefinition, field: str, reason: str) -> None:
    """Field, rule and remedy, per broken rule."""
    refusal = given(lambda state, _: state, known()).when(define, broken).then_refused(InvalidError, field=field)
    assert [(each.field, each.reason) for each in refusal.violations] == [(field, reason)]
    assert all(each.rule and each.remedy for each in refusal.violations)


def test_all_parts_of_a_condition_hold_and_any_value_within_one() -> None:
    """Attributes are compared as text, whatever they were in JSON."""
    contact = Contact(
        0,
        "s",
        0,
        "i",
        "web",
        "home",
        "call",
        "",
        "",
        "bill",
        "open",
        0,
        "",
        0,
        "",
        0,
        0,
        0,
        b'{"n":0,"t":"x","b":true}',
    )
    attributes = (("b", "true"), ("n", "0"), ("t", "x"))
    assert Condition().holds(contact)
    assert Condition(channels=frozenset({"web", "app"}), kinds=frozenset({"call"}), attributes=attributes).holds(
        contact
    )
    for other in (
        Condition(sources=frozenset({"x"})),
        Condition(channels=frozenset({"app"})),
        Condition(kinds=frozenset({"x"})),
        Condition(touchpoints=frozenset({"x"})),
        Condition(outcomes=frozenset({"x"})),
        Condition(matters=frozenset({"x"})),
        Condition(attributes=(("n", "1"),)),
        Condition(attributes=(("absent", ""),)),
    ):
        assert not other.holds(contact)
    assert not Condition(attributes=(("n", "0"),)).holds(contact._replace(attributes=b""))
    assert not Condition(attributes=(("n", "0"),)).holds(contact._replace(attributes=b"[0]"))
    assert not Condition(attributes=(("n", "0"),)).holds(contact._replace(attributes=b"{"))
