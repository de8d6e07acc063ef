"""What serving costs: decisions of one policy in process and over loopback, taken in turns, and how many per second one robot gets back to back.

python benchmarks/serve.py --policy checkpoints/policy/tiny --frames 300
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import tyro

from wbvla_core.console import program
from wbvla_core.machine import describe_machine
from wbvla_core.robot import RobotSpec, load_robot
from wbvla_core.types import PolicyInput, RobotState
from wbvla_vla.remote import RemotePolicy
from wbvla_vla.serve import PolicyServer, load


@dataclass(frozen=True)
class Options:
    """Options of the benchmark.

    Attributes:
        policy: a policy bundle, zero or replay:FILE; served by a process of its own on this machine.
        period_s: time between frames; 0.1 as on the robot (caches grow cold in between), 0 = back to back.
        limit_ms: exit with status 1 if the link's 99th percentile is above this.
    """

    policy: str = "checkpoints/policy/tiny"
    robot: str = "x2"
    frames: int = 200
    period_s: float = 0.1
    limit_ms: float = 10.0


def frame(robot: RobotSpec, size: int, index: int, rng: np.random.Generator) -> PolicyInput:
    zeros = np.zeros(robot.joint_count)
    state = RobotState(index * 0.1, robot.default_q, zeros, np.zeros(3), np.array((0.0, 0.0, -1.0)))
    return PolicyInput(index * 0.1, rng.integers(0, 256, (size, size, 3), dtype=np.uint8), "walk to the red box", state)


def serve(options: Options, address: Connection) -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    robot = load_robot(options.robot)
    server = PolicyServer(*load(options.policy, robot), robot, "tcp://127.0.0.1:*")
    address.send(server.address)
    with suppress(KeyboardInterrupt):
        server.run()


def main() -> int:
    options = tyro.cli(Options, description=__doc__)
    robot = load_robot(options.robot)
    here = load(options.policy, robot)[1]()
    spawn = multiprocessing.get_context("spawn")
    receiver, sender = spawn.Pipe(duplex=False)
    process = spawn.Process(target=serve, args=(options, sender), daemon=True)
    process.start()
    there = RemotePolicy(receiver.recv(), robot, answer_s=5.0)
    try:
        size = there.image_spec.size if there.image_spec else 96
        rng = np.random.default_rng(0)
        rows: dict[str, list[float]] = {}
        for i in range(options.frames):
            inputs = frame(robot, size, i, rng)
            taken = {}
            for name, policy in (("in process", here), ("over the link", there)) if i % 2 else (("over the link", there), ("in process", here)):
                start = time.perf_counter()
                decision = policy.infer(inputs)
                taken[name] = time.perf_counter() - start
                if policy is there:
                    taken |= {f"  {stage}": seconds for stage, seconds in decision.timing_s.items() if stage != "total"}
            for name, seconds in taken.items():
                rows.setdefault(name, []).append(seconds * 1e3)
            time.sleep(max(0.0, options.period_s - taken["in process"] - taken["over the link"]))
        inputs = frame(robot, size, 0, rng)
        start = time.perf_counter()
        for _ in range(options.frames):
            there.infer(inputs)
        rate = options.frames / (time.perf_counter() - start)
    finally:
        there.close()
        process.terminate()
        process.join()
    print(f"{describe_machine()}; {Path(options.policy).name}, image {size} px, {options.frames} frames every {options.period_s:g} s")
    print(f"{'':<16} {'median ms':>10} {'p99 ms':>10} {'max ms':>10}")
    for name in sorted(rows, key=lambda name: (name.startswith("  "), name)):
        values = rows[name]
        print(f"{name:<16} {np.median(values):>10.2f} {np.percentile(values, 99):>10.2f} {np.max(values):>10.2f}")
    link = np.add(rows["  queue"], rows["  transfer"])
    print(f"the link (queue and transfer): median {np.median(link):.2f} ms, p99 {np.percentile(link, 99):.2f} ms; back to back {rate:.0f} decisions/s")
    return 0 if np.percentile(link, 99) <= options.limit_ms else 1


if __name__ == "__main__":
    program(main)
