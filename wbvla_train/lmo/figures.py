"""Figures of docs/lmo.md: ``python -m wbvla_train.lmo.figures docs/img``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from wbvla_core.console import program
from wbvla_lmo.gating import GatingConfig, IntentGate

TICK_S = 0.02


def gate_response(config: GatingConfig, *, begin_s: float = 0.5, hold_s: float = 5.0, end_s: float = 7.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(time [T] s, forward velocity reference [T] m/s, its integral [T] m) while the forward flag is held for ``hold_s``."""
    gate = IntentGate(config, 1, 0.0)
    time = np.arange(0.0, end_s, TICK_S)
    speed = [gate.step(np.array([[float(begin_s <= t < begin_s + hold_s), 0, 0]]), np.zeros(1), TICK_S)[0][0, 0] for t in time]
    return time, np.array(speed), np.cumsum(speed) * TICK_S


def gating(path: Path) -> None:
    """The gate as transcribed from the paper against the soft start."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams["svg.hashsalt"] = "wbvla"  # the same figure is the same file
    figure, (above, below) = pyplot.subplots(2, 1, sharex=True, figsize=(7.2, 4.4), constrained_layout=True)
    cruise = (0.3, 0.3, 0.3)
    shapes = (("soft start (default)", GatingConfig(cruise=cruise), "tab:blue"), ("as transcribed", GatingConfig(cruise=cruise, literal=True), "tab:red"))
    for label, config, colour in shapes:
        time, speed, way = gate_response(config)
        above.plot(time, speed, color=colour, label=label)
        below.plot(time, way, color=colour)
    above.axvspan(0.5, 5.5, color="0.92", zorder=0)
    below.axvspan(0.5, 5.5, color="0.92", zorder=0, label="flag held")
    below.axhline(cruise[0] * 5.0, color="0.4", linestyle=":", label="cruise speed x 5 s")
    above.set_ylabel("v_ref, m/s")
    below.set_ylabel("integral, m")
    below.set_xlabel("time, s")
    above.legend(frameon=False)
    below.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


@dataclass(frozen=True)
class Arguments:
    """Draw the figures."""

    folder: tyro.conf.Positional[Path] = Path("docs/img")


def main(argv: list[str] | None = None) -> int:
    args = tyro.cli(Arguments, args=argv, prog="python -m wbvla_train.lmo.figures")
    args.folder.mkdir(parents=True, exist_ok=True)
    gating(args.folder / "lmo_gating.svg")
    print(f"wrote {args.folder / 'lmo_gating.svg'}")
    return 0


if __name__ == "__main__":
    program(main)
