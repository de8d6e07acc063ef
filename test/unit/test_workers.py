"""Work in several processes: results as they come, and a killed worker is noticed."""

from __future__ import annotations

import os
import signal

import pytest

from wbvla_core.errors import WbvlaError
from wbvla_core.workers import in_processes


def square(number: int) -> int:
    """A job; number 3 kills its own process, as the kernel does when memory runs out."""
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def test_every_job_comes_back_with_its_number():
    assert dict(in_processes(square, [4, 5, 6], 2)) == {0: 16, 1: 25, 2: 36}


def test_a_killed_worker_is_an_error_and_not_a_wait_for_ever():
    with pytest.raises(WbvlaError, match="a worker process was killed"):
        list(in_processes(square, [3], 1))
