"""What holds of what a client said about purposes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from throughline_kernel import AUDIT, Consent, Consents, LeftOut

WORDS = st.lists(
    st.builds(
        Consent,
        st.sampled_from(["service", "marketing"]),
        st.sampled_from(["", "web", "store"]),
        st.booleans(),
        st.integers(0, 5),
        st.just("desk"),
        st.sampled_from(["e1", "e2", "e3"]),
    ),
    max_size=12,
)


def word(granted: bool, at: int, scope: str = "", purpose: str = "marketing") -> Consent:
    return Consent(purpose, scope, granted, at, "desk", f"e{at}")


@given(WORDS, st.randoms(use_true_random=False), st.integers(0, 12))
def test_what_holds_is_a_function_of_the_set_of_words(words: list[Consent], random: object, cut: int) -> None:
    """Law 3: any order, any repetition, and joining what holds of two parts, all give the same."""
    shuffled = [*words, *words[:3]]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert Consents.of(shuffled) == Consents.of(words)
    parts = (*Consents.of(words[:cut]).words, *Consents.of(words[cut:]).words)
    assert Consents.of(parts) == Consents.of(words)


@given(WORDS, st.sampled_from(["", "web", "store", "phone"]))
def test_the_last_word_that_covers_a_channel_decides(words: list[Consent], channel: str) -> None:
    """By time, whether about the channel or about all; of two of one instant the withdrawal."""
    covering = [each for each in words if each.purpose == "marketing" and each.scope in {"", channel}]
    latest = [each for each in covering if each.at == max(one.at for one in covering)]
    found = Consents.of(words).withdrawal("marketing", channel)
    assert (found is not None) == any(not each.granted for each in latest)
    assert found is None or found in latest


@pytest.mark.parametrize(
    ("words", "forbidden"),
    [
        ([], set()),
        ([word(False, 1)], {"", "web", "store"}),
        ([word(False, 1, "web")], {"web"}),
        ([word(False, 1), word(True, 2, "web")], {"", "store"}),
        ([word(False, 1, "web"), word(True, 2)], set()),
        ([word(True, 2), word(False, 1)], set()),
        ([word(False, 1), word(True, 1)], {"", "web", "store"}),
        ([word(True, 1), word(False, 1, "web")], {"web"}),
        ([word(False, 1, purpose="service")], set()),
    ],
)
def test_a_word_about_all_channels_and_one_about_one(words: list[Consent], forbidden: set[str]) -> None:
    """Each covers what it says until a later word covers it."""
    holding = Consents.of(words)
    found = {channel for channel in ("", "web", "store") if holding.withdrawal("marketing", channel) is not None}
    assert found == forbidden


def test_an_audit_asks_for_no_consent() -> None:
    """Whatever was said, nothing is left out of what an auditor reads."""
    assert Consents.of([word(False, 1, purpose=AUDIT)]).withdrawal(AUDIT) is None


def test_what_is_left_out_names_the_word() -> None:
    """What, how many, and who told when that the client withdrew."""
    assert LeftOut.by(word(False, 7, "web"), "interactions", 3) == LeftOut(
        "interactions", 3, "marketing", "web", 7, "desk", "e7"
    )
