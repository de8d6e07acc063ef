"""``wbvla dataset``: recordings to LeRobot v3, and what is done with data sets afterwards.

The work is in wbvla_train/data/lerobot; it is imported when it begins, so that help and refusals come at once.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from wbvla_core.console import DISK_FULL, program
from wbvla_core.robot import RobotSpecError
from wbvla_train.data.lerobot.options import AgibotOptions, Limits

Paths = Annotated[tuple[Path, ...], tyro.conf.Positional]
One = Annotated[Path, tyro.conf.Positional]


@dataclass(frozen=True)
class Convert:
    """Recordings (MCAP or sqlite3 bags, folders of them) to one LeRobot v3 data set."""

    recordings: Paths
    """.mcap files, rosbag2 folders, or folders in which to look for them"""
    output: Path
    """folder of the data set; must not exist yet"""
    robot: str = "x2"
    """robot spec: a name of config/robots or a YAML file"""
    topics: Path | None = None
    """topic map (YAML) for recordings by others"""
    instruction: str = ""
    """sentence of all episodes; default: what each recording carries"""
    fps: float = 10.0
    """frames per second; faster cameras are decimated"""
    max_skew_s: float = Limits.skew_s
    """episodes whose states lie further from their images (99th percentile) are refused"""
    max_lag_s: float = Limits.lag_s
    """episodes whose camera clock is further off the body's, seen from motion, are refused"""
    max_gap_s: float = Limits.gap_s
    """episodes with a longer time without images are refused"""
    workers: int = 1
    """processes"""

    def run(self) -> int:
        from wbvla_cli.record import typestore
        from wbvla_train.data.lerobot.bag import TopicMap
        from wbvla_train.data.lerobot.convert import convert

        limits = Limits(skew_s=self.max_skew_s, lag_s=self.max_lag_s, gap_s=self.max_gap_s)
        topics = TopicMap.load(self.topics) if self.topics else None
        options = {"robot": self.robot, "topics": topics, "instruction": self.instruction, "fps": self.fps, "limits": limits, "workers": self.workers}
        return convert(list(self.recordings), self.output, typestore, **options)


@dataclass(frozen=True)
class Agibot:
    """AgiBot World's raw layout (HDF5 and mp4 per episode) to one LeRobot v3 data set."""

    root: One
    """folder with task_info, proprio_stats and observations, unpacked"""
    output: Path
    """folder of the data set; must not exist yet"""
    tasks: tuple[str, ...] = ()
    """numbers of tasks, e.g. 327 352; default: all"""
    cameras: tuple[str, ...] = AgibotOptions.cameras
    """videos to take: head, hand_left, hand_right, head_left_fisheye, ..."""
    fps: float = AgibotOptions.fps
    """frames per second of what is made; the rows have 30"""
    subtasks: bool = AgibotOptions.subtasks
    """sentences of the sub-tasks; --no-subtasks: the task's name"""

    def run(self) -> int:
        from wbvla_train.data.lerobot import agibot

        return agibot.convert(self.root, self.output, AgibotOptions(self.tasks, self.cameras, self.fps, self.subtasks))


@dataclass(frozen=True)
class Check:
    """Find NaN, stuck joints, skew, wrong rates, commands without motion, motion without command, frozen cameras, duplicates."""

    dataset: One
    images: bool = True
    """decode the videos, too"""
    json: bool = False
    """findings as JSON"""

    def run(self) -> int:
        from wbvla_train.data.lerobot import check as checks

        return checks.report(self.dataset, checks.check(self.dataset, images=self.images), as_json=self.json)


