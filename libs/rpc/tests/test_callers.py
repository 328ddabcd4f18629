"""What callers say of themselves, and what is found out about them."""

from __future__ import annotations

import pytest

from throughline_kernel import ForbiddenError, InvalidError, UnauthenticatedError
from throughline_rpc import ROLES, Caller, HostSettings, HostSettingsError, Identity, Trusting


def test_callers_are_written_into_metadata_and_read_back() -> None:
    """Letters that metadata cannot hold are lost, nothing else is."""
    for caller in (Caller("ana", "agent", "research"), Caller(), Caller(role="auditor")):
        assert Caller.of(caller.metadata()) == caller
    assert Caller.of(Caller("Zoë").metadata()) == Caller("Zo?")
    assert Caller.of(None) == Caller("", "", "service")
    assert Caller.of((("throughline-role", b"agent"), ("other", "x"))) == Caller()


@pytest.mark.parametrize(
    ("key", "value"),
    [("throughline-role", "boss"), ("throughline-purpose", "For Fun"), ("throughline-caller", "x" * 201)],
)
def test_words_that_are_none_are_refused_by_field(key: str, value: str) -> None:
    """With the rule and the remedy."""
    with pytest.raises(InvalidError) as refused:
        Caller.of([(key, value)])
    assert refused.value.metadata["field"] == f"metadata[{key}]"


def test_a_named_role_only_selects_among_those_that_a_caller_has() -> None:
    """It never adds one; an admin, who may do everything, may do less in any role."""
    both = Identity("ana", frozenset({"agent", "analyst"}), frozenset({"web"}))
    assert both.acting_as("") == both
    assert both.acting_as("analyst") == Identity("ana", frozenset({"analyst"}), frozenset({"web"}))
    with pytest.raises(ForbiddenError) as refused:
        both.acting_as("auditor")
    assert refused.value.reason == "ROLE_FORBIDS"
    assert refused.value.metadata == {
        "field": "metadata[throughline-role]",
        "role": "auditor",
        "roles": "agent, analyst",
    }
    admin = Identity("root", frozenset({"admin"}))
    assert [admin.acting_as(role).roles for role in ROLES] == [frozenset({role}) for role in ROLES]


async def test_where_nobody_else_can_call_callers_are_believed() -> None:
    """Who names no role has the default one; with `none` they are told to name one."""
    trusting = Trusting("operator")
    assert await trusting.identify(Caller("ana", "agent").metadata(), {}) == Identity("ana", frozenset({"agent"}))
    assert await trusting.identify((), {}) == Identity("", frozenset({"operator"}))
    with pytest.raises(UnauthenticatedError) as refused:
        await Trusting("none").identify(Caller("ana").metadata(), {})
    assert refused.value.reason == "ROLE_REQUIRED"


def test_the_default_role_is_a_setting() -> None:
    """An admin's where nothing is set; of another word the variable is named."""
    assert HostSettings.from_env("journey", {}).default_role == "admin"
    assert HostSettings.from_env("journey", {"THROUGHLINE_DEFAULT_ROLE": "none"}).default_role == "none"
    with pytest.raises(HostSettingsError, match="JOURNEY_DEFAULT_ROLE is 'boss'"):
        HostSettings.from_env("journey", {"JOURNEY_DEFAULT_ROLE": "boss"})
