"""Which code, which checkpoints, which machine: rows for the report and for ``summary.json``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from wbvla_core.checkpoint import MANIFEST_FILE, Manifest, git_commit, load_manifest
from wbvla_core.errors import CheckpointError
from wbvla_core.machine import describe_machine

SHORT = 12
PACKAGES = ("wbvla", "mujoco", "torch", "onnxruntime", "numpy", "transformers", "rosbags")


def versions() -> list[tuple[str, str]]:
    """(software, version) rows of this process's environment."""
    rows = [("commit", git_commit())]
    for name in PACKAGES:
        try:
            rows.append((name, version(name)))
        except PackageNotFoundError:
            continue
    rows.append(("ROS 2", os.environ.get("ROS_DISTRO") or _ros_wheels()))
    rows.append(("machine", describe_machine()))
    return rows


def _ros_wheels() -> str:
    try:
        return f"jazzy wheels, rclpy {version('ros-rclpy')}"
    except PackageNotFoundError:
        return "not found"


def lineage(roots: Sequence[tuple[str, Path]], store: Path) -> list[dict[str, str]]:
    """The checkpoints that were used and all their ancestors that lie below ``store``, as rows {role, path, kind, hash, parents, commit}.

    Args:
        roots: (role, directory) of what was loaded.
        store: directory that holds ``<kind>/<name>``.

    Raises:
        CheckpointError: a root cannot be read.
    """
    known: dict[str, Manifest] = {}
    for path in sorted(store.glob(f"*/*/{MANIFEST_FILE}")):
        try:
            manifest = load_manifest(path.parent, verify_files=False)
        except CheckpointError:
            continue  # `wbvla doctor` names damaged ones
        known[manifest.hash] = manifest
    rows: list[dict[str, str]] = []
    queue = [(role, load_manifest(path, verify_files=False)) for role, path in roots]
    seen: set[str] = set()
    while queue:
        role, manifest = queue.pop(0)
        if manifest.hash in seen:
            continue
        seen.add(manifest.hash)
        rows.append(
            {
                "role": role,
                "path": f"{manifest.kind}/{manifest.name}",
                "kind": manifest.kind,
                "hash": manifest.hash[:SHORT],
                "parents": ", ".join(f"{name} {parent[:SHORT]}" for name, parent in sorted(manifest.parents.items())),
                "commit": manifest.git_commit[:SHORT],
            }
        )
        queue += [(name, known[parent]) for name, parent in sorted(manifest.parents.items()) if parent in known]
    return rows


def cruise_of(lmo: Manifest | None) -> tuple[float, float, float] | None:
    """Speeds that full flags ask of this leg policy (m/s, m/s, rad/s), None where its manifest does not say."""
    try:
        forward, left, yaw = (float(v) for v in lmo.extra["pipeline"]["gating"]["cruise"])
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    return forward, left, yaw
