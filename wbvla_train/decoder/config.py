"""Options of ``wbvla train decoder``, and where each value comes from (paper, prior work, ours)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from wbvla_core.errors import require_at_least, require_shares
from wbvla_decoder.config import DecoderConfig
from wbvla_decoder.policy import FilterConfig
from wbvla_train.data.lerobot.stream_config import StreamConfig
from wbvla_train.loop_config import LoopConfig
from wbvla_vla.config import LoraSettings


@dataclass(frozen=True)
class DecoderTrainConfig:
    """Stage 2: LoRA on the VLA and the decoder, together, on demonstrations with actions.

    Attributes:
        vla: base checkpoint; stays as it is, the policy bundle names it as its parent.
        lora: (ours: the tiny towers stay as stage 0 left them, which saves their backward pass, a quarter of a step).
        demos: one or more recordings (teleoperator, later rounds with the policy at the wheel).
        lerobot: LeRobot data sets of this robot to train from in place of ``demos``, read as it goes; one sentence per frame, the recorded one, and
            none of the simulator's labels.
        batch, sentences: frames per step, of all processes together; sentences per frame, the recorded one first, then counterfactual ones (ours).
        walk_share: share of walk-to tasks among the counterfactual ones (ours: they are the ones that need the picture).
        mirror_share: share of the frames shown left-right swapped, where the asked box is in view (prior work: our prototype; the search
            for a box out of sight always turns left and must not be mirrored).
        wave_share: share of frames drawn from waving episodes on top of their number (ours: a wave is the one task whose answer depends on
            the arms, and the arms of all other episodes hang).
        arm_states: every sentence is also paired with this many arm states outside the recordings (ours, :mod:`wbvla_train.decoder.arms`:
            costs one small layer). To be 0 for tasks in which the arms follow the picture.
        asked_arm_states: how many there are to draw from.
        arm_lr_factor: on the learning rate of the arm layers (ours: a wave is a jump from one end of the swing to the other; at the common
            rate its edge stayed so soft that the arm came to rest).
        flag_weight, height_weight, arm_weight: cross-entropy of the flags; L1 of height and arms (paper: L1).
        box_weight: bearing, distance and visibility of the named box from the latent-action positions (ours; dropped at export).
        code_weight: the codes of stage 1 are still predicted for the recorded sentence, so that they stay readable (ours).
        corpus: recordings whose codes stage 1 was trained on: ``corpus_frames`` of them stand beside every step, their loss times ``corpus_weight``
            (prior work: co-training), so that a few demonstrations do not wipe out what was learnt of many; no action of theirs is seen. None =
            without, which is right where ``demos`` are the corpus themselves.
        ignore_memory_plan: begin even where the memory plan does not fit the device.
        loop: prior work (UniVLA): 10 000 steps of 64, 3.5e-4, for a 7B; ours: 1e-3 for a model of 3 M.
    """

    vla: Path = Path("checkpoints/vla/tiny")
    demos: tuple[Path, ...] = (Path("data/demos"),)
    lerobot: tuple[Path, ...] = ()
    stream: StreamConfig = field(default_factory=StreamConfig)
    robot: str = "x2"
    lora: LoraSettings = field(default_factory=lambda: LoraSettings(towers=False, embeddings=True))
    decoder: DecoderConfig = field(default_factory=lambda: DecoderConfig(arm_gain=4.0))
    filter: FilterConfig = field(default_factory=FilterConfig)
    batch: int = 32
    sentences: int = 3
    walk_share: float = 0.5
    mirror_share: float = 0.25
    wave_share: float = 0.15
    arm_states: int = 16
    asked_arm_states: int = 20_000
    arm_lr_factor: float = 3.0
    flag_weight: float = 1.0
    height_weight: float = 1.0
    arm_weight: float = 4.0
    box_weight: float = 0.5
    code_weight: float = 0.1
    corpus: Path | None = None
    corpus_frames: int = 32
    corpus_weight: float = 1.0
    lam_mani: Path = Path("checkpoints/lam/mani")
    lam_loco: Path = Path("checkpoints/lam/loco")
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(steps=2200, lr=1e-3))
    run_dir: Path = Path("runs/decoder_tiny")
    output: Path = Path("checkpoints/policy/tiny")
    resume: bool = True
    ignore_memory_plan: bool = False

    def require(self) -> None:
        """Raise WbvlaError for the first option that no training can have, before anything is read or written."""
        require_at_least(self, batch=1, sentences=1, arm_states=0, asked_arm_states=1, corpus_frames=1)
        require_shares(self, "", "walk_share", "mirror_share", "wave_share")
        require_at_least(self, flag_weight=0, height_weight=0, arm_weight=0, box_weight=0, code_weight=0, corpus_weight=0, arm_lr_factor=0)
        require_at_least(self.lora, "lora", rank=1, alpha=1, dropout=0)
        self.stream.require("stream")
        self.loop.require("loop")


def _debug() -> DecoderTrainConfig:
    return DecoderTrainConfig(
        vla=Path("runs/vla_debug/checkpoints/vla/debug"),
        demos=(Path("data/debug/demos"),),
        lora=LoraSettings(rank=4, alpha=4, embeddings=True),
        decoder=DecoderConfig(hidden_size=16, heads=2),
        batch=4,
        sentences=2,
        arm_states=3,
        asked_arm_states=50,
        loop=LoopConfig(steps=4, warmup_steps=1, save_every=2, log_every=2, bf16=False),
        run_dir=Path("runs/decoder_debug"),
        output=Path("runs/vla_debug/checkpoints/policy/debug"),
    )


def _small() -> DecoderTrainConfig:
    """The VLA of ``train vla small``; adapters as in the 7B, batch and steps too."""
    return replace(_7b_lora(), vla=Path("checkpoints/vla/small"), run_dir=Path("runs/decoder_small"), output=Path("checkpoints/policy/small"))


def _7b_lora() -> DecoderTrainConfig:
    """Paper: 10 000 steps at a global batch of 64; prior work (UniVLA): rank 32 on all linear layers, 3.5e-4."""
    loop = LoopConfig(steps=10_000, lr=3.5e-4, weight_decay=1e-3, final_lr=1.0, checkpointing=True, frozen_bf16=True)
    return DecoderTrainConfig(
        vla=Path("checkpoints/vla/7b"),
        lerobot=(Path("data/lerobot"),),
        lora=LoraSettings(),
        decoder=DecoderConfig(hidden_size=512, heads=8, arm_gain=4.0),
        batch=64,
        sentences=1,
        arm_states=0,
        arm_lr_factor=1.0,
        loop=loop,
        run_dir=Path("runs/decoder_7b"),
        output=Path("checkpoints/policy/7b"),
    )


PRESETS = {
    "debug": ("seconds; checks that every part runs", _debug()),
    "tiny": ("the policy that ships; under an hour on one core", DecoderTrainConfig()),
    "small": ("adapters on the VLA of `train vla small`, from LeRobot data, on one GPU", _small()),
    "7b-lora": ("adapters on Prismatic-7B, the paper's 10 000 steps of 64, from LeRobot data", _7b_lora()),
}
