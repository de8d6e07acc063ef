"""Uncertainty of measured numbers, without a statistics package.

Success rates carry Wilson's score interval: it stays inside [0, 1] and is honest at 0 of n and n of n, where the usual
normal interval has width zero. Rare events per hour carry an exact Poisson bound.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

Z_95 = 1.959963984540054  # 97.5 % quantile of the normal distribution: two-sided 95 %


def wilson_interval(successes: int, trials: int, z: float = Z_95) -> tuple[float, float]:
    """Score interval of a binomial proportion (E. B. Wilson, 1927).

    Args:
        successes, trials: counts, 0 <= successes <= trials.
        z: normal quantile; the default gives 95 %.

    Returns:
        (low, high) in [0, 1]; (0, 1) for no trials: nothing is known.

    Raises:
        ValueError: counts that cannot be.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"successes must lie in [0, trials], got {successes} of {trials}")
    if trials == 0:
        return 0.0, 1.0
    p = successes / trials
    denominator = 1.0 + z * z / trials
    centre = (p + z * z / (2.0 * trials)) / denominator
    half = z * math.sqrt(p * (1.0 - p) / trials + z * z / (4.0 * trials * trials)) / denominator
    # At 0 of n the low end is 0 in exact arithmetic, at n of n the high end is 1; rounding must not move them.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == trials else min(1.0, centre + half)
    return low, high


def poisson_upper_bound(events: int, exposure: float, confidence: float = 0.95) -> float:
    """Largest rate that is still compatible with having seen only ``events``: exact one-sided bound.

    Solves P(at most ``events`` | rate * exposure) = 1 - confidence. For 0 events it is the "rule of three": 3.0 / exposure.

    Args:
        events: how often it happened, >= 0.
        exposure: how long or how often it could have happened (hours, trials), > 0.

    Returns:
        Events per unit of exposure.
    """
    if events < 0 or not exposure > 0 or not 0 < confidence < 1:
        raise ValueError(f"need events >= 0, exposure > 0 and confidence in (0, 1), got {events}, {exposure}, {confidence}")

    def at_most_events(mean: float) -> float:
        return sum(math.exp(k * math.log(mean) - mean - math.lgamma(k + 1)) for k in range(events + 1))

    low, high = 1e-12, events + 10.0 * math.sqrt(events + 1.0) + 20.0
    while high - low > 1e-10 * high:
        middle = 0.5 * (low + high)
        low, high = (middle, high) if at_most_events(middle) > 1.0 - confidence else (low, middle)
    return high / exposure


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation (n - 1; 0 for a single value) of a sample; nan for an empty one."""

    mean: float
    sd: float
    count: int

    def text(self, digits: int = 2, unit: str = "") -> str:
        if self.count == 0:
            return "–"
        return f"{self.mean:.{digits}f} ± {self.sd:.{digits}f}{' ' + unit if unit else ''}"


def spread(values: Iterable[float]) -> Spread:
    """Mean ± standard deviation of the finite values."""
    sample = np.asarray(list(values), dtype=np.float64)
    sample = sample[np.isfinite(sample)]
    if sample.size == 0:
        return Spread(math.nan, math.nan, 0)
    return Spread(float(sample.mean()), float(sample.std(ddof=1)) if sample.size > 1 else 0.0, int(sample.size))


def percentiles(values: Iterable[float], points: tuple[float, ...] = (50.0, 99.0, 100.0)) -> dict[str, float]:
    """{"p50": ..., "p99": ..., "max": ...} of the finite values, empty for none."""
    sample = np.asarray(list(values), dtype=np.float64)
    sample = sample[np.isfinite(sample)]
    if sample.size == 0:
        return {}
    return {("max" if p == 100.0 else f"p{p:g}"): float(np.percentile(sample, p)) for p in points}


def rate_text(successes: int, trials: int) -> str:
    """ "43/50 = 86 % (74–93 %)": count, proportion and Wilson 95 % interval in one string for tables."""
    if trials == 0:
        return "0/0"
    low, high = wilson_interval(successes, trials)
    return f"{successes}/{trials} = {100 * successes / trials:.0f} % ({100 * low:.0f}–{100 * high:.0f} %)"
