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
import pyarrow.compute as pc
import pyarrow.parquet as pq

from wbvla_core.errors import WbvlaError
from wbvla_train.data.lerobot import stats
from wbvla_train.data.lerobot.schema import camera_feature
from wbvla_train.data.lerobot.video import Encoder

ROWS, ABOUT = "rows.parquet", "episode.json"
ARROW = {"float16": pa.float16(), "float32": pa.float32(), "float64": pa.float64(), "bool": pa.bool_(), "string": pa.string()}
ARROW |= {name: getattr(pa, name)() for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")}
LOST_SHARE, LOST_LEAST = 1e-3, 1e-4  # rounding loses what a column says: more than this share of its span, and more than this (SI)


class DataError(WbvlaError):
    """A recording or data set that cannot be used; the text says what was expected, what came and what to do."""


class RowError(DataError):
    """A fault of one frame.

    Attributes:
        frame: its number in the episode, from 0.
    """

    def __init__(self, message: str, frame: int) -> None:
        super().__init__(message)
        self.frame = frame


def shown(path: object) -> str:
    """A path for people: names that are not UTF-8 are escaped instead of ending the program."""
    return os.fsencode(str(path)).decode("utf-8", "backslashreplace")


def video_file(folder: Path, camera: str) -> Path:
    """Where a finished episode has a camera's video: names with a slash are one file, too."""
    return folder / f"{camera.replace('%', '%25').replace('/', '%2F')}.mp4"


def arrow_column(values: np.ndarray, feature: Mapping[str, Any]) -> pa.Array:
    """[T, D] as the parquet column that lerobot expects: scalars for shape [1], lists of fixed length for [D], lists of lists for [D, E], ...

    Raises:
        DataError: a type that no column can have.
    """
    if feature["dtype"] not in ARROW:
        raise DataError(f"columns of type {feature['dtype']} are not written; known are {', '.join(ARROW)}")
    kind, shape = ARROW[feature["dtype"]], [int(n) for n in feature["shape"]]
    if feature["dtype"] == "string":
        return pa.array([str(v) for v in np.ravel(values)], kind)
    column = pa.array(np.ascontiguousarray(values, dtype=feature["dtype"]).ravel(), kind)
    if shape in ([], [1]):
        return column
    if len(shape) == 1:
        return pa.FixedSizeListArray.from_arrays(column, shape[0])
    for size in reversed(shape):  # as Hugging Face's "datasets" stores matrices
        column = pa.ListArray.from_arrays(pa.array(np.arange(len(column) // size + 1) * size, pa.int32()), column)
    return column


def numpy_column(column: pa.ChunkedArray, feature: Mapping[str, Any]) -> np.ndarray:
    """The inverse: [T, D], whether lists are of fixed length or not, nested or flat.

    Raises:
        RowError: a frame without a value, or with more or fewer numbers than the feature says.
        DataError: no numbers, or fractions where whole numbers were announced.
    """
    size = int(np.prod(feature["shape"]))
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(whole.type, pa.BaseExtensionType):
        whole = whole.storage
    row_of = np.arange(len(whole))  # of each value that is left, the frame that it belongs to
    _require_values(whole, row_of)
    if feature["dtype"] == "string":
        return np.array(whole.to_pylist(), dtype=object)[:, None]
    rows = len(whole)
    while pa.types.is_list(whole.type) or pa.types.is_large_list(whole.type) or pa.types.is_fixed_size_list(whole.type):
        row_of = np.repeat(row_of, pc.list_value_length(whole).to_numpy(zero_copy_only=False))
        whole = whole.flatten()
        _require_values(whole, row_of)
    counts = np.bincount(row_of, minlength=rows)
    if (counts != size).any():
        row = int((counts != size).argmax())
        raise RowError(f"{size} numbers per frame expected, frame {row} has {counts[row]}", row)
    values = whole.to_numpy(zero_copy_only=False)
    if values.dtype.kind not in "biuf":
        raise DataError(f"numbers of type {feature['dtype']} expected, got {whole.type}")
    if values.dtype.kind == "f" and np.dtype(feature["dtype"]).kind in "iu" and (values != np.floor(values)).any():
        row = int(row_of[(values != np.floor(values)).argmax()])
        raise RowError(f"whole numbers ({feature['dtype']}) expected, frame {row} has a fraction", row)
    _require_room(values, row_of, feature["dtype"])
    return values.reshape(rows, size)


def _require_room(values: np.ndarray, row_of: np.ndarray, announced: str) -> None:
    """DataError where numbers of a file become others in the type that meta/info.json announces: 300 is 44 as uint8."""
    if announced not in ARROW or announced == "string" or not len(values):
        return
    kind = np.dtype(announced)
    if kind.kind == "b":
        outside = (values != 0) & (values != 1)
    elif kind.kind in "iu":
        outside = (values < np.iinfo(kind).min) | (values > np.iinfo(kind).max)
    else:
        outside = np.isfinite(values) & (np.abs(values) > np.finfo(kind).max)
    if outside.any():
        at = int(outside.argmax())
        raise RowError(f"numbers of type {announced} expected, frame {row_of[at]} has {values[at]}", int(row_of[at]))
    if kind.kind == "f" and values.dtype.itemsize > kind.itemsize and (good := values[np.isfinite(values)]).size:
        off, span = float(np.abs(good.astype(kind) - good).max()), float(np.ptp(good))
        if off > max(LOST_SHARE * span, LOST_LEAST) and span > 0:
            text = f"as {announced}, which meta/info.json announces, its numbers ({values.dtype}) would be up to {off:g} off, and they span {span:g}"
            raise DataError(f"{text}: announce {values.dtype}, or write them from the episode's start on")


def _require_values(column: pa.Array, row_of: np.ndarray) -> None:
    if column.null_count:
        row = int(row_of[np.asarray(column.is_null()).argmax()])
        raise RowError(f"a value in every frame expected, frame {row} has none (null)", row)


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
        return {key: video_file(self.folder, key) for key, feature in self.features.items() if feature["dtype"] == "video"}


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
                self._encoders[key] = Encoder(video_file(self._folder, key), self._fps)
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
                summary[key] = stats.of_vectors(column, tuple(self._features[key]["shape"]))
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
