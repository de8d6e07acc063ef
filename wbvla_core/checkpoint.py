"""Checkpoint directories that explain themselves, and refuse to be used for something else.

``checkpoints/<kind>/<name>/`` holds ``manifest.json``, the weights (``model.safetensors`` or ``policy.onnx``) and
``metrics.json``. The manifest is the contract between training and the nodes: robot and joint order, inputs and
outputs with shapes, units and rates, normalisation, the hash of each file, the git commit, and the hashes of the
parents (a VLA names its LAMs, a policy its VLA). A node hands what it expects to :func:`load_manifest`, which raises
:class:`~wbvla_core.errors.CheckpointError` naming both sides. No file of a checkpoint is ever unpickled.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import shutil
import subprocess
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from wbvla_core import robot_numbers
from wbvla_core.console import DISK_FULL
from wbvla_core.errors import CheckpointError, ErrorCode, WbvlaError, WbvlaWarning
from wbvla_core.robot import RobotSpec, share_roots

T = TypeVar("T")

SCHEMA_VERSION = 1
MANIFEST_FILE = "manifest.json"
METRICS_FILE = "metrics.json"
KINDS = ("lam", "vla", "policy", "lmo")


@dataclass(frozen=True)
class Manifest:
    """The content of ``manifest.json``.

    Attributes:
        kind, name: place in the tree, ``checkpoints/<kind>/<name>``.
        robot: {name, version, joint_names, fingerprint, numbers} of the robot that the model was made for, or None (a LAM). ``numbers``: what
            this kind depends on of the robot spec (:mod:`wbvla_core.robot_numbers`); older manifests have none.
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
        """sha256 of the canonical manifest text: identifies weights, contract and lineage at once.

        Without the robot's numbers: they repeat the spec, and were added to checkpoints that others already name by this hash. A number
        that is damaged differs from the spec and is refused.
        """
        data = self.to_json()
        if data["robot"]:
            data["robot"].pop("numbers", None)
        return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def unguarded(self, robot: RobotSpec) -> list[str]:
        """Numbers of the robot spec that this kind depends on and this manifest does not record: that they changed is not noticed."""
        recorded = (self.robot or {}).get("numbers", {})
        return [name for name in robot_numbers.numbers_of(robot, self.kind) if name not in recorded]

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


def robot_entry(robot: RobotSpec, kind: str | None = None) -> dict[str, Any]:
    """A robot as manifests name it; with the numbers that a checkpoint of this ``kind`` depends on."""
    entry = {"name": robot.name, "version": robot.version, "joint_names": list(robot.joint_names), "fingerprint": robot.fingerprint}
    return entry | ({"numbers": robot_numbers.numbers_of(robot, kind)} if kind else {})


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
    text = json.dumps(data, indent=2, sort_keys=True, allow_nan=False) + "\n"
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def give_umask_mode(path: Path) -> None:
    """Give a file the mode that a newly made one has here. Some libraries leave theirs readable by their owner alone."""
    probe = path.with_name(f".{path.name}.mode.{os.getpid()}")
    handle = os.open(probe, os.O_CREAT | os.O_WRONLY, 0o666)
    try:
        os.chmod(path, os.fstat(handle).st_mode & 0o777)
    finally:
        os.close(handle)
        probe.unlink(missing_ok=True)


def no_room(error: BaseException) -> str | None:
    """What the system said where ``error`` means that the disk is full, else None. Rust's libraries (safetensors) spell the code in words."""
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return os.strerror(error.errno)
    return next((os.strerror(code) for code in DISK_FULL if f"(os error {code})" in str(error)), None)


