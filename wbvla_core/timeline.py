"""Ticks and pairs that follow stamps instead of timers."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

A = TypeVar("A")
B = TypeVar("B")


class TickFollower:
    """Tell which of the incoming samples a fixed-rate loop must answer.

    The 50 Hz loop has no timer of its own: it ticks on the first joint state whose stamp reaches the next multiple of
    the period. So physics and policy keep step in simulation however slowly it runs, and on the robot the loop keeps
    the phase of its sensors.

    Args:
        period_s: tick period.
        tolerance_s: a stamp this much short of the period still counts; stamps jitter, and waiting for the next
            sample would cost a whole sensor period.
    """

    def __init__(self, period_s: float, tolerance_s: float = 1e-3) -> None:
        if not period_s > 0:
            raise ValueError(f"period_s must be positive, got {period_s}")
        self.period_s = period_s
        self.tolerance_s = tolerance_s
        self._next_s: float | None = None

    def reset(self) -> None:
        self._next_s = None

    def due(self, stamp_s: float) -> bool:
        """Whether the sample with this stamp is to be answered. Call once per sample."""
        if self._next_s is None or stamp_s < self._next_s - 2 * self.period_s:  # first sample, or the clock jumped back
            self._next_s = stamp_s + self.period_s
            return True
        if stamp_s < self._next_s - self.tolerance_s:
            return False
        self._next_s += self.period_s
        if stamp_s >= self._next_s:  # fell behind by a period or more: skip the missed ticks, do not burst
            self._next_s = stamp_s + self.period_s
        return True


class StampPairer(Generic[A, B]):
    """Join two message streams by stamp: two halves of one decision, never torn apart.

    A half whose partner has not come by the time that a newer pair is complete is dropped.

    Args:
        capacity: unmatched halves that are kept per stream; the oldest goes first.
    """

    def __init__(self, capacity: int = 8) -> None:
        self._first: OrderedDict[int, A] = OrderedDict()
        self._second: OrderedDict[int, B] = OrderedDict()
        self._capacity = capacity
        self.dropped = 0

    def add_first(self, stamp_ns: int, value: A) -> tuple[A, B] | None:
        """Offer one half; returns the pair that it completes, or None."""
        self._first[stamp_ns] = value
        return self._match(stamp_ns)

    def add_second(self, stamp_ns: int, value: B) -> tuple[A, B] | None:
        """Offer the other half; returns the pair that it completes, or None."""
        self._second[stamp_ns] = value
        return self._match(stamp_ns)

    def _match(self, stamp_ns: int) -> tuple[A, B] | None:
        pair = None
        if stamp_ns in self._first and stamp_ns in self._second:
            pair = (self._first.pop(stamp_ns), self._second.pop(stamp_ns))
            for stream in (self._first, self._second):
                for old in [stamp for stamp in stream if stamp <= stamp_ns]:
                    del stream[old]
                    self.dropped += 1
        for stream in (self._first, self._second):
            while len(stream) > self._capacity:
                stream.popitem(last=False)
                self.dropped += 1
        return pair
