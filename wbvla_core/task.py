"""When a task ends. The robot says how it ended, never that it succeeded: success is judged by evaluation.

One definition for the node, for data collection and for evaluation. Time is the clock of the decisions' stamps.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np

from wbvla_core.catalogue import MAX_INSTRUCTION_CHARS
from wbvla_core.errors import ErrorCode, InstructionError
from wbvla_core.types import Decision

STILL_S = 2.0  # design: flags zero and arms quiet for this long ends a task
STILL_ARM_RAD = 0.03  # arm targets that move less than this per decision are quiet (ours: under the 10 Hz policy's own jitter limit)
STILL_STANCE_M = 0.005  # a stance that moves less than this per decision is held (ours)
AT_REST = f"the robot came to rest (flags zero, arms quiet for {STILL_S:g} s)"  # how STILL is put into words
NOT_JUDGED = "whether the task was done is not judged here"  # said with every end that might be read as success
MAX_TIMEOUT_S = 600.0  # ours: ten minutes; a task that needs more is several tasks


class TaskOutcome(enum.IntEnum):
    """How a task ended; numbers equal the constants of ``wbvla_msgs/ExecuteTask``."""

    STILL = 1  # the robot came to rest; it does not say that the task was done
    DURATION = 2
    TIMEOUT = 3
    CANCELED = 4
    FAULT = 5
    REFUSED = 6


@dataclass(frozen=True)
class TaskResult:
    """What the one who sent a goal gets back.

    Attributes:
        outcome, code: how it ended, and why where it did not end by itself.
        message: the same for people.
        elapsed_s: from acceptance to end.
    """

    outcome: TaskOutcome
    code: ErrorCode
    message: str
    elapsed_s: float


def asks_for_nothing(before: Decision, now: Decision) -> bool:
    """Whether ``now`` commands no motion: no flags, stance and arm targets as before."""
    return (
        not np.any(now.loco.flags)
        and abs(now.loco.stance_height_m - before.loco.stance_height_m) < STILL_STANCE_M
        and float(np.max(np.abs(now.arms.positions[-1] - before.arms.positions[-1]))) < STILL_ARM_RAD
    )


class Stillness:
    """How long the decisions have asked for nothing.

    Args:
        start_s: start of the task, on the clock of the decisions' stamps.
    """

    def __init__(self, start_s: float) -> None:
        self._since_s = start_s
        self._last: Decision | None = None

    def note(self, decision: Decision) -> bool:
        """Take the next decision; returns whether the task is over by standing still."""
        if self._last is not None and not asks_for_nothing(self._last, decision):
            self._since_s = decision.stamp_s
        self._last = decision
        return decision.stamp_s - self._since_s >= STILL_S - 1e-9


def check_goal(instruction: str, timeout_s: float, duration_s: float) -> str:
    """The instruction without outer blanks, or :class:`InstructionError` with the goal's error code. The vocabulary is the policy's to check."""
    text = instruction.strip()
    if not text:
        raise InstructionError('the instruction is empty; say what to do, e.g. "walk to the blue box"', ErrorCode.INSTRUCTION_EMPTY)
    if len(text) > MAX_INSTRUCTION_CHARS:
        raise InstructionError(f"the instruction has {len(text)} characters, at most {MAX_INSTRUCTION_CHARS} are allowed", ErrorCode.INSTRUCTION_TOO_LONG)
    if not 0.0 < timeout_s <= MAX_TIMEOUT_S:  # also refuses NaN
        raise InstructionError(f"timeout_s must lie in (0, {MAX_TIMEOUT_S:g}], got {timeout_s:g}", ErrorCode.TASK_TIMES_INVALID)
    if not 0.0 <= duration_s <= timeout_s:
        raise InstructionError(f"duration_s must lie in [0, timeout_s = {timeout_s:g}], got {duration_s:g}", ErrorCode.TASK_TIMES_INVALID)
    return text
