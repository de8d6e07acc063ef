"""VLA and policy bundles on disk: half-precision safetensors, a tokenizer, a manifest. Used by training (save) and nodes (load)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from wbvla_core import checkpoint
from wbvla_core.checkpoint import Manifest
from wbvla_core.errors import CheckpointError, ErrorCode
from wbvla_core.robot import RobotSpec
from wbvla_decoder.model import ActionDecoder, DecoderConfig
from wbvla_decoder.policy import ArmScaling, FilterConfig
from wbvla_perception.preprocess import ImageSpec
from wbvla_vla import lora
from wbvla_vla.config import AnyVlaConfig, ImageTextConfig, VlaConfig
from wbvla_vla.image_text import FAMILIES, ImageTextVla
from wbvla_vla.lora import LoraSettings
from wbvla_vla.model import PrismaticVla, Vla
from wbvla_vla.tokens import KINDS, TOKENIZER_FILE, InstructionTokenizer

WEIGHTS_FILE = "model.safetensors"
LAM_ROLES = ("lam_mani", "lam_loco")  # parents of a VLA: whose codes it predicts
RATE_HZ = 10.0  # paper: the VLA runs at about 10 Hz


@dataclass
class LoadedVla:
    model: Vla
    tokenizer: InstructionTokenizer
    image_spec: ImageSpec
    manifest: Manifest


def build_vla(config: AnyVlaConfig, tokenizer: InstructionTokenizer) -> Vla:
    """A model of this configuration on its backbone, with random weights."""
    return PrismaticVla(config, tokenizer) if isinstance(config, VlaConfig) else ImageTextVla(config, tokenizer)


def save_half(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Write float tensors as float16, refusing those that do not fit its range."""
    half = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        if tensor.is_floating_point():
            tensor = tensor.half()
            if not torch.isfinite(tensor).all():
                raise CheckpointError(f"{name} has values that float16 cannot hold; the training diverged", ErrorCode.CHECKPOINT_CORRUPT)
        half[name] = tensor
    save_file(half, path)


def load_float(path: Path) -> dict[str, torch.Tensor]:
    """Read safetensors as float32 (for one image at a time float32 is the faster type on a CPU)."""
    try:
        return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in load_file(path).items()}
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a readable safetensors file ({error}); copy the checkpoint again", ErrorCode.CHECKPOINT_CORRUPT) from error


def load_strict(module: torch.nn.Module, state: dict[str, torch.Tensor], label: str) -> None:
    """load_state_dict that answers with a CheckpointError."""
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise CheckpointError(f"{label}: weights and network do not fit together: {error}") from error


def save_vla(
    directory: Path,
    name: str,
    model: Vla,
    tokenizer: InstructionTokenizer,
    image_spec: ImageSpec,
    robot: RobotSpec,
    parents: dict[str, Manifest | str],
    extra: dict[str, Any],
    weights: dict[str, torch.Tensor] | None = None,
) -> Manifest:
    """Write ``checkpoints/vla/<name>``; ``weights``: where they are not in ``model`` (gathered from many processes)."""
    directory.mkdir(parents=True, exist_ok=True)
    save_half(model.state_dict() if weights is None else weights, directory / WEIGHTS_FILE)
    tokenizer.save(directory)
    config = model.config
    return checkpoint.save_manifest(
        directory,
        "vla",
        name,
        robot,
        inputs={
            "image": {"shape": [config.image_size, config.image_size, 3], "dtype": "uint8", "unit": "RGB", "spec": image_spec.to_json()},
            "instruction": {"dtype": "str", "unit": "words", "max_words": config.language.max_words},
        },
        outputs={"codes": {"shape": [2, config.tokens_per_kind], "dtype": "int64", "unit": f"index of {config.codebook_size} codes; rows mani, loco"}},
        rate_hz=RATE_HZ,
        normalisation={"image": image_spec.statistics},
        parents=parents,
        files=[WEIGHTS_FILE, TOKENIZER_FILE],
        extra={"backbone": config.backbone, "config": config.to_json(), **extra},
    )


def load_vla(directory: Path, robot: RobotSpec | None = None) -> LoadedVla:
    """Read and verify ``checkpoints/vla/<name>``.

    Raises:
        CheckpointError: see :func:`wbvla_core.checkpoint.load_manifest`.
    """
    manifest = checkpoint.load_manifest(directory, kind="vla", robot=robot)
    backbone = manifest.extra.get("backbone", VlaConfig.backbone)  # older ones name none
    if backbone != VlaConfig.backbone and backbone not in FAMILIES:
        known = ", ".join((VlaConfig.backbone, *FAMILIES))
        raise CheckpointError(f"{manifest.label} has the backbone {backbone!r}; this version knows {known}; take the version of wbvla that wrote it")
    config = (VlaConfig if backbone == VlaConfig.backbone else ImageTextConfig).from_json(manifest.extra["config"])
    tokenizer = InstructionTokenizer.load(Path(directory), config.language.max_words, config.prompt, config.image_token)
    model = build_vla(config, tokenizer)
    load_strict(model, load_float(manifest.path(WEIGHTS_FILE)), manifest.label)
    return LoadedVla(model.eval(), tokenizer, ImageSpec.from_json(manifest.inputs["image"]["spec"]), manifest)


