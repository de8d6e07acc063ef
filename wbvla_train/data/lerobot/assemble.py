"""Finished episodes -> a LeRobot v3 data set: numbered, concatenated, described, and put in place by one rename."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wbvla_train.data.lerobot import stats
from wbvla_train.data.lerobot.episode import DataError, Episode, arrow_column, shown
from wbvla_train.data.lerobot.schema import CHUNK_FILES, DATA_FILE_BYTES, DATA_PATH, EPISODES_PATH, VERSION, VIDEO_FILE_BYTES, VIDEO_PATH, counters, whole
from wbvla_train.data.lerobot.video import codec_key, concatenate

PROVENANCE = Path("meta") / "wbvla.json"


def _place(number: int) -> dict[str, int]:
    return {"chunk_index": number // CHUNK_FILES, "file_index": number % CHUNK_FILES}


def require_alike(episodes: Sequence[Episode]) -> None:
    """Raise where episodes differ in columns, sizes or rate: a data set has one of each."""
    first = episodes[0]
    for episode in episodes[1:]:
        for what, a, b in (("rate [Hz]", first.fps, episode.fps), ("columns", sorted(first.features), sorted(episode.features))):
            if a != b:
                raise DataError(f"episodes of one data set must agree in {what}: {shown(_name(first))} has {a}, {shown(_name(episode))} has {b}")
        for key, feature in first.features.items():
            if (feature["dtype"], list(feature["shape"]), feature.get("names")) != (
                episode.features[key]["dtype"],
                list(episode.features[key]["shape"]),
                episode.features[key].get("names"),
            ):
                raise DataError(
                    f"episodes of one data set must agree in {key}: {shown(_name(first))} has {feature['shape']} {feature['dtype']}, "
                    f"{shown(_name(episode))} has {episode.features[key]['shape']} {episode.features[key]['dtype']} or other names; keep them apart"
                )


def _name(episode: Episode) -> str:
    return str(episode.about.get("source", episode.folder.name))


def assemble(episodes: Iterable[Episode], output: Path, *, robot_type: str, provenance: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Write the data set ``output``; returns its info.

    Raises:
        DataError: it exists already, there is no episode, or episodes do not fit together.
    """
    episodes = list(episodes)
    if output.exists():
        raise DataError(f"{shown(output)} exists already; name a folder that does not, or `wbvla dataset merge` into a new one")
    if not episodes:
        raise DataError("no episode is left to write a data set from")
    require_alike(episodes)
    building = output.with_name(output.name + ".building")
    shutil.rmtree(building, ignore_errors=True)
    (building / "meta").mkdir(parents=True)
    features = episodes[0].features | counters()
    fps = episodes[0].fps
    tasks = list(dict.fromkeys(task for episode in episodes for task in episode.tasks))
    places = _write_data(building, episodes, tasks, features)
    for key, feature in features.items():
        if feature["dtype"] == "video":
            for place, part in zip(places, _write_videos(building, key, episodes, fps)):
                place |= part
    _write_tasks(building / "meta" / "tasks.parquet", tasks)
    _write_episodes(building, episodes, places)
    total = {key: stats.aggregate([place["stats"][key] for place in places]) for key in places[0]["stats"]}
    as_lists = {key: {name: np.asarray(value).tolist() for name, value in part.items()} for key, part in total.items()}
    (building / "meta" / "stats.json").write_text(json.dumps(as_lists, indent=1))
    info = {
        "codebase_version": VERSION,
        "robot_type": robot_type,
        "total_episodes": len(episodes),
        "total_frames": sum(episode.length for episode in episodes),
        "total_tasks": len(tasks),
        "chunks_size": CHUNK_FILES,
        "data_files_size_in_mb": DATA_FILE_BYTES // 1_000_000,
        "video_files_size_in_mb": VIDEO_FILE_BYTES // 1_000_000,
        "fps": whole(fps),
        "splits": {"train": f"0:{len(episodes)}"},
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH if any(feature["dtype"] == "video" for feature in features.values()) else None,
        "features": features,
    }
    (building / "meta" / "info.json").write_text(json.dumps(info, indent=1))
    about = dict(provenance or {}) | {"episodes": [episode.about for episode in episodes]}
    (building / PROVENANCE).write_text(json.dumps(about, indent=1))
    os.rename(building, output)
    return info


