"""Recordings by anybody: what cannot be read is named, one bad message costs one frame, and nothing invented looks measured."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from dataset_bags import START_S, STORE, TYPES, header, write_bag
from PIL import Image
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from wbvla_cli.record import typestore
from wbvla_core.robot import load_robot
from wbvla_train.data.lerobot.bag import TopicMap
from wbvla_train.data.lerobot.check import check
from wbvla_train.data.lerobot.convert import convert, fingerprint
from wbvla_train.data.lerobot.episode import DataError
from wbvla_train.data.lerobot.find import find
from wbvla_train.data.lerobot.reader import open_dataset

ROBOT = load_robot("x2")
NAMES = list(ROBOT.joint_names)
MAP = TopicMap("/cam", "/joint_states")
PICTURE = np.kron(np.random.default_rng(0).integers(30, 226, (12, 40, 3), np.uint8), np.ones((8, 8, 1), np.uint8))


def picture(i: int) -> np.ndarray:
    return np.ascontiguousarray(PICTURE[:64, 3 * i % 200 :][:, :96])


def raw(i: int, stamp_s: float, **changes):
    message = TYPES["sensor_msgs/msg/Image"](header=header(stamp_s), height=64, width=96, encoding="rgb8", is_bigendian=0, step=288, data=picture(i).ravel())
    return replace(message, **changes)


def compressed(data: bytes, stamp_s: float, text: str = "jpeg"):
    return TYPES["sensor_msgs/msg/CompressedImage"](header=header(stamp_s), format=text, data=np.frombuffer(data, np.uint8))


def jpeg(i: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture(i)).save(file, "JPEG", quality=90)
    return file.getvalue()


def angle(t: float) -> np.ndarray:
    """[J] rad."""
    return ROBOT.default_q + 0.05 * np.sin(2.0 * t + np.arange(ROBOT.joint_count))


def joints(k: int, stamp_s: float, names: list[str] = NAMES, **changes):
    t = k / 100
    places = [NAMES.index(name) for name in names]
    speed = 0.1 * np.cos(2.0 * t + np.arange(ROBOT.joint_count))
    message = TYPES["sensor_msgs/msg/JointState"](
        header=header(stamp_s), name=list(names), position=angle(t)[places], velocity=speed[places], effort=np.zeros(0)
    )
    return replace(message, **changes)


def bag(
    path: Path,
    image: Callable = lambda i, t: [raw(i, t)],
    state: Callable = lambda k, t: [joints(k, t)],
    *,
    seconds: float = 2.0,
    plugin: StoragePlugin = StoragePlugin.MCAP,
    mode: CompressionMode | None = None,
    extra: list | None = None,
) -> Path:
    """A recording: /cam at 10 Hz, /joint_states at 100 Hz; each callback gives the messages (or (topic, message)) of one instant."""
    rows = [(i / 10, "/cam", message) for i in range(round(seconds * 10)) for message in image(i, START_S + i / 10)]
    rows += [(k / 100, "/joint_states", message) for k in range(round(seconds * 100)) for message in state(k, START_S + k / 100)]
    rows = [(t, *message) if isinstance(message, tuple) else (t, topic, message) for t, topic, message in rows] + (extra or [])
    writer = Writer(path, version=9, storage_plugin=plugin)
    if mode:
        writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        connections = {}
        for t, topic, message in sorted(rows, key=lambda row: row[0]):
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, message.__msgtype__, typestore=STORE)
            writer.write(connections[topic], round((START_S + t) * 1e9), STORE.serialize_cdr(message, message.__msgtype__))
    return path


def made(tmp_path: Path, topics: TopicMap = MAP, status: int = 0) -> tuple[list[str], object]:
    """Convert everything in ``tmp_path/in``: what was said, and the data set."""
    said: list[str] = []
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    assert convert([tmp_path / "in"], tmp_path / "out", typestore, topics=topics, instruction="go", log=said.append) == status, said
    return said, open_dataset(tmp_path / "out")


def refusal(tmp_path: Path, topics: TopicMap = MAP) -> str:
    said: list[str] = []
    with pytest.raises(DataError, match="no recording"):
        convert([tmp_path / "in"], tmp_path / "out", typestore, topics=topics, instruction="go", log=said.append)
    return "\n".join(said)


# -- nothing is passed over ------------------------------------------------------------------------------------------------
def test_everything_that_may_be_a_recording_is_taken_or_named_and_notes_beside_it_are_neither(tmp_path):
    good = bag(tmp_path / "in" / "good")
    bag(tmp_path / "in" / "lost", plugin=StoragePlugin.SQLITE3)
    (tmp_path / "in/lost/metadata.yaml").unlink()
    bag(tmp_path / "in" / "outer" / "inner", seconds=1.5)
    bag(tmp_path / "in" / "outer2", seconds=1.6)
    shutil.move(tmp_path / "in/outer/inner", tmp_path / "in/outer2/inner")
    (tmp_path / "in/outer2/outer3.mcap").write_bytes(next(good.glob("*.mcap")).read_bytes())
    (tmp_path / "in/taken.mcap.1").write_bytes(next(good.glob("*.mcap")).read_bytes())
    (tmp_path / "in/data.h5").write_bytes(b"\x89HDF\r\n")
    (tmp_path / "in/.hidden.log").write_text("x")
    (tmp_path / "in/README.md").write_text("x")
    elsewhere = bag(tmp_path / "elsewhere" / "linked", seconds=1.7)
    (tmp_path / "in/link").symlink_to(elsewhere.parent, target_is_directory=True)
    (tmp_path / "in/again").symlink_to(good, target_is_directory=True)
    (tmp_path / "in/nowhere").symlink_to(tmp_path / "gone")
    (tmp_path / "in/episode_0001").mkdir()
    (tmp_path / "in/episode_0001/episode.json").write_text("{}")
    found = find([tmp_path / "in"])
    places = {str(path.relative_to(tmp_path / "in")): path for path in found.bags}
    assert set(places) == {"again", "outer2", "outer2/inner", "link/linked"}, "a folder that two ways lead to is taken once"
    reasons = {str(path.relative_to(tmp_path / "in")): reason for path, reason in found.strays}
    expected = {
        "lost/lost.db3": "needs its metadata.yaml; `ros2 bag reindex",
        "outer": "an empty folder",
        "outer2/outer3.mcap": "metadata.yaml beside it does not name this file",
        "taken.mcap.1": "metadata.yaml",
        "data.h5": "unknown suffix '.h5'",
        "good": "was looked into already",
        "nowhere": "a link that leads nowhere",
        "episode_0001": "an episode without its recording",
    }
    assert set(reasons) == set(expected) and all(text in reasons[name] for name, text in expected.items()), reasons
    assert found.beside == {".log": 1, ".md": 1, ".json": 1}
    said, dataset = made(tmp_path, status=1)
    assert len(dataset.views) == 4 and all(any(name in line for line in said) for name in expected)


def test_a_file_without_suffix_is_told_by_its_content_and_a_part_of_a_recording_stands_for_all_of_it(tmp_path):
    good = bag(tmp_path / "good")
    part = next(good.glob("*.mcap"))
    (tmp_path / "take_7").write_bytes(part.read_bytes())
    assert "by its content a recording (MCAP)" in find([tmp_path / "take_7"]).strays[0][1]
    split = bag(tmp_path / "lite", plugin=StoragePlugin.SQLITE3)
    assert find([next(split.glob("*.db3"))]).bags == [split]
    with pytest.raises(DataError, match="does not exist"):
        find([tmp_path / "gone"])


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_a_folder_that_may_not_be_read_is_named(tmp_path):
    (tmp_path / "closed").mkdir(mode=0)
    assert "cannot be read" in find([tmp_path]).strays[0][1]


@pytest.mark.parametrize("plugin", [StoragePlugin.SQLITE3, StoragePlugin.MCAP])
@pytest.mark.parametrize("mode", [CompressionMode.FILE, CompressionMode.MESSAGE])
def test_compressed_recordings_are_told_apart_by_their_bytes(tmp_path, plugin, mode):
    one, other = (bag(tmp_path / name, seconds=seconds, plugin=plugin, mode=mode) for name, seconds in (("a", 1.2), ("b", 1.3)))
    assert fingerprint(one) != fingerprint(other)
    shutil.copytree(one, tmp_path / "c")
    assert fingerprint(tmp_path / "c") == fingerprint(one)


def test_a_recording_of_ros_1_is_read(tmp_path):
    from rosbags.rosbag1 import Writer as Writer1
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS1_NOETIC)
    (tmp_path / "in").mkdir()
    with Writer1(tmp_path / "in/rec.bag") as writer:
        connections = {
            topic: writer.add_connection(topic, kind, typestore=store)
            for topic, kind in (("/cam", raw(0, 1.0).__msgtype__), ("/joint_states", joints(0, 1.0).__msgtype__))
        }
        rows = [(i / 10, "/cam", raw(i, START_S + i / 10)) for i in range(15)] + [(k / 100, "/joint_states", joints(k, START_S + k / 100)) for k in range(150)]
        for t, topic, message in sorted(rows, key=lambda row: row[0]):
            old = {name: getattr(message, name) for name in message.__dataclass_fields__ if name not in ("header", "__msgtype__")}
            stamp = message.header.stamp
            head = store.types["std_msgs/msg/Header"](
                seq=0, stamp=store.types["builtin_interfaces/msg/Time"](sec=stamp.sec, nanosec=stamp.nanosec), frame_id=""
            )
            data = store.serialize_ros1(store.types[message.__msgtype__](header=head, **old), message.__msgtype__)
            writer.write(connections[topic], round((START_S + t) * 1e9), data)
    _, dataset = made(tmp_path)
    assert dataset.views[0].columns()["observation.state"][3] == pytest.approx(angle(0.3), abs=1e-6)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda text: "", "metadata.yaml is not rosbag2's"),
        (lambda text: text.replace("storage_identifier: mcap", 'storage_identifier: ""'), "metadata.yaml is not rosbag2's"),
        (lambda text: text.replace("rec.mcap", "other.mcap"), "give them their names back"),
        (lambda text: "[1, 2", "not readable"),
    ],
)
def test_metadata_that_is_wrong_is_said_in_one_sentence(tmp_path, spoil, said):
    metadata = bag(tmp_path / "in/rec") / "metadata.yaml"
    metadata.write_text(spoil(metadata.read_text()))
    assert said in refusal(tmp_path)


# -- one bad message costs one frame ---------------------------------------------------------------------------------------
def test_one_bad_message_of_each_kind_costs_its_own_frame_and_is_named(tmp_path):
    def image(i, t):
        data = jpeg(i)
        return [compressed({12: data[: len(data) // 2], 25: b"", 38: b"no picture"}.get(i, data), 0.0 if i == 51 else t + 1e6 * (i == 64) - 1e6 * (i == 77))]

    def state(k, t):
        spoiled = {
            0: {"name": [], "position": np.zeros(0), "velocity": np.zeros(0)},
            50: {"position": np.zeros(7)},
            100: {"position": np.full(len(NAMES), np.nan)},
            150: {"velocity": np.zeros(0)},
            200: {"name": NAMES[:-1], "position": np.zeros(len(NAMES) - 1), "velocity": np.zeros(len(NAMES) - 1)},
        }
        return [joints(k, 0.0 if k == 250 else t + 3600.0 * (k == 300), **spoiled.get(k, {}))]

    bag(tmp_path / "in/rec", image, state, seconds=40.0)
    said, dataset = made(tmp_path)
    (view,) = dataset.views
    lost = {(loss["topic"], round(loss["first_s"], 2)): (loss["count"], loss["what"]) for loss in view.about["lost_messages"]}
    expected = {
        ("/cam", 1.2): "end marker", ("/cam", 2.5): "the message is empty", ("/cam", 3.8): "no picture that can be told", ("/cam", 5.1): "its stamp is zero",
        ("/cam", 6.4): "+1000000.000 s apart", ("/joint_states", 0.0): "names no joint", ("/joint_states", 0.5): "position has 7 entries for 33 names",
        ("/joint_states", 1.0): "not finite", ("/joint_states", 1.5): "velocities are missing", ("/joint_states", 2.0): "1 joints are missing",
        ("/joint_states", 2.5): "its stamp is zero", ("/joint_states", 3.0): "+3600.000 s apart",
    }  # fmt: skip
    assert set(lost) == set(expected) and all(text in lost[key][1] for key, text in expected.items()), lost
    assert lost["/cam", 6.4][0] == 2, "reasons that differ in numbers only are one"
    assert view.length == 400 - 6
    stamps = view.columns()["observation.stamp_s"][:, 0]
    assert set(range(400)) - set(np.round(stamps * 10).astype(int).tolist()) == {12, 25, 38, 51, 64, 77}
    assert view.columns()["observation.state"][10] == pytest.approx(angle(0.99), abs=1e-6), "at 1.00 s the neighbour stands in"
    assert sum("not used" in line for line in said) == len(expected)
    assert sum(finding.kind == "lost" for finding in check(tmp_path / "out", images=False)) == len(expected)


def test_a_camera_of_which_too_many_pictures_are_broken_is_refused_and_one_of_which_all_are_says_why(tmp_path):
    bag(tmp_path / "in/rec", lambda i, t: [raw(i, t, data=picture(i).ravel()[: 5 if i % 5 == 4 else None])])
    assert "4 of 20 images cannot be used, at most 2%" in refusal(tmp_path)
    shutil.rmtree(tmp_path / "in")
    bag(tmp_path / "in/rec", lambda i, t: [raw(i, t, encoding="32FC1")])
    assert "no message of /cam could be used: 32FC1 is a depth image" in refusal(tmp_path)
    shutil.rmtree(tmp_path / "in")
    bag(tmp_path / "in/rec", lambda i, t: [raw(i, 0.0)])
    assert "no message of /cam could be used: its stamp is zero" in refusal(tmp_path)
    shutil.rmtree(tmp_path / "in")
    bag(tmp_path / "in/rec", lambda i, t: [raw(i, t - START_S + 5.0)])
    assert "one clock must stamp both" in refusal(tmp_path)


def h264(count: int, options: dict[str, str]) -> list[bytes]:
    """One packet per picture."""
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base, encoder.options = 96, 64, "yuv420p", Fraction(1, 10), options
    packets = []
    for i in range(count):
        frame = av.VideoFrame.from_ndarray(picture(i), format="rgb24")
        frame.pts = i
        packets += [bytes(packet) for packet in encoder.encode(frame)]
    return packets + [bytes(packet) for packet in encoder.encode(None)]


@pytest.mark.parametrize("spoil", ["cut", "empty", "never came", "flipped"])
def test_video_packets_are_decoded_and_a_broken_one_costs_the_pictures_up_to_the_next_key_frame(tmp_path, spoil):
    packets = h264(30, {"g": "4", "bf": "0", "tune": "zerolatency", "crf": "10", "scenecut": "0"})
    broken = packets[14]
    broken = {"cut": broken[: len(broken) // 2], "empty": b"", "never came": None, "flipped": broken[:20] + bytes(b ^ 0x55 for b in broken[20:])}[spoil]
    packets[14] = broken
    bag(tmp_path / "in/rec", lambda i, t: [] if packets[i] is None else [compressed(packets[i], t, "h264")], seconds=3.0)
    _, dataset = made(tmp_path)
    view = dataset.views[0]
    stamps = np.round(view.columns()["observation.stamp_s"][:, 0] * 10).astype(int)
    assert sorted(set(range(30)) - set(stamps.tolist())) == [14, 15]
    for i, image in zip(stamps, view.images(dataset.cameras[0])):
        assert int(np.argmin([np.abs(image.astype(int) - picture(j)).mean() for j in range(30)])) == i, "the picture of this stamp, not of its neighbours"


def test_a_video_that_the_recording_enters_between_key_frames_begins_at_the_next_one(tmp_path):
    packets = h264(30, {"g": "5", "bf": "0", "tune": "zerolatency", "scenecut": "0"})[3:]
    bag(tmp_path / "in/rec", lambda i, t: [compressed(packets[i], t, "h264")], seconds=2.5)
    _, dataset = made(tmp_path)
    assert dataset.views[0].about["start_s"] == pytest.approx(START_S + 0.2)


def test_types_of_opencv_are_read_in_its_order_with_a_note_and_the_topic_map_can_say_otherwise(tmp_path):
    bag(tmp_path / "in/rec", lambda i, t: [raw(i, t, encoding="8UC3", data=picture(i)[..., ::-1].ravel())])
    said, dataset = made(tmp_path)
    first = next(iter(dataset.views[0].images(dataset.cameras[0])))
    assert np.abs(first.astype(int) - picture(0)).mean() < 12
    assert any("read as bgr8" in line for line in said)
    assert any("read as bgr8" in finding.text and finding.severity == "warning" for finding in check(tmp_path / "out", images=False))
    _, dataset = made(tmp_path, replace(MAP, image_encoding="rgb8"))
    first = next(iter(dataset.views[0].images(dataset.cameras[0])))
    assert np.abs(first.astype(int) - picture(0)[..., ::-1]).mean() < 12


@pytest.mark.parametrize("apart", [False, True], ids=["one topic", "two topics"])
def test_arms_and_legs_in_messages_of_their_own_are_joined_by_their_stamps(tmp_path, apart):
    half = len(NAMES) // 2

    def state(k, t):
        late = k + 0.4  # the arms' message is 4 ms younger
        arms = joints(late, t + 0.004, NAMES[half:])
        return [joints(k, t, NAMES[:half]), ("/arms", arms) if apart else arms]

    bag(tmp_path / "in/rec", state=state)
    topics = replace(MAP, joint_states=("/joint_states", "/arms")) if apart else MAP
    said, dataset = made(tmp_path, topics)
    columns = dataset.views[0].columns()
    assert columns["observation.state"][5, :half] == pytest.approx(angle(0.5)[:half], abs=1e-6)
    assert columns["observation.state"][5, half:] == pytest.approx(angle(0.504)[half:], abs=1e-6)
    assert np.abs(columns["observation.skew_s"]).max() == pytest.approx(0.004, abs=1e-6)
    assert not any("held at the default pose" in line for line in said)


def test_joints_that_nobody_names_are_named_and_hold_is_not_advised(tmp_path):
    bag(tmp_path / "in/rec", state=lambda k, t: [joints(k, t, NAMES[:10])])
    text = refusal(tmp_path)
    assert f"another robot? 23 of 33 joints of x2 are not named by any message, {NAMES[10:13]}" in text and "hold" not in text


# -- nothing invented looks measured -----------------------------------------------------------------------------------------
def test_velocities_that_are_not_measured_are_differences_of_positions_and_the_check_says_so(tmp_path):
    bag(tmp_path / "in/rec", state=lambda k, t: [joints(k, t, velocity=np.zeros(0))])
    _, dataset = made(tmp_path)
    columns = dataset.views[0].columns()
    times = np.arange(20) / 10
    expected = 0.1 * np.cos(2.0 * times[:, None] + np.arange(len(NAMES)))
    assert columns["observation.velocity"][1:] == pytest.approx(expected[1:], abs=2e-3)  # over 40 ms: 0.1 (1 - sin(0.04) / 0.04)
    notes = [finding.text for finding in check(tmp_path / "out", images=False) if finding.kind == "not measured"]
    assert any("no velocity of 33 joints" in note and "the difference of positions over 40 ms" in note for note in notes)


def test_one_joint_without_a_velocity_gets_its_difference_and_the_others_keep_theirs(tmp_path):
    def state(k, t):
        message = joints(k, t)
        message.velocity[:] = 7.0
        message.velocity[4] = np.nan
        return [message]

    bag(tmp_path / "in/rec", state=state)
    said, dataset = made(tmp_path)
    speed = dataset.views[0].columns()["observation.velocity"]
    assert (np.delete(speed, 4, axis=1) == 7.0).all() and np.abs(speed[:, 4]).max() < 0.11
    assert any(f"has no velocity of {NAMES[4]}" in line for line in said)


def test_held_joints_are_at_rest_at_the_default_pose_and_noted(tmp_path):
    bag(tmp_path / "in/rec", state=lambda k, t: [joints(k, t, NAMES[:30])])
    said, dataset = made(tmp_path, replace(MAP, missing_joints="hold"))
    columns = dataset.views[0].columns()
    assert columns["observation.state"][:, 30:] == pytest.approx(np.tile(ROBOT.default_q[30:], (20, 1)), abs=1e-6)
    assert (columns["observation.velocity"][:, 30:] == 0.0).all(), "not the default position"
    assert any(f"does not name {', '.join(NAMES[30:])}: not measured" in line for line in said)


def test_without_an_imu_there_is_no_column_of_it_and_without_decisions_a_note(tmp_path):
    bag(tmp_path / "in/rec")
    _, dataset = made(tmp_path)
    assert "observation.imu" not in dataset.features and dataset.names("observation.skew_s") == ["joint_states"]
    notes = " ".join(finding.text for finding in check(tmp_path / "out", images=False) if finding.severity == "warning")
    assert "no IMU was named" in notes and "no decision was named" in notes and "no joint command was named" in notes
    assert not [finding for finding in check(tmp_path / "out") if finding.severity == "error"]


def test_an_imu_that_says_that_it_has_no_orientation_gives_no_gravity(tmp_path):
    kind, zero = TYPES["sensor_msgs/msg/Imu"], np.zeros(9)
    vector, quaternion = TYPES["geometry_msgs/msg/Vector3"], TYPES["geometry_msgs/msg/Quaternion"]
    unknown = np.array([-1.0, *zero[1:]])

    def imu(k):
        still = vector(x=0.0, y=0.0, z=0.25)
        head = header(START_S + k / 100)
        return kind(head, quaternion(x=0.0, y=0.0, z=0.0, w=1.0), unknown, still, zero, vector(x=0.0, y=0.0, z=9.81), zero)

    bag(tmp_path / "in/rec", extra=[(k / 100, "/imu", imu(k)) for k in range(200)])
    said, dataset = made(tmp_path, replace(MAP, imu="/imu"))
    imu_column = dataset.views[0].columns()["observation.imu"]
    assert np.isnan(imu_column[:, 3:]).all() and (imu_column[:, :3] == np.float32([0.0, 0.0, 0.25])).all()
    assert any("/imu does not measure gravity" in line for line in said)
    assert not [finding for finding in check(tmp_path / "out") if finding.severity == "error"], "the NaN is announced"
    assert dataset.views[0].about["not_measured"] == {"observation.imu": dataset.names("observation.imu")[3:]}


def test_a_topic_map_that_cannot_be_used_is_refused_in_one_sentence(tmp_path):
    path = tmp_path / "map.yaml"
    for text, said in (
        ("image: /cam\njoint_states: {a: b}\n", "joint_states must be text"),
        ("image: /cam\njoint_states: /j\nmissing_joints: fill\n", "missing_joints must be refuse or hold"),
        ("image: [", "is not YAML"),
        ("image: /cam\njoint_states: /j\nrename: [a]\n", "rename must be names and their values"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=said):
            TopicMap.load(path)
    path.write_text("image: /cam\njoint_states: [/a, /b]\n")
    assert TopicMap.load(path).several("joint_states") == ("/a", "/b")
    with pytest.raises(DataError, match="No such file"):
        TopicMap.load(tmp_path / "gone.yaml")


def test_a_topic_of_another_kind_than_the_map_says_is_named(tmp_path):
    bag(tmp_path / "in/rec")
    assert "a topic map cannot use there" in refusal(tmp_path, TopicMap("/joint_states", "/cam"))


# -- the simulator's clock ---------------------------------------------------------------------------------------------------
def test_stamps_of_our_simulator_are_known_to_be_exact_and_motion_is_not_asked(tmp_path):
    """Every image carries the stamp of the state that it was drawn from; one that is there before the state that it claims to show is judged by motion."""
    states = [
        (k / 50, "/wbvla/sim/state", TYPES["wbvla_msgs/msg/SimState"](header=header(START_S + k / 50), **_blank(TYPES["wbvla_msgs/msg/SimState"])))
        for k in range(7, 300)
        if k % 65  # the recorder came later than the first image, and lost some
    ]
    for name, skew_s in (("exact", 0.0), ("late", 0.08)):
        source = write_bag(tmp_path / "plain" / name, camera_skew_s=skew_s)
        _copy_with(source, tmp_path / "in" / name, states)
        shutil.copy(source / "episode.json", tmp_path / "in" / name)
    said: list[str] = []
    assert convert([tmp_path / "in"], tmp_path / "out", typestore, log=said.append) == 1
    (view,) = open_dataset(tmp_path / "out").views
    assert view.about["source"].endswith("exact") and view.about["camera_clock"] == "exact" and view.about["camera_lag_s"] is None
    assert any("late: left out: skew: the camera's clock is -80" in line for line in said)


def _blank(kind) -> dict:
    """Values of a message's fields but its header: zeros and empty text."""
    out = {}
    for name, entry in kind.__dataclass_fields__.items():
        if name not in ("header", "__msgtype__") and entry.init:
            text = str(entry.type)
            out[name] = np.zeros(0) if "ndarray" in text else "" if "str" in text else 0
    return out


def _copy_with(source: Path, target: Path, extra: list) -> None:
    from rosbags.highlevel import AnyReader

    with AnyReader([source], default_typestore=STORE) as reader, Writer(target, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connections = {}
        for connection, at_ns, data in reader.messages():
            if connection.topic not in connections:
                connections[connection.topic] = writer.add_connection(connection.topic, connection.msgtype, typestore=STORE)
            writer.write(connections[connection.topic], at_ns, data)
        for t, topic, message in extra:
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, message.__msgtype__, typestore=STORE)
            writer.write(connections[topic], round((START_S + t) * 1e9), STORE.serialize_cdr(message, message.__msgtype__))


def test_the_note_beside_a_recording_is_json_or_named(tmp_path):
    recording = bag(tmp_path / "in/rec")
    (recording / "episode.json").write_text("{")
    said: list[str] = []
    with pytest.raises(DataError, match="no recording could be converted"):
        convert([tmp_path / "in"], tmp_path / "out", typestore, topics=MAP, log=said.append)
    assert "episode.json is not JSON" in "\n".join(said)
    (recording / "episode.json").write_text(json.dumps({"state": "discarded"}))
    assert find([tmp_path / "in"]).discarded == [recording]
