"""``wbvla rearm``: leave a latched damping, from any terminal of the same checkout."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import tyro

from wbvla_cli.stacks import NoStackError, answering
from wbvla_core.console import program


@dataclass(frozen=True)
class RearmOptions:
    """Leave a latched damping: the robot stands again. It is refused while the robot is tilted or its state does not come; control must be taken anew."""

    domain: int | None = None
    """ROS domain id of the stack; default: those in which this checkout has started something, and ROS_DOMAIN_ID"""
    wait_s: float = 8.0
    """how long to look for a stack, s"""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0: rearmed; 1: refused, with the reason; 2: there is no stack, or more than one to choose from."""
    options = tyro.cli(RearmOptions, args=argv, prog="wbvla rearm")
    with answering("rearm", options.domain, options.wait_s) as stacks:
        if len(stacks) > 1:  # the joints of the wrong robot must not stiffen
            raise NoStackError(f"stacks run in ROS domains {', '.join(str(stack.domain) for stack in stacks)}; say which one is meant with --domain N")
        done, text = stacks[0].call()
    print(text, file=sys.stdout if done else sys.stderr)
    return 0 if done else 1


if __name__ == "__main__":
    program(main)