def save_policy(
    directory: Path,
    name: str,
    adapter: dict[str, torch.Tensor],
    decoder: ActionDecoder,
    vla: Manifest,
    robot: RobotSpec,
    lora_settings: LoraSettings,
    filter_config: FilterConfig,
    extra: dict[str, Any],
) -> Manifest:
    """Write ``checkpoints/policy/<name>``: adapter and decoder, trained together, with the base VLA as parent."""
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {f"adapter.{key}": value for key, value in adapter.items()}
    tensors |= {f"decoder.{key}": value for key, value in decoder.state_dict().items()}
    save_half(tensors, directory / WEIGHTS_FILE)
    arms = list(robot.groups["upper_body"])
    return checkpoint.save_manifest(
        directory,
        "policy",
        name,
        robot,
        inputs={
            **vla.inputs,
            "posture": {"shape": [3], "dtype": "float32", "unit": "gravity direction in the pelvis frame"},
            "arm_state": {"shape": [2 * len(arms)], "dtype": "float32", "unit": "scaled positions, then velocities x 0.1 s/rad", "joints": arms},
        },
        outputs={
            "loco": {"shape": [4], "unit": "flags forward, lateral, yaw in {-1, 0, 1}; stance height, m"},
            "arms": {"shape": [decoder.config.chunk_rows, len(arms)], "unit": "rad (grippers: m)", "dt_s": decoder.config.chunk_dt_s, "joints": arms},
        },
        rate_hz=RATE_HZ,
        normalisation={"arms": ArmScaling.of(robot).to_json(), "stance_height_range_m": list(robot.stance_height_range_m)},
        parents={"vla": vla},
        files=[WEIGHTS_FILE],
        extra={
            "vla_name": vla.name,
            "lora": lora_settings.to_json(),
            "decoder": decoder.config.to_json(),
            "filter": filter_config.to_json(),
            **extra,
        },
    )


@dataclass
class LoadedPolicy:
    vla: LoadedVla
    decoder: ActionDecoder
    filter_config: FilterConfig
    manifest: Manifest


def load_policy(directory: Path, robot: RobotSpec, vla_directory: Path | None = None) -> LoadedPolicy:
    """Read and verify a policy bundle and everything that it was built on: policy -> VLA -> both LAMs.

    Args:
        vla_directory: the base VLA; by default ``checkpoints/vla/<name>`` beside the bundle, name from the manifest.

    Raises:
        CheckpointError: a missing, damaged or mismatched link of the chain.
    """
    directory = Path(directory)
    manifest = checkpoint.load_manifest(directory, kind="policy", robot=robot)
    vla = load_vla(Path(vla_directory) if vla_directory else directory.resolve().parents[1] / "vla" / manifest.extra["vla_name"], robot)
    checkpoint.require_parent(manifest, "vla", vla.manifest)
    _verify_lams(vla.manifest)

    tensors = load_float(manifest.path(WEIGHTS_FILE))
    adapted = lora.attach(vla.model, LoraSettings(**manifest.extra["lora"]))
    try:
        lora.load_adapter(adapted, strip(tensors, "adapter."))
    except ValueError as error:
        raise CheckpointError(f"{manifest.label}: {error}") from error
    vla.model = lora.merge(adapted).eval()
    decoder = build_decoder(DecoderConfig(**manifest.extra["decoder"]), vla.model.config, robot)
    load_strict(decoder, strip(tensors, "decoder."), manifest.label)
    return LoadedPolicy(vla, decoder.eval(), FilterConfig(**manifest.extra["filter"]), manifest)


def build_decoder(config: DecoderConfig, vla: AnyVlaConfig, robot: RobotSpec) -> ActionDecoder:
    arms = len(robot.groups["upper_body"])
    codes = len(KINDS) * vla.tokens_per_kind * vla.codebook_size
    return ActionDecoder(config, vla.language.hidden_size, codes, posture_size=3, arm_state_size=2 * arms, arm_count=arms)


def strip(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The tensors whose names begin with ``prefix``, without it."""
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _verify_lams(vla: Manifest) -> None:
    """Where the LAMs lie beside the VLA they must be the ones whose codes it learnt; a robot needs no LAM, so none is fine too."""
    lam_root = vla.directory.resolve().parents[1] / "lam"
    for role in LAM_ROLES:
        directory = lam_root / role.removeprefix("lam_")
        if directory.is_dir():
            checkpoint.require_parent(vla, role, checkpoint.load_manifest(directory, kind="lam", verify_files=False))
