"""Augmentation of policy images, and their way into the model."""

from __future__ import annotations

import numpy as np
import torch

from wbvla_core.errors import WbvlaError
from wbvla_perception.preprocess import ImageSpec, pixel_values


def jitter(images: np.ndarray, rng: np.random.Generator, gain: float = 0.25, tint: float = 0.06, noise: float = 4.0) -> np.ndarray:
    """Brightness, a little colour and sensor noise, [B, S, S, 3] uint8 -> uint8. Colours stay telling: boxes are named by them."""
    n = len(images)
    factor = rng.uniform(1 - gain, 1 + gain, (n, 1, 1, 1)) * rng.uniform(1 - tint, 1 + tint, (n, 1, 1, 3))
    grain = rng.normal(0.0, noise, (1, *images.shape[1:])) * rng.uniform(0.0, 1.0, (n, 1, 1, 1))
    return np.clip(images * factor.astype(np.float32) + grain.astype(np.float32), 0, 255).astype(np.uint8)


def mirror(images: np.ndarray) -> np.ndarray:
    """Left and right swapped, [B, S, S, 3]."""
    return images[:, :, ::-1]


def require_size(images: np.ndarray, spec: ImageSpec, where: object) -> None:
    """Raise WbvlaError where recorded policy images are not of the model's size."""
    if images.shape[1:3] != (spec.size, spec.size):
        raise WbvlaError(
            f"{where} holds pictures of {images.shape[2]}x{images.shape[1]} px, the model sees {spec.size}x{spec.size} px; "
            "train from LeRobot data at that size or more (--lerobot), or a preset of the recorded size"
        )


def to_model(images: np.ndarray, spec: ImageSpec) -> torch.Tensor:
    """[B, S, S, 3] uint8 -> [B, C, S, S] float32, by perception's transform."""
    return torch.from_numpy(pixel_values(images, spec))
