"""Each formula against figures worked by others or by hand."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scoring.domain.facts import Contact
from scoring.domain.formulas.attribution import HALF_LIFE_SECONDS, WHOLE, apportion, attribute, decay, eligible
from scoring.domain.formulas.durations import durations
from scoring.domain.formulas.effort import easy
from scoring.domain.formulas.mean import mean
from scoring.domain.formulas.nps import Loyalty, loyalty, net_promoter_score
from scoring.domain.formulas.resolution import WINDOW, resolved
from scoring.domain.formulas.satisfaction import satisfied
from scoring.domain.formulas.weighted_nps import weighted_net_promoter_score
from scoring.domain.formulas.wilson import share

DAY = 24 * 3600 * 1_000_000


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_the_figures_of_newcombe(k: int, n: int, low: float, high: float) -> None:
    """The four examples of Newcombe (1998), table I, score method without continuity correction."""
    told = share(k, n)
    assert (round(told.low / 100, 4), round(told.high / 100, 4)) == (low, high)
    assert told.value == 100 * k / n


def test_adjusted_wald_follows_its_published_steps() -> None:
    """15 promoters, 13 passives, 8 detractors (n 36): adjusted 15.75 and 8.75 of 39, worked by hand."""
    told = net_promoter_score(15, 13, 8)
    p, d = 15.75 / 39, 8.75 / 39
    half = 1.959964 * ((p + d - (p - d) ** 2) / 39) ** 0.5
    assert told.value == pytest.approx(100 * 7 / 36)
    assert (told.low, told.high) == pytest.approx((100 * (p - d - half), 100 * (p - d + half)))
    assert (round(told.low), round(told.high)) == (-6, 42)


@pytest.mark.parametrize(
    ("answer", "made"),
    [(0, "detractors"), (6, "detractors"), (7, "passives"), (8, "passives"), (9, "promoters"), (10, "promoters")],
)
def test_loyalty_is_cut_between_six_and_seven_and_eight_and_nine(answer: int, made: str) -> None:
    """As Reichheld cut it; what is no answer from 0 to 10 is none."""
    assert loyalty(answer) is Loyalty(made)
    with pytest.raises(ValueError, match="11"):
        loyalty(11)


def test_equal_weights_change_nothing() -> None:
    """The weighted score and interval are the plain ones where every answer weighs the same."""
    plain = net_promoter_score(15, 13, 8)
    weighted = weighted_net_promoter_score(15 * 7, 13 * 7, 8 * 7, 36 * 49)
    assert (weighted.value, weighted.low, weighted.high) == pytest.approx((plain.value, plain.low, plain.high))


def test_boxes_lie_where_the_literature_has_them() -> None:
    """4 and 5 of 5, 6 and 7 of 7 for satisfaction; 5 to 7 of 7 for effort."""
    assert [score for score in range(1, 6) if satisfied(score, 1, 5)] == [4, 5]
    assert [score for score in range(1, 8) if satisfied(score, 1, 7)] == [6, 7]
    assert [score for score in range(1, 8) if easy(score, 1, 7)] == [5, 6, 7]


def test_means_move_other_scales_onto_their_own() -> None:
    """10 of 0 to 10 is a 5 of 1 to 5; the interval is 1.96 standard errors."""
    told = mean({(0, 10, 10): 1, (1, 5, 5): 1, (1, 5, 3): 2}, (1, 5))
    assert told.value == 4
    assert told.high - told.value == pytest.approx(min(1, 1.959964 * (4 / 3) ** 0.5 / 2))


def test_seven_days_to_the_microsecond_still_repeat() -> None:
    """At seven days it is a repeat, one microsecond later it is not; without a next contact it is resolved."""
    assert not resolved(0, WINDOW)
    assert resolved(0, WINDOW + 1)
    assert resolved(0, None)


def test_quantiles_are_exact() -> None:
    """The median of an even number lies between the two in the middle; repeated values count as often as they occur."""
    told = durations([(1, 1), (2, 1), (3, 1), (10, 1)])
    assert (told.median, told.mean, told.p90) == (Fraction(5, 2), 4, 10)
    told = durations([(5, 9), (100, 1)])
    assert (told.n, told.median, told.p90) == (10, 5, Fraction(105, 2))


@given(st.lists(st.integers(0, 50), min_size=1))
def test_quantiles_do_not_depend_on_how_the_multiset_is_given(times: list[int]) -> None:
    """The definition, by sorting: ranks ceil(np), averaged where np is whole."""
    counts = sorted((each, times.count(each)) for each in set(times))
    ordered, n = sorted(times), len(times)
    for told, p in ((durations(counts).median, Fraction(1, 2)), (durations(counts).p90, Fraction(9, 10))):
        rank = n * p
        upper = ordered[min(n - 1, int(rank))]
        lower = ordered[max(0, -int(-rank // 1) - 1)]
        assert told == (Fraction(lower + upper, 2) if rank.denominator == 1 else lower)


@given(st.integers(-(10**12), 10**12), st.lists(st.integers(0, 10**18), min_size=1).filter(any))
def test_parts_add_up_to_the_whole_exactly(whole: int, weights: list[int]) -> None:
    """And no part is further than one from its exact share."""
    parts = apportion(whole, weights)
    assert sum(parts) == whole
    total = sum(weights)
    assert all(abs(part - Fraction(whole * weight, total)) < 1 for part, weight in zip(parts, weights, strict=True))


def test_time_decay_halves_every_seven_days() -> None:
    """To twelve digits, at whole half-lives and between."""
    seconds = HALF_LIFE_SECONDS * 1_000_000
    for age in (0, seconds, 2 * seconds, seconds // 2, 12_345_678_000_000):
        assert decay(age) / decay(0) == pytest.approx(0.5 ** (age // 1_000_000 / HALF_LIFE_SECONDS), rel=1e-12)


def touch(day: int, name: str, attributes: bytes = b"") -> Contact:
    return Contact(
        day * DAY, "s", 0, name, "mail", "", "campaign_sent", "", "", "", "", 0, "", 0, "", 0, 0, 0, attributes
    )


def test_credit_goes_by_model() -> None:
    """A touch two weeks before and one week before: a third and two thirds by time decay."""
    conversion = touch(30, "buy")._replace(kind="purchase", value=100, value_currency="USD")
    touches = [touch(-1, "old"), touch(16, "first"), touch(23, "last"), touch(31, "after")]
    shares = attribute(conversion, eligible(conversion, touches))
    credits_ = {model: {part.touch.interaction_id: part.credit for part in parts} for model, parts in shares.items()}
    assert credits_ == {
        "first": {"first": WHOLE},
        "last": {"last": WHOLE},
        "linear": {"first": WHOLE // 2, "last": WHOLE // 2},
        "time_decay": {"first": 333_333, "last": 666_667},
    }
    assert [part.value for part in shares["time_decay"]] == [33, 67]
    assert attribute(conversion, []) == {}


def test_a_touch_may_say_until_when_it_counts() -> None:
    """Instead of the lookback, whether sooner or later than it."""
    conversion = touch(60, "buy")
    sooner = touch(59, "sooner", b'{"active_until":%d}' % (59 * DAY))
    later = touch(1, "later", b'{"active_until":%d}' % (60 * DAY))
    assert [each.interaction_id for each in eligible(conversion, [later, touch(2, "old"), sooner])] == ["later"]


def test_what_cannot_be_computed_is_refused() -> None:
    """Nothing is a share of nothing."""
    for call in (
        lambda: share(1, 0),
        lambda: share(3, 2),
        lambda: net_promoter_score(0, 0, 0),
        lambda: weighted_net_promoter_score(0, 0, 0, 0),
        lambda: mean({}, (1, 5)),
        lambda: durations([]),
        lambda: apportion(5, [0, 0]),
    ):
        with pytest.raises(ValueError, match=r".+"):
            call()
