"""What the ROS tests share: a domain of their own, nodes in this process that are waited for (never slept for), and the checkpoint of the legs."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Set before any participant exists: this machine only, a domain per test session (two sessions on one machine must not hear each other).
os.environ["ROS_DOMAIN_ID"] = str(os.getpid() % 30 * 3 + 10)  # of nodes in this process
STACK_DOMAIN = int(os.environ["ROS_DOMAIN_ID"]) + 1  # of the stack whose nodes are killed: they haunt their domain for 20 s
RUNNER_DOMAIN = STACK_DOMAIN + 1  # of `wbvla run` as a process
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
if os.environ.get("ROS_DISTRO") == "humble":  # does not know the variable above
    os.environ["ROS_LOCALHOST_ONLY"] = "1"
os.environ["FASTRTPS_DEFAULT_PROFILES_FILE"] = os.environ["FASTDDS_DEFAULT_PROFILES_FILE"] = str(ROOT / "config" / "fastdds.xml")
LEGS = os.environ.get("WBVLA_TEST_LMO", "checkpoints/lmo/x2")  # another leg policy may be put to the same tests


def until(condition: Callable[[], object], timeout_s: float = 10.0, what: str = "") -> float:
    """Wait for a condition; returns how long it took. Fails the test, naming ``what``, when the time is over."""
    start_s = time.monotonic()
    while not condition():
        if time.monotonic() - start_s > timeout_s:
            pytest.fail(f"not within {timeout_s:g} s: {what or condition}")
        time.sleep(0.005)
    return time.monotonic() - start_s


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


class Graph:
    """Nodes of this process, spun by a thread."""

    def __init__(self) -> None:
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
