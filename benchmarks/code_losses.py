"""Which latent action model labels which clip: stage 1 with action-free clips, both code sets against masked ones.

    wbvla label --data VIDEO && wbvla annotate VIDEO --templates
    python benchmarks/code_losses.py --video VIDEO --grounded runs/vla_tiny/grounded.safetensors --output code_losses.jsonl

Rows differ in one thing only; all share stage 0's weights, vocabulary, steps, seeds and demonstrations. One line of JSON per run; a
run whose line is there is not repeated. Accuracy is the share of right code tokens, beside the majority code's of the same frames.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro

from wbvla_core.console import program
from wbvla_core.robot import load_robot
from wbvla_train.data import primitives, sentences
from wbvla_train.data.clips import SIDECAR
from wbvla_train.lam.export import load_lam
from wbvla_train.parallel import Processes
from wbvla_train.vla.clips import ClipSet
from wbvla_train.vla.codes import CodeSet, CodesStep
from wbvla_train.vla.config import PRESETS
from wbvla_train.vla.pictures import GROUNDED_FILE
from wbvla_train.vla.train import build_model, train_codes

Row = Literal["none", "both", "masked"]


@dataclass(frozen=True)
class Options:
    """Options of the benchmark.

    Attributes:
        video: labelled clips with sentences from templates: train/{loco,mani} are learnt from, dev/{loco,mani} are held out.
        demos, stills: as in training. grounded: stage 0's weights.
        rows: no clips, clips with both code sets, clips with the code set of their own domain.
        frames: held-out frames to measure on, per set.
    """

    video: Path
    demos: Path = Path("data/demos")
    stills: Path = Path("data/stills")
    grounded: Path = Path("runs/vla_tiny") / GROUNDED_FILE
    output: Path = Path("code_losses.jsonl")
    rows: tuple[Row, ...] = ("none", "both", "masked")
    seeds: tuple[int, ...] = (0, 1)
    steps: int = 600
    clip_share: float = 0.3
    frames: int = 2048


def held_out(clips: ClipSet, folder: Path, tokenizer, unseen: bool) -> CodeSet:
    """Every frame with one sentence: the first of its clip, or one that training never saw."""
    word_ids = clips.word_ids[clips.first]
    if unseen:
        number = 0
        for sidecar in sorted(folder.rglob(SIDECAR)):
            files = sentences.listed_clips(sidecar.parent)
            told = primitives.of_folder(sidecar.parent, files)
            for file in files:
                if file in told:
                    word_ids[clips.clip == number] = tokenizer.encode(primitives.held_out_phrasings(told[file])[0])
                number += 1
    return CodeSet(clips.images, word_ids, clips.codes, clips.index)


def run(options: Options, row: Row, seed: int) -> dict:
    """Train stage 1 once and measure."""
    preset = PRESETS["tiny"][1]
    domains = ("loco", "mani")
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(options.grounded, Path(folder) / GROUNDED_FILE)
        codes = dataclasses.replace(
            preset.codes,
            demos=options.demos,
            clips=tuple(options.video / "train" / domain for domain in domains),
            clip_share=0.0 if row == "none" else options.clip_share,
            code_losses="both" if row == "none" else row,
            loop=dataclasses.replace(preset.codes.loop, steps=options.steps, seed=seed),
        )
        config = dataclasses.replace(preset, codes=codes, grounding=dataclasses.replace(preset.grounding, data=options.stills), run_dir=Path(folder))
        torch.set_num_threads(codes.loop.threads)
        model, tokenizer = build_model(config)
        spec = model.config.image_spec(load_robot(config.robot).camera)
        numbers, _ = train_codes(config, model, tokenizer, spec, Processes(), log=lambda text: print(f"{row} {seed}: {text}", flush=True))
    result = {"row": row, "seed": seed, "steps": options.steps, "clip_share": codes.clip_share, "robot": numbers}
    lams = load_lam(codes.lam_mani), load_lam(codes.lam_loco)
    for domain in domains:
        where = options.video / "dev" / domain
        clips = ClipSet([where], lams, tokenizer, "both", spec.size, log=lambda text: None)
        for name, unseen in (("", False), (" unseen phrasing", True)):
            data = held_out(clips, where, tokenizer, unseen)
            result[domain + name] = CodesStep(model, spec, data, data.index, 0, None, 0.0).evaluate(options.frames)
    return result


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    done = [json.loads(line) for line in options.output.read_text().splitlines()] if options.output.exists() else []
    for seed in options.seeds:
        for row in options.rows:
            if not any((one["row"], one["seed"], one["steps"]) == (row, seed, options.steps) for one in done):
                done.append(run(options, row, seed))
                with options.output.open("a") as file:
                    file.write(json.dumps(done[-1]) + "\n")
    for name, kind in (("robot", "mani"), ("robot", "loco"), *((d + s, d) for d in ("mani", "loco") for s in ("", " unseen phrasing"))):
        for row in options.rows:
            values = [one[name][f"{kind}_accuracy"] for one in done if one["row"] == row and one["steps"] == options.steps]
            floor = next(one[name][f"{kind}_majority"] for one in done if one["row"] == row)
            each = " ".join(f"{value:.3f}" for value in values)
            print(f"{name:22} {kind} codes  {row:7} {np.mean(values):.3f} ({each})  majority {floor:.3f}")


if __name__ == "__main__":
    program(main)
