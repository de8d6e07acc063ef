"""Options of ``wbvla train vla``, and where each value comes from (paper, prior work, ours)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from wbvla_core.errors import require_at_least, require_shares
from wbvla_train.data.lerobot.stream_config import StreamConfig
from wbvla_train.loop_config import LoopConfig
from wbvla_vla.config import Decoding


@dataclass(frozen=True)
class GroundingConfig:
    """Stage 0 (ours): towers and words from free simulator labels, in place of published weights.

    Attributes:
        data: made by ``python -m wbvla_train.data.stills``; missing pictures are rendered before training.
        scenes: rooms to render, ten pictures each; 0 = take what is there.
        batch, sentences: pictures per step, sentences per picture.
    """

    data: Path = Path("data/stills")
    scenes: int = 2400
    batch: int = 32
    sentences: int = 2
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(steps=2500, lr=1e-3))


@dataclass(frozen=True)
class CodesConfig:
    """Stage 1 (paper): cross-entropy on the codes of both LAMs from image and sentence.

    Attributes:
        demos: recorded episodes, used here without their actions: frames, sentences and the LAMs' codes of what happened next.
        lam_mani, lam_loco: whose codes.
        lerobot: LeRobot data sets to train from in place of ``demos``, read as it goes (:mod:`wbvla_train.data.lerobot.stream`).
        batch: frames of a step, of all processes together (paper: 1024 for 20 000 steps on 8 GPUs).
        grounding_weight: stage 0's language loss goes on beside it, so that words keep their meaning (ours; prior work: co-training).
        clips: folders of action-free clips with codes (``wbvla label``) and sentences (``wbvla annotate``), mixed into the batches of ``demos`` or
            ``lerobot``; none by default.
        clip_share: of a batch, about (ours).
        code_losses: "masked": a locomotion clip trains the locomotion tokens only, a manipulation clip the manipulation tokens only; "both": each
            trains all tokens (ours, by the measurement in docs/vla.md).
        loop: prior work (UniVLA): constant 2e-5 for a 7B; ours: 5e-4, cosine, for a model that is not pre-trained.
    """

    demos: Path = Path("data/demos")
    lerobot: tuple[Path, ...] = ()
    stream: StreamConfig = field(default_factory=StreamConfig)
    lam_mani: Path = Path("checkpoints/lam/mani")
    lam_loco: Path = Path("checkpoints/lam/loco")
    batch: int = 48
    grounding_weight: float = 0.3
    grounding_batch: int = 8
    clips: Annotated[tuple[Path, ...], tyro.conf.arg(prefix_name=False)] = ()
    clip_share: Annotated[float, tyro.conf.arg(prefix_name=False)] = 0.3
    code_losses: Annotated[Literal["both", "masked"], tyro.conf.arg(prefix_name=False)] = "masked"
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(steps=1500, lr=5e-4))


@dataclass(frozen=True)
class VlaTrainConfig:
    """Both stages, one after the other.

    Attributes:
        size: model preset of :mod:`wbvla_vla.config`, or "image-text": whatever model of transformers' image-text-to-text family ``pretrained`` names.
        stage: "all", or one of them ("codes" needs the weights that "grounding" left in ``run_dir``).
        run_dir: resumable states and logs.
        output: exported checkpoint.
        ignore_memory_plan: begin even where the memory plan does not fit the device.
        decoding: how the codes are decoded, see :class:`wbvla_vla.config.VlaConfig`.
        pretrained: published weights to begin from, a folder or ``owner/name[/folder]@revision`` on the hub
            (:mod:`wbvla_vla.pretrained`, :mod:`wbvla_vla.image_text`); None = random ones.
        image_size: of size "image-text", edge of the policy image, px; None = the published model's own.
        pretrained_towers, pretrained_tokenizer: what such a folder may lack: timm's files of DINOv2 and SigLIP, the folder of Llama-2's tokenizer.json.
    """

    size: Literal["debug", "tiny", "small", "full", "image-text-debug", "image-text"] = "tiny"
    stage: Literal["all", "grounding", "codes"] = "all"
    decoding: Decoding = "parallel"
    robot: str = "x2"
    grounding: GroundingConfig = field(default_factory=GroundingConfig)
    codes: CodesConfig = field(default_factory=CodesConfig)
    run_dir: Path = Path("runs/vla_tiny")
    output: Path = Path("checkpoints/vla/tiny")
    pretrained: str | None = None
    image_size: int | None = None
    pretrained_towers: tuple[Path, Path] | None = None
    pretrained_tokenizer: Path | None = None
    resume: bool = True
    ignore_memory_plan: bool = False

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def require(self) -> None:
        """Raise WbvlaError for the first option that no training can have, before anything is read or written."""
        require_at_least(self, image_size=1)
        require_at_least(self.grounding, "grounding", scenes=0, batch=1, sentences=1)
        self.grounding.loop.require("grounding.loop")
        require_at_least(self.codes, "codes", batch=1, grounding_weight=0, grounding_batch=1)
        require_shares(self.codes, "", "clip_share")
        self.codes.stream.require("codes.stream")
        self.codes.loop.require("codes.loop")


DEBUG_DEMOS = Path("data/debug/demos")  # recorded where they are missing, in a minute


def _debug(size: Literal["debug", "image-text-debug"] = "debug") -> VlaTrainConfig:
    loop = LoopConfig(steps=4, warmup_steps=1, save_every=2, log_every=2, bf16=False)
    name = size.replace("-", "_")
    return VlaTrainConfig(
        size=size,
        grounding=GroundingConfig(data=Path("data/debug/stills"), scenes=2, batch=4, loop=loop),
        codes=CodesConfig(demos=DEBUG_DEMOS, batch=4, grounding_batch=2, loop=loop),
        run_dir=Path(f"runs/vla_{name}"),
        output=Path(f"runs/vla_{name}/checkpoints/vla/{name}"),
    )


def _small() -> VlaTrainConfig:
    """Ours: from recordings at 224 px or more, random weights at first; 1.28 million samples, meant for hours on one GPU (not measured)."""
    loop = LoopConfig(steps=10_000, lr=3e-4, warmup_steps=500, save_every=500, accumulate=2, checkpointing=True)
    return VlaTrainConfig(
        size="small",
        stage="codes",
        codes=CodesConfig(lerobot=(Path("data/lerobot"),), batch=128, grounding_weight=0.0, loop=loop),
        run_dir=Path("runs/vla_small"),
        output=Path("checkpoints/vla/small"),
    )


def _image_text() -> VlaTrainConfig:
    """Ours: as ``small``, at a rate between its 3e-4 for random weights and the 2e-5 of a published 7B (UniVLA). Not trained yet."""
    small = _small()
    codes = replace(small.codes, loop=replace(small.codes.loop, lr=1e-4))
    return replace(small, size="image-text", codes=codes, run_dir=Path("runs/vla_image_text"), output=Path("checkpoints/vla/image_text"))


def _7b_pretrain() -> VlaTrainConfig:
    """Paper: 20 000 steps at a global batch of 1024; published weights (``--pretrained``) take stage 0's place.

    Two pieces: 64 frames at once on each of 8 GPUs of 80 GB (by the memory plan); on more GPUs ``--codes.loop.accumulate 1``.
    """
    loop = LoopConfig(steps=20_000, lr=2e-5, warmup_steps=0, final_lr=1.0, save_every=500, accumulate=2, checkpointing=True)
    return VlaTrainConfig(
        size="full",
        stage="codes",
        codes=CodesConfig(lerobot=(Path("data/lerobot"),), batch=1024, grounding_weight=0.0, loop=loop),
        run_dir=Path("runs/vla_7b"),
        output=Path("checkpoints/vla/7b"),
    )


PRESETS = {
    "debug": ("seconds; checks that every part runs", _debug()),
    "tiny": ("the model that ships; about an hour on one core", VlaTrainConfig()),
    "image-text-debug": ("seconds; SmolVLM's layout in miniature through every part", _debug("image-text-debug")),
    "image-text": ("SmolVLM, Idefics3, InternVL or LLaVA as published (--pretrained), from LeRobot data, on one GPU", _image_text()),
    "small": ("half a billion parameters at 224 px, from LeRobot data, on one GPU", _small()),
    "7b-pretrain": ("Prismatic-7B, the paper's 20 000 steps of 1024, from LeRobot data, on 8 GPUs or more", _7b_pretrain()),
}
