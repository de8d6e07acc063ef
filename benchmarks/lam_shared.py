"""Separate latent action models against one for both domains, of equal capacity, each measured on its own domain.

    python benchmarks/lam_shared.py --output runs/lam_shared      # trains what is not there yet; then the table
    python benchmarks/lam_shared.py --output runs/lam_shared --only-table

The rule: with a seed, all models see the same pairs of a domain, in the same order, as many of each; every pair gets 4 tokens of 16 codes.
"shared" has the parameters of one separate model, "shared, twice" those of both together. Rows are mean ± standard deviation over seeds.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from wbvla_core.checkpoint import METRICS_FILE, write_json
from wbvla_core.console import program
from wbvla_train.lam.config import LamTrainConfig, domains_of, preset
from wbvla_train.lam.probe import ProbeConfig, evaluate
from wbvla_train.lam.train import train

VARIANTS = ("mani", "loco", "shared", "shared2x")
LABELS = {"mani": "separate", "loco": "separate", "shared": "shared", "shared2x": "shared, twice"}
TWICE = {"stem_width": 112, "width": 144, "decoder_width": 68}  # 813 307 parameters; mani and loco have 812 980 together


@dataclass(frozen=True)
class CompareConfig:
    """Options.

    Attributes:
        output: checkpoints go to ``<output>/<variant>_<seed>``, health and probes on test rooms beside them.
        steps: of 32 pairs per domain, a shortened budget that all share.
        data: root of the rendered video.
        only_table: train and probe nothing.
    """

    output: Path = Path("runs/lam_shared")
    seeds: tuple[int, ...] = (0, 1, 2)
    variants: tuple[str, ...] = VARIANTS
    steps: int = 1250
    data: Path = Path("data/video")
    only_table: bool = False


def settings(config: CompareConfig, variant: str, seed: int) -> LamTrainConfig:
    """Of one training."""
    base = preset("tiny", variant.removesuffix("2x"))
    model = replace(base.model, matching=True, slots=0, **(TWICE if variant == "shared2x" else {}))  # alike in all but what is shared
    name = f"{variant}_{seed}"
    return replace(
        base,
        model=model,
        seed=seed,
        steps=config.steps,
        data=config.data,
        output=config.output / name,
        run_dir=config.output / "state" / name,
        health_every=250,
    )


def run(config: CompareConfig, log=print) -> None:
    """Train and probe what is not there."""
    for seed in config.seeds:
        for variant in config.variants:
            wanted = settings(config, variant, seed)
            if not (wanted.checkpoint_dir / METRICS_FILE).exists():
                train(wanted, log)
            probed = wanted.checkpoint_dir.with_suffix(".test.json")
            if not probed.exists():
                write_json(probed, evaluate(ProbeConfig(wanted.checkpoint_dir, config.data, "test")))


def spread(values: list[float], digits: int = 3) -> str:
    """Mean ± standard deviation."""
    if not values:
        return "-"
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}"


def table(config: CompareConfig) -> list[str]:
    """Markdown: a row per video and variant, over the seeds that are there."""
    lines = [
        "| video | model | seeds dev / test | RRG dev | RRG test | shuffled codes, dev | perplexity, mean | dead of 64 | probe, test |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for domain in ("mani", "x2_mani", "loco", "x2_loco"):
        for variant in config.variants:
            name = variant.removesuffix("2x")
            if domain.removeprefix("x2_") not in domains_of(name):
                continue
            folders = [config.output / f"{variant}_{seed}" for seed in config.seeds]
            dev = [json.loads((f / METRICS_FILE).read_text())["dev"][domain] for f in folders if (f / METRICS_FILE).exists()]
            test = [json.loads(p.read_text())[domain] for p in (f.with_suffix(".test.json") for f in folders) if p.exists()]

            def of(rows: list[dict], value: Callable[[dict], float], digits: int = 3) -> str:
                return spread([value(row) for row in rows], digits)

            if domain.endswith("mani"):
                probes = "hand speed R2 " + of(test, lambda r: (r["probe"]["left_hand_speed_r2"] + r["probe"]["right_hand_speed_r2"]) / 2, 2)
            else:
                probes = ", ".join(f"{flag} {of(test, lambda r, flag=flag: r['probe'][flag]['balanced'], 2)}" for flag in ("forward", "lateral", "turn"))
            cells = (
                of(dev, lambda r: r["rrg"]),
                of(test, lambda r: r["health"]["rrg"]),
                of(dev, lambda r: r["rrg_shuffled"]),
                of(dev, lambda r: statistics.mean(r["perplexity"]), 1),
                of(dev, lambda r: sum(r["dead"]), 0),
                probes,
            )
            if dev:
                lines.append(f"| {domain} | {LABELS[variant]} | {len(dev)} / {len(test)} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    options = tyro.cli(CompareConfig, description=__doc__)
    if not options.only_table:
        run(options)
    print("\n".join(table(options)))


if __name__ == "__main__":
    program(main)
