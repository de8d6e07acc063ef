"""Small films made for tests: a camera that pans, a still one before a hand, and what a camera's encoder makes of them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from wbvla_train.data.film import made


def scene(seed: int, size: int = 700) -> np.ndarray:
    """A picture with edges of all directions, [S, S, 3] uint8."""
    rng = np.random.default_rng(seed)
    image = np.full((size, size, 3), rng.integers(60, 120, 3), np.uint8)
    for _ in range(160):
        x, y, w, h = (int(v) for v in rng.integers(0, size, 4) // (1, 1, 8, 8))
        cv2.rectangle(image, (x, y), (x + w, y + h), rng.integers(20, 230, 3).tolist(), -1)
        cv2.circle(image, (int(rng.integers(size)), int(rng.integers(size))), int(rng.integers(5, 30)), rng.integers(20, 230, 3).tolist(), -1)
    return image


def walk(seed: int, seconds: float = 3.0, rate_hz: float = 30.0, speed_px_s: float = 60.0, size: tuple[int, int] = (240, 320)) -> np.ndarray:
    """A camera that pans over a scene, [T, H, W, 3]; 60 px/s of 240 lines = 0.25 heights/s."""
    image = scene(seed)
    out = []
    for t in range(round(seconds * rate_hz)):
        matrix = np.array(((1.0, 0.0, -20.0 - speed_px_s * t / rate_hz), (0.0, 1.0, -40.0)))
        out.append(cv2.warpAffine(image, matrix, (size[1], size[0]), flags=cv2.INTER_LINEAR))
    return np.stack(out)


def reach(seed: int, seconds: float = 3.0, rate_hz: float = 30.0) -> np.ndarray:
    """A still camera before which a hand-sized disc moves."""
    frames = walk(seed, seconds, rate_hz, speed_px_s=0.0)
    for t, frame in enumerate(frames):
        angle = 2 * np.pi * 0.5 * t / rate_hz
        cv2.circle(frame, (int(160 + 70 * np.cos(angle)), int(150 + 50 * np.sin(angle))), 28, (210, 160, 130), -1)
    return frames


def film(path: Path, frames: np.ndarray, rate_hz: float = 30.0, **options) -> Path:
    made.encode(path, frames, np.arange(len(frames)) / rate_hz, rate_hz=rate_hz, crf=options.pop("crf", 20), **options)
    return path


def before_a_wall(seconds: float = 3.0, rate_hz: float = 30.0) -> np.ndarray:
    """A still camera before a plain wall, and a checked thing on a forearm that moves in front of it: all that can be followed moves."""
    shade = np.linspace(150, 180, 320)[None, :, None].repeat(240, axis=0).repeat(3, axis=2).astype(np.uint8)
    thing = np.kron(np.indices((4, 4)).sum(axis=0) % 2, np.ones((12, 12), int))[..., None] * np.array((150, 170, 120)) + 40
    frames = np.repeat(shade[None], round(seconds * rate_hz), axis=0)
    for t, frame in enumerate(frames):
        angle = 2 * np.pi * 0.5 * t / rate_hz
        x, y = int(150 + 50 * np.cos(angle)), int(110 + 40 * np.sin(angle))
        cv2.line(frame, (330, 200), (x + 24, y + 24), (200, 150, 120), 20)
        frame[y : y + 48, x : x + 48] = thing
    return frames
