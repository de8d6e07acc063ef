"""``wbvla eval walk-to``: how often does the robot reach the named box, on scenes that it has never seen."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from wbvla_core.errors import require_at_least
from wbvla_core.workers import default_processes
from wbvla_eval.seeds import TEST_SEEDS, require_seeds


@dataclass(frozen=True)
class WalkToOptions:
    """Walk-to-box trials in lock-step physics: success, falls and kinds of failure with Wilson intervals."""

    trials: int = 50
    """Number of trials, one scene each."""
    seed_base: int = TEST_SEEDS.start
    """Seed of the first scene: training below 1 000 000, development 1 000 000 to 1 999 999, test from 2 000 000."""
    policy: str = "checkpoints/policy/tiny"
    """A policy checkpoint directory, or "expert" (sees the simulator's truth: the upper bound), or "zero" (stands still)."""
    lmo: str = "checkpoints/lmo/x2"
    """An LMO checkpoint directory, or "kinematic" (no physics: the robot slides)."""
    robot: str = "x2"
    """Name of the robot spec."""
    timeout_s: float = 40.0
    """Time limit of a trial, simulated seconds."""
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
    """Directory of the results; default runs/eval-walk-to-<time>. Finished trials in it are not run again."""
    require: float | None = None
    """Exit with status 1 if the success rate is below this."""


def main(argv: Sequence[str]) -> int:
    options = tyro.cli(WalkToOptions, prog="wbvla eval walk-to", args=list(argv))
    require_at_least(options, trials=1, processes=1, timeout_s=0.02, decision_delay_ticks=0, videos=0, require=0.0)
    require_seeds(options.seed_base, options.trials)
    from wbvla_eval.campaign import campaign, summary_errors  # the simulator: here, so that help and refusals come at once
    from wbvla_eval.protocol import Setup, walk_to_trials

    out = options.out or Path("runs") / time.strftime("eval-walk-to-%Y%m%d-%H%M%S")
    setup = Setup(options.robot, options.policy, options.lmo, options.noise, options.decision_delay_ticks, options.videos, str(out))
    trials = walk_to_trials(options.trials, options.seed_base, paraphrase=options.paraphrase, timeout_s=options.timeout_s)
    report = campaign("Walk to the box", setup, trials, processes=options.processes, out=out)
    rate = report["summary"]["all"]["success_rate"]
    if summary_errors(report):
        return 1
    return 0 if options.require is None or rate >= options.require else 1
