"""The whole-body controller: limits last, chunks stitched without a jump, foreign policies refused."""

import dataclasses
import json

import numpy as np
import onnx
import pytest
import torch

from wbvla_core import checkpoint
from wbvla_core.errors import CheckpointError, CommandError, StateError
from wbvla_core.robot import load_robot
from wbvla_core.types import ArmChunk, Decision, LocoCommand, RobotState
from wbvla_lmo.arms import ChunkFollower
from wbvla_lmo.controller import ControllerConfig, LmoController
from wbvla_lmo.pipeline import LegPipeline, PipelineConfig
from wbvla_lmo.policy import MODEL_FILE, LmoPolicy
from wbvla_train.lmo.config import STATE_FILE, TrainConfig
from wbvla_train.lmo.export import export_checkpoint
from wbvla_train.lmo.network import mlp

ROBOT = load_robot("x2")
LEGS, ARMS = ROBOT.indices("lmo_action"), ROBOT.indices("upper_body")
STAND = LocoCommand(stance_height_m=0.64)


class ConstantPolicy:
    """Gives the same residual every time; configured like a loaded policy."""

    def __init__(self, value: float) -> None:
        self.config, self.value = PipelineConfig(), value

    def __call__(self, observation: np.ndarray) -> np.ndarray:
        return np.full((len(observation), len(LEGS)), self.value, dtype=np.float32)


def state(stamp_s: float = 0.0, q: np.ndarray | None = None) -> RobotState:
    return RobotState(stamp_s, ROBOT.default_q if q is None else q, np.zeros(ROBOT.joint_count), np.zeros(3), np.array((0.0, 0.0, -1.0)))


def chunk(rows: np.ndarray, dt_s: float = 0.1) -> ArmChunk:
    return ArmChunk(ROBOT.names("upper_body"), np.asarray(rows, dtype=float), dt_s)


def decision(rows: np.ndarray, stamp_s: float = 0.0) -> Decision:
    return Decision(stamp_s, STAND, chunk(rows))


def controller(value: float = 0.0, **config) -> LmoController:
    c = LmoController(ROBOT, ConstantPolicy(value), ControllerConfig(**config))
    c.reset(state())
    return c


def test_working_ahead_changes_no_bit_whether_the_command_stays_or_not():
    """Gait, turns, stops, squats and states that make a foot catch the robot: the same targets with and without."""
    rng = np.random.default_rng(7)
    plain, ahead = controller(0.1), controller(0.1)
    loco, references = STAND, 0
    work = ahead.pipeline.gait.reference

    def counted(*args):
        nonlocal references
        references += 1
        return work(*args)

    ahead.pipeline.gait.reference = counted
    for i in range(400):
        if i % 23 == 0:
            loco = LocoCommand(*(int(v) for v in rng.integers(-1, 2, 3)), float(rng.choice((0.64, 0.5))))
        q = ROBOT.default_q + rng.normal(0.0, 0.05, ROBOT.joint_count)
        lean = rng.normal(0.0, 0.08)
        now = RobotState(i * 0.02, q, rng.normal(0.0, 0.5, ROBOT.joint_count), rng.normal(0.0, 0.3, 3), np.array((np.sin(lean), 0.0, -np.cos(lean))))
        expected, got = (c.tick(now, loco, i * 0.02) for c in (plain, ahead))
        np.testing.assert_array_equal(got.q, expected.q)
        ahead.anticipate(loco)
    assert references < 400 + 40 + 20  # one a tick, behind the command; again where the command changed (18 times) or a foot had to catch


@pytest.mark.parametrize("value", [1e3, -1e3])
def test_commands_stay_inside_the_limits_whatever_policy_and_chunk_ask(value):
    c = controller(value)
    c.set_decision(decision(np.full((4, len(ARMS)), value)), 0.0)
    for i in range(60):
        command = c.tick(state(i * 0.02), LocoCommand(1, 1, 1, 0.46), i * 0.02)
        assert np.all(command.q >= ROBOT.lower) and np.all(command.q <= ROBOT.upper)


def test_every_joint_has_gains_and_what_nobody_commands_stays_at_the_default_pose():
    command = controller().tick(state(1.5), STAND, 0.0)
    command.validate(ROBOT.joint_count)
    assert command.stamp_s == 1.5, "the answer carries the stamp of the state that it answers"
    rest = np.setdiff1d(np.arange(ROBOT.joint_count), np.concatenate((LEGS, ARMS)))
    np.testing.assert_array_equal(command.q[rest], ROBOT.default_q[rest])
    np.testing.assert_array_equal(command.kp, ROBOT.kp)


def test_arms_begin_where_they_are_measured_and_hold_without_a_chunk():
    q = ROBOT.default_q.copy()
    q[ROBOT.joint_names.index("left_elbow_joint")] = -1.2
    c = LmoController(ROBOT, ConstantPolicy(0.0))
    c.reset(state(q=q))
    for i in range(20):
        command = c.tick(state(), STAND, i * 0.02)
    assert command.q[ROBOT.joint_names.index("left_elbow_joint")] == pytest.approx(-1.2)


