"""Ticks, pairs and frames that follow stamps instead of timers."""

from __future__ import annotations

import bisect
import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

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


def nearest_index(stamps_s: Sequence[float], at_s: float) -> int:
    """Index of the stamp nearest to ``at_s``; of two equally near ones the earlier.

    The one rule by which a state belongs to an image: the 10 Hz node, the resampler of recordings and the checks all ask here.

    Args:
        stamps_s: rising stamps, at least one.
    """
    if not stamps_s:
        raise ValueError("no sample to choose from")
    after = bisect.bisect_left(stamps_s, at_s)
    if after == 0:
        return 0
    if after == len(stamps_s):
        return bisect.bisect_left(stamps_s, stamps_s[-1])  # equal stamps: the first of them
    return after if stamps_s[after] - at_s < at_s - stamps_s[after - 1] else bisect.bisect_left(stamps_s, stamps_s[after - 1])


class ClockJump(ValueError):
    """A stream whose stamps go back further than samples can overtake each other."""


class StampGate(Generic[A]):
    """Let the messages of one topic pass, but for single ones whose stamp cannot be: zero, or apart from those before and after.

    Where ``AGREE`` messages agree on another time the clock itself was set: ahead, they pass; back, it is a :class:`ClockJump`. A message is trusted at once
    where it follows the one before, or lies from its arrival as other topics do; else it waits for the next ones.

    Args:
        name: of the topic.
        others: stamp minus arrival of each topic's newest message, s; shared by the gates of one recording.
        jump_s: how far stamps may be apart from arrivals before they count as apart.
    """

    AGREE = 3

    def __init__(self, name: str, others: dict[str, float], jump_s: float = 0.5) -> None:
        self._name, self._others, self._jump_s = name, others, jump_s
        self._last: tuple[float, float] | None = None  # stamp, arrival
        self._runs: list[list[tuple[float, float, A]]] = []
        self.rejected: list[tuple[float, str]] = []  # (arrival, why); the caller takes them out

    def offer(self, stamp_s: float, arrival_s: float, value: A) -> list[tuple[float, A]]:
        """(stamp, value) of the messages that pass now, in the order of arrival. Raises ClockJump."""
        if stamp_s <= 0.0:
            self.rejected.append((arrival_s, "its stamp is zero"))
            return []
        run = next((run for run in self._runs if self._follows(run[-1], stamp_s, arrival_s)), None)
        if run is None:
            run = []
            self._runs.append(run)
        run.append((stamp_s, arrival_s, value))
        if self._trusted(stamp_s, arrival_s):  # and with it those that it follows
            self._runs.remove(run)
            return self._accept(run)
        if len(run) < self.AGREE:
            return []
        if self._last is not None and run[0][0] < self._last[0] - self._jump_s:
            raise ClockJump(f"the clock of {self._name} went back by {self._last[0] - run[0][0]:.3f} s at {self._last[0]:.3f} s")
        self._runs.remove(run)
        return self._accept(run)

    def finish(self) -> list[tuple[float, A]]:
        """Nothing more comes: where no time was agreed on, all pass as they are; else what waits is rejected."""
        if self._last is None and self._runs:
            return self._accept(self._runs.pop(self._runs.index(max(self._runs, key=len))))
        self._reject()
        return []

    def _trusted(self, stamp_s: float, arrival_s: float) -> bool:
        ahead_s = stamp_s - arrival_s
        others = [offset_s for name, offset_s in self._others.items() if name != self._name]
        agrees = any(abs(ahead_s - offset_s) < self._jump_s for offset_s in others)
        if self._last is None:  # a latched message was said long before the recording began
            return agrees or (bool(others) and ahead_s < min(others))
        return self._follows((*self._last, None), stamp_s, arrival_s) or (agrees and stamp_s > self._last[0])

    def _follows(self, before: tuple[float, float, Any], stamp_s: float, arrival_s: float) -> bool:
        step_s, passed_s = stamp_s - before[0], arrival_s - before[1]
        return step_s >= -self._jump_s and (passed_s <= 0.0 or step_s <= passed_s + self._jump_s)

    def _accept(self, rows: list[tuple[float, float, A]]) -> list[tuple[float, A]]:
        self._reject()
        if self._last is None or rows[-1][0] > self._last[0] - self._jump_s:
            self._last = rows[-1][:2]
            self._others[self._name] = self._last[0] - self._last[1]
        return [(stamp_s, value) for stamp_s, _, value in rows]

    def _reject(self) -> None:
        for stamp_s, arrival_s, _ in sorted((row for run in self._runs for row in run), key=lambda row: row[1]):
            apart_s = stamp_s - arrival_s - (self._others.get(self._name, 0.0))
            self.rejected.append((arrival_s, f"its stamp is {apart_s:+.3f} s apart from those around it"))
        self._runs = []


@dataclass(frozen=True)
class Frame:
    """One image with what belongs to it.

    Attributes:
        stamp_s: stamp of the image.
        image: what was handed in as the image.
        nearest: per state stream the sample with the nearest stamp.
        skew_s: its stamp minus the image's, s; under the command stream's name the largest distance of a step from its slot.
        steps: the N command samples of this frame, each the nearest to its slot ``stamp_s + i * step_s``; None where one lies too far from its slot.
        held: per held stream the newest sample not later than the image, None where there is none.
        held_age_s: the image's stamp minus that sample's, s; inf where there is none.
    """

    stamp_s: float
    image: Any
    nearest: dict[str, Any]
    skew_s: dict[str, float]
    steps: tuple[Any, ...] | None
    held: dict[str, Any]
    held_age_s: dict[str, float]


