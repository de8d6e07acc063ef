"""Arm motions for training and evaluation: the synthetic corpus, the replay law, recorded segments, the arms' share in balance."""

import numpy as np
import pytest

from wbvla_core.robot import load_robot
from wbvla_lmo.arm_mass import ArmMass
from wbvla_lmo.arm_motion import ArmRecording, ArmReplay, ReplayConfig, synthetic_recordings
from wbvla_lmo.arm_recordings import RecordingError, load_recordings
from wbvla_lmo.leg_kinematics import centre_of_mass
from wbvla_lmo.observation import ObservationConfig, posture_joints

ROBOT = load_robot("x2")
EVERY = np.arange(ROBOT.joint_count)
DT_S = 0.02
ELBOW = "left_elbow_joint"
EXACT = ReplayConfig(length_s=(1.0, 1.0), rate=(1.2, 1.2), jitter=0.0, noise_rad=0.0, pause_s=1e9, speed_limit_rad_s=100.0)


def ramp(seconds: float = 1.0, slope: float = -1.0) -> ArmRecording:
    """The left elbow goes from its default at ``slope`` rad/s."""
    times = np.arange(0.0, seconds + 1e-9, 0.02)
    start = ROBOT.default_q[ROBOT.joint_names.index(ELBOW)]
    return ArmRecording((ELBOW,), times, (start + slope * times)[:, None])


def replay(config: ReplayConfig = EXACT, count: int = 1, **factors) -> ArmReplay:
    arms = ArmReplay(ROBOT, EVERY, [ramp()], count, np.random.default_rng(0), config, **factors)
    arms.reset(np.arange(count), 1.0)
    return arms


def test_replay_follows_the_omega_law_worked_out_by_hand():
    """omega_i = min(1, 0.024 i): a ramp of 1 rad/s of the recording comes out at 1.2 rad/s and ends after 1 s of it, at tick 42."""
    arms = replay()
    got = [arms.step(DT_S, 1.0)[0, 0] - arms.default[0] for _ in range(60)]
    np.testing.assert_allclose(got, [-min(1.0, 0.024 * i) for i in range(1, 61)], atol=1e-9)
    assert got[40] > -1.0 and got[41] == pytest.approx(-1.0)


def test_jitter_is_drawn_every_tick_within_its_bounds_and_rate_and_length_once_per_replay():
    config = ReplayConfig(noise_rad=0.0)
    arms = ArmReplay(ROBOT, EVERY, [ramp(10.0, -0.1)], 500, np.random.default_rng(1), config)
    assert 0.8 <= arms.gamma.min() < 0.85 and 1.45 < arms.gamma.max() <= 1.5
    assert 0.8 <= arms.length_s.min() < 0.85 and 2.4 < arms.length_s.max() <= 2.5
    gamma, steps, last = arms.gamma.copy(), [], arms.omega.copy()
    for _ in range(20):  # the shortest replay lasts 0.8 s / 1.75
        arms.step(DT_S, 1.0)
        steps.append((arms.omega - last) / DT_S)
        last = arms.omega.copy()
    delta = np.array(steps) - gamma
    assert np.abs(delta).max() <= 0.25 + 1e-9 and delta.std() == pytest.approx(0.25 / np.sqrt(3), rel=0.05)
    np.testing.assert_array_equal(arms.gamma, gamma)


def test_epsilon_has_the_papers_spread():
    arms = ArmReplay(ROBOT, EVERY, [ramp(1.0, 0.0)], 400, np.random.default_rng(2), ReplayConfig())
    targets = np.array([arms.step(DT_S, 1.0) for _ in range(50)])
    assert targets.std() == pytest.approx(0.05, rel=0.05)


def test_twice_the_speed_and_one_and_a_half_times_the_amplitude():
    """At 2.0 the ramp is over after 21 ticks instead of 42; at 1.5 it ends 1.5 rad away."""
    fast, wide = replay(speed=2.0), replay(amplitude=1.5)
    got = np.array([fast.step(DT_S, 1.0)[0, 0] - fast.default[0] for _ in range(42)])
    assert got[19] > -1.0 and got[20] == pytest.approx(-1.0)
    np.testing.assert_allclose([wide.step(DT_S, 1.0)[0, 0] - wide.default[0] for _ in range(60)][-1], -1.5, atol=1e-9)


def test_scale_shrinks_the_motion_about_the_default_posture():
    arms = replay()
    arms.reset(np.array([0]), 0.5)
    assert [arms.step(DT_S, 0.5)[0, 0] - arms.default[0] for _ in range(60)][-1] == pytest.approx(-0.5)
    arms.reset(np.array([0]), 0.0)
    assert arms.step(DT_S, 0.0)[0, 0] == arms.default[0]


def test_targets_of_the_synthetic_corpus_stay_inside_limits_and_never_jump_from_one_replay_to_the_next():
    arms = ArmReplay(ROBOT, EVERY, synthetic_recordings(ROBOT, 8), 64, np.random.default_rng(3), speed=2.0, amplitude=1.5)
    smooth, targets = [], []
    for _ in range(600):
        targets.append(arms.step(DT_S, 1.0).copy())
        smooth.append(arms.smooth.copy())
    targets, smooth = np.array(targets), np.array(smooth)
    assert np.all(targets >= ROBOT.lower[arms.joints]) and np.all(targets <= ROBOT.upper[arms.joints])
    assert np.abs(np.diff(smooth, axis=0)).max() <= ReplayConfig().speed_limit_rad_s * DT_S + 1e-9


