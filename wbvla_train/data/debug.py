"""Inputs of the debug presets, made where they are missing: enough to see that every part runs, too little to learn from."""

from __future__ import annotations

from pathlib import Path

from wbvla_train.data import demos, video
from wbvla_train.data.demos_command import DemosConfig
from wbvla_train.data.video_command import VideoConfig


def render_video(folder: Path, log=print) -> int:
    """A handful of rooms of every domain that trains a latent action model; returns how many were missing."""
    rooms = {"train_rooms": 2, "dev_rooms": 1, "test_rooms": 1, "x2_rooms": 1}
    return video.render(VideoConfig(output=folder, **rooms, clips_per_room=2, workers=1), log=log)


def record_demos(folder: Path, log=print) -> int:
    """Four short episodes of the scripted teleoperator, without legs; returns how many files were missing."""
    return demos.make(DemosConfig(output=folder, world="kinematic", episodes=4, episodes_per_shard=2, timeout_s=4.0), log=log)
