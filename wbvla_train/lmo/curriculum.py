"""Difficulty, moved by measured falls."""

from __future__ import annotations

from wbvla_train.lmo.config import CurriculumConfig


class Curriculum:
    """Counts simulated time and falls; once a window is full, moves ``difficulty`` in [0, 1] a step."""

    def __init__(self, config: CurriculumConfig) -> None:
        self.config = config
        self.difficulty = config.start
        self.window_s, self.window_falls = 0.0, 0
        self.between_falls_s = 0.0  # of the last full window

    def note(self, time_s: float, falls: int) -> None:
        c = self.config
        self.window_s += time_s
        self.window_falls += falls
        if self.window_s < c.window_falls_s:
            return
        self.between_falls_s = self.window_s / max(self.window_falls, 1)
        if self.between_falls_s > c.raise_above_s:
            self.difficulty = min(1.0, self.difficulty + c.step * (1 + (self.between_falls_s > c.double_above_s)))
        elif self.between_falls_s < c.lower_below_s:
            self.difficulty = max(c.start, self.difficulty - c.step)
        self.window_s, self.window_falls = 0.0, 0

    def state(self) -> dict[str, float]:
        return {"difficulty": self.difficulty, "window_s": self.window_s, "window_falls": self.window_falls, "between_falls_s": self.between_falls_s}

    def load(self, state: dict[str, float]) -> None:
        self.difficulty, self.window_s = float(state["difficulty"]), float(state["window_s"])
        self.window_falls, self.between_falls_s = int(state["window_falls"]), float(state["between_falls_s"])
