"""``wbvla train vla``: stage 0 (grounding) and stage 1 (latent-action codes), then export.

wbvla train vla tiny
wbvla train vla debug
"""

from __future__ import annotations

from pathlib import Path

import torch

from wbvla_core.robot import load_robot
from wbvla_perception.preprocess import ImageSpec
from wbvla_sim.instructions import TASKS, paraphrases
from wbvla_train.data import stills
from wbvla_train.loop import TrainLoop
from wbvla_train.vla.config import PRESETS, VlaTrainConfig
from wbvla_train.vla.grounding import Grounding, GroundingStep
from wbvla_train.vla.pictures import GROUNDED_FILE, load_stills
from wbvla_vla import config as sizes
from wbvla_vla.checkpoint import save_half
from wbvla_vla.config import VlaConfig
from wbvla_vla.model import PrismaticVla, parameter_count
from wbvla_vla.tokens import InstructionTokenizer, build_tokenizer


def build_model(size: str, seed: int = 0) -> tuple[PrismaticVla, InstructionTokenizer]:
    """Model and tokenizer from the seed, before any training."""
    config: VlaConfig = sizes.PRESETS[size]()
    sentences = [sentence for task in TASKS for sentence in paraphrases(task)]
    tokenizer = InstructionTokenizer(build_tokenizer(sentences, config.codebook_size, config.tokens_per_kind), config.language.max_words, config.prompt)
    torch.manual_seed(seed)
    return PrismaticVla(config, tokenizer), tokenizer


def train_grounding(config: VlaTrainConfig, model: PrismaticVla, tokenizer: InstructionTokenizer, spec: ImageSpec, log=print) -> dict[str, float]:
    """Stage 0; leaves the weights in ``run_dir/grounded.safetensors`` and in ``model``."""
    g = config.grounding
    train, held_out = load_stills(config, log)
    grounding = Grounding(model)
    step = GroundingStep(grounding, tokenizer, spec, train["images"], train["labels"], g.batch, g.sentences)
    check = GroundingStep(grounding, tokenizer, spec, held_out["images"], held_out["labels"], 64, 4)
    log(f"stage 0: {len(train['images'])} pictures, {g.loop.steps} steps of {g.batch} x {g.sentences}, {parameter_count(model) / 1e6:.2f} M parameters")
    loop = TrainLoop(g.loop, grounding, step, config.run_dir / "grounding", {"stage": "grounding", "size": config.size, "batch": g.batch}, log)
    if config.resume:
        loop.resume()
    loop.run(check.evaluate, evaluate_every=max(1, g.loop.steps // 10))
    save_half(model.state_dict(), config.run_dir / GROUNDED_FILE)
    return {**check.evaluate(batches=8), "samples": g.loop.steps * g.batch * g.sentences, "hours": loop.seconds / 3600}


def train(config: VlaTrainConfig, log=print) -> Path:
    """Run the stages of ``config.stage`` and export; returns the checkpoint's folder."""
    from wbvla_train.vla import codes, export

    torch.set_num_threads(config.codes.loop.threads)  # before labelling already: on a busy machine more threads wait for each other
    robot = load_robot(config.robot)
    spec = stills.image_spec(robot)
    model, tokenizer = build_model(config.size, config.grounding.loop.seed)
    metrics: dict[str, dict] = {}
    if config.stage in ("all", "grounding"):
        metrics["grounding"] = train_grounding(config, model, tokenizer, spec, log)
        log("stage 0 done: " + "  ".join(f"{key} {value:.3f}" for key, value in metrics["grounding"].items()))
        export.write_stage_metrics(config, metrics)
        if config.stage == "grounding":
            return config.run_dir
    metrics["codes"] = codes.train_codes(config, model, tokenizer, spec, log)
    log("stage 1 done: " + "  ".join(f"{key} {value:.3f}" for key, value in metrics["codes"].items()))
    return export.export(config, model, tokenizer, spec, robot, metrics, log)


def main(argv: list[str] | None = None) -> int:
    import tyro

    train(tyro.extras.overridable_config_cli(PRESETS, args=argv, description="Train the vision-language-action model."))
    return 0


if __name__ == "__main__":
    import sys

    sys.exit(main(sys.argv[1:]))
