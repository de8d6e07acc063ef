"""Read LeRobot data sets v2.0, v2.1 and v3.0, ours and others' (AgiBot World's published conversions among them), one episode at a time.

meta/info.json                            both
v2  meta/{episodes,tasks}.jsonl · data/chunk-XXX/episode_XXXXXX.parquet · videos/chunk-XXX/KEY/episode_XXXXXX.mp4
v3  meta/{tasks.parquet, episodes/…parquet} · data/chunk-XXX/file-XXX.parquet · videos/KEY/chunk-XXX/file-XXX.mp4, many episodes in each
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wbvla_train.data.lerobot import stats
from wbvla_train.data.lerobot.assemble import PROVENANCE
from wbvla_train.data.lerobot.episode import ABOUT, ROWS, DataError, Episode, arrow_column, numpy_column, shown
from wbvla_train.data.lerobot.schema import COUNTERS, camera_feature, names_of
from wbvla_train.data.lerobot.video import Encoder, read_frames

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
        tasks: its sentences; data: its parquet file; rows: where it begins in a v3 file, None for a file of its own.
        videos: camera -> (file, time in s at which it begins there); about: what our converter noted.
    """

    dataset: Dataset
    index: int
    length: int
    tasks: tuple[str, ...]
    data: Path
    videos: dict[str, tuple[Path, float]]
    about: dict[str, Any]

    def table(self) -> pa.Table:
        """Its rows, whatever else the file holds."""
        try:
            return pq.read_table(self.data, filters=[("episode_index", "=", self.index)], schema=None)
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(f"{shown(self.data)} is not readable: {str(error).splitlines()[0]}") from error

    def columns(self, keys: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Column -> [T, D]."""
        table = self.table()
        wanted = [key for key, feature in self.dataset.features.items() if feature["dtype"] not in ("video", "image") and (keys is None or key in keys)]
        missing = [key for key in wanted if key not in table.column_names]
        if missing:
            raise DataError(f"{shown(self.data)} lacks {missing}, which meta/info.json names")
        return {key: numpy_column(table[key], self.dataset.features[key]) for key in wanted}

    def images(self, camera: str) -> Iterator[np.ndarray]:
        """[H, W, 3] uint8, frame by frame."""
        path, from_s = self.videos[camera]
        try:
            for _, image in read_frames(path, from_s, self.length):
                yield image
        except (av.error.FFmpegError, IndexError, OSError) as error:
            raise DataError(f"{shown(path)} is not readable as video: {error}") from error


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
    try:
        info = json.loads((root / "meta" / "info.json").read_text())
        version = str(info["codebase_version"])
        info["features"], info["fps"], info["data_path"]  # noqa: B018
    except FileNotFoundError:
        raise DataError(f"{shown(root)} is no LeRobot data set: meta/info.json is missing") from None
    except (ValueError, KeyError) as error:
        raise DataError(f"{shown(root)}/meta/info.json is damaged: {error}") from error
    try:
        if version.startswith("v3."):
            return _open_v3(root, info)
        if version.startswith("v2."):
            return _open_v2(root, info)
    except (OSError, KeyError, ValueError, pa.ArrowInvalid) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{shown(root)}: metadata of {version} is damaged: {type(error).__name__} {error}") from error
    raise DataError(f"{shown(root)} is LeRobot {version}; v2.0, v2.1 and v3.x are read")


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def _open_v2(root: Path, info: dict[str, Any]) -> Dataset:
    tasks = {row["task_index"]: row["task"] for row in _lines(root / "meta" / "tasks.jsonl")}
    dataset = Dataset(root, info, tasks)
    cameras, views = dataset.cameras, []
    for row in _lines(root / "meta" / "episodes.jsonl"):
        where = {"episode_chunk": row["episode_index"] // info.get("chunks_size", 1000), "episode_index": row["episode_index"]}
        videos = {key: (root / info["video_path"].format(video_key=key, **where), 0.0) for key in cameras}
        sentences = tuple(row["tasks"]) if isinstance(row["tasks"], list) else (str(row["tasks"]),)
        views.append(View(dataset, row["episode_index"], row["length"], sentences, root / info["data_path"].format(**where), videos, {}))
    object.__setattr__(dataset, "views", tuple(views))
    return dataset


def _open_v3(root: Path, info: dict[str, Any]) -> Dataset:
    table = pq.read_table(root / "meta" / "tasks.parquet")
    name = next(key for key in table.column_names if key != "task_index")  # "task", or pandas' "__index_level_0__"
    dataset = Dataset(root, info, dict(zip(table["task_index"].to_pylist(), table[name].to_pylist())))
    notes: list[dict[str, Any]] = []
    if (root / PROVENANCE).is_file():
        notes = json.loads((root / PROVENANCE).read_text()).get("episodes", [])
    views = []
    for file in sorted((root / "meta" / "episodes").glob("*/*.parquet")):
        wanted = [key for key in pq.read_schema(file).names if not key.startswith("stats/")]
        for row in pq.read_table(file, columns=wanted).to_pylist():
            videos = {}
            for key in dataset.cameras:
                place = {part: row[f"videos/{key}/{part}"] for part in ("chunk_index", "file_index")}
                videos[key] = (root / info["video_path"].format(video_key=key, **place), float(row[f"videos/{key}/from_timestamp"]))
            data = root / info["data_path"].format(chunk_index=row["data/chunk_index"], file_index=row["data/file_index"])
            number = row["episode_index"]
            views.append(View(dataset, number, row["length"], tuple(row["tasks"]), data, videos, notes[number] if number < len(notes) else {}))
    object.__setattr__(dataset, "views", tuple(sorted(views, key=lambda view: view.index)))
    return dataset


# -- one episode of a data set as a finished episode of our own: for merging, splitting, filtering -------------------------------------
def stage(view: View, folder: Path) -> Episode:
    """Copy an episode into ``folder``: numbers as they are, video packets as they are where it begins with a key frame."""
    if (folder / ABOUT).is_file():
        return Episode.load(folder)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    dataset, table = view.dataset, view.table()
    if table.num_rows == 0:
        raise DataError(f"episode {view.index} of {shown(dataset.root)} has no frame")
    features, arrays, summary = {}, {}, {}
    for key, feature in dataset.features.items():
        if key in COUNTERS:
            continue
        if feature["dtype"] == "image":
            raise DataError(f"{shown(dataset.root)}: images inside the parquet file ({key}) are not read; convert them to video with lerobot")
        features[key] = {name: feature[name] for name in ("dtype", "shape", "names") if name in feature}
        if feature["dtype"] == "video":
            features[key] = _copy_video(view, key, partial / f"{key}.mp4", summary)
            continue
        values = numpy_column(table[key], feature)
        arrays[key] = arrow_column(values, feature)
        if feature["dtype"] != "string":
            summary[key] = stats.of_vectors(values)
    arrays["task"] = pa.array([dataset.tasks[i] for i in table["task_index"].to_pylist()], pa.string())
    pq.write_table(pa.table(arrays), partial / ROWS, compression="snappy")
    about = view.about or {"source": f"{dataset.root.name}, episode {view.index}"}
    data = {"length": table.num_rows, "fps": dataset.fps, "features": features, "tasks": list(dict.fromkeys(arrays["task"].to_pylist())), "about": about}
    data["stats"] = {key: {name: np.asarray(value).tolist() for name, value in part.items()} for key, part in summary.items()}
    (partial / ABOUT).write_text(json.dumps(data))
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return Episode.load(folder)


def _copy_video(view: View, key: str, target: Path, summary: dict[str, stats.Stats]) -> dict[str, Any]:
    path, from_s = view.videos[key]
    fps, count = view.dataset.fps, view.length
    image_stats, size, seen = stats.ImageStats(), (0, 0), 0
    for i, image in enumerate(view.images(key)):
        size, seen = image.shape[:2], i + 1
        if i % 10 == 0:
            image_stats.add(image)
    if seen < count:
        raise DataError(f"{shown(path)} holds {seen} frames of episode {view.index}, {count} expected")
    summary[key] = image_stats.result()
    if not _copy_packets(path, from_s, count, target):
        with Encoder(target, fps) as encoder:
            for image in view.images(key):
                encoder.add(image[: size[0] & ~1, : size[1] & ~1])
        return camera_feature(size[0] & ~1, size[1] & ~1, fps)
    feature = dict(view.dataset.features[key])
    feature["shape"] = [size[0], size[1], 3]
    feature["names"] = ["height", "width", "channels"]
    return feature


def _copy_packets(path: Path, from_s: float, count: int, target: Path) -> bool:
    """Copy ``count`` packets from ``from_s`` on without decoding; False where they do not begin with a key frame or are reordered."""
    with av.open(str(path)) as source:
        origin = source.streams.video[0]
        start = round(from_s / origin.time_base)
        half = 0.25 / float(origin.average_rate or 10) / float(origin.time_base)
        if start > 0:
            source.seek(max(int(start), 0), stream=origin)
        packets = []
        for packet in source.demux(origin):
            if packet.pts is None or packet.pts < start - half:
                continue
            packets.append(packet)
            if len(packets) == count:
                break
        if len(packets) < count or not packets[0].is_keyframe or any(packet.pts != packet.dts for packet in packets):
            return False
        with av.open(str(target), "w", format="mp4") as out:
            stream = out.add_stream_from_template(origin)
            shift = packets[0].pts
            for packet in packets:
                packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
                packet.stream = stream
                out.mux(packet)
    return True
