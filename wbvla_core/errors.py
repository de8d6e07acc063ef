"""Error codes that cross process borders, and the exceptions that carry them.

Codes live in ranges and are only ever appended, never renumbered: bags recorded years ago must stay
readable. ``wbvla_msgs`` repeats them as message constants; a test holds the two together.
"""

from __future__ import annotations

import enum
import math


class ErrorCode(enum.IntEnum):
    """Why something was refused or ended. 0 is success; each hundred belongs to one room."""

    NONE = 0
    # 100-199 task goals (ExecuteTask)
    INSTRUCTION_EMPTY = 100
    INSTRUCTION_TOO_LONG = 101
    INSTRUCTION_UNKNOWN_WORDS = 102
    TASK_BUSY = 103
    TASK_CANCELED = 104
    TASK_TIMEOUT = 105
    TASK_TIMES_INVALID = 106
    TASK_NOT_IN_CONTROL = 107
    TASK_FAULT = 108
    # 200-299 checkpoints
    CHECKPOINT_MISSING = 200
    CHECKPOINT_CORRUPT = 201
    CHECKPOINT_MISMATCH = 202
    # 300-399 images
    IMAGE_SIZE = 300
    IMAGE_ENCODING = 301
    IMAGE_STALE = 302
    # 400-499 commands (LocoCommand, arm targets, control sessions)
    COMMAND_FLAG_RANGE = 400
    COMMAND_HEIGHT_RANGE = 401
    COMMAND_NOT_FINITE = 402
    COMMAND_SHAPE = 403
    COMMAND_STALE = 404
    COMMAND_IMAGE_STALE = 405
    CONTROL_UNKNOWN_SOURCE = 410
    CONTROL_HELD_BY_OTHER = 411
    CONTROL_SESSION_VOID = 412
    CONTROL_WHILE_DAMPING = 413
    # 500-599 robot state and safety
    STATE_SILENT = 500
    STATE_NOT_FINITE = 501
    STATE_SHAPE = 502
    IMU_SILENT = 503
    TILT = 504
    MOTOR_FAULT = 505
    ESTOP = 506
    DRIVER_COMMAND_SILENT = 507
    REARM_REFUSED = 508


class WbvlaError(ValueError):
    """A refusal with a code. The text says what was expected, what came and how to mend it."""

    code: ErrorCode = ErrorCode.NONE

    def __init__(self, message: str, code: ErrorCode | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code


class WbvlaWarning(UserWarning):
    """Something to know that stops nothing; programs print it as one line."""


class CommandError(WbvlaError):
    """A LocoCommand or an arm chunk that must not reach the motors."""


class StateError(WbvlaError):
    """A joint state or IMU sample that balance cannot be built on."""


class CheckpointError(WbvlaError):
    """A checkpoint directory that is missing, damaged or made for something else."""

    code = ErrorCode.CHECKPOINT_MISMATCH


class ImageError(WbvlaError):
    """An image of another size or encoding than the policy was trained on."""


class InstructionError(WbvlaError):
    """A sentence that the policy cannot follow.

    Attributes:
        reason: what kind of refusal it is, a value of :class:`wbvla_core.refusal.Reason`; "" where nobody looked.
        nearest: sentences that can be carried out and come nearest to what was asked; the first is the best.
    """

    def __init__(self, message: str, code: ErrorCode | None = None, reason: str = "", nearest: tuple[str, ...] = ()) -> None:
        super().__init__(message, code)
        self.reason, self.nearest = reason, nearest


class LinkError(WbvlaError):
    """A remote policy that is silent, or a message that is not what the protocol says. Nothing is known of the robot: LMO's ladder decides."""

    code = ErrorCode.TASK_FAULT


def require_at_least(options: object, where: str = "", /, **least: float) -> None:
    """Check fields of a command's options against their lower bounds; None is an option that was not given.

    Args:
        where: of options inside others, what stands before their names on the command line, for example ``codes.loop``.

    Raises:
        WbvlaError: the first that is below its bound, or no number, named as on the command line.
    """
    for name, bound in least.items():
        value = getattr(options, name)
        if value is not None and not bound <= value < math.inf:  # NaN is not a number either
            raise WbvlaError(f"expected {option_name(name, where)} of at least {bound}, got {value}")


def require_positive(options: object, where: str = "", /, *names: str) -> None:
    """Raise WbvlaError for the first of a command's options that is not a positive number; None is an option that was not given."""
    for name in names:
        value = getattr(options, name)
        if value is not None and not 0.0 < value < math.inf:
            raise WbvlaError(f"expected {option_name(name, where)} above 0, got {value}")


def require_shares(options: object, where: str = "", /, *names: str) -> None:
    """Raise WbvlaError for the first of a command's options that is no share of a whole, 0 to 1."""
    for name in names:
        value = getattr(options, name)
        if value is not None and not 0.0 <= value <= 1.0:
            raise WbvlaError(f"expected {option_name(name, where)} between 0 and 1, got {value}")


def require_seed(options: object, where: str = "", /, name: str = "seed") -> None:
    """Raise WbvlaError where a command's seed is not one that every generator takes: 0 to 2^63 - 1."""
    value = getattr(options, name)
    if not 0 <= value < 2**63:
        raise WbvlaError(f"expected {option_name(name, where)} between 0 and 2^63 - 1, got {value}")


def option_name(name: str, where: str = "") -> str:
    """How a field of the options is called on the command line."""
    return "--" + f"{where}.{name}".lstrip(".").replace("_", "-")
