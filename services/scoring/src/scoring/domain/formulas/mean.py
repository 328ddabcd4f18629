"""The mean of answers on a rating scale, with its large-sample interval.

Source: mean and standard error as in G. W. Snedecor and W. G. Cochran (1989), "Statistical Methods", 8th edition.
Answers on another scale are moved to the metric's own scale in exact fractions first, so that they may be added.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from math import sqrt

from scoring.domain.formulas.intervals import Estimate, Z


def mean(answers: Mapping[tuple[int, int, int], int], own_scale: tuple[int, int]) -> Estimate:
    """Mean on the own scale; `answers` counts (scale's low end, high end, score).

    Raises: ValueError where there is no answer.
    """
    low_end, high_end = own_scale
    n = 0
    total = Fraction(0)
    squares = Fraction(0)
    for (scale_min, scale_max, score), count in answers.items():
        moved = low_end + Fraction((score - scale_min) * (high_end - low_end), scale_max - scale_min)
        n += count
        total += moved * count
        squares += moved * moved * count
    if n <= 0:
        raise ValueError("no answers, no mean")
    middle = total / n
    variance = (squares - total * middle) / (n - 1) if n > 1 else Fraction(0)
    half = Z * sqrt(variance / n)
    value = float(middle)
    return Estimate(value, max(float(low_end), value - half), min(float(high_end), value + half))
