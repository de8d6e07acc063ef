"""Run by the interpreter of an environment with lerobot: opens a data set with Hugging Face's own reader and writes down all that it gives.

usage: python lerobot_reader.py DATASET OUTPUT.npz
"""

from __future__ import annotations

import json
import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"  # the data set is here: nothing is to be looked up

import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset


def main(root: str, output: str) -> None:
    data = LeRobotDataset("local/test", root=root, video_backend="pyav")
    columns: dict[str, list] = {}
    tasks = []
    for i in range(len(data)):
        item = data[i]
        tasks.append(item.pop("task"))
        for key, value in item.items():
            columns.setdefault(key, []).append(np.asarray(value))
    ahead = LeRobotDataset("local/test", root=root, video_backend="pyav", delta_timestamps={"action": [0.0, 0.1, 0.2]})
    chunk = np.asarray(ahead[0]["action"])
    stats = {f"{key}/{name}": np.asarray(value).tolist() for key, part in data.meta.stats.items() for name, value in part.items()}
    facts = {"frames": len(data), "episodes": data.num_episodes, "fps": data.fps, "tasks": tasks, "stats": stats}
    np.savez(output, facts=json.dumps(facts), chunk=chunk, **{key: np.stack(values) for key, values in columns.items()})


if __name__ == "__main__":
    main(*sys.argv[1:])
