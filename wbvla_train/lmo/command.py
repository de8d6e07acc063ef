"""``wbvla train lmo``: its presets and options. torch is imported when training begins, so that help and refusals come at once."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from wbvla_core.errors import WbvlaError, require_at_least
from wbvla_core.robot import load_robot
from wbvla_train.lmo.ablations import ablated
from wbvla_train.lmo.config import PPOConfig, TrainConfig

PRESETS: dict[str, TrainConfig] = {
    # seconds: does every part run?
    "debug": TrainConfig(total_steps=2048, checkpoint_every=1024, ppo=PPOConfig(envs=32, steps=16, minibatches=2, epochs=2, layers=(64, 32))),
    # stages I to III, two to three hours on two CPU cores: what ships
    "x2": TrainConfig(),
    "tiny": TrainConfig(),  # the same, by the name that the other trainings' presets have
    # more robots and steps, for a many-core machine: the same problem
    "full": TrainConfig(total_steps=300_000_000, checkpoint_every=5_000_000, ppo=PPOConfig(envs=4096, layers=(512, 256, 128))),
}


@dataclass(frozen=True)
class Arguments:
    """Train the locomotion policy."""

    preset: Literal["debug", "x2", "tiny", "full"] = "x2"  # size of the run
    out: Path = Path("runs/train/lmo")  # checkpoints and logs; an existing run there is continued
    steps: int | None = None  # environment steps in all, instead of the preset's
    ablation: str = "none"  # a baseline or ablation instead of the method, or some joined by +; words in docs/lmo.md
    seed: int = 1
    threads: int = 2  # of physics and of torch
    robot: str = "x2"
    change_settings: bool = False  # go on with a run in OUT though it was begun with other settings; the changes are written down and end up in metrics.json
    start_from: Path | None = None  # state.pt of another run whose weights (only) this one starts from
    difficulty: float | None = None  # where the curriculum starts, for continued training
    tensorboard: bool = True  # scalars under OUT/tensorboard: reward terms, falls, curriculum, path error
    film_every: int | None = None  # a film of the newest checkpoint every so many steps (a separate process at the lowest priority)
    export: Path | None = None  # write the deployable checkpoint here at the end
    wall_s: float | None = None  # stop (with a checkpoint) after this many seconds


def config_of(args: Arguments) -> TrainConfig:
    """Preset with the arguments laid over it.

    Raises:
        WbvlaError: an option outside its range, an unknown ablation.
    """
    require_at_least(args, steps=1, seed=0, threads=1, film_every=1, wall_s=0)
    if args.difficulty is not None and not 0.0 <= args.difficulty <= 1.0:
        raise WbvlaError(f"expected --difficulty in [0, 1], got {args.difficulty}")
    c = PRESETS[args.preset]
    physics = dataclasses.replace(c.physics, threads=args.threads)
    c = dataclasses.replace(c, seed=args.seed, robot=args.robot, physics=physics)
    c = c if args.steps is None else dataclasses.replace(c, total_steps=args.steps)
    return ablated(c, args.ablation)


def main(argv: list[str] | None = None) -> int:
    args = tyro.cli(Arguments, args=argv, prog="wbvla train lmo")
    config = config_of(args)
    load_robot(config.robot)  # refused before anything is written
    from wbvla_train.lmo.train import train

    return train(args, config)
