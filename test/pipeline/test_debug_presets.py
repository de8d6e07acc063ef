"""The debug presets run as the documents show them, in a folder that holds nothing, and write nothing where checkpoints ship. Minutes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


def test_the_debug_presets_train_from_nothing_and_leave_what_ships_alone(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for words in ("train lam loco debug", "train lam mani debug-dinov2", "train vla debug", "train decoder debug", "train vla image-text-debug"):
        done = subprocess.run([sys.executable, "-m", "wbvla_cli", *words.split()], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{words}:\n{done.stderr[-2000:]}"
    made = {str(path.parent.relative_to(tmp_path)) for path in tmp_path.rglob("manifest.json")}
    assert made == {
        "runs/lam_loco_debug/checkpoints/lam/loco",
        "runs/lam_mani_debug_dinov2/checkpoints/lam/mani",
        "runs/vla_debug/checkpoints/vla/debug",
        "runs/vla_debug/checkpoints/policy/debug",
        "runs/vla_image_text_debug/checkpoints/vla/image_text_debug",
    }
    assert {path.name for path in tmp_path.iterdir()} == {"data", "runs"}
