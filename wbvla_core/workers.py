"""Work in several processes whose death is noticed: a pool of ``multiprocessing`` waits for ever for a worker that was killed."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from wbvla_core.errors import WbvlaError

Job = TypeVar("Job")
Result = TypeVar("Result")


def in_processes(
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    processes: int,
    *,
    initializer: Callable[..., object] | None = None,
    initargs: tuple[Any, ...] = (),
) -> Iterator[tuple[int, Result]]:
    """Call ``function`` with each job in spawned processes.

    Processes are spawned, because neither a GL context nor torch's threads survive a fork.
    Whoever stops reading (an exception, Ctrl-C) ends the workers at once, and so does the death of this process.

    Args:
        function, initializer: defined at the top level of a module, so that they can be pickled.
        initializer: called once in each process, with ``initargs``.

    Yields:
        (number of the job, its result), as they finish.

    Raises:
        WbvlaError: a worker was killed or could not start. Results that came before it are valid.
    """
    others = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(min(processes, max(1, len(jobs))), mp_context=context, initializer=_begin, initargs=(initializer, initargs))
    finished = False
    try:
        futures = {executor.submit(function, job): number for number, job in enumerate(jobs)}
        for future in as_completed(futures):
            yield futures[future], future.result()
        finished = True
    except BrokenProcessPool as error:
        raise WbvlaError("a worker process was killed or could not start; memory may have run out: try fewer processes") from error
    finally:
        if not finished:
            for child in set(multiprocessing.active_children()) - others:
                child.terminate()
        # Waiting lets the workers close their GL contexts.
        executor.shutdown(wait=True, cancel_futures=True)


def _begin(initializer: Callable[..., object] | None, initargs: tuple[Any, ...]) -> None:
    """First thing in each worker."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if initializer is not None:
        initializer(*initargs)


def _end_with_parent() -> None:
    """A worker of a killed process would wait for its next job for ever: the workers hold the queue open for each other."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def default_processes() -> int:
    """One less than the cores that this process may use, at least one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores - 1)
