"""An operator's session without an operator: a YAML file of timed events, for tests, demonstrations and rehearsals.

- {t_s: 0.0, note: {instruction: walk ahead, notes: by script}}
- {t_s: 0.5, press: "1"}                    # a key, once; the keys of wbvla_teleop/keys.py
- {t_s: 1.0, hold: w, for_s: 3.0}           # a key held down: repeated as a terminal would
- {t_s: 5.0, joy: {axes: [0, 1, 0, 0, 0], buttons: [0, 0, 0, 0, 0, 1]}, for_s: 2.0}   # a device's own numbers
- {t_s: 8.0, wrist: {side: left, xyz: [0.3, 0.2, 0.2], wxyz: [1, 0, 0, 0]}, for_s: 2.0}
- {t_s: 12.0, end: true}
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from wbvla_teleop.joystick import TeleopError
from wbvla_teleop.keys import MOVES, PRESSES

REPEAT_S = 0.05
KINDS = ("note", "press", "hold", "joy", "wrist", "end")


@dataclass(frozen=True)
class Event:
    """One thing that happens: ``kind`` of KINDS ("hold" has become presses), its ``value``, and when, s from the script's start."""

    t_s: float
    kind: str
    value: Any


def parse_script(text: str, source: str = "script") -> list[Event]:
    """Events in the order of time. Raises TeleopError naming the entry at fault."""
    try:
        entries = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise TeleopError(f"{source}: {error}") from error
    if not isinstance(entries, list) or not entries:
        raise TeleopError(f"{source}: a list of events is wanted")
    events: list[Event] = []
    for number, entry in enumerate(entries):
        try:
            events += _expand(entry)
        except (TeleopError, TypeError, ValueError, KeyError) as error:
            raise TeleopError(f"{source}, event {number} {entry!r}: {error}") from error
    return sorted(events, key=lambda event: event.t_s)


def load_script(path: Path) -> list[Event]:
    """Read a script file. Raises TeleopError."""
    try:
        return parse_script(path.read_text(encoding="utf-8"), path.name)
    except (OSError, UnicodeDecodeError) as error:
        raise TeleopError(f"{path} cannot be read: {error}") from error


def _expand(entry: dict[str, Any]) -> list[Event]:
    kinds = [kind for kind in KINDS if kind in entry]
    unknown = set(entry) - {"t_s", "for_s", *KINDS}
    if len(kinds) != 1 or unknown:
        raise TeleopError(f"one of {list(KINDS)} is wanted, got {sorted(set(entry) - {'t_s', 'for_s'})}")
    kind, value, at_s, for_s = kinds[0], entry[kinds[0]], float(entry["t_s"]), float(entry.get("for_s", 0.0))
    if not (0 <= at_s < 86400 and 0 <= for_s < 86400):
        raise TeleopError("t_s and for_s must be times in s, from 0")
    if kind in ("press", "hold") and str(value) not in {*MOVES, *PRESSES, " "}:
        raise TeleopError(f"there is no key {value!r}; there are {' '.join((*MOVES, *PRESSES))} and space")
    if kind == "joy":
        value = [float(v) for v in value["axes"]], [int(v) for v in value["buttons"]]
    if kind == "wrist":
        value = value["side"], tuple(float(v) for v in value["xyz"]), tuple(float(v) for v in value.get("wxyz", (1, 0, 0, 0)))
        if value[0] not in ("left", "right") or len(value[1]) != 3 or len(value[2]) != 4:
            raise TeleopError("wrist wants side left or right, xyz of 3 and wxyz of 4 numbers")
    if kind == "hold":
        kind = "press"
    times = [at_s + i * REPEAT_S for i in range(int(for_s / REPEAT_S) + 1)]
    return [Event(t_s, kind, str(value) if kind == "press" else value) for t_s in times]
