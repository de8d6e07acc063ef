"""Feature space ``dinov2``: patch features of a frozen DINOv2 with registers, as transformers has it.

Source: the paper and UniVLA predict such features instead of pixels. The layer is UniVLA's: patch tokens after the final norm of
ViT-B/14 with registers, class and register tokens dropped.
"""

from __future__ import annotations

import json
import os

import numpy as np
import torch
from safetensors import SafetensorError
from torch import nn

from wbvla_core.checkpoint import sha256_file
from wbvla_core.errors import CheckpointError, ErrorCode
from wbvla_train.data.clips import Corpus
from wbvla_train.lam.config import BACKBONES, ModelConfig
from wbvla_train.lam.model import PIXEL_MEAN, PIXEL_STD, pixels

RANDOM = "random"  # in place of a folder: weights of the architecture, drawn with a fixed seed
WEIGHTS_FILE = "model.safetensors"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # what DINOv2 was trained with


class FrozenFeatures(nn.Module):
    """The extractor; never trained, never saved with a LAM.

    Attributes:
        tower: transformers' Dinov2WithRegistersModel.
        record: {source, sha256} of its weights, for the manifest.
    """

    def __init__(self, tower: nn.Module, record: dict[str, str]) -> None:
        super().__init__()
        self.tower, self.record = tower.eval().requires_grad_(False), record
        mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
        self.register_buffer("gain", PIXEL_STD / std)
        self.register_buffer("shift", (PIXEL_MEAN - mean) / std)

    @torch.no_grad()
    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Frames as :func:`~wbvla_train.lam.model.pixels` gives them [B, 3, S, S] -> [B, C, S / patch, S / patch]."""
        config = self.tower.config
        tokens = self.tower(pixel_values=frames * self.gain + self.shift).last_hidden_state[:, 1 + config.num_register_tokens :]
        side = frames.shape[-1] // config.patch_size
        return tokens.unflatten(1, (side, side)).permute(0, 3, 1, 2)  # a view: channels last


def load_features(source: str, config: ModelConfig) -> FrozenFeatures:
    """The frozen extractor of ``config.backbone``.

    Args:
        source: a folder with config.json and model.safetensors, ``owner/name@revision`` on the hub, or :data:`RANDOM`.

    Raises:
        CheckpointError: nothing there, another architecture, or weights that do not fit it.
    """
    # Imported here: it takes seconds, and a model on pixels does without.
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    from wbvla_vla.published import local_folder, some

    wanted = Dinov2WithRegistersConfig(**BACKBONES[config.backbone])
    if source == RANDOM:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return FrozenFeatures(Dinov2WithRegistersModel(wanted), {"source": RANDOM, "sha256": f"{RANDOM}-{config.backbone}"})
    if not source:
        raise CheckpointError(
            "this LAM works on DINOv2 features; give --features: the folder of facebook/dinov2-with-registers-base, or owner/name@revision on the hub",
            ErrorCode.CHECKPOINT_MISSING,
        )
    folder = local_folder(source)
    path = folder / WEIGHTS_FILE
    if not path.is_file() or not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder} must hold config.json and {WEIGHTS_FILE}, in transformers' layout", ErrorCode.CHECKPOINT_MISSING)
    described = json.loads((folder / "config.json").read_text())
    expected = {"model_type": wanted.model_type, **BACKBONES[config.backbone]}
    wrong = [f"{key} {described[key]!r} (expected {value!r})" for key, value in expected.items() if described.get(key, value) != value]
    if wrong or "model_type" not in described:
        raise CheckpointError(f"{folder / 'config.json'} describes another backbone than {config.backbone}: {', '.join(wrong) or 'no model_type'}")
    try:  # transformers' own reader: the published names are older than those of its classes
        tower, report = Dinov2WithRegistersModel.from_pretrained(folder, config=wanted, dtype=torch.float32, use_safetensors=True, output_loading_info=True)
    except (RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{path} does not fit {config.backbone}: {error}", ErrorCode.CHECKPOINT_MISMATCH) from error
    if report["missing_keys"] or report["unexpected_keys"]:
        missing, unexpected = (some(report[kind]) for kind in ("missing_keys", "unexpected_keys"))
        raise CheckpointError(f"{path} does not fit {config.backbone}: missing {missing}; unexpected {unexpected}", ErrorCode.CHECKPOINT_MISMATCH)
    return FrozenFeatures(tower, {"source": source, "sha256": sha256_file(path)})


class FeatureCorpus:
    """Features of every frame of a corpus, extracted once and kept on disk beside its decoded frames.

    Attributes:
        frames: [N, h, w, C] float16, memory-mapped; where :class:`~wbvla_train.data.clips.Corpus` has pixels [N, S, S, 3].
    """

    def __init__(self, corpus: Corpus, extractor: FrozenFeatures, log=lambda text: None, batch: int = 32) -> None:
        device = extractor.gain.device
        path = corpus.cache.with_name(f"{corpus.cache.stem}_{extractor.record['sha256'][:16]}.npy")
        if not path.exists():
            config = extractor.tower.config
            side = corpus.size // config.patch_size
            shape = (len(corpus.frames), side, side, config.hidden_size)
            log(f"features: extracting {shape[0]} frames to {path} ({np.prod(shape) * 2 / 1e9:.1f} GB)")
            temporary = path.with_name(f".{path.stem}.{os.getpid()}.npy")
            store = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float16, shape=shape)
            for i in range(0, len(store), batch):
                features = extractor(pixels(torch.from_numpy(np.array(corpus.frames[i : i + batch]))).to(device))
                store[i : i + batch] = features.permute(0, 2, 3, 1).half().cpu().numpy()
            store.flush()
            os.replace(temporary, path)
        self.frames = np.load(path, mmap_mode="r")
        self.fingerprint = corpus.fingerprint
