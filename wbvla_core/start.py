"""The first module of every process of the stack: Ctrl-C during the imports ends it at once and without a traceback.

    python -m wbvla_core.start wbvla_sim.node --ros-args ...

The executables of setup.py start here, too (``sim_node = wbvla_core.start:sim_node``). Importing torch, MuJoCo or rclpy takes
seconds, and a signal that arrives meanwhile would print where it hit. Nothing is held yet that would have to be given back.

Python's own start, before the first line of this module, is the only time left in which a signal is answered by a traceback.
"""

from __future__ import annotations

import _signal  # built in, unlike signal: importing it opens no file
import sys

TYPE_CHECKING = False  # typing costs too much time here
if TYPE_CHECKING:
    from collections.abc import Callable

EARLY = (_signal.SIGINT, _signal.SIGTERM)
INTERRUPTED = 130  # 128 + SIGINT, as a shell's own commands


def guard(status: int = 0) -> None:
    """From now on SIGINT and SIGTERM end this process with ``status``, until something else handles them. One that is ignored stays ignored."""
    import os

    for number in EARLY:
        if _signal.getsignal(number) != _signal.SIG_IGN:
            _signal.signal(number, lambda _number, _frame: os._exit(status))


def _started_as(program: str) -> bool:
    """Whether a process with this sys.argv[0] is one of ours, and not somebody who imports this module."""
    name = program.rpartition("/")[2]
    return name.endswith("_node") or name in ("lifecycle_manager", "wbvla")


BEFORE = {number: _signal.getsignal(number) for number in EARLY}
if __name__ == "__main__" or _started_as(sys.argv[0]):
    guard(INTERRUPTED if sys.argv[0].endswith("wbvla") else 0)

import importlib  # noqa: E402


def run(module: str) -> None:
    """``main()`` of a node's module. It installs its own handlers as its first step."""
    guard()
    importlib.import_module(module).main()


def wbvla() -> int:
    """The command ``wbvla``: Ctrl-C is Python's own KeyboardInterrupt as soon as there is somebody to catch it."""
    guard(INTERRUPTED)
    main = importlib.import_module("wbvla_cli.main").main
    for number, handler in BEFORE.items():
        _signal.signal(number, handler)
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
    program = sys.argv.pop(1)
    sys.argv[0] = program
    run(program)
