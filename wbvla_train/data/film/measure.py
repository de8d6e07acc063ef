"""What the gates know of a frame: brightness, sharpness, change, and how the camera moved since the frame before.

All numbers are free of resolution and frame rate: lengths in picture heights, rates per second of the film's own clock.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from wbvla_train.data.film.reader import Sample

cv2.setNumThreads(1)  # processes are the parallelism; the same numbers on every machine

THUMB = 16  # side of the signature picture by which duplicates are found
EDGE_LEVELS = 6.0  # smaller steps between neighbours are sensor noise
BRIGHT_LEVEL = 250
SMEAR_MARGIN = 0.16  # how much softer than the mean of all edges a smear makes its own direction, at least
FEATURES = 120
STILL_PX, STILL_SHARE = 1.0, 0.2  # a camera from which this share of the features hardly moves stands: what moves more are hands
AGREE_PX = 2.0
JOLT_RESIDUAL = 0.6  # a shift that leaves more of the picture unexplained is none


@dataclass(frozen=True)
class Measure:
    """One sample, measured against the one before it (``None`` before the first: motion is then zero).

    Attributes:
        stamp_s, index: as in :class:`Sample`; dt_s: since the sample before.
        brightness: mean luma, 0..255; bright_share: share of burnt-out pixels.
        blur: 0 (every edge one pixel wide) .. 1 (a further blur changes nothing); Crete et al. 2007, on edges above noise.
        edges: share of pixels that are edges.
        change: mean absolute difference of luma; peak_change: its 99.5th percentile.
        shift: [2] movement of the picture's centre (right, down), heights; zoom: log of its growth; roll: rad.
        tracked: share of features whose movement that similarity explains, 0..1.
        match: correlation of the frame before, moved by it, with this one, -1..1.
        residual: share of pixels that differ after that movement: what moves in front of the camera.
        thumb: [16, 16] uint8.
        joined: as in :class:`Sample`.
        spread: share of the picture that the features span which follow the similarity (their convex hull), 0..1: a camera that moves is
            seen all over the picture, a hand before a plain wall is not.
    """

    stamp_s: float
    index: int
    dt_s: float
    brightness: float
    bright_share: float
    blur: float
    edges: float
    change: float
    peak_change: float
    shift: tuple[float, float]
    zoom: float
    roll: float
    tracked: float
    match: float
    residual: float
    thumb: np.ndarray
    joined: bool = False
    spread: float = 0.0

    @property
    def motion(self) -> np.ndarray:
        """[4] (right, down, zoom, roll) of this step; comparable, because a zoom or roll of 1 moves the picture's edge by about 1/2 height."""
        return np.array((*self.shift, 0.5 * self.zoom, 0.5 * self.roll))


_DIAGONAL = np.eye(7, dtype=np.float32) / 7.0
# Difference to the neighbour in four directions, and the kernel that blurs along that direction by about 9 px.
_DIRECTIONS = (
    ((slice(None), slice(1, None)), (slice(None), slice(None, -1)), np.full((1, 9), 1 / 9, np.float32)),
    ((slice(1, None), slice(None)), (slice(None, -1), slice(None)), np.full((9, 1), 1 / 9, np.float32)),
    ((slice(1, None), slice(1, None)), (slice(None, -1), slice(None, -1)), _DIAGONAL),
    ((slice(1, None), slice(None, -1)), (slice(None, -1), slice(1, None)), _DIAGONAL[::-1].copy()),
)


def blur_of(grey: np.ndarray) -> tuple[float, float]:
    """(blur 0..1, share of edge pixels). The worst of four directions, for a smear blurs along itself only; but not far above all of them together:
    edges that happen to run along one direction (stripes, planks) look soft in it.
    """
    image = grey.astype(np.float32)
    worst, edges, total, weight = 0.0, 0.0, 0.0, 0
    for later, earlier, kernel in _DIRECTIONS:
        softer = cv2.filter2D(image, -1, kernel)
        step, soft_step = cv2.absdiff(image[later], image[earlier]), cv2.absdiff(softer[later], softer[earlier])
        edge = step > EDGE_LEVELS
        count = int(np.count_nonzero(edge))
        edges = max(edges, count / edge.size)
        if count > 0.002 * edge.size:
            lost = cv2.subtract(step, soft_step)
            np.maximum(lost, 0.0, out=lost)
            soft = 1.0 - float(np.dot(lost.ravel(), edge.ravel())) / float(np.dot(step.ravel(), edge.ravel()))
            worst, total, weight = max(worst, soft), total + soft * count, weight + count
    return (min(worst, total / weight + SMEAR_MARGIN) if weight else 1.0), edges


def _span(points: np.ndarray, shape: tuple[int, int]) -> float:
    """Share of a picture of ``shape`` that the convex hull of ``points`` [N, 1, 2] covers."""
    return float(cv2.contourArea(cv2.convexHull(points))) / (shape[0] * shape[1]) if len(points) >= 3 else 0.0


