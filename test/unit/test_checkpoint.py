"""A checkpoint is trusted only where robot, joints, files, schema and parents fit; refusals name both sides."""

import dataclasses
import errno
import json
import os
import stat
import subprocess
import sys

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


# ------------------------------------------------------------------------------------------------- writing


def export(directory, robot, weights: bytes, metrics: dict | None = None):
    with checkpoint.writing(directory) as folder:
        (folder / "policy.onnx").write_bytes(weights)
        os.chmod(folder / "policy.onnx", 0o600)  # as safetensors leaves it
        manifest = checkpoint.save_manifest(folder, "lmo", "x", robot, inputs={}, outputs={}, rate_hz=50.0, files=["policy.onnx"])
        if metrics is not None:
            checkpoint.write_json(folder / "metrics.json", {**metrics, "manifest": manifest.hash})
    return manifest


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_every_file_of_a_checkpoint_has_the_mode_of_a_new_file(tmp_path, robot, umask, mode):
    before = os.umask(umask)
    try:
        export(tmp_path / "x", robot, b"weights", {})
    finally:
        os.umask(before)
    files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "x").iterdir()}
    assert files == {"policy.onnx": mode, "manifest.json": mode, "metrics.json": mode}


def test_an_export_that_fails_leaves_the_checkpoint_before_it_whole(tmp_path, robot):
    before = export(tmp_path / "x", robot, b"first", {})
    with pytest.raises(KeyboardInterrupt), checkpoint.writing(tmp_path / "x") as folder:
        (folder / "policy.onnx").write_bytes(b"second")
        raise KeyboardInterrupt
    assert checkpoint.load_manifest(tmp_path / "x").hash == before.hash
    assert sorted(path.name for path in (tmp_path / "x").iterdir()) == ["manifest.json", "metrics.json", "policy.onnx"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("I/O error: No space left on device (os error 28)")])
def test_a_full_disk_is_one_sentence_and_leaves_the_checkpoint_before_it_whole(tmp_path, robot, error):
    before = export(tmp_path / "x", robot, b"first", {})
    refused = pytest.raises(CheckpointError, match="cannot write the checkpoint .*No space left on device; what it held before is untouched")
    with refused, checkpoint.writing(tmp_path / "x"):
        raise error
    assert checkpoint.load_manifest(tmp_path / "x").hash == before.hash


def test_metrics_of_an_earlier_export_do_not_stay_beside_a_later_one(tmp_path, robot):
    export(tmp_path / "x", robot, b"first", {})
    export(tmp_path / "x", robot, b"second")
    assert checkpoint.load_manifest(tmp_path / "x").files["policy.onnx"] == checkpoint.sha256_file(tmp_path / "x/policy.onnx")
    assert not (tmp_path / "x/metrics.json").exists()


def test_what_a_killed_export_left_is_removed_by_the_next(tmp_path, robot):
    script = f"""
import os, signal
from wbvla_core import checkpoint
with checkpoint.writing({str(tmp_path / "x")!r}) as folder:
    (folder / "policy.onnx").write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    assert [path.name for path in (tmp_path / "x").iterdir()] != []
    export(tmp_path / "x", robot, b"whole")  # the dead process holds no lock
    assert sorted(path.name for path in (tmp_path / "x").iterdir()) == ["manifest.json", "policy.onnx"]


def test_two_exports_into_one_folder_take_turns(tmp_path, robot):
    """The second process comes while the first writes, and its files are the ones that lie there in the end, all of them."""
    script = f"""
from wbvla_core import checkpoint
from wbvla_core.robot import load_robot
print("asks", flush=True)
with checkpoint.writing({str(tmp_path / "x")!r}) as folder:
    (folder / "policy.onnx").write_bytes(b"of the second")
    checkpoint.save_manifest(folder, "lmo", "x", load_robot("x2"), inputs={{}}, outputs={{}}, rate_hz=50.0, files=["policy.onnx"])
"""
    with checkpoint.writing(tmp_path / "x") as folder:
        second = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        assert second.stdout.readline() == "asks\n"
        (folder / "policy.onnx").write_bytes(b"of the first")
        checkpoint.save_manifest(folder, "lmo", "x", robot, inputs={}, outputs={}, rate_hz=50.0, files=["policy.onnx"])
        assert second.poll() is None
    with second:
        assert second.wait(60) == 0
    checkpoint.load_manifest(tmp_path / "x")
    assert (tmp_path / "x/policy.onnx").read_bytes() == b"of the second"
