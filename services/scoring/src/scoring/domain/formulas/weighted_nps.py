"""Net promoter score with survey weights.

The score is that of `nps`, each answer counting by its weight. The interval is that of `nps` at the effective number
of answers, (sum of weights)^2 / (sum of squared weights). Source: L. Kish (1965), "Survey Sampling", Wiley (effective
sample size).
"""

from __future__ import annotations

from scoring.domain.formulas.intervals import Estimate
from scoring.domain.formulas.nps import adjusted_wald


def weighted_net_promoter_score(promoters: int, passives: int, detractors: int, squares: int) -> Estimate:
    """Points, -100 to 100; the first three are sums of weights, `squares` the sum of squared weights, in one unit.

    Raises: ValueError where no answer has weight.
    """
    total = promoters + passives + detractors
    if total <= 0 or squares <= 0:
        raise ValueError("no answers with weight, no score")
    effective = total * total / squares
    low, high = adjusted_wald(promoters / total * effective, detractors / total * effective, effective)
    return Estimate(100 * (promoters - detractors) / total, low, high)
