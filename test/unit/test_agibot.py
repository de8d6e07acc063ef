"""AgiBot World's raw layout becomes a LeRobot set: by its time stamps, in checked units, with its sub-tasks as sentences. All files are made up here."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from lerobot_sets import greys, write_video

from wbvla_cli import dataset as command
from wbvla_train.data.lerobot.agibot import convert, find_episodes, read_proprio, sentences
from wbvla_train.data.lerobot.check import check
from wbvla_train.data.lerobot.episode import DataError
from wbvla_train.data.lerobot.options import AgibotOptions
from wbvla_train.data.lerobot.reader import open_dataset

h5py = pytest.importorskip("h5py", reason="h5py is not installed (extra: train)")

ROWS = 61  # 30 a second: 2 s
START_NS = 1_735_000_000_123_456_789  # since 1970, as the files have it: more digits than a float64 holds
HEAD = "observation.images.head"


def grey(row: int) -> int:
    return 16 + 8 * (row // 3 % 28)


def arrays(episode: int, rows: int = ROWS) -> dict[str, np.ndarray]:
    """What a proprio_stats.h5 holds, in its units."""
    rng = np.random.default_rng(episode)
    joints = np.cumsum(rng.normal(0, 0.01, (rows, 14)), 0)
    grip = np.linspace(35.0, 119.0, rows)[:, None] * [1.0, 0.5]
    turned = np.tile([0.0, 0.0, 0.0, 1.0], (rows, 2, 1))
    still = {"head/position": np.tile([0.1, 0.4], (rows, 1)), "waist/position": np.tile([0.5, 0.25], (rows, 1))}
    out = {f"state/{key}": values for key, values in still.items()} | {f"action/{key}": values for key, values in still.items()}
    out |= {"state/joint/position": joints, "action/joint/position": joints + 0.01}
    out |= {"state/effector/position": grip, "action/effector/position": np.tile([0.0, 1.0], (rows, 1))}
    for part in ("state", "action"):
        out |= {f"{part}/end/position": rng.normal(0.4, 0.05, (rows, 2, 3)), f"{part}/end/orientation": turned}
    empty = ("state/joint/velocity", "state/joint/effort", "state/robot/position", "action/joint/effort")  # there, but without numbers
    out |= {key: np.zeros(0, np.float32) for key in empty} | {"action/joint/index": np.arange(rows - 5)}
    return out | {"timestamp": START_NS + np.round(np.arange(rows) / 30 * 1e9).astype(np.int64)}


def write_episode(root: Path, task: str = "327", episode: str = "648642", change=lambda values: None, pictures=None, steps=None) -> Path:
    values = arrays(int(episode))
    change(values)
    path = root / "proprio_stats" / task / episode / "proprio_stats.h5"
    path.parent.mkdir(parents=True)
    with h5py.File(path, "w") as file:
        for key, array in values.items():
            file[key] = array
    shots = [(k / 30, grey(k)) for k in range(ROWS)] if pictures is None else pictures
    write_video(root / "observations" / task / episode / "videos" / "head_color.mp4", shots, rate=30)
    info = root / "task_info" / f"task_{task}.json"
    info.parent.mkdir(exist_ok=True)
    entries = json.loads(info.read_text()) if info.exists() else []
    steps = steps or [(0, 30, "Retrieve cucumber from the shelf."), (30, 50, "Place it into the bag.")]
    config = [{"start_frame": a, "end_frame": b, "action_text": text, "skill": "Pick"} for a, b, text in steps]
    entries.append({"episode_id": int(episode), "task_name": "Pickup in the supermarket", "label_info": {"action_config": config}})
    info.write_text(json.dumps(entries))
    return root


def put(key: str, where, value):
    """A change of one number."""

    def change(values: dict[str, np.ndarray]) -> None:
        values[key] = values[key].copy()
        values[key][where] = value

    return change


def test_an_episode_becomes_a_lerobot_set_in_si_units_by_its_time_stamps(tmp_path):
    root = write_episode(write_episode(tmp_path / "world"), episode="648649")
    assert command.main(["agibot", str(root), "--output", str(tmp_path / "out")]) == 0
    assert check(tmp_path / "out") == []
    dataset = open_dataset(tmp_path / "out")
    assert [view.length for view in dataset.views] == [21, 21] and dataset.fps == 10 and dataset.info["robot_type"] == "a2d"
    view, values = dataset.views[0], arrays(648642)
    columns = view.columns()
    rows = np.arange(21) * 3  # 30 rows a second, 10 frames
    assert columns["observation.states.joint.position"] == pytest.approx(values["state/joint/position"][rows], abs=1e-6)
    assert columns["actions.joint.position"] == pytest.approx(values["action/joint/position"][rows], abs=1e-6)
    assert columns["observation.states.effector.position"][[0, -1]] == pytest.approx(np.array([[0.035, 0.0175], [0.119, 0.0595]])), "mm become m"
    assert dataset.names("observation.states.effector.position") == ["left_gripper_opening_m", "right_gripper_opening_m"]
    assert columns["actions.effector.position"][0].tolist() == [0.0, 1.0] and columns["observation.states.end.position"].shape == (21, 6)
    assert columns["observation.stamp_s"][:, 0] == pytest.approx(np.arange(21) / 10, abs=1e-8)
    assert np.abs(columns["observation.skew_s"]).max() < 1e-4
    assert greys(view.images(HEAD)) == [grey(row) for row in rows]
    places = ["Retrieve cucumber from the shelf."] * 10 + ["Place it into the bag."] * 7 + ["Pickup in the supermarket"] * 4  # rows 0, 30, 51 on
    assert view.sentences() == places
    assert "actions.robot.velocity" not in dataset.features and dataset.role("state") == "observation.states.joint.position"


def test_hands_have_six_joints_and_are_not_mixed_with_grippers(tmp_path):
    def hand(values):
        values |= {f"{part}/effector/position": np.full((ROWS, 12), 0.7) for part in ("state", "action")}

    root = write_episode(write_episode(tmp_path / "world"), task="475", episode="9", change=hand)
    with pytest.raises(DataError, match="task 327 has grippers, task 475 has hands: .* choose with --tasks"):
        convert(root, tmp_path / "out", AgibotOptions())
    assert convert(root, tmp_path / "out", AgibotOptions(tasks=("475",), subtasks=False), log=lambda _: None) == 0
    view = open_dataset(tmp_path / "out").views[0]
    assert view.columns()["observation.states.effector.position"] == pytest.approx(np.full((21, 12), 0.7))
    assert set(view.sentences()) == {"Pickup in the supermarket"}


REFUSED = {
    "degrees": (put("state/joint/position", (7, 3), 45.0), r"row 7: state/joint/position in rad .*left_arm_3 is 45"),
    "a gripper in radians": (lambda v: v.update({"state/effector/position": np.full((ROWS, 2), 0.8)}), r"in mm \(0 to 120\) expected, got at most 0.8"),
    "a gripper of 0 to 255": (put("state/effector/position", (4, 1), 255.0), "row 4: state/effector/position in mm"),
    "a command in mm": (put("action/effector/position", (2, 0), 60.0), r"0 \(open\) to 1 \(closed\)"),
    "a lift in mm": (put("state/waist/position", (0, 1), 250.0), "lift_m is 250"),
    "a quaternion of length 0": (put("state/end/orientation", (5, 1), 0.0), "row 5: state/end/orientation must be unit quaternions"),
    "NaN": (put("action/joint/position", (9, 13), np.nan), "row 9: action/joint/position right_arm_6 is nan"),
    "fewer commands than states": (lambda v: v.update({"action/joint/position": np.zeros((50, 14))}), r"61 x 14 numbers expected, got \(50, 14\)"),
    "no commands": (lambda v: v.update({"action/joint/position": np.zeros(0)}), "has no action/joint/position"),
    "34 joints": (lambda v: v.update({"state/joint/position": np.zeros((ROWS, 34))}), r"61 x 14 numbers expected, got \(61, 34\)"),
    "stamps in seconds": (lambda v: v.update({"timestamp": (np.arange(ROWS) / 30).astype(np.float32)}), "whole nanoseconds expected, got float32"),
    "stamps in microseconds": (lambda v: v.update({"timestamp": np.arange(ROWS) * 33_333}), "timestamp is not in nanoseconds"),
    "stamps that go back": (put("timestamp", 20, START_NS), "row 20: timestamp must go up"),
    "a pause in the rows": (
        lambda v: v["timestamp"].__setitem__(slice(30, None), v["timestamp"][30:] + 400_000_000),
        r"a gap of 0.43 s in timestamp near row 29",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_units_and_broken_rows_are_refused_by_name_and_the_rest_is_read(name, tmp_path):
    change, words = REFUSED[name]
    root, said = write_episode(write_episode(tmp_path / "world"), episode="700", change=change), []
    assert convert(root, tmp_path / "out", AgibotOptions(), said.append) == 1
    (line,) = [line for line in said if line.startswith("left out: ")]
    assert "327/700" in line
    assert re.search(words, line), line
    assert len(open_dataset(tmp_path / "out").views) == 1
    assert json.loads((tmp_path / "out/meta/wbvla.json").read_text())["left_out"] == [line.removeprefix("left out: ")]


PICTURES = {
    "one lost": ([(k / 30, grey(k)) for k in range(ROWS - 1)], "60 pictures for 61 rows"),
    "a pause in the pictures": ([(k / 30 if k < 30 else 2 - (60 - k) * 0.95 / 30, grey(k)) for k in range(ROWS)], "at row 30 .* 0.050 s away"),
    "another rate": ([(k / 25, grey(k)) for k in range(ROWS)], "the pictures last 2.40 s, the rows 2.00 s"),
}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_whose_stamps_tell_another_course_of_time_are_refused(name, tmp_path):
    pictures, words = PICTURES[name]
    root = write_episode(tmp_path / "world", pictures=pictures)
    with pytest.raises(DataError, match=f"none of the 1 episodes could be read, the first because: .*{words}"):
        convert(root, tmp_path / "out", AgibotOptions(), lambda _: None)


def test_a_camera_a_little_slower_than_its_file_says_is_followed(tmp_path):
    """The mp4 says 30 a second, the camera made 29.85: row 60 was taken at 2.01 s."""
    slow = {"timestamp": START_NS + np.round(np.arange(ROWS) / 29.85 * 1e9).astype(np.int64)}
    root = write_episode(tmp_path / "world", change=lambda values: values.update(slow))
    assert convert(root, tmp_path / "out", AgibotOptions(), lambda _: None) == 0
    view = open_dataset(tmp_path / "out").views[0]
    assert view.length == 21 and view.columns()["observation.stamp_s"][20, 0] == pytest.approx(60 / 29.85, abs=1e-6)
    assert greys(view.images(HEAD)) == [grey(3 * k) for k in range(21)]


def test_sub_tasks_that_overlap_or_leave_the_episode(tmp_path):
    root = write_episode(tmp_path / "world", steps=[(0, 20, "reach"), (10, 15, "grip"), (40, 80, "lift")])
    (source,) = find_episodes(root)
    said = sentences(source, ROWS, subtasks=True)
    assert [said[i] for i in (0, 9, 10, 14, 15, 20, 39, 40, 60)] == [
        "reach",
        "reach",
        "grip",
        "grip",
        "reach",
        *["Pickup in the supermarket"] * 2,
        "lift",
        "lift",
    ]
    assert said.count("lift") == 21
    late = write_episode(tmp_path / "late", steps=[(61, 80, "lift")])
    with pytest.raises(DataError, match="episode 648642: sub-task 'lift' from frame 61 to 80, the episode has 61 rows"):
        sentences(find_episodes(late)[0], ROWS, subtasks=True)


def test_what_is_missing_is_said(tmp_path, monkeypatch, capsys):
    (tmp_path / "packed/proprio_stats").mkdir(parents=True)
    (tmp_path / "packed/proprio_stats/648533-713949.tar").write_bytes(b"")
    with pytest.raises(DataError, match="no AgiBot World data .* it has 1 .tar files: unpack them first"):
        find_episodes(tmp_path / "packed")
    root = write_episode(write_episode(tmp_path / "world"), episode="2")
    (root / "proprio_stats/327/2/proprio_stats.h5").unlink()
    said: list[str] = []
    assert convert(root, tmp_path / "out", AgibotOptions(), said.append) == 1
    assert any("327/2: " in line and "proprio_stats.h5 is missing" in line for line in said)
    (root / "proprio_stats/327/2/proprio_stats.h5").write_bytes(b"cut off")
    with pytest.raises(DataError, match="not readable as HDF5"):
        read_proprio(root / "proprio_stats/327/2/proprio_stats.h5")
    with pytest.raises(DataError, match=r"30 rows/s: --fps of at most 20 expected, got 30"):
        convert(write_episode(tmp_path / "fast"), tmp_path / "native", AgibotOptions(fps=30.0), lambda _: None)
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert command.main(["agibot", str(root), "--output", str(tmp_path / "none")]) == 2
    assert "reading it needs h5py: pip install" in (text := capsys.readouterr().err) and text.count("\n") == 1


def test_killed_on_the_way_the_same_command_goes_on(tmp_path, monkeypatch):
    from wbvla_train.data.lerobot import agibot

    root = write_episode(write_episode(tmp_path / "world"), episode="700")
    real, made = agibot.convert_episode, []

    def once(source, *rest):
        if made:
            raise KeyboardInterrupt
        made.append(source.name)
        return real(source, *rest)

    monkeypatch.setattr(agibot, "convert_episode", once)
    with pytest.raises(KeyboardInterrupt):
        convert(root, tmp_path / "out", AgibotOptions(), lambda _: None)
    assert not (tmp_path / "out").exists()

    def rest(source, *others):
        made.append(source.name)
        return real(source, *others)

    monkeypatch.setattr(agibot, "convert_episode", rest)
    assert convert(root, tmp_path / "out", AgibotOptions(), lambda _: None) == 0
    assert made == ["327/700", "327/648642"] and len(open_dataset(tmp_path / "out").views) == 2 and not (tmp_path / "out.staging").exists()


def test_a_sentence_that_is_null_is_no_word_and_one_that_cannot_be_told_is_refused(tmp_path):
    root = write_episode(tmp_path / "world")
    path = root / "task_info/task_327.json"
    (entry,) = json.loads(path.read_text())
    entry["label_info"]["action_config"][0]["action_text"] = None
    path.write_text(json.dumps([entry]))
    (source,) = find_episodes(root)
    assert sentences(source, ROWS, subtasks=True)[0] == "Pickup in the supermarket"
    entry["label_info"]["action_config"][0]["action_text"] = 7
    path.write_text(json.dumps([entry]))
    with pytest.raises(DataError, match="action_config expected"):
        sentences(source, ROWS, subtasks=True)
    path.write_text(json.dumps([entry, entry | {"task_name": "Another"}]))
    with pytest.raises(DataError, match="has 2 different entries of episode 648642"):
        sentences(source, ROWS, subtasks=False)


def test_an_episode_that_lies_there_twice_is_left_out_and_named(tmp_path):
    root = write_episode(write_episode(tmp_path / "world"), episode="648650")
    first, second = (root / f"proprio_stats/327/{episode}/proprio_stats.h5" for episode in ("648642", "648650"))
    second.write_bytes(first.read_bytes())
    said: list[str] = []
    assert convert(root, tmp_path / "out", AgibotOptions(), said.append) == 1
    assert "left out: 327/648650: the same rows as 327/648642" in said
    assert len(open_dataset(tmp_path / "out").views) == 1
