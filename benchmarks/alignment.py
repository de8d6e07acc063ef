"""How exactly frames of the resampler meet the simulator's truth, on recordings of the simulated robot.

For each frame in which the robot moves: the shift of time at which the recorded true joint angles (sim/state) agree best with the joint
state that was joined to the image. It needs no stamp but the image's. --skew-ms shifts the images' stamps first, to see that it is found.

python benchmarks/alignment.py runs/*/episode.mcap
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import mujoco
import numpy as np
import tyro

from wbvla_cli.record import read_messages, typestore
from wbvla_core.console import program
from wbvla_core.robot import load_robot
from wbvla_core.ros.tables import topic_table
from wbvla_sim.scene import random_scene, to_mjcf
from wbvla_train.data.lerobot.bag import Bag, TopicMap
from wbvla_train.data.lerobot.lag import Lag, LagMeter

RANGE_S, STEP_S = 0.12, 0.001
LEAST_RAD_S = 0.5  # root of the mean square over the leg joints: in slower motion a millisecond is below the encoders' noise


@dataclass(frozen=True)
class Options:
    """Options of the benchmark.

    Attributes:
        recordings: bags of the simulated robot.
        limit_ms: exit with status 1 if the 99th percentile of the error is above this.
        skew_ms: added to the images' stamps before anything is joined.
    """

    recordings: Annotated[tuple[Path, ...], tyro.conf.Positional]
    robot: str = "x2"
    limit_ms: float = 5.0
    skew_ms: float = 0.0


class Skewed(Bag):
    """A recording whose camera's clock is off."""

    skew_s = 0.0

    def messages(self, topics: set[str]):
        for topic, arrival, message in super().messages(topics):
            if topic == self.topics.image and self.skew_s:
                stamp = message.header.stamp
                ns = stamp.sec * 1_000_000_000 + stamp.nanosec + round(self.skew_s * 1e9)
                message = replace(message, header=replace(message.header, stamp=replace(stamp, sec=ns // 10**9, nanosec=ns % 10**9)))
            yield topic, arrival, message


def measure(path: Path, options: Options) -> tuple[np.ndarray, np.ndarray, Lag]:
    """Errors against truth [F], distances by stamp [F], both s, and what the lag meter says."""
    robot = load_robot(options.robot)
    legs = robot.indices("legs")
    states = [message for _, _, message in read_messages(path, [topic_table().topics["sim_state"].name])]
    times = np.array([m.header.stamp.sec + m.header.stamp.nanosec / 1e9 for m in states])
    model = to_mjcf(robot, random_scene(int(states[0].seed), kind=str(states[0].scene), robot=robot))
    places = [model.jnt_qposadr[mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_JOINT, robot.joint_names[i])] for i in legs]
    truth = np.array([m.qpos for m in states])[:, places]
    shifts = np.arange(-RANGE_S, RANGE_S + STEP_S / 2, STEP_S)
    errors, by_stamp = [], []
    with Skewed(path, robot, TopicMap.ours(), typestore) as bag:
        bag.skew_s = options.skew_ms / 1e3
        bag.lag = LagMeter()
        for frame in bag.frames(0.1):
            if "joint_states" not in frame.nearest:
                continue
            q, qd = frame.nearest["joint_states"]
            image_s = frame.stamp_s - bag.skew_s  # when the picture was really taken
            if np.sqrt((qd[legs] ** 2).mean()) < LEAST_RAD_S or not times[0] + RANGE_S < image_s < times[-1] - RANGE_S:
                continue
            there = np.stack([np.interp(image_s + shifts, times, truth[:, i]) for i in range(len(legs))], axis=1)
            errors.append(shifts[((there - q[legs]) ** 2).sum(1).argmin()])
            by_stamp.append(frame.skew_s["joint_states"])
        return np.array(errors), np.array(by_stamp), bag.lag.estimate()


def main() -> int:
    options = tyro.cli(Options, description=__doc__)
    every, worst = [], []
    for path in options.recordings:
        errors, by_stamp, lag = measure(path, options)
        name = path.parent.name if path.is_file() else path.name
        if not len(errors):
            print(f"{name:<43} never in motion: left out")
            continue
        every.append(errors)
        worst.append(by_stamp)
        seen = f"{lag.lag_s * 1e3:+.0f} ms" if lag.known else "unknown"
        print(f"{name:<43} {len(errors):>4} in motion, error p99 {np.quantile(np.abs(errors), 0.99) * 1e3:.1f} ms; pictures against gyro {seen}")
    if not every:
        print("no recording in which the robot moves: nothing was measured")
        return 1
    errors, by_stamp = np.concatenate(every), np.concatenate(worst)
    p50, p99 = np.quantile(np.abs(errors), (0.5, 0.99)) * 1e3
    print(f"against truth   {len(errors)} frames: p50 {p50:.1f} ms, p99 {p99:.1f} ms, largest {np.abs(errors).max() * 1e3:.1f} ms (limit {options.limit_ms:g})")
    print(f"by stamps       p99 {np.quantile(np.abs(by_stamp), 0.99) * 1e3:.2f} ms")
    return 0 if p99 <= options.limit_ms else 1


if __name__ == "__main__":
    program(main)
