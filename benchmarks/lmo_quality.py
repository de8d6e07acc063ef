"""How good a leg policy is after how many steps and hours: the numbered states of one training run through the benchmark, on development seeds.

python benchmarks/lmo_quality.py runs/train/lmo --every 4
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from wbvla_core.checkpoint import MANIFEST_FILE
from wbvla_core.console import program
from wbvla_eval.lmo import results
from wbvla_eval.lmo.command import benchmark
from wbvla_eval.lmo.options import Options as BenchmarkOptions
from wbvla_train.lmo.config import STATE_HOLDS
from wbvla_train.lmo.export import export_checkpoint
from wbvla_train.state_file import read_state

# Heading of the column, suite, row, number.
COLUMNS = (
    ("forward/back m", "accuracy", "forward/back", "position_m"),
    ("rad", "accuracy", "forward/back", "heading_rad"),
    ("left/right m", "accuracy", "left/right", "position_m"),
    ("rad", "accuracy", "left/right", "heading_rad"),
    ("turn m", "accuracy", "turn left/right", "position_m"),
    ("rad", "accuracy", "turn left/right", "heading_rad"),
    ("CoMS stand m", "stability", "stand", "coms_m"),
    ("CoMS squat m", "stability", "squat", "coms_m"),
    ("lean, walking rad", "accuracy", "forward/back", "lean_rad"),
)


@dataclass(frozen=True)
class Options:
    """Options of the table.

    Attributes:
        run: folder of ``wbvla train lmo --out``, with its ``state_0001M.pt`` and so on.
        every: millions of steps between two rows; the newest state is always one.
        episodes: per cell. hours: of random switching; 0: none.
        seed_base: apart from the benchmark's own seeds, which are for the end.
        out: exported checkpoints and reports; what is finished there is not run again.
    """

    run: tyro.conf.Positional[Path] = Path("runs/train/lmo")
    every: int = 4
    episodes: int = 20
    hours: float = 1.0
    seed_base: int = 7_000_000
    threads: int = 2
    out: Path = Path("runs/lmo_quality")


def main() -> int:
    options = tyro.cli(Options, description=__doc__)
    numbered = {int(match[1]): path for path in options.run.glob("state_*M.pt") if (match := re.fullmatch(r"state_(\d+)M\.pt", path.name))}
    if not numbered:
        raise SystemExit(f"{options.run} holds no state_0001M.pt or later: give the folder of `wbvla train lmo --out`")
    lines = []
    for millions in sorted(m for m in numbered if m % options.every == 0 or m == max(numbered)):
        state = read_state(numbered[millions], holds=STATE_HOLDS)
        where = options.out / f"{millions:04d}M"
        manifest = where / "x2" / MANIFEST_FILE
        # One that is newer than its state stays: made anew, it would name the commit of today and be another checkpoint to the benchmark.
        if not manifest.exists() or manifest.stat().st_mtime < numbered[millions].stat().st_mtime:
            export_checkpoint(options.run, where / "x2", state_file=numbered[millions].name)
        suites = ("accuracy", "stability", *(("switching",) if options.hours > 0 else ()))
        settings = BenchmarkOptions(
            lmo=where / "x2",
            suites=suites,
            episodes=options.episodes,
            hours=max(options.hours, 1e-3),
            seed_base=options.seed_base,
            threads=options.threads,
            out=where,
        )
        lines.append([f"{state['steps'] / 1e6:.1f} M", f"{state['wall_s'] / 3600:.2f}", *cells(benchmark(settings))])
    head = ["steps", "hours", *(column[0] for column in COLUMNS), "falls, fixed commands", *(["falls, switching"] if options.hours > 0 else [])]
    print(f"\n{results.markdown([head, *lines])}")
    return 0


def cells(report: dict[str, Any]) -> list[str]:
    """What a report says in each column, then falls under fixed commands and in switching."""
    rows = results.rows_by_name(report)
    out = []
    for _, suite, row, number in COLUMNS:
        found = rows[suite, row]["numbers"].get(number)
        out.append(f"{found['mean']:.3f}" if found else "–")
    fixed = [row for (suite, name), row in rows.items() if suite in ("accuracy", "stability") and not row.get("part")]
    out.append(f"{sum(row['falls'] for row in fixed)} of {sum(row['episodes'] for row in fixed)}")
    if (switching := rows.get(("switching", "switching"))) is not None:
        out.append(f"{switching['falls']} in {switching['hours']:.1f} h")
    return out


if __name__ == "__main__":
    program(main)
