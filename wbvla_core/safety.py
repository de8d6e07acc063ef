"""The safety ladder: follow -> stand -> damping, as a pure state machine.

The rungs (DESIGN, ours; watchdog thresholds after public X2 deployers' 100 ms):

FOLLOW    the source in control sent a command at most ``command_timeout_s`` ago and its image is at most
          ``image_timeout_s`` old: a camera that froze counts as silence.
STAND     older, or nobody in control: flags zero, stance height held, arms hold; the policy keeps balancing for as
          long as it takes. A biped that goes limp falls, so losing the link never does that. After
          ``session_timeout_s`` without a usable command the source's session is void, and control must be taken again.
DAMPING   latched, left only through :meth:`SafetyLadder.rearm`. Only where balance itself is lost or blind: joint
          state or IMU silent, tilt, motor fault, e-stop. The latch belongs to the process: :meth:`SafetyLadder.restart`
          keeps it, so that no lifecycle transition is a way around rearm.

All times are the receiver's monotonic clock, handed in as ``now_s``: nothing here reads a clock. Nothing here knows
ROS. The caller validates messages first: a malformed one is dropped and counted, never noted here, so that it neither
stops the robot nor refreshes an age.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from wbvla_core.errors import CommandError, ErrorCode


class SafetyRung(enum.IntEnum):
    """Numbers equal the constants of ``wbvla_msgs/SafetyState`` (WAITING is the driver's, before its first command)."""

    FOLLOW = 0
    STAND = 1
    DAMPING = 2
    WAITING = 3


@dataclass(frozen=True)
class SafetyLimits:
    """Thresholds of the ladder; all times in s of the receiver's monotonic clock."""

    command_timeout_s: float = 0.25
    image_timeout_s: float = 0.4
    session_timeout_s: float = 1.0
    state_timeout_s: float = 0.1
    max_tilt_rad: float = 0.8
    rearm_tilt_rad: float = 0.3

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"SafetyLimits.{name} must be positive and finite, got {value}")
        if self.session_timeout_s < self.command_timeout_s:
            raise ValueError("SafetyLimits.session_timeout_s must not be shorter than command_timeout_s")


@dataclass(frozen=True)
class SafetyStatus:
    """What the 50 Hz loop must do now, and why.

    Attributes:
        rung: what to do.
        code, reason: why not FOLLOW (NONE and "" when following).
        source: who is in control, "" for nobody.
        command_age_s, image_age_s: ages of the newest decision; inf before the first.
    """

    rung: SafetyRung
    code: ErrorCode
    reason: str
    source: str
    command_age_s: float
    image_age_s: float


