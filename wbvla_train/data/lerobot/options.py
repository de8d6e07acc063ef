"""Options of the conversions to LeRobot, on their own: parsing a command line needs no reader."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What an episode may have; beyond it is refused.

    Attributes:
        skew_s: 99th percentile of the distance in time between an image and its joint state or IMU sample.
        lag_s: distance between the camera's clock and the body's, measured from motion (:mod:`.lag`), where the recording moves enough to
            tell. On walks of the simulated X2, whose images are exactly on time, the estimate is -0.012 to -0.030 s.
        gap_s: largest distance of two images.
        least_s: shortest episode.
        incomplete: share of frames that may lack commands or states, and of images that may be unusable.
    """

    skew_s: float = 0.02
    lag_s: float = 0.045
    gap_s: float = 0.5
    least_s: float = 1.0
    incomplete: float = 0.02


@dataclass(frozen=True)
class AgibotOptions:
    """How the layout is read.

    Attributes:
        tasks: numbers of tasks; empty: all that are there. cameras: names of videos without "_color.mp4".
        fps: rows per second of what is made. subtasks: sentences of the sub-tasks; else the task's name.
    """

    tasks: tuple[str, ...] = ()
    cameras: tuple[str, ...] = ("head",)
    fps: float = 10.0
    subtasks: bool = True
