"""``wbvla train decoder``: LoRA on the VLA and the decoder, together, on demonstrations; exports a policy bundle.

wbvla train decoder tiny
wbvla train decoder debug
wbvla train decoder 7b-lora --lerobot data/mine      # under `accelerate launch`: see docs/vla.md
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from wbvla_core.checkpoint import Manifest
from wbvla_core.console import program
from wbvla_core.errors import WbvlaError
from wbvla_core.robot import load_robot
from wbvla_decoder.model import ActionDecoder, DecoderOutput
from wbvla_perception.preprocess import ImageSpec
from wbvla_train.data import prints
from wbvla_train.decoder.batches import Batch, Demonstrations
from wbvla_train.decoder.config import DecoderTrainConfig
from wbvla_train.decoder.streamed import RobotFrames, StreamedFineTune
from wbvla_train.loop import LoopConfig, TrainLoop, run_record
from wbvla_train.memory import MemoryPlan, plan_memory, require_memory
from wbvla_train.parallel import Part, Processes, to_device
from wbvla_train.state_file import claim
from wbvla_train.vla.codes import CodeBatch, CodesStep, code_step_loss, load_codes
from wbvla_train.vla.grounding import BoxHead, box_errors, box_loss
from wbvla_train.vla.images import require_size
from wbvla_train.vla.streamed import load_frames
from wbvla_vla import lora
from wbvla_vla.checkpoint import LoadedVla, build_decoder, load_vla, save_policy, strip
from wbvla_vla.model import VlaOutput, code_loss

AXES = ("forward", "lateral", "yaw")


class Student(nn.Module):
    """Adapted VLA, decoder and a throw-away head for the box that the sentence names."""

    def __init__(self, adapted: nn.Module, decoder: ActionDecoder, width: int) -> None:
        super().__init__()
        self.vla, self.decoder, self.box_head = adapted, decoder, BoxHead(width)

    def forward(self, batch: Batch) -> tuple[VlaOutput, DecoderOutput, torch.Tensor]:
        out = self.vla(batch.pixels, batch.words, batch.image_index)
        action = self.decoder(out, batch.posture, batch.arm_state)
        return out, action, self.box_head(out.latent_hidden)


class FineTuneStep:
    """Draws a batch of demonstrations and adds up the losses.

    Args:
        corpus: stage 1's own step over the frames that go on beside the demonstrations; None = without.
    """

    def __init__(self, config: DecoderTrainConfig, student: Student, demos: Demonstrations, spec: ImageSpec, corpus: CodesStep | None = None) -> None:
        self.config, self.student, self.demos, self.spec, self.corpus = config, student, demos, spec, corpus
        self.tasks = demos.trained_tasks(config)

    def draw(self, rng: np.random.Generator, step: int, part: Part) -> tuple[Batch, CodeBatch | None]:
        part.require_whole("stage 2 from demonstrations with counterfactual sentences")
        c = self.config
        shares = {"walk_share": c.walk_share, "mirror_share": c.mirror_share, "wave_share": c.wave_share, "arm_states": c.arm_states}
        batch = self.demos.draw(rng, self.demos.train_index, c.batch, c.sentences, self.spec, augment=True, **shares)
        return batch, self.corpus.draw(rng, step, part) if self.corpus else None

    def loss(self, model: nn.Module, drawn: tuple[Batch, CodeBatch | None]) -> tuple[torch.Tensor, dict[str, float]]:
        c, (batch, beside) = self.config, drawn
        out, action, box = model(batch)
        flags = F.cross_entropy(action.flag_logits.float().flatten(0, 1), batch.flags.flatten())
        height = (action.height.float() - batch.height).abs().mean()
        arms = ((action.arms.float() - batch.arms).abs().mean(dim=(1, 2)) * batch.arm_weight).sum() / batch.arm_weight.sum().clamp_min(1.0)
        if c.arm_states:
            pooled = action.pooled[:, None].expand(-1, c.arm_states, -1)
            arms = arms + (self.student.decoder.arm_targets(pooled, batch.other_arm_state).float() - batch.other_arms).abs().mean()
        walks = batch.box_weight > 0.5
        where = box_loss(box[walks], batch.box[walks]) if walks.any() else box.sum() * 0.0
        codes = code_loss(out.logits.float(), batch.codes, batch.code_weight)
        loss = c.flag_weight * flags + c.height_weight * height + c.arm_weight * arms + c.box_weight * where + c.code_weight * codes
        right = (action.flag_logits.argmax(-1) == batch.flags).all(dim=1).float().mean()
        numbers = {"flags": float(flags.detach()), "all_flags_right": float(right), "arms": float(arms.detach()), "box": float(where.detach())}
        if beside is not None:
            kept, found = code_step_loss(self.student.vla, beside)
            loss, numbers = loss + c.corpus_weight * kept, numbers | {"corpus_code_accuracy": found["code_accuracy"]}
        return loss, numbers

    @torch.no_grad()
    def evaluate(self, batches: int = 12) -> dict[str, float]:
        """On held-out episodes. Frame accuracy says little about success (hysteresis bands are ambiguous): judge by closed loop."""
        c = self.config
        rows: dict[str, list[float]] = {}
        answers, targets = [], []
        for i in range(batches):
            batch = self.demos.draw(np.random.default_rng((1, i)), self.demos.check_index, 32, 4, self.spec, walk_share=c.walk_share)
            batch = to_device(batch, next(self.student.parameters()).device)
            out, action, box = self.student(batch)
            right = action.flag_logits.argmax(-1) == batch.flags
            for axis, name in enumerate(AXES):
                rows.setdefault(name, []).append(float(right[:, axis].float().mean()))
            rows.setdefault("all_flags", []).append(float(right.all(dim=1).float().mean()))
            rows.setdefault("height_m", []).append(float((action.height - batch.height).abs().mean()) * float(np.ptp(self.demos.robot.stance_height_range_m)))
            rows.setdefault("arms_l1", []).append(float((action.arms - batch.arms).abs().mean()))
            kept = batch.code_weight[:, 0] > 0.5
            if kept.any():
                rows.setdefault("code_accuracy", []).append(float((out.codes()[kept] == batch.codes[kept]).float().mean()))
            walks = batch.box_weight > 0.5
            answers.append(box[walks])
            targets.append(batch.box[walks])
        return {name: float(np.mean(values)) for name, values in rows.items()} | box_errors(torch.cat(answers), torch.cat(targets))


@dataclass
class FineTuning:
    """Everything that a run needs, before its first step."""

    loop: TrainLoop
    step: FineTuneStep | StreamedFineTune
    student: Student
    vla: LoadedVla
    frames: int  # to train on


def build(config: DecoderTrainConfig, log=print) -> FineTuning:
    """Read the VLA and the data, and make what is to be trained.

    Raises:
        WbvlaError: the memory plan does not fit the device.
    """
    torch.set_num_threads(config.loop.threads)  # before labelling already: on a busy machine more threads wait for each other
    processes = Processes.of_launcher()
    log = processes.only_main(log)
    robot = load_robot(config.robot)
    vla = load_vla(config.vla, robot)
    if vla.model.config.decoding != "parallel":
        raise WbvlaError(
            f"{vla.manifest.label} decodes its codes one after the other; counterfactual sentences have no codes that it could be given, so stage 2 "
            "needs a VLA that decodes in parallel: train one with `wbvla train vla --decoding parallel`"
        )
    lams = (config.lam_mani, config.lam_loco)
    bookkeeping = ("output", "run_dir", "resume", "loop", "filter", "lerobot", "stream", "ignore_memory_plan")
    bookkeeping += ("corpus", "corpus_frames", "corpus_weight") if config.corpus is None else ()
    settings = {key: value for key, value in asdict(config).items() if key not in bookkeeping} | {"stage": "decoder", "vla": vla.manifest.hash}
    if config.lerobot:
        if config.corpus:
            raise WbvlaError(f"--corpus {config.corpus} stands beside recordings of `wbvla data demos` (--demos), not beside --lerobot: leave one of them out")
        frames, of_data = load_frames(config.lerobot, lams, vla.tokenizer, vla.image_spec, config.stream, processes, log)
        settings |= of_data
        rows = config.decoder.chunk_rows
    else:
        demos = Demonstrations(config.demos, robot, vla.tokenizer, lams, log, config.asked_arm_states)
        require_size(demos.data["image"], vla.image_spec, ", ".join(map(str, config.demos)))
        rows = demos.arm_rows
    torch.manual_seed(config.loop.seed)
    decoder = build_decoder(replace(config.decoder, chunk_rows=rows), vla.model.config, robot)
    student = Student(lora.attach(vla.model, config.lora), decoder, vla.model.config.language.hidden_size)
    if config.lerobot:
        student.box_head.requires_grad_(False)  # nobody says where boxes are
        step = StreamedFineTune(config, student, RobotFrames(frames, robot, config.decoder), vla.image_spec)
        count = step.stream.frames
        if step.untrained:
            log(f"no task of this policy, because only held-out episodes say it: {', '.join(map(repr, step.untrained))}; record more of it, not last")
    else:
        step = FineTuneStep(config, student, demos, vla.image_spec, _corpus_step(config, student, vla, log))
        count = len(demos.train_index)
    sentences = 1 if config.lerobot else config.sentences

    def plan(loop: LoopConfig) -> MemoryPlan:
        return plan_memory(student, vla.model.config, loop, processes, config.batch, sentences, config.lora.rank)

    require_memory(plan, config.loop, config.ignore_memory_plan, log)
    arms = {"decoder.arm_state": config.arm_lr_factor, "decoder.arms": config.arm_lr_factor}
    loop = TrainLoop(config.loop, student, step, config.run_dir, settings, log, arms, processes, _data(config))
    return FineTuning(loop, step, student, vla, count)


def _data(config: DecoderTrainConfig) -> dict[str, Any]:
    """What tells the data."""
    found = {str(root): prints.of_lerobot(root) for root in config.lerobot} or {str(root): prints.of_shards(root) for root in config.demos}
    return found | ({f"corpus {config.corpus}": prints.of_shards(config.corpus)} if config.corpus else {})


def _corpus_step(config: DecoderTrainConfig, student: Student, vla: LoadedVla, log) -> CodesStep | None:
    """Stage 1's step on the corpus that goes on beside the demonstrations."""
    if config.corpus is None:
        return None
    data, held_out = load_codes(config.corpus, (config.lam_mani, config.lam_loco), vla.tokenizer, log)
    require_size(data.images, vla.image_spec, config.corpus)
    return CodesStep(student.vla, vla.image_spec, data, data.index[~held_out[data.index]], config.corpus_frames, None, 0.0)


