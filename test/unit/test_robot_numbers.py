"""A checkpoint goes with the numbers of the robot spec that it was trained with: which ones, and that others are refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from wbvla_core import checkpoint, robot_numbers
from wbvla_core.errors import CheckpointError
from wbvla_core.robot import RobotSpec, load_robot
from wbvla_core.robot_numbers import DEPENDS, EVERY, entries, numbers_of
from wbvla_core.types import RobotState
from wbvla_decoder.policy import ArmScaling, CommandFilter, FilterConfig, arm_state, decode_height
from wbvla_lmo.pipeline import LegPipeline, PipelineConfig
from wbvla_lmo.policy import LmoPolicy

ROOT = Path(__file__).resolve().parents[2]
X2 = load_robot("x2")
KINDS = ("lmo", "vla", "policy")


def moved(value):
    """The same value a little further: no number of the spec may be 1 mm, 1 mrad or a thousandth away unnoticed."""
    if isinstance(value, tuple):
        return (moved(value[0]), *value[1:]) if value else value
    if isinstance(value, str):
        return f"{value}_"
    return value + 1 if isinstance(value, int) else value + 1e-3


def with_changed(robot: RobotSpec, changes: list[tuple[str, str]]) -> RobotSpec:
    """The spec with each (entry, owner) of ``changes`` moved."""
    for entry, owner in changes:
        field, _, inner = entry.partition(".")
        value = getattr(robot, field)

        def part(old, inner=inner):
            return dataclasses.replace(old, **{inner: moved(getattr(old, inner))}) if inner else moved(old)

        if field in ("joints", "links"):
            new = tuple(part(old) if old.name == owner else old for old in value)
        elif isinstance(value, dict):
            new = value | {owner: part(value[owner])}
        else:
            new = part(value)
        robot = dataclasses.replace(robot, **{field: new})
    return robot


def name_of(entry: str, owner: str) -> str:
    return entry if owner == EVERY else f"{entry}.{owner}"


NUMBERS = [(entry, owner) for (entry, owner), value in entries(X2).items() if entry not in ("name", "version", "root")]


def test_the_table_has_every_field_of_the_robot_spec():
    assert {entry for entry, _ in entries(X2)} == set(DEPENDS)


@pytest.mark.parametrize("kind", KINDS)
def test_each_number_that_a_kind_depends_on_is_refused_when_it_changed_and_each_other_one_is_not(kind):
    made_for, recorded = checkpoint.robot_entry(X2, kind), numbers_of(X2, kind)
    assert len(recorded) == {"lmo": 380, "vla": 9, "policy": 60}[kind]
    for entry, owner in NUMBERS:
        robot, name = with_changed(X2, [(entry, owner)]), name_of(entry, owner)
        if name in recorded:
            with pytest.raises(CheckpointError, match=f"trained with other numbers .* {name} is .* in the checkpoint and") as refusal:
                checkpoint.require_robot("this one", made_for, robot)
            assert "train again" in str(refusal.value)
        else:
            checkpoint.require_robot("this one", made_for, robot)


def legs_and_arms(robot: RobotSpec) -> list[np.ndarray]:
    """What the code around the networks makes of one fixed walk: observations, leg targets, scaled arms and heights."""
    rng = np.random.default_rng(4)
    config = PipelineConfig.from_json(checkpoint.load_manifest(ROOT / "checkpoints/lmo/x2").extra["pipeline"])
    pipeline = LegPipeline(robot, config, 1)
    pipeline.reset(height_m=robot.default_stance_height_m)
    heard = []
    for _ in range(25):
        q, qd = rng.uniform(-0.1, 0.1, (2, 1, robot.joint_count))
        heard.append(pipeline.observe(np.array([[1.0, 0.0, 1.0]]), np.array([0.6]), 0.1 * q[:, :3], np.array([[0.0, 0.1, -0.99]]), q, qd))
        heard.append(pipeline.act(rng.uniform(-3, 3, (1, 12))))
        state = RobotState(0.0, q[0], qd[0], np.zeros(3), np.array((0.0, 0.0, -1.0)))
        heard += [arm_state(state, robot), ArmScaling.of(robot).decode(rng.uniform(-2, 2, 16)), np.array(decode_height(0.3, robot))]
    begun = CommandFilter(FilterConfig(), robot.stance_height_range_m, robot.default_stance_height_m).update(np.eye(3), 0.6)
    return [*heard, begun.as_array()]


def test_what_the_table_leaves_out_changes_no_number_that_the_running_policies_use():
    """Everything that neither legs nor policy depend on is moved at once."""
    used = numbers_of(X2, "lmo").keys() | numbers_of(X2, "policy").keys()
    left_out = [(e, o) for (e, o), v in entries(X2).items() if name_of(e, o) not in used and not isinstance(v, str) and e != "groups"]
    assert {e for e, _ in left_out} >= {"joints.armature", "joints.kp", "links.inertia", "torque_speed_knee", "camera.rate_hz", "sole.width"}
    changed = with_changed(X2, left_out)
    assert changed.torque_speed_knee == X2.torque_speed_knee + 1e-3
    for now, before in zip(legs_and_arms(changed), legs_and_arms(X2), strict=True):
        np.testing.assert_array_equal(now, before)


def shipped(tmp_path: Path, what: str, edit) -> Path:
    """A copy of the shipped checkpoints whose manifest of ``what`` was edited."""
    root = tmp_path / "checkpoints"
    shutil.copytree(ROOT / "checkpoints", root)
    path = root / what / checkpoint.MANIFEST_FILE
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(json.dumps(data))
    return root / what


def test_a_softer_knee_under_the_same_name_and_version_is_refused_by_the_leg_policy():
    robot = with_changed(X2, [("joints.effort_nm", "left_knee_joint")])
    with pytest.raises(CheckpointError, match="joints.effort_nm.left_knee_joint is 120.0 in the checkpoint and 120.001 in the robot spec"):
        LmoPolicy.load(ROOT / "checkpoints/lmo/x2", robot)
    LmoPolicy.load(ROOT / "checkpoints/lmo/x2", with_changed(X2, [("joints.kp", "left_gripper_joint")]))  # legs do not care


def test_another_default_pose_of_an_arm_or_camera_pitch_is_refused_by_policy_and_vla():
    from wbvla_vla.checkpoint import load_policy

    with pytest.raises(CheckpointError, match="policy/tiny was .*joints.default.left_elbow_joint is -0.5 in the checkpoint and -0.499"):
        load_policy(ROOT / "checkpoints/policy/tiny", with_changed(X2, [("joints.default", "left_elbow_joint")]))
    with pytest.raises(CheckpointError, match="frames.rpy.head_camera"):
        load_policy(ROOT / "checkpoints/policy/tiny", with_changed(X2, [("frames.rpy", "head_camera")]))


@pytest.mark.filterwarnings("error")
def test_shipped_checkpoints_record_all_their_numbers_and_load_in_silence():
    for kind, name in (("lmo", "x2"), ("vla", "tiny"), ("policy", "tiny")):
        manifest = checkpoint.load_manifest(ROOT / "checkpoints" / kind / name, robot=X2)
        assert manifest.unguarded(X2) == []


def test_an_older_manifest_without_numbers_says_so_and_is_held_to_those_in_its_normalisation(tmp_path):
    directory = shipped(tmp_path, "lmo/x2", lambda data: data["robot"].pop("numbers"))
    with pytest.warns(UserWarning, match="lmo/x2 does not record 380 numbers of its robot .*export it again"):
        checkpoint.load_manifest(directory, robot=X2)
    robot = with_changed(X2, [("joints.effort_nm", "left_hip_pitch_joint")])
    with pytest.warns(UserWarning), pytest.raises(CheckpointError, match="was trained with leg action_scale_rad"):
        LmoPolicy.load(directory, robot)


def test_an_older_policy_is_held_to_its_arm_scaling_and_stance_heights(tmp_path):
    from wbvla_vla.checkpoint import load_policy

    directory = shipped(tmp_path, "policy/tiny", lambda data: data["robot"].pop("numbers"))
    for change, named in ((("joints.upper", "left_elbow_joint"), "arms.half_range"), (("stance_height_range_m", EVERY), "stance_height_range_m")):
        with pytest.warns(UserWarning), pytest.raises(CheckpointError, match=f"trained with normalisation.{named}"):
            load_policy(directory, with_changed(X2, [change]))


def test_numbers_do_not_change_the_hash_by_which_others_name_a_checkpoint(tmp_path):
    before = checkpoint.load_manifest(ROOT / "checkpoints/vla/tiny")
    directory = shipped(tmp_path, "vla/tiny", lambda data: data["robot"].pop("numbers"))
    assert checkpoint.load_manifest(directory).hash == before.hash


def test_a_manifest_that_was_edited_by_hand_is_refused(tmp_path):
    directory = shipped(tmp_path, "policy/tiny", lambda data: data["extra"]["lora"].update(alpha=32))
    with pytest.raises(CheckpointError, match="changed after the export"):
        checkpoint.load_manifest(directory)


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (lambda data: data["outputs"]["arms"].update(dt_s=0.01), "outputs.arms.dt_s 0.01, its network has 0.1"),
        (lambda data: data["outputs"]["arms"]["joints"].reverse(), "outputs.arms.joints"),
        (lambda data: data["extra"]["decoder"].update(chunk_dt_s=-0.1), "decoder.chunk_dt_s must be at least 0.001, got -0.1"),
        (lambda data: data["extra"]["filter"].update(margin=5.0), r"filter.margin .* must lie in \[0, 1\), got 5.0"),
        (lambda data: data["extra"]["filter"].pop("margin") and data["extra"]["filter"].update(other=1), "does not know its settings 'filter'"),
        (lambda data: data["extra"].pop("lora"), "its settings lack 'lora'"),
        (lambda data: data["extra"].update(vla_name="../vla/tiny"), "expected the name of a VLA beside it"),
        (lambda data: data.update(rate_hz=1.0), "says 1.0 Hz, it runs at 10.0 Hz"),
        (lambda data: data["files"].update({"../../vla/tiny/model.safetensors": "0"}), "'files' must be a table of hashes"),
        (lambda data: data.update(robot=[]), "'robot' must be null or"),
    ],
)
def test_a_manifest_that_contradicts_its_network_is_refused_whoever_wrote_it(tmp_path, edit, named):
    from wbvla_vla.checkpoint import load_policy

    directory = shipped(tmp_path, "policy/tiny", edit)
    (directory / checkpoint.METRICS_FILE).unlink()  # which would tell that it was edited
    with pytest.raises(CheckpointError, match=named):
        load_policy(directory, X2)


def test_numbers_that_json_does_not_know_are_refused(tmp_path):
    directory = shipped(tmp_path, "policy/tiny", lambda data: data["extra"]["filter"].update(smoothing=float("nan")))
    with pytest.raises(CheckpointError, match="NaN is no number that JSON knows"):
        checkpoint.load_manifest(directory)


def test_two_values_are_the_same_up_to_a_millionth():
    assert robot_numbers.same([1.0, 2.0], (1.0, 2.0 + 9e-7)) and not robot_numbers.same([1.0, 2.0], [1.0, 2.0 + 2e-6])
    assert not robot_numbers.same([1.0], [1.0, 2.0]) and not robot_numbers.same(float("nan"), float("nan"))
    assert robot_numbers.same(["a", "b"], ["a", "b"]) and not robot_numbers.same("a", "b")
