"""The first module of every process of the stack: Ctrl-C during the imports ends it at once and without a traceback.

    python -m wbvla_core.start wbvla_sim.node --ros-args ...

The executables of setup.py start here, too (``sim_node = wbvla_core.start:sim_node``). Importing torch, MuJoCo or rclpy takes
seconds, and a signal that arrives meanwhile would print where it hit. Nothing is held yet that would have to be given back.

This module imports next to nothing, so that little is done before :func:`guard`.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Callable

EARLY = (signal.SIGINT, signal.SIGTERM)


def guard() -> None:
    """From now on SIGINT and SIGTERM end this process, until something else handles them. A signal that is ignored stays ignored."""
    for number in EARLY:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _leave)


def _leave(_number: int, _frame: object) -> None:
    os._exit(0)


def run(module: str) -> None:
    """``main()`` of a node's module. It installs its own handlers as its first step."""
    guard()
    importlib.import_module(module).main()


def _executable(name: str) -> Callable[[], None]:
    from wbvla_core.ros.tables import node_table

    rows = {row.executable: row.module for row in node_table().nodes}
    if name != "lifecycle_manager" and name not in rows:
        raise AttributeError(f"{__name__} starts {[*rows, 'lifecycle_manager']}, there is no {name!r}")
    return lambda: run(rows.get(name, "wbvla_core.ros.manager"))


def __getattr__(name: str) -> Callable[[], None]:
    """``wbvla_core.start:sim_node`` of an entry point: the executable of that name in config/nodes.yaml."""
    if name.startswith("_"):
        raise AttributeError(name)
    guard()
    return _executable(name)


if __name__ == "__main__":
    guard()
    module = sys.argv.pop(1)
    sys.argv[0] = module
    run(module)
