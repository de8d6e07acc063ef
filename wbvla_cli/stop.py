"""``wbvla stop``: the e-stop of a stack that runs, from any terminal of the same checkout."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import tyro

from wbvla_cli.stacks import answering
from wbvla_core.console import program


@dataclass(frozen=True)
class StopOptions:
    """E-stop: every joint damps, latched, until `wbvla rearm`. A robot that stands sinks down. Several stacks that run here are all stopped."""

    domain: int | None = None
    """ROS domain id of the stack; default: those in which this checkout has started something, and ROS_DOMAIN_ID"""
    wait_s: float = 8.0
    """how long to look for a stack, s"""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0: every stack that was found is latched; 1: one did not answer; 2: there is none."""
    options = tyro.cli(StopOptions, args=argv, prog="wbvla stop")
    with answering("estop", options.domain, options.wait_s) as stacks, ThreadPoolExecutor(len(stacks)) as pool:  # at the same time: it is an e-stop
        answers = list(pool.map(lambda stack: stack.call(), stacks))
    for done, text in answers:
        print(text, file=sys.stdout if done else sys.stderr)
    return 0 if all(done for done, _ in answers) else 1


if __name__ == "__main__":
    program(main)
