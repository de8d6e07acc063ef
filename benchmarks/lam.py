"""Our latent action model on DINOv2 features against UniVLA's: frames per second of a training step and of labelling.

    git clone https://github.com/OpenDriveLab/UniVLA FOLDER; pip install einops      # nothing of it is part of this project
    python benchmarks/lam.py --univla FOLDER
    python benchmarks/lam.py --univla FOLDER --image-size 112 --width 384 --blocks 4 --batch 4

Both get the same frames, batch, precision and frozen extractor, with the same random weights (speed does not depend on their values).
UniVLA's model is its second stage (ControllableDINOLatentActionModel), unchanged: the first one reads sentences as well. Its loss,
optimiser and clipping are those of its genie/model.py and lam-stage-2.yaml; data loading, logging and Lightning are left out on its side.
Ours is LamTrainer.train_step and label_frames, whole. Runs alternate; a figure is the median. On a CPU time is CPU time of this process,
so that a machine that other work shares does not decide; on a GPU it is wall time, synchronised.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
import tyro
from torch import nn
from transformers import T5EncoderModel  # noqa: F401  loaded before there is a stand-in for torchvision, which it would look into

from wbvla_core.console import program
from wbvla_core.machine import describe_machine
from wbvla_train.data.video import ROBOT_VIEW
from wbvla_train.lam.config import LamTrainConfig, preset
from wbvla_train.lam.export import Lam
from wbvla_train.lam.features import RANDOM, FrozenFeatures
from wbvla_train.lam.geometry import lens_from_view
from wbvla_train.lam.label import label_frames
from wbvla_train.lam.model import pixels
from wbvla_train.lam.train import Batch, LamTrainer

CLIP_FRAMES, RATE_HZ = 20, 10.0  # of the labelled clip


@dataclass(frozen=True)
class BenchmarkConfig:
    """Options.

    Attributes:
        univla: a clone of UniVLA.
        batch: pairs per training step. image_size: px. width, blocks: of encoder and decoder (12 + 12 at full size).
        repeats: runs of each, after one that is not counted.
        bf16: matrix products in bfloat16, on both sides.
    """

    univla: Path
    batch: int = 2
    image_size: int = 224
    width: int = 768
    blocks: int = 12
    repeats: int = 3
    bf16: bool = False
    device: str = "cpu"
    threads: int = 1


class FixedSampler:
    """The same batch in every step."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch

    def batch(self, step: int) -> Batch:
        return self._batch


