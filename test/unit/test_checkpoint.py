"""A checkpoint is trusted only where robot, joints, files, schema and parents fit; refusals name both sides."""

import dataclasses
import json

import pytest

from wbvla_core import checkpoint
from wbvla_core.errors import CheckpointError, ErrorCode
from wbvla_core.robot import load_robot


@pytest.fixture(scope="module")
def robot():
    return load_robot("x2")


@pytest.fixture
def saved(tmp_path, robot):
    (tmp_path / "policy.onnx").write_bytes(b"weights" * 100)
    return checkpoint.save_manifest(
        tmp_path,
        "lmo",
        "test",
        robot,
        inputs={"observation": {"shape": [1, 5], "unit": "mixed"}},
        outputs={"action": {"shape": (1, 2)}},
        rate_hz=50.0,
        files=["policy.onnx"],
        parents={"teacher": "abc"},
        extra={"history": 3},
    )


def edit(directory, **changes):
    path = directory / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_what_was_saved_is_read_back_with_the_same_hash(saved, robot):
    loaded = checkpoint.load_manifest(saved.directory, kind="lmo", robot=robot)
    assert loaded == saved and loaded.hash == saved.hash
    assert loaded.path("policy.onnx").read_bytes().startswith(b"weights")


def test_a_missing_directory_says_what_to_give(tmp_path):
    with pytest.raises(CheckpointError, match="manifest.json is not there") as refusal:
        checkpoint.load_manifest(tmp_path / "nowhere")
    assert refusal.value.code is ErrorCode.CHECKPOINT_MISSING


def test_a_truncated_weight_file_is_refused_before_it_is_loaded(saved):
    path = saved.directory / "policy.onnx"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="truncated or from another export") as refusal:
        checkpoint.load_manifest(saved.directory)
    assert refusal.value.code is ErrorCode.CHECKPOINT_CORRUPT


def test_a_missing_weight_file_is_named(saved):
    (saved.directory / "policy.onnx").unlink()
    with pytest.raises(CheckpointError, match="policy.onnx is missing"):
        checkpoint.load_manifest(saved.directory)


def test_a_half_written_manifest_is_refused(saved):
    path = saved.directory / "manifest.json"
    path.write_text(path.read_text()[:100])
    with pytest.raises(CheckpointError, match="not valid JSON"):
        checkpoint.load_manifest(saved.directory)


def test_another_kind_or_schema_is_refused_with_both_names(saved):
    with pytest.raises(CheckpointError, match="kind 'lmo', but 'vla' is needed"):
        checkpoint.load_manifest(saved.directory, kind="vla")
    edit(saved.directory, schema_version=99)
    with pytest.raises(CheckpointError, match="schema version 99, this code reads 1"):
        checkpoint.load_manifest(saved.directory)


def test_missing_and_unknown_manifest_fields_are_named(saved):
    edit(saved.directory, surprise=1)
    with pytest.raises(CheckpointError, match=r"missing \[\], unknown \['surprise'\]"):
        checkpoint.load_manifest(saved.directory)


def test_another_robot_is_refused_with_both_names(saved, robot):
    other = dataclasses.replace(robot, name="g1")
    with pytest.raises(CheckpointError, match=f"made for robot x2 {robot.version}, this one is g1"):
        checkpoint.load_manifest(saved.directory, robot=other)


def test_another_joint_order_is_refused_and_names_the_first_joint_that_differs(saved, robot):
    entry = checkpoint.robot_entry(robot)
    names = list(entry["joint_names"])
    names[0], names[1] = names[1], names[0]
    edit(saved.directory, robot={**entry, "joint_names": names})
    with pytest.raises(CheckpointError, match="joint 0 is 'left_hip_roll_joint' in the checkpoint and 'left_hip_pitch_joint' in the robot spec"):
        checkpoint.load_manifest(saved.directory, robot=robot)


def test_a_child_of_another_parent_is_refused_with_both_hashes(saved, tmp_path_factory, robot):
    directory = tmp_path_factory.mktemp("child")
    (directory / "model.safetensors").write_bytes(b"child")
    child = checkpoint.save_manifest(
        directory, "policy", "child", robot, inputs={}, outputs={}, rate_hz=10.0, files=["model.safetensors"], parents={"vla": saved}
    )
    checkpoint.require_parent(child, "vla", saved)
    (saved.directory / "policy.onnx").write_bytes(b"retrained")
    retrained = checkpoint.save_manifest(saved.directory, "lmo", "test", robot, inputs={}, outputs={}, rate_hz=50.0, files=["policy.onnx"])
    with pytest.raises(CheckpointError, match=f"hash {saved.hash[:12]}…, but .* has {retrained.hash[:12]}"):
        checkpoint.require_parent(child, "vla", retrained)
    with pytest.raises(CheckpointError, match="names no parent 'lam'"):
        checkpoint.require_parent(child, "lam", saved)


def test_writing_a_manifest_for_a_file_that_is_not_there_is_refused(tmp_path, robot):
    with pytest.raises(CheckpointError, match="was not written"):
        checkpoint.save_manifest(tmp_path, "lmo", "x", robot, inputs={}, outputs={}, rate_hz=None, files=["policy.onnx"])
    with pytest.raises(CheckpointError, match="kind must be one of"):
        checkpoint.save_manifest(tmp_path, "soup", "x", robot, inputs={}, outputs={}, rate_hz=None, files=[])


def test_nan_never_reaches_a_manifest(tmp_path, robot):
    with pytest.raises(ValueError):
        checkpoint.save_manifest(tmp_path, "lmo", "x", robot, inputs={}, outputs={}, rate_hz=None, files=[], extra={"bad": float("nan")})
