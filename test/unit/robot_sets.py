"""Small LeRobot data sets of the X2 for tests, in the columns that our converter writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from wbvla_core.robot import load_robot
from wbvla_train.data.lerobot.assemble import assemble
from wbvla_train.data.lerobot.episode import EpisodeWriter
from wbvla_train.data.lerobot.schema import CAMERA, columns

TASKS = ("walk to the red box", "turn left", "juggle oranges")


def write_set(root: Path, lengths: tuple[int, ...] = (23, 17, 30), size: tuple[int, int] = (96, 128), fps: float = 10.0, drop: str = "") -> Path:
    """Episodes whose pictures brighten and whose actions grow with the frame number; returns ``root``."""
    robot = load_robot("x2")
    features = {key: value for key, value in columns(robot).items() if key != drop}
    episodes = []
    for number, length in enumerate(lengths):
        rng = np.random.default_rng(number)
        with EpisodeWriter(root.with_name(f"{root.name}.episodes") / str(number), features, fps) as writer:
            for t in range(length):
                rows = {key: rng.normal(0.0, 0.1, feature["shape"]).astype(feature["dtype"]) for key, feature in features.items()}
                rows["observation.stamp_s"] = np.array((t / fps,))
                if "action" in rows:
                    rows["action"] = np.full(features["action"]["shape"], 0.01 * t, np.float32)
                    rows["action"][-4:] = (t % 3 - 1, 0, 1, 0.6)
                image = np.full((*size, 3), 8 * t % 256, np.uint8)
                image[: size[0] // 2] = rng.integers(0, 256, 3)
                writer.add(rows, {CAMERA: image}, TASKS[number % len(TASKS)])
            episodes.append(writer.finish({"source": str(number)}))
    assemble(episodes, root, robot_type="x2")
    return root
