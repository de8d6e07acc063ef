"""Small data for tests: LeRobot data sets of the X2, in the columns that our converter writes, and action-free clips."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from wbvla_core.robot import load_robot
from wbvla_train.data import annotate
from wbvla_train.data.lerobot.assemble import assemble
from wbvla_train.data.lerobot.episode import EpisodeWriter
from wbvla_train.data.lerobot.schema import CAMERA, columns
from wbvla_train.data.mp4 import write_mp4
from wbvla_train.lam.label import LabelConfig, label

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


def write_clips(folder: Path, seed: int, count: int = 2) -> None:
    """Clips of 1.2 s without a sentence."""
    folder.mkdir(parents=True)
    stamps = np.arange(12) * 0.1
    for i in range(count):
        blocks = np.random.default_rng((seed, i)).integers(0, 255, (12, 12, 3), dtype=np.uint8)
        frame = np.repeat(np.repeat(blocks, 8, 0), 8, 1)
        write_mp4(folder / f"clip_{i:02d}.mp4", np.stack([np.roll(frame, 2 * t, axis=1) for t in range(len(stamps))]), stamps)
    entries = [{"file": f"clip_{i:02d}.mp4", "stamps_s": stamps.round(3).tolist(), "camera": None, "source": "film"} for i in range(count)]
    (folder / "clips.json").write_text(json.dumps({"schema": 1, "clips": entries}))


def write_film(root: Path, lams: tuple[Path, ...]) -> Path:
    """One folder of locomotion and one of manipulation clips, labelled; of each the first clip has sentences, with words that no task has; returns ``root``."""
    for seed, domain in enumerate(("loco", "mani")):
        write_clips(root / "train" / domain / "film", seed)
        annotate.Clip(root / "train" / domain / "film", "clip_00.mp4", None).put("annotator", (f"{domain} forward", f"{domain} backward and forward"))
    label(LabelConfig(data=root, lams=lams), lambda _: None)
    return root