class _Files:
    """Parquet files of limited size, one row group per table."""

    def __init__(self, root: Path, pattern: str) -> None:
        self._root, self._pattern, self.number = root, pattern, -1
        self._writer: pq.ParquetWriter | None = None
        self._bytes = 0

    def write(self, make: Callable[[int], pa.Table]) -> None:
        """Append ``make(number of the file it goes to)``."""
        if self._writer is None or self._bytes > DATA_FILE_BYTES:
            self.close()
            self.number, self._bytes = self.number + 1, 0
        table = make(self.number)
        if self._writer is None:
            path = self._root / self._pattern.format(**_place(self.number))
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(path, table.schema, compression="snappy")
        self._writer.write_table(table)
        self._bytes += table.nbytes

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _write_data(building: Path, episodes: Sequence[Episode], tasks: Sequence[str], features: Mapping[str, Any]) -> list[dict[str, Any]]:
    files, places, start = _Files(building, DATA_PATH), [], 0
    task_index = {task: i for i, task in enumerate(tasks)}
    for number, episode in enumerate(episodes):
        rows = episode.table()
        count = rows.num_rows
        if count != episode.length:
            raise DataError(f"{shown(_name(episode))}: {episode.length} frames announced, {count} there; convert it again")
        counted = {
            "timestamp": (np.arange(count) / episode.fps).astype(np.float32),
            "frame_index": np.arange(count),
            "episode_index": np.full(count, number),
            "index": start + np.arange(count),
            "task_index": np.array([task_index[task] for task in rows["task"].to_pylist()]),
        }
        kept = {key: rows[key] for key, feature in features.items() if feature["dtype"] != "video" and key not in counted}
        table = pa.table(kept | {key: arrow_column(values, features[key]) for key, values in counted.items()})
        files.write(lambda _, table=table: table)
        place = {f"data/{name}": value for name, value in _place(files.number).items()}
        place |= {"dataset_from_index": start, "dataset_to_index": start + count}
        place["stats"] = episode.stats | {key: stats.of_vectors(values[:, None]) for key, values in counted.items()}
        places.append(place)
        start += count
    files.close()
    return places


def _write_videos(building: Path, key: str, episodes: Sequence[Episode], fps: float) -> list[dict[str, Any]]:
    groups: list[list[int]] = []
    size, codec = 0, None
    for number, episode in enumerate(episodes):
        path = episode.videos()[key]
        here = codec_key(path)
        if not groups or size + path.stat().st_size > VIDEO_FILE_BYTES or here != codec:
            groups.append([])
            size, codec = 0, here
        groups[-1].append(number)
        size += path.stat().st_size
    places: list[dict[str, Any]] = []
    for file_number, group in enumerate(groups):
        target = building / VIDEO_PATH.format(video_key=key, **_place(file_number))
        target.parent.mkdir(parents=True, exist_ok=True)
        concatenate([(episodes[i].videos()[key], episodes[i].length) for i in group], fps, target)
        done = 0
        for i in group:
            times = {"from_timestamp": done / fps, "to_timestamp": (done + episodes[i].length) / fps}
            places.append({f"videos/{key}/{name}": value for name, value in (_place(file_number) | times).items()})
            done += episodes[i].length
    return places


def _write_tasks(path: Path, tasks: Sequence[str]) -> None:
    """lerobot reads this table with pandas and looks tasks up by its index: the index is named in the file's metadata."""
    columns = [("task_index", "int64", "int64"), ("task", "unicode", "object")]
    pandas = {
        "index_columns": ["task"],
        "column_indexes": [{"name": None, "field_name": None, "pandas_type": "unicode", "numpy_type": "object", "metadata": {"encoding": "UTF-8"}}],
        "columns": [{"name": n, "field_name": n, "pandas_type": p, "numpy_type": t, "metadata": None} for n, p, t in columns],
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.0.0",
    }
    table = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), "task": pa.array(tasks, pa.string())})
    pq.write_table(table.replace_schema_metadata({"pandas": json.dumps(pandas)}), path)


def _write_episodes(building: Path, episodes: Sequence[Episode], places: Sequence[dict[str, Any]]) -> None:
    files = _Files(building, EPISODES_PATH)
    for number, (episode, place) in enumerate(zip(episodes, places)):
        row: dict[str, Any] = {"episode_index": number, "tasks": list(episode.tasks), "length": episode.length}
        row |= {key: value for key, value in place.items() if key != "stats"}
        for key, part in place["stats"].items():
            row |= {f"stats/{key}/{name}": np.asarray(value).tolist() for name, value in part.items()}

        def make(file: int, row: dict[str, Any] = row) -> pa.Table:
            where = {f"meta/episodes/{name}": value for name, value in _place(file).items()}
            return pa.table({key: [value] for key, value in (row | where).items()})

        files.write(make)
    files.close()