class _Stream:
    """Samples of one stream in the order of their stamps."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.stamps: list[float] = []
        self.values: list[Any] = []

    @property
    def newest_s(self) -> float:
        return self.stamps[-1] if self.stamps else -math.inf

    def add(self, stamp_s: float, value: Any, jump_s: float) -> None:
        if not math.isfinite(stamp_s):
            raise ClockJump(f"a stamp of {self.name} is not finite")
        if stamp_s < self.newest_s - jump_s:
            raise ClockJump(f"the clock of {self.name} went back by {self.newest_s - stamp_s:.3f} s at {self.newest_s:.3f} s")
        if stamp_s > self.newest_s:
            self.stamps.append(stamp_s)
            self.values.append(value)
            return
        at = bisect.bisect_left(self.stamps, stamp_s)
        if self.stamps[at] != stamp_s:  # a state that is sent again says nothing new
            self.stamps.insert(at, stamp_s)
            self.values.insert(at, value)

    def forget_before(self, stamp_s: float) -> None:
        """Drop what lies before ``stamp_s``, but for the last such sample: it may be the nearest, and it is the one held."""
        keep = max(bisect.bisect_left(self.stamps, stamp_s) - 1, 0)
        if keep > 256:  # in blocks: deleting at the front moves the rest
            del self.stamps[:keep], self.values[:keep]


class Resampler:
    """Image stamps are the clock: joins each image with its command steps, the nearest states and the decision that held.

    One definition for recordings and for a running stack. Streams may run up to ``patience_s`` behind each other, and samples of one stream may
    overtake each other by up to ``overtake_s``; then the result depends on stamps only, not on the order of arrival.
    Memory does not grow with the length of a recording.

    Args:
        nearest: names of the streams of which the sample nearest in time belongs to a frame.
        steps: name of the command stream, "" for none; held: names of streams whose newest sample counts.
        count, step_s: commands per frame and their spacing, s (50 Hz under 10 Hz: five of 0.02 s).
        period_s: spacing of frames; a faster camera is decimated by its stamps, as perception does.
        reach_s: how far a command may lie from its slot; what is lost on the way is bridged by its neighbours up to here.
        patience_s: how much later than a frame its samples may come.
        jump_s: how far stamps may go back before the stream is refused.
    """

    def __init__(
        self,
        nearest: Sequence[str],
        steps: str = "",
        held: Sequence[str] = (),
        *,
        count: int = 5,
        step_s: float = 0.02,
        period_s: float = 0.1,
        reach_s: float = 0.05,
        patience_s: float = 1.0,
        overtake_s: float = 0.25,
        jump_s: float = 0.5,
    ) -> None:
        self._nearest, self._steps, self._held = tuple(nearest), steps, tuple(held)
        self._streams = {name: _Stream(name) for name in (*self._nearest, *self._held, *([steps] if steps else ()))}
        self._images = _Stream("the camera")
        self._count, self._step_s, self._reach_s, self._patience_s, self._jump_s = count, step_s, reach_s, patience_s, jump_s
        self._overtake_s = overtake_s
        self._follower = TickFollower(period_s, tolerance_s=0.01)

    def add_image(self, stamp_s: float, image: Any) -> None:
        """Offer an image; ``image`` may be anything, it is handed through."""
        self._images.add(stamp_s, image, self._jump_s)

    def add(self, stream: str, stamp_s: float, value: Any) -> None:
        """Offer a sample of one of the streams."""
        self._streams[stream].add(stamp_s, value, self._jump_s)

    def frames(self, *, final: bool = False) -> Iterator[Frame]:
        """The frames that are complete by now; ``final``: nothing more comes, give out the rest."""
        while self._images.stamps:
            stamp_s = self._images.stamps[0]
            late = final or self._images.newest_s > stamp_s + self._patience_s
            settled = self._images.newest_s > stamp_s + self._overtake_s
            if not late and not (settled and all(stream.newest_s > self._horizon(name, stamp_s) for name, stream in self._streams.items())):
                return
            image = self._images.values[0]
            del self._images.stamps[0], self._images.values[0]
            if self._follower.due(stamp_s):
                yield self._frame(stamp_s, image)
            for stream in self._streams.values():
                stream.forget_before(stamp_s)

    def _horizon(self, name: str, stamp_s: float) -> float:
        return stamp_s + self._overtake_s + (self._count * self._step_s if name == self._steps else 0.0)

    def _frame(self, stamp_s: float, image: Any) -> Frame:
        values, skews = {}, {}
        for name in self._nearest:
            stream = self._streams[name]
            if stream.stamps:
                at = nearest_index(stream.stamps, stamp_s)
                values[name], skews[name] = stream.values[at], stream.stamps[at] - stamp_s
        held, ages = {}, {}
        for name in self._held:
            stream = self._streams[name]
            at = bisect.bisect_right(stream.stamps, stamp_s + 1e-6) - 1  # stamps are whole microseconds
            held[name] = stream.values[at] if at >= 0 else None
            ages[name] = max(stamp_s - stream.stamps[at], 0.0) if at >= 0 else math.inf
        steps = None
        if self._steps and self._streams[self._steps].stamps:
            stream = self._streams[self._steps]
            slots = [stamp_s + i * self._step_s for i in range(self._count)]
            chosen = [nearest_index(stream.stamps, slot) for slot in slots]
            skews[self._steps] = max(abs(stream.stamps[at] - slot) for at, slot in zip(chosen, slots))
            if skews[self._steps] <= self._reach_s:
                steps = tuple(stream.values[at] for at in chosen)
        return Frame(stamp_s, image, values, skews, steps, held, ages)
