"""What the ROS tests share: a domain of their own, nodes in this process that are waited for (never slept for), and the checkpoint of the legs."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from wbvla_core.ros.domains import reserve

ROOT = Path(__file__).resolve().parents[2]
# Set before any participant exists: this machine only, domains that nobody else on it uses (two sessions must not hear each other).
RESERVED = [reserve() for _ in range(3)]  # held until this process ends
NODES_DOMAIN, STACK_DOMAIN, RUNNER_DOMAIN = (marks.domain for marks in RESERVED)
os.environ["ROS_DOMAIN_ID"] = str(NODES_DOMAIN)  # of nodes in this process
# STACK_DOMAIN: of the stack whose nodes are killed, they haunt their domain for 20 s. RUNNER_DOMAIN: of `wbvla run` as a process.
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
if os.environ.get("ROS_DISTRO") == "humble":  # does not know the variable above
    os.environ["ROS_LOCALHOST_ONLY"] = "1"
os.environ["FASTRTPS_DEFAULT_PROFILES_FILE"] = os.environ["FASTDDS_DEFAULT_PROFILES_FILE"] = str(ROOT / "config" / "fastdds.xml")
LEGS = os.environ.get("WBVLA_TEST_LMO", "checkpoints/lmo/x2")  # another leg policy may be put to the same tests


PATIENCE_S = 30.0  # until() measures nothing: on a busy machine everything takes its time


def until(condition: Callable[[], object], timeout_s: float = PATIENCE_S, what: str = "") -> None:
    """Wait for a condition. Fails the test, naming ``what``, when patience is over. What must happen in time is measured on another clock."""
    start_s = time.monotonic()
    while not condition():
        if time.monotonic() - start_s > max(timeout_s, PATIENCE_S):
            pytest.fail(f"not within {max(timeout_s, PATIENCE_S):g} s: {what or condition}")
        time.sleep(0.005)


def slowdown() -> float:
    """How many times longer than alone a process takes on this machine now: wall time per processor time, at least 1."""
    wall_s, cpu_s = time.monotonic(), time.process_time()
    while time.process_time() - cpu_s < 0.1:
        pass
    return max(1.0, (time.monotonic() - wall_s) / 0.1)


def children(pid: int) -> list[int]:
    """Processes that this one has started."""
    out = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_text().rsplit(")", 1)[1].split()[1]) == pid:
                out.append(int(stat.parent.name))
        except (OSError, ValueError, IndexError):
            continue
    return out


# Participants go with the last reference to their nodes. One process is found with at most 32 of them in a domain by participants of its own machine.
FORGET_EVERY = 8


class Graph:
    """Nodes of this process, spun by a thread."""

    made: ClassVar[int] = 0

    def __init__(self) -> None:
        Graph.made += 1
        if Graph.made % FORGET_EVERY == 0:
            gc.unfreeze()  # nodes freeze what is there when they are activated
            gc.collect()
        import rclpy
        from rclpy.executors import SingleThreadedExecutor

        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._nodes: list = []
        self._stop = threading.Event()
        self.errors: list[BaseException] = []
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        while not self._stop.is_set():
            try:
                self._executor.spin_once(timeout_sec=0.02)
            except Exception as error:  # a callback raised: the test must hear of it
                if self._stop.is_set():
                    return
                self.errors.append(error)

    def call(self, function):
        """What ``function`` returns, called in the thread that spins: rclpy's action client loses answers that come while another thread still sends."""
        task = self._executor.create_task(function)
        until(task.done)
        return task.result()

    def add(self, node):
        self._nodes.append(node)
        self._executor.add_node(node)
        return node

    def close(self) -> None:
        self._stop.set()
        self._executor.wake()
        self._thread.join(2.0)
        for node in self._nodes:
            if getattr(node, "active", False):
                node.trigger_deactivate()
            if hasattr(node, "_free"):
                node._free()
            node.destroy_node()
        self.context.try_shutdown()
        assert not self.errors, self.errors


@pytest.fixture
def graph() -> Iterator[Graph]:
    pytest.importorskip("rclpy", reason="needs ROS 2: run `make setup`")
    made = Graph()
    yield made
    made.close()


class Hand:
    """LMO's monotonic clock, moved by hand: ages are what the test says, however busy the machine is."""

    def __init__(self) -> None:
        self.now_s = 50.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def hand(monkeypatch) -> Hand:
    from wbvla_lmo import node

    made = Hand()
    monkeypatch.setattr(node, "time", made)
    return made
