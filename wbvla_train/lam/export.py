"""A trained latent action model as a checkpoint directory: half-precision safetensors, manifest, metrics."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from wbvla_core import checkpoint
from wbvla_core.checkpoint import METRICS_FILE, Manifest
from wbvla_core.errors import CheckpointError, ErrorCode
from wbvla_train.data.camera import CameraView
from wbvla_train.lam.config import ModelConfig
from wbvla_train.lam.feature_model import FeatureActionModel, new_model
from wbvla_train.lam.model import PIXEL_MEAN, PIXEL_STD, LatentActionModel
from wbvla_vla.checkpoint import load_float, save_half

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


def export(model: LatentActionModel, name: str, gap_s: float, view: CameraView, directory: Path, metrics: dict[str, Any]) -> Manifest:
    """Write ``directory``: weights, metrics.json, manifest.json (last: a directory without one is no checkpoint).

    Args:
        view: the robot's camera (see :attr:`Lam.view`).
        metrics: what was measured, how, on what machine.
    """
    config = model.config
    record = model.extractor.record if isinstance(model, FeatureActionModel) else None
    with checkpoint.writing(directory) as folder:
        save_half(model.state_dict(), folder / WEIGHTS_FILE)
        size = (folder / WEIGHTS_FILE).stat().st_size
        if config == ModelConfig(rigid=config.rigid) and size > MAX_BYTES:
            raise CheckpointError(f"{directory / WEIGHTS_FILE} has {size} bytes, at most {MAX_BYTES} are wanted for a checkpoint that ships")
        checkpoint.write_json(folder / METRICS_FILE, metrics)
        inputs, outputs = _contract(config)
        manifest = checkpoint.save_manifest(
            folder,
            "lam",
            name,
            None,
            inputs=inputs,
            outputs=outputs,
            rate_hz=None,
            files=[WEIGHTS_FILE, METRICS_FILE],
            extra={"model": asdict(config), "gap_s": gap_s, "robot_view": view.to_json(), "features": record},
        )
    return replace(manifest, directory=Path(directory))


def _contract(config: ModelConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Inputs and outputs of a LAM, as its manifest names them."""
    frame = {"shape": [config.image_size, config.image_size, 3], "dtype": "uint8", "unit": "RGB, area-averaged from the policy image"}
    view = {"shape": [3], "dtype": "float32", "unit": "tangents of half the horizontal and vertical field of view; pitch down, rad"}
    codes = {"shape": [config.tokens], "dtype": "uint8", "unit": f"code index in [0, {config.codes})"}
    return {"first": frame, "later": frame, "view": view}, {"codes": codes}


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
    checkpoint.require_contract(manifest, *_contract(config), None)
    if manifest.normalisation and manifest.normalisation != {"mean": PIXEL_MEAN, "std": PIXEL_STD}:  # newer ones name none
        raise CheckpointError(
            f"{manifest.label} was trained on pixels scaled by {manifest.normalisation}, this code has mean {PIXEL_MEAN} and std {PIXEL_STD}; use its version"
        )
    record = manifest.extra.get("features") or {}
    model = new_model(config, features or record.get("source", ""))
    if isinstance(model, FeatureActionModel) and model.extractor.record["sha256"] != record.get("sha256"):
        raise CheckpointError(
            f"{manifest.label} was trained on features of weights {record.get('sha256', 'unknown')[:12]}, {features or record['source']} has "
            f"{model.extractor.record['sha256'][:12]}; give the former with --features",
            ErrorCode.CHECKPOINT_MISMATCH,
        )
    weights = load_float(manifest.path(WEIGHTS_FILE))
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"{manifest.label}: {WEIGHTS_FILE} does not fit the model in its manifest: {error}", ErrorCode.CHECKPOINT_MISMATCH) from error
    return Lam(manifest, model.eval(), gap_s, view)