@contextmanager
def writing(directory: str | os.PathLike) -> Iterator[Path]:
    """A folder to write a checkpoint into. Its files take their places in ``directory`` when the block ends, the manifest last.

    One writer at a time: another process waits until this one is done. Where the block raises, ``directory`` keeps what it had.
    What a killed process left half written is removed.

    Raises:
        CheckpointError: the disk is full.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    lock = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for left in directory.glob(".new-*"):
            shutil.rmtree(left, ignore_errors=True)
        folder = directory / f".new-{os.getpid()}"
        folder.mkdir()
        try:
            yield folder
            written = sorted(folder.iterdir(), key=lambda path: path.name == MANIFEST_FILE)
            for path in written:
                give_umask_mode(path)
            if {MANIFEST_FILE, METRICS_FILE} & {path.name for path in written} == {MANIFEST_FILE}:
                (directory / METRICS_FILE).unlink(missing_ok=True)  # of an earlier export
            for path in written:
                os.replace(path, directory / path.name)
        except Exception as error:
            if (why := no_room(error)) is None:
                raise
            raise CheckpointError(
                f"cannot write the checkpoint {directory}: {why}; what it held before is untouched. Make room and run the same command again",
                ErrorCode.CHECKPOINT_MISSING,
            ) from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)


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
    """Hash ``files`` (already written into ``directory``, see :func:`writing`) and write ``manifest.json`` beside them.

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
        robot=None if robot is None else robot_entry(robot, kind),
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
    for name, (fits, expected) in _FIELDS.items():
        if not fits(data[name]):
            raise CheckpointError(
                f"{where}: {name!r} must be {expected}, got {str(data[name])[:60]!r}; copy or export the checkpoint again", ErrorCode.CHECKPOINT_CORRUPT
            )
    return Manifest(**data, directory=directory)


def _is_robot(value: Any) -> bool:
    kinds = {"name": str, "version": str, "joint_names": list, "fingerprint": str}
    if not isinstance(value, dict) or not all(isinstance(value.get(key), kind) for key, kind in kinds.items()):
        return False
    return isinstance(value.get("numbers", {}), dict)


def _is_table(value: Any, kind: type = object) -> bool:
    return isinstance(value, dict) and all(isinstance(part, kind) for part in value.values())


_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "kind": (lambda v: isinstance(v, str), "a word"),
    "name": (lambda v: isinstance(v, str), "a word"),
    "robot": (lambda v: v is None or _is_robot(v), "null or {name, version, joint_names, fingerprint, numbers}"),
    "inputs": (_is_table, "a table"),
    "outputs": (_is_table, "a table"),
    "rate_hz": (lambda v: v is None or (type(v) in (int, float) and v > 0), "null or a rate above 0"),
    "normalisation": (_is_table, "a table"),
    "parents": (lambda v: _is_table(v, str), "a table of hashes"),
    "files": (lambda v: _is_table(v, str) and all(is_plain(name) for name in v), "a table of hashes of files in the checkpoint's own directory"),
    "extra": (_is_table, "a table"),
    "git_commit": (lambda v: isinstance(v, str), "a word"),
}


def is_plain(name: Any) -> bool:
    """Whether this is the name of a file or folder, and no path that leads elsewhere."""
    return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & {"/", "\\", "\0"}


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text} is no number that JSON knows")
    return number


def settings_of(manifest: Manifest, key: str, make: Callable[[Any], T]) -> T:
    """``make`` of the manifest's settings called ``key``.

    Raises:
        CheckpointError: they are not there, or ``make`` does not take them.
    """
    try:
        return make(manifest.extra[key])
    except WbvlaError as error:
        raise CheckpointError(f"{manifest.label}: its settings {key!r}: {error}", ErrorCode.CHECKPOINT_CORRUPT) from error
    except KeyError as error:
        raise CheckpointError(f"{manifest.label}: its settings lack {error.args[0]!r} (of {key!r}); export it again, or use the wbvla that wrote it") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{manifest.label}: this version of wbvla does not know its settings {key!r} ({error}); export it again, or use the wbvla that wrote it"
        ) from error


def require_contract(manifest: Manifest, inputs: dict[str, Any], outputs: dict[str, Any], rate_hz: float | None) -> None:
    """Refuse a manifest that says other inputs, outputs or rates than the network that it stands for has. Units are words, and may change.

    Args:
        inputs, outputs, rate_hz: what the exporter would write for this network.

    Raises:
        CheckpointError: the first entry that differs, with both sides.
    """
    for title, said, built in (("inputs", manifest.inputs, inputs), ("outputs", manifest.outputs, outputs)):
        for name in sorted({*said, *built}):
            for key in sorted({*said.get(name, {}), *built.get(name, {})} - {"unit"}):
                a, b = said.get(name, {}).get(key), json.loads(json.dumps(built.get(name, {}).get(key)))
                if not robot_numbers.same(a, b):
                    raise CheckpointError(
                        f"{manifest.label}: its manifest says {title}.{name}.{key} {a}, its network has {b}; the manifest was changed after the export "
                        "or is of another version: copy or export the checkpoint again"
                    )
    if manifest.rate_hz != rate_hz:
        raise CheckpointError(f"{manifest.label}: its manifest says {manifest.rate_hz} Hz, it runs at {rate_hz} Hz; copy or export the checkpoint again")


