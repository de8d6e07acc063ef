"""Options of the latent action models, and where each value comes from.

Sources: P paper (WholeBodyVLA), U UniVLA, E recipe E of our prototype (prior work), O ours.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Name = Literal["mani", "loco", "shared"]
NAMES: tuple[Name, ...] = ("mani", "loco", "shared")
Size = Literal["debug", "tiny", "full"]
SIZES: tuple[Size, ...] = ("debug", "tiny", "full")


def domains_of(name: Name) -> tuple[str, ...]:
    """Kinds of video that a model is for: ``shared`` is one model for what P gives two."""
    return ("mani", "loco") if name == "shared" else (name,)


@dataclass(frozen=True)
class ModelConfig:
    """Architecture; travels in the checkpoint's manifest.

    Attributes:
        feature_space: what is encoded and predicted. ``pixels``: standardised RGB (P uses DINOv2 features).
        image_size: side of the square image, px (E).
        tokens, codes: 4 tokens of 16 codes (U; P does not say).
        code_dim: numbers per code (E).
        stem_width, width, heads, blocks: encoder (E; one block).
        decoder_width: channels of the decoder at a quarter of the image size (E).
        rigid: warp by a rigid-scene motion; on for locomotion (and for both domains together), off where the camera is still (E).
        commitment: beta (U, van den Oord: 0.25). reset_below: usage share under which a code is reset (E).
    """

    feature_space: Literal["pixels"] = "pixels"
    image_size: int = 48
    tokens: int = 4
    codes: int = 16
    code_dim: int = 4
    stem_width: int = 72
    width: int = 96
    heads: int = 4
    blocks: int = 1
    decoder_width: int = 48
    rigid: bool = True
    commitment: float = 0.25
    reset_below: float = 0.008

    def __post_init__(self) -> None:
        if self.image_size % 8:
            raise ValueError(f"ModelConfig.image_size must be a multiple of 8, got {self.image_size}")
        if not 2 <= self.codes <= 256:
            raise ValueError(f"ModelConfig.codes must lie in [2, 256] (labels are stored as uint8), got {self.codes}")


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
        loss_power: a pair weighs (mse of copying + 0.01) ** -loss_power: large turns must not drown steps and squats (E).
        seed: every random draw follows from (seed, step), so that a resumed run repeats an unbroken one to the bit.
        health_every: steps between health checks on ``dev``; stop_patience: bad checks in a row, after ``stop_after`` steps,
            that end the run (E: early collapse is normal until about step 900).
        save_every: steps between resumable states, in ``run_dir``.
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
    loss_power: float = 0.5
    seed: int = 0
    health_every: int = 500
    stop_after: int = 1000
    stop_patience: int = 4
    save_every: int = 500
    device: str = "cpu"
    threads: int = 1
    output: Path | None = None
    run_dir: Path | None = None
    resume: bool = True

    def __post_init__(self) -> None:
        if self.name == "shared" and self.extra_data:
            raise ValueError("extra_data belongs to one domain, shared has two: put its folders under <data>/train/mani and <data>/train/loco")

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


def preset(size: Size, name: Name) -> LamTrainConfig:
    """``debug``: seconds, for tests. ``tiny``: what ships, half an hour of one thread. ``full``: one GPU."""
    rigid = name != "mani"
    if size == "debug":
        model = ModelConfig(image_size=32, stem_width=16, width=16, heads=2, decoder_width=8, rigid=rigid)
        return LamTrainConfig(name, model, steps=20, batch=8, continuous_steps=4, warmup_steps=5, health_every=10, save_every=10)
    if size == "tiny":
        return LamTrainConfig(name, ModelConfig(rigid=rigid))
    model = ModelConfig(image_size=96, stem_width=192, width=384, heads=6, blocks=6, decoder_width=128, rigid=rigid)
    return LamTrainConfig(name, model, steps=30_000, batch=256, lr=5e-4, warmup_steps=1000, device="cuda", threads=8)
