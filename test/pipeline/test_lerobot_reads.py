"""Hugging Face's own reader opens our data sets: every frame and field as we wrote them.

lerobot pins another torch than this project: it lives in an environment of its own, whose interpreter WBVLA_LEROBOT_PYTHON names
(python -m venv DIR && DIR/bin/pip install lerobot==0.4.4).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))
from dataset_bags import write_bag  # noqa: E402

from wbvla_cli.record import typestore  # noqa: E402
from wbvla_train.data.lerobot import edit  # noqa: E402
from wbvla_train.data.lerobot.convert import convert  # noqa: E402
from wbvla_train.data.lerobot.reader import open_dataset  # noqa: E402

PYTHON = os.environ.get("WBVLA_LEROBOT_PYTHON", "")
READER = Path(__file__).with_name("lerobot_reader.py")
CAMERA = "observation.images.head"


@pytest.mark.slow
@pytest.mark.skipif(not PYTHON, reason="WBVLA_LEROBOT_PYTHON names no interpreter with lerobot")
@pytest.mark.parametrize("merged", [False, True], ids=["converted", "merged"])
def test_lerobot_reads_every_frame_and_field_as_we_wrote_them(merged, tmp_path):
    for number, (name, task) in enumerate((("a", "turn left"), ("b", "turn right"), ("c", "turn left"))):
        write_bag(tmp_path / "bags" / name, seconds=4.0 + number, instruction=task, seed=number)
    root = tmp_path / "out"
    assert convert([tmp_path / "bags"], root, typestore) == 0
    if merged:
        assert edit.merge([root], tmp_path / "both") == 0
        root = tmp_path / "both"
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")} | {"HF_HOME": str(tmp_path / "cache")}
    subprocess.run([PYTHON, str(READER), str(root), str(tmp_path / "theirs.npz")], check=True, env=environment, cwd=tmp_path)
    theirs = np.load(tmp_path / "theirs.npz")
    facts, dataset = json.loads(str(theirs["facts"])), open_dataset(root)
    ours = [view.columns() for view in dataset.views]
    assert facts["frames"] == sum(view.length for view in dataset.views) and facts["episodes"] == len(dataset.views) and facts["fps"] == 10
    assert facts["tasks"] == [view.tasks[0] for view in dataset.views for _ in range(view.length)]
    for key, feature in dataset.features.items():
        if feature["dtype"] == "video":
            continue
        mine = np.concatenate([columns[key] for columns in ours]).astype(np.float32 if feature["dtype"].startswith("float") else np.int64)
        assert np.array_equal(theirs[key].reshape(mine.shape), mine), key
    pictures = np.stack([image for view in dataset.views for image in view.images(CAMERA)])
    as_bytes = np.rint(theirs[CAMERA] * 255).astype(np.int16).transpose(0, 2, 3, 1)
    assert as_bytes.shape == pictures.shape
    assert np.abs(as_bytes - pictures).max() <= 2, "two decoders round colours apart by a level or two; another frame would differ by tens"
    assert np.array_equal(theirs["chunk"], ours[0]["action"][:3]), "action chunks by delta_timestamps"
    saved = json.loads((root / "meta/stats.json").read_text())
    assert facts["stats"]["action/q99"] == pytest.approx(saved["action"]["q99"]) and np.shape(facts["stats"][f"{CAMERA}/std"]) == (3, 1, 1)
