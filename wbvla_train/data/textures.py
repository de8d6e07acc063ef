"""Procedural surface textures, so that every room looks different and no image file is needed.

Two disjoint families: ``KINDS`` for training and development rooms, ``HELD_OUT_KINDS`` for the final test rooms only, so
that a test room's surfaces were never seen. Source: ours.
"""

from __future__ import annotations

import numpy as np

KINDS = ("noise", "checker", "stripes", "planks", "speckle", "plain", "marble")
HELD_OUT_KINDS = ("bricks", "cells", "dots", "weave")


def _value_noise(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """[S, S] smooth noise in [0, 1] that tiles."""
    grid = rng.random((cells, cells))
    u = np.arange(size) / size * cells
    i, f = u.astype(int), u - u.astype(int)
    f = f * f * (3.0 - 2.0 * f)
    rows = grid[i % cells] * (1 - f[:, None]) + grid[(i + 1) % cells] * f[:, None]
    return rows[:, i % cells] * (1 - f) + rows[:, (i + 1) % cells] * f


def _mask(rng: np.random.Generator, kind: str, size: int) -> np.ndarray:
    """[S, S] blend weight between two colours."""
    x, y = np.meshgrid(np.arange(size) / size, np.arange(size) / size)
    n = int(rng.integers(2, 9))
    if kind == "noise":
        return 0.6 * _value_noise(rng, size, n) + 0.4 * _value_noise(rng, size, 4 * n)
    if kind == "checker":
        return ((np.floor(x * 2 * n) + np.floor(y * 2 * n)) % 2).astype(float)
    if kind == "stripes":
        return (np.floor((x if rng.random() < 0.5 else y) * 2 * n) % 2).astype(float)
    if kind == "planks":
        row = np.floor(y * n)
        joint = ((x * 2 + row * 0.37) % 1.0 < 0.03) | ((y * n) % 1.0 < 0.06)
        return np.clip(0.25 + 0.5 * rng.random(n)[row.astype(int)] + 0.5 * joint, 0, 1) * (0.8 + 0.2 * _value_noise(rng, size, 16))
    if kind == "speckle":
        return (_value_noise(rng, size, 32) > 0.62).astype(float)
    if kind == "plain":
        return 0.15 * _value_noise(rng, size, n)
    if kind == "marble":
        return 0.5 + 0.5 * np.sin(2 * np.pi * (n * x + 2.0 * _value_noise(rng, size, 4)))
    if kind == "bricks":
        row = np.floor(y * 2 * n)
        return (((x * n + 0.5 * (row % 2)) % 1.0 < 0.08) | ((y * 2 * n) % 1.0 < 0.14)).astype(float)
    if kind == "cells":
        points = rng.random((6 * n, 2))
        delta = np.abs(np.stack((x, y), -1)[:, :, None] - points)
        distance = np.sort(np.linalg.norm(np.minimum(delta, 1 - delta), axis=-1), axis=-1)
        return np.clip((distance[..., 1] - distance[..., 0]) * 12, 0, 1)
    if kind == "dots":
        return (((x * 2 * n) % 1.0 - 0.5) ** 2 + ((y * 2 * n) % 1.0 - 0.5) ** 2 < 0.09).astype(float)
    if kind == "weave":
        return 0.5 + 0.25 * np.sin(2 * np.pi * 3 * n * x) + 0.25 * np.sin(2 * np.pi * 3 * n * y + np.pi * np.floor(3 * n * x))
    raise ValueError(f"unknown texture kind {kind!r}; known: {KINDS + HELD_OUT_KINDS}")


def texture(rng: np.random.Generator, held_out: bool = False, size: int = 128) -> np.ndarray:
    """A random tile [size, size, 3] uint8."""
    kinds = HELD_OUT_KINDS if held_out else KINDS
    weight = _mask(rng, kinds[rng.integers(len(kinds))], size)[..., None]
    a, b = rng.uniform(0.08, 0.95, 3), rng.uniform(0.08, 0.95, 3)
    if rng.random() < 0.4:  # many real floors and walls have one hue and little contrast
        b = np.clip(a + rng.uniform(-0.3, 0.3), 0.05, 1.0)
    grain = 1.0 + 0.12 * (rng.random((size, size, 1)) - 0.5)
    return np.clip(255.0 * (a * (1 - weight) + b * weight) * grain, 0, 255).astype(np.uint8)
