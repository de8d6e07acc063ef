"""Read LeRobot data sets v2.0, v2.1 and v3.0, ours and others' (AgiBot World's published conversions among them), one episode at a time.

meta/info.json                            both
v2  meta/{episodes,tasks}.jsonl · data/chunk-XXX/episode_XXXXXX.parquet · videos/chunk-XXX/KEY/episode_XXXXXX.mp4
v3  meta/{tasks.parquet, episodes/…parquet} · data/chunk-XXX/file-XXX.parquet · videos/KEY/chunk-XXX/file-XXX.mp4, many episodes in each
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wbvla_train.data.lerobot import stats
from wbvla_train.data.lerobot.assemble import PROVENANCE
from wbvla_train.data.lerobot.episode import ABOUT, ROWS, DataError, Episode, RowError, arrow_column, numpy_column, shown, video_file
from wbvla_train.data.lerobot.pictures import allowed, open_video, read_joined, require_picture, step_of
from wbvla_train.data.lerobot.rows import episode_rows
from wbvla_train.data.lerobot.schema import COUNTERS, camera_feature, names_of
from wbvla_train.data.lerobot.video import COPIED, Encoder

EMBEDDED = "images inside the parquet file ({key}) are not read; convert them to video with lerobot (lerobot-edit-dataset) first"

# What others call the columns that checks and viewers look at; the first that a data set has is taken.
# AgiBot World: "observation.states.*" and "actions.*" in its own conversions (v2.1), "observation.state.*" in the v3 shards on the hub.
ROLES: dict[str, tuple[str, ...]] = {
    "state": ("observation.state", "observation.states.joint.position", "observation.state.joint.position"),
    "action": ("action", "actions.joint.position", "action.joint.position"),
    "command": ("command.position",),
    "gripper": ("observation.states.effector.position", "observation.state.effector.position"),
    "imu": ("observation.imu",),
    "velocity": ("observation.velocity", "observation.states.joint.velocity", "observation.state.joint.velocity"),
    "stamp": ("observation.stamp_s",),
    "skew": ("observation.skew_s",),
}


@dataclass(frozen=True)
class View:
    """One episode of a data set, read on demand.

    Attributes:
        tasks: its sentences; data: its parquet file.
        videos: camera -> (file, time in s at which it begins there); about: what our converter noted.
        ends: camera -> time in s at which it ends in its video file, where the data set says so (v3).
        first_index: number of its first row in the whole data set, where the data set says so (v3).
    """

    dataset: Dataset
    index: int
    length: int
    tasks: tuple[str, ...]
    data: Path
    videos: dict[str, tuple[Path, float]]
    about: dict[str, Any]
    ends: dict[str, float] = field(default_factory=dict)
    first_index: int | None = None

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Its rows, whatever else the file holds; of ``columns`` those that are there."""
        return episode_rows(self.data, self.index, columns)

    def columns(self, keys: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Column -> [T, D], as they are.

        Raises:
            DataError: a column is missing, or a frame of it has no value or too many; the text names file, column, episode and frame.
        """
        features = self.dataset.features
        wanted = [key for key, feature in features.items() if feature["dtype"] not in ("video", "image") and (keys is None or key in keys)]
        table = self.table(wanted)
        missing = [key for key in wanted if key not in table.column_names]
        if missing:
            raise DataError(f"{shown(self.data)} lacks {missing}, which meta/info.json names")
        return {key: self._numbers(table[key], key) for key in wanted}

    def _numbers(self, column: pa.ChunkedArray, key: str) -> np.ndarray:
        where = f"{shown(self.data)}, episode {self.index}, {key}"
        try:
            return numpy_column(column, self.dataset.features[key])
        except RowError as error:
            raise RowError(f"{where}: {error}", error.frame) from error
        except DataError as error:
            raise DataError(f"{where}: {error}") from error

    def finite(self, keys: Sequence[str]) -> dict[str, np.ndarray]:
        """:meth:`columns` for training: RowError where a number is NaN or infinite, or a frame is not where its number says."""
        self.times_s  # noqa: B018  rows in order
        columns = self.columns(keys)
        for key, values in columns.items():
            if values.dtype.kind == "f" and not (good := np.isfinite(values)).all():
                frame, entry = np.argwhere(~good)[0]
                name = self.dataset.names(key)[entry]
                what = "was not measured" if name in self.about.get("not_measured", {}).get(key, ()) else f"is {values[frame, entry]}"
                text = f"{shown(self.data)}: episode {self.index}, frame {frame}: {key} {name} {what}; leave the episode out"
                raise RowError(f"{text} (`wbvla dataset filter ... --drop {self.index}`) or record it again", int(frame))
        return columns

    @cached_property
    def task_indices(self) -> np.ndarray:
        """[T]: of each row, the number of its sentence; RowError where the table of tasks has no such number."""
        indices = self.columns(["task_index"])["task_index"][:, 0]
        if (unknown := ~np.isin(indices, list(self.dataset.tasks))).any():
            row = int(unknown.argmax())
            text = f"{shown(self.data)}: episode {self.index}, frame {row}: task_index {indices[row]} is not in the table of tasks"
            raise RowError(f"{text} (meta/tasks: 0 to {max(self.dataset.tasks, default=-1)}); restore the table", row)
        return indices

    def sentences(self) -> list[str]:
        """[T]: the sentence of each row."""
        return [self.dataset.tasks[i] for i in self.task_indices.tolist()]

    @cached_property
    def times_s(self) -> np.ndarray:
        """[T] float64: when each row was taken, on the episode's clock (the column ``timestamp``).

        Raises:
            DataError: rows are missing, out of order, or their stamps do not go up.
        """
        columns = self.columns(["timestamp", "frame_index"])
        stamps, frames = (columns[key][:, 0] for key in ("timestamp", "frame_index"))
        where = f"{shown(self.data)}, episode {self.index}"
        if len(stamps) != self.length:
            raise DataError(f"{where}: {self.length} frames announced, {len(stamps)} in the file")
        if not np.array_equal(frames, np.arange(len(frames))):
            row = int((frames != np.arange(len(frames))).argmax())
            raise RowError(f"{where}: rows are out of order: frame_index {row} expected, got {frames[row]}", row)
        stamps = stamps.astype(np.float64)
        bad = ~np.isfinite(stamps) | (np.diff(stamps, prepend=-np.inf) <= 0)
        if bad.any():
            row = int(bad.argmax())
            raise RowError(f"{where}, frame {row}: timestamp must go up, got {stamps[row]} after {stamps[max(row - 1, 0)]}", row)
        return stamps

    def video(self, camera: str) -> tuple[Path, float]:
        """File of a camera's video, and the time in s at which the episode begins there; DataError where the episode has none."""
        if camera not in self.videos:
            raise DataError(f"{shown(self.dataset.root)}: episode {self.index} has no video of {camera}; a data set has every camera in every episode")
        return self.videos[camera]

    def images(self, camera: str, start: int = 0, count: int | None = None) -> Iterator[np.ndarray]:
        """[H, W, 3] uint8 of ``count`` rows from ``start`` on, one by one: for each the picture that was taken when it was.

        Raises:
            RowError: a row has no picture. DataError: the file is not readable.
        """
        for row, (stamp_s, image) in enumerate(self.pictures(camera, start, count), start):
            path, from_s = self.video(camera)
            yield require_picture(image, stamp_s, from_s + self.times_s[row], path, self.index, row)

    def pictures(self, camera: str, start: int = 0, count: int | None = None) -> Iterator[tuple[float, np.ndarray | None]]:
        """:meth:`images` for looking at faulty episodes: (stamp of the nearest picture, s; the image, or None where it is not the row's)."""
        path, from_s = self.video(camera)
        wanted = from_s + self.times_s[start : None if count is None else start + count]
        yield from read_joined(path, wanted, 1.0 / self.dataset.fps, start)


@dataclass(frozen=True)
class Dataset:
    """An open data set; :func:`open_dataset` makes it."""

    root: Path
    info: dict[str, Any]
    tasks: dict[int, str]
    views: tuple[View, ...] = ()

    @property
    def features(self) -> dict[str, dict[str, Any]]:
        return self.info["features"]

    @property
    def fps(self) -> float:
        return float(self.info["fps"])

    @property
    def cameras(self) -> list[str]:
        return [key for key, feature in self.features.items() if feature["dtype"] == "video"]

    def role(self, name: str) -> str | None:
        """The column that plays this role, None where none does."""
        return next((key for key in ROLES[name] if key in self.features), None)

    def names(self, key: str) -> list[str]:
        return names_of(self.features[key])


def is_dataset(path: Path) -> bool:
    return (path / "meta" / "info.json").is_file()


def open_dataset(root: Path) -> Dataset:
    """Read the metadata; DataError says what is missing or of an unknown version."""
    about = root / "meta" / "info.json"
    try:
        info = json.loads(_text(about))
        version = str(info["codebase_version"])
        info["features"], info["data_path"]  # noqa: B018
        if not float(info["fps"]) > 0:
            raise ValueError(f"fps must be above 0, got {info['fps']}")
        _require_features(info["features"])
    except FileNotFoundError:
        raise DataError(f"{shown(root)} is no LeRobot data set: meta/info.json is missing") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        why = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise DataError(f"{shown(about)} is damaged: {why}") from error
    try:
        if version.startswith("v3."):
            return _open_v3(root, info)
        if version.startswith("v2."):
            return _open_v2(root, info)
    except (OSError, KeyError, ValueError, TypeError, AttributeError, IndexError, ArithmeticError, StopIteration, pa.ArrowInvalid) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{shown(root)}: metadata of {version} is damaged: {_why(error)}") from error
    raise DataError(f"{shown(root)} is LeRobot {version}; v2.0, v2.1 and v3.x are read")


def _why(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"{shown(error.filename or error)} is missing"
    return f"{error} is missing" if isinstance(error, KeyError) else f"{type(error).__name__} {str(error).splitlines()[0] if str(error) else ''}".strip()


def _require_features(features: dict[str, dict[str, Any]]) -> None:
    """Raise ValueError for names that are no place inside the data set, and for features without type or shape."""
    for key, feature in features.items():
        if key.startswith("/") or not key.strip() or ".." in key.split("/"):
            raise ValueError(f"{key!r} is no name of a column")
        if not isinstance(feature["dtype"], str) or not all(int(n) > 0 for n in feature["shape"]):
            raise ValueError(f"{key} must have a dtype and a shape of positive numbers, got {feature}")


def _require_video_path(dataset: Dataset) -> None:
    if dataset.cameras and not isinstance(dataset.info.get("video_path"), str):
        raise ValueError(f"meta/info.json has cameras ({', '.join(dataset.cameras)}), but its video_path is {dataset.info.get('video_path')!r}")


def _sentences(path: Path, tasks: dict[Any, Any]) -> dict[int, str]:
    """The table of tasks; DataError for what is no whole number or no text."""
    for number, text in tasks.items():
        if type(number) is not int or not isinstance(text, str):
            raise DataError(f"{shown(path)}: a whole number and a sentence expected, got task_index {number!r}, task {text!r}; write the sentence there")
    return tasks


def _require_numbers(path: Path, row: dict[str, Any]) -> None:
    """DataError where the list of episodes has no whole number for an episode's own, or its length."""
    for key in ("episode_index", "length"):
        if type(row[key]) is not int or row[key] < 0:
            raise DataError(f"{shown(path)}: {key} must be a whole number from 0 on, got {row[key]!r} (episode {row['episode_index']!r}); mend the list")


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8-sig")  # editors of Windows put a mark in front


def _lines(path: Path) -> list[dict[str, Any]]:
    """JSON lines. Only a newline ends one: sentences may hold U+2028 or U+0085, at which ``splitlines`` cuts."""
    rows = []
    for number, line in enumerate(_text(path).split("\n"), 1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise DataError(f"{shown(path)}, line {number} is damaged or cut off ({error}); delete the line, and what it names, or restore it") from error
    return rows


def _parquet(path: Path, without: str = "\0") -> pa.Table:
    """A table of the metadata but for columns whose names begin with ``without``."""
    try:
        return pq.read_table(path, columns=[key for key in pq.read_schema(path).names if not key.startswith(without)])
    except FileNotFoundError:
        raise DataError(f"{shown(path)} is missing") from None
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(f"{shown(path)} is not readable: {str(error).splitlines()[0]} Was its writer killed? Restore it, or record again") from error


def _open_v2(root: Path, info: dict[str, Any]) -> Dataset:
    tasks = {row["task_index"]: row["task"] for row in _lines(root / "meta" / "tasks.jsonl")}
    dataset = Dataset(root, info, _sentences(root / "meta" / "tasks.jsonl", tasks))
    _require_video_path(dataset)
    cameras, views = dataset.cameras, []
    for row in _lines(root / "meta" / "episodes.jsonl"):
        _require_numbers(root / "meta" / "episodes.jsonl", row)
        where = {"episode_chunk": row["episode_index"] // info.get("chunks_size", 1000), "episode_index": row["episode_index"]}
        videos = {key: (root / info["video_path"].format(video_key=key, **where), 0.0) for key in cameras}
        sentences = tuple(row["tasks"]) if isinstance(row["tasks"], list) else (str(row["tasks"]),)
        views.append(View(dataset, row["episode_index"], row["length"], sentences, root / info["data_path"].format(**where), videos, {}))
    object.__setattr__(dataset, "views", tuple(sorted(views, key=lambda view: view.index)))
    return dataset


def _open_v3(root: Path, info: dict[str, Any]) -> Dataset:
    table = _parquet(root / "meta" / "tasks.parquet")
    name = next(key for key in table.column_names if key != "task_index")  # "task", or pandas' "__index_level_0__"
    tasks = dict(zip(table["task_index"].to_pylist(), table[name].to_pylist()))
    dataset = Dataset(root, info, _sentences(root / "meta" / "tasks.parquet", tasks))
    _require_video_path(dataset)
    notes: list[dict[str, Any]] = []
    if (root / PROVENANCE).is_file():
        notes = json.loads(_text(root / PROVENANCE)).get("episodes", [])
    views = []
    for file in sorted((root / "meta" / "episodes").glob("*/*.parquet")):
        for row in _parquet(file, without="stats/").to_pylist():
            _require_numbers(file, row)
            number, videos, ends = row["episode_index"], {}, {}
            for key in dataset.cameras:
                place = {part: row.get(f"videos/{key}/{part}") for part in ("chunk_index", "file_index")}
                if None in place.values() or row.get(f"videos/{key}/from_timestamp") is None:
                    continue  # recorded without this camera: View.video says so to whoever wants it
                videos[key] = (root / info["video_path"].format(video_key=key, **place), float(row[f"videos/{key}/from_timestamp"]))
                if row.get(f"videos/{key}/to_timestamp") is not None:
                    ends[key] = float(row[f"videos/{key}/to_timestamp"])
            data = root / info["data_path"].format(chunk_index=row["data/chunk_index"], file_index=row["data/file_index"])
            about, first = notes[number] if 0 <= number < len(notes) else {}, row.get("dataset_from_index")
            views.append(View(dataset, number, row["length"], tuple(row["tasks"]), data, videos, about, ends, first))
    object.__setattr__(dataset, "views", tuple(sorted(views, key=lambda view: view.index)))
    return dataset


# -- one episode of a data set as a finished episode of our own: for merging, splitting, filtering -------------------------------------
def stage(view: View, folder: Path) -> Episode:
    """Copy an episode into ``folder``: numbers as they are, each row's picture by stamp; packets are copied where they are one a row, in order."""
    if (folder / ABOUT).is_file():
        return Episode.load(folder)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    dataset, table = view.dataset, view.table([key for key, feature in view.dataset.features.items() if feature["dtype"] != "image"])
    if view.length == 0:
        raise DataError(f"episode {view.index} of {shown(dataset.root)} has no frame")
    view.times_s  # noqa: B018  rows in order
    about = dict(view.about or {"source": f"{dataset.root.name}, episode {view.index}"})
    features, arrays, summary = {}, {}, {}
    for key, feature in dataset.features.items():
        if key in COUNTERS:
            continue
        if feature["dtype"] == "image":
            raise DataError(f"{shown(dataset.root)}: {EMBEDDED.format(key=key)}")
        features[key] = {name: feature[name] for name in ("dtype", "shape", "names") if name in feature}
        if feature["dtype"] == "video":
            features[key], summary[key], off_s = _copy_video(view, key, video_file(partial, key))
            if off_s > 0:
                about.setdefault("picture_off_s", {})[key] = round(off_s, 6)
            continue
        values = view._numbers(table[key], key)
        arrays[key] = arrow_column(values, feature)
        if feature["dtype"] != "string":
            summary[key] = stats.of_vectors(values, tuple(feature["shape"]))
    arrays["task"] = pa.array(view.sentences(), pa.string())
    pq.write_table(pa.table(arrays), partial / ROWS, compression="snappy")
    data = {"length": table.num_rows, "fps": dataset.fps, "features": features, "tasks": list(dict.fromkeys(view.sentences())), "about": about}
    data["stats"] = {key: {name: np.asarray(value).tolist() for name, value in part.items()} for key, part in summary.items()}
    (partial / ABOUT).write_text(json.dumps(data))
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return Episode.load(folder)


def _copy_video(view: View, key: str, target: Path) -> tuple[dict[str, Any], stats.Stats, float]:
    """Returns the feature, statistics of the pictures, and how far [s] pictures lie from their rows where that is more than rounding."""
    path, from_s = view.video(key)
    wanted = from_s + view.times_s
    fps, image_stats, off, size = view.dataset.fps, stats.ImageStats(), np.zeros(view.length), (0, 0)
    for row, (stamp_s, image) in enumerate(view.pictures(key)):
        image = require_picture(image, stamp_s, wanted[row], path, view.index, row)
        off[row] = abs(stamp_s - wanted[row])
        if row and image.shape[:2] != size:
            raise RowError(f"{shown(path)}: episode {view.index}, frame {row}: pictures change from {size} to {image.shape[:2]} px (height, width)", row)
        size = image.shape[:2]
        if row % 10 == 0:
            image_stats.add(image)
    with open_video(path) as container:
        stream = container.streams.video[0]
        exact = allowed(wanted, 1.0 / fps, step_of(stream), float(stream.time_base))[0]
    if not _copy_packets(path, wanted, exact, fps, target):
        with Encoder(target, fps) as encoder:
            for image in view.images(key):
                encoder.add(image)
        return camera_feature(*size, fps), image_stats.result(), float(off.max()) if (off > exact).any() else 0.0
    feature = dict(view.dataset.features[key])
    feature["shape"] = [*size, 3]
    feature["names"] = ["height", "width", "channels"]
    return feature, image_stats.result(), 0.0


def _copy_packets(path: Path, wanted_s: np.ndarray, exact_s: np.ndarray, fps: float, target: Path) -> bool:
    """Copy one packet a row without decoding, stamped anew at k / fps. False where packets are not one a row, on time, in order, from a key frame on."""
    with open_video(path) as source:
        origin = source.streams.video[0]
        if origin.codec_context.name not in COPIED:
            return False
        tick_s = float(origin.time_base)
        if wanted_s[0] > exact_s[0]:
            source.seek(int((wanted_s[0] - exact_s[0]) / tick_s), stream=origin)
        packets: list[av.Packet] = []
        for packet in source.demux(origin):
            if not packet.size or packet.pts * tick_s < wanted_s[0] - exact_s[0]:
                continue
            row = len(packets)
            if packet.pts != packet.dts or packet.is_discard or abs(packet.pts * tick_s - wanted_s[row]) > exact_s[row]:
                return False
            packets.append(packet)
            if len(packets) == len(wanted_s):
                break
        if len(packets) < len(wanted_s) or not packets[0].is_keyframe:
            return False
        with av.open(str(target), "w", format="mp4") as out:
            stream = out.add_stream_from_template(origin, opaque=True)
            for row, packet in enumerate(packets):
                packet.pts = packet.dts = row
                packet.time_base = 1 / Fraction(fps).limit_denominator(1001)
                packet.stream = stream
                out.mux(packet)
    return True
