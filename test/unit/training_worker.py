"""One of several processes of test_training_loop.py: trains a small network in several ways and prints what came out of it as JSON.

python training_worker.py RUN_DIR [--until-killed]
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from wbvla_train.loop import LoopConfig, TrainLoop
from wbvla_train.parallel import Part, Processes

CONFIG = LoopConfig(steps=6, lr=1e-2, warmup_steps=2, save_every=2, log_every=100, bf16=False, seed=3)
BATCH, WIDTH = 8, 16


class SiglipEncoderLayer(nn.Module):
    """Stands in for a transformer block of that name."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.frozen = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.frozen.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.frozen(self.down(F.gelu(self.up(x))))


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.blocks = nn.ModuleList(SiglipEncoderLayer() for _ in range(2))
        self.head = nn.Linear(WIDTH, 3)
        self.unused = nn.Parameter(torch.ones(2))  # gets no gradient, like a tower's mask token

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


@dataclass
class Batch:
    x: torch.Tensor
    y: torch.Tensor


class Regression:
    def draw(self, rng: np.random.Generator, step: int, part: Part) -> Batch:
        x = rng.normal(size=(BATCH, WIDTH)).astype(np.float32)[part.of(BATCH)]
        return Batch(torch.from_numpy(x), torch.from_numpy(np.sin(x[:, :3])))

    def loss(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        loss = (model(batch.x) - batch.y).square().mean()
        return loss, {"half": float(loss.detach()) / 2}


def make(run_dir: Path, config: LoopConfig = CONFIG, processes: Processes | None = None, **options) -> TrainLoop:
    return TrainLoop(config, Network(), Regression(), run_dir, {}, options.pop("log", lambda _: None), {"head": 2.0}, processes, **options)


def losses(loop: TrainLoop, until: int = CONFIG.steps) -> list[float]:
    return [loop.train_step() for _ in range(until - loop.step)]


def outcome(loop: TrainLoop) -> dict:
    values = losses(loop)
    return {"losses": values, "weights": {name: value.tolist() for name, value in loop.weights().items()}}


def main(root: Path, until_killed: bool) -> None:
    torch.set_num_threads(1)
    here = Processes.of_launcher()
    if until_killed:
        loop = make(root / "killed", replace(CONFIG, steps=10**9))
        loop.resume()
        loop.run()
    plain = replace(here, blocks=())
    found = {
        "sharded": outcome(make(root / "sharded", processes=here)),
        "wrapped": outcome(make(root / "wrapped", processes=plain)),
        "wrapped in pieces": outcome(make(root / "pieces", replace(CONFIG, accumulate=2, checkpointing=True), plain)),
        "sharded in pieces": outcome(make(root / "shards", replace(CONFIG, accumulate=2, checkpointing=True), here)),
        "sharded in bfloat16": outcome(make(root / "half", replace(CONFIG, bf16=True), here)),
    }
    first = make(root / "broken", processes=here)
    values = losses(first, 3)
    first.save()
    second = make(root / "broken", processes=here)
    assert second.resume() and second.step == 3
    if here.main:  # begun by one process, as one adds GPUs
        begun = make(root / "grown", processes=Processes())
        losses(begun, 3)
        begun.save()
    here.wait()
    grown = make(root / "grown", processes=here)
    assert grown.resume() and grown.step == 3
    found["grown"] = losses(grown)
    grown.save()
    found["broken off"] = {"losses": values + losses(second), "weights": {name: value.tolist() for name, value in second.weights().items()}}
    if here.main:
        print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), "--until-killed" in sys.argv)