def find_checkpoint(path: str | os.PathLike) -> Path:
    """A checkpoint directory: as given from here if it exists, else one that ships.

    ``checkpoints/lmo/x2`` and ``lmo/x2`` name what ships from any working directory. What is nowhere is returned as given.
    """
    here = Path(path)
    if here.is_dir():
        return here
    candidates = [root / folder / here for root in share_roots() for folder in ("", "checkpoints")]
    return next((found for found in candidates if (found / MANIFEST_FILE).is_file()), here)


def shipped_checkpoints() -> list[str]:
    """``<kind>/<name>`` of every checkpoint that ships, sorted."""
    return sorted({"/".join(path.parts[-3:-1]) for root in share_roots() for path in root.glob(f"checkpoints/*/*/{MANIFEST_FILE}")})


def load_manifest(directory: str | os.PathLike, kind: str | None = None, robot: RobotSpec | None = None, *, verify_files: bool = True) -> Manifest:
    """Read and verify a checkpoint directory.

    Args:
        directory: as :func:`find_checkpoint` takes it.
        kind: refuse any other kind.
        robot: refuse a checkpoint that was made for another robot or another joint order.
        verify_files: hash every file and compare (a truncated download is refused here, not in mid-walk).

    Raises:
        CheckpointError: naming what was expected, what was found and how to mend it.
    """
    directory = find_checkpoint(directory)
    where = directory / MANIFEST_FILE
    if not where.is_file():
        listed = ", ".join(shipped_checkpoints())
        raise CheckpointError(
            f"no checkpoint at {directory}: {MANIFEST_FILE} is not there; give a checkpoint directory, or one that ships: {listed}",
            ErrorCode.CHECKPOINT_MISSING,
        )
    try:
        data = json.loads(where.read_text(encoding="utf-8"), parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError) as error:  # among them JSONDecodeError and UnicodeDecodeError
        raise CheckpointError(f"{where} is not valid JSON ({error}); copy or export the checkpoint again", ErrorCode.CHECKPOINT_CORRUPT) from error
    manifest = _from_json(data, directory)
    if kind is not None and manifest.kind != kind:
        raise CheckpointError(f"{directory} holds a checkpoint of kind {manifest.kind!r}, but {kind!r} is needed here; check the path")
    if robot is not None:
        require_robot(manifest.label, manifest.robot, robot)
        if missing := manifest.unguarded(robot):
            warnings.warn(
                f"{manifest.label} does not record {len(missing)} numbers of its robot ({robot_numbers.listed(missing)}): where the robot spec was changed "
                "in them after the training, nobody notices; export it again",
                WbvlaWarning,
                stacklevel=2,
            )
    if verify_files:
        _require_unchanged(manifest)
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


def _require_unchanged(manifest: Manifest) -> None:
    """Refuse a manifest that was changed after the export, where metrics.json says which hash it had then."""
    path = manifest.directory / METRICS_FILE
    try:
        metrics = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError:
        return  # metrics are for people: a damaged page of them makes no network wrong
    exported = metrics.get("manifest") if isinstance(metrics, dict) else None
    if exported is not None and exported != manifest.hash:
        raise CheckpointError(
            f"{manifest.label}: {MANIFEST_FILE} has the hash {manifest.hash[:12]}…, {METRICS_FILE} says that it was exported "
            f"with {str(exported)[:12]}…; it was changed after the export, or the files are of two exports: copy the whole "
            f"directory again. Where the change is meant, write {manifest.hash} into {METRICS_FILE} as 'manifest'",
            ErrorCode.CHECKPOINT_CORRUPT,
        )


def require_robot(label: str, made_for: dict[str, Any] | None, robot: RobotSpec) -> None:
    """Refuse what was made for another robot, another joint order, or other numbers in the robot spec than it depends on.

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
    if changed := robot_numbers.differences(made_for.get("numbers", {}), robot_numbers.numbers_of(robot)):
        raise CheckpointError(
            f"{label} was trained with other numbers than the robot spec {robot.name} {robot.version} has: {robot_numbers.listed(changed)}; "
            "restore them in the spec, or train again with these"
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
