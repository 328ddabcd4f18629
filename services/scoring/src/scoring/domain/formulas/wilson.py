"""A share and its score interval.

Source: E. B. Wilson (1927), "Probable inference, the law of succession, and statistical inference", Journal of the
American Statistical Association 22(158), 209-212. Worked figures: R. G. Newcombe (1998), "Two-sided confidence
intervals for the single proportion", Statistics in Medicine 17, 857-872, table I, method 3.
"""

from __future__ import annotations

from math import sqrt

from scoring.domain.formulas.intervals import Estimate, Z


def share(successes: int, n: int) -> Estimate:
    """Percent of successes with Wilson's 95% interval.

    Raises: ValueError where n is not positive or successes lie outside 0 to n.
    """
    if n <= 0 or not 0 <= successes <= n:
        raise ValueError(f"{successes} of {n} is no share")
    z2 = Z * Z
    p = successes / n
    middle = (2 * successes + z2) / (2 * (n + z2))
    half = Z * sqrt(z2 + 4 * successes * (1 - p)) / (2 * (n + z2))
    low = 0.0 if successes == 0 else middle - half
    high = 1.0 if successes == n else middle + half
    return Estimate(100 * successes / n, 100 * low, 100 * high)
