"""Whether a policy refuses sentences that are not its tasks, in words for logs, results and pages. Needs neither torch
nor ROS.
"""

from __future__ import annotations

from typing import Any

from wbvla_core.catalogue import TASKS_FILE, TaskCatalogue

SAME_WHATEVER = "not guarded: this policy does the same whatever the sentence says"
NO_LIST = f"not guarded: the policy has no list of its tasks ({TASKS_FILE}), so it acts on any sentence of known words"


def guard_of(policy: Any) -> tuple[bool, str]:
    """(whether the policy is guarded, the same in words); a policy that says nothing of its tasks is not."""
    tasks: TaskCatalogue | None = getattr(policy, "tasks", None)
    if tasks is not None:
        return True, of_list(tasks)
    return False, NO_LIST if getattr(policy, "reads_sentences", True) else SAME_WHATEVER


def of_list(tasks: TaskCatalogue | None) -> str:
    """The same for a bundle's list, or for a bundle without one."""
    if tasks is None:
        return NO_LIST
    count = len(tasks.meanings)
    return f"guarded: {len(tasks.canonical)} tasks in {count} sentence{'s' if count != 1 else ''}, any other sentence is refused"