def train(config: DecoderTrainConfig, log=print) -> Path:
    """Fine-tune and export; returns the bundle's folder.

    Raises:
        WbvlaError: another training writes into the run folder; settings, data or states that do not fit.
    """
    with claim(config.run_dir, wanted=Processes.of_launcher().main):
        return _train(config, log)


def _train(config: DecoderTrainConfig, log) -> Path:
    run = build(config, log)
    loop, sentences = run.loop, 1 if config.lerobot else config.sentences
    log = loop.log
    trained = sum(p.numel() for p in run.student.parameters() if p.requires_grad)
    log(f"stage 2: {run.frames} frames, {config.loop.steps} steps of {config.batch} x {sentences}, {trained / 1e6:.2f} M trained parameters")
    if config.resume:
        loop.resume()
    loop.run(run.step.evaluate, evaluate_every=max(1, config.loop.steps // 10))
    held_out = loop.evaluated(lambda: run.step.evaluate(batches=40))
    weights = loop.weights(trained_only=True)
    if loop.processes.main:
        _export(config, run, weights, held_out, config.loop.steps * config.batch * sentences, log)
    loop.processes.wait()
    return config.output


def _export(config: DecoderTrainConfig, run: FineTuning, weights: dict[str, torch.Tensor], held_out: dict[str, float], samples: int, log) -> None:
    robot, vla = load_robot(config.robot), run.vla
    decoder = build_decoder(run.student.decoder.config, vla.model.config, robot)  # on the CPU and whole, wherever it was trained
    decoder.load_state_dict(strip(weights, "decoder."))
    adapter = lora.adapter_state(run.student.vla, strip(weights, "vla."))

    def metrics(manifest: Manifest) -> dict[str, Any]:
        return run_record(config, run.loop.seconds / 3600, held_out=held_out, frames=run.frames, samples=samples, manifest=manifest.hash)

    manifest = save_policy(config.output, config.output.name, adapter, decoder, vla.manifest, robot, config.lora, config.filter, {}, metrics, run.step.tasks)
    log(f"{manifest.label} written to {config.output}: " + "  ".join(f"{key} {value:.3f}" for key, value in held_out.items()))


if __name__ == "__main__":
    from wbvla_train.decoder.command import main

    program(main)
