"""Ranges of scene seeds, so that no scene that was trained on can be tested on. Imports nothing heavy: options name them."""

from __future__ import annotations

from wbvla_core.errors import WbvlaError

TRAINING_SEEDS = range(0, 1_000_000)
DEVELOPMENT_SEEDS = range(1_000_000, 2_000_000)
TEST_SEEDS = range(2_000_000, 3_000_000)
SPLITS = {"training": TRAINING_SEEDS, "development": DEVELOPMENT_SEEDS, "test": TEST_SEEDS}


def split_of(seed: int) -> str:
    """Name of the range that a scene seed belongs to.

    Raises:
        WbvlaError: it belongs to none.
    """
    for name, seeds in SPLITS.items():
        if seed in seeds:
            return name
    raise WbvlaError(f"scene seeds lie in [0, {TEST_SEEDS.stop}), got {seed}; see --seed-base")


def require_seeds(base: int, count: int) -> None:
    """Raise WbvlaError where seeds ``base`` to ``base + count - 1`` are not all scene seeds; before anything is drawn from them."""
    for seed in (base, base + max(count, 1) - 1):
        split_of(seed)
