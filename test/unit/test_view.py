"""`wbvla view`: the HTML summary of recordings and data sets, the rerun file, and the Foxglove layout."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from dataset_bags import write_bag  # noqa: E402

from wbvla_cli import view_command  # noqa: E402
from wbvla_cli.record import typestore  # noqa: E402
from wbvla_cli.view_data import load_bag, load_dataset  # noqa: E402
from wbvla_core.ros.tables import share_dir, topic_table  # noqa: E402
from wbvla_train.data.lerobot.bag import TopicMap  # noqa: E402
from wbvla_train.data.lerobot.convert import convert  # noqa: E402


@pytest.fixture(scope="module")
def bag(tmp_path_factory) -> Path:
    return write_bag(tmp_path_factory.mktemp("view") / "bag", seconds=3.0)


def test_recording_and_data_set_show_the_same_numbers(bag, tmp_path):
    assert convert([bag], tmp_path / "set", typestore) == 0
    ours, theirs = load_bag(bag, "x2", TopicMap.ours()), load_dataset(tmp_path / "set", 0)
    assert len(ours.time_s) == len(theirs.time_s) == 30 and theirs.checked and not theirs.findings
    for name, values in theirs.state.items():
        assert values == pytest.approx(ours.state[name], abs=1e-6), name
    assert theirs.loco == pytest.approx(ours.loco) and theirs.gyro == pytest.approx(ours.gyro)
    feet = np.array([end for _, end in theirs.posture(0)])[:, 2].min()
    assert -0.75 < feet < -0.5, "the figure's ankles hang below the pelvis"


def test_the_page_holds_pictures_posture_and_charts_and_loads_nothing(bag, tmp_path):
    page = tmp_path / "page.html"
    assert view_command.main([str(bag), "--output", str(page)]) == 0
    text = page.read_text()
    assert text.count("data:image/jpeg;base64,") == 8 and text.count('aria-label="posture') == 8
    for title in ("Locomotion command", "Stance height", "Skew by stamps", "left arm", "turn left"):
        assert title in text, title
    assert not re.search(r'(src|href)="?https?://', text)
    assert view_command.main([str(bag)]) == 0 and (bag / "view.html").is_file(), "inside of the episode's folder: a session holds nothing but episodes"


@pytest.mark.skipif(importlib.util.find_spec("rerun") is None, reason="the optional extra view is not installed")
def test_the_rerun_file_is_written_and_whole(bag, tmp_path):
    saved = tmp_path / "episode.rrd"
    assert view_command.main([str(bag), "--to", "rrd", "--output", str(saved)]) == 0
    done = subprocess.run([sys.executable, "-m", "rerun", "rrd", "verify", str(saved)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_cannot_be_shown_is_refused_in_a_sentence(bag, tmp_path, capsys):
    assert view_command.main([str(tmp_path / "nowhere")]) == 2
    assert "does not exist" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert view_command.main([str(tmp_path / "empty")]) == 2
    assert "one recording expected" in capsys.readouterr().err
    cut = tmp_path / "cut.mcap"
    cut.write_bytes(next(bag.glob("*.mcap")).read_bytes()[:5000])
    assert view_command.main([str(cut)]) == 2
    said = capsys.readouterr().err
    assert "cut.mcap" in said and "mends it" in said


def test_the_foxglove_layout_names_topics_that_exist_and_places_every_panel():
    layout = json.loads((share_dir() / "config/foxglove/wbvla.json").read_text())
    named = set(re.findall(r'"(/[a-z_/]+?)(?:\.[^"]*)?"', json.dumps(layout)))
    assert named and named <= {row.name for row in topic_table().topics.values()}, named

    def panels(node) -> list[str]:
        return [node] if isinstance(node, str) else panels(node["first"]) + panels(node["second"])

    assert sorted(panels(layout["layout"])) == sorted(layout["configById"])
