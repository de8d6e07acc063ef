"""The whole stack at work, measured: every process over ROS 2, half a minute of a task, on as many cores as asked for.

    python benchmarks/stack.py --cores 2 --seconds 30

Timings are read from the bag (times of publication, one clock) and from LMO's own diagnostics, memory and CPU from /proc. Prints a table with the limits
of the project beside what was measured; exit status 1 where a limit is missed. What else the machine does while this runs is in the numbers: run it alone.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from wbvla_cli.record import read_messages
from wbvla_cli.runner import Stack
from wbvla_core.console import program
from wbvla_core.ros.process import StopSignal
from wbvla_core.ros.tables import topic_table

SETTLE_S = 3.0  # of the task, before the window opens: first inference, first images


@dataclass(frozen=True)
class Options:
    """Measure the running stack."""

    seconds: float = 30.0
    """length of the measured window, s"""
    cores: int = 0
    """run on this many cores only; 0 = all"""
    policy: str = "checkpoint"
    """what decides: checkpoint, or zero (no network: the stack's own cost)"""
    checkpoint: str = ""
    """policy bundle for policy = checkpoint; default: the parameter file's"""
    instruction: str = "turn left"
    """what the robot does meanwhile"""
    seed: int = 7
    """of the scene"""
    json: Path | None = None
    """write the numbers here, too"""


@dataclass(frozen=True)
class Row:
    """One measured number and what it must keep to."""

    name: str
    value: float
    unit: str
    limit: float | None = None
    at_least: bool = False

    @property
    def kept(self) -> bool:
        return self.limit is None or (self.value >= self.limit if self.at_least else self.value <= self.limit)

    def __str__(self) -> str:
        limit = "" if self.limit is None else f"{'>=' if self.at_least else '<='} {self.limit:g}"
        return f"{self.name:<44} {self.value:>9.2f} {self.unit:<5} {limit:>9}  {'' if self.limit is None else 'ok' if self.kept else 'MISSED'}"


def cpu_seconds(pid: int) -> float:
    """CPU time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> float:
    """Resident memory of a process, 10^6 bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def run(options: Options, bag: Path) -> tuple[tuple[int, int], dict[str, tuple[float, float, float]]]:
    """Run the stack; returns the window in wall ns, and per process (CPU %, resident MB, its limit or 0)."""
    stop = StopSignal()
    parameters = {"sim": {"seed": options.seed}, "vla": {"policy": options.policy} | ({"checkpoint": options.checkpoint} if options.checkpoint else {})}
    with Stack(("sim",), parameters=parameters, record=bag, cancelled=stop.is_set) as stack:
        stack.wait_active()
        duration_s = SETTLE_S + options.seconds + 1.0
        results: list = []
        goal = threading.Thread(target=lambda: results.append(stack.send_goal(options.instruction, duration_s + 10.0, duration_s)), daemon=True)
        goal.start()
        time.sleep(SETTLE_S)
        pids = {name: process.popen.pid for name, process in stack.processes.items()}
        begin_ns, cpu = time.time_ns(), {name: cpu_seconds(pid) for name, pid in pids.items()}
        time.sleep(options.seconds)
        end_ns = time.time_ns()
        window_s = (end_ns - begin_ns) * 1e-9
        limits = {row.name: row.rss_limit_mb for row in stack.rows}
        use = {name: (100 * (cpu_seconds(pid) - cpu[name]) / window_s, resident_mb(pid), limits[name]) for name, pid in pids.items()}
        goal.join(20.0)
        print(f"the task ended with {results[0].outcome.name}: {results[0].message}" if results else "the task did not end")
    return (begin_ns, end_ns), use


def measure(bag: Path, window: tuple[int, int], use: dict[str, tuple[float, float, float]]) -> list[Row]:
    """The table."""
    names = {row.name: key for key, row in topic_table().topics.items()}
    published: dict[str, dict[int, int]] = {}  # key -> stamp -> time of publication, ns
    sim_time, lmo = [], {}
    for name, at_ns, message in read_messages(bag):
        if not window[0] <= at_ns <= window[1]:
            continue
        key = names[name]
        if hasattr(message, "header"):
            published.setdefault(key, {}).setdefault(message.header.stamp.sec * 10**9 + message.header.stamp.nanosec, at_ns)
        if key == "sim_state":
            sim_time.append((at_ns * 1e-9, message.sim_time_s))
        elif key == "diagnostics":
            for status in message.status:
                if status.hardware_id == "lmo":
                    lmo = {pair.key: pair.value for pair in status.values}
    ticks_ms = np.diff(sorted(published["joint_command"].values())) * 1e-6
    answered_ms = [(at - published["joint_states"][stamp]) * 1e-6 for stamp, at in published["joint_command"].items() if stamp in published["joint_states"]]
    age_ms = [(at - published["sim_state"][stamp]) * 1e-6 for stamp, at in published.get("vla_loco", {}).items() if stamp in published["sim_state"]]
    stamps = sorted(published["camera_image"].keys() | published["policy_image"].keys())[1:-1]  # those at the window's edges may be half inside
    lost = 100 * np.mean([stamp not in published["policy_image"] for stamp in stamps])
    (wall_0, sim_0), (wall_1, sim_1) = sim_time[0], sim_time[-1]
    rows = [
        Row("LMO tick to tick, p50", float(np.median(ticks_ms)), "ms"),
        Row("LMO tick to tick, p99", float(np.percentile(ticks_ms, 99)), "ms", 23.0),
        Row("LMO tick to tick, max", float(ticks_ms.max()), "ms"),
        Row("LMO compute, p99 (last 30 s)", float(lmo["compute_p99_ms"]), "ms", 2.0),
        Row("joint state to joint command, p99", float(np.percentile(answered_ms, 99)), "ms"),
        Row("VLA decisions", 1e9 / float(np.diff(sorted(published["vla_loco"].values())).mean()), "Hz", 9.9, at_least=True),
        Row("image to command published, p50", float(np.median(age_ms)), "ms"),
        Row("image to command published, p99", float(np.percentile(age_ms, 99)), "ms", 150.0),
        Row("image age when LMO takes the command, p99", float(lmo["image_age_p99_ms"]), "ms", 150.0),
        Row("camera frames lost between sim and perception", float(lost), "%", 1.0),
        Row("real-time factor", (sim_1 - sim_0) / (wall_1 - wall_0), "", 0.98, at_least=True),
        Row("decisions torn or dropped by LMO", float(lmo["torn_decisions"]) + float(lmo["dropped_messages"]), ""),
    ]
    for name, (cpu, rss, limit) in use.items():
        rows.append(Row(f"{name}: CPU", cpu, "%"))
        rows.append(Row(f"{name}: resident", rss, "MB", limit or None))
    rows.append(Row("all processes: CPU", sum(cpu for cpu, _, _ in use.values()), "%"))
    return rows


def main(argv: list[str] | None = None) -> int:
    options = tyro.cli(Options, args=argv)
    if options.cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="wbvla-bench-") as folder:
        bag = Path(folder) / "bag"
        rows = measure(bag, *run(options, bag))
    print(f"\n{options.seconds:g} s on {len(os.sched_getaffinity(0))} cores; load average of the machine before: {load:.1f}\n")
    print("\n".join(map(str, rows)))
    if options.json:
        options.json.write_text(json.dumps({row.name: row.value for row in rows}, indent=1))
    return 0 if all(row.kept for row in rows) else 1


if __name__ == "__main__":
    program(main)
