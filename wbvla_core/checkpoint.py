"""Checkpoint directories that explain themselves, and refuse to be used for something else.

``checkpoints/<kind>/<name>/`` holds ``manifest.json``, the weights (``model.safetensors`` or ``policy.onnx``) and
``metrics.json``. The manifest is the contract between training and the nodes: robot and joint order, inputs and
outputs with shapes, units and rates, normalisation, the hash of each file, the git commit, and the hashes of the
parents (a VLA names its LAMs, a policy its VLA). A node hands what it expects to :func:`load_manifest`, which raises
:class:`~wbvla_core.errors.CheckpointError` naming both sides. No file of a checkpoint is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from wbvla_core.errors import CheckpointError, ErrorCode
from wbvla_core.robot import RobotSpec

SCHEMA_VERSION = 1
MANIFEST_FILE = "manifest.json"
METRICS_FILE = "metrics.json"
KINDS = ("lam", "vla", "policy", "lmo")


@dataclass(frozen=True)
class Manifest:
    """The content of ``manifest.json``.

    Attributes:
        kind, name: place in the tree, ``checkpoints/<kind>/<name>``.
        robot: {name, version, joint_names, fingerprint} of the robot that the model was made for, or None (a LAM).
        inputs, outputs: per tensor name {shape, dtype, unit, ...}.
        rate_hz: how often the model runs; None where it does not run on a robot.
        normalisation: statistics and scales that inference needs.
        parents: role -> manifest hash of the checkpoint that this one was built on.
        files: file name -> sha256.
        extra: model-specific settings (network sizes, gait, gating, command conventions).
        git_commit: commit of the training code, with ``-dirty`` where the tree was changed.
        directory: where it was read from; not part of the file.
    """

    kind: str
    name: str
    robot: dict[str, Any] | None
    inputs: dict[str, Any]
    outputs: dict[str, Any]
    rate_hz: float | None
    normalisation: dict[str, Any]
    parents: dict[str, str]
    files: dict[str, str]
    extra: dict[str, Any]
    git_commit: str
    schema_version: int = SCHEMA_VERSION
    directory: Path | None = field(default=None, compare=False)

    def to_json(self) -> dict[str, Any]:
        data = asdict(self)
        del data["directory"]
        return data

    @property
    def hash(self) -> str:
        """sha256 of the canonical manifest text: identifies weights, contract and lineage at once."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def path(self, file_name: str) -> Path:
        """Absolute path of one of :attr:`files`."""
        if self.directory is None or file_name not in self.files:
            raise CheckpointError(f"{self.label} has no file {file_name!r}; it lists {sorted(self.files)}", ErrorCode.CHECKPOINT_MISSING)
        return self.directory / file_name

    @property
    def label(self) -> str:
        return f"checkpoint {self.kind}/{self.name}"


