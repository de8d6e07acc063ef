"""What every process of the stack does with signals, priorities and its end. No rclpy: the runner uses it, too."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import NoReturn

PARENT_VARIABLE = "WBVLA_PARENT_PID"  # set by the runner: a node whose starter is gone must not outlive it
MANAGED_VARIABLE = "WBVLA_MANAGED"  # set by the launch files: SIGINT reaches all processes at once, and the manager takes the nodes down in order


class StopSignal:
    """SIGINT and SIGTERM as a flag. Further ones change nothing, so that leaving in order cannot be interrupted: a terminal's Ctrl-C reaches a node
    twice under ros2 launch, and people press it twice.

    Args:
        managed: leave SIGINT to the lifecycle manager.
    """

    def __init__(self, *, managed: bool = False) -> None:
        self._event = threading.Event()
        signal.signal(signal.SIGTERM, self._handle)
        signal.signal(signal.SIGINT, signal.SIG_IGN if managed else self._handle)

    def _handle(self, _number: int, _frame: object) -> None:
        self._event.set()

    def is_set(self) -> bool:
        """Whether to stop: signalled, or orphaned."""
        parent = os.environ.get(PARENT_VARIABLE)
        return self._event.is_set() or (parent is not None and os.getppid() != int(parent))


LOOP_PRIORITY = 2  # SCHED_RR: the 50 Hz loop; below every kernel thread and every driver
LEAVING_PRIORITY = 1  # SCHED_RR: processes on their way out; never before the loop


def go_realtime(priority: int = LOOP_PRIORITY) -> str:
    """Ask for real-time scheduling of this process; returns what it got, for the log.

    On a machine at three times its load, a 50 Hz loop at nice -19 was up to 240 ms late, with SCHED_RR 4 ms (measured). An ordinary user needs an
    ``rtprio`` limit (/etc/security/limits.conf) for it; without, everything runs and the timing is the machine's.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(priority))
        return "real-time scheduling"
    except (OSError, AttributeError):
        return "no right to real-time scheduling: set an rtprio limit for this user, or timing depends on what else runs"


@contextlib.contextmanager
def hurry() -> Iterator[None]:
    """Real-time scheduling for a short piece of work, where this process may have it: the three seconds to stop hold on a busy machine, too."""
    try:
        before = os.sched_getscheduler(0), os.sched_getparam(0)
    except (OSError, AttributeError):
        before = None
    go_realtime(LEAVING_PRIORITY)
    try:
        yield
    finally:
        if before is not None:
            with contextlib.suppress(OSError):
                os.sched_setscheduler(0, *before)


def resident_mb() -> float:
    """Resident memory of this process, MB (10^6 bytes); 0 where /proc does not tell."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    except OSError:
        return 0.0


def leave(status: int) -> NoReturn:
    """End the process now: late signals find nobody, and no library's teardown is waited for."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
