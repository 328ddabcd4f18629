"""Customer effort: the share who found it easy (5 to 7 of 7).

Source: M. Dixon, K. Freeman and N. Toman (2010), "Stop trying to delight your customers", Harvard Business Review
88(7/8), 116-122; the 1 to 7 agreement scale and its 5-to-7 share: M. Dixon, N. Toman and R. DeLisi (2013), "The
Effortless Experience", Portfolio. Interval: Wilson. On other scales the same part counts: the top third.
"""

from __future__ import annotations

OWN_SCALE = (1, 7)


def easy(score: int, scale_min: int, scale_max: int) -> bool:
    """Whether the answer lies in the scale's top third."""
    return 3 * (score - scale_min) >= 2 * (scale_max - scale_min)