class SafetyLadder:
    """Decide between following, standing and damping from ages and faults.

    Args:
        limits: thresholds.
        preempting: sources that may take control from another that holds it (the dead-man of teleoperation).
        sources: who may ask for control at all.
    """

    def __init__(self, limits: SafetyLimits | None = None, *, sources: tuple[str, ...] = ("vla", "teleop"), preempting: tuple[str, ...] = ("teleop",)) -> None:
        self.limits = limits or SafetyLimits()
        self.sources = sources
        self.preempting = preempting
        self.source = ""
        self.session = 0
        self._took_s = -math.inf
        self._command_s = -math.inf
        self._image_age_at_command_s = math.inf
        self._state_s: float | None = None
        self._imu_s: float | None = None
        self._latched: tuple[ErrorCode, str] | None = None
        self._void_reason = ""

    @property
    def latched(self) -> str:
        """Why damping is latched; "" where it is not."""
        return self._latched[1] if self._latched is not None else ""

    def restart(self, limits: SafetyLimits | None = None) -> None:
        """Begin again, for example after a lifecycle transition. Ages and control are forgotten, the latch is not.

        Args:
            limits: new thresholds; None keeps the present ones.
        """
        self.limits = limits or self.limits
        self._took_s = self._command_s = -math.inf
        self._image_age_at_command_s = math.inf
        self._state_s = self._imu_s = None
        self._void("")

    # -- control ---------------------------------------------------------------------------------------------------
    def take_control(self, source: str, now_s: float) -> int:
        """Give control to ``source``; returns the number of the new session.

        Raises:
            CommandError: unknown source, held by another that this one may not preempt, or damping.
        """
        if source not in self.sources:
            raise CommandError(f"source must be one of {list(self.sources)}, got {source!r}", ErrorCode.CONTROL_UNKNOWN_SOURCE)
        if self._latched is not None:
            raise CommandError(f"control is refused while damping ({self._latched[1]}); rearm first", ErrorCode.CONTROL_WHILE_DAMPING)
        self._expire(now_s)
        if self.source and self.source != source and source not in self.preempting:
            raise CommandError(f"control is held by {self.source!r}; it must release control first", ErrorCode.CONTROL_HELD_BY_OTHER)
        self.source = source
        self.session += 1
        self._took_s = now_s
        self._command_s = -math.inf
        self._image_age_at_command_s = math.inf
        self._void_reason = ""
        return self.session

    def release_control(self, source: str) -> None:
        """Give control back; a source that does not hold it changes nothing."""
        if source == self.source:
            self._void(f"{source} released control")

    def _void(self, reason: str) -> None:
        self.source = ""
        self._void_reason = reason

    def _expire(self, now_s: float) -> None:
        if self.source and self._usable_age_s(now_s) > self.limits.session_timeout_s:
            self._void(f"{self.source} was silent for {self.limits.session_timeout_s:g} s; take control again")

    def _usable_age_s(self, now_s: float) -> float:
        """Time since the newest sign of life of the session: its start, or its last command with a fresh image."""
        age_s = now_s - max(self._took_s, self._command_s)
        image_overdue_s = self._image_age_s(now_s) - self.limits.image_timeout_s
        return max(age_s, image_overdue_s) if math.isfinite(image_overdue_s) else age_s

    # -- what arrives ----------------------------------------------------------------------------------------------
    def note_decision(self, source: str, now_s: float, image_age_s: float) -> bool:
        """A valid decision came. Returns whether it is from the source in control and is to be followed.

        Args:
            image_age_s: age of the decision's image when it arrived, within one host's clock.
        """
        self._expire(now_s)
        if source != self.source:
            return False
        self._command_s = now_s
        self._image_age_at_command_s = max(0.0, image_age_s)
        return True

    def note_state(self, now_s: float) -> None:
        """A valid joint state came."""
        self._state_s = now_s

    def note_imu(self, now_s: float) -> None:
        """A valid IMU sample came."""
        self._imu_s = now_s

    def note_pause(self, now_s: float, pause_s: float) -> None:
        """This process could not run in the last ``pause_s`` (suspended, or its processor lent out): what it did not hear then is no silence of the robot.

        Robot state only. Decisions go on ageing; and the driver damps by its own watchdog when it is LMO that stands still.
        """
        if self._state_s is not None:
            self._state_s = min(now_s, self._state_s + pause_s)
        if self._imu_s is not None:
            self._imu_s = min(now_s, self._imu_s + pause_s)

    def fault(self, code: ErrorCode, reason: str) -> None:
        """Latch damping (e-stop, motor fault, non-finite state). The first reason is kept."""
        if self._latched is None:
            self._latched = (code, reason)
            self._void(reason)

    def rearm(self, now_s: float, tilt_rad: float) -> None:
        """Leave damping for STAND.

        Raises:
            CommandError: the robot is still blind or lies; the text says which.
        """
        limits = self.limits
        for name, at_s in (("joint state", self._state_s), ("IMU", self._imu_s)):
            if at_s is None or now_s - at_s > limits.state_timeout_s:
                raise CommandError(f"rearm refused: {name} is silent; wait until it arrives", ErrorCode.REARM_REFUSED)
        if not tilt_rad <= limits.rearm_tilt_rad:
            raise CommandError(
                f"rearm refused: the pelvis is tilted by {tilt_rad:.2f} rad, at most {limits.rearm_tilt_rad:.2f} is allowed; set the robot upright",
                ErrorCode.REARM_REFUSED,
            )
        self._latched = None
        self._void("rearmed; take control to move")

    # -- the answer ------------------------------------------------------------------------------------------------
    def _image_age_s(self, now_s: float) -> float:
        return self._image_age_at_command_s + (now_s - self._command_s) if math.isfinite(self._command_s) else math.inf

    def evaluate(self, now_s: float, tilt_rad: float) -> SafetyStatus:
        """The rung at ``now_s``; latches damping where balance is lost or blind."""
        limits = self.limits
        if self._state_s is not None and now_s - self._state_s > limits.state_timeout_s:
            self.fault(ErrorCode.STATE_SILENT, f"joint state silent for more than {limits.state_timeout_s:g} s")
        if self._imu_s is not None and now_s - self._imu_s > limits.state_timeout_s:
            self.fault(ErrorCode.IMU_SILENT, f"IMU silent for more than {limits.state_timeout_s:g} s")
        if not math.isfinite(tilt_rad):
            self.fault(ErrorCode.STATE_NOT_FINITE, "tilt is not finite")
        elif tilt_rad > limits.max_tilt_rad:
            self.fault(ErrorCode.TILT, f"tilt {tilt_rad:.2f} rad is over {limits.max_tilt_rad:.2f} rad")
        command_age_s = now_s - self._command_s
        image_age_s = self._image_age_s(now_s)

        def status(rung: SafetyRung, code: ErrorCode, reason: str) -> SafetyStatus:
            return SafetyStatus(rung, code, reason, self.source, command_age_s, image_age_s)

        if self._latched is not None:
            return status(SafetyRung.DAMPING, *self._latched)
        self._expire(now_s)
        if not self.source:
            return status(SafetyRung.STAND, ErrorCode.CONTROL_SESSION_VOID, self._void_reason or "nobody is in control")
        if not math.isfinite(command_age_s):
            return status(SafetyRung.STAND, ErrorCode.COMMAND_STALE, f"no command from {self.source} yet")
        if command_age_s > limits.command_timeout_s:
            return status(SafetyRung.STAND, ErrorCode.COMMAND_STALE, f"no command from {self.source} for more than {limits.command_timeout_s:g} s")
        if image_age_s > limits.image_timeout_s:
            return status(SafetyRung.STAND, ErrorCode.COMMAND_IMAGE_STALE, f"the image behind the command is more than {limits.image_timeout_s:g} s old")
        return status(SafetyRung.FOLLOW, ErrorCode.NONE, "")
