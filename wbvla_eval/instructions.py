"""``wbvla eval instructions``: every instruction of this stage, a few trials each."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from wbvla_core.errors import require_at_least
from wbvla_core.workers import default_processes
from wbvla_eval.seeds import TEST_SEEDS, require_seeds

SEED_OFFSET = 500_000  # apart from the scenes of walk-to in the same range


@dataclass(frozen=True)
class InstructionOptions:
    """Every instruction in lock-step physics: a table of success per instruction with Wilson intervals."""

    trials: int = 10
    """Trials per instruction."""
    seed_base: int = TEST_SEEDS.start + SEED_OFFSET
    """Seed of the first scene: training below 1 000 000, development 1 000 000 to 1 999 999, test from 2 000 000."""
    kinds: tuple[str, ...] = ()
    """Only these kinds: walk_to, turn, step, squat, stand, wave; default all."""
    policy: str = "checkpoints/policy/tiny"
    """A policy checkpoint directory, or "expert" (sees the simulator's truth: the upper bound), or "zero" (stands still)."""
    lmo: str = "checkpoints/lmo/x2"
    """An LMO checkpoint directory, or "kinematic" (no physics: the robot slides)."""
    robot: str = "x2"
    """Name of the robot spec."""
    paraphrase: bool = False
    """Draw the sentence from all wordings instead of the canonical one."""
    noise: bool = True
    """Sensor noise of typical size."""
    decision_delay_ticks: int = 2
    """20 ms ticks from image to effect."""
    processes: int = field(default_factory=default_processes)
    """Worker processes; each needs about 0.6 GB."""
    videos: int = 1
    """Failed trials per worker that are kept as video and log."""
    out: Path | None = None
    """Directory of the results; default runs/eval-instructions-<time>. Finished trials in it are not run again."""


def main(argv: Sequence[str]) -> int:
    options = tyro.cli(InstructionOptions, prog="wbvla eval instructions", args=list(argv))
    require_at_least(options, trials=1, processes=1, decision_delay_ticks=0, videos=0)
    require_seeds(options.seed_base, options.trials)
    from wbvla_eval.campaign import campaign, summary_errors  # the simulator: here, so that help and refusals come at once
    from wbvla_eval.protocol import Setup, instruction_trials

    out = options.out or Path("runs") / time.strftime("eval-instructions-%Y%m%d-%H%M%S")
    setup = Setup(options.robot, options.policy, options.lmo, options.noise, options.decision_delay_ticks, options.videos, str(out))
    trials = instruction_trials(options.trials, options.seed_base, kinds=options.kinds, paraphrase=options.paraphrase)
    report = campaign("Instructions", setup, trials, processes=options.processes, out=out)
    return 1 if summary_errors(report) else 0
