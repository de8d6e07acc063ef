"""How exactly frames of the resampler meet the simulator's truth, and how well the camera's clock is judged from motion.

python benchmarks/alignment.py runs/*/episode.mcap
    On recordings of the simulated robot: for each frame in which the robot moves, the shift of time at which the recorded true joint angles (sim/state)
    agree best with the joint state that was joined to the image. It needs no stamp but the image's. --skew-ms shifts the images' stamps first.

python benchmarks/alignment.py --walks 10
    Records that many walks of 66 s headless, in lock-step (wandering as an operator would, a new room each), cuts them into stretches of 5 to 60 s and asks
    the lag meter about each: as it is, and with 80 ms added to and taken from the images' stamps. "Busy": a third of the images and a tenth of the gyro
    samples are missing, in bursts, as on a machine that has too much to do.
"""

from __future__ import annotations

from collections.abc import Iterator
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
from wbvla_core.types import LocoCommand
from wbvla_eval.stats import wilson_interval
from wbvla_lmo.controller import LmoController
from wbvla_lmo.policy import LmoPolicy
from wbvla_sim.scene import random_scene, to_mjcf
from wbvla_sim.slots import SensorNoise
from wbvla_sim.world import World, WorldOptions
from wbvla_train.data.lerobot.bag import Bag, TopicMap
from wbvla_train.data.lerobot.convert import Limits
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
        walks, seed: how many walks to record instead, and the number of the first; 0 to 9 are those on which the meter was tuned.
        seconds: length of a walk.
        lmo: leg policy that walks.
    """

    recordings: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    robot: str = "x2"
    limit_ms: float = 5.0
    skew_ms: float = 0.0
    walks: int = 0
    seed: int = 30
    seconds: float = 66.0
    lmo: Path = Path("checkpoints/lmo/x2")


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
            q, qd = frame.nearest["joint_states"].q, frame.nearest["joint_states"].qd
            image_s = frame.stamp_s - bag.skew_s  # when the picture was really taken
            if np.sqrt((qd[legs] ** 2).mean()) < LEAST_RAD_S or not times[0] + RANGE_S < image_s < times[-1] - RANGE_S:
                continue
            there = np.stack([np.interp(image_s + shifts, times, truth[:, i]) for i in range(len(legs))], axis=1)
            errors.append(shifts[((there - q[legs]) ** 2).sum(1).argmin()])
            by_stamp.append(frame.skew_s["joint_states"])
        return np.array(errors), np.array(by_stamp), bag.lag.estimate()


def commands(rng: np.random.Generator, default_m: float) -> Iterator[tuple[float, LocoCommand]]:
    """(seconds, command): an operator at the keys, who lets go between two of them."""
    while True:
        yield 0.6, LocoCommand(stance_height_m=default_m)
        what, side = rng.random(), int(rng.choice((-1, 1)))
        table = ((0.18, (0, 0, 0)), (0.45, (1, 0, 0)), (0.60, (0, 0, side)), (0.72, (1, 0, side)), (0.82, (-1, 0, 0)), (0.92, (0, side, 0)))
        flags = next((flags for share, flags in table if what < share), None)
        if flags is None:
            yield float(rng.uniform(2.0, 3.0)), LocoCommand(stance_height_m=default_m - float(rng.uniform(0.03, 0.1)))
        else:
            yield float(rng.uniform(1.0, 4.0)), LocoCommand(*flags, default_m)


def walk(seed: int, seconds: float, lmo: Path) -> tuple[float, LagMeter, LagMeter]:
    """(seconds on its feet, quiet meter, busy meter) of one walk; images at 10 Hz, gyro at 200 Hz, with noise on every second one."""
    robot, rng = load_robot("x2"), np.random.default_rng((seed, 5))
    controller = LmoController(robot, LmoPolicy.load(lmo, robot))
    noise = SensorNoise.typical() if seed % 2 else SensorNoise()
    world = World(robot, random_scene(500_000 + seed, kind="walk_to", robot=robot), options=WorldOptions(noise=noise))
    controller.reset(world.reset(seed))
    quiet, busy = LagMeter(), LagMeter()
    busy_rng, skipping = np.random.default_rng((seed, 6)), [0, 0]  # images, gyro samples that a burst still swallows

    def arrives(which: int, chance: float, longest: int) -> bool:
        if skipping[which] == 0 and busy_rng.random() < chance:
            skipping[which] = int(busy_rng.integers(1, longest + 1))
        lost = skipping[which] > 0
        skipping[which] -= lost
        return not lost

    def step(state) -> None:
        quiet.add_gyro(state.stamp_s, state.gyro)
        if arrives(1, 0.02, 10):
            busy.add_gyro(state.stamp_s, state.gyro)

    script, until_s, tick = commands(rng, robot.default_stance_height_m), 0.0, 0
    loco = LocoCommand(stance_height_m=robot.default_stance_height_m)
    while world.time_s < seconds and not world.truth()["fallen"]:
        if world.time_s >= max(until_s, 1.0):
            length_s, loco = next(script)
            until_s = world.time_s + length_s
            xy, yaw = world.truth()["pelvis_xyz"][:2], world.truth()["yaw_rad"]
            if loco.forward > 0 and np.hypot(*xy) > 1.3 and xy @ (np.cos(yaw), np.sin(yaw)) > 0:  # stays in the room
                loco = replace(loco, forward=0, yaw=1)
        if tick % 5 == 0:
            image = world.render("head")
            quiet.add_image(world.time_s, image)
            if arrives(0, 0.2, 3):
                busy.add_image(world.time_s, image)
        world.slot(controller.tick(world.state(), loco, world.time_s), on_step=step)
        tick += 1
    return world.time_s - 1.5 * bool(world.truth()["fallen"]), quiet, busy


LENGTHS_S, SHIFT_S = (5, 10, 15, 20, 30, 40, 60), 0.08


def judge_walks(options: Options) -> int:
    """Print how many stretches of each length can tell, how many of those are wrong, and how often a shift is found. 1 where a target is missed."""
    counts: dict[tuple[str, int], np.ndarray] = {}  # stretches, of them told, false; shifted stretches that told, found
    for seed in range(options.seed, options.seed + options.walks):
        length_s, *meters = walk(seed, options.seconds, options.lmo)
        for name, meter in zip(("quiet", "busy"), meters):
            for part_s in LENGTHS_S:
                for start_s in np.arange(1.0, length_s - part_s + 1e-6, part_s):
                    lag = meter.part(start_s, start_s + part_s).estimate()
                    shifted = [meter.part(start_s, start_s + part_s, shift_s).estimate() for shift_s in (SHIFT_S, -SHIFT_S)]
                    told = [other for other in shifted if other.known]
                    row = (1, lag.known, lag.known and _beyond(lag), len(told), sum(map(_beyond, told)))
                    counts.setdefault((name, part_s), np.zeros(5, int))[:] += row
        print(f"walk {seed}: {length_s:.0f} s", flush=True)
    print(f"{'machine':<8}{'length':>8}  {'can tell':<28}{'false alarms':<28}{SHIFT_S * 1e3:.0f} ms found")
    for name in ("quiet", "busy"):
        for part_s in LENGTHS_S:
            print(f"{name:<8}{part_s:>6} s  " + _rates(counts.get((name, part_s), np.zeros(5, int))))
    total = np.sum(list(counts.values()), axis=0)
    long = np.sum([row for (_, part_s), row in counts.items() if part_s >= 20], axis=0)
    print(f"{'all':<8}{'':>8}  {_rates(total)}")
    print(f"{'20 s and more':<16}  {_rates(long)}")
    return 0 if total[2] <= 0.01 * total[1] and total[4] >= 0.95 * total[3] and long[1] >= 0.8 * long[0] else 1


def _beyond(lag: Lag) -> bool:
    return abs(lag.lag_s) > Limits.lag_s


def _rates(row: np.ndarray) -> str:
    stretches, told, wrong, shifted, found = (int(value) for value in row)
    return "".join(f"{_rate(*pair):<28}" for pair in ((told, stretches), (wrong, told), (found, shifted))).rstrip()


def _rate(count: int, of: int) -> str:
    if not of:
        return "-"
    low, high = wilson_interval(count, of)
    return f"{count}/{of} [{low:.3f}, {high:.3f}]"


def main() -> int:
    options = tyro.cli(Options, description=__doc__)
    if options.walks:
        return judge_walks(options)
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
