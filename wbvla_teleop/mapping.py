"""Hands -> LocoCommand, and the dead-man: who may move the robot, and from when to when."""

from __future__ import annotations

import enum

from wbvla_core.types import LocoCommand
from wbvla_teleop.joystick import Hands, Mapping


class LocoMapper:
    """Three flags with hysteresis, and the stance height by rate.

    Args:
        mapping: thresholds and rate.
        height_range_m: where the stance height may go.
        height_m: where it starts.
    """

    def __init__(self, mapping: Mapping, height_range_m: tuple[float, float], height_m: float) -> None:
        self.mapping, self.range_m, self.height_m = mapping, height_range_m, height_m
        self._flags = [0, 0, 0]

    def stop(self) -> LocoCommand:
        """Hands off: flags zero, the height stays."""
        self._flags = [0, 0, 0]
        return LocoCommand(stance_height_m=self.height_m)

    def step(self, hands: Hands, dt_s: float) -> LocoCommand:
        """The command after ``dt_s`` more of this."""
        m = self.mapping
        self._flags = [_flag(flag, value, m.flag_on, m.flag_off) for flag, value in zip(self._flags, (hands.forward, hands.lateral, hands.yaw), strict=True)]
        part = max(0.0, abs(hands.height) - m.dead_zone) / (1.0 - m.dead_zone)
        rate_m_s = m.height_rate_m_s * part * (1 if hands.height > 0 else -1)
        self.height_m = min(max(self.height_m + rate_m_s * dt_s, self.range_m[0]), self.range_m[1])
        return LocoCommand(*self._flags, self.height_m)


def _flag(flag: int, value: float, on: float, off: float) -> int:
    """Set above ``on``, cleared below ``off``; from one side straight to the other only beyond ``on``."""
    if abs(value) > on:
        return 1 if value > 0 else -1
    return flag if flag * value > off else 0


class Grip(enum.Enum):
    """Where the dead-man stands."""

    RELEASED = "released"
    ASKING = "asking for control"
    HELD = "in control"
    LOST = "lost"  # held, but control is not ours any more: it must be let go and gripped anew


class DeadMan:
    """From the button to control and back; no clock of its own, ``now_s`` is monotonic.

    Args:
        silence_s: age of the device's last message at which the button counts as released.
    """

    ASK_AGAIN_S = 0.5

    def __init__(self, silence_s: float) -> None:
        self.silence_s, self.grip = silence_s, Grip.RELEASED
        self._pressed, self._heard_s, self._asked_s = False, float("-inf"), float("-inf")

    def hear(self, pressed: bool, now_s: float) -> None:
        """The device said so."""
        self._pressed, self._heard_s = pressed, now_s

    def step(self, now_s: float) -> str:
        """What is to be done now: "ask" for control, "let go" of it, or ""."""
        held = self._pressed and now_s - self._heard_s <= self.silence_s
        if not held:
            was, self.grip = self.grip, Grip.RELEASED
            return "let go" if was in (Grip.HELD, Grip.ASKING) else ""
        if self.grip is Grip.RELEASED or (self.grip is Grip.ASKING and now_s - self._asked_s > self.ASK_AGAIN_S):
            self.grip, self._asked_s = Grip.ASKING, now_s
            return "ask"
        return ""

    def granted(self) -> bool:
        """Control was given; False where the operator has let go meanwhile: give it back."""
        if self.grip is Grip.ASKING:
            self.grip = Grip.HELD
        return self.grip is Grip.HELD

    def lose(self) -> None:
        """Control is another's, or the robot damps."""
        if self.grip is not Grip.RELEASED:
            self.grip = Grip.LOST
