"""Frames of LeRobot data sets in shuffled order without loading them: what a training step needs is decoded when it comes to it.

An episode is cut into chunks of consecutive frames, which are decoded together. Chunks are dealt out to lanes; a lane keeps a pool of a few chunks in memory,
gives out their frames in random order, and goes on to the next pool: every frame once per epoch of its lane. Sample i of step n is a function of (seed, n, i)
alone, so that a training goes on anywhere, and each process decodes what it trains on and nothing else: lanes x pool x chunk frames are in memory at most.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from wbvla_perception.preprocess import ImageSpec, policy_image, require_rgb8
from wbvla_train.data.lerobot.episode import DataError, shown
from wbvla_train.data.lerobot.reader import Dataset, View
from wbvla_train.data.lerobot.schema import CAMERA
from wbvla_train.data.lerobot.stream_config import StreamConfig

Read = Callable[[View, int, int], dict[str, np.ndarray]]  # (episode, first frame, how many) -> arrays of that many rows


class FrameStream:
    """Batches of frames; see the module text.

    Args:
        usable: per view, which of its frames may be drawn [length] bool.
        read: reads a chunk; its arrays are what batches consist of.
        batch: samples per step, of all processes together.

    Raises:
        DataError: no frame may be drawn.
    """

    def __init__(self, views: Sequence[View], usable: Sequence[np.ndarray], read: Read, config: StreamConfig, batch: int, seed: int) -> None:
        self._views, self._read, self._seed, self._pool_chunks = views, read, seed, config.pool_chunks
        chunks = [
            (number, start, start + np.flatnonzero(allowed[start : start + config.chunk_frames]))
            for number, allowed in enumerate(usable)
            for start in range(0, len(allowed), config.chunk_frames)
        ]
        self._chunks = [chunk for chunk in chunks if len(chunk[2])]  # (view, first frame, frames that may be drawn)
        if not self._chunks:
            raise DataError("no frame of the data can be trained on; are its episodes shorter than the time between a LAM's two frames?")
        self.frames = sum(len(chunk[2]) for chunk in self._chunks)
        limit = min(config.lanes, len(self._chunks))
        self.lanes = max(count for count in range(1, limit + 1) if batch % count == 0)
        dealt = np.random.default_rng((seed, 0)).permutation(len(self._chunks))
        self._lanes = [dealt[lane :: self.lanes] for lane in range(self.lanes)]
        self._size = np.array([len(chunk[2]) for chunk in self._chunks])
        self._per_lane = batch // self.lanes
        self._orders: dict[int, tuple[int, np.ndarray, np.ndarray]] = {}
        self._pools: dict[int, tuple[tuple[int, int], list[dict[str, np.ndarray]]]] = {}

    def batch(self, step: int, part: slice) -> dict[str, np.ndarray]:
        """Samples ``part`` of the batch of ``step``, [n, ...] per array."""
        rows = [self._sample(step, number) for number in range(part.start, part.stop)]
        return {key: np.stack([pool[key][row] for pool, row in rows]) for key in rows[0][0]}

    def _sample(self, step: int, number: int) -> tuple[dict[str, np.ndarray], int]:
        lane, within = divmod(number, self._per_lane)
        epoch, position = divmod(step * self._per_lane + within, int(self._size[self._lanes[lane]].sum()))
        chunks, ends = self._order(lane, epoch)
        pool = int(np.searchsorted(ends, position, side="right"))
        members = chunks[pool * self._pool_chunks : (pool + 1) * self._pool_chunks]
        starts = ends[pool] - self._size[members][::-1].cumsum()[::-1]  # positions at which the pool's chunks begin
        shuffled = np.random.default_rng((self._seed, 2, lane, epoch, pool)).permutation(int(ends[pool] - starts[0])) + starts[0]
        row = int(shuffled[position - starts[0]])
        chunk = int(np.searchsorted(starts, row, side="right")) - 1
        return self._pool(lane, epoch, pool, members)[chunk], row - int(starts[chunk])

    def _order(self, lane: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Chunks of a lane in the order of this epoch, and the position at which each pool ends."""
        if self._orders.get(lane, (None,))[0] != epoch:
            chunks = np.random.default_rng((self._seed, 1, lane, epoch)).permutation(self._lanes[lane])
            ends = np.cumsum(np.add.reduceat(self._size[chunks], np.arange(0, len(chunks), self._pool_chunks)))
            self._orders[lane] = (epoch, chunks, ends)
        return self._orders[lane][1:]

    def _pool(self, lane: int, epoch: int, pool: int, members: np.ndarray) -> list[dict[str, np.ndarray]]:
        """Arrays of the chunks of a pool; one pool per lane is in memory."""
        if self._pools.get(lane, (None,))[0] != (epoch, pool):
            self._pools.pop(lane, None)  # before the next one is read
            self._pools[lane] = ((epoch, pool), [self._chunk(*self._chunks[index]) for index in members])
        return self._pools[lane][1]

    def _chunk(self, number: int, start: int, frames: np.ndarray) -> dict[str, np.ndarray]:
        arrays = self._read(self._views[number], start, int(frames[-1]) + 1 - start)
        return {key: value[frames - start] for key, value in arrays.items()}


def camera_of(dataset: Dataset, wanted: str = "") -> str:
    """The image column to look at.

    Raises:
        DataError: several cameras and none was chosen, or one that it does not have.
    """
    known = dataset.cameras
    camera = wanted or (CAMERA if CAMERA in known else known[0] if len(known) == 1 else "")
    if camera not in known:
        raise DataError(f"{shown(dataset.root)} has the cameras {', '.join(known) or '(none)'}{f', not {wanted}' if wanted else ''}; choose one with --camera")
    return camera


def recorded_spec(dataset: Dataset, camera: str, spec: ImageSpec) -> ImageSpec:
    """``spec`` for pictures of the size that this data set has.

    Raises:
        DataError: they are smaller than the model's: enlarged ones show nothing more.
    """
    height, width = (side for side in dataset.features[camera]["shape"] if side != 3)  # [H, W, 3], or [3, H, W] with some
    if min(height, width) < spec.size:
        raise DataError(
            f"{shown(dataset.root)}: {camera} is {width}x{height} px, the model sees {spec.size}x{spec.size} px; "
            f"record at {spec.size} px or more on both sides, or train a smaller preset"
        )
    return replace(spec, source_width=width, source_height=height)


def read_images(view: View, camera: str, start: int, count: int, spec: ImageSpec) -> np.ndarray:
    """Policy images [count, S, S, 3] uint8 of consecutive frames; ``spec`` from :func:`recorded_spec`.

    Raises:
        DataError: a row has no picture near its stamp; file, episode and frame are named.
    """
    images = np.empty((count, spec.size, spec.size, 3), dtype=np.uint8)
    for done, image in enumerate(view.images(camera, start, count)):
        require_rgb8(image)
        images[done] = image if image.shape == images.shape[1:] else policy_image(image, spec)
    return images
