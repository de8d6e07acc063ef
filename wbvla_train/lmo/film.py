"""A film of a training state: one robot through starts, stops, turns and squats, arms replayed. Look at the gait, not only at its numbers.

python -m wbvla_train.lmo.film runs/train/lmo/state.pt gait.mp4
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np
import torch
import tyro

from wbvla_core.console import program
from wbvla_core.robot import load_robot
from wbvla_lmo.pipeline import PipelineConfig
from wbvla_sim import render
from wbvla_sim.scene import random_scene, to_mjcf
from wbvla_sim.video import write_mp4
from wbvla_train.lmo.config import PhysicsConfig
from wbvla_train.lmo.evaluate import NOMINAL, load_actor, simulate
from wbvla_train.lmo.physics import lean_model

# seconds, flags, stance height m (None = default)
PROGRAMME: tuple[tuple[float, tuple[int, int, int], float | None], ...] = (
    (1.0, (0, 0, 0), None),
    (4.0, (1, 0, 0), None),
    (1.5, (0, 0, 0), None),
    (3.0, (0, 1, 0), None),
    (1.5, (0, 0, 0), None),
    (4.0, (0, 0, 1), None),
    (1.5, (0, 0, 0), None),
    (3.0, (-1, 0, 0), None),
    (1.5, (0, 0, 0), None),
    (3.0, (0, 0, 0), 0.48),
    (2.0, (0, 0, 0), None),
)


@dataclass(frozen=True)
class Arguments:
    """Film a training state."""

    state: tyro.conf.Positional[Path]
    out: tyro.conf.Positional[Path]
    fps: int = 25
    size: tuple[int, int] = (480, 360)
    azimuth: float = 130.0  # camera, degrees
    follow: bool = True
    difficulty: float = 1.0
    push: bool = False
    seed: int = 40_000


def frames(args: Arguments) -> Iterator[np.ndarray]:
    """Pictures, uint8 [H, W, 3], ``fps`` of them per simulated second."""
    actor, state = load_actor(args.state)
    stored = json.loads(state["config"])
    robot, config = load_robot(stored["robot"]), PipelineConfig.from_json(stored["pipeline"])
    flags = np.concatenate([np.tile(f, (int(s * config.rate_hz), 1, 1)) for s, f, _ in PROGRAMME]).astype(float)
    height = np.concatenate([np.full((int(s * config.rate_hz), 1), h or robot.default_stance_height_m) for s, _, h in PROGRAMME])
    physics = dataclasses.replace(PhysicsConfig(), threads=1)
    log = simulate(robot, config, actor, flags, height, difficulty=args.difficulty, push=args.push, seed=args.seed, physics=physics, disturbance=NOMINAL)
    lean = lean_model(robot, physics)
    model = to_mjcf(robot, random_scene(0, kind="empty"))
    data = mujoco.MjData(model)
    source = [lean.joint(i).name for i in range(1, lean.njnt)]
    target = [model.joint(name).qposadr[0] for name in source]
    camera = mujoco.MjvCamera()
    camera.distance, camera.azimuth, camera.elevation = 2.6, args.azimuth, -12.0
    camera.lookat[:] = (0.6, 0.4, 0.55)
    for t in range(0, len(flags), max(1, round(config.rate_hz / args.fps))):
        qpos = log.qpos[t, 0]
        data.qpos[:7] = qpos[:7]
        data.qpos[target] = qpos[7:]
        mujoco.mj_forward(model, data)
        if args.follow:
            camera.lookat[:] = (qpos[0], qpos[1], 0.55)
        yield render.draw(model, data, camera, *args.size)


def main(argv: list[str] | None = None) -> int:
    args = tyro.cli(Arguments, args=argv, prog="python -m wbvla_train.lmo.film")
    torch.set_num_threads(1)
    write_mp4(args.out, frames(args), fps=args.fps)
    print(f"wrote {args.out}")
    return 0


if __name__ == "__main__":
    program(main)
