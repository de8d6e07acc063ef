"""Data by others that look sound and are not: numbers that do not fit their type, units, names, sentences, depth. None becomes a sound set in silence."""

from __future__ import annotations

import io
import json

import numpy as np
import pyarrow as pa
import pytest
from dataset_bags import write_bag
from lerobot_sets import CAMERA, write_v3, write_v21, write_video
from PIL import Image

from wbvla_cli import dataset as command
from wbvla_cli.record import typestore
from wbvla_core.errors import StateError
from wbvla_core.robot import load_robot
from wbvla_train.data.lerobot import edit
from wbvla_train.data.lerobot.bag import Bag, TopicMap
from wbvla_train.data.lerobot.camera_messages import Undecodable, still
from wbvla_train.data.lerobot.check import check
from wbvla_train.data.lerobot.episode import DataError
from wbvla_train.data.lerobot.joints import JointJoiner
from wbvla_train.data.lerobot.reader import open_dataset

X2 = load_robot("x2")
NAMES = list(X2.joint_names)


def found(root, severity):
    return [f"{f.kind}: {f.text}" for f in check(root) if f.severity == severity]


@pytest.mark.parametrize(
    ("dtype", "values", "words"),
    [
        ("uint8", pa.array([7] * 3 + [300] + [7] * 20), "type uint8 expected, frame 3 has 300"),
        ("bool", pa.array([0, 1, 1, 0, 7] + [0] * 19), "type bool expected, frame 4 has 7"),
        ("float32", pa.array([1e300] * 24), "type float32 expected, frame 0 has 1e+300"),
        ("float32", pa.array(1.76e9 + np.arange(24) * 0.1), "up to 2.3 off, and they span 2.3"),  # float32 near 1.76e9 comes in steps of 128
    ],
)
def test_a_number_that_its_announced_type_cannot_hold_is_an_error_and_nothing_is_made_of_it(dtype, values, words, tmp_path):
    extra = {"observation.extra": {"dtype": dtype, "shape": [1], "names": None}}
    root = write_v21(tmp_path / "set", (24, 24), edit=lambda _, columns: columns | {"observation.extra": values}, extra=extra)
    assert words in found(root, "error")[0]
    assert command.main(["merge", str(root), "--output", str(tmp_path / "made")]) == 2
    assert not (tmp_path / "made").exists()


def test_ordinary_numbers_in_a_wider_type_are_no_error(tmp_path):
    extra = {"observation.extra": {"dtype": "float32", "shape": [1], "names": None}}
    root = write_v21(tmp_path / "set", (24, 24), edit=lambda _, columns: columns | {"observation.extra": pa.array(np.linspace(-1.6, 1.6, 24))}, extra=extra)
    assert found(root, "error") == []


def test_depth_is_never_made_a_colour_picture(tmp_path):
    root = write_v21(tmp_path / "set")
    path = root / f"videos/chunk-000/{CAMERA}/episode_000001.mp4"
    write_video(path, [(k / 10, 40 + 8 * k) for k in range(10)], codec="ffv1", pix_fmt="gray16le")
    (error,) = found(root, "error")
    assert "episode_000001.mp4 holds depth or thermal pictures (gray16le)" in error
    assert command.main(["merge", str(root), "--output", str(tmp_path / "made")]) == 2


