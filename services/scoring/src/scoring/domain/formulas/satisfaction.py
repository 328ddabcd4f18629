"""Customer satisfaction: the share of answers in the scale's top quarter (4 and 5 of 5).

Source: the top-two-box share, P. W. Farris, N. T. Bendle, P. E. Pfeifer and D. J. Reibstein (2010), "Marketing
Metrics", 2nd edition, chapter 2. Interval: Wilson. On a scale other than 1 to 5 the same part of the scale counts: 6
and 7 of 7.
"""

from __future__ import annotations

OWN_SCALE = (1, 5)


def satisfied(score: int, scale_min: int, scale_max: int) -> bool:
    """Whether the answer lies in the scale's top quarter."""
    return 4 * (score - scale_min) >= 3 * (scale_max - scale_min)