def test_chunk_is_followed_at_the_time_its_rows_are_due_with_latency_taken_out():
    """Rows 0.1, 0.2, ... at stamp + 0.1, + 0.2, ...: a ramp of 1 rad/s from the stamp on, also when it comes 0.1 s late."""
    start = ROBOT.default_q[ARMS]
    ramp = start + np.arange(1, 11)[:, None] * 0.1 * (np.arange(len(ARMS)) == 0)
    c = controller(blend_s=0.1)
    c.tick(state(), STAND, 10.1)
    c.set_decision(decision(ramp, stamp_s=10.0), 10.1)
    for i in range(1, 31):
        command = c.tick(state(), STAND, 10.1 + i * 0.02)
    assert command.q[ARMS[0]] - start[0] == pytest.approx(0.7, abs=1e-9)  # 10.7 s, 0.7 s after the stamp


def test_a_new_chunk_makes_no_jump_and_arrives_at_its_own_plan():
    rng = np.random.default_rng(0)
    limit = np.full(3, 100.0)
    follower = ChunkFollower(np.zeros(3), limit, blend_s=0.15)
    names = ("a", "b", "c")
    last, now = follower.step(0.0), 0.0
    for _ in range(10):
        rows = rng.uniform(-0.5, 0.5, (5, 3))
        follower.set_chunk(ArmChunk(names, rows, 0.1), now, 0.04)
        np.testing.assert_allclose(follower._plan(now) + follower._offset, last, atol=1e-12)
        for _ in range(5):
            now += 0.02
            new = follower.step(now)
            # rows differ by at most 1 rad in 0.1 s, and an old offset of at most 1 rad fades in 0.15 s with a peak slope of 1.5 / 0.15
            assert np.abs(new - last).max() <= 0.02 * (1.0 / 0.1 + 1.5 / 0.15) + 1e-9
            last = new
    np.testing.assert_allclose(follower.step(now + 1.0), rows[-1])


def test_arm_targets_never_exceed_the_speed_limit():
    c = controller(arm_speed_rad_s=2.0)
    far = np.where(ROBOT.upper[ARMS] > 0, ROBOT.upper[ARMS], ROBOT.lower[ARMS])
    c.tick(state(), STAND, 0.0)
    c.set_decision(decision(np.tile(far, (3, 1))), 0.0)
    targets = [c.tick(state(), STAND, i * 0.02).q[ARMS] for i in range(1, 150)]
    assert np.abs(np.diff(targets, axis=0)).max() <= 2.0 * 0.02 + 1e-12
    revolute = [j for j, n in enumerate(ROBOT.names("upper_body")) if ROBOT.joint(n).kind == "revolute"]
    np.testing.assert_allclose(np.array(targets[-1])[revolute], far[revolute])


def test_bad_chunks_states_and_commands_are_refused_and_change_nothing():
    c = controller()
    before = c.arm_target
    with pytest.raises(CommandError, match="shape"):
        c.set_decision(decision(np.zeros((4, len(ARMS) - 1))), 0.0)
    with pytest.raises(CommandError, match="finite"):
        c.set_decision(decision(np.full((4, len(ARMS)), np.nan)), 0.0)
    with pytest.raises(StateError):
        c.tick(dataclasses.replace(state(), gyro=np.array((np.nan, 0, 0))), STAND, 0.0)
    with pytest.raises(CommandError):
        c.tick(state(), LocoCommand(2, 0, 0, 0.64), 0.0)
    with pytest.raises(CommandError):
        c.tick(state(), LocoCommand(0, 0, 0, 0.3), 0.0)
    np.testing.assert_array_equal(c.arm_target, before)
    assert c.pipeline.observation._fresh[0], "no frame entered the history"


def test_gains_rise_from_zero_over_the_start_ramp():
    c = controller(start_ramp_s=1.0)
    gains = [c.tick(state(), STAND, t).kp[0] / ROBOT.kp[0] for t in (5.0, 5.5, 6.0, 9.0)]
    assert gains == pytest.approx([0.0, 0.5, 1.0, 1.0])


# ------------------------------------------------------------------------------------------------- loading


@pytest.fixture
def exported(tmp_path):
    """A small random policy, exported as training does."""
    config = dataclasses.replace(TrainConfig(), ppo=dataclasses.replace(TrainConfig().ppo, layers=(16, 8)))
    size = LegPipeline(ROBOT, config.pipeline, 1).observation.size
    torch.manual_seed(0)
    body, head = mlp([size, 16, 8]), torch.nn.Linear(8, len(LEGS))
    policy = {f"mlp_extractor.policy_net.{k}": v for k, v in body.state_dict().items()} | {f"action_net.{k}": v for k, v in head.state_dict().items()}
    state = {"policy": policy, "config": json.dumps(dataclasses.asdict(config)), "steps": 7, "wall_s": 1.0, "curriculum": {"difficulty": 0.0}}
    torch.save(state, tmp_path / STATE_FILE)
    export_checkpoint(tmp_path, tmp_path / "x2")
    return tmp_path / "x2"


