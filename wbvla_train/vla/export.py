"""From a finished training to ``checkpoints/vla/<name>``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from wbvla_core import checkpoint
from wbvla_core.checkpoint import Manifest, write_json
from wbvla_core.robot import RobotSpec
from wbvla_perception.preprocess import ImageSpec
from wbvla_train.loop import run_record
from wbvla_train.vla.config import VlaTrainConfig
from wbvla_vla.checkpoint import save_vla
from wbvla_vla.model import Vla, parameter_count
from wbvla_vla.tokens import InstructionTokenizer

STAGE_METRICS = "stages.json"


def write_stage_metrics(config: VlaTrainConfig, metrics: dict[str, dict]) -> dict[str, dict]:
    """Keep what each stage measured in ``run_dir`` (stages may run in different processes); returns all of it."""
    path = config.run_dir / STAGE_METRICS
    known = json.loads(path.read_text()) if path.exists() else {}
    known |= metrics
    write_json(path, known)
    return known


def export(
    config: VlaTrainConfig,
    model: Vla,
    tokenizer: InstructionTokenizer,
    spec: ImageSpec,
    robot: RobotSpec,
    measured: dict[str, dict],
    log=print,
    weights: dict[str, torch.Tensor] | None = None,
) -> Path:
    """Write weights (default: those in ``model``), tokenizer, manifest and metrics; the LAMs whose codes were learnt become the parents."""
    stages = write_stage_metrics(config, measured)
    parents = {
        "lam_mani": checkpoint.load_manifest(config.codes.lam_mani, kind="lam"),
        "lam_loco": checkpoint.load_manifest(config.codes.lam_loco, kind="lam"),
    }
    vision = f"published: {config.pretrained}" if config.pretrained else "ours, from simulator labels (stage 0)"
    extra = {"vision_weights": vision, "parameters": parameter_count(model)}
    hours = sum(stage.get("hours", 0.0) for stage in stages.values())

    def metrics(manifest: Manifest) -> dict[str, Any]:
        return run_record(config, hours, stages=stages, manifest=manifest.hash)

    manifest = save_vla(config.output, config.output.name, model, tokenizer, spec, robot, parents, extra, weights, metrics)
    log(f"{manifest.label} written to {config.output}")
    return config.output