def sha256_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        for block in iter(lambda: handle.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def robot_entry(robot: RobotSpec) -> dict[str, Any]:
    return {"name": robot.name, "version": robot.version, "joint_names": list(robot.joint_names), "fingerprint": robot.fingerprint}


def git_commit(where: Path | None = None) -> str:
    """Commit of the source tree, ``<hash>[-dirty]``, or ``unknown`` outside a git checkout."""
    cwd = where or Path(__file__).resolve().parent
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=cwd, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
        dirty = subprocess.run(["git", "status", "--porcelain", "--untracked-files=no"], cwd=cwd, capture_output=True, text=True, check=True, timeout=10).stdout
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return commit + ("-dirty" if dirty.strip() else "")


def write_json(path: Path, data: Any) -> None:
    """Write JSON by rename, so that a killed process leaves the old file or the new one, never half of one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(data, indent=2, sort_keys=True, allow_nan=False) + "\n")
    os.replace(temporary, path)


def save_manifest(
    directory: str | os.PathLike,
    kind: str,
    name: str,
    robot: RobotSpec | None,
    *,
    inputs: dict[str, Any],
    outputs: dict[str, Any],
    rate_hz: float | None,
    files: list[str],
    normalisation: dict[str, Any] | None = None,
    parents: dict[str, Manifest | str] | None = None,
    extra: dict[str, Any] | None = None,
) -> Manifest:
    """Hash ``files`` (already written into ``directory``) and write ``manifest.json`` beside them.

    Args:
        parents: role -> manifest, or manifest hash, of the checkpoints that this one was built on.

    Raises:
        CheckpointError: unknown kind, or a listed file is not there.
    """
    directory = Path(directory)
    if kind not in KINDS:
        raise CheckpointError(f"checkpoint kind must be one of {KINDS}, got {kind!r}")
    hashes = {}
    for file_name in files:
        path = directory / file_name
        if not path.is_file():
            raise CheckpointError(f"cannot write the manifest of {kind}/{name}: {path} was not written", ErrorCode.CHECKPOINT_MISSING)
        hashes[file_name] = sha256_file(path)
    manifest = Manifest(
        kind=kind,
        name=name,
        robot=None if robot is None else robot_entry(robot),
        inputs=inputs,
        outputs=outputs,
        rate_hz=rate_hz,
        normalisation=normalisation or {},
        parents={role: parent.hash if isinstance(parent, Manifest) else parent for role, parent in (parents or {}).items()},
        files=hashes,
        extra=extra or {},
        git_commit=git_commit(),
        directory=directory,
    )
    # Through JSON once, so that the hash of what is returned equals the hash of what is read back (tuples become lists).
    manifest = _from_json(json.loads(json.dumps(manifest.to_json(), allow_nan=False)), directory)
    write_json(directory / MANIFEST_FILE, manifest.to_json())
    return manifest


def _from_json(data: Any, directory: Path) -> Manifest:
    where = directory / MANIFEST_FILE
    if not isinstance(data, dict):
        raise CheckpointError(f"{where} must hold a JSON object, got {type(data).__name__}", ErrorCode.CHECKPOINT_CORRUPT)
    version = data.get("schema_version")
    if version != SCHEMA_VERSION:
        raise CheckpointError(
            f"{where} has schema version {version!r}, this code reads {SCHEMA_VERSION}; export the checkpoint again with the wbvla that you run"
        )
    known = set(Manifest.__dataclass_fields__) - {"directory"}
    missing, unknown = sorted(known - set(data)), sorted(set(data) - known)
    if missing or unknown:
        raise CheckpointError(f"{where} does not fit schema {SCHEMA_VERSION}: missing {missing}, unknown {unknown}", ErrorCode.CHECKPOINT_CORRUPT)
    return Manifest(**data, directory=directory)


def load_manifest(directory: str | os.PathLike, kind: str | None = None, robot: RobotSpec | None = None, *, verify_files: bool = True) -> Manifest:
    """Read and verify a checkpoint directory.

    Args:
        kind: refuse any other kind.
        robot: refuse a checkpoint that was made for another robot or another joint order.
        verify_files: hash every file and compare (a truncated download is refused here, not in mid-walk).

    Raises:
        CheckpointError: naming what was expected, what was found and how to mend it.
    """
    directory = Path(directory)
    where = directory / MANIFEST_FILE
    if not where.is_file():
        raise CheckpointError(
            f"no checkpoint at {directory}: {MANIFEST_FILE} is not there; give the path of a directory like checkpoints/lmo/x2", ErrorCode.CHECKPOINT_MISSING
        )
    try:
        data = json.loads(where.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{where} is not valid JSON ({error}); copy or export the checkpoint again", ErrorCode.CHECKPOINT_CORRUPT) from error
    manifest = _from_json(data, directory)
    if kind is not None and manifest.kind != kind:
        raise CheckpointError(f"{directory} holds a checkpoint of kind {manifest.kind!r}, but {kind!r} is needed here; check the path")
    if robot is not None:
        require_robot(manifest.label, manifest.robot, robot)
    if verify_files:
        for file_name, expected in manifest.files.items():
            path = directory / file_name
            if not path.is_file():
                raise CheckpointError(f"{manifest.label}: {path} is missing; copy the whole directory again", ErrorCode.CHECKPOINT_MISSING)
            found = sha256_file(path)
            if found != expected:
                raise CheckpointError(
                    f"{manifest.label}: {file_name} does not match its manifest (expected sha256 {expected[:12]}…, found {found[:12]}…, "
                    f"{path.stat().st_size} bytes); it is truncated or from another export, copy the whole directory again",
                    ErrorCode.CHECKPOINT_CORRUPT,
                )
    return manifest


def require_robot(label: str, made_for: dict[str, Any] | None, robot: RobotSpec) -> None:
    """Refuse what was made for another robot or another joint order.

    Args:
        label: what it is, for the message.
        made_for: see :func:`robot_entry`.

    Raises:
        CheckpointError: naming both sides.
    """
    if made_for is None:
        raise CheckpointError(f"{label} names no robot, but robot {robot.name} {robot.version} asks for it; export it for a robot")
    if (made_for["name"], made_for["version"]) != (robot.name, robot.version):
        raise CheckpointError(
            f"{label} was made for robot {made_for['name']} {made_for['version']}, this one is {robot.name} {robot.version}; "
            "train or export for this robot, or start with the robot spec that the checkpoint was made for"
        )
    if made_for["joint_names"] != list(robot.joint_names):
        differing = [(i, a, b) for i, (a, b) in enumerate(zip(made_for["joint_names"], robot.joint_names, strict=False)) if a != b]
        detail = (
            f"joint {differing[0][0]} is {differing[0][1]!r} in the checkpoint and {differing[0][2]!r} in the robot spec"
            if differing
            else f"{len(made_for['joint_names'])} joints in the checkpoint, {robot.joint_count} in the robot spec"
        )
        raise CheckpointError(f"{label} has another joint order than robot {robot.name}: {detail}; export it with this robot spec")
    if made_for["fingerprint"] != robot.fingerprint:
        raise CheckpointError(
            f"{label}: robot fingerprint {made_for['fingerprint'][:12]}… differs from the robot spec's {robot.fingerprint[:12]}… although name and "
            "joint order agree; the spec was changed after the export, export again"
        )


def require_parent(child: Manifest, role: str, parent: Manifest) -> None:
    """Refuse a child that was built on another parent (a decoder on another VLA, a VLA on other codebooks).

    Raises:
        CheckpointError: naming both hashes.
    """
    expected = child.parents.get(role)
    if expected is None:
        raise CheckpointError(f"{child.label} names no parent {role!r} (it has {sorted(child.parents)}), so it cannot be combined with {parent.label}")
    if expected != parent.hash:
        raise CheckpointError(
            f"{child.label} was built on a {role} with hash {expected[:12]}…, but {parent.label} in {parent.directory} has {parent.hash[:12]}…; "
            f"use the {role} that it was trained with, or train it again on this one"
        )
