"""LeRobot data sets by others for tests: v2.1 and v3, any columns, videos with any stamps. Row k wants a picture of grey level ``level(k)``."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

CAMERA = "observation.images.top"
TASKS = ("pick it", "place it")
Shots = Sequence[tuple[float, int]]  # (stamp, s; grey level)


def level(row: int) -> int:
    """Grey of the picture of a row; 8 apart, so that a compressed neighbour is told apart."""
    return 16 + 8 * (row % 28)


def shots(rows: int, fps: float = 10.0, begin_s: float = 0.0) -> list[tuple[float, int]]:
    """One picture a row, on time."""
    return [(begin_s + k / fps, level(k)) for k in range(rows)]


def write_video(
    path: Path, pictures: Shots, *, rate: float = 10.0, size: tuple[int, int] = (32, 24), codec: str = "libx264", bf: int = 0, pix_fmt: str = ""
) -> None:
    """An mp4 of grey pictures with these stamps; ``rate`` only steers the encoder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"g": "12" if bf else "2", "bf": str(bf), "crf": "8"} if codec == "libx264" else {} if pix_fmt else {"g": "2", "crf": "20", "preset": "12"}
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=Fraction(rate).limit_denominator(1001), options=options)
        stream.width, stream.height = size
        stream.pix_fmt = pix_fmt or ("yuv444p" if size[0] % 2 or size[1] % 2 else "yuv420p")
        stream.thread_count = 1
        stream.codec_context.time_base = Fraction(1, 90000)
        for stamp_s, grey in pictures:
            frame = av.VideoFrame.from_ndarray(np.full((size[1], size[0], 3), grey, np.uint8), format="rgb24")
            frame.pts, frame.time_base = round(stamp_s * 90000), Fraction(1, 90000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())


def lists(values: np.ndarray) -> pa.Array:
    """[T, D] as a column of lists."""
    return pa.array(values.tolist(), pa.list_(pa.from_numpy_dtype(values.dtype)))


def rows(episode: int, count: int, first: int, task: int, fps: float) -> dict[str, pa.Array]:
    """The columns of one episode: a random walk of three joints."""
    walk = np.cumsum(np.random.default_rng(episode).normal(0, 0.02, (count, 3)), 0).astype(np.float32)
    whole = {"frame_index": np.arange(count), "episode_index": np.full(count, episode), "index": first + np.arange(count), "task_index": np.full(count, task)}
    stamps = {"timestamp": pa.array((np.arange(count) / fps).astype(np.float32))}
    return {"observation.state": lists(walk), "action": lists(walk + np.float32(0.01))} | stamps | {key: pa.array(v) for key, v in whole.items()}


def features(cameras: Sequence[str] = (CAMERA,), extra: dict[str, Any] | None = None) -> dict[str, Any]:
    vector = {"dtype": "float32", "shape": [3], "names": ["a", "b", "c"]}
    out = {"observation.state": vector, "action": vector}
    out |= {camera: {"dtype": "video", "shape": [24, 32, 3], "names": ["height", "width", "channels"]} for camera in cameras}
    out |= {key: {"dtype": "int64", "shape": [1], "names": None} for key in ("frame_index", "episode_index", "index", "task_index")}
    return out | {"timestamp": {"dtype": "float32", "shape": [1], "names": None}} | (extra or {})


