"""What a published Prismatic or OpenVLA checkpoint holds: layout, description, tensors.

Two layouts of one architecture (prior work: Prismatic, OpenVLA) are read from a local folder, or from the hub at a stated revision:

    Prismatic      config.json, checkpoints/*.pt         {"model": {"vision_backbone": ..., "projector": ..., "llm_backbone": ...}}
    Hugging Face   config.json (openvla or prismatic), *.safetensors and their index, tokenizer.json

Files are memory-mapped: a tensor takes no memory until it is read. Nothing in them is executed.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open

from wbvla_core.errors import CheckpointError, ErrorCode
from wbvla_vla.config import VlaConfig
from wbvla_vla.tokens import TOKENIZER_FILE

INDEX_FILE = "model.safetensors.index.json"
HUB_FILES = ("config.json", TOKENIZER_FILE, INDEX_FILE, "model*.safetensors", "checkpoints/latest-checkpoint.pt")
NAMED = 4  # how many names an error spells out
# Epsilon of Llama's norms: Llama-2's own; and LlamaConfig's default, with which the Hugging Face layout runs because it writes none down.
LLAMA2_EPS, DEFAULT_EPS = 1e-5, 1e-6
LLAMA_DEFAULTS = {"num_attention_heads": 32, "hidden_act": "silu", "rope_theta": 10000.0, "rope_scaling": None}  # no shape shows these
# What the description must say; sizes are held by the tensors' shapes.
ARCHITECTURE = {
    "vision_backbone_id": "dinosiglip-vit-so-224px",
    "llm_backbone_id": "llama2-7b-pure",
    "arch_specifier": "no-align+fused-gelu-mlp",
    "image_resize_strategy": "resize-naive",
}
BASE_VLMS = ("prism-dinosiglip-224px+7b", "prism-dinosiglip-224px-controlled+7b")  # of that architecture


@dataclass(frozen=True)
class Layout:
    """What the two layouts call the same tensors.

    Attributes:
        dino, siglip, language: prefixes of towers and Llama.
        projector: its three linear layers.
        scale: last part of DINOv2's layer scales (the Hugging Face layout renames what contains "gamma").
    """

    name: str
    dino: str
    siglip: str
    language: str
    projector: tuple[str, str, str]
    scale: str


PRISMATIC = Layout(
    "Prismatic",
    "vision_backbone.dino_featurizer.",
    "vision_backbone.siglip_featurizer.",
    "llm_backbone.llm.",
    ("projector.projector.0.", "projector.projector.2.", "projector.projector.4."),
    "gamma",
)
HUGGING_FACE = Layout(
    "Hugging Face",
    "vision_backbone.featurizer.",
    "vision_backbone.fused_featurizer.",
    "language_model.",
    ("projector.fc1.", "projector.fc2.", "projector.fc3."),
    "scale_factor",
)


def local_folder(source: str | Path, files: Iterable[str] = HUB_FILES) -> Path:
    """``source`` itself where it is a folder, else these of its files from the hub (``owner/name[/folder]@revision``)."""
    if Path(source).is_dir():
        return Path(source)
    repository, _, revision = str(source).partition("@")
    owner, *rest = repository.split("/")
    if not rest or not revision:
        raise CheckpointError(
            f"{source} is neither a folder nor a place on the hub with its revision; give owner/name[/folder]@revision, "
            "a commit hash where the result must stay the same",
            ErrorCode.CHECKPOINT_MISSING,
        )
    name, inside = rest[0], "/".join(rest[1:])
    patterns = [f"{inside}/{pattern}" if inside else pattern for pattern in files]
    try:
        return Path(snapshot_download(f"{owner}/{name}", revision=revision, allow_patterns=patterns)) / inside
    except (OSError, ValueError) as error:  # no network, no such repository, a gated one
        raise CheckpointError(f"the hub did not give {source} ({error}); download it elsewhere and give the folder", ErrorCode.CHECKPOINT_MISSING) from error


def read_folder(folder: Path, config: VlaConfig) -> tuple[Layout, VlaConfig, dict[str, torch.Tensor]]:
    """Layout, ``config`` with the folder's epsilon of Llama's norms, and all tensors, memory-mapped.

    Raises:
        CheckpointError: no such layout, another architecture, missing or damaged files.
    """
    path = folder / "config.json"
    described = read_json(path)
    if described.get("model_type") in ("openvla", "prismatic"):
        _require(path, described, ARCHITECTURE)
        text = described.get("text_config", {})
        _require(path, LLAMA_DEFAULTS | text, LLAMA_DEFAULTS | {"num_attention_heads": config.language.heads})
        return HUGGING_FACE, _with_epsilon(config, text.get("rms_norm_eps", DEFAULT_EPS)), _read_safetensors(folder)
    if "model" in described:
        _require(path, described["model"], ARCHITECTURE)
    elif described.get("vla", {}).get("base_vlm") not in BASE_VLMS:
        raise CheckpointError(
            f"{path} describes neither a Prismatic model ('model'), nor an OpenVLA trained on one of {BASE_VLMS} ('vla'), nor model_type "
            f"openvla or prismatic; it has model_type {described.get('model_type')!r} and the keys {some(described)}"
        )
    return PRISMATIC, _with_epsilon(config, LLAMA2_EPS), _read_pt(folder)


def read_json(path: Path) -> dict[str, Any]:
    """A description that lies beside published weights; CheckpointError where it is missing or damaged."""
    if not path.is_file():
        raise CheckpointError(f"{path} is not there; a published checkpoint is a folder with a config.json and its weights", ErrorCode.CHECKPOINT_MISSING)
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise CheckpointError(f"{path} is not readable JSON ({error}); copy it again", ErrorCode.CHECKPOINT_CORRUPT) from error


def _require(path: Path, came: dict[str, Any], expected: dict[str, Any]) -> None:
    wrong = [f"{key} {came.get(key)!r} (expected {value!r})" for key, value in expected.items() if came.get(key) != value]
    if wrong:
        raise CheckpointError(f"{path} describes another model: {', '.join(wrong)}")


def _with_epsilon(config: VlaConfig, epsilon: float) -> VlaConfig:
    return replace(config, language=replace(config.language, rms_norm_eps=epsilon))


def _read_safetensors(folder: Path) -> dict[str, torch.Tensor]:
    index = folder / INDEX_FILE
    listed: dict[str, str] = read_json(index)["weight_map"] if index.is_file() else {}
    tensors: dict[str, torch.Tensor] = {}
    for name in sorted(set(listed.values())) or ["model.safetensors"]:
        tensors |= _map_file(folder / name)
    if absent := sorted(set(listed) - set(tensors)):
        raise CheckpointError(f"{index} lists tensors that its files do not hold: {some(absent)}; copy the checkpoint again", ErrorCode.CHECKPOINT_CORRUPT)
    return tensors


def _read_pt(folder: Path) -> dict[str, torch.Tensor]:
    found = sorted((folder / "checkpoints").glob("*.pt"))
    latest = [path for path in found if path.name == "latest-checkpoint.pt"]
    if len(latest or found) != 1:
        raise CheckpointError(f"{folder}/checkpoints must hold latest-checkpoint.pt or one .pt file, it holds {some(path.name for path in found)}")
    return _map_file((latest or found)[0])


def _map_file(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a safetensors or torch file, memory-mapped: they take no memory until they are read."""
    if not path.is_file():
        raise CheckpointError(f"{path} is not there; copy the checkpoint again", ErrorCode.CHECKPOINT_MISSING)
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        return dict(_flat(torch.load(path, map_location="cpu", mmap=True, weights_only=True)))
    except (SafetensorError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        text = str(error).strip().split("\n")[0]
        raise CheckpointError(f"{path} is not a readable file of weights alone ({text}); copy it again", ErrorCode.CHECKPOINT_CORRUPT) from error


def _flat(state: dict[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    """{"model": {part: {name: tensor}}} -> (part.name, tensor); a plain state is left as it is."""
    for part, value in state.get("model", state).items():
        if isinstance(value, torch.Tensor):
            yield part, value
        else:
            yield from ((f"{part}.{name}", tensor) for name, tensor in value.items())


def read_towers(paths: tuple[Path, Path], layout: Layout) -> dict[str, torch.Tensor]:
    """timm's DINOv2 and SigLIP under the layout's names. SigLIP's hub file holds open_clip's whole model: the tower is its ``visual.trunk``."""
    tensors = {}
    for path, prefix in zip(paths, (layout.dino, layout.siglip), strict=True):
        tower = _map_file(Path(path))
        trunk = {name.removeprefix("visual.trunk."): tensor for name, tensor in tower.items() if name.startswith("visual.trunk.")}
        for name, tensor in (trunk or tower).items():
            tensors[prefix + re.sub(r"\.gamma$", f".{layout.scale}", name)] = tensor
    return tensors


def some(names: Iterable[str]) -> str:
    """The first few names and how many there are."""
    names = list(names)
    return "none" if not names else ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
