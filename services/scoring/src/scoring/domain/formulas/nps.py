"""Net promoter score and its adjusted-Wald interval.

Source of the score: F. F. Reichheld (2003), "The one number you need to grow", Harvard Business Review 81(12), 46-54:
promoters answer 9 or 10, detractors 0 to 6. Source of the interval: add 3 to n and 3/4 each to promoters and
detractors, then Wald: D. G. Bonett and R. M. Price (2012), "Adjusted Wald confidence interval for a difference of
binomial proportions based on paired data", Journal of Educational and Behavioral Statistics 37(4), 479-488; found the
best of those compared by B. Rocks (2016), "Interval estimation for the net promoter score", The American Statistician
70(4), 365-372; and as described in J. Sauro and J. R. Lewis, "Quantifying the User Experience" (2012; 2nd edition
2016) and their article "Confidence intervals for Net Promoter Scores" (MeasuringU, 2021).
"""

from __future__ import annotations

from enum import Enum
from math import sqrt

from scoring.domain.formulas.intervals import Estimate, Z


class Loyalty(Enum):
    """What an answer from 0 to 10 makes of its giver."""

    PROMOTER = "promoters"
    PASSIVE = "passives"
    DETRACTOR = "detractors"


def loyalty(answer: int) -> Loyalty:
    """9 and 10 promote, 7 and 8 do not care, 0 to 6 detract.

    Raises: ValueError outside 0 to 10: a code for a blank is no answer.
    """
    if not 0 <= answer <= 10:
        raise ValueError(f"{answer} is no answer from 0 to 10")
    if answer >= 9:
        return Loyalty.PROMOTER
    return Loyalty.PASSIVE if answer >= 7 else Loyalty.DETRACTOR


def net_promoter_score(promoters: int, passives: int, detractors: int) -> Estimate:
    """Points, -100 to 100, with the adjusted-Wald 95% interval.

    Raises: ValueError where there is no answer at all.
    """
    n = promoters + passives + detractors
    if n <= 0:
        raise ValueError("no answers, no score")
    low, high = adjusted_wald(promoters, detractors, n)
    return Estimate(100 * (promoters - detractors) / n, low, high)


def adjusted_wald(promoters: float, detractors: float, n: float) -> tuple[float, float]:
    """The interval's ends in points, held within -100 to 100."""
    m = n + 3
    p = (promoters + 0.75) / m
    d = (detractors + 0.75) / m
    middle = p - d
    half = Z * sqrt((p + d - middle * middle) / m)
    return max(-100.0, 100 * (middle - half)), min(100.0, 100 * (middle + half))
