"""Sizes of the vision-language-action model. Each number says where it comes from.

Sources: *paper* = WholeBodyVLA (arXiv 2512.11047); *prior work* = named; *ours* = our choice, with the reason.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal

from wbvla_core.robot import Camera
from wbvla_perception.preprocess import ImageSpec

Decoding = Literal["parallel", "autoregressive"]


@dataclass(frozen=True)
class TowerConfig:
    """One vision tower.

    Attributes:
        stem: "patch" = one strided convolution, as published; "conv" = three strided convolutions (ours: on two cores a plain patch
            projection had not learnt to see after 20 k samples, a convolutional stem had after 30 k).
        feature_layer: hidden states that are used, -1 = after the final norm, -2 = before the last block (prior work: Prismatic).
        activation: of the MLPs; None = as the transformers class has it (DINOv2 "gelu", SigLIP "gelu_pytorch_tanh").
    """

    hidden_size: int
    layers: int
    heads: int
    intermediate_size: int
    patch_size: int
    stem: Literal["patch", "conv"] = "patch"
    registers: int = 0
    feature_layer: int = -2
    activation: str | None = None

    def tokens(self, image_size: int) -> int:
        return (image_size // self.patch_size) ** 2


@dataclass(frozen=True)
class LanguageConfig:
    """The language blocks.

    Attributes:
        attention: who sees whom. "prefix" = image, words and latent-action queries all see each other (ours for training from
            nothing: image tokens know the sentence from the first block on; prior work: PaliGemma's prefix mask); "parallel" =
            causal over image and words as Llama-2 was trained, full among the queries (prior work: OpenVLA-OFT's parallel decoding).
        rms_norm_eps: added to the mean square in the norms (transformers' default; prior work: 1e-5 in Llama-2).
    """

    hidden_size: int
    layers: int
    heads: int
    intermediate_size: int
    attention: Literal["prefix", "parallel"] = "parallel"
    max_words: int = 16
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-6


@dataclass(frozen=True)
class VlaConfig:
    """The whole model in Prismatic's layout.

    Attributes:
        image_size: edge of the policy image, px.
        codebook_size, tokens_per_kind: 16 codes x 4 tokens per latent action model (prior work: UniVLA; the paper's are not published).
        prompt: text around the instruction (prior work: OpenVLA's question for the 7B; ours: none for the word tokenizer).
        decoding: "parallel" = all codes from one pass (prior work: OpenVLA-OFT); "autoregressive" = one after the other, each given those before it
            (prior work: OpenVLA, UniVLA).
    """

    dino: TowerConfig
    siglip: TowerConfig
    language: LanguageConfig
    image_size: int = 224
    codebook_size: int = 16
    tokens_per_kind: int = 4
    prompt: str = "{instruction}"
    projector_expansion: int = 4  # prior work: Prismatic's fused-gelu-mlp
    decoding: Decoding = "parallel"
    backbone: ClassVar[str] = "prismatic"
    channels: ClassVar[int] = 6
    image_token: ClassVar[str] = ""

    @property
    def image_tokens(self) -> int:
        return self.dino.tokens(self.image_size)

    def image_spec(self, camera: Camera) -> ImageSpec:
        """How a picture of this camera is prepared."""
        return ImageSpec.of(camera, self.image_size)

    def tower(self, block: str) -> tuple[TowerConfig, int]:
        """The tower with blocks of this class, and the length of its sequence."""
        if block.startswith("Dinov2"):
            return self.dino, self.image_tokens + 1 + self.dino.registers
        return self.siglip, self.image_tokens

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> VlaConfig:
        towers = {name: TowerConfig(**data[name]) for name in ("dino", "siglip")}
        return cls(**{**data, **towers, "language": LanguageConfig(**data["language"])})


@dataclass(frozen=True)
class ImageTextConfig:
    """A model of transformers' image-text-to-text family (:mod:`wbvla_vla.image_text`) in the layout vision tower -> connector -> language blocks.

    Attributes:
        model: transformers' own description of it, the contents of config.json.
        vision: sizes of its tower; image_tokens: how many tokens its connector makes of a picture.
        language: sizes of its blocks, and what is ours: mask and longest instruction.
        image_size: edge of the policy image, px; mean, std: its statistics, per channel.
        image_token: the token in ``prompt`` in whose place the image tokens stand; "" = between <bos> and the prompt.
        codebook_size, tokens_per_kind, prompt, decoding: see :class:`VlaConfig`.
    """

    model: dict[str, Any]
    vision: TowerConfig
    language: LanguageConfig
    image_size: int
    image_tokens: int
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    codebook_size: int = 16
    tokens_per_kind: int = 4
    prompt: str = "{instruction}"
    image_token: str = ""
    decoding: Decoding = "parallel"
    channels: ClassVar[int] = 3

    @property
    def backbone(self) -> str:
        return self.model["model_type"]

    def image_spec(self, camera: Camera) -> ImageSpec:
        """How a picture of this camera is prepared."""
        return replace(ImageSpec.of(camera, self.image_size), mean=self.mean, std=self.std)

    def tower(self, block: str) -> tuple[TowerConfig, int]:
        """The tower (there is one), and the length of its sequence, class token included where it may have one."""
        return self.vision, self.vision.tokens(self.image_size) + 1

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ImageTextConfig:
        parts = {"vision": TowerConfig(**data["vision"]), "language": LanguageConfig(**data["language"])}
        return cls(**{**data, **parts, "mean": tuple(data["mean"]), "std": tuple(data["std"])})


AnyVlaConfig = VlaConfig | ImageTextConfig  # on any backbone


def debug() -> VlaConfig:
    """Every part, nothing trained: tests."""
    return VlaConfig(
        dino=TowerConfig(32, 1, 2, 64, 24, stem="conv", registers=1, feature_layer=-1),
        siglip=TowerConfig(32, 1, 2, 64, 24, stem="conv", feature_layer=-1),
        language=LanguageConfig(32, 1, 2, 64, attention="prefix", max_words=12, initializer_range=0.05),
        image_size=96,
    )


def tiny() -> VlaConfig:
    """Ships by default; trains on two cores in about an hour (ours)."""
    return VlaConfig(
        # 16 image tokens: on a CPU time goes into tokens more than parameters (57 tokens a sentence were half as fast as 37).
        dino=TowerConfig(128, 2, 4, 256, 24, stem="conv", registers=1, feature_layer=-1),
        siglip=TowerConfig(128, 2, 4, 256, 24, stem="conv", feature_layer=-1),
        language=LanguageConfig(128, 4, 4, 256, attention="prefix", max_words=12, initializer_range=0.05),
        image_size=96,
        projector_expansion=2,
    )


def small() -> VlaConfig:
    """For one GPU: widths and depths of published models a size down (prior work: DINOv2 ViT-S/14 with registers, SigLIP-B, Qwen2.5-0.5B).

    SigLIP-B was published with 16 px patches; both towers must cut the image alike, so that here it has 14 (ours). As many key-value heads as heads,
    in 64 numbers each (Qwen2.5 shares them): our blocks are Llama's.
    """
    return VlaConfig(
        dino=TowerConfig(384, 12, 6, 1536, 14, registers=4),
        siglip=TowerConfig(768, 12, 12, 3072, 14),
        language=LanguageConfig(896, 24, 14, 4864, attention="prefix", max_words=32),
        image_size=224,
    )


def full() -> VlaConfig:
    """Dimensions of the published Prismatic-7B: DINOv2 ViT-L/14 with registers, SigLIP So400m/14, Llama-2 7B (prior work)."""
    return VlaConfig(
        dino=TowerConfig(1024, 24, 16, 4096, 14, registers=4),
        # Google trained SigLIP with the tanh approximation; Prismatic trained on top of timm 0.9, which computes the exact GELU.
        siglip=TowerConfig(1152, 27, 16, 4304, 14, activation="gelu"),
        language=LanguageConfig(4096, 32, 32, 11008, attention="parallel", max_words=64, rms_norm_eps=1e-5),
        image_size=224,
        prompt="In: What action should the robot take to {instruction}?\nOut:",
    )


def image_text_debug() -> ImageTextConfig:
    """SmolVLM's layout in miniature, nothing trained: tests. 96 px are 4 x 4 patches, the connector joins 2 x 2 of them."""
    vision, language = TowerConfig(32, 1, 2, 64, 24), LanguageConfig(32, 1, 2, 64, max_words=12, initializer_range=0.05)
    shared = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    model = {
        "model_type": "smolvlm",
        "scale_factor": 2,
        "vision_config": {**shared, "image_size": 96, "patch_size": 24},
        "text_config": {**shared, "model_type": "llama", "num_key_value_heads": 1, "initializer_range": 0.05, "pad_token_id": None},
    }
    return ImageTextConfig(model, vision, language, image_size=96, image_tokens=4)


PRESETS = {"debug": debug, "image-text-debug": image_text_debug, "tiny": tiny, "small": small, "full": full}


@dataclass(frozen=True)
class LoraSettings:
    """Rank and scale of the adapters.

    Attributes:
        rank, alpha: prior work (UniVLA, OpenVLA): 32 and 16 on all linear layers, dropout 0, Gaussian initialisation.
        towers: adapt the vision towers too (prior work: yes).
        embeddings: train a full copy of the word embeddings (prior work: no. Ours: yes in the tiny model, whose words for turning,
            squatting or waving meant nothing before the demonstrations; without it, it walked well and neither squatted nor waved).
    """

    rank: int = 32
    alpha: int = 16
    dropout: float = 0.0
    towers: bool = True
    embeddings: bool = False

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
