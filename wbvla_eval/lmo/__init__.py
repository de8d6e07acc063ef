"""The benchmark of leg controllers, ``wbvla eval lmo``: any controller behind a small interface, the same suites for all (docs/benchmark.md).

controllers  the interface, the exported checkpoint behind it, other people's Python factories, checks on what they return
conditions   what the world does to the robot: noise, bodies, delays, arm motion, pulses, pushes; each a seeded law
arms         seeded reaching, lifting, carrying and pushing motions of both arms, replayed faster or larger
programs     what is commanded when; the flag planner that closes the loop on true pose
runner       N robots through one program under one set of conditions -> Log
measures     Log -> numbers per episode
suites       the table of suites: cells of program, conditions and measures
results      episodes -> rows with intervals, terminal table, report.md, comparison of runs
plots, video pictures of it
command      the command line
lockstep     the older small protocol: one robot in the lock-step world through the whole LmoController
"""

from __future__ import annotations

from collections.abc import Sequence

from wbvla_eval.lmo.lockstep import CASES, Options, run_trial

__all__ = ["CASES", "Options", "main", "run_trial"]


def main(argv: Sequence[str]) -> int:
    """``wbvla eval lmo``."""
    from wbvla_eval.lmo.command import main as run

    return run(argv)
