"""Channels and sources as data."""

from __future__ import annotations

import pytest

from ingestion.domain.registry import (
    ChannelRegistered,
    ChannelTraits,
    RegisterChannel,
    RegisterSource,
    Registry,
    Source,
    SourceRegistered,
)
from throughline_kernel import InvalidError, PreconditionError

STORE = ChannelTraits("Store", physical=True, assisted=True, group="retail")


def given(*events: ChannelRegistered | SourceRegistered) -> Registry:
    """The registry after the events."""
    registry = Registry()
    for event in events:
        registry.apply(event)
    return registry


def test_a_new_channel_is_registered_at_run_time() -> None:
    """Given nothing, when a channel is registered, then it is."""
    assert given().register_channel(RegisterChannel("store", STORE)) == ChannelRegistered("store", STORE)


def test_a_channel_without_a_name_is_called_by_its_key() -> None:
    """Reports need something to print."""
    event = given().register_channel(RegisterChannel("kiosk", ChannelTraits("")))
    assert event == ChannelRegistered("kiosk", ChannelTraits("kiosk"))


def test_registering_what_stands_changes_nothing() -> None:
    """A retry is no event."""
    registry = given(ChannelRegistered("store", STORE), SourceRegistered(Source("till", "Till", ("store", "web"))))
    assert registry.register_channel(RegisterChannel("store", STORE)) is None
    assert registry.register_source(RegisterSource("till", "Till", ["web", "store", "web"])) is None


def test_other_traits_need_replace() -> None:
    """Nobody changes a channel by mistake."""
    registry, other = given(ChannelRegistered("store", STORE)), ChannelTraits("Store")
    with pytest.raises(PreconditionError) as refused:
        registry.register_channel(RegisterChannel("store", other))
    assert refused.value.reason == "CHANNEL_CONFLICT"
    event = registry.register_channel(RegisterChannel("store", other, replace=True))
    assert event == ChannelRegistered("store", other)


def test_other_settings_of_a_source_need_replace() -> None:
    """Nobody changes a source by mistake."""
    registry = given(SourceRegistered(Source("till", "Till")))
    with pytest.raises(PreconditionError) as refused:
        registry.register_source(RegisterSource("till", "Till", ["store"]))
    assert refused.value.reason == "SOURCE_CONFLICT"
    event = registry.register_source(RegisterSource("till", "Till", ["store"], replace=True))
    assert event == SourceRegistered(Source("till", "Till", ("store",)))


def test_a_name_that_no_event_could_carry_is_refused() -> None:
    """Every broken field is reported."""
    with pytest.raises(InvalidError) as refused:
        given().register_source(RegisterSource("Till!", "x" * 300, ["", "store"]))
    assert [violation.field for violation in refused.value.violations] == ["source", "name", "channels[0]"]
    with pytest.raises(InvalidError):
        given().register_channel(RegisterChannel("", STORE))


def test_a_source_reports_only_its_channels() -> None:
    """An empty list allows any."""
    registry = given(
        ChannelRegistered("store", STORE),
        ChannelRegistered("web", ChannelTraits("Web")),
        SourceRegistered(Source("till", "Till", ("store",))),
        SourceRegistered(Source("site", "Site")),
    )
    assert registry.standing("till", "store") is None
    assert registry.standing("site", "web") is None
    standing = registry.standing("till", "web")
    assert standing is not None
    assert standing.reason == "CHANNEL_NOT_ALLOWED"
    assert standing.remedy == "allow source 'till' to report channel 'web', then redrive"
