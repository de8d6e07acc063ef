"""What a recording is worth, measured when it ends: per topic expected and received, gaps, clock skew, frozen camera.

Everything is counted while messages pass (:class:`Audit` takes each one once, memory is flat), so that an episode's audit is there when it ends; a bag that
somebody else made, or that a kill cut short, goes through the same class by :func:`audit_bag`.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from wbvla_core.ros.tables import TopicTable
from wbvla_teleop.recording.storage import bag_file, is_complete, scan

GAP_PERIODS = 2.5  # from one message to the next: more than one was lost in a row
GAP_MIN_S = 0.05  # ... and long enough that nobody calls it jitter of a 200 Hz topic
MAX_LOST = 0.02  # share of the expected messages
MAX_SKEW_S = 0.25  # of stamp against arrival, beyond what the robot's clock is off: the ladder of LMO would not follow such a stream
MAX_SKEW_SPREAD_S = 0.1  # p99 against median: a stamp that cannot be aligned
WALL_CLOCK = ("operator's device", "every node")  # owners whose stamps are this side's clock, not the robot's
CLOCK_TOPICS = 3  # so many stamped topics tell what the robot's clock is: one alone may be wrong itself
MAX_FREEZE_S = 0.5  # of equal images
STAMP = 4  # place of sec and nanosec in a serialized message that begins with a Header
HEADER = "std_msgs/Header header"  # the first line of such a type's definition
STRIDE = 13  # every so many bytes of an image are compared: a live camera's noise is in all of them
KEPT = 2048  # skews that are kept of a topic: a reservoir, for median and p99


@dataclass
class _Stream:
    """Running sums of one topic."""

    stamped: bool
    image: bool
    count: int = 0
    first_ns: int = 0
    last_ns: int = 0
    gaps: list[tuple[float, float]] = field(default_factory=list)  # (s from the recording's start, length s): the longest ones
    gap_count: int = 0
    backwards: int = 0
    last_stamp_ns: int | None = None
    skews: list[tuple[float, float]] = field(default_factory=list)  # s: of the stamp against arrival, and beyond that of the clock's topic just then
    skew_range: list[float] = field(default_factory=lambda: [math.inf, -math.inf])
    digest: int | None = None
    same_since_ns: int = 0
    freeze_s: float = 0.0
    freeze_at_s: float = 0.0


class Audit:
    """Feed every message of a recording, then ask for the :meth:`report`.

    Args:
        table: which topics exist, at which rates.
    """

    def __init__(self, table: TopicTable) -> None:
        self._rows = {row.name: row for row in table.topics.values() if row.record}
        self._latched = {row.name for row in self._rows.values() if table.profile(row.key).durability == "transient_local"}
        self._streams: dict[str, _Stream] = {}
        self._wall = {row.name for row in self._rows.values() if row.owner in WALL_CLOCK}
        self._decisions = {table.topics[key].name for key in ("teleop_loco", "vla_loco")}
        self._shared = {row.name for row in self._rows.values() if row.owner == "every node"}  # several publishers: no one rate, and no one order
        self._clock_topic = table.topics["joint_states"].name
        self._clock_s: float | None = None  # skew of the newest message of the clock's topic
        self._start_ns: int | None = None
        self._end_ns = 0
        self._rng = np.random.default_rng(0)

    def add(self, topic: str, type_name: str, definition: str, at_ns: int, data: bytes) -> None:
        """One message, in the order of arrival."""
        stream = self._streams.get(topic)
        if stream is None:
            first = next((line.strip() for line in definition.splitlines() if line.strip() and not line.lstrip().startswith("#") and "=" not in line), "")
            stream = self._streams[topic] = _Stream(" ".join(first.split()[:2]) == HEADER, type_name == "sensor_msgs/msg/Image")
            stream.first_ns = stream.last_ns = at_ns
        if self._start_ns is None or at_ns < self._start_ns:  # topics are in order, but not quite among each other
            self._start_ns = at_ns
        self._end_ns = max(self._end_ns, at_ns)
        row = self._rows.get(topic)
        interval_s = (at_ns - stream.last_ns) / 1e9
        if row is not None and row.rate_hz and not row.on_demand and stream.count and interval_s > max(GAP_PERIODS / row.rate_hz, GAP_MIN_S):
            stream.gap_count += 1
            stream.gaps.append(((stream.last_ns - self._start_ns) / 1e9, interval_s))
            if len(stream.gaps) > 10:
                stream.gaps.remove(min(stream.gaps, key=lambda gap: gap[1]))
        stream.count += 1
        stream.last_ns = max(stream.last_ns, at_ns)
        again = stream.count == 1 and topic in self._latched  # a recording begins with what was said last, long ago
        if stream.stamped and not again and len(data) >= STAMP + 8:
            self._stamp(topic, stream, at_ns, *struct.unpack_from("<iI", data, STAMP))
        if stream.image:
            self._picture(stream, at_ns, data)

    def _stamp(self, topic: str, stream: _Stream, at_ns: int, sec: int, nanosec: int) -> None:
        stamp_ns = sec * 1_000_000_000 + nanosec
        if stamp_ns == 0:
            return
        if stream.last_stamp_ns is not None and stamp_ns < stream.last_stamp_ns and topic not in self._shared:
            stream.backwards += 1
        stream.last_stamp_ns = stamp_ns
        skew_s = (at_ns - stamp_ns) / 1e9
        stream.skew_range[:] = min(stream.skew_range[0], skew_s), max(stream.skew_range[1], skew_s)
        if topic == self._clock_topic:
            self._clock_s = skew_s
        pair = skew_s, math.nan if self._clock_s is None or topic in self._wall else skew_s - self._clock_s
        if len(stream.skews) < KEPT:
            stream.skews.append(pair)
        elif (place := int(self._rng.integers(stream.count))) < KEPT:
            stream.skews[place] = pair

    def _picture(self, stream: _Stream, at_ns: int, data: bytes) -> None:
        digest = zlib.crc32(data[STAMP + 8 :: STRIDE])  # all but the stamp
        if digest != stream.digest:
            stream.digest, stream.same_since_ns = digest, at_ns
        elif (frozen_s := (at_ns - stream.same_since_ns) / 1e9) > stream.freeze_s:
            stream.freeze_s, stream.freeze_at_s = frozen_s, (stream.same_since_ns - self._start_ns) / 1e9

    def report(self, *, lost: int = 0, complete: bool = True) -> dict[str, Any]:
        """The audit: totals, one row per topic, and ``problems`` in sentences.

        Args:
            lost: messages that the recorder itself had to drop.
            complete: whether the bag was closed in order.
        """
        start_ns = self._start_ns or 0
        duration_s = max(0.0, (self._end_ns - start_ns) / 1e9)
        topics: dict[str, dict[str, Any]] = {}
        problems = [] if complete else ["the bag was not closed: the recorder was killed, or the disk was full; its last second may be missing"]
        if lost:
            problems.append(f"the recorder dropped {lost} messages: the disk could not follow")
        if not self._streams:
            problems.append("nothing was recorded: does the stack run, in this ROS domain?")
        clock_s = self._robot_clock_s()
        for name in sorted(self._rows.keys() | self._streams.keys()):
            row, stream = self._rows.get(name), self._streams.get(name)
            if stream is None:
                topics[name] = {"received": 0, "nominal_hz": row.rate_hz, "verdict": "silent"}
                continue
            rate_hz = row.rate_hz if row and not row.on_demand and name not in self._shared else 0.0
            entry, faults = self._topic(name, rate_hz, stream, start_ns, beyond_clock=clock_s is not None)
            topics[name] = entry | {"verdict": "; ".join(faults) or "ok"}
            problems += [f"{name}: {fault}" for fault in faults]
        notes = []
        if clock_s is not None and abs(clock_s) > MAX_SKEW_S:
            where = "behind" if clock_s > 0 else "ahead of"
            notes.append(f"the robot's clock is {abs(clock_s):.2f} s {where} this machine's, for all topics alike: alignment goes by stamps, which agree")
        if self._streams and not self._decisions & self._streams.keys():
            notes.append(f"nobody commanded the robot: nothing on {' or '.join(sorted(self._decisions))}; this cannot become an episode of a data set")
        return {"duration_s": round(duration_s, 3), "messages": sum(s.count for s in self._streams.values()), "lost_by_recorder": lost} | {
            "complete": complete,
            "problems": problems,
            "notes": notes,
            "topics": topics,
        }

    def _robot_clock_s(self) -> float | None:
        """How far the stamps of all topics lie behind this machine's clock (another host, or a simulator slower than real time), None where too few tell."""
        medians = [float(np.median([skew for skew, _ in s.skews])) for name, s in self._streams.items() if s.skews and name not in self._latched | self._wall]
        return float(np.median(medians)) if len(medians) >= CLOCK_TOPICS and self._clock_s is not None else None

    def _topic(self, name: str, rate_hz: float, stream: _Stream, start_ns: int, *, beyond_clock: bool) -> tuple[dict[str, Any], list[str]]:
        span_s = (stream.last_ns - stream.first_ns) / 1e9
        expected = round(span_s * rate_hz) + 1 if rate_hz else stream.count
        entry: dict[str, Any] = {"received": stream.count, "expected": expected, "nominal_hz": rate_hz}
        entry |= {"rate_hz": round((stream.count - 1) / span_s, 2) if span_s > 0 else 0.0, "first_s": round((stream.first_ns - start_ns) / 1e9, 3)}
        entry["last_s"] = round((stream.last_ns - start_ns) / 1e9, 3)
        entry |= {"gaps": stream.gap_count, "longest_gaps_s": [[round(v, 3) for v in gap] for gap in sorted(stream.gaps, key=lambda gap: -gap[1])[:3]]}
        faults = []
        if rate_hz and name not in self._latched and expected - stream.count > max(MAX_LOST * expected, 1):
            faults.append(f"{expected - stream.count} of {expected} missing at {rate_hz:g} Hz")
        if stream.gap_count:
            at_s, long_s = max(stream.gaps, key=lambda gap: gap[1])
            faults.append(f"{stream.gap_count} gaps, the longest {long_s:.2f} s at {at_s:.1f} s")
        if stream.skews:
            skews = np.array(stream.skews)  # [N, 2]
            median, p99 = (float(v) for v in np.percentile(skews[:, 0], (50, 99)))
            entry["skew_s"] = {"median": round(median, 4), "p99": round(p99, 4), "min": round(stream.skew_range[0], 4), "max": round(stream.skew_range[1], 4)}
            known = skews[np.isfinite(skews[:, 1]), 1]
            beyond_clock = beyond_clock and len(known) > 0
            if beyond_clock:
                median, p99 = (float(v) for v in np.percentile(known, (50, 99)))
            if abs(median) > MAX_SKEW_S:
                faults.append(f"stamps lie {median:+.3f} s from {'those of the joint states' if beyond_clock else 'their arrival'}")
            elif p99 - median > MAX_SKEW_SPREAD_S:
                faults.append(f"stamps wander: {p99 - median:.3f} s between median and p99")
        if stream.backwards:
            entry["stamps_backwards"] = stream.backwards
            faults.append(f"stamps went backwards {stream.backwards} times")
        if stream.image:
            entry["freeze_s"] = round(stream.freeze_s, 3)
            if stream.freeze_s > MAX_FREEZE_S:
                faults.append(f"the picture stood still for {stream.freeze_s:.2f} s at {stream.freeze_at_s:.1f} s")
        return entry, faults


