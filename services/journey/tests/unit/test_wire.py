"""The answers' bytes: a compact context that never grows, page tokens that are ours."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from journey.application.queries import Told
from journey.domain.context import (
    CampaignSeen,
    Context,
    GivenAnswer,
    Loyalty,
    NextStep,
    OpenMatter,
    Promise,
    Step,
    Who,
)
from journey.entrypoints.tokens import PageToken, new_token, read_page_token
from journey.entrypoints.wire import COMPACT_BYTES, LISTS, compact_context, full_context
from throughline_kernel import ALWAYS, Interval, InvalidError

text = st.text(max_size=400) | st.sampled_from(["", "x" * 5_000, "\U0001f600" * 700])
ids = st.lists(st.uuids().map(lambda each: each.hex), max_size=6).map(tuple)
when = st.integers(0, 1 << 62)


def several(of: Any, most: int = 30) -> Any:
    return st.lists(of, max_size=most).map(tuple)


contexts = st.builds(
    Context,
    st.builds(Who, st.uuids().map(lambda each: each.hex), st.booleans(), several(text)),
    when,
    when,
    when,
    several(text),
    several(st.builds(OpenMatter, text, text, text, text, text, when, when, ids)),
    several(st.builds(Step, when, text, text, text, text, text, text, ids)),
    several(st.builds(GivenAnswer, text, text, st.booleans(), when, text, st.integers(1, 9), ids)),
    several(st.builds(Promise, text, text, when, st.booleans(), text, when, ids)),
    several(st.builds(CampaignSeen, text, when, st.integers(1, 9), st.booleans(), ids)),
    several(st.builds(NextStep, text, text, text, ids)),
    several(st.builds(Loyalty, st.integers(1, 6), st.integers(-(1 << 31), (1 << 31) - 1), when, ids)),
)


@settings(max_examples=150, deadline=None)
@given(contexts, when)
def test_a_compact_context_is_never_over_4096_bytes_and_counts_what_it_leaves_out(
    context: Context, position: int
) -> None:
    """Whatever is known: at most 4,096 bytes, and of each list what is there plus what is left out is all."""
    compact = compact_context(Told(context, position))
    assert compact.ByteSize() <= COMPACT_BYTES
    full = full_context(Told(context, position))
    for name in LISTS:
        assert len(getattr(compact, name)) + compact.omitted[name] == len(getattr(full, name))
    assert not full.omitted
    assert compact.client_id == context.who.client_id


def test_the_most_urgent_is_kept_first() -> None:
    """Given more than fits, the first matters, the next steps and the last steps are there, campaigns go first."""
    one = ("a" * 32,)
    context = Context(
        Who("c" * 32),
        1,
        2,
        3,
        ("web",),
        tuple(OpenMatter("case", f"{i}", "s" * 150, "", "", 0, 0, one) for i in range(10)),
        tuple(Step(i, "web", "", "visit", "", "", "s" * 150, one) for i in range(20)),
        tuple(GivenAnswer(f"q{i}", "a" * 100, False, 0, "web", 1, one) for i in range(30)),
        (Promise("p", "call back", 0, True, "web", 0, one),),
        tuple(CampaignSeen(f"{i}", 0, 1, False, one) for i in range(50)),
        (NextStep("do", "j", "s", one),),
        (),
    )
    compact = compact_context(Told(context, 9))
    assert [matter.id for matter in compact.open_matters][:6] == ["0", "1", "2", "3", "4", "5"]
    assert len(compact.next_steps) == 1
    assert [step.at for step in compact.last_steps][:3] == [0, 1, 2]
    assert len(compact.promises) == 1
    assert compact.omitted["campaigns"] > 0
    assert compact.ByteSize() > COMPACT_BYTES * 0.9


def test_long_texts_are_cut_in_the_compact_form_only() -> None:
    """Given a summary of 1,000 characters, the compact form keeps 160 of them and the full form all."""
    matter = OpenMatter("case", "1", "s" * 1_000, "", "", 0, 0, tuple(f"{i:032x}" for i in range(5)))
    context = Context(Who("c" * 32), 0, 0, 0, (), (matter,), (), (), (), (), (), ())
    assert len(full_context(Told(context, 1)).open_matters[0].summary) == 1_000
    short = compact_context(Told(context, 1)).open_matters[0]
    assert (len(short.summary), len(short.event_ids)) == (160, 2)


instants = st.integers(0, 1 << 60)


@given(st.uuids(), instants, st.builds(Interval, instants, instants), instants, st.integers(0, 1 << 30))
def test_a_page_token_says_what_it_was_given(
    client: Any, as_of: int, between: Interval, instant: int, start: int
) -> None:
    """Out and in again: the same."""
    token = PageToken(client.hex, as_of, between, instant, start)
    assert read_page_token(token.text()) == token


@pytest.mark.parametrize("token", ["", "x", "!!!!", "A" * 59, PageToken("c" * 32, 0, ALWAYS, 1, 2).text()[:-2] + "zz"])
def test_a_token_that_is_not_ours_is_refused(token: str) -> None:
    """Anything made up or changed is refused by its own reason."""
    with pytest.raises(InvalidError) as refused:
        read_page_token(token)
    assert refused.value.reason == "PAGE_TOKEN_INVALID"


def test_handoff_tokens_are_long_and_different() -> None:
    """256 random bits each."""
    tokens = {new_token() for _ in range(100)}
    assert len(tokens) == 100
    assert all(len(token) == 43 for token in tokens)
