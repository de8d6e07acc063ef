"""A few demonstrations of many: nested subsets in which every kind of task has its share (ours).

A subset is a folder of shards like the one that it is cut from, and holds nothing else, so that what a training did not get it cannot see. Training
holds out the last episodes of a folder (:func:`wbvla_train.vla.codes.held_out_episodes`): behind the chosen demonstrations follow as many as it will
hold out, from the end of the recording, so that all chosen ones are trained on.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wbvla_core.errors import WbvlaError
from wbvla_sim.instructions import TASKS, Task
from wbvla_train.data.shards import read_shards, shard_path
from wbvla_train.vla.codes import held_out_episodes

FINISHED = ("still", "duration")  # outcomes of a demonstration that a teleoperator would keep


def nested_order(tasks: Sequence[Task], rng: np.random.Generator) -> list[int]:
    """All indices of ``tasks`` in an order whose every beginning has its kinds as even as can be, and within a kind its sides and colours."""
    left = rng.permutation(len(tasks)).tolist()
    kinds, exact, order = Counter(), Counter(), []
    while left:
        chosen = min(left, key=lambda i: (kinds[tasks[i].kind], exact[tasks[i]]))  # of equals the first of the shuffle
        left.remove(chosen)
        order.append(chosen)
        kinds[tasks[chosen].kind] += 1
        exact[tasks[chosen]] += 1
    return order


def held_out_count(count: int) -> int:
    """How many episodes must follow ``count`` ones for training to hold out those and no other."""
    held = 1
    while held_out_episodes(np.arange(count + held)).sum() > held:
        held += 1
    return held


def write_subset(root: Path, output: Path, count: int, seed: int, kinds: Sequence[str]) -> list[str]:
    """The first ``count`` demonstrations of seed ``seed``'s order -> one shard in ``output``; returns their tasks' sentences.

    Args:
        kinds: only demonstrations of these tasks.

    Raises:
        WbvlaError: there are not so many that came to their end.
    """
    about = read_shards(root, ("episode", "task", "outcome"))
    episodes, first = np.unique(about["episode"], return_index=True)  # in the recording's order
    tasks = [TASKS[number] for number in about["task"][first]]
    usable = np.array([i for i, task in enumerate(tasks) if task.kind in kinds and about["outcome"][first][i] in FINISHED])
    reserved = held_out_episodes(np.arange(len(usable))) if len(usable) else np.zeros(0, bool)
    training, check, held = usable[~reserved], usable[reserved], held_out_count(count)
    if len(training) < count or len(check) < held:
        raise WbvlaError(
            f"{root} has {len(training)} finished demonstrations of {', '.join(kinds)} to train on and {len(check)} held out, wanted are {count} and {held}; "
            "record more with `wbvla data demos`"
        )
    chosen = training[nested_order([tasks[i] for i in training], np.random.default_rng((seed, 31)))[:count]]
    output.mkdir(parents=True, exist_ok=True)
    if not shard_path(output, 0).exists():
        number = {int(episodes[i]): place for place, i in enumerate([*chosen, *check[:held]])}
        temporary = output / f".subset.{os.getpid()}.npz"
        np.savez_compressed(temporary, **_gather(root, number))
        os.replace(temporary, shard_path(output, 0))
    return [tasks[i].instruction for i in chosen]


def _gather(root: Path, number: dict[int, int]) -> dict[str, np.ndarray]:
    """The rows of some episodes, shard by shard (pictures of all of them would be a gigabyte), in the order of their new numbers."""
    parts: dict[int, dict[str, np.ndarray]] = {}
    for path in sorted(root.glob("shard_*.npz")):
        with np.load(path, allow_pickle=False) as shard:
            episode = shard["episode"]
            wanted = [e for e in np.unique(episode).tolist() if e in number]
            arrays = {key: shard[key] for key in shard.files} if wanted else {}
        for e in wanted:
            rows = episode == e
            parts[number[e]] = {key: value[rows] for key, value in arrays.items()} | {"episode": np.full(rows.sum(), number[e], np.int32)}
    return {key: np.concatenate([parts[n][key] for n in sorted(parts)]) for key in parts[0]}
