"""Hands -> LocoCommand, and the dead-man: who may move the robot, and from when to when."""

from __future__ import annotations

import enum
from dataclasses import replace

from wbvla_core.types import LocoCommand
from wbvla_teleop.joystick import AXES, Hands, Mapping


class LocoMapper:
    """Three flags with hysteresis, and the stance height by rate.

    An axis that is deflected when the dead-man is gripped does not count until it was seen at its centre: a trigger rests
    at an end of its range, a worn stick beside its centre, and a stick that is pushed already is no command to begin with.

    Args:
        mapping: thresholds and rate.
        height_range_m: where the stance height may go.
        height_m: where it starts.
    """

    def __init__(self, mapping: Mapping, height_range_m: tuple[float, float], height_m: float) -> None:
        self.mapping, self.range_m, self.height_m = mapping, height_range_m, height_m
        self._flags = [0, 0, 0]
        self._counts: dict[str, bool] = {}  # axis -> whether it was seen at its centre; missing = not seen at all

    def rest(self, hands: Hands) -> None:
        """Take note of where the axes are while the dead-man is released."""
        self._counts = {axis: abs(getattr(hands, axis)) <= self._centre(axis) for axis in AXES}

    def _centre(self, axis: str) -> float:
        """Deflection up to which an axis is at its centre."""
        return self.mapping.dead_zone if axis == "height" else self.mapping.flag_off

    def _counted(self, hands: Hands) -> Hands:
        """The hands with 0 for every axis that was not at its centre yet."""
        for axis in AXES:
            limit = self._centre(axis)
            # Nothing is known before the first message: what could not set a flag counts.
            known = limit if axis in self._counts or axis == "height" else self.mapping.flag_on
            self._counts[axis] = self._counts.get(axis, False) or abs(getattr(hands, axis)) <= known
        return replace(hands, **{axis: 0.0 for axis in AXES if not self._counts[axis]})

    def stop(self) -> LocoCommand:
        """Hands off: flags zero, the height stays."""
        self._flags = [0, 0, 0]
        return LocoCommand(stance_height_m=self.height_m)

    def step(self, hands: Hands, dt_s: float) -> LocoCommand:
        """The command after ``dt_s`` more of this."""
        m, hands = self.mapping, self._counted(hands)
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
    LOST = "lost"  # must be seen released before it can be gripped anew


class DeadMan:
    """From the button to control and back; no clock of its own, ``now_s`` is monotonic.

    Silence is not a release. Control ends when the device falls silent, and it comes back only after the device has said
    "not pressed": a radio link that returns with the button still down must not move the robot.

    Args:
        silence_s: age of the device's last message at which control ends.
        event_silence_s: time without an event of the device itself at which control ends. Receivers and drivers repeat
            the last state for ever when the radio link is lost; an operator who holds still has to move something.
        grip: where it begins; LOST = it must first be seen released.
    """

    ASK_AGAIN_S = 0.5

    def __init__(self, silence_s: float, event_silence_s: float = 2.0, grip: Grip = Grip.RELEASED) -> None:
        self.silence_s, self.event_silence_s, self.grip = silence_s, event_silence_s, grip
        self.pressed = False
        self._heard_s = self._event_s = self._asked_s = float("-inf")

    def hear(self, pressed: bool, now_s: float, event: bool = True) -> None:
        """The device said so.

        Args:
            event: whether the operator did something since the last message; False for a message that repeats it.
        """
        if event or pressed != self.pressed:
            self._event_s = now_s
        self.pressed, self._heard_s = pressed, now_s
        if not pressed and self.grip is Grip.LOST:
            self.grip = Grip.RELEASED

    def excuse(self, pause_s: float, now_s: float) -> None:
        """This process could not run for ``pause_s``: our own pause is not the device's silence.

        The limit for events is not moved: on a busy machine, where every period is a little late, it would recede for ever.
        """
        self._heard_s = min(now_s, self._heard_s + pause_s)

    def silent(self, now_s: float) -> str:
        """What has been silent for too long while the button was down, "" if nothing has."""
        if not self.pressed:
            return ""
        if now_s - self._heard_s > self.silence_s:
            return f"no message of the device for {self.silence_s:g} s"
        if now_s - self._event_s > self.event_silence_s:
            return f"the device has repeated itself for {self.event_silence_s:g} s: is its link lost?"
        return ""

    def step(self, now_s: float) -> str:
        """What is to be done now: "ask" for control, "let go" of it, or ""."""
        if self.grip is Grip.LOST:  # only hear() leaves it: that nothing was heard yet is no release either
            return ""
        if not self.pressed or self.silent(now_s):
            was, self.grip = self.grip, Grip.LOST if self.pressed else Grip.RELEASED
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
