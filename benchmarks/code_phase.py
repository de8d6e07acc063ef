"""Do the LAMs' codes follow the command or the gait? How many codes come again some time later, while the command has not changed.

python benchmarks/code_phase.py --demos data/demos [--gap-s 0.7]

A code that says what was asked for would come again at any time; one that says where in its stride the robot is comes again after a whole stride (the
leg policy's is 0.72 s) and not after half of one. Standing frames show what is left without a gait. Beside it: two frames of the same 16 codes drawn at
random (sum of squared shares), and the most frequent code.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import tyro

from wbvla_core.console import program
from wbvla_train.lam.export import load_lam
from wbvla_train.vla.codes import read_labelled
from wbvla_vla.tokens import KINDS


@dataclass(frozen=True)
class Options:
    """Options of the benchmark.

    Attributes:
        gap_s: between the two frames of a label; None = the LAMs' own.
        lags: in frames (0.1 s).
        settled: frames that a command must have lasted: the gait sets in within a stride.
    """

    demos: Path = Path("data/demos")
    lams: tuple[Path, Path] = (Path("checkpoints/lam/mani"), Path("checkpoints/lam/loco"))
    gap_s: float | None = None
    lags: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8, 14)
    settled: int = 8


def main() -> int:
    options = tyro.cli(Options, description=__doc__)
    torch.set_num_threads(1)
    lams = [replace(lam, gap_s=options.gap_s or lam.gap_s) for lam in map(load_lam, options.lams)]
    demos, codes, labelled = read_labelled(options.demos, lams, keys=("executed",))
    executed, episode = demos["executed"], demos["episode"]
    changed = np.append(True, (np.abs(np.diff(executed, axis=0)).max(axis=1) > 1e-3) | (np.diff(episode) != 0))
    spell = np.cumsum(changed)  # frames of one command share a number
    settled = np.arange(len(spell)) - np.flatnonzero(changed)[spell - 1] >= options.settled
    walking = np.any(executed[:, :3] != 0, axis=1)
    gap = round(max(lam.gap_s for lam in lams) / 0.1)
    print(
        "| codes | frames | at random | most frequent | " + " | ".join(f"{lag / 10:.1f} s" for lag in options.lags) + " |\n|" + "---|" * (4 + len(options.lags))
    )
    for kind, name in enumerate(KINDS):
        for doing, those in (("walking or turning", walking), ("standing", ~walking)):
            chosen = labelled & those
            share = np.stack([np.bincount(token, minlength=16) / chosen.sum() for token in codes[chosen, kind].T])
            again = []
            for lag in options.lags:
                a = np.arange(len(spell) - lag - gap)
                a = a[chosen[a] & settled[a] & labelled[a + lag] & (spell[a] == spell[a + lag + gap])]
                again.append(float((codes[a, kind] == codes[a + lag, kind]).mean()) if len(a) > 50 else np.nan)
            numbers = [(share**2).sum(axis=1).mean(), share.max(axis=1).mean(), *again]
            print(f"| {name.lower()}, {doing} | {chosen.sum()} | " + " | ".join(f"{100 * value:.1f}" for value in numbers) + " |")
    return 0


if __name__ == "__main__":
    program(main)