def _ego_motion(before: np.ndarray, now: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Similarity [2, 3] from the frame before to this one (identity where nothing can be tracked), the share of features that follow it, and
    the share of the picture that those span.

    Hands before a still camera may carry most of the features, and the best fit would then be theirs: where enough features hardly move, it
    is fitted to those alone. Unless the others span more of the picture: then what hardly moves is what the wearer holds.
    """
    identity = np.eye(2, 3)
    points = cv2.goodFeaturesToTrack(before, FEATURES, 0.01, 7, blockSize=5)
    if points is None or len(points) < 8:
        return identity, 0.0, 0.0
    moved, found, _ = cv2.calcOpticalFlowPyrLK(before, now, points, None, winSize=(15, 15), maxLevel=4)
    back, found_back, _ = cv2.calcOpticalFlowPyrLK(now, before, moved, None, winSize=(15, 15), maxLevel=4)
    sound = (found.ravel() > 0) & (found_back.ravel() > 0) & (np.abs(back - points).max(axis=(1, 2)) < 1.0)
    if sound.sum() < 6:
        return identity, 0.0, 0.0
    start, end = points[sound], moved[sound]
    still = np.linalg.norm((end - start)[:, 0], axis=1) < STILL_PX
    stands = still.sum() >= max(STILL_SHARE * len(points), 6) and _span(start[still], before.shape) >= _span(start[~still], before.shape)
    rest = still if stands else np.ones(len(start), dtype=bool)
    matrix, _ = cv2.estimateAffinePartial2D(start[rest], end[rest], method=cv2.RANSAC, ransacReprojThreshold=AGREE_PX, maxIters=300)
    if matrix is None:
        return identity, 0.0, 0.0
    miss = np.linalg.norm(start[:, 0] @ matrix[:, :2].T + matrix[:, 2] - end[:, 0], axis=1)
    follow = miss < AGREE_PX
    return matrix, float(follow.sum()) / len(points), _span(start[follow], before.shape)


def measure(sample: Sample, before: Sample | None) -> Measure:
    """Measure one sample; about 3 ms of one core."""
    grey = sample.grey
    brightness = float(grey.mean())
    bright_share = float((grey >= BRIGHT_LEVEL).mean())
    blur, edges = blur_of(grey)
    thumb = cv2.resize(grey, (THUMB, THUMB), interpolation=cv2.INTER_AREA)
    if before is None:
        return Measure(sample.stamp_s, sample.index, 0.0, brightness, bright_share, blur, edges, 0.0, 0.0, (0.0, 0.0), 0.0, 0.0, 1.0, 1.0, 0.0, thumb)
    difference = cv2.absdiff(grey, before.grey)
    matrix, tracked, spread = _ego_motion(before.grey, grey)
    height, width = grey.shape
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    if not 0.5 < scale < 2.0:
        matrix, tracked, spread, scale = np.eye(2, 3), 0.0, 0.0, 1.0
    centre = np.array((width / 2, height / 2))
    shift = (matrix[:, :2] @ centre + matrix[:, 2] - centre) / height
    match, residual = _match(before.grey, grey, matrix)
    if tracked < 0.1:  # a jolt beyond the tracker's reach is no cut: look for one shift of the whole picture
        jolt = _whole_shift(before.grey, grey)
        jolt_match, jolt_residual = _match(before.grey, grey, np.array(((1.0, 0.0, jolt[0]), (0.0, 1.0, jolt[1]))))
        if jolt_match > max(match, 0.6) and jolt_residual < JOLT_RESIDUAL:
            match, residual, scale, shift, matrix, spread = jolt_match, jolt_residual, 1.0, jolt / height, np.eye(2, 3), 1.0
    return Measure(
        stamp_s=sample.stamp_s,
        index=sample.index,
        dt_s=sample.stamp_s - before.stamp_s,
        brightness=brightness,
        bright_share=bright_share,
        blur=blur,
        edges=edges,
        change=float(difference.mean()),
        peak_change=float(np.partition(difference.ravel(), int(difference.size * 0.995))[int(difference.size * 0.995)]),
        shift=(float(shift[0]), float(shift[1])),
        zoom=float(np.log(scale)),
        roll=float(np.arctan2(matrix[1, 0], matrix[0, 0])),
        tracked=tracked,
        match=match,
        residual=residual,
        thumb=thumb,
        joined=sample.joined,
        spread=spread,
    )


def _whole_shift(before: np.ndarray, now: np.ndarray) -> np.ndarray:
    """[2] (right, down) px by phase correlation."""
    small = (now.shape[1] // 2, now.shape[0] // 2)
    a, b = (cv2.resize(x, small, interpolation=cv2.INTER_AREA).astype(np.float32) for x in (before, now))
    (dx, dy), _ = cv2.phaseCorrelate(a, b, cv2.createHanningWindow(small, cv2.CV_32F))
    return 2.0 * np.array((dx, dy))


def _match(before: np.ndarray, now: np.ndarray, matrix: np.ndarray) -> tuple[float, float]:
    """Correlation of the moved frame before with this one, and the share of pixels that still differ; on a quarter of the size."""
    height, width = now.shape
    small = (width // 4, height // 4)
    a, b = cv2.resize(before, small, interpolation=cv2.INTER_AREA), cv2.resize(now, small, interpolation=cv2.INTER_AREA)
    quarter = matrix.copy()
    quarter[:, 2] /= 4.0
    moved = cv2.warpAffine(a, quarter, small, borderValue=0)
    seen = cv2.warpAffine(np.full_like(a, 255), quarter, small, borderValue=0) == 255
    if seen.sum() < 0.2 * seen.size:
        return 0.0, 1.0
    x, y = moved[seen].astype(np.float32), b[seen].astype(np.float32)
    residual = float((np.abs(x - y) > 14).mean())
    x, y = x - x.mean(), y - y.mean()
    norm = float(np.sqrt((x * x).sum() * (y * y).sum()))
    return (float((x * y).sum()) / norm if norm > 1e-3 else 1.0), residual
