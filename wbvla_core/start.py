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
INTERRUPTED = 130  # 128 + SIGINT, as a shell's own commands


def guard(status: int = 0) -> None:
    """From now on SIGINT and SIGTERM end this process with ``status``, until something else handles them. One that is ignored stays ignored."""
    for number in EARLY:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda _number, _frame: os._exit(status))


def run(module: str) -> None:
    """``main()`` of a node's module. It installs its own handlers as its first step."""
    guard()
    importlib.import_module(module).main()


def wbvla() -> int:
    """The command ``wbvla``: Ctrl-C is Python's own KeyboardInterrupt as soon as there is somebody to catch it."""
    before = {number: signal.getsignal(number) for number in EARLY}
    guard(INTERRUPTED)
    main = importlib.import_module("wbvla_cli.main").main
    for number, handler in before.items():
        signal.signal(number, handler)
    return main()


def _executable(name: str) -> Callable[[], None]:
    from wbvla_core.ros.tables import node_table

    rows = {row.executable: row.module for row in node_table().nodes}
    rows["lifecycle_manager"] = "wbvla_core.ros.manager"
    if name not in rows:
        raise AttributeError(f"{__name__} starts {sorted(rows)}, there is no {name!r}")
    return lambda: run(rows[name])


def __getattr__(name: str) -> Callable[[], None]:
    """``wbvla_core.start:sim_node`` of an entry point: the executable of that name in config/nodes.yaml."""
    if name.startswith("_"):
        raise AttributeError(name)
    guard()
    return _executable(name)


if __name__ == "__main__":
    guard()
    program = sys.argv.pop(1)
    sys.argv[0] = program
    run(program)
