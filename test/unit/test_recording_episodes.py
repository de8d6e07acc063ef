"""Episodes and audits: begun, kept, discarded, interrupted; what is wrong with a recording is said by name."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from rosbags.typesys import Stores, get_typestore

from wbvla_core.ros.tables import topic_table
from wbvla_teleop.recording.audit import Audit, as_table, audit_bag
from wbvla_teleop.recording.episodes import EpisodeError, Session
from wbvla_teleop.recording.storage import BagError, DiskFullError, bag_file, scan

STORE = get_typestore(Stores.ROS2_JAZZY)
START_NS = 1_700_000_000 * 10**9
JOINTS, CAMERA = "/wbvla/robot/joint_states", "/wbvla/camera/image_raw"
HEADER = "# a comment\n\nstd_msgs/Header header\nfloat64 x"


def stamped(stamp_ns: int, body: bytes = b"") -> bytes:
    return struct.pack("<4xiI", stamp_ns // 10**9, stamp_ns % 10**9) + body


def stream(audit: Audit, topic: str, rate_hz: float, seconds: float, *, skip=(), skew_s=lambda t: 0.001, body=lambda i: b"", kind="sensor_msgs/msg/JointState"):
    """Feed one topic: message i at i / rate, unless its time lies in a skipped span."""
    for i in range(round(rate_hz * seconds)):
        t = i / rate_hz
        if not any(low <= t < high for low, high in skip):
            at_ns = START_NS + round(t * 1e9)
            audit.add(topic, kind, HEADER, at_ns, stamped(at_ns - round(skew_s(t) * 1e9), body(i)))


def test_a_clean_recording_has_no_problems_and_exact_counts():
    audit = Audit(topic_table())
    stream(audit, JOINTS, 200.0, 10.0)
    report = audit.report()
    row = report["topics"][JOINTS]
    assert report["problems"] == []
    assert (row["received"], row["expected"], row["gaps"], row["rate_hz"]) == (2000, 2000, 0, 200.0)
    assert row["skew_s"] == {"median": 0.001, "p99": 0.001, "min": 0.001, "max": 0.001}
    assert report["topics"]["/wbvla/robot/imu"]["verdict"] == "silent", "a topic that nobody published is shown, not hidden"


def test_a_gap_is_found_where_it_is_and_counted_as_missing():
    audit = Audit(topic_table())
    stream(audit, JOINTS, 200.0, 10.0, skip=[(4.0, 5.0)])
    row = audit.report()["topics"][JOINTS]
    assert row["gaps"] == 1 and row["longest_gaps_s"] == [[3.995, 1.005]]
    assert row["expected"] - row["received"] == 200
    assert "200 of 2000 missing" in row["verdict"]


def test_silence_of_an_operator_is_no_gap():
    audit = Audit(topic_table())
    stream(audit, "/wbvla/teleop/loco_command", 10.0, 10.0, skip=[(2.0, 8.0)])
    assert audit.report()["problems"] == []


@pytest.mark.parametrize(
    ("skew_s", "said"),
    [
        (lambda t: 0.4, "lie +0.400 s"),
        (lambda t: -3600.0, "lie -3600.000 s"),
        (lambda t: 0.0 if t < 8 else 0.2, "wander"),
        (lambda t: 0.0 if t < 5 else 0.03, "backwards 1 times"),
    ],
)
def test_clocks_that_disagree_wander_or_jump_are_named(skew_s, said):
    audit = Audit(topic_table())
    stream(audit, JOINTS, 50.0, 10.0, skew_s=skew_s)
    assert said in audit.report()["topics"][JOINTS]["verdict"]


def robot_and_joystick(clock_s, camera_s) -> dict:
    """The audit of joint states, IMU, commands and camera whose stamps lie behind by ``clock_s(t)``, the camera's by ``camera_s(t)`` more."""
    audit = Audit(topic_table())
    rates = {"/wbvla/teleop/joy": 20, "/wbvla/teleop/loco_command": 10, JOINTS: 200, "/wbvla/robot/imu": 200, "/wbvla/lmo/joint_command": 50, CAMERA: 10}
    for at_ns, topic in sorted((START_NS + round(i / rate * 1e9), topic) for topic, rate in rates.items() for i in range(10 * rate)):
        t = (at_ns - START_NS) / 1e9
        skew_s = 0.001 if topic.endswith("joy") else clock_s(t) + (camera_s(t) if topic == CAMERA else 0.0)
        audit.add(topic, "sensor_msgs/msg/JointState", HEADER, at_ns, stamped(at_ns - round(skew_s * 1e9)))
    return audit.report()


