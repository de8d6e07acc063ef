"""Keys -> hands.

A terminal tells presses and repeats but no releases. A key that was pressed counts as held for ``hold_s``, longer than any terminal
waits before it begins to repeat (X11: 0.66 s), and for ``repeat_hold_s`` after each repeat. Moving keys hold the dead-man, too; space
lets go of everything at once. Repeats faster than any keyboard's are a backlog, set free after a connection stalled: what they say
is over, and everything is let go.
"""

from __future__ import annotations

from collections import deque
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
        hold_s: how long a key counts as held after it was pressed, s.
        repeat_hold_s: the same after a repeat, s; a key heard again within ``REPEAT_GAP_S`` repeats.
        press_s: how long a pressed button stays down: longer than the period at which hands are sent.
    """

    REPEAT_GAP_S = 0.15
    BACKLOG_S, BACKLOG_KEYS = 0.1, 10  # more moving keys than this in this time: no keyboard repeats 100 times a second

    def __init__(self, hold_s: float = 0.8, press_s: float = 0.12, repeat_hold_s: float = 0.3) -> None:
        self.hold_s, self.press_s, self.repeat_hold_s = hold_s, press_s, repeat_hold_s
        self._heard: dict[str, float] = {}  # moving key -> when it was last heard of
        self._recent: deque[float] = deque(maxlen=self.BACKLOG_KEYS)
        self._held: dict[str, tuple[float, float]] = {}  # axis -> (deflection, until when)
        self._pressed: dict[str, float] = {}
        self._grip_until_s = float("-inf")

    def press(self, key: str, now_s: float) -> bool:
        """A key was heard; whether it means anything."""
        if key == " ":
            self._held.clear()
            self._grip_until_s = now_s
        elif key.lower() in MOVES:
            self._move(key.lower(), now_s)
        elif key in PRESSES:
            self._pressed[PRESSES[key]] = now_s + self.press_s
        else:
            return False
        return True

    def _move(self, key: str, now_s: float) -> None:
        backlog = len(self._recent) == self.BACKLOG_KEYS and now_s - self._recent[0] < self.BACKLOG_S
        self._recent.append(now_s)
        if backlog:
            self._held.clear()
            self._heard.clear()
            self._grip_until_s = now_s
            return
        axis, value = MOVES[key]
        repeats = now_s - self._heard.get(key, float("-inf")) <= self.REPEAT_GAP_S
        self._heard[key] = now_s
        until_s = now_s + (self.repeat_hold_s if repeats else self.hold_s)
        if axis:
            self._held[axis] = value, until_s
        self._grip_until_s = until_s

    def hands(self, now_s: float) -> Hands:
        """What is held and pressed now."""
        axes = {axis: value for axis, (value, until_s) in self._held.items() if now_s < until_s}
        presses = {name: True for name, until_s in self._pressed.items() if now_s < until_s}
        return replace(Hands(deadman=now_s < self._grip_until_s), **axes, **presses)
