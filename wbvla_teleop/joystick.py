"""The operator's hands as numbers, and the table that says which axis and button is what (config/teleop.yaml)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from wbvla_core.errors import WbvlaError

AXES = ("forward", "lateral", "yaw", "height")


class TeleopError(WbvlaError):
    """A mapping, script or device that cannot be used; says what was expected."""


@dataclass(frozen=True)
class Hands:
    """What the operator does at one moment.

    Attributes:
        forward, lateral, yaw, height: deflections in [-1, 1]; + is ahead, left, counter-clockwise, up.
        deadman: held.
        left_gripper, right_gripper, episode_start, episode_stop, episode_discard, estop: pressed; each acts when it goes down.
    """

    forward: float = 0.0
    lateral: float = 0.0
    yaw: float = 0.0
    height: float = 0.0
    deadman: bool = False
    left_gripper: bool = False
    right_gripper: bool = False
    episode_start: bool = False
    episode_stop: bool = False
    episode_discard: bool = False
    estop: bool = False


BUTTONS = tuple(f.name for f in fields(Hands) if f.name not in AXES)


@dataclass(frozen=True)
class Mapping:
    """config/teleop.yaml; see there.

    Attributes:
        axes: name -> (number, sign).
        buttons: name -> number.
        flag_on, flag_off: deflections at which a flag is set and cleared.
        dead_zone: of the height axis.
        height_rate_m_s: stance height rate at full deflection.
        silence_s: age of the device's last message at which control ends.
        event_silence_s: time without an event of the device itself at which control ends.
    """

    axes: dict[str, tuple[int, int]]
    buttons: dict[str, int]
    flag_on: float = 0.6
    flag_off: float = 0.35
    dead_zone: float = 0.15
    height_rate_m_s: float = 0.1
    silence_s: float = 0.3
    event_silence_s: float = 2.0

    def __post_init__(self) -> None:
        for what, have, want in (("axes", self.axes, AXES), ("buttons", self.buttons, BUTTONS)):
            if set(have) != set(want):
                raise TeleopError(f"mapping: {what} must name {list(want)}, got {list(have)}")
        numbers = [n for n, _ in self.axes.values()], list(self.buttons.values())
        for what, used in zip(("axes", "buttons"), numbers, strict=True):
            if len(set(used)) != len(used) or not all(isinstance(n, int) and 0 <= n < 64 for n in used):
                raise TeleopError(f"mapping: {what} must have numbers from 0 to 63, each once, got {used}")
        if any(sign not in (-1, 1) for _, sign in self.axes.values()):
            raise TeleopError("mapping: the sign of an axis must be 1 or -1")
        if not 0 < self.flag_off < self.flag_on < 1:
            raise TeleopError(f"mapping: 0 < flag_off < flag_on < 1 is wanted, got flag_off {self.flag_off}, flag_on {self.flag_on}")
        if not 0 <= self.dead_zone < 1 or not 0 < self.height_rate_m_s <= 0.5 or not 0.05 <= self.silence_s <= 1.0:
            raise TeleopError("mapping: dead_zone in [0, 1), height_rate_m_s in (0, 0.5] and silence_s in [0.05, 1] are wanted")
        if not 0.5 <= self.event_silence_s <= 10.0:
            raise TeleopError(f"mapping: event_silence_s in [0.5, 10] is wanted, got {self.event_silence_s}")

    def read(self, axes: Sequence[float], buttons: Sequence[int]) -> Hands:
        """The arrays of a Joy message -> hands. Raises TeleopError where the device has too few, or a deflection is no number in [-1, 1]."""
        need = max(n for n, _ in self.axes.values()) + 1, max(self.buttons.values()) + 1
        if len(axes) < need[0] or len(buttons) < need[1]:
            raise TeleopError(f"the device must have {need[0]} axes and {need[1]} buttons, it has {len(axes)} and {len(buttons)}; does the mapping fit it?")
        values = {name: sign * float(axes[n]) for name, (n, sign) in self.axes.items()}
        bad = {name: value for name, value in values.items() if not abs(value) <= 1.0 + 1e-6}
        if bad:
            raise TeleopError(f"deflections must lie in [-1, 1], got {bad}")
        return Hands(**values, **{name: bool(buttons[n]) for name, n in self.buttons.items()})

    def write(self, hands: Hands) -> tuple[list[float], list[int]]:
        """Hands -> the arrays of a Joy message; the inverse of :meth:`read`."""
        axes = [0.0] * (max(n for n, _ in self.axes.values()) + 1)
        buttons = [0] * (max(self.buttons.values()) + 1)
        for name, (n, sign) in self.axes.items():
            axes[n] = sign * getattr(hands, name)
        for name, n in self.buttons.items():
            buttons[n] = int(getattr(hands, name))
        return axes, buttons

    def text(self) -> str:
        """YAML of the same form as config/teleop.yaml."""
        data = asdict(self) | {"axes": {name: {"number": n, "sign": s} for name, (n, s) in self.axes.items()}}
        return yaml.safe_dump(data, sort_keys=False)


def parse_mapping(text: str, source: str) -> Mapping:
    """YAML -> mapping. Raises TeleopError naming ``source``."""
    try:
        data: Any = yaml.safe_load(text)
        if not isinstance(data, dict):
            raise TeleopError("a table of axes and buttons is wanted")
        axes = {name: (axis["number"], axis.get("sign", 1)) for name, axis in data.pop("axes").items()}
        return Mapping(axes=axes, **data)
    except TeleopError as error:
        raise TeleopError(f"{source}: {error}") from error
    except (yaml.YAMLError, TypeError, KeyError, AttributeError) as error:
        raise TeleopError(f"{source}: not a mapping like config/teleop.yaml: {error}") from error


def load_mapping(path: Path) -> Mapping:
    """Read a mapping file. Raises TeleopError."""
    try:
        return parse_mapping(path.read_text(encoding="utf-8"), path.name)
    except (OSError, UnicodeDecodeError) as error:
        raise TeleopError(f"{path} cannot be read: {error}") from error
