"""``wbvla train vla``: stage 0 (grounding) and stage 1 (latent-action codes), then export.

wbvla train vla tiny
wbvla train vla debug
wbvla train vla image-text --pretrained FOLDER        # another backbone: see docs/vla.md
wbvla train vla 7b-pretrain --pretrained openvla-7b --codes.lerobot data/mine      # under `accelerate launch`: see docs/vla.md
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from wbvla_core.console import program
from wbvla_core.errors import WbvlaError
from wbvla_core.robot import load_robot
from wbvla_perception.preprocess import ImageSpec
from wbvla_train.data import prints
from wbvla_train.loop import TrainLoop
from wbvla_train.memory import plan_memory, require_memory
from wbvla_train.parallel import Part, Processes
from wbvla_train.state_file import claim
from wbvla_train.vla import export
from wbvla_train.vla.clips import word_tokenizer
from wbvla_train.vla.codes import load_grounded, recorded_step
from wbvla_train.vla.config import VlaTrainConfig
from wbvla_train.vla.grounding import Grounding, GroundingStep
from wbvla_train.vla.images import require_size
from wbvla_train.vla.pictures import GROUNDED_FILE, load_stills
from wbvla_train.vla.streamed import sentences_of, streamed_step
from wbvla_vla import config as sizes
from wbvla_vla.checkpoint import build_vla, load_float, save_half
from wbvla_vla.image_text import load_image_text
from wbvla_vla.model import Vla, parameter_count
from wbvla_vla.pretrained import load_published
from wbvla_vla.tokens import InstructionTokenizer


def build_model(config: VlaTrainConfig) -> tuple[Vla, InstructionTokenizer]:
    """Model and tokenizer before any training of ours: from published weights, or from the seed.

    Raises:
        WbvlaError: size "image-text" without published weights; an image size for another size, which has its own.
    """
    if config.size != "image-text" and config.image_size:
        raise WbvlaError(f"--image-size {config.image_size} is for --size image-text; pictures of size {config.size} are as large as its preset says")
    if config.size == "image-text":
        if not config.pretrained:
            raise WbvlaError("size image-text is whatever model is given: --pretrained FOLDER, or owner/name@revision on the hub")
        loaded = load_image_text(config.pretrained, image_size=config.image_size, decoding=config.decoding)
        return loaded.model, loaded.tokenizer
    size = replace(sizes.PRESETS[config.size](), decoding=config.decoding)
    if config.pretrained:
        loaded = load_published(config.pretrained, size, towers=config.pretrained_towers, tokenizer=config.pretrained_tokenizer)
        return loaded.model, loaded.tokenizer
    tokenizer = word_tokenizer(size, config.codes.clips, sentences_of(config.codes.lerobot))
    torch.manual_seed(config.grounding.loop.seed)
    return build_vla(size, tokenizer), tokenizer


def train_grounding(config: VlaTrainConfig, model: Vla, tokenizer: InstructionTokenizer, spec: ImageSpec, log=print) -> dict[str, float]:
    """Stage 0; leaves the weights in ``run_dir/grounded.safetensors`` and in ``model``."""
    g = config.grounding
    train, held_out = load_stills(config, log)
    require_size(train["images"], spec, g.data)
    grounding = Grounding(model)
    step = GroundingStep(grounding, tokenizer, spec, train["images"], train["labels"], g.batch, g.sentences)
    check = GroundingStep(grounding, tokenizer, spec, held_out["images"], held_out["labels"], 64, 4)
    log(f"stage 0: {len(train['images'])} pictures, {g.loop.steps} steps of {g.batch} x {g.sentences}, {parameter_count(model) / 1e6:.2f} M parameters")
    settings = {"stage": "grounding", "size": config.size, "batch": g.batch}
    loop = TrainLoop(g.loop, grounding, step, config.run_dir / "grounding", settings, log, data={"pictures": prints.of_shards(g.data)})
    if config.resume:
        loop.resume()
    loop.run(check.evaluate, evaluate_every=max(1, g.loop.steps // 10))
    save_half(model.state_dict(), config.run_dir / GROUNDED_FILE)
    return {**check.evaluate(batches=8), "samples": g.loop.steps * g.batch * g.sentences, "hours": loop.seconds / 3600}


def train_codes(
    config: VlaTrainConfig, model: Vla, tokenizer: InstructionTokenizer, spec: ImageSpec, processes: Processes, log=print
) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Stage 1, from stage 0's weights where there are some; returns what was measured, and the VLA's weights (on the main process)."""
    c = config.codes
    grounded = config.run_dir / GROUNDED_FILE
    if grounded.exists():
        load_grounded(model, tokenizer, load_float(grounded), word_tokenizer(model.config, (), sentences_of(c.lerobot)))
    else:
        log(f"no {grounded}: stage 1 starts from {config.pretrained or 'random weights'}")
    if c.lerobot:
        training = streamed_step(config, model, tokenizer, spec, processes, log)
    else:
        training = recorded_step(config, model, tokenizer, spec, log)
    require_memory(lambda loop: plan_memory(model, model.config, loop, processes, c.batch), c.loop, config.ignore_memory_plan, log, "--codes.loop")
    settings = {"stage": "codes", "size": config.size, "batch": c.batch, **training.settings}
    if config.decoding != "parallel":
        settings["decoding"] = config.decoding
    if config.image_size:
        settings["image_size"] = config.image_size
    loop = TrainLoop(c.loop, training.module, training.step, config.run_dir / "codes", settings, log, processes=processes, data=_data(config))
    if config.resume:
        loop.resume()
    loop.run(training.evaluate, evaluate_every=max(1, c.loop.steps // 8))
    weights = loop.weights() if training.module is model else model.state_dict()
    return {**loop.evaluated(training.evaluate_well), "samples": c.loop.steps * c.batch, "hours": loop.seconds / 3600}, weights


def _data(config: VlaTrainConfig) -> dict[str, Any]:
    """What tells the data of stage 1: its frames, its clips, and the stage 0 that it goes on from."""
    c, grounded = config.codes, config.run_dir / GROUNDED_FILE
    found = {str(root): prints.of_lerobot(root) for root in c.lerobot} or {"demos": prints.of_shards(c.demos)}
    found |= {f"clips {root}": prints.of_clips(root) for root in c.clips}
    return found | {"stage 0": prints.stretches(grounded)[:16] if grounded.exists() else None}


def train(config: VlaTrainConfig, log=print) -> Path:
    """Run the stages of ``config.stage`` and export; returns the checkpoint's folder.

    Raises:
        WbvlaError: another training writes into the run folder; settings, data or states that do not fit.
    """
    processes = Processes.of_launcher()
    with claim(config.run_dir, wanted=processes.main):
        return _train(config, processes, log)


def _train(config: VlaTrainConfig, processes: Processes, log) -> Path:
    torch.set_num_threads(config.codes.loop.threads)  # before labelling already: on a busy machine more threads wait for each other
    log = processes.only_main(log)
    if config.stage != "codes":
        Part(processes.rank, processes.count).require_whole("stage 0")  # before pictures are rendered
    robot = load_robot(config.robot)
    model, tokenizer = build_model(config)
    spec = model.config.image_spec(robot.camera)
    metrics: dict[str, dict] = {}
    if config.stage in ("all", "grounding"):
        metrics["grounding"] = train_grounding(config, model, tokenizer, spec, log)
        log("stage 0 done: " + "  ".join(f"{key} {value:.3f}" for key, value in metrics["grounding"].items()))
        export.write_stage_metrics(config, metrics)
        if config.stage == "grounding":
            return config.run_dir
    metrics["codes"], weights = train_codes(config, model, tokenizer, spec, processes, log)
    log("stage 1 done: " + "  ".join(f"{key} {value:.3f}" for key, value in metrics["codes"].items()))
    if processes.main:
        export.export(config, model, tokenizer, spec, robot, metrics, log, weights)
    processes.wait()
    return config.output


if __name__ == "__main__":
    from wbvla_train.vla.command import main

    program(main)
