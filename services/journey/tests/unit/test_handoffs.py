"""Handing over: offered with a token, taken over once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from journey.domain.facts import DAY, HOUR
from journey.domain.handoffs import AcceptHandoff, OfferHandoff, accept, offer, token_hash
from throughline_kernel import InvalidError, PreconditionError

OFFER = OfferHandoff("c" * 32, "call_centre", "store", "fitting", "", 0, token_hash("secret"), 1_000)
ACCEPT = AcceptHandoff(token_hash("secret"), "store", "agent-1", 2_000)


def test_an_offer_is_good_for_an_hour_unless_said_otherwise() -> None:
    """Given no validity, one hour; the token itself is nowhere in the hand-off."""
    handoff = offer(OFFER)
    assert handoff.expires_at == 1_000 + HOUR
    assert "secret" not in repr(handoff)
    assert len(token_hash("secret")) == 32


@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        ({"from_channel": ""}, "from_channel", "FIELD_REQUIRED"),
        ({"to_channel": ""}, "to_channel", "FIELD_REQUIRED"),
        ({"to_channel": "call_centre"}, "to_channel", "FIELD_INVALID"),
        ({"note": "x" * 2_001}, "note", "FIELD_INVALID"),
        ({"valid_for": -1}, "valid_for", "FIELD_INVALID"),
        ({"valid_for": 30 * DAY + 1}, "valid_for", "FIELD_INVALID"),
    ],
)
def test_a_wrong_offer_is_refused_by_field(change: dict[str, Any], field: str, reason: str) -> None:
    """Each rule names its field."""
    with pytest.raises(InvalidError) as refused:
        offer(replace(OFFER, **change))
    assert (refused.value.violations[0].field, refused.value.reason) == (field, reason)


def test_whoever_takes_over_is_kept() -> None:
    """Given the right channel in time, the hand-off says who, where and when."""
    taken = accept(ACCEPT, offer(OFFER))
    assert (taken.accepted_at, taken.accepted_by, taken.accepted_channel) == (2_000, "agent-1", "store")
    assert not taken.pending(2_001)


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (replace(ACCEPT, at=1_000 + HOUR), "HANDOFF_EXPIRED"),
        (replace(ACCEPT, channel="web"), "HANDOFF_OTHER_CHANNEL"),
    ],
)
def test_a_handoff_is_good_for_one_channel_and_its_time(command: AcceptHandoff, reason: str) -> None:
    """Too late, or elsewhere: refused."""
    with pytest.raises(PreconditionError) as refused:
        accept(command, offer(OFFER))
    assert refused.value.reason == reason


def test_the_second_use_of_a_token_is_refused_even_on_the_right_channel() -> None:
    """Given a hand-off taken over, it cannot be taken again."""
    with pytest.raises(PreconditionError) as refused:
        accept(ACCEPT, accept(ACCEPT, offer(OFFER)))
    assert refused.value.reason == "HANDOFF_ALREADY_ACCEPTED"