class Normalize(nn.Module):
    """What UniVLA takes from torchvision."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.mean) / self.std


class HubTower(nn.Module):
    """The extractor under the name that the original's tower has in its hub."""

    def __init__(self, extractor: FrozenFeatures) -> None:
        super().__init__()
        self.tower = extractor.tower

    def forward_features(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        skipped = 1 + self.tower.config.num_register_tokens
        return {"x_norm_patchtokens": self.tower(pixel_values=x).last_hidden_state[:, skipped:]}


def load_univla(config: BenchmarkConfig, extractor: FrozenFeatures, ours: LamTrainConfig) -> nn.Module:
    """UniVLA's second-stage LAM, with stand-ins for what this machine lacks: torchvision's Normalize, the rotary embedding that it imports
    and never switches on, its download of DINOv2, and ``.cuda()`` where there is none."""
    if not (config.univla / "latent_action_model" / "genie" / "modules" / "lam.py").is_file():
        raise SystemExit(f"{config.univla} is no clone of UniVLA: latent_action_model/genie/modules/lam.py is not there")
    stand_ins = {name: ModuleType(name) for name in ("torchvision", "torchvision.transforms", "rotary_embedding_torch")}
    stand_ins["torchvision"].transforms = stand_ins["torchvision.transforms"]
    stand_ins["torchvision.transforms"].Normalize = Normalize
    stand_ins["rotary_embedding_torch"].RotaryEmbedding = None
    sys.modules |= {name: module for name, module in stand_ins.items() if name not in sys.modules}
    sys.path.insert(0, str(config.univla))
    torch.hub.load = lambda *names: HubTower(extractor)
    if config.device == "cpu":
        torch.Tensor.cuda = lambda tensor: tensor
    from latent_action_model.genie.modules.lam import ControllableDINOLatentActionModel

    m = ours.model
    model = ControllableDINOLatentActionModel(
        in_dim=3,
        model_dim=m.width,
        latent_dim=m.code_dim,
        num_latents=m.codes,
        patch_size=extractor.tower.config.patch_size,
        enc_blocks=m.blocks,
        dec_blocks=m.decoder_blocks,
        num_heads=m.heads,
    )
    return model.to(config.device)


def univla_step(model: nn.Module, optimiser: torch.optim.Optimizer, videos: torch.Tensor, clip_norm: float, autocast) -> None:
    """One optimiser step: feature MSE, codebook and commitment terms of both codebooks."""
    with autocast():
        out = model({"videos": videos})
        loss = (out["target"] - out["recon"]).square().mean()
        for kind in ("", "_uncontrol"):
            z, emb = out[f"z{kind}"], out[f"emb{kind}"]
            loss = loss + (emb.detach() - z).square().mean() + 0.25 * (emb - z.detach()).square().mean()
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    optimiser.step()


def measure(config: BenchmarkConfig, runs: dict[str, Callable[[], None]]) -> dict[str, float]:
    """Median seconds of each, taken in turn."""
    clock = time.process_time if config.device == "cpu" else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(config.repeats + 1):
        for name, run in runs.items():
            started = clock()
            run()
            if config.device != "cpu":
                torch.cuda.synchronize()
            if repeat:
                seconds[name].append(clock() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def run(config: BenchmarkConfig, log=print) -> dict[str, float]:
    """Frames per second of everything, as a table."""
    torch.set_num_threads(config.threads)
    full = preset("full", "loco")
    model = replace(full.model, image_size=config.image_size, width=config.width, heads=config.width // 64, blocks=config.blocks, decoder_blocks=config.blocks)
    ours = replace(full, model=model, batch=config.batch, features=RANDOM, continuous_steps=0, bf16=config.bf16, device=config.device, threads=config.threads)
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (2, config.batch, config.image_size, config.image_size, 3), dtype=np.uint8)
    clip = rng.integers(0, 256, (CLIP_FRAMES, config.image_size, config.image_size, 3), dtype=np.uint8)
    stamps = np.arange(CLIP_FRAMES) / RATE_HZ
    lens = lens_from_view(torch.from_numpy(ROBOT_VIEW.as_array())[None]).expand(config.batch, -1)

    from_frames = FixedSampler(Batch(pixels(torch.from_numpy(frames[0])), pixels(torch.from_numpy(frames[1])), lens))
    trainer = LamTrainer(ours, from_frames)
    extractor = trainer.model.extractor
    both = pixels(torch.from_numpy(frames.reshape(-1, *frames.shape[2:]))).to(config.device)
    first, later = extractor(both).chunk(2)
    from_disk = FixedSampler(Batch(first, later, lens, extracted=True))
    lam = Lam(None, trainer.model, full.gap_s, ROBOT_VIEW)

    univla = load_univla(config, extractor, ours)
    optimiser = torch.optim.AdamW(univla.parameters(), lr=full.lr, weight_decay=full.weight_decay)
    videos = torch.from_numpy(frames).permute(1, 0, 4, 2, 3).float().div(255).to(config.device)  # [B, 2, 3, S, S]
    clip_videos = torch.from_numpy(clip).permute(0, 3, 1, 2).float().div(255).to(config.device)
    gap = round(full.gap_s * RATE_HZ)
    labels = CLIP_FRAMES - gap

    def autocast():
        return torch.autocast(torch.device(config.device).type, dtype=torch.bfloat16, enabled=config.bf16)

    def extract() -> None:
        with autocast():
            extractor(both)

    def train_ours(sampler: FixedSampler) -> None:
        trainer.sampler = sampler
        trainer.train_step()

    @torch.no_grad()
    def label_univla() -> None:
        univla.eval()
        with autocast():
            univla.vq_encode(torch.stack((clip_videos[:-gap], clip_videos[gap:]), dim=1))
        univla.train()

    def label_ours() -> None:
        trainer.model.eval()
        with autocast():
            label_frames(lam, clip, stamps)

    seconds = measure(
        config,
        {
            "extractor": extract,
            "train univla": lambda: univla_step(univla, optimiser, videos, full.clip_norm, autocast),
            "train ours": lambda: train_ours(from_frames),
            "train ours, cached features": lambda: train_ours(from_disk),
            "label univla": label_univla,
            "label ours": label_ours,
        },
    )
    counts = {name: sum(p.numel() for p in m.parameters() if p.requires_grad) / 1e6 for name, m in (("univla", univla), ("ours", trainer.model))}
    per_step = 2 * config.batch
    s = seconds
    log(
        f"{config.image_size} px, {config.blocks} + {config.blocks} blocks of width {config.width}, batch {config.batch} pairs, "
        f"{'bf16' if config.bf16 else 'float32'}; {describe_machine(config.device, f'{config.threads} thread(s)', f'torch {torch.__version__}')}"
    )
    log(f"trained parameters: UniVLA {counts['univla']:.0f} M, ours {counts['ours']:.0f} M\n")
    log("| frames/s | UniVLA | ours | ratio |\n|---|---|---|---|")

    def row(name: str, theirs_s: float, ours_s: float, count: int) -> None:
        log(f"| {name} | {count / theirs_s:.2f} | {count / ours_s:.2f} | {theirs_s / ours_s:.2f} |")

    row("training step", s["train univla"], s["train ours"], per_step)
    row("- extractor alone (the same)", s["extractor"], s["extractor"], per_step)
    row("- the rest", s["train univla"] - s["extractor"], s["train ours"] - s["extractor"], per_step)
    row("training step, ours with cached features", s["train univla"], s["train ours, cached features"], per_step)
    row("labelling, labels/s", s["label univla"], s["label ours"], labels)
    return seconds


def main() -> None:
    run(tyro.cli(BenchmarkConfig, description=__doc__))


if __name__ == "__main__":
    program(main)
