"""Recorded arm motions as :class:`~wbvla_lmo.arm_motion.ArmRecording`: rosbag2 (MCAP) joint states, LeRobot v3 data sets, .npz files.

Readers are imported when they are needed: ``rosbags`` comes with the ``sim`` extra, ``pyarrow`` has to be installed for LeRobot.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np

from wbvla_core.errors import WbvlaError
from wbvla_core.robot import RobotSpec
from wbvla_lmo.arm_motion import ArmRecording

JOINT_STATE = "sensor_msgs/msg/JointState"
GAP_S = 0.5  # a longer silence splits a recording
MIN_S = 1.0  # shorter pieces are dropped


class RecordingError(WbvlaError):
    """A recording that cannot be used; the text says what was expected and what came."""


def load_recordings(path: str | Path, robot: RobotSpec, *, topic: str | None = None) -> list[ArmRecording]:
    """All segments in ``path`` that name arm joints of ``robot``.

    Args:
        path: a rosbag2 folder or .mcap file; a LeRobot data set (meta/info.json and data/**/*.parquet); or an .npz with names, times_s, positions.
        topic: of the joint states in a bag; default: every JointState topic.

    Raises:
        RecordingError: nothing there, unknown format, or no arm joint of this robot in it.
    """
    path = Path(path)
    if not path.exists():
        raise RecordingError(f"expected a recording at {path}, there is nothing")
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as data:
            pieces = [(tuple(str(n) for n in data["names"]), data["times_s"], data["positions"])]
    elif (path / "meta" / "info.json").is_file():
        pieces = _lerobot(path)
    elif path.suffix == ".mcap" or (path / "metadata.yaml").is_file():
        pieces = _bag(path, topic)
    else:
        raise RecordingError(f"expected a rosbag2 folder, an .mcap, an .npz or a LeRobot data set, got {path}")
    arms = set(robot.names("arms"))
    recordings = []
    for names, times, positions in pieces:
        keep = [i for i, n in enumerate(names) if n in arms]
        if keep:
            recordings += _segments(tuple(names[i] for i in keep), np.asarray(times, dtype=float), np.asarray(positions, dtype=float)[:, keep])
    if not recordings:
        seen = sorted({n for names, _, _ in pieces for n in names})
        raise RecordingError(f"{path}: expected at least {MIN_S:g} s of arm joints of {robot.name} ({', '.join(sorted(arms)[:3])}, ...), found {seen[:8]}")
    return recordings


def _segments(names: tuple[str, ...], times: np.ndarray, positions: np.ndarray) -> list[ArmRecording]:
    """Split at silences, drop what is short or not finite, repeated stamps keep their first row."""
    good = np.isfinite(positions).all(axis=1) & np.isfinite(times)
    times, positions = times[good], positions[good]
    times, first = np.unique(times, return_index=True)
    positions = positions[first]
    cuts = [0, *(np.flatnonzero(np.diff(times) > GAP_S) + 1), len(times)]
    spans = [(a, b) for a, b in zip(cuts[:-1], cuts[1:], strict=True) if b - a >= 2 and times[b - 1] - times[a] >= MIN_S]
    return [ArmRecording(names, times[a:b] - times[a], positions[a:b]) for a, b in spans]


def _bag(path: Path, topic: str | None) -> list[tuple[tuple[str, ...], np.ndarray, np.ndarray]]:
    try:
        from rosbags.highlevel import AnyReader
        from rosbags.typesys import Stores, get_typestore
    except ImportError as error:
        raise RecordingError(f"{path} is a bag, and reading it needs rosbags (extra: sim)") from error
    rows: dict[tuple[str, tuple[str, ...]], list[tuple[float, np.ndarray]]] = {}
    with AnyReader([path], default_typestore=get_typestore(Stores.ROS2_JAZZY)) as reader:
        connections = [c for c in reader.connections if c.msgtype == JOINT_STATE and topic in (None, c.topic)]
        for connection, arrival_ns, data in reader.messages(connections=connections):
            message = reader.deserialize(data, connection.msgtype)
            stamp = message.header.stamp.sec + message.header.stamp.nanosec * 1e-9
            rows.setdefault((connection.topic, tuple(message.name)), []).append((stamp or arrival_ns * 1e-9, np.array(message.position)))
    return [(names, np.array([t for t, _ in r]), np.array([p for _, p in r])) for (_, names), r in rows.items()]


def _lerobot(path: Path) -> list[tuple[tuple[str, ...], np.ndarray, np.ndarray]]:
    try:
        parquet = importlib.import_module("pyarrow.parquet")  # not a requirement of this package: only who reads LeRobot data needs it
    except ImportError as error:
        raise RecordingError(f"{path} is a LeRobot data set, and reading it needs pyarrow: pip install pyarrow") from error
    feature = json.loads((path / "meta" / "info.json").read_text())["features"].get("observation.state", {})
    names = feature.get("names")
    if isinstance(names, dict):  # {"motors": [...]}
        names = next(iter(names.values()))
    if not names:
        raise RecordingError(f"{path}: expected joint names of observation.state in meta/info.json, got {feature}")
    names = tuple(n.removesuffix(".pos") for n in names)
    pieces = []
    for file in sorted((path / "data").rglob("*.parquet")):
        table = parquet.read_table(file, columns=["episode_index", "timestamp", "observation.state"])
        episode, times = (np.asarray(table[c].to_numpy()) for c in ("episode_index", "timestamp"))
        states = np.array(table["observation.state"].to_pylist(), dtype=float)
        pieces += [(names, times[episode == e], states[episode == e]) for e in np.unique(episode)]
    return pieces
