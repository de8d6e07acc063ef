"""How many demonstrations one way of training saves over another: read off their learning curves, with the spread over seeds and trials (ours)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

Marks = dict[tuple[str, int], dict[int, np.ndarray]]  # (arm, demonstrations) -> training seed -> success of each trial, bool [trials]
DRAWS = 2_000


def demonstrations_needed(counts: Sequence[int], rates: Sequence[float], target: float) -> float:
    """How many demonstrations a learning curve needs for a success rate, linear in the logarithm of their number.

    A dip on the way is taken for noise: the curve is what it has reached so far.

    Args:
        counts: ascending. rates: success at each of them.

    Returns:
        0 where the fewest already do better, inf where the most do not reach it: beyond the curve nothing is guessed.

    Raises:
        ValueError: no counts, not ascending, or not as many rates.
    """
    if not counts or len(counts) != len(rates) or any(a >= b for a, b in pairwise(counts)) or counts[0] <= 0:
        raise ValueError(f"need ascending counts > 0 and a rate for each, got {list(counts)} and {len(rates)} rates")
    reached = np.maximum.accumulate(np.asarray(rates, dtype=np.float64))
    if reached[0] > target:
        return 0.0
    if reached[-1] < target:
        return math.inf
    last = int(np.argmax(reached >= target))  # the first that reaches it
    if last == 0:
        return float(counts[0])
    part = (target - reached[last - 1]) / (reached[last] - reached[last - 1])
    return float(counts[last - 1] * (counts[last] / counts[last - 1]) ** part)


def curve_of(marks: Marks, arm: str) -> tuple[list[int], list[float]]:
    """Demonstrations of an arm, ascending, and the mean of its seeds' success rates at each; without what has no seed."""
    counts = sorted(k for (name, k), seeds in marks.items() if name == arm and seeds)
    return counts, [float(np.mean([trials.mean() for trials in marks[arm, k].values()])) for k in counts]


def saving(marks: Marks, k: int, arm: str, baseline: str) -> float | None:
    """Demonstrations that ``baseline`` needs for the success that ``arm`` has at ``k``, as a multiple of ``k``.

    Returns:
        0 or inf beyond the baseline's curve (:func:`demonstrations_needed`); None where there is nothing to compare, or no success.
    """
    counts, rates = curve_of(marks, baseline)
    reached = dict(zip(*curve_of(marks, arm), strict=True)).get(k, 0.0)
    return demonstrations_needed(counts, rates, reached) / k if counts and reached > 0 else None


def resampled(marks: Marks, rng: np.random.Generator) -> Marks:
    """Seeds drawn with replacement, and trials within each; alike for all arms and numbers of demonstrations, which share both."""
    seeds = sorted({seed for found in marks.values() for seed in found})
    trials = max(len(marked) for found in marks.values() for marked in found.values())
    drawn = [(int(seed), rng.integers(trials, size=trials)) for seed in rng.choice(seeds, len(seeds))]
    return {key: {place: found[seed][picks] for place, (seed, picks) in enumerate(drawn) if seed in found} for key, found in marks.items()}


def saving_text(marks: Marks, k: int, arm: str, baseline: str) -> str:
    """ "4.2 (1.9 to > 8)": :func:`saving` with its 95 % bootstrap interval; beyond the measured curve a bound, "–" for nothing to compare."""
    value = saving(marks, k, arm, baseline)
    if value is None:
        return "–"
    rng = np.random.default_rng(0)
    draws = [drawn for drawn in (saving(resampled(marks, rng), k, arm, baseline) for _ in range(DRAWS)) if drawn is not None]
    counts, _ = curve_of(marks, baseline)

    def text(multiple: float) -> str:
        return f"> {counts[-1] / k:.3g}" if math.isinf(multiple) else f"{multiple:.1f}" if multiple else f"< {counts[0] / k:.3g}"

    low, high = np.percentile(draws, (2.5, 97.5), method="inverted_cdf")  # a value that was drawn: nothing lies between a number and infinity
    return f"{text(value)} ({text(low)} to {text(high)})"