def test_what_info_json_does_not_name_is_said(tmp_path):
    root = write_v21(tmp_path / "set", edit=lambda _, columns: columns | {"observation.touch": columns["timestamp"]})
    write_video(root / "videos/chunk-000/observation.images.wrist/episode_000000.mp4", [(0.0, 40), (0.1, 48)])
    assert found(root, "error") == []
    columns, videos = found(root, "warning")
    assert "has the columns ['observation.touch'], which meta/info.json does not name" in columns
    assert videos.startswith("not read: 1 video files belong to no listed episode or camera")


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("episodes", {"length": 12.0}, "length must be a whole number from 0 on, got 12.0 (episode 0)"),
        ("episodes", {"length": "12"}, "length must be a whole number from 0 on, got '12'"),
        ("episodes", {"length": None}, "length must be a whole number from 0 on, got None"),
        ("episodes", {"episode_index": "0"}, "episode_index must be a whole number from 0 on"),
        ("tasks", {"task": None}, "a whole number and a sentence expected, got task_index 0, task None"),
        ("tasks", {"task": ["pick it"]}, "a whole number and a sentence expected"),
    ],
)
def test_a_list_of_episodes_or_tasks_with_wrong_types_is_one_sentence(name, change, words, tmp_path, capsys):
    root = write_v21(tmp_path / "set")
    path = root / "meta" / f"{name}.jsonl"
    first, *rest = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps(json.loads(first) | change), *rest]) + "\n")
    for argv in (["check", str(root)], ["info", str(root)], ["merge", str(root), "--output", str(tmp_path / "made")]):
        assert command.main(argv) == 2
        assert words in (said := capsys.readouterr().err) and said.count("\n") == 1, said


def test_a_set_of_cameras_without_a_video_path_is_one_sentence(tmp_path):
    for root in (write_v21(tmp_path / "two"), write_v3(tmp_path / "three")):
        info = json.loads((root / "meta/info.json").read_text())
        (root / "meta/info.json").write_text(json.dumps(info | {"video_path": None}))
        with pytest.raises(DataError, match=r"has cameras \(observation.images.top\), but its video_path is None"):
            open_dataset(root)


