"""VLA and policy bundles on disk: half-precision safetensors, a tokenizer, a manifest. Used by training (save) and nodes (load)."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from wbvla_core import checkpoint, robot_numbers
from wbvla_core.catalogue import TASKS_FILE, TaskCatalogue
from wbvla_core.checkpoint import METRICS_FILE, Manifest, settings_of, write_json
from wbvla_core.errors import CheckpointError, ErrorCode
from wbvla_core.robot import RobotSpec
from wbvla_decoder.model import ActionDecoder, DecoderConfig
from wbvla_decoder.policy import ArmScaling, FilterConfig
from wbvla_perception.preprocess import ImageSpec, require_camera
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
    save_tensors(half, path)


def save_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Write safetensors by rename, with the mode of any new file (safetensors itself leaves 0600).

    Raises:
        CheckpointError: the disk is full; what lay at ``path`` stays.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file(tensors, temporary)
        checkpoint.give_umask_mode(temporary)
        os.replace(temporary, path)
    except Exception as error:
        if (why := checkpoint.no_room(error)) is None:
            raise
        raise CheckpointError(f"cannot write {path}: {why}; make room and run the same command again", ErrorCode.CHECKPOINT_MISSING) from error
    finally:
        temporary.unlink(missing_ok=True)


def load_float(path: Path) -> dict[str, torch.Tensor]:
    """Read safetensors as float32 (for one image at a time float32 is the faster type on a CPU).

    Raises:
        CheckpointError: not a safetensors file, or weights that are not finite.
    """
    try:
        stored = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file ({error}); copy the checkpoint again", ErrorCode.CHECKPOINT_CORRUPT) from error
    found = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in stored.items()}
    for name, tensor in found.items():
        # A sum is finite only where all its parts are, and is quick; where it is not, each of them is looked at (a sum can also overflow).
        if tensor.is_floating_point() and not torch.isfinite(tensor.sum()) and (bad := int((~torch.isfinite(tensor)).sum())):
            raise CheckpointError(
                f"{path}: {bad} of {tensor.numel()} numbers of {name} are not finite; the training diverged, or the file was changed: "
                "copy or train the checkpoint again",
                ErrorCode.CHECKPOINT_CORRUPT,
            )
    return found


def load_strict(module: torch.nn.Module, state: dict[str, torch.Tensor], label: str) -> None:
    """load_state_dict that answers with a CheckpointError."""
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:
        why = " ".join(str(error).split())
        raise CheckpointError(f"{label}: weights and network do not fit together: {why[:300]}") from error


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
    metrics: Callable[[Manifest], dict[str, Any]] | None = None,
) -> Manifest:
    """Write ``checkpoints/vla/<name>``.

    Args:
        weights: where they are not in ``model`` (gathered from many processes).
        metrics: what metrics.json says, given the manifest.
    """
    config = model.config
    with checkpoint.writing(directory) as folder:
        save_half(model.state_dict() if weights is None else weights, folder / WEIGHTS_FILE)
        tokenizer.save(folder)
        inputs, outputs = _vla_contract(config, image_spec)
        manifest = checkpoint.save_manifest(
            folder,
            "vla",
            name,
            robot,
            inputs=inputs,
            outputs=outputs,
            rate_hz=RATE_HZ,
            parents=parents,
            files=[WEIGHTS_FILE, TOKENIZER_FILE],
            extra={"backbone": config.backbone, "config": config.to_json(), **extra},
        )
        if metrics is not None:
            write_json(folder / METRICS_FILE, metrics(manifest))
    return replace(manifest, directory=Path(directory))


def _vla_contract(config: AnyVlaConfig, image_spec: ImageSpec) -> tuple[dict[str, Any], dict[str, Any]]:
    """Inputs and outputs of a VLA, as its manifest names them."""
    size = config.image_size
    inputs = {
        "image": {"shape": [size, size, 3], "dtype": "uint8", "unit": "RGB", "spec": image_spec.to_json()},
        "instruction": {"dtype": "str", "unit": "words", "max_words": config.language.max_words},
    }
    outputs = {"codes": {"shape": [2, config.tokens_per_kind], "dtype": "int64", "unit": f"index of {config.codebook_size} codes; rows mani, loco"}}
    return inputs, outputs


def _policy_contract(decoder: DecoderConfig, vla_inputs: dict[str, Any], robot: RobotSpec) -> tuple[dict[str, Any], dict[str, Any]]:
    """Inputs and outputs of a policy bundle, as its manifest names them."""
    arms = list(robot.groups["upper_body"])
    inputs = {
        **vla_inputs,
        "posture": {"shape": [3], "dtype": "float32", "unit": "gravity direction in the pelvis frame"},
        "arm_state": {"shape": [2 * len(arms)], "dtype": "float32", "unit": "scaled positions, then velocities x 0.1 s/rad", "joints": arms},
    }
    outputs = {
        "loco": {"shape": [4], "unit": "flags forward, lateral, yaw in {-1, 0, 1}; stance height, m"},
        "arms": {"shape": [decoder.chunk_rows, len(arms)], "unit": "rad (grippers: m)", "dt_s": decoder.chunk_dt_s, "joints": arms},
    }
    return inputs, outputs


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
    config = settings_of(manifest, "config", (VlaConfig if backbone == VlaConfig.backbone else ImageTextConfig).from_json)
    spec = _image_spec(manifest)
    checkpoint.require_contract(manifest, *_vla_contract(config, spec), RATE_HZ)
    _require_written(manifest, {"image": spec.statistics})
    if robot is not None:
        require_camera(manifest.label, spec, robot)
    try:
        tokenizer = InstructionTokenizer.load(manifest.directory, config.language.max_words, config.prompt, config.image_token)
    except Exception as error:  # tokenizers raises plain Exception
        raise CheckpointError(f"{manifest.label}: {TOKENIZER_FILE} cannot be read ({error}); copy or export the checkpoint again") from error
    model = build_vla(config, tokenizer)
    load_strict(model, load_float(manifest.path(WEIGHTS_FILE)), manifest.label)
    return LoadedVla(model.eval(), tokenizer, spec, manifest)


def _image_spec(manifest: Manifest) -> ImageSpec:
    try:
        return ImageSpec.from_json(manifest.inputs["image"]["spec"])
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{manifest.label}: inputs.image.spec does not fit this version of wbvla ({error}); export it again") from error


def _require_written(manifest: Manifest, built: dict[str, Any]) -> None:
    """Refuse an older manifest whose normalisation says other numbers than this robot and network have. Newer ones have none there."""
    for name in manifest.normalisation.keys() & built.keys():
        said, here = manifest.normalisation[name], built[name]
        parts = [(f"{name}.{key}", said.get(key), here[key]) for key in here] if isinstance(here, dict) and isinstance(said, dict) else [(name, said, here)]
        for what, a, b in parts:
            if not robot_numbers.same(a, b):
                raise CheckpointError(
                    f"{manifest.label} was trained with normalisation.{what} {a}, the robot spec and network here give {b}; restore the numbers in the robot "
                    "spec, or train again with these"
                )


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
    metrics: Callable[[Manifest], dict[str, Any]] | None = None,
    tasks: TaskCatalogue | None = None,
) -> Manifest:
    """Write ``checkpoints/policy/<name>``: adapter and decoder, trained together, with the base VLA as parent.

    Args:
        metrics: what metrics.json says, given the manifest.
        tasks: the sentences that it was trained on, written beside the weights; None: the bundle is not guarded.
    """
    tensors = {f"adapter.{key}": value for key, value in adapter.items()}
    tensors |= {f"decoder.{key}": value for key, value in decoder.state_dict().items()}
    with checkpoint.writing(directory) as folder:
        save_half(tensors, folder / WEIGHTS_FILE)
        if tasks is not None:
            tasks.save(folder)
        inputs, outputs = _policy_contract(decoder.config, vla.inputs, robot)
        manifest = checkpoint.save_manifest(
            folder,
            "policy",
            name,
            robot,
            inputs=inputs,
            outputs=outputs,
            rate_hz=RATE_HZ,
            parents={"vla": vla},
            files=[WEIGHTS_FILE, *([TASKS_FILE] if tasks is not None else [])],
            extra={
                "vla_name": vla.name,
                "lora": lora_settings.to_json(),
                "decoder": decoder.config.to_json(),
                "filter": filter_config.to_json(),
                **extra,
            },
        )
        if metrics is not None:
            write_json(folder / METRICS_FILE, metrics(manifest))
    return replace(manifest, directory=Path(directory))


@dataclass
class LoadedPolicy:
    vla: LoadedVla
    decoder: ActionDecoder
    filter_config: FilterConfig
    manifest: Manifest
    tasks: TaskCatalogue | None = None  # the sentences that it carries out; None: the bundle does not say


def load_policy(directory: Path, robot: RobotSpec, vla_directory: Path | None = None) -> LoadedPolicy:
    """Read and verify a policy bundle and everything that it was built on: policy -> VLA -> both LAMs.

    Args:
        vla_directory: the base VLA; by default ``checkpoints/vla/<name>`` beside the bundle, name from the manifest.

    Raises:
        CheckpointError: a missing, damaged or mismatched link of the chain.
    """
    directory = checkpoint.find_checkpoint(directory)
    manifest = checkpoint.load_manifest(directory, kind="policy", robot=robot)
    name = settings_of(manifest, "vla_name", _plain_name)
    vla = load_vla(Path(vla_directory) if vla_directory else directory.resolve().parents[1] / "vla" / name, robot)
    checkpoint.require_parent(manifest, "vla", vla.manifest)
    _verify_lams(vla.manifest)
    lora_settings = settings_of(manifest, "lora", lambda data: LoraSettings(**data))
    decoder_config = settings_of(manifest, "decoder", lambda data: DecoderConfig(**data))
    filter_config = settings_of(manifest, "filter", lambda data: FilterConfig(**data))
    checkpoint.require_contract(manifest, *_policy_contract(decoder_config, vla.manifest.inputs, robot), RATE_HZ)
    _require_written(manifest, {"arms": ArmScaling.of(robot).to_json(), "stance_height_range_m": list(robot.stance_height_range_m)})

    tensors = load_float(manifest.path(WEIGHTS_FILE))
    if strangers := sorted(key for key in tensors if not key.startswith(("adapter.", "decoder."))):
        raise CheckpointError(f"{manifest.label}: {WEIGHTS_FILE} holds {strangers[:4]}, which no part of a policy bundle is; export it again")
    adapted = lora.attach(vla.model, lora_settings)
    try:
        lora.load_adapter(adapted, strip(tensors, "adapter."))
    except ValueError as error:
        raise CheckpointError(f"{manifest.label}: {error}") from error
    vla.model = lora.merge(adapted).eval()
    decoder = build_decoder(decoder_config, vla.model.config, robot)
    load_strict(decoder, strip(tensors, "decoder."), manifest.label)
    return LoadedPolicy(vla, decoder.eval(), filter_config, manifest, TaskCatalogue.of(manifest))


def _plain_name(name: Any) -> str:
    if not checkpoint.is_plain(name):
        raise ValueError(f"expected the name of a VLA beside it, got {name!r}")
    return name


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