def test_synthetic_motions_are_teleoperation_like_and_the_same_seed_gives_the_same():
    corpus, again = (synthetic_recordings(ROBOT, 16, seed=5) for _ in range(2))
    assert all(np.array_equal(a.positions, b.positions) for a, b in zip(corpus, again, strict=True))
    assert not np.array_equal(corpus[0].positions[:50], synthetic_recordings(ROBOT, 1, seed=6)[0].positions[:50])
    names = corpus[0].names
    column = {n: np.concatenate([r.positions[:, names.index(n)] for r in corpus]) for n in names}
    speed = np.concatenate([np.abs(np.diff(r.positions, axis=0)).max(axis=1) * 50 for r in corpus])
    assert np.quantile(speed, 0.99) < 2.6 and speed.mean() > 0.3
    assert column["left_shoulder_pitch_joint"].min() < -1.5, "arms go up"
    assert np.quantile(column["right_elbow_joint"], 0.05) < -1.6, "and bend"
    pitch = np.corrcoef(column["left_shoulder_pitch_joint"], column["right_shoulder_pitch_joint"])[0, 1]
    assert 0.1 < pitch < 0.9, "both arms work together, but not always"


def test_shift_of_the_centre_of_mass_by_the_arms_is_the_whole_bodys_own():
    arms = ArmMass(ROBOT, posture_joints(ROBOT, ObservationConfig()))
    rng = np.random.default_rng(4)
    moved = [n for n in posture_joints(ROBOT, ObservationConfig()) if n in ROBOT.names("arms")]
    index = [ROBOT.joint_names.index(n) for n in moved]
    for _ in range(5):
        q, qd = ROBOT.default_q.copy(), np.zeros(ROBOT.joint_count)
        q[index], qd[index] = rng.uniform(ROBOT.lower[index], ROBOT.upper[index]), rng.normal(0, 1, len(index))
        shift, rate = arms(q[None], qd[None])
        np.testing.assert_allclose(shift[0], centre_of_mass(ROBOT, q) - centre_of_mass(ROBOT, ROBOT.default_q), atol=1e-9)
        later = centre_of_mass(ROBOT, q + 1e-5 * qd) - centre_of_mass(ROBOT, q)
        np.testing.assert_allclose(rate[0], later / 1e-5, atol=1e-3)


# ------------------------------------------------------------------------------------------------- recorded segments


def test_a_bag_of_joint_states_becomes_segments_split_at_silences(tmp_path):
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_JAZZY)
    types = store.types
    times = np.concatenate((np.arange(0, 2, 0.01), np.arange(5, 8, 0.01)))  # a pause of 3 s
    names = ["left_knee_joint", "left_elbow_joint", "right_elbow_joint"]
    with Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection("/robot/joint_states", "sensor_msgs/msg/JointState", typestore=store)
        for t in times:
            stamp = types["builtin_interfaces/msg/Time"](sec=int(t + 100), nanosec=int(round((t % 1) * 1e9)) % 1_000_000_000)
            header = types["std_msgs/msg/Header"](stamp=stamp, frame_id="")
            message = types["sensor_msgs/msg/JointState"](header, names, np.array([9.0, -t / 10, -0.5]), np.zeros(0), np.zeros(0))
            writer.write(connection, int((t + 100) * 1e9), store.serialize_cdr(message, "sensor_msgs/msg/JointState"))
    got = load_recordings(tmp_path / "bag", ROBOT)
    assert [r.names for r in got] == [("left_elbow_joint", "right_elbow_joint")] * 2, "the knee is no arm joint"
    assert [round(r.times_s[-1], 1) for r in got] == [2.0, 3.0]
    np.testing.assert_allclose(got[1].positions[0], (-0.5, -0.5), atol=1e-3)
    ArmReplay(ROBOT, EVERY, got, 2, np.random.default_rng(0)).step(DT_S, 1.0)


def test_an_npz_is_read_and_what_cannot_be_used_is_refused_with_its_reason(tmp_path):
    r = ramp(3.0, -0.1)
    np.savez(tmp_path / "good.npz", names=np.array(r.names), times_s=r.times_s, positions=r.positions)
    assert load_recordings(tmp_path / "good.npz", ROBOT)[0].times_s[-1] == pytest.approx(3.0)
    np.savez(tmp_path / "other.npz", names=np.array(["wheel"]), times_s=r.times_s, positions=r.positions)
    with pytest.raises(RecordingError, match="wheel"):
        load_recordings(tmp_path / "other.npz", ROBOT)
    with pytest.raises(RecordingError, match="nothing"):
        load_recordings(tmp_path / "nowhere", ROBOT)
    (tmp_path / "folder").mkdir()
    with pytest.raises(RecordingError, match="expected a rosbag2 folder"):
        load_recordings(tmp_path / "folder", ROBOT)
    with pytest.raises(ValueError, match="at least one recording"):
        ArmReplay(ROBOT, EVERY, [], 1, np.random.default_rng(0))


def test_a_lerobot_data_set_becomes_one_segment_per_episode(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    import json

    (tmp_path / "meta").mkdir()
    (tmp_path / "data" / "chunk-000").mkdir(parents=True)
    (tmp_path / "meta" / "info.json").write_text(json.dumps({"features": {"observation.state": {"names": [ELBOW]}}}))
    times = np.tile(np.arange(0, 2, 0.1), 2)
    table = pyarrow.table({"episode_index": np.repeat([0, 1], 20), "timestamp": times, "observation.state": [[-t / 10] for t in times]})
    parquet.write_table(table, tmp_path / "data" / "chunk-000" / "file-000.parquet")
    assert len(load_recordings(tmp_path, ROBOT)) == 2
