"""``wbvla tasks``: what a policy can be asked, and how it is told to a bundle that does not say."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from wbvla_core.catalogue import TASKS_FILE, TaskCatalogue
from wbvla_core.checkpoint import MANIFEST_FILE, METRICS_FILE, Manifest, find_checkpoint, load_manifest, sha256_file, write_json, writing
from wbvla_core.errors import WbvlaError
from wbvla_core.sentences import STAGE
from wbvla_vla.guard import of_list

TEMPLATES = "templates"


@dataclass(frozen=True)
class Tasks:
    """The sentences that a policy carries out; every other one is refused. Case, punctuation and a "please" make no difference."""

    policy: Annotated[Path, tyro.conf.Positional] = Path("checkpoints/policy/tiny")
    """A policy bundle."""

    all: bool = False
    """Every sentence, not only the plainest of each task."""

    write: str = ""
    """Write the list into a bundle that has none: "templates" (it was trained by `wbvla data demos`), or a text file with one sentence a line."""


def main(argv: Sequence[str]) -> int:
    options = tyro.cli(Tasks, args=list(argv), prog="wbvla tasks")
    directory = find_checkpoint(options.policy)
    if options.write:
        manifest = add_tasks(directory, _list_of(options.write, directory))
        print(f"{manifest.label}: {TASKS_FILE} written, manifest {manifest.hash[:12]}; the weights are as they were")
    manifest = load_manifest(directory, kind="policy")
    tasks = TaskCatalogue.of(manifest)
    print(f"{manifest.label}: {of_list(tasks)}")
    for line in lines(tasks, options.all) if tasks is not None else ():
        print(f"  {line}")
    return 0


def lines(tasks: TaskCatalogue, every: bool) -> list[str]:
    """The list for people: one line a kind, or every sentence."""
    if not every:
        return list(tasks.summary())
    return [meaning.spoken + ("   (held out: no training saw it)" if meaning.held_out else "") for meaning in tasks.meanings]


def _list_of(source: str, directory: Path) -> TaskCatalogue:
    """The list that is to be written; WbvlaError where it would not be true of the bundle."""
    if source != TEMPLATES:
        path = Path(source)
        if not path.is_file():
            raise WbvlaError(f"--write takes {TEMPLATES!r} or a text file with one sentence a line, got {source!r}")
        sentences = [line.strip() for line in path.read_text().splitlines() if line.strip()]
        if not sentences:
            raise WbvlaError(f"{path} holds no sentence")
        return TaskCatalogue.of_sentences(sentences, f"written after training, from {path.name}")
    metrics = directory / METRICS_FILE
    settings = json.loads(metrics.read_text()).get("settings", {}) if metrics.is_file() else {}
    if not settings.get("demos") or settings.get("lerobot") or settings.get("sentences", 1) < 2:
        raise WbvlaError(
            f"{metrics} does not say that {directory} was trained on the templates (demonstrations of `wbvla data demos` with counterfactual sentences); "
            "give --write a text file with the sentences that it was trained on"
        )
    return TaskCatalogue(list(STAGE.kinds.values()), STAGE.tasks, "written after training, from the templates that its training drew its sentences from")


def add_tasks(directory: Path, tasks: TaskCatalogue) -> Manifest:
    """Write a list of tasks into an existing policy bundle. Weights, lineage and commit stay; files and with them the manifest's hash change.

    Raises:
        WbvlaError: it has a list already, or its tokenizer cannot read one of the sentences.
        CheckpointError: no policy bundle, or a damaged one.
    """
    manifest = load_manifest(directory, kind="policy")
    if TASKS_FILE in manifest.files:
        raise WbvlaError(f"{manifest.label} has a list of tasks already; what it was trained on does not change")
    _require_readable(directory, manifest, tasks)
    with writing(directory) as folder:
        tasks.save(folder)
        listed = dataclasses.replace(manifest, files={**manifest.files, TASKS_FILE: sha256_file(folder / TASKS_FILE)})
        if (directory / METRICS_FILE).is_file():
            record = json.loads((directory / METRICS_FILE).read_text())
            write_json(folder / METRICS_FILE, {**record, "manifest": listed.hash, "manifest_when_trained": manifest.hash})
        write_json(folder / MANIFEST_FILE, listed.to_json())
    return load_manifest(directory, kind="policy")


def _require_readable(directory: Path, manifest: Manifest, tasks: TaskCatalogue) -> None:
    """Every sentence must be one that the policy's tokenizer reads."""
    from wbvla_vla.tokens import InstructionTokenizer

    vla = load_manifest(directory.resolve().parents[1] / "vla" / manifest.extra["vla_name"], kind="vla", verify_files=False)
    config = vla.extra["config"]
    prompt, image_token = config.get("prompt", "{instruction}"), config.get("image_token", "")
    tokenizer = InstructionTokenizer.load(vla.directory, config["language"]["max_words"], prompt, image_token)
    for meaning in tasks.meanings:
        tokenizer.encode(meaning.spoken)