@dataclass(frozen=True)
class Info:
    """Say what a data set holds."""

    dataset: One

    def run(self) -> int:
        from wbvla_train.data.lerobot.episode import shown
        from wbvla_train.data.lerobot.reader import open_dataset

        dataset = open_dataset(self.dataset)
        info = dataset.info
        seconds = sum(view.length for view in dataset.views) / dataset.fps
        print(f"{shown(self.dataset)}: LeRobot {info['codebase_version']}, robot {info.get('robot_type')}")
        print(f"{len(dataset.views)} episodes, {sum(v.length for v in dataset.views)} frames at {dataset.fps:g} Hz ({seconds:.0f} s)")
        for key, feature in dataset.features.items():
            names = dataset.names(key) if feature["dtype"] != "video" and len(feature["shape"]) == 1 else []
            listed = ", ".join(names[:4]) + (f" ... {names[-1]}" if len(names) > 4 else "")
            print(f"  {key:<28} {feature['dtype']:<8} {str(list(feature['shape'])):<14} {listed if feature.get('names') else ''}".rstrip())
        counts: dict[str, int] = {}
        for view in dataset.views:
            for task in view.tasks:
                counts[task] = counts.get(task, 0) + 1
        for task, count in sorted(counts.items(), key=lambda item: -item[1])[:20]:
            print(f"  {count:>5} x {task}")
        return 0


@dataclass(frozen=True)
class Merge:
    """Several data sets (v2.1 or v3) into one new v3 data set."""

    datasets: Paths
    output: Path

    def run(self) -> int:
        from wbvla_train.data.lerobot import edit

        return edit.merge(self.datasets, self.output)


@dataclass(frozen=True)
class Split:
    """One data set into several: OUTPUT/train, OUTPUT/test, ..."""

    dataset: One
    output: Path
    shares: dict[str, float] | None = None
    """name and share of each part, e.g. --shares train 0.8 test 0.2; default: train 0.9 test 0.1"""
    seed: int = 0

    def run(self) -> int:
        from wbvla_train.data.lerobot import edit

        return edit.split(self.dataset, self.output, self.shares or {"train": 0.9, "test": 0.1}, self.seed)


@dataclass(frozen=True)
class Filter:
    """A new data set of chosen episodes."""

    dataset: One
    output: Path
    task: str = ""
    """regular expression that one of the sentences must match"""
    least_s: float = 0.0
    """shortest episode"""
    drop: tuple[int, ...] = ()
    """numbers of episodes to leave out"""
    drop_faulty: bool = False
    """leave out what `wbvla dataset check` finds errors in"""

    def run(self) -> int:
        from wbvla_train.data.lerobot import edit
        from wbvla_train.data.lerobot.reader import open_dataset

        dataset = open_dataset(self.dataset)
        views = edit.chosen(dataset, task=self.task, least_s=self.least_s, drop=self.drop)
        if self.drop_faulty:
            sound = {view.index for view in edit.sound_views(dataset)}
            views = [view for view in views if view.index in sound]
        return edit.write(views, self.output, checked=self.drop_faulty)


Command = (
    Annotated[Convert, tyro.conf.subcommand("convert", prefix_name=False)]
    | Annotated[Agibot, tyro.conf.subcommand("agibot", prefix_name=False)]
    | Annotated[Check, tyro.conf.subcommand("check", prefix_name=False)]
    | Annotated[Info, tyro.conf.subcommand("info", prefix_name=False)]
    | Annotated[Merge, tyro.conf.subcommand("merge", prefix_name=False)]
    | Annotated[Split, tyro.conf.subcommand("split", prefix_name=False)]
    | Annotated[Filter, tyro.conf.subcommand("filter", prefix_name=False)]
)


def main(argv: Sequence[str] | None = None) -> int:
    """``wbvla dataset``; refusals are one sentence on stderr."""
    command = tyro.cli(Command, args=argv, prog="wbvla dataset", description="LeRobot data sets: convert, agibot, check, info, merge, split, filter.")
    from wbvla_train.data.lerobot.episode import DataError, shown

    try:
        return command.run()
    except (DataError, RobotSpecError) as error:
        print(f"wbvla dataset: {shown(error)}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in (*DISK_FULL, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR):
            raise
        where = f": {shown(error.filename)}" if error.filename else ""  # a file that is open already has no name here
        print(f"wbvla dataset: {os.strerror(error.errno)}{where}; finished episodes are kept, run the same command again", file=sys.stderr)
        return 2


if __name__ == "__main__":
    program(main)
