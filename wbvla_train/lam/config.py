"""Options of the latent action models, and where each value comes from.

Sources: P paper (WholeBodyVLA), U UniVLA, E recipe E of our prototype (prior work), O ours.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from wbvla_core.errors import WbvlaError

Name = Literal["mani", "loco", "shared"]
NAMES: tuple[Name, ...] = ("mani", "loco", "shared")
Size = Literal["debug", "debug-dinov2", "tiny", "full"]
SIZES: tuple[Size, ...] = ("debug", "debug-dinov2", "tiny", "full")
# DINOv2 with registers: settings of transformers' Dinov2WithRegistersConfig (P, U: ViT-B/14; positions as published, for 518 px).
BACKBONES: dict[str, dict[str, int]] = {
    "vitb14-reg": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "patch_size": 14, "num_register_tokens": 4, "image_size": 518},
    "debug": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 14, "num_register_tokens": 1, "image_size": 56},
}


def domains_of(name: Name) -> tuple[str, ...]:
    """Kinds of video that a model is for: ``shared`` is one model for what P gives two."""
    return ("mani", "loco") if name == "shared" else (name,)


@dataclass(frozen=True)
class ModelConfig:
    """Architecture; travels in the checkpoint's manifest.

    Attributes:
        feature_space: what is encoded and predicted. ``pixels``: standardised RGB; ``dinov2``: patch features of a frozen DINOv2 (P, U).
        backbone: of ``dinov2``.
        image_size: side of the square image, px (E).
        tokens, codes: 4 tokens of 16 codes (U; P does not say).
        code_dim: numbers per code (E).
        stem_width, width, heads, blocks: encoder (E; one block).
        decoder_width: channels of the pixel decoder at a quarter of the image size (E). decoder_blocks: of the feature decoder.
        rigid: warp by a rigid-scene motion; on for locomotion (and for both domains together), off where the camera is still (E).
        matching: the encoder sees how each viewing ray turned (:mod:`wbvla_train.lam.matching`) (O).
        slots: things that move on their own and are carried by the codes (:mod:`wbvla_train.lam.slots`): the two arms, for manipulation; 0: none (O).
        slot_gain: spread of the codes' direction for a displacement, code units per half image (O).
        commitment: beta (U, van den Oord: 0.25). reset_below: usage share under which a code is reset (E).
    """

    feature_space: Literal["pixels", "dinov2"] = "pixels"
    backbone: Literal["vitb14-reg", "debug"] = "vitb14-reg"
    image_size: int = 48
    tokens: int = 4
    codes: int = 16
    code_dim: int = 4
    stem_width: int = 72
    width: int = 96
    heads: int = 4
    blocks: int = 1
    decoder_width: int = 48
    decoder_blocks: int = 12
    rigid: bool = True
    matching: bool = False
    slots: int = 0
    slot_gain: float = 4.0
    commitment: float = 0.25
    reset_below: float = 0.008

    def __post_init__(self) -> None:
        cell = 8 if self.feature_space == "pixels" else BACKBONES[self.backbone]["patch_size"]
        if self.image_size % cell:
            raise WbvlaError(f"ModelConfig.image_size must be a multiple of {cell} in feature space {self.feature_space}, got {self.image_size}")
        if self.slots >= self.tokens:
            raise WbvlaError(f"ModelConfig.slots needs a token each and leaves one for everything else, got {self.slots} slots and {self.tokens} tokens")
        if not 2 <= self.codes <= 256:
            raise WbvlaError(f"ModelConfig.codes must lie in [2, 256] (labels are stored as uint8), got {self.codes}")

    @property
    def patches(self) -> int:
        """Of one frame, in feature space ``dinov2``."""
        return (self.image_size // BACKBONES[self.backbone]["patch_size"]) ** 2


@dataclass(frozen=True)
class LamTrainConfig:
    """Options of ``wbvla train lam``.

    Attributes:
        name: which model: ``mani``, ``loco``, or ``shared``, one for both domains.
        model: architecture.
        data: root of the rendered video; training reads ``<data>/train/<domain>``, health ``<data>/dev/<domain>``.
        robot_video: also train on ``<data>/train/x2_<domain>``, the robot's own camera (O: the labels are made there).
        extra_data: further folders with clips.json sidecars (recorded episodes, other people's video); of one domain, hence not for ``shared``.
        extra_share: share of each batch that comes from the robot's camera and ``extra_data`` (O).
        gap_s: time between the two frames, s (E; LAPA 0.6 s, U 12 frames).
        steps, batch: pairs per step and domain (P: 30 000 steps of 256 pairs on 8 GPUs).
        continuous_steps: first steps without quantiser; then all codes are put onto encoder outputs (O: while every pair gets the same
            code, a decoder cannot learn what codes are for).
        lr, warmup_steps, final_lr: AdamW, cosine to ``final_lr`` of the peak; weight_decay, clip_norm (E).
        zoom, gain, offset: augmentation, alike for both frames: crop to [1 - zoom, 1], brightness factor 1 +- gain, colour
            shift +- offset in standardised units; flips and time reversal are always on (E; a reversed walk is a walk).
        loss_scales: sizes at which the error is taken, each half the last (E; P, U: one).
        loss_power: a pair weighs (mse of copying + 0.01) ** -loss_power: large turns must not drown steps and squats (E).
        mask_weight: of the cross-entropy that draws the slots' masks to where frames differ (O).
        seed: every random draw follows from (seed, step), so that a resumed run repeats an unbroken one to the bit.
        health_every: steps between health checks on ``dev``; stop_patience: bad checks in a row, after ``stop_after`` steps,
            that end the run (E: early collapse is normal until about step 900).
        save_every: steps between resumable states, in ``run_dir``.
        features: weights of the frozen extractor in feature space ``dinov2``: a folder (transformers' layout), ``owner/name@revision`` on the
            hub, or ``random`` (nothing but speed can be learnt from those: refused for the backbone that would ship).
        cache_features: extract every training frame once and keep the features on disk; of the augmentations only time reversal is left then.
        bf16: matrix products in bfloat16 (U: 16-bit mixed).
        device: of torch; data and augmentation stay on the CPU. threads: of torch.
        output: directory of the exported checkpoint; empty: checkpoints/lam/<name>.
        run_dir: log, resumable state; empty: runs/lam_<name>.
        resume: continue from ``run_dir`` if it holds a state of the same settings.
    """

    name: Name = "loco"
    model: ModelConfig = field(default_factory=ModelConfig)
    data: Path = Path("data/video")
    robot_video: bool = True
    extra_data: tuple[Path, ...] = ()
    extra_share: float = 0.35
    gap_s: float = 0.5
    steps: int = 4000
    batch: int = 32
    continuous_steps: int = 300
    lr: float = 2e-3
    warmup_steps: int = 100
    final_lr: float = 0.025
    weight_decay: float = 1e-4
    clip_norm: float = 1.0
    zoom: float = 0.15
    gain: float = 0.25
    offset: float = 0.3
    loss_scales: int = 3
    loss_power: float = 0.5
    mask_weight: float = 0.2
    seed: int = 0
    health_every: int = 500
    stop_after: int = 1000
    stop_patience: int = 4
    save_every: int = 500
    features: str = ""
    cache_features: bool = False
    bf16: bool = False
    device: str = "cpu"
    threads: int = 1
    output: Path | None = None
    run_dir: Path | None = None
    resume: bool = True

    def __post_init__(self) -> None:
        if self.cache_features and self.model.feature_space == "pixels":
            raise WbvlaError("cache_features keeps the features of a frozen extractor; feature space pixels has none")
        if self.name == "shared" and self.extra_data:
            raise WbvlaError("extra_data belongs to one domain, shared has two: put its folders under <data>/train/mani and <data>/train/loco")

    def extra_folders(self, domain: str) -> list[Path]:
        """Everything beside the main corpus of a domain, each folder once."""
        robot = (self.data / "train" / f"x2_{domain}",) if self.robot_video else ()
        return list(dict.fromkeys((*robot, *self.extra_data)))

    @property
    def checkpoint_dir(self) -> Path:
        return self.output or Path("checkpoints/lam") / self.name

    @property
    def state_dir(self) -> Path:
        return self.run_dir or Path("runs") / f"lam_{self.name}"


DEBUG_VIDEO = Path("data/debug/video")  # rendered where it is missing, in a minute


def preset(size: Size, name: Name) -> LamTrainConfig:
    """``debug``, ``debug-dinov2``: seconds, for tests. ``tiny``: what ships, two hours of one thread. ``full``: DINOv2 features, one GPU."""
    rigid = name != "mani"
    if size == "debug":
        model = ModelConfig(image_size=32, stem_width=16, width=16, heads=2, decoder_width=8, rigid=rigid)
        run = Path(f"runs/lam_{name}_debug")  # what ships lies elsewhere
        places = {"data": DEBUG_VIDEO, "run_dir": run, "output": run / "checkpoints" / "lam" / name}
        return LamTrainConfig(name, model, steps=20, batch=8, continuous_steps=4, warmup_steps=5, health_every=10, save_every=10, **places)
    if size == "tiny":
        model = ModelConfig(rigid=rigid, matching=rigid, slots=0 if rigid else 2)
        # 0.6 s: a stride of the legs, so that codes tell what was commanded and not which foot is in the air.
        return LamTrainConfig(name, model, gap_s=0.6, steps=40_000 if rigid else 20_000)
    if size == "debug-dinov2":
        model = ModelConfig("dinov2", "debug", image_size=56, code_dim=8, width=32, heads=2, blocks=2, decoder_blocks=2, rigid=False)
        run = Path(f"runs/lam_{name}_debug_dinov2")
        places = {"run_dir": run, "output": run / "checkpoints" / "lam" / name}
        return replace(preset("debug", name), model=model, features="random", loss_scales=1, loss_power=0.0, **places)
    # 12 + 12 blocks, width, code dimension, rate, decay and clipping: U; steps and batch: P.
    model = ModelConfig("dinov2", image_size=224, code_dim=128, width=768, heads=12, blocks=12, decoder_blocks=12, rigid=False)
    return LamTrainConfig(
        name,
        model,
        steps=30_000,
        batch=256,
        lr=1e-4,
        weight_decay=1e-2,
        clip_norm=0.1,
        warmup_steps=1000,
        loss_scales=1,
        loss_power=0.0,
        bf16=True,
        device="cuda",
        threads=8,
        run_dir=Path(f"runs/lam_{name}_full"),
    )
