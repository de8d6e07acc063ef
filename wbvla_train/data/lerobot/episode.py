"""One finished episode on disk: ``rows.parquet``, one mp4 per camera and ``episode.json``, in a folder that appears whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wbvla_core.errors import WbvlaError
from wbvla_train.data.lerobot import stats
from wbvla_train.data.lerobot.schema import camera_feature
from wbvla_train.data.lerobot.video import Encoder

ROWS, ABOUT = "rows.parquet", "episode.json"
ARROW = {"float32": pa.float32(), "float64": pa.float64(), "int64": pa.int64(), "int32": pa.int32(), "int8": pa.int8(), "bool": pa.bool_()}
ARROW |= {"uint8": pa.uint8(), "uint16": pa.uint16(), "string": pa.string()}


class DataError(WbvlaError):
    """A recording or data set that cannot be used; the text says what was expected, what came and what to do."""


def shown(path: object) -> str:
    """A path for people: names that are not UTF-8 are escaped instead of ending the program."""
    return os.fsencode(str(path)).decode("utf-8", "backslashreplace")


def arrow_column(values: np.ndarray, feature: Mapping[str, Any]) -> pa.Array:
    """[T, ...] as the parquet column that lerobot expects: scalars for shape [1], lists of fixed length otherwise."""
    kind, size = ARROW[feature["dtype"]], int(np.prod(feature["shape"]))
    if feature["dtype"] == "string":
        return pa.array([str(v) for v in np.ravel(values)], kind)
    flat = pa.array(np.ascontiguousarray(values, dtype=feature["dtype"]).ravel(), kind)
    return flat if size == 1 else pa.FixedSizeListArray.from_arrays(flat, size)


def numpy_column(column: pa.ChunkedArray, feature: Mapping[str, Any]) -> np.ndarray:
    """The inverse: [T, D], whether lists are of fixed length or not."""
    size = int(np.prod(feature["shape"]))
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if feature["dtype"] == "string":
        return np.array(whole.to_pylist(), dtype=object)[:, None]
    rows = len(whole)
    while pa.types.is_list(whole.type) or pa.types.is_large_list(whole.type) or pa.types.is_fixed_size_list(whole.type):
        whole = whole.flatten()
    values = whole.to_numpy(zero_copy_only=False)
    if len(values) != rows * size:
        raise DataError(f"a column of {size} numbers per frame expected, got {len(values)} numbers in {rows} frames")
    return values.reshape(rows, size)


@dataclass(frozen=True)
class Episode:
    """A finished episode.

    Attributes:
        folder: where it lies; length: frames; fps: frames per second.
        features: its columns but the counters, as in ``meta/info.json``.
        tasks: its sentences, in order of appearance.
        stats: per feature.
        about: what else is known (source, robot, measured skew, ...), JSON.
    """

    folder: Path
    length: int
    fps: float
    features: dict[str, dict[str, Any]]
    tasks: tuple[str, ...]
    stats: dict[str, stats.Stats]
    about: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path) -> Episode:
        data = json.loads((folder / ABOUT).read_text())
        loaded = {key: {name: np.array(value) for name, value in part.items()} for key, part in data["stats"].items()}
        return cls(folder, data["length"], data["fps"], data["features"], tuple(data["tasks"]), loaded, data["about"])

    def table(self) -> pa.Table:
        return pq.read_table(self.folder / ROWS)

    def videos(self) -> dict[str, Path]:
        return {key: self.folder / f"{key}.mp4" for key, feature in self.features.items() if feature["dtype"] == "video"}


class EpisodeWriter:
    """Write one episode frame by frame; nothing is seen of it before :meth:`finish`. Images go straight to the encoder; numbers wait (about 1 kB a frame)."""

    def __init__(self, folder: Path, features: Mapping[str, Mapping[str, Any]], fps: float) -> None:
        self._final, self._folder = folder, folder.with_name(folder.name + ".partial")
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        self._features = {key: dict(feature) for key, feature in features.items()}
        self._fps = fps
        self._rows: dict[str, list[np.ndarray]] = {key: [] for key in self._features}
        self._tasks: list[str] = []
        self._encoders: dict[str, Encoder] = {}
        self._image_stats: dict[str, stats.ImageStats] = {}
        self._image_stride = 10

    def __enter__(self) -> EpisodeWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        for encoder in self._encoders.values():
            encoder.__exit__(*(exc or (None, None, None)))
        self._encoders = {}
        shutil.rmtree(self._folder, ignore_errors=True)  # after finish() it is gone already

    def __len__(self) -> int:
        return len(self._tasks)

    def add(self, rows: Mapping[str, np.ndarray], images: Mapping[str, np.ndarray], task: str) -> None:
        """One frame: a vector per column, an image [H, W, 3] uint8 per camera, its sentence."""
        for key, image in images.items():
            if key not in self._encoders:
                height, width = image.shape[0] & ~1, image.shape[1] & ~1  # H.264 wants even sizes
                self._features[key] = camera_feature(height, width, self._fps)
                self._encoders[key] = Encoder(self._folder / f"{key}.mp4", self._fps)
                self._image_stats[key] = stats.ImageStats()
            height, width, _ = self._features[key]["shape"]
            if image.shape[0] & ~1 != height or image.shape[1] & ~1 != width:
                raise DataError(f"images of {key} must stay {width}x{height} px, got {image.shape[1]}x{image.shape[0]} at frame {len(self)}")
            self._encoders[key].add(image[:height, :width])
            if len(self) % self._image_stride == 0:
                self._image_stats[key].add(image)
        for key, values in self._rows.items():
            kind = self._features[key]["dtype"]
            values.append(np.asarray(rows[key], dtype=object if kind == "string" else kind).ravel())
        self._tasks.append(task)

    def finish(self, about: Mapping[str, Any]) -> Episode:
        """Close the files and let the episode appear."""
        if not self._tasks:
            raise DataError("no frame")
        for encoder in self._encoders.values():
            encoder.__exit__(None, None, None)
        self._encoders = {}
        arrays, summary = {}, {}
        for key, values in self._rows.items():
            column = np.stack(values)
            arrays[key] = arrow_column(column, self._features[key])
            if self._features[key]["dtype"] != "string":
                summary[key] = stats.of_vectors(column)
        arrays["task"] = pa.array(self._tasks, pa.string())
        summary |= {key: part.result() for key, part in self._image_stats.items()}
        pq.write_table(pa.table(arrays), self._folder / ROWS, compression="snappy")
        data = {
            "length": len(self._tasks),
            "fps": self._fps,
            "features": self._features,
            "tasks": list(dict.fromkeys(self._tasks)),
            "stats": {key: {name: np.asarray(value).tolist() for name, value in part.items()} for key, part in summary.items()},
            "about": dict(about),
        }
        (self._folder / ABOUT).write_text(json.dumps(data))
        shutil.rmtree(self._final, ignore_errors=True)
        os.rename(self._folder, self._final)
        return Episode.load(self._final)
