"""What several seeds say of a figure: mean, spread, and whether it differs from 0."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

_CONFIDENCE = 0.95


@dataclass(frozen=True)
class OverSeeds:
    """One figure over ``n`` seeds; of one seed only the mean is known.

    Args:
        mean: of the figures.
        deviation: their standard deviation, n - 1 in the denominator.
        half_width: of the 95 % interval of the mean, by Student's t with n - 1 degrees of freedom.
        p_value: of a t-test against a mean of 0, two-sided: for differences between systems of the
            same seed, the paired t-test.
    """

    n: int
    mean: float
    deviation: float | None = None
    half_width: float | None = None
    p_value: float | None = None


def over_seeds(values: Sequence[float]) -> OverSeeds:
    """Summarise the figures of each seed, at least one."""
    from scipy.stats import t as student

    n, mean = len(values), statistics.fmean(values)
    if n == 1:
        return OverSeeds(n, mean)
    deviation = statistics.stdev(values)
    error = deviation / math.sqrt(n)
    # Equal figures leave no doubt about their mean.
    p_value = 2 * float(student.sf(abs(mean) / error, n - 1)) if error else float(mean == 0)
    half_width = float(student.ppf((1 + _CONFIDENCE) / 2, n - 1)) * error
    return OverSeeds(n, mean, deviation, half_width, p_value)
