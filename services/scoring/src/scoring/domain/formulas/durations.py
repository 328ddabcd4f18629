"""Median, mean and 90th percentile of measured times, exact.

Source: R. J. Hyndman and Y. Fan (1996), "Sample quantiles in statistical packages", The American Statistician 50(4),
361-365, definition 2: the inverse of the empirical distribution function, averaged where it is flat. Interval of the
median: from order statistics, ranks n/2 -+ z sqrt(n)/2; W. J. Conover (1999), "Practical Nonparametric Statistics",
3rd edition, section 3.2. Everything is whole microseconds until the last step.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from math import ceil, floor, sqrt

from scoring.domain.formulas.intervals import Z


@dataclass(frozen=True, slots=True)
class Durations:
    """All in microseconds; n times were measured."""

    n: int
    median: Fraction
    mean: Fraction
    p90: Fraction
    # 95% interval of the median.
    low: int
    high: int


def durations(times: Sequence[tuple[int, int]]) -> Durations:
    """Figures of a multiset, given as (time, how often) in increasing time.

    Raises: ValueError where nothing was measured.
    """
    ends = list(accumulate(count for _, count in times))
    n = ends[-1] if ends else 0
    if n <= 0:
        raise ValueError("no times, no figures")

    def ranked(rank: int) -> int:
        return times[bisect_left(ends, rank)][0]

    def quantile(numerator: int, denominator: int) -> Fraction:
        whole, rest = divmod(n * numerator, denominator)
        if rest:
            return Fraction(ranked(whole + 1))
        return Fraction(ranked(whole) + ranked(whole + 1), 2)

    half = Z * sqrt(n) / 2
    return Durations(
        n,
        quantile(1, 2),
        Fraction(sum(time * count for time, count in times), n),
        quantile(9, 10),
        ranked(max(1, floor(n / 2 - half))),
        ranked(min(n, ceil(n / 2 + half) + 1)),
    )
