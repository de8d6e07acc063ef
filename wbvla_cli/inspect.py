"""``wbvla inspect DIR``: what a checkpoint is, what it needs, and what it was built on."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from wbvla_core.catalogue import TaskCatalogue
from wbvla_core.checkpoint import MANIFEST_FILE, METRICS_FILE, Manifest, load_manifest
from wbvla_core.errors import CheckpointError
from wbvla_vla.guard import of_list

SHORT_HASH = 12


@dataclass(frozen=True)
class Inspect:
    """Print a checkpoint's manifest and lineage; every file is hashed and compared. Exit status 2 when it must not be used."""

    directory: Annotated[Path, tyro.conf.Positional]
    """A checkpoint directory, or one that ships: vla/tiny, from any working directory."""

    json: bool = False
    """Print the manifest as JSON, with its own hash, and nothing else."""


def find_checkpoints(root: Path) -> list[Path]:
    """Every directory ``root/<kind>/<name>`` with a manifest, sorted."""
    return sorted(path.parent for path in root.glob(f"*/*/{MANIFEST_FILE}"))


def index_by_hash(root: Path) -> dict[str, Manifest]:
    """Manifest hash -> manifest of every readable checkpoint below ``root``; damaged ones are left out (``wbvla doctor`` names them)."""
    found = {}
    for directory in find_checkpoints(root):
        try:
            manifest = load_manifest(directory, verify_files=False)
        except CheckpointError:
            continue
        found[manifest.hash] = manifest
    return found


def lineage(manifest: Manifest, known: dict[str, Manifest], indent: int = 0) -> list[str]:
    """One line per ancestor: role, hash and, where the parent lies beside it, its label."""
    lines = []
    for role, parent_hash in sorted(manifest.parents.items()):
        parent = known.get(parent_hash)
        what = f"{parent.kind}/{parent.name}" if parent else "not found beside this checkpoint (another export, or not shipped)"
        lines.append(f"{'  ' * indent}└ {role}: {parent_hash[:SHORT_HASH]}  {what}")
        if parent is not None:
            lines += lineage(parent, known, indent + 1)
    return lines


def describe_tensor(entry: Any) -> str:
    """``float32 [1, 87] rad`` from a manifest's description of one input or output."""
    if not isinstance(entry, dict):
        return str(entry)
    known = ("dtype", "shape", "unit")
    head = " ".join(str(entry[key]) for key in known if entry.get(key) not in (None, ""))
    rest = ", ".join(f"{key}: {_brief(value)}" for key, value in entry.items() if key not in known)
    return f"{head}  ({rest})" if rest else head


def _brief(value: Any, limit: int = 100) -> str:
    text = json.dumps(value) if isinstance(value, (dict, list)) else str(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _recorded(robot: dict[str, Any]) -> str:
    numbers = len(robot.get("numbers", ()))
    return f"{numbers} of its numbers are compared at load" if numbers else "its numbers are not recorded: one that was changed is not noticed"


def describe(manifest: Manifest, known: dict[str, Manifest]) -> str:
    """The page that a person reads."""
    robot = manifest.robot
    lines = [
        f"{manifest.kind}/{manifest.name}   {manifest.hash[:SHORT_HASH]}   schema {manifest.schema_version}",
        f"  directory      {manifest.directory}",
        f"  robot          {robot['name']} {robot['version']}, {len(robot['joint_names'])} joints, {robot['fingerprint'][:SHORT_HASH]}"
        if robot
        else "  robot          any",
        *([f"  robot spec     {_recorded(robot)}"] if robot else []),
        f"  rate           {'not run on a robot' if manifest.rate_hz is None else f'{manifest.rate_hz:g} Hz'}",
        f"  git commit     {manifest.git_commit}",
    ]
    for title, tensors in (("inputs", manifest.inputs), ("outputs", manifest.outputs)):
        lines.append(f"  {title}")
        lines += [f"    {name:<24} {describe_tensor(entry)}" for name, entry in tensors.items()]
    for title, table in (("normalisation", manifest.normalisation), ("settings", manifest.extra)):
        if table:
            lines.append(f"  {title}")
            lines += [f"    {name:<24} {_brief(value)}" for name, value in table.items()]
    if manifest.kind == "policy":
        lines.append(f"  sentences      {of_list(TaskCatalogue.of(manifest))}; `wbvla tasks` lists them")
    lines.append("  files")
    lines += [
        f"    {name:<24} {manifest.path(name).stat().st_size / 1e6:8.2f} MB  sha256 {sha[:SHORT_HASH]} matches" for name, sha in sorted(manifest.files.items())
    ]
    lines.append("  lineage" if manifest.parents else "  lineage        built on no other checkpoint")
    lines += [f"    {line}" for line in lineage(manifest, known)]
    metrics = manifest.directory / METRICS_FILE
    if metrics.is_file():
        lines.append("  metrics")
        lines += [f"    {name:<24} {_brief(value)}" for name, value in json.loads(metrics.read_text()).items()]
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    options = tyro.cli(Inspect, args=list(argv))
    manifest = load_manifest(options.directory)
    if options.json:
        json.dump({**manifest.to_json(), "hash": manifest.hash}, sys.stdout, indent=2, sort_keys=True)
        print()
    else:
        # <root>/<kind>/<name>: parents lie in the same tree
        print(describe(manifest, index_by_hash(manifest.directory.resolve().parents[1])))
    return 0