def test_a_robot_whose_clock_is_off_or_slow_is_noted_once_and_is_no_problem():
    for clock_s in (lambda t: 0.5, lambda t: 0.3 + 0.2 * t, lambda t: -3600.0):
        report = robot_and_joystick(clock_s, lambda t: 0.01)
        assert report["problems"] == [] and len(report["notes"]) == 1 and "the robot's clock is" in as_table(report)
    assert robot_and_joystick(lambda t: 0.001, lambda t: 0.01)["notes"] == []


def test_a_topic_whose_clock_is_not_the_robots_is_a_problem_whatever_the_robots_clock_is():
    for clock_s in (lambda t: 0.001, lambda t: 1.7):
        assert [p.split(": ")[1] for p in robot_and_joystick(clock_s, lambda t: 0.4)["problems"]] == ["stamps lie +0.400 s from those of the joint states"]
        assert "wander" in robot_and_joystick(clock_s, lambda t: 0.0 if t < 8 else 0.2)["problems"][0]


def test_a_topic_that_all_nodes_share_has_neither_one_rate_nor_one_order():
    audit, topic = Audit(topic_table()), "/diagnostics"
    stream(audit, topic, 7.0, 4.0, skew_s=lambda t: -0.2 if t == 0 else 0.001, kind="diagnostic_msgs/msg/DiagnosticArray")
    row = audit.report()["topics"][topic]
    assert row["verdict"] == "ok" and row["expected"] == row["received"] == 28 and row["skew_s"]["min"] == -0.2


def test_an_episode_in_which_nobody_commands_is_noted():
    audit = Audit(topic_table())
    stream(audit, JOINTS, 200.0, 2.0)
    assert "nobody commanded the robot" in audit.report()["notes"][0]
    stream(audit, "/wbvla/vla/loco_command", 10.0, 2.0)
    assert audit.report()["notes"] == []


def test_what_was_said_long_before_an_episode_begins_is_neither_skew_nor_a_clock_that_goes_back():
    audit, topic = Audit(topic_table()), "/wbvla/robot/driver_state"
    stream(audit, topic, 2.0, 6.0, skew_s=lambda t: 0.4 if t == 0 else 0.001, kind="wbvla_msgs/msg/SafetyState")
    row = audit.report()["topics"][topic]
    assert row["verdict"] == "ok" and row["skew_s"]["max"] == 0.001 and row["received"] == 12


def test_a_frozen_camera_is_found_with_time_and_length_though_its_stamps_go_on():
    audit = Audit(topic_table())
    stream(audit, CAMERA, 10.0, 10.0, body=lambda i: bytes([min(i, 40) if i < 70 else i]), kind="sensor_msgs/msg/Image")
    row = audit.report()["topics"][CAMERA]
    assert row["freeze_s"] == 2.9 and "stood still for 2.90 s at 4.0 s" in row["verdict"]


def test_messages_dropped_by_the_recorder_and_an_empty_recording_are_problems():
    assert any("nothing was recorded" in p for p in Audit(topic_table()).report()["problems"])
    audit = Audit(topic_table())
    stream(audit, JOINTS, 200.0, 1.0)
    report = audit.report(lost=7)
    assert any("dropped 7" in p for p in report["problems"])
    assert "200 messages in 1.0 s, 7 lost" in as_table(report)


# -- sessions ------------------------------------------------------------------------------------------------------------------------
def begin(session: Session, instruction: str = "") -> None:
    bag = session.begin(instruction, notes="second try")
    joints = bag.connect(topic=JOINTS, msgtype="sensor_msgs/msg/JointState", typestore=STORE)
    for i in range(100):
        at_ns = START_NS + i * 5_000_000
        bag.write(joints, at_ns, stamped(at_ns, bytes(40)))


def facts(folder: Path) -> dict:
    return json.loads((folder / "episode.json").read_text(encoding="utf-8"))