def audit_bag(bag: Path, table: TopicTable) -> dict[str, Any]:
    """The audit of a bag on disk, closed or not. Raises BagError."""
    path = bag_file(bag)
    audit, complete, damage = Audit(table), is_complete(path), []
    for channel, at_ns, data in scan(path, damage):
        audit.add(channel.topic, channel.type, channel.definition, at_ns, data)
    report = audit.report(complete=complete)
    if complete:  # a bag that was not closed ends somewhere, which is said already
        report["problems"] += damage
    return report


def as_table(report: dict[str, Any]) -> str:
    """The audit for a terminal."""
    lines = [f"{'topic':<32}{'received':>9}{'expected':>9}{'Hz':>8}{'gaps':>6}{'skew ms':>9}{'p99':>8}  verdict"]
    for name, row in report["topics"].items():
        if not row["received"]:
            lines.append(f"{name:<32}{0:>9}{'':>40}  silent")
            continue
        skew = row.get("skew_s")
        numbers = f"{1e3 * skew['median']:>9.1f}{1e3 * skew['p99']:>8.1f}" if skew else f"{'':>17}"
        lines.append(f"{name:<32}{row['received']:>9}{row['expected']:>9}{row['rate_hz']:>8.1f}{row['gaps']:>6}{numbers}  {row['verdict']}")
    lines += [f"note: {note}" for note in report.get("notes", ())]
    verdict = f"{len(report['problems'])} problems" if report["problems"] else "no problems"
    lines.append(f"{report['messages']} messages in {report['duration_s']:.1f} s, {report['lost_by_recorder']} lost by the recorder: {verdict}")
    return "\n".join(lines)


def write_json(path: Path, data: dict[str, Any]) -> None:
    """A file that is there whole or not at all."""
    part = path.with_suffix(path.suffix + ".part")
    part.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(path)
