"""Parallel against autoregressive decoding of the codes: how many are right, how often all of them are, and how long one decision takes.

python benchmarks/decoding.py --demos data/demos --start runs/vla_tiny/grounded.safetensors

Both begin from stage 0's weights and learn the same frames in the same order, for the same number of steps. Towers and projector stay as stage 0 left
them and every frame goes through them once, so that a run costs minutes: the numbers compare the two with each other, not with a whole stage 1.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import tyro
from safetensors.torch import load_file

from wbvla_core.console import program
from wbvla_core.robot import load_robot
from wbvla_perception.preprocess import ImageSpec
from wbvla_train.lam.export import load_lam
from wbvla_train.loop import LoopConfig, TrainLoop
from wbvla_train.parallel import Part, Processes
from wbvla_train.vla.ceiling import image_features
from wbvla_train.vla.codes import held_out_episodes, read_labelled
from wbvla_train.vla.config import VlaTrainConfig
from wbvla_train.vla.train import build_model
from wbvla_vla.config import Decoding
from wbvla_vla.engine import EngineConfig, build
from wbvla_vla.model import PrismaticVla, code_loss
from wbvla_vla.tokens import KINDS


@dataclass(frozen=True)
class Options:
    """Options of the benchmark.

    Attributes:
        start: what stage 0 left.
        frames: of the training episodes, spread evenly.
        decisions: how many are timed.
    """

    start: Path = Path("runs/vla_tiny/grounded.safetensors")
    demos: Path = Path("data/demos")
    lams: tuple[Path, Path] = (Path("checkpoints/lam/mani"), Path("checkpoints/lam/loco"))
    robot: str = "x2"
    seeds: tuple[int, ...] = (0, 1)
    frames: int = 8000
    batch: int = 48
    decisions: int = 200
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(steps=1500, lr=5e-4))


@dataclass
class Data:
    """Frames as the language model takes them: image tokens [M, P, D], word ids [M, W], codes [M, kinds, tokens]."""

    features: torch.Tensor
    words: torch.Tensor
    codes: torch.Tensor


def load(options: Options, decoding: Decoding) -> PrismaticVla:
    """The model as stage 0 left it."""
    model, _ = build_model(VlaTrainConfig(decoding=decoding))
    model.load_state_dict({name: value.float() for name, value in load_file(options.start).items()})
    return model.eval()


def read(options: Options) -> tuple[Data, Data]:
    """(training, held out)."""
    _, tokenizer = build_model(VlaTrainConfig())
    model = load(options, "parallel")
    demos, codes, usable = read_labelled(options.demos, [load_lam(path) for path in options.lams])
    held_out, spec = held_out_episodes(demos["episode"]), ImageSpec.of(load_robot(options.robot).camera)
    training = np.flatnonzero(usable & ~held_out)
    parts = []
    for rows in (training[:: max(1, len(training) // options.frames)], np.flatnonzero(usable & held_out)):
        words = torch.from_numpy(tokenizer.encode_batch(demos["sentence"][rows].tolist()))
        parts.append(Data(image_features(model, demos["image"][rows], spec), words, torch.from_numpy(codes[rows])))
    return parts[0], parts[1]


class FrozenTowersStep:
    """Stage 1 behind towers and projector: the codes from image tokens. The model is at hand, the loop is given its language model alone."""

    def __init__(self, model: PrismaticVla, data: Data, batch: int) -> None:
        self.model, self.data, self.batch = model, data, batch

    def draw(self, rng: np.random.Generator, step: int, part: Part) -> Data:
        rows = torch.from_numpy(rng.integers(len(self.data.codes), size=self.batch)[part.of(self.batch)])
        return Data(self.data.features[rows].float(), self.data.words[rows], self.data.codes[rows])

    def loss(self, language: torch.nn.Module, batch: Data) -> tuple[torch.Tensor, dict[str, float]]:
        return code_loss(self.model.read_out(batch.features, batch.words, batch.codes).logits.float(), batch.codes), {}


def train(options: Options, model: PrismaticVla, data: Data, seed: int) -> None:
    loop = replace(options.loop, seed=seed, log_every=500, save_every=10**9)
    with tempfile.TemporaryDirectory() as folder:
        TrainLoop(loop, model.language, FrozenTowersStep(model, data, options.batch), Path(folder), {}, processes=Processes()).run()


@torch.no_grad()
def right(model: PrismaticVla, data: Data, generator: torch.Generator | None = None) -> np.ndarray:
    """Which codes are right [M, kinds, tokens]."""
    answers = [model.read_out(a.float(), b, generator=generator).codes() for a, b in zip(data.features.split(256), data.words.split(256), strict=True)]
    return (torch.cat(answers) == data.codes).numpy()


def milliseconds(model: PrismaticVla, max_words: int, count: int, compile: bool) -> float:
    """Median processor time of a decision's pass, one image, one thread: other work on the machine does not count."""
    run: Callable = build(model, max_words, EngineConfig(compile=compile))
    pixels, words = torch.randn(1, 6, model.config.image_size, model.config.image_size), torch.full((1, max_words), 5)
    times = []
    with torch.inference_mode():
        for _ in range(count):
            start = time.process_time()
            run(pixels, words)
            times.append(time.process_time() - start)
    return 1e3 * float(np.median(times))


def main() -> int:
    options = tyro.cli(Options, description=__doc__)
    torch.set_num_threads(options.loop.threads)
    training, held_out = read(options)
    rows = {}
    for decoding in ("parallel", "autoregressive"):
        for seed in options.seeds:
            model = load(options, decoding)
            train(options, model, training, seed)
            rows[f"{decoding}, seed {seed}"] = right(model.eval(), held_out)
            if decoding == "autoregressive":
                rows[f"{decoding}, seed {seed}, sampled"] = right(model, held_out, torch.Generator().manual_seed(seed))
    tokens = [f"{kind.lower()} {token + 1}" for kind in KINDS for token in range(training.codes.shape[2])]
    print(f"\n{len(training.codes)} training and {len(held_out.codes)} held-out frames, % right\n")
    print("| decoding | " + " | ".join(tokens) + " | mani | loco | all of mani | all of loco | all |\n|" + "---|" * (len(tokens) + 6))
    for name, good in rows.items():
        per_kind, whole = good.mean(axis=(0, 2)), good.all(axis=2)
        numbers = [*good.mean(axis=0).ravel(), *per_kind, *whole.mean(axis=0), whole.all(axis=1).mean()]
        print(f"| {name} | " + " | ".join(f"{100 * value:.1f}" for value in numbers) + " |")
    print("\n| decoding | recorded graph | from Python |\n|---|---|---|")
    for decoding in ("parallel", "autoregressive"):
        model = load(options, decoding)
        graph, plain = (milliseconds(model, model.config.language.max_words, options.decisions, compile) for compile in (True, False))
        print(f"| {decoding} | {graph:.1f} ms | {plain:.1f} ms |")
    return 0


if __name__ == "__main__":
    program(main)