def write_v21(
    root: Path,
    lengths: Sequence[int] = (12, 10),
    *,
    fps: float = 10.0,
    videos: Callable[[int], Shots] | None = None,
    edit: Callable[[int, dict[str, pa.Array]], dict[str, pa.Array]] = lambda _, columns: columns,
    tasks: Sequence[str] = TASKS,
    cameras: Sequence[str] = (CAMERA,),
    extra: dict[str, Any] | None = None,
    **video: Any,
) -> Path:
    """A file per episode, metadata as JSON lines."""
    (root / "meta").mkdir(parents=True)
    info = {"codebase_version": "v2.1", "robot_type": "so100", "fps": fps, "total_episodes": len(lengths), "total_frames": sum(lengths), "chunks_size": 1000}
    info |= {"data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet", "features": features(cameras, extra)}
    info |= {"video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"}
    (root / "meta/info.json").write_text(json.dumps(info))

    def lines(name: str, entries: list[dict[str, Any]]) -> None:
        (root / "meta" / name).write_text("".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries), encoding="utf-8")

    lines("tasks.jsonl", [{"task_index": i, "task": task} for i, task in enumerate(tasks)])
    lines("episodes.jsonl", [{"episode_index": i, "tasks": [tasks[i % len(tasks)]], "length": n} for i, n in enumerate(lengths)])
    (root / "data/chunk-000").mkdir(parents=True)
    for i, n in enumerate(lengths):
        table = edit(i, rows(i, n, sum(lengths[:i]), i % len(tasks), fps))
        pq.write_table(pa.table(table), root / f"data/chunk-000/episode_{i:06d}.parquet")
        for camera in cameras:
            path = root / f"videos/chunk-000/{camera}/episode_{i:06d}.mp4"
            write_video(path, videos(i) if videos else shots(n, fps), rate=video.get("rate", fps), **{k: v for k, v in video.items() if k != "rate"})
    return root


def write_v3(
    root: Path,
    lengths: Sequence[int] = (12, 10),
    *,
    fps: float = 10.0,
    video: Shots | None = None,
    edit: Callable[[int, dict[str, pa.Array]], dict[str, pa.Array]] = lambda _, columns: columns,
    order: Callable[[pa.Table], pa.Table] = lambda table: table,
    listed: Callable[[list[dict[str, Any]]], list[dict[str, Any]]] = lambda entries: entries,
    tasks: Sequence[str] = TASKS,
    task_table: dict[str, list[Any]] | None = None,
    group: int | None = None,
    extra: dict[str, Any] | None = None,
    **settings: Any,
) -> Path:
    """One data file, one video file."""
    (root / "meta/episodes/chunk-000").mkdir(parents=True)
    info = {"codebase_version": "v3.0", "robot_type": "so100", "fps": fps, "total_episodes": len(lengths), "total_frames": sum(lengths), "chunks_size": 1000}
    info |= {"data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet", "features": features(extra=extra)}
    info |= {"video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"}
    (root / "meta/info.json").write_text(json.dumps(info))
    pq.write_table(pa.table(task_table or {"task_index": list(range(len(tasks))), "task": list(tasks)}), root / "meta/tasks.parquet")
    tables, entries, pictures = [], [], []
    for i, n in enumerate(lengths):
        first = sum(lengths[:i])
        tables.append(pa.table(edit(i, rows(i, n, first, i % len(tasks), fps))))
        place = {"data/chunk_index": 0, "data/file_index": 0, f"videos/{CAMERA}/chunk_index": 0, f"videos/{CAMERA}/file_index": 0}
        times = {f"videos/{CAMERA}/from_timestamp": first / fps, f"videos/{CAMERA}/to_timestamp": (first + n) / fps}
        span = {"dataset_from_index": first, "dataset_to_index": first + n}
        entries.append({"episode_index": i, "tasks": [tasks[i % len(tasks)]], "length": n} | span | place | times)
        pictures += shots(n, fps, first / fps)
    (root / "data/chunk-000").mkdir(parents=True)
    pq.write_table(order(pa.concat_tables(tables)), root / "data/chunk-000/file-000.parquet", row_group_size=group)
    pq.write_table(pa.Table.from_pylist(listed(entries)), root / "meta/episodes/chunk-000/file-000.parquet")
    write_video(root / f"videos/{CAMERA}/chunk-000/file-000.mp4", pictures if video is None else video, rate=settings.pop("rate", fps), **settings)
    return root


def greys(images: Any) -> list[int]:
    """The level that each picture shows."""
    return [round((float(image.mean()) - 16) / 8) * 8 + 16 for image in images]
