"""The confidence that every interval here is told at."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

# Two-sided 95 %: 1.959963984540054.
Z: Final = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A point value and its 95% interval, in the unit that the formula names."""

    value: float
    low: float
    high: float