def test_a_merge_that_goes_on_takes_the_sentence_that_was_mended_meanwhile(tmp_path, monkeypatch):
    root = write_v21(tmp_path / "set")
    real = edit.assemble
    monkeypatch.setattr(edit, "assemble", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        edit.merge([root], tmp_path / "made", log=lambda _: None)
    monkeypatch.setattr(edit, "assemble", real)
    for path in (root / "meta/tasks.jsonl", root / "meta/episodes.jsonl"):
        path.write_text(path.read_text().replace("pick it", "push it"))
    assert edit.merge([root], tmp_path / "made", log=lambda _: None) == 0
    assert open_dataset(tmp_path / "made").views[0].tasks == ("push it",)


def test_a_split_that_was_ended_between_its_parts_goes_on_with_the_same_command(tmp_path, monkeypatch):
    root, real, made = write_v21(tmp_path / "set", (12, 10, 11, 13)), edit.assemble, []

    def once(*args, **kwargs):
        if made:
            raise KeyboardInterrupt
        made.append(real(*args, **kwargs))
        return made[0]

    monkeypatch.setattr(edit, "assemble", once)
    with pytest.raises(KeyboardInterrupt):
        edit.split(root, tmp_path / "parts", {"a": 0.5, "b": 0.5}, log=lambda _: None)
    monkeypatch.setattr(edit, "assemble", real)
    said: list[str] = []
    assert edit.split(root, tmp_path / "parts", {"a": 0.5, "b": 0.5}, log=said.append) == 0
    assert any(line.endswith("a is complete already") for line in said)
    assert sorted(path.name for path in (tmp_path / "parts").iterdir()) == ["a", "b"]
    assert [len(open_dataset(tmp_path / "parts" / name).views) for name in "ab"] == [2, 2]
    with pytest.raises(DataError, match="exists already, and was not made from these episodes"):
        edit.split(root, tmp_path / "parts", {"a": 0.5, "b": 0.5}, seed=3, log=lambda _: None)


def test_an_empty_sentence_and_velocities_that_were_filled_in_are_said(tmp_path):
    extra = {"observation.velocity": {"dtype": "float32", "shape": [3], "names": ["a", "b", "c"]}}

    def still_velocity(_, columns):
        return columns | {"observation.velocity": pa.array([[0.0, 0.0, 0.1]] * len(columns["timestamp"]), pa.list_(pa.float32()))}

    warnings = found(write_v21(tmp_path / "set", (30, 30), edit=still_velocity, extra=extra, tasks=("", "place it")), "warning")
    assert sum("task: an empty sentence" in w for w in warnings) == 1
    assert sum("observation.velocity of 2 of 3 joints that move (a ...) is zero in every frame" in w for w in warnings) == 2


def test_degrees_and_joints_named_twice_are_refused_with_their_reason():
    joiner = JointJoiner(X2, {})
    knee = NAMES.index("left_knee_joint")
    q = X2.default_q.copy()
    q[knee] = np.degrees(1.0)
    with pytest.raises(StateError, match=r"position of left_knee_joint is 57.2958, its limits are .*: other units, or another joint\?"):
        joiner.add(1.0, NAMES, q, np.zeros(len(NAMES)))
    assert joiner.complete, "every joint was named: the advice to rename would be wrong"
    q[knee] = X2.upper[knee] + 0.9  # an encoder that is badly calibrated is read
    assert len(joiner.add(1.01, NAMES, q, np.zeros(len(NAMES)))) == 1
    with pytest.raises(StateError, match=r"names left_knee_joint more than once \(after rename\)"):
        JointJoiner(X2, {"knee": "left_knee_joint"}).add(1.0, [*NAMES, "knee"], np.append(q, 0.0), np.zeros(len(NAMES) + 1))


def test_a_renamed_joint_must_be_one_of_the_robots(tmp_path):
    topics = TopicMap("/i", "/j", rename={"knee": "left_kneee_joint"}, missing_joints="hold")
    with pytest.raises(DataError, match=r"rename leads to \['left_kneee_joint'\], which are no joints of x2"):
        Bag(write_bag(tmp_path / "bag", seconds=0.2), X2, topics, typestore)


@pytest.mark.parametrize(
    ("note", "outcome"),
    [
        ('{"instruction": null}', []),
        ('{"instruction": "  "}', []),
        ('{"instruction": " turn left "}', ["turn left"]),
        ('\ufeff{"instruction": "turn left"}', ["turn left"]),
        ('{"instruction": 7}', "instruction must be a sentence, got 7"),
        ("[1]", "is not JSON with names and values"),
    ],
)
def test_the_note_beside_a_recording_is_a_sentence_or_none(note, outcome, tmp_path):
    path = write_bag(tmp_path / "bag", seconds=0.2, skip=("imu", "command", "loco", "safety"))
    (path / "episode.json").write_text(note, encoding="utf-8")
    with Bag(path, X2, TopicMap.ours(), typestore) as bag:
        if isinstance(outcome, list):
            assert bag.sentences() == outcome
        else:
            with pytest.raises(DataError, match=outcome):
                bag.sentences()


def test_a_recording_of_two_instructions_is_left_out_with_both(tmp_path, monkeypatch, capsys):
    write_bag(tmp_path / "bag", seconds=2.0)
    monkeypatch.setattr(Bag, "sentences", lambda _: ["walk to the box", "turn left"])
    assert command.main(["convert", str(tmp_path / "bag"), "--output", str(tmp_path / "out")]) == 2
    assert "2 different instructions, an episode has one: 'walk to the box', 'turn left'; cut it, or give --instruction" in capsys.readouterr().out
    assert command.main(["convert", str(tmp_path / "bag"), "--output", str(tmp_path / "out"), "--instruction", "turn"]) == 0


def test_a_jpeg_whose_end_is_zeros_is_no_picture_and_padding_behind_its_end_does_not_matter():
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)).save(file, "JPEG")
    data = file.getvalue()
    half = len(data) // 2
    with pytest.raises(Undecodable, match="the end marker of JPEG is missing"):
        still(data[:half] + bytes(len(data) - half), "jpeg")
    assert still(data + bytes(100), "jpeg").shape == (48, 64, 3)
