"""``wbvla eval lmo``: its options. The simulator is imported when the work begins, so that help and refusals come at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from wbvla_core.errors import require_seed

SEED_BASE = 3_000_000


@dataclass(frozen=True)
class Options:
    """Benchmark of a leg controller: accuracy, stability, arrival, switching, stress, squat and cart suites (docs/benchmark.md)."""

    lmo: Path = Path("checkpoints/lmo/x2")
    """LMO checkpoint directory (ONNX and manifest)."""
    controller: str = ""
    """Python callable package.module:factory instead of a checkpoint."""
    robot: str = "x2"
    """Name of the robot spec."""
    suites: tuple[str, ...] = ()
    """Which suites; default all."""
    episodes: int = 100
    """Episodes per cell."""
    hours: float = 10.0
    """Simulated hours of the switching suite."""
    quick: bool = False
    """Two minutes: 5 episodes per cell, 0.05 h of switching. Says whether it runs, not how good it is."""
    seed_base: int = SEED_BASE
    """First seed. Leave it, or the numbers are not comparable."""
    threads: int = 2
    """Physics threads; the numbers do not depend on it."""
    videos: bool = False
    """A video per cell, and one of the first fall."""
    label: str = ""
    """Name in tables; runs with the same label are seeds of one thing in --compare. Default: the controller's name."""
    out: Path | None = None
    """Folder for results.json, report.md, plots and videos. Default runs/eval/lmo/<label>. Finished suites in it are not run again."""
    fresh: bool = False
    """Run finished suites again."""
    compare: tuple[Path, ...] = ()
    """Print results.json files (or their folders) side by side instead of running anything."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; refusals are WbvlaErrors."""
    options = tyro.cli(Options, prog="wbvla eval lmo", args=argv)
    require_seed(options, "", "seed_base")
    from wbvla_eval.lmo.command import benchmark, print_comparison

    if options.compare:
        print_comparison(options.compare, options.out)
    else:
        benchmark(options)
    return 0
