"""What a node says of itself once a second on /diagnostics. No rclpy: plain values."""

from __future__ import annotations

import enum
import time
from collections.abc import Mapping
from dataclasses import dataclass, field


class Level(enum.IntEnum):
    """Numbers equal the constants of ``diagnostic_msgs/DiagnosticStatus``.

    OK     it does its work.
    WARN   it does its work, and something should be looked at: late, dropped messages, a task that ended by a fault.
    ERROR  it does not do its work: the robot damps, an input is refused, the disk is full.
    STALE  it has nothing to work on: its input does not come.
    """

    OK = 0
    WARN = 1
    ERROR = 2
    STALE = 3


@dataclass(frozen=True)
class Health:
    """One report.

    Attributes:
        values: name, with its unit (``compute_p99_ms``), and value.
        level, message: how it is and why; "" where all is well.
    """

    values: Mapping[str, object] = field(default_factory=dict)
    level: Level = Level.OK
    message: str = ""


class Heard:
    """When inputs came last, by this process's monotonic clock."""

    def __init__(self) -> None:
        self._since_s = time.monotonic()
        self._at_s: dict[str, float] = {}

    def note(self, key: str) -> None:
        """Input ``key`` came."""
        self._at_s[key] = time.monotonic()

    def begin(self) -> None:
        """Silence counts from now on: what came before belongs to an earlier activation."""
        self._since_s = time.monotonic()
        self._at_s.clear()

    def silent_s(self, key: str) -> float:
        """How long ``key`` has been silent [s]."""
        return time.monotonic() - self._at_s.get(key, self._since_s)

    def missing(self, key: str, name: str, patience_s: float = 1.0) -> str:
        """A sentence where ``key`` has been silent for more than ``patience_s``, else ""."""
        if self.silent_s(key) <= patience_s:
            return ""
        return f"no {name} for {self.silent_s(key):.0f} s" if key in self._at_s else f"no {name} yet"
