"""``wbvla data video``: its options. Video is imported when rendering begins, so that help and refusals come at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

DESCRIPTION = """``wbvla data video``: action-free egocentric video, rendered; the stand-in for the paper's 300 h of head-camera video.

Layout of the output folder (a room is a shard; a finished shard has its ``clips.json``, written last):

    <output>/<split>/<domain>/room_00007/clip_00.mp4 ... clips.json      what training sees: video, stamps, camera
    <output>/truth/<split>/<domain>/room_00007.npz                       what moved; opened by health and tests only

Splits: ``train``, ``dev`` (tuning) and ``test`` (rooms with surfaces of another family and a wider gait, opened last).
Domains: ``loco`` (the camera walks, turns, squats) and ``mani`` (near-still camera, two arms and a table). About half of the
rooms are seen by a human-like camera, the others by one with the robot's lens, height and pitch. ``x2_loco`` and ``x2_mani``
are the simulated robot's own camera in the scenes of its tasks (:mod:`wbvla_train.data.x2_video`). These four are the default: the
checkpoints that ship were trained on them. On demand ``goal_loco`` and ``goal_mani``: rooms in muted colours, more camera heights and
lenses, walks that lead to things and reach for them, a still camera before hands that move things (:mod:`wbvla_train.data.errands`).
``other_loco`` is another robot's camera, for evaluation alone (``dev`` and ``test``): do the codes mean the same through a lens that no training saw?
"""

Split = Literal["train", "dev", "test"]
Domain = Literal["loco", "mani", "x2_loco", "x2_mani", "goal_loco", "goal_mani", "other_loco"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")
DOMAINS: tuple[Domain, ...] = ("loco", "mani", "x2_loco", "x2_mani", "goal_loco", "goal_mani", "other_loco")  # the order seeds the draws: append only
DEFAULT_DOMAINS = DOMAINS[:4]


@dataclass(frozen=True)
class VideoConfig:
    """Options of ``wbvla data video``.

    Attributes:
        output: where shards go; a second run renders only what is missing.
        domains, splits: which parts to render.
        train_rooms, dev_rooms, test_rooms: rooms per domain; x2_rooms: training scenes per x2 domain; goal_rooms: training rooms per goal
            domain. 1000 rooms take about 20 minutes of one core.
        clips_per_room, frames: clips of ``frames`` / ``rate_hz`` seconds.
        rate_hz: frame rate; the policy's 10 Hz, so that labels are made at the rate of training.
        image_size: side of the square image, px: the tiny policy's image.
        robot_fraction: share of rooms with the robot-like camera (prior work: our prototype, 45 %).
        change_rate: share of locomotion clips whose command changes on the way (ours: demonstrations change commands too).
        seed: everything follows from it.
        workers: processes.
    """

    output: Path = Path("data/video")
    domains: tuple[Domain, ...] = DEFAULT_DOMAINS
    splits: tuple[Split, ...] = SPLITS
    train_rooms: int = 1200
    dev_rooms: int = 30
    test_rooms: int = 30
    x2_rooms: int = 100
    goal_rooms: int = 100
    clips_per_room: int = 8
    frames: int = 20
    rate_hz: float = 10.0
    image_size: int = 96
    robot_fraction: float = 0.45
    change_rate: float = 0.35
    seed: int = 0
    workers: int = 2

    def rooms(self, split: Split, domain: Domain) -> int:
        train = {"x2": self.x2_rooms, "goal": self.goal_rooms, "other": 0}.get(domain.partition("_")[0], self.train_rooms)
        return {"train": train, "dev": self.dev_rooms, "test": self.test_rooms}[split]


def main(argv: list[str] | None = None) -> int:
    config = tyro.cli(VideoConfig, args=argv, description=DESCRIPTION)
    from wbvla_train.data.video import render

    render(config, log=lambda text: print(text, flush=True))
    return 0
