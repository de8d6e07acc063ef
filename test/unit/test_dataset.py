"""Recordings to LeRobot v3 and back, what is refused, what the check finds. Recordings are made here (dataset_bags.py)."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from rosbags.rosbag2 import StoragePlugin

sys.path.insert(0, str(Path(__file__).parent))
from dataset_bags import PX_PER_RAD, START_S, wall, write_bag, yaw  # noqa: E402

from wbvla_cli import dataset as command  # noqa: E402
from wbvla_cli.record import typestore  # noqa: E402
from wbvla_core.robot import load_robot  # noqa: E402
from wbvla_train.data.lerobot import edit, stats  # noqa: E402
from wbvla_train.data.lerobot.bag import TopicMap  # noqa: E402
from wbvla_train.data.lerobot.check import check  # noqa: E402
from wbvla_train.data.lerobot.convert import convert  # noqa: E402
from wbvla_train.data.lerobot.episode import DataError  # noqa: E402
from wbvla_train.data.lerobot.reader import open_dataset  # noqa: E402

ROBOT = load_robot("x2")
CAMERA = "observation.images.head"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Two episodes of two sentences, converted."""
    root = tmp_path_factory.mktemp("made")
    write_bag(root / "bags" / "a", seconds=6.0)
    write_bag(root / "bags" / "b", seconds=4.0, instruction="turn right", seed=1)
    assert convert([root / "bags"], root / "out", typestore, log=print) == 0
    return root


def digest(root: Path) -> dict[str, str]:
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(root.rglob("*")) if p.is_file()}


def messages(capture) -> str:
    return "\n".join(capture)