def test_episodes_are_kept_discarded_and_numbered_on_and_nothing_is_deleted(tmp_path):
    session = Session(tmp_path / "s", topic_table())
    begin(session, "grüße die blaue Kiste")
    assert facts(tmp_path / "s" / "episode_0000")["state"] == "recording"
    with pytest.raises(EpisodeError, match="episode_0000 is being recorded"):
        session.begin()
    report = session.end()
    assert report["problems"] == [] and report["messages"] == 100
    begin(session)
    assert session.discard() == tmp_path / "s" / "discarded" / "episode_0001", "while it is recorded"
    begin(session)
    session.end()
    assert session.discard().name == "episode_0002", "after it was kept"
    with pytest.raises(EpisodeError, match="kept last, once"):
        session.discard()
    with pytest.raises(EpisodeError, match="no episode"):
        session.end()
    begin(session)
    session.end()
    session.close()
    kept, thrown = (sorted(p.name for p in folder.glob("episode_*")) for folder in (tmp_path / "s", tmp_path / "s" / "discarded"))
    assert (kept, thrown) == (["episode_0000", "episode_0003"], ["episode_0001", "episode_0002"])
    first = facts(tmp_path / "s" / "episode_0000")
    assert (first["instruction"], first["notes"], first["state"], first["messages"]) == ("grüße die blaue Kiste", "second try", "kept", 100)
    assert facts(tmp_path / "s" / "discarded" / "episode_0002")["state"] == "discarded"
    assert len(list(scan(bag_file(tmp_path / "s" / "discarded" / "episode_0001")))) == 100


def test_what_a_killed_recorder_left_is_mended_once_and_the_session_goes_on(tmp_path):
    session = Session(tmp_path, topic_table())
    begin(session, "wave")
    session.bag._writer.storage.close_chunk()
    session.bag._writer.storage.bio.close()  # as a kill does: no index, no metadata, state "recording"
    session.close()
    again = Session(tmp_path, topic_table())
    assert again.recovered == [("episode_0000", "mended: 100 messages")]
    assert (facts(tmp_path / "episode_0000")["state"], facts(tmp_path / "episode_0000")["instruction"]) == ("interrupted", "wave")
    assert audit_bag(tmp_path / "episode_0000", topic_table())["messages"] == 100
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    begin(again)
    again.end()
    again.close()
    assert Session(tmp_path, topic_table()).recovered == []
    assert all(path.read_bytes() == data for path, data in before.items())


def test_an_episode_that_holds_nothing_is_named_and_left(tmp_path):
    (tmp_path / "episode_0000").mkdir()
    (tmp_path / "episode_0000" / "episode_0000.mcap").write_bytes(b"")
    ((name, said),) = Session(tmp_path, topic_table()).recovered
    assert name == "episode_0000" and "left as it is" in said and "no MCAP" in said


def test_two_recorders_cannot_share_a_folder(tmp_path):
    session = Session(tmp_path, topic_table())
    with pytest.raises(EpisodeError, match="another recorder"):
        Session(tmp_path, topic_table())
    session.close()
    Session(tmp_path, topic_table()).close()


def test_no_episode_begins_where_the_disk_is_nearly_full(tmp_path):
    session = Session(tmp_path, topic_table(), min_free_bytes=10**18)
    with pytest.raises(DiskFullError, match="free"):
        session.begin()
    assert session.bag is None and not list(tmp_path.glob("episode_*"))


def test_a_running_episode_ends_when_space_runs_out_and_is_whole(tmp_path, monkeypatch):
    session = Session(tmp_path, topic_table())
    begin(session)
    session.bag._min_free = 10**18
    session.bag._checked_s = 0.0
    with pytest.raises(DiskFullError):
        session.bag.flush()
    assert session.end(ended_because="disk full")["complete"]
    assert len(list(scan(bag_file(tmp_path / "episode_0000")))) == 100
    assert facts(tmp_path / "episode_0000")["ended_because"] == "disk full"


def test_the_command_audits_a_session_and_refuses_what_is_none(tmp_path, capsys):
    from wbvla_cli.record_command import main

    session = Session(tmp_path / "s", topic_table())
    begin(session)
    session.end()
    session.close()
    assert main([str(tmp_path / "s"), "--audit"]) == 0
    assert "100 messages in 0.5 s" in capsys.readouterr().out
    with pytest.raises(BagError, match="does not exist"):
        main([str(tmp_path / "nowhere"), "--audit"])
