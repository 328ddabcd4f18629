"""Definitions as data: what may hold, and what comes with the package."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from journey.adapters.shipped import shipped_definitions
from journey.application.codec import definition_from, definition_message
from journey.domain.definitions import DefineJourney, JourneyDefinition, Match, Stage, define
from throughline.journey.v1 import definitions_pb2
from throughline_kernel import ConflictError, InvalidError

GOOD = JourneyDefinition(
    "returns",
    0,
    "Returns",
    "logistics",
    (
        Stage("asked", "Asked", (Match(kinds=frozenset({"return"})),), entry=True),
        Stage("refunded", "", (Match(kinds=frozenset({"refund"}), attributes=(("full", "true"),)),)),
    ),
    ("refunded",),
    1,
    next_steps=(("asked", "Send the label"),),
)


def test_the_first_version_is_one_and_the_next_one_more() -> None:
    """Given no version, the next one is taken; the same definition again changes nothing."""
    (first,) = define(DefineJourney(GOOD, "me", 1), None)
    assert first.definition.version == 1
    assert define(DefineJourney(GOOD, "me", 2), first.definition) == ()
    assert define(DefineJourney(replace(GOOD, version=1), "me", 2), first.definition) == ()
    (second,) = define(DefineJourney(replace(GOOD, timeout=2), "me", 3), first.definition)
    assert second.definition.version == 2


@pytest.mark.parametrize("version", [1, 3])
def test_any_other_version_is_stale(version: int) -> None:
    """Given version 1 in force, a changed definition as version 1 or 3 is refused and told what the next one is."""
    (first,) = define(DefineJourney(GOOD, "me", 1), None)
    with pytest.raises(ConflictError) as refused:
        define(DefineJourney(replace(GOOD, timeout=2, version=version), "me", 2), first.definition)
    assert refused.value.reason == "DEFINITION_VERSION_STALE"
    assert refused.value.metadata["next"] == "2"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"journey": "Not snake"}, "definition.journey"),
        ({"version": -1}, "definition.version"),
        ({"owner": "  "}, "definition.owner"),
        ({"timeout": 0}, "definition.timeout"),
        ({"stages": ()}, "definition.stages"),
        ({"goal_stages": ()}, "definition.goal_stages"),
        ({"goal_stages": ("nowhere",)}, "definition.goal_stages[0]"),
        ({"next_steps": (("nowhere", "x"),)}, "definition.next_steps[nowhere]"),
        ({"stages": (*GOOD.stages, GOOD.stages[0])}, "definition.stages[2].stage"),
        (
            {"stages": (*GOOD.stages, Stage("Bad name", "", (Match(kinds=frozenset("a")),)))},
            "definition.stages[2].stage",
        ),
        ({"stages": (*GOOD.stages, Stage("empty", "", ()))}, "definition.stages[2].matches"),
        ({"stages": (*GOOD.stages, Stage("any", "", (Match(),)))}, "definition.stages[2].matches[0]"),
    ],
)
def test_a_definition_that_contradicts_itself_is_refused_by_field(change: dict[str, Any], field: str) -> None:
    """Each rule names its field, the rule and the remedy."""
    with pytest.raises(InvalidError) as refused:
        define(DefineJourney(replace(GOOD, **change), "me", 1), None)
    assert refused.value.reason == "DEFINITION_INVALID"
    violation = next(each for each in refused.value.violations if each.field == field)
    assert violation.rule
    assert violation.remedy


def test_all_broken_rules_are_told_at_once() -> None:
    """Given two broken fields, both are named."""
    with pytest.raises(InvalidError) as refused:
        define(DefineJourney(replace(GOOD, owner="", timeout=0), "me", 1), None)
    assert {each.field for each in refused.value.violations} == {"definition.owner", "definition.timeout"}


def test_an_unknown_matter_key_is_refused() -> None:
    """Given a matter key that the contract does not name, the definition is refused, not bent."""
    with pytest.raises(InvalidError, match="matter_key"):
        definition_from(definitions_pb2.JourneyDefinition(journey="a", matter_key=9))  # type: ignore[arg-type]


def test_what_comes_with_the_package_may_hold_and_survives_translation() -> None:
    """Every shipped definition has an owner, satisfies the rules, and is the same after it was a message."""
    shipped = {definition.journey: definition for definition in shipped_definitions()}
    assert set(shipped) == {"campaign_to_redemption", "service_request", "social_to_store", "store_to_home"}
    for definition in shipped.values():
        assert definition.owner
        assert define(DefineJourney(definition, "test", 1), None)[0].definition == definition
        assert definition_from(definition_message(definition)) == definition


def test_a_grocers_year_is_told(say: SimpleNamespace) -> None:
    """Given a mailing, two baskets and a redeemed coupon, one journey with both channels is completed."""
    from journey.domain.record import Record

    known = Record("0" * 32, say.shipped)
    known.change(
        [
            say.fact(0, "mail", "campaign_sent", campaign_id="18"),
            say.fact(say.DAY, "store", "purchase"),
            say.fact(2 * say.DAY, "store", "purchase"),
            say.fact(3 * say.DAY, "checkout", "coupon_redeemed", campaign_id="18"),
        ]
    )
    (journey,) = known.telling.closed
    assert (journey.definition.journey, journey.status) == ("campaign_to_redemption", "completed")
    assert journey.channels == ["mail", "store", "checkout"]
    assert journey.interactions == 4


def test_the_delivery_home_is_told(say: SimpleNamespace) -> None:
    """Given a look in the store, an order online and a delivery, the journey to the home is completed."""
    from journey.domain.record import Record

    known = Record("0" * 32, say.shipped)
    known.change(
        [
            say.fact(0, "store", "visit"),
            say.fact(1, "web", "order", group="site"),
            say.fact(2, "courier", "delivery"),
        ]
    )
    assert [(j.definition.journey, j.status) for j in known.telling.closed] == [("store_to_home", "completed")]
