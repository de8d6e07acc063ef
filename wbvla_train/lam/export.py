"""A trained latent action model as a checkpoint directory: half-precision safetensors, manifest, metrics."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from wbvla_core import checkpoint
from wbvla_core.checkpoint import METRICS_FILE, Manifest
from wbvla_core.errors import CheckpointError, ErrorCode
from wbvla_train.data.camera import CameraView
from wbvla_train.lam.config import ModelConfig
from wbvla_train.lam.feature_model import FeatureActionModel, new_model
from wbvla_train.lam.model import PIXEL_MEAN, PIXEL_STD, LatentActionModel

WEIGHTS_FILE = "model.safetensors"
MAX_BYTES = 3_000_000  # what a repository can carry


@dataclass(frozen=True)
class Lam:
    """A loaded latent action model.

    Attributes:
        manifest: its contract; ``manifest.hash`` names the codebook that labels were made with.
        model: in eval mode, float32 (weights rounded to half precision).
        gap_s: time between the two frames of a pair, s.
        view: camera that frames are taken to come from where nothing else is said: the robot's.
    """

    manifest: Manifest
    model: LatentActionModel
    gap_s: float
    view: CameraView


def half(model: LatentActionModel) -> dict[str, torch.Tensor]:
    """Weights as they are shipped."""
    return {key: value.detach().to("cpu", torch.float16).contiguous() for key, value in model.state_dict().items()}


def export(model: LatentActionModel, name: str, gap_s: float, view: CameraView, directory: Path, metrics: dict[str, Any], training: dict[str, Any]) -> Manifest:
    """Write ``directory``: weights, metrics.json, manifest.json (last: a directory without one is no checkpoint).

    Args:
        view: the robot's camera (see :attr:`Lam.view`).
        metrics: what was measured, how, on what machine.
        training: settings, for the manifest.
    """
    directory.mkdir(parents=True, exist_ok=True)
    config = model.config
    record = model.extractor.record if isinstance(model, FeatureActionModel) else None
    save_file(half(model), directory / WEIGHTS_FILE)
    size = (directory / WEIGHTS_FILE).stat().st_size
    if config == ModelConfig(rigid=config.rigid) and size > MAX_BYTES:
        raise CheckpointError(f"{directory / WEIGHTS_FILE} has {size} bytes, at most {MAX_BYTES} are wanted for a checkpoint that ships")
    checkpoint.write_json(directory / METRICS_FILE, metrics)
    frame = {"shape": [config.image_size, config.image_size, 3], "dtype": "uint8", "unit": "RGB, area-averaged from the policy image"}
    return checkpoint.save_manifest(
        directory,
        "lam",
        name,
        None,
        inputs={
            "first": frame,
            "later": frame,
            "view": {"shape": [3], "dtype": "float32", "unit": "tangents of half the horizontal and vertical field of view; pitch down, rad"},
        },
        outputs={"codes": {"shape": [config.tokens], "dtype": "uint8", "unit": f"code index in [0, {config.codes})"}},
        rate_hz=None,
        normalisation={"mean": PIXEL_MEAN, "std": PIXEL_STD},
        files=[WEIGHTS_FILE, METRICS_FILE],
        extra={"model": asdict(config), "gap_s": gap_s, "robot_view": view.to_json(), "training": training, "features": record},
    )


def load_lam(directory: str | Path, features: str = "") -> Lam:
    """Load a LAM checkpoint.

    Args:
        features: where its frozen extractor lies on this machine; default: where it lay in training.

    Raises:
        CheckpointError: not a LAM, damaged, weights that do not fit the manifest's architecture, or another extractor than it was trained on.
    """
    manifest = checkpoint.load_manifest(directory, kind="lam")
    try:
        config = ModelConfig(**manifest.extra["model"])
        gap_s, view = float(manifest.extra["gap_s"]), CameraView.from_json(manifest.extra["robot_view"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{manifest.label}: its settings do not fit this code ({error}); export it again", ErrorCode.CHECKPOINT_MISMATCH) from error
    record = manifest.extra.get("features") or {}
    model = new_model(config, features or record.get("source", ""))
    if isinstance(model, FeatureActionModel) and model.extractor.record["sha256"] != record.get("sha256"):
        raise CheckpointError(
            f"{manifest.label} was trained on features of weights {record.get('sha256', 'unknown')[:12]}, {features or record['source']} has "
            f"{model.extractor.record['sha256'][:12]}; give the former with --features",
            ErrorCode.CHECKPOINT_MISMATCH,
        )
    weights = {key: value.float() for key, value in load_file(manifest.path(WEIGHTS_FILE)).items()}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"{manifest.label}: {WEIGHTS_FILE} does not fit the model in its manifest: {error}", ErrorCode.CHECKPOINT_MISMATCH) from error
    return Lam(manifest, model.eval(), gap_s, view)
