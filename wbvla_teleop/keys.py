"""Keys -> hands.

A terminal tells presses and repeats but no releases, so a key counts as held until ``hold_s`` after it was last heard of: longer than the time before
a terminal begins to repeat. Moving keys hold the dead-man, too; space lets go of everything at once.
"""

from __future__ import annotations

from dataclasses import replace

from wbvla_teleop.joystick import Hands

MOVES: dict[str, tuple[str, float]] = {
    **{"w": ("forward", 1.0), "up": ("forward", 1.0), "s": ("forward", -1.0), "down": ("forward", -1.0)},
    **{"a": ("yaw", 1.0), "left": ("yaw", 1.0), "d": ("yaw", -1.0), "right": ("yaw", -1.0)},
    **{"q": ("lateral", 1.0), "e": ("lateral", -1.0), "r": ("height", 1.0), "f": ("height", -1.0)},
    "h": ("", 0.0),
}
PRESSES = {"[": "left_gripper", "]": "right_gripper", "1": "episode_start", "2": "episode_stop", "3": "episode_discard", "!": "estop"}
HELP = (
    "hold w/s ahead, back   a/d turn   q/e sideways   r/f up, down   h hold still   space let go\n"
    "[ ] grippers   1 start episode   2 keep it   3 discard it   ! e-stop   Ctrl-C leave"
)


class KeyHands:
    """See the module text. ``now_s`` is any steady clock.

    Args:
        hold_s: how long a key counts as held.
        press_s: how long a pressed button stays down: longer than the period at which hands are sent.
    """

    def __init__(self, hold_s: float = 0.6, press_s: float = 0.12) -> None:
        self.hold_s, self.press_s = hold_s, press_s
        self._held: dict[str, tuple[float, float]] = {}  # axis -> (deflection, until when)
        self._pressed: dict[str, float] = {}
        self._grip_until_s = float("-inf")

    def press(self, key: str, now_s: float) -> bool:
        """A key was heard; whether it means anything."""
        if key == " ":
            self._held.clear()
            self._grip_until_s = now_s
        elif key.lower() in MOVES:
            axis, value = MOVES[key.lower()]
            if axis:
                self._held[axis] = value, now_s + self.hold_s
            self._grip_until_s = now_s + self.hold_s
        elif key in PRESSES:
            self._pressed[PRESSES[key]] = now_s + self.press_s
        else:
            return False
        return True

    def hands(self, now_s: float) -> Hands:
        """What is held and pressed now."""
        axes = {axis: value for axis, (value, until_s) in self._held.items() if now_s < until_s}
        presses = {name: True for name, until_s in self._pressed.items() if now_s < until_s}
        return replace(Hands(deadman=now_s < self._grip_until_s), **axes, **presses)
