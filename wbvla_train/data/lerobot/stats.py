"""Statistics per episode and their aggregation, with the names and shapes that lerobot reads.

Numbers are exact per episode. Quantiles of several episodes are the mean of theirs, weighted by length: that is what
lerobot's own aggregation does, and a reader must not find other numbers after merging with other tools.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
Stats = dict[str, np.ndarray]
IMAGES_PER_EPISODE = 100  # lerobot samples that many, too


def of_vectors(values: np.ndarray, shape: tuple[int, ...] = ()) -> Stats:
    """Statistics over the frames of [T, D], each of shape [D], or of ``shape`` where a frame holds a matrix."""
    values = np.asarray(values, dtype=np.float64)
    out = {"min": values.min(0), "max": values.max(0), "mean": values.mean(0), "std": values.std(0), "count": np.array([len(values)])}
    out |= dict(zip(QUANTILES, np.quantile(values, list(QUANTILES.values()), axis=0)))
    return {name: value.reshape(shape) if len(shape) > 1 and name != "count" else value for name, value in out.items()}


class ImageStats:
    """Statistics per channel over a sample of an episode's images, scaled to [0, 1]; shapes [3, 1, 1]. A histogram, so memory does not grow."""

    def __init__(self) -> None:
        self._counts = np.zeros((3, 256), np.int64)
        self._images = 0

    def add(self, image: np.ndarray) -> None:
        """Count one image [H, W, 3] uint8, thinned to about 150 px as lerobot does."""
        step = max(1, min(image.shape[:2]) // 150)
        thin = image[::step, ::step]
        for channel in range(3):
            self._counts[channel] += np.bincount(thin[..., channel].ravel(), minlength=256)
        self._images += 1

    def result(self) -> Stats:
        levels = np.arange(256) / 255.0
        total = self._counts.sum(1)
        mean = self._counts @ levels / total
        std = np.sqrt(np.maximum(self._counts @ levels**2 / total - mean**2, 0.0))
        share = np.cumsum(self._counts, axis=1) / total[:, None]
        seen = self._counts > 0
        out = {"min": levels[seen.argmax(1)], "max": levels[255 - seen[:, ::-1].argmax(1)], "mean": mean, "std": std}
        out |= {name: levels[(share >= q - 1e-12).argmax(1)] for name, q in QUANTILES.items()}
        return {name: value.reshape(3, 1, 1) for name, value in out.items()} | {"count": np.array([self._images])}


def aggregate(parts: Iterable[Stats]) -> Stats:
    """Statistics of the union: weighted mean, pooled variance, extremes; see the module text for quantiles."""
    parts = list(parts)
    count = np.array([float(part["count"][0]) for part in parts])
    weight = count / count.sum()

    def weighted(name: str) -> np.ndarray:
        return sum(w * np.asarray(part[name], np.float64) for w, part in zip(weight, parts))

    mean = weighted("mean")
    variance = sum(w * (np.asarray(p["std"], np.float64) ** 2 + (np.asarray(p["mean"], np.float64) - mean) ** 2) for w, p in zip(weight, parts))
    out = {"min": np.min([p["min"] for p in parts], axis=0), "max": np.max([p["max"] for p in parts], axis=0), "mean": mean, "std": np.sqrt(variance)}
    out["count"] = np.array([int(count.sum())])
    return out | {name: weighted(name) for name in QUANTILES if all(name in part for part in parts)}