def test_the_layout_is_that_of_lerobot_v3(made):
    root = made / "out"
    info = json.loads((root / "meta/info.json").read_text())
    assert info["codebase_version"] == "v3.0" and info["fps"] == 10 and info["splits"] == {"train": "0:2"}
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (2, 100, 2)
    joints = ROBOT.joint_count
    sizes = {key: feature["shape"] for key, feature in info["features"].items()}
    assert sizes["observation.state"] == [joints] and sizes["command.position"] == [5 * joints] and sizes[CAMERA] == [96, 128, 3]
    assert info["features"]["observation.state"]["names"] == list(ROBOT.joint_names)
    action = info["features"]["action"]["names"]
    assert action == [*ROBOT.names("upper_body"), *ROBOT.names("waist"), "forward", "lateral", "yaw", "stance_height_m"]
    table = pq.read_table(root / "data/chunk-000/file-000.parquet")
    assert set(table.column_names) == {key for key, feature in info["features"].items() if feature["dtype"] != "video"}
    assert table["index"].to_pylist() == list(range(100)) and table["task_index"].to_pylist() == [0] * 60 + [1] * 40
    assert table["timestamp"].to_pylist()[60:62] == pytest.approx([0.0, 0.1])
    episodes = pq.read_table(root / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [(e["dataset_from_index"], e["dataset_to_index"], e["length"], e["tasks"]) for e in episodes] == [
        (0, 60, 60, ["turn left"]),
        (60, 100, 40, ["turn right"]),
    ]
    assert episodes[1][f"videos/{CAMERA}/from_timestamp"] == pytest.approx(6.0) and episodes[1][f"videos/{CAMERA}/to_timestamp"] == pytest.approx(10.0)
    assert np.shape(episodes[0][f"stats/{CAMERA}/mean"]) == (3, 1, 1)
    pandas = json.loads(pq.read_schema(root / "meta/tasks.parquet").metadata[b"pandas"])
    assert pandas["index_columns"] == ["task"], "lerobot looks tasks up by the index of this table"


def test_every_number_and_picture_of_the_recording_is_in_the_data_set(made):
    views = open_dataset(made / "out").views
    columns = views[0].columns()
    t = np.arange(60) * 0.1
    legs = ROBOT.indices("legs")
    expected = ROBOT.default_q[legs] + 0.2 * np.sin(2 * np.pi * 1.5 * t)[:, None]
    assert columns["observation.state"][:, legs] == pytest.approx(expected, abs=1e-6)
    step3 = ROBOT.default_q[legs] + 0.2 * np.sin(2 * np.pi * 1.5 * (t + 0.06))[:, None]
    assert columns["command.position"].reshape(60, 5, -1)[:-1, 3, legs] == pytest.approx(step3[:-1], abs=1e-6)
    assert columns["action"][:, -4:] == pytest.approx(np.tile([0, 0, 1, 0.62], (60, 1)))
    assert columns["observation.stamp_s"][:, 0] == pytest.approx(t, abs=1e-5)
    for number, image in enumerate(views[1].images(CAMERA)):
        left = int(round(560 - PX_PER_RAD * yaw(number * 0.1)))
        assert np.abs(image.astype(int) - wall(1)[:, left : left + 128]).mean() < 5, f"frame {number} shows another picture"
    assert number == 39 and views[0].about["start_s"] == START_S


def test_camera_skew_of_80_ms_is_found_in_the_recording_and_in_the_data_set(tmp_path):
    write_bag(tmp_path / "bags" / "good")
    write_bag(tmp_path / "bags" / "late", camera_skew_s=0.08, seed=2)
    said: list[str] = []
    assert convert([tmp_path / "bags"], tmp_path / "out", typestore, log=said.append) == 1
    assert "late: left out: skew: the camera's clock is -80 ms off" in messages(said)
    from wbvla_train.data.lerobot.convert import Limits

    convert([tmp_path / "bags" / "late"], tmp_path / "admitted", typestore, limits=Limits(lag_s=1.0), log=said.append)
    assert [(f.kind, f.severity) for f in check(tmp_path / "admitted")] == [("skew", "error")]


def test_recordings_that_move_too_little_to_tell_share_the_verdict_on_their_sessions_camera(tmp_path):
    for number, (seconds, skew_s) in enumerate(((2.0, 0.0), (6.0, 0.08), (7.0, 0.08))):
        write_bag(tmp_path / "late" / f"episode_{number:04d}", seconds=seconds, camera_skew_s=skew_s, seed=number)
    write_bag(tmp_path / "fine" / "episode_0000", seconds=2.0, seed=5)
    said: list[str] = []
    assert convert([tmp_path], tmp_path / "out", typestore, log=said.append) == 1
    assert "episode_0000: left out: skew: in 2 recordings of its folder the camera's clock is -80 ms off" in messages(said)
    assert [view.about["source"] for view in open_dataset(tmp_path / "out").views] == ["fine/episode_0000"], "another session is another camera"


def test_each_bad_recording_is_named_with_its_reason_and_the_rest_is_converted(tmp_path):
    bags = tmp_path / "bags"
    write_bag(bags / "good")
    write_bag(bags / "camera_missing", skip=("image",))
    write_bag(bags / "clock_jump", jump_at_s=3.0)
    write_bag(bags / "other_robot", names=tuple(f"joint_{i}" for i in range(ROBOT.joint_count)))
    write_bag(bags / "short", seconds=0.5)
    write_bag(bags / "silent", instruction=None)
    write_bag(bags / "no_decisions", skip=("loco",))
    whole = next(write_bag(bags / "cut").glob("*.mcap"))
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    (bags / os.fsdecode(b"latin_\xe9")).mkdir()
    (bags / os.fsdecode(b"latin_\xe9") / "x.mcap").write_bytes(b"")
    said: list[str] = []
    assert convert([bags], tmp_path / "out", typestore, log=said.append) == 1
    reasons = {
        "camera_missing": "topics ['/wbvla/camera/image_raw'] are missing or empty",
        "clock_jump": "the clock of",
        "other_robot": "another robot? 33 of 33 joints of x2 are not named",
        "short": "at least 1 s expected",
        "silent": "no instruction",
        "no_decisions": "nothing was commanded",
        "cut": "not readable",
        "latin_\\xe9": "not readable",
    }
    for name, reason in reasons.items():
        assert any(name in line and "left out" in line and reason in line for line in said), (name, messages(said))
    assert len(open_dataset(tmp_path / "out").views) == 1
    left = json.loads((tmp_path / "out/meta/wbvla.json").read_text())["left_out"]
    assert len(left) == len(reasons), "what was left out stays known"


def test_the_same_command_again_has_nothing_to_do_and_another_is_refused(made):
    said: list[str] = []
    before = digest(made / "out")
    assert convert([made / "bags"], made / "out", typestore, log=said.append) == 0
    assert "is complete already" in said[-1] and digest(made / "out") == before
    with pytest.raises(DataError, match="made from other recordings"):
        convert([made / "bags" / "a"], made / "out", typestore)


def test_killed_at_any_moment_the_same_command_completes_with_the_same_bytes(made, tmp_path):
    command = [sys.executable, "-m", "wbvla_cli", "dataset", "convert", str(made / "bags"), "--output", str(tmp_path / "out")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if "a: ok" in line:  # the first episode is finished, the second is on its way
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "out").exists()
    said: list[str] = []
    assert convert([made / "bags"], tmp_path / "out", typestore, log=said.append) == 0
    assert "1 already converted" in said[0] or "2 already converted" in said[0]
    assert digest(tmp_path / "out") == digest(made / "out")


@pytest.mark.slow
def test_killed_fifty_times_at_random_it_completes_with_the_same_bytes(made, tmp_path):
    command = [sys.executable, "-m", "wbvla_cli", "dataset", "convert", str(made / "bags"), "--output", str(tmp_path / "out")]
    rng, began = np.random.default_rng(0), time.monotonic()
    subprocess.run([*command[:-1], str(tmp_path / "timed")], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    whole_s = time.monotonic() - began
    for _ in range(50):
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
        time.sleep(float(rng.uniform(0.5, 1.0)) * whole_s)
        process.kill()
        process.wait()
        if (tmp_path / "out").exists():
            assert digest(tmp_path / "out") == digest(made / "out")
            for folder in ("out", "out.staging"):
                subprocess.run(["rm", "-rf", str(tmp_path / folder)], check=True)
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    assert digest(tmp_path / "out") == digest(made / "out")


def test_a_full_disk_ends_the_run_with_a_sentence_and_keeps_what_is_finished(made, tmp_path, monkeypatch, capsys):
    from wbvla_train.data.lerobot import convert as module

    finish = module.EpisodeWriter.finish
    calls = []

    def full(self, about):
        calls.append(about)
        if len(calls) > 1:
            raise OSError(28, "No space left on device", str(tmp_path))
        return finish(self, about)

    monkeypatch.setattr(module.EpisodeWriter, "finish", full)
    argv = ["convert", str(made / "bags"), "--output", str(tmp_path / "out")]
    assert command.main(argv) == 2
    assert "No space left on device" in capsys.readouterr().err
    monkeypatch.undo()
    assert command.main(argv) == 0 and "1 already converted" in capsys.readouterr().out
    assert digest(tmp_path / "out") == digest(made / "out")


def test_recordings_by_others_are_read_by_a_topic_map(tmp_path):
    """sqlite3, other topics, other joint names, no joint commands, no decisions."""
    theirs = tuple(f"R_{name}" for name in ROBOT.joint_names)
    topics = {"image": "/cam/color", "joints": "/joint_states", "imu": "/imu/data"}
    write_bag(tmp_path / "bag", plugin=StoragePlugin.SQLITE3, names=theirs, topics=topics, skip=("command", "loco", "safety"), instruction=None)
    rename = "\n".join(f"  R_{name}: {name}" for name in ROBOT.joint_names)
    (tmp_path / "map.yaml").write_text(f"image: /cam/color\njoint_states: /joint_states\nimu: /imu/data\nrename:\n{rename}\n")
    assert convert([tmp_path / "bag"], tmp_path / "out", typestore, topics=TopicMap.load(tmp_path / "map.yaml"), instruction="turn", log=print) == 0
    columns = open_dataset(tmp_path / "out").views[0].columns()
    knee = ROBOT.joint_names.index("left_knee_joint")
    ahead = ROBOT.default_q[knee] + 0.2 * np.sin(2 * np.pi * 1.5 * (np.arange(40) * 0.1 + 0.02))
    assert columns["command.position"][:40, knee] == pytest.approx(ahead, abs=1e-5), "step 0 tells where the joint is 20 ms later"
    (tmp_path / "bad.yaml").write_text("image: /cam\njoints: /x\n")
    with pytest.raises(DataError, match="a topic map has image and joint_states"):
        TopicMap.load(tmp_path / "bad.yaml")


def test_merge_split_and_filter_keep_every_number_and_every_bit_of_the_pictures(made, tmp_path):
    assert command.main(["split", str(made / "out"), "--output", str(tmp_path / "parts"), "--shares", "train", "0.5", "test", "0.5"]) == 0
    parts = [open_dataset(tmp_path / "parts" / name) for name in ("train", "test")]
    assert sorted(part.views[0].length for part in parts) == [40, 60]
    longer = max(parts, key=lambda part: part.views[0].length).root
    assert edit.merge([longer, made / "out"], tmp_path / "both", log=print) == 1, "one episode comes twice"
    both, one = open_dataset(tmp_path / "both"), open_dataset(made / "out")
    assert [view.length for view in both.views] == [60, 40]
    for ours, origin in zip(both.views, one.views):
        mine, theirs = ours.columns(), origin.columns()
        assert all(np.array_equal(mine[key], theirs[key]) for key in mine if key not in ("index", "episode_index"))
        assert all(np.array_equal(a, b) for a, b in zip(ours.images(CAMERA), origin.images(CAMERA)))
    assert check(tmp_path / "both") == []
    argv = ["filter", str(tmp_path / "both"), "--output", str(tmp_path / "some"), "--task", "left$", "--drop-faulty"]
    assert command.main(argv) == 0
    assert [view.tasks for view in open_dataset(tmp_path / "some").views] == [("turn left",)]
    with pytest.raises(DataError, match="would be empty"):
        edit.split(made / "out", tmp_path / "none", {"train": 0.99, "test": 0.01})


def test_lerobot_v2_1_and_the_columns_of_agibot_world_are_read(made, tmp_path):
    """The v2.1 layout: a file per episode, metadata as JSON lines, tables with lists of any length; names as {"motors": [...]}."""
    one = open_dataset(made / "out").views[0]
    root, arm = tmp_path / "agibot", [f"left_arm_{i}" for i in range(7)] + [f"right_arm_{i}" for i in range(7)]
    for folder in ("meta", "data/chunk-000", "videos/chunk-000/observation.images.head"):
        (root / folder).mkdir(parents=True)
    columns = one.columns()
    q = columns["observation.state"][:, :14].astype(np.float32)
    import pyarrow as pa

    table = {"observation.states.joint.position": q.tolist(), "actions.joint.position": q.tolist(), "task_index": [0] * 60, "episode_index": [0] * 60}
    table |= {"index": list(range(60)), "frame_index": list(range(60)), "timestamp": [i / 10 for i in range(60)]}
    pq.write_table(pa.table(table), root / "data/chunk-000/episode_000000.parquet")
    from wbvla_train.data.lerobot.video import Encoder

    with Encoder(root / "videos/chunk-000/observation.images.head/episode_000000.mp4", 10) as encoder:
        for image in one.images(CAMERA):
            encoder.add(image)
    vector = {"dtype": "float32", "shape": [14], "names": {"motors": arm}}
    scalars = {key: {"dtype": "int64", "shape": [1], "names": None} for key in ("index", "frame_index", "episode_index", "task_index")}
    features = {"observation.images.head": {"dtype": "video", "shape": [96, 128, 3], "names": ["height", "width", "rgb"]}}
    features |= {"observation.states.joint.position": vector, "actions.joint.position": vector, "timestamp": {"dtype": "float32", "shape": [1], "names": None}}
    info = {"codebase_version": "v2.1", "robot_type": "a2d", "fps": 10, "total_episodes": 1, "total_frames": 60, "chunks_size": 1000}
    info |= {"data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet", "features": features | scalars}
    info |= {"video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"}
    (root / "meta/info.json").write_text(json.dumps(info))
    (root / "meta/tasks.jsonl").write_text('{"task_index": 0, "task": "Pick up the cup."}\n')
    (root / "meta/episodes.jsonl").write_text('{"episode_index": 0, "tasks": ["Pick up the cup."], "length": 60}\n')
    dataset = open_dataset(root)
    assert dataset.role("state") == "observation.states.joint.position" and dataset.names("actions.joint.position") == arm
    assert dataset.views[0].columns()["observation.states.joint.position"] == pytest.approx(q)
    assert check(root) == []
    assert edit.merge([root], tmp_path / "v3", log=print) == 0, "v2.1 becomes v3"
    v3 = open_dataset(tmp_path / "v3")
    assert v3.info["codebase_version"] == "v3.0" and v3.views[0].tasks == ("Pick up the cup.",)
    assert v3.views[0].columns()["observation.states.joint.position"] == pytest.approx(q)
    with pytest.raises(DataError, match="one robot"):
        edit.merge([root, made / "out"], tmp_path / "mixed")


def spoil(source: Path, target: Path, key: str, change) -> Path:
    """A copy of a data set with one column changed."""
    import shutil

    import pyarrow as pa

    shutil.copytree(source, target)
    path = target / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    field = table.schema.field(key)
    values = np.array(table[key].to_pylist())
    change(values)
    column = pa.array(values.tolist(), field.type)
    pq.write_table(table.set_column(table.schema.get_field_index(key), field, column), path)
    return target


def at(array: np.ndarray, where, value) -> None:
    array[where] = value


FAULTS = {
    "nan": ("observation.state", lambda v: at(v, (7, 3), np.nan)),
    "command without motion": ("observation.velocity", lambda v: at(v, slice(0, 60), 0.0)),
    "motion without command": ("action", lambda v: at(v, (slice(None), [-4, -3, -2]), 0.0)),
    "skew": ("observation.skew_s", lambda v: at(v, (slice(None), 0), 0.08)),
    "rate": ("observation.stamp_s", lambda v: at(v, slice(0, 60), np.arange(60) / 30)),
    "gap": ("observation.stamp_s", lambda v: at(v, slice(20, 60), v[20:60] + 1.0)),
    "clock": ("observation.stamp_s", lambda v: at(v, slice(20, 60), v[20:60] - 1.0)),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_the_check_finds(kind, made, tmp_path):
    assert check(made / "out") == [], "nothing is found where nothing is wrong"
    key, change = FAULTS[kind]
    found = check(spoil(made / "out", tmp_path / "bad", key, change), images=kind == "frozen")
    assert kind in {f.kind for f in found}, found
    if kind == "nan":
        assert found[0].frame == 7 and "left_knee_joint is nan" in found[0].text


def test_the_check_finds_a_joint_that_does_not_move_when_told_and_a_missing_video(made, tmp_path):
    wrist = ROBOT.names("upper_body")[4]
    place = ROBOT.joint_names.index(wrist)
    bad = spoil(made / "out", tmp_path / "stuck", "action", lambda v: at(v, (slice(None), 4), np.linspace(0, 0.5, len(v))))
    assert any(f.kind == "stuck" and wrist in f.text for f in check(bad, images=False)), place
    video = bad / "videos" / CAMERA / "chunk-000/file-000.mp4"
    video.write_bytes(video.read_bytes()[:5000])
    assert {f.kind for f in check(bad) if f.episode == 1} >= {"unreadable"}
    assert command.main(["check", str(bad)]) == 1
    (bad / "meta/info.json").write_text("{")
    assert command.main(["check", str(bad)]) == 2


def test_statistics_of_parts_add_up_to_those_of_the_whole():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(50, 3)), rng.normal(2.0, 3.0, size=(150, 3))
    whole, summed = stats.of_vectors(np.concatenate((a, b))), stats.aggregate([stats.of_vectors(a), stats.of_vectors(b)])
    for name in ("min", "max", "mean", "std", "count"):
        assert summed[name] == pytest.approx(whole[name])