def test_exported_policy_loads_and_its_manifest_says_all_that_the_node_needs(exported):
    policy = LmoPolicy.load(exported, ROBOT)
    manifest = policy.manifest
    assert manifest.rate_hz == 50.0 and manifest.extra["target_hold"] == "zero-order"
    assert manifest.outputs["action"]["joints"] == list(ROBOT.names("lmo_action"))
    assert manifest.normalisation == {} and manifest.robot["numbers"]["joints.kp.left_knee_joint"] == 150.0
    metrics = json.loads((exported / "metrics.json").read_text())
    assert (metrics["steps"], metrics["layers"], metrics["manifest"]) == (7, [16, 8], manifest.hash)
    c = LmoController(ROBOT, policy)
    c.reset(state())
    c.tick(state(), STAND, 0.0)


def test_policy_of_another_robot_is_refused_naming_both(exported):
    with pytest.raises(CheckpointError, match="x2"):
        LmoPolicy.load(exported, load_robot("x2_v140"))


def test_policy_trained_with_other_gains_is_refused(exported):
    softer = dataclasses.replace(ROBOT, joints=tuple(dataclasses.replace(j, kp=j.kp * 0.5) for j in ROBOT.joints))
    with pytest.raises(CheckpointError, match="kp"):
        LmoPolicy.load(exported, softer)


def test_truncated_or_missing_policy_is_refused(exported):
    model = exported / MODEL_FILE
    model.write_bytes(model.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="truncated"):
        LmoPolicy.load(exported, ROBOT)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        LmoPolicy.load(exported / "nowhere", ROBOT)


def edit(exported, change):
    """Rewrite the manifest; without the page of metrics, which would tell that it was."""
    manifest = json.loads((exported / checkpoint.MANIFEST_FILE).read_text())
    change(manifest)
    (exported / checkpoint.MANIFEST_FILE).write_text(json.dumps(manifest))
    (exported / checkpoint.METRICS_FILE).unlink()


def test_network_that_reads_another_observation_is_refused(exported):
    def shorter(manifest):
        manifest["extra"]["pipeline"]["observation"]["history"] = 5
        manifest["inputs"]["observation"]["shape"][1] = size

    config = PipelineConfig.from_json({"observation": {**dataclasses.asdict(TrainConfig().pipeline.observation), "history": 5}})
    size = LegPipeline(ROBOT, config, 1).observation.size
    edit(exported, shorter)
    with pytest.raises(CheckpointError, match=rf"the network reads \d+ numbers, this code builds {size}"):
        LmoPolicy.load(exported, ROBOT)


def test_weights_that_are_not_finite_are_refused_at_load_and_at_export(exported, tmp_path):
    state = torch.load(tmp_path / STATE_FILE, weights_only=True)
    state["policy"]["action_net.bias"][3] = torch.nan
    torch.save(state, tmp_path / STATE_FILE)
    with pytest.raises(CheckpointError, match="action_net.bias is not finite, the training diverged; take an older state"):
        export_checkpoint(tmp_path, tmp_path / "nan")
    assert not (tmp_path / "nan").exists()
    network = onnx.load(exported / MODEL_FILE)
    weight = next(part for part in network.graph.initializer if part.name == "weight_0")
    values = onnx.numpy_helper.to_array(weight).copy()
    values[5, 7] = np.inf
    weight.CopyFrom(onnx.numpy_helper.from_array(values, "weight_0"))
    onnx.save(network, exported / MODEL_FILE)
    edit(exported, lambda manifest: manifest["files"].update({MODEL_FILE: checkpoint.sha256_file(exported / MODEL_FILE)}))
    with pytest.raises(CheckpointError, match="gives actions that are not finite"):
        LmoPolicy.load(exported, ROBOT)


def test_what_is_no_network_is_refused_by_name(exported):
    (exported / MODEL_FILE).write_bytes(b"garbage")
    edit(exported, lambda manifest: manifest["files"].update({MODEL_FILE: checkpoint.sha256_file(exported / MODEL_FILE)}))
    with pytest.raises(CheckpointError, match="policy.onnx is no network that can be run"):
        LmoPolicy.load(exported, ROBOT)


def test_policy_of_a_newer_version_is_refused_naming_what_is_not_known(exported):
    edit(exported, lambda manifest: manifest["extra"]["pipeline"]["gait"].update(hops=True))
    with pytest.raises(CheckpointError, match="hops.*or use the wbvla that wrote it"):
        LmoPolicy.load(exported, ROBOT)
