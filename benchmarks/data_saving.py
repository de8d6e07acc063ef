"""How many demonstrations latent-action pre-training saves: success with it and without it, at 5 to 50 demonstrations.

    wbvla train vla tiny --stage grounding --run-dir runs/vla_tiny                 # stage 0, which every arm begins with
    python benchmarks/data_saving.py --output runs/data_saving                     # does what is not there yet; then table and curve
    python benchmarks/data_saving.py --output runs/data_saving --only-table
    python benchmarks/data_saving.py --output runs/data_saving_debug --preset debug     # the whole of it in about a minute; makes its own data

A cell is one arm, one seed, one number k of demonstrations: stage 2 on those k alone, then closed-loop trials. Arms:

    with        stage 1 on the codes of the whole action-free corpus (one run per seed, shared by its cells), then stage 2
    without     no stage 1; its steps are given to stage 2. Never saw a code or the corpus
    own         stage 1 on the codes of the same k demonstrations, then stage 2: "with" differs from it in the corpus alone
    short       no stage 1, and stage 2's own steps alone: what "with" was before its stage 1

Stage 1 goes on with some of stage 0's pictures beside the codes, and stage 2 goes on predicting the codes of its demonstrations and, in "with", those
of ``--corpus-frames`` frames of the corpus; arms without codes do neither. The decoder of arms with codes reads their probabilities, that of the
others the hidden states: each what was better on development scenes (docs/vla.md). All share network, stage 0's weights (bearing and distance of
boxes: in the place of published vision-language weights), seeds, demonstrations, number of optimiser steps ("short" aside), and scenes.
Demonstrations are nested: the first k of one shuffle per seed, every kind of task as evenly as can be. They are plain: each frame with its own
sentence and what the teleoperator did (``--counterfactual``: with the answers to all other tasks, mirrored frames, boxes and arm states besides, the
recipe of the policy that ships; a frame is then worth many, and not what a person would record).

Success is grounded: the box that the sentence names, the side that it names, judged by :mod:`wbvla_eval.tasks`; standing properly at another box is a failure
and counted. Test scenes, others for each seed, the same for each arm and k. ``cells.jsonl`` gets one line per cell; a cell whose line is there is not repeated,
one that was broken off goes on. Several processes may share the folder with other ``--seeds``.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from safetensors.torch import load_file

from wbvla_core.checkpoint import MANIFEST_FILE, load_manifest, sha256_file, write_json
from wbvla_core.console import program
from wbvla_core.machine import describe_machine
from wbvla_core.robot import load_robot
from wbvla_eval.campaign import run_trials
from wbvla_eval.protocol import KINEMATIC, Setup, instruction_trials, walk_to_trials
from wbvla_eval.saving import Marks, curve_of, saving_text
from wbvla_eval.seeds import DEVELOPMENT_SEEDS, TEST_SEEDS
from wbvla_eval.stats import rate_text, wilson_interval
from wbvla_eval.tasks import Failure
from wbvla_perception.preprocess import ImageSpec
from wbvla_sim.instructions import TASKS
from wbvla_train.data import demos
from wbvla_train.decoder import config as decoder_config
from wbvla_train.decoder.subsets import write_subset
from wbvla_train.decoder.train import build as build_decoder
from wbvla_train.decoder.train import train as train_decoder
from wbvla_train.loop import STATE_FILE, TrainLoop
from wbvla_train.vla import config as vla_config
from wbvla_train.vla.clips import word_tokenizer
from wbvla_train.vla.codes import load_grounded, recorded_step
from wbvla_train.vla.pictures import GROUNDED_FILE
from wbvla_train.vla.train import build_model
from wbvla_train.vla.train import train as train_vla
from wbvla_vla.checkpoint import save_vla

Arm = Literal["with", "without", "own", "short"]
LABELS = {"with": "with LAM pre-training", "without": "without", "own": "codes of the k alone", "short": "without, fewer steps"}
GROUPS = ("walk_to", "posture")
SEED_OFFSET, SEED_STRIDE = 600_000, 1_000  # apart from the scenes of the other evaluations; per training seed
POSTURE_OFFSET = 50_000
CHECKS = 8, 10  # how often stages 1 and 2 look at held-out episodes on their way
PLAIN = {"sentences": 1, "mirror_share": 0.0, "wave_share": 0.0, "arm_states": 0, "asked_arm_states": 1, "box_weight": 0.0}


@dataclass(frozen=True)
class Options:
    """Options of the benchmark.

    Attributes:
        preset: sizes and steps of ``wbvla train vla`` and ``wbvla train decoder``.
        corpus: episodes that give "with" pictures, sentences and codes, never an action; the demonstrations may be among them.
        clips: action-free clips besides.
        corpus_frames: so many frames of the corpus go on beside each step of stage 2 of "with", for their codes; 0 = none.
        demos: where the k are taken from. kinds: of tasks.
        stills, grounded: stage 0's pictures and weights.
        demonstrations: k. further: more k for the arms without the corpus, so that what they need for the success of "with" is reached.
        walks: trials of walk-to per cell. postures: trials of each other instruction per cell.
        steps: of stages 1 and 2; None = the preset's.
        only_table: train and try nothing.
    """

    output: Path = Path("runs/data_saving")
    preset: Literal["tiny", "debug"] = "tiny"
    corpus: Path = Path("data/demos")
    clips: tuple[Path, ...] = ()
    corpus_frames: int = 32
    demos: Path = Path("data/demos")
    kinds: tuple[str, ...] = ("walk_to", "turn", "step", "squat", "stand")
    stills: Path = Path("data/stills")
    grounded: Path = Path("runs/vla_tiny") / GROUNDED_FILE
    lam_mani: Path = Path("checkpoints/lam/mani")
    lam_loco: Path = Path("checkpoints/lam/loco")
    lmo: str = "checkpoints/lmo/x2"
    robot: str = "x2"
    arms: tuple[Arm, ...] = ("with", "without")
    seeds: tuple[int, ...] = (0, 1, 2)
    demonstrations: tuple[int, ...] = (5, 10, 25, 50)
    further: tuple[int, ...] = (100, 200)
    counterfactual: bool = False
    steps: tuple[int, int] | None = None
    walks: int = 50
    postures: int = 5
    processes: int = 1
    only_table: bool = False


@dataclass(frozen=True)
class Cell:
    """One arm, one seed, one number of demonstrations."""

    arm: Arm
    seed: int
    demonstrations: int

    @property
    def name(self) -> str:
        return f"{self.arm}_{self.seed}_{self.demonstrations}"

    @property
    def base(self) -> str:
        """Name of the VLA that stage 2 begins with; cells that name the same one share it."""
        return self.name if self.arm == "own" else f"with_{self.seed}" if self.arm == "with" else f"grounded_{self.seed}"

    @property
    def coded(self) -> bool:
        """Whether it has seen codes."""
        return self.arm in ("with", "own")


def quiet(text: str) -> None:
    pass


# -- training ----------------------------------------------------------------------------------------------------------
def vla_settings(options: Options, cell: Cell) -> vla_config.VlaTrainConfig:
    """Stage 1 of a cell."""
    preset, own = vla_config.PRESETS[options.preset][1], cell.arm == "own"
    codes = replace(
        preset.codes,
        demos=subset(options, cell) if own else options.corpus,
        clips=options.clips,  # of all arms: they give the vocabulary its words
        clip_share=0.0 if own or not options.clips else preset.codes.clip_share,
        lam_mani=options.lam_mani,
        lam_loco=options.lam_loco,
        loop=replace(preset.codes.loop, seed=cell.seed, **({"steps": options.steps[0]} if options.steps else {})),
    )
    grounding = replace(preset.grounding, data=options.stills, scenes=0, loop=replace(preset.grounding.loop, seed=cell.seed))
    folders = {"run_dir": options.output / "state" / "vla" / cell.base, "output": options.output / "checkpoints" / "vla" / cell.base}
    return replace(preset, stage="codes", robot=options.robot, codes=codes, grounding=grounding, **folders)


def decoder_settings(options: Options, cell: Cell) -> decoder_config.DecoderTrainConfig:
    """Stage 2 of a cell."""
    preset, vla = decoder_config.PRESETS[options.preset][1], vla_settings(options, cell)
    steps = (options.steps[1] if options.steps else preset.loop.steps) + (vla.codes.loop.steps if cell.arm == "without" else 0)
    return replace(
        preset,
        vla=vla.output,
        demos=(subset(options, cell),),
        robot=options.robot,
        lam_mani=options.lam_mani,
        lam_loco=options.lam_loco,
        decoder=replace(preset.decoder, latents="codes") if cell.coded else preset.decoder,
        code_weight=preset.code_weight if cell.coded else 0.0,
        corpus=options.corpus if cell.arm == "with" and options.corpus_frames else None,
        corpus_frames=options.corpus_frames,
        loop=replace(preset.loop, steps=steps, seed=cell.seed),
        run_dir=options.output / "state" / "policy" / cell.name,
        output=options.output / "checkpoints" / "policy" / cell.name,
        **({} if options.counterfactual else PLAIN),
    )


def subset(options: Options, cell: Cell) -> Path:
    """Folder of a cell's demonstrations."""
    return options.output / "demos" / f"{cell.seed}_{cell.demonstrations}"


def grounded_vla(config: vla_config.VlaTrainConfig, options: Options) -> None:
    """Stage 0's weights as a checkpoint that stage 2 can begin from."""
    model, tokenizer = build_model(config)
    weights = {name: value.float() for name, value in load_file(options.grounded).items()}
    load_grounded(model, tokenizer, weights, word_tokenizer(model.config))
    robot = load_robot(config.robot)
    spec = ImageSpec.of(robot.camera, model.config.image_size)
    save_vla(config.output, config.output.name, model, tokenizer, spec, robot, {}, {"vision_weights": "ours, from simulator labels (stage 0); no stage 1"})


def train_cell(options: Options, cell: Cell, log=print) -> dict[str, float]:
    """Leaves the cell's policy in its folder; returns seconds of training per stage (0 where another cell had it done)."""
    spoken = write_subset(options.demos, subset(options, cell), cell.demonstrations, cell.seed, options.kinds)
    log(f"{cell}: {', '.join(sorted(spoken))}")
    base, policy, seconds = vla_settings(options, cell), decoder_settings(options, cell), {"stage_1_s": 0.0}
    if not (base.output / MANIFEST_FILE).exists():
        if not cell.coded:
            grounded_vla(base, options)
        else:
            base.run_dir.mkdir(parents=True, exist_ok=True)
            shutil.copy(options.grounded, base.run_dir / GROUNDED_FILE)
            train_vla(base, log)
            seconds["stage_1_s"] = trained_for(base.run_dir / "codes")
            shutil.rmtree(base.run_dir)
    if not (policy.output / MANIFEST_FILE).exists():
        train_decoder(policy, log)
    return seconds | {"stage_2_s": trained_for(policy.run_dir)}


def trained_for(run_dir: Path) -> float:
    """Seconds that the steps of a finished training took."""
    return torch.load(run_dir / STATE_FILE, weights_only=True)["seconds"]


# -- evaluation --------------------------------------------------------------------------------------------------------
def try_cell(options: Options, cell: Cell) -> dict[str, Any]:
    """Closed-loop trials of a cell's policy, without videos: one mark per trial, 1 = success."""
    split = TEST_SEEDS if options.preset == "tiny" else DEVELOPMENT_SEEDS
    first = split.start + SEED_OFFSET + cell.seed * SEED_STRIDE
    postures = tuple(kind for kind in options.kinds if kind != "walk_to")
    # A handful of demonstrations does not hold every task; what the policy does with the others is part of the measurement.
    setup = Setup(options.robot, str(decoder_settings(options, cell).output), options.lmo, guarded=False)
    trials = {"walk_to": walk_to_trials(options.walks, first), "posture": instruction_trials(options.postures, first + POSTURE_OFFSET, kinds=postures)}
    result: dict[str, Any] = {}
    for group, specs in trials.items():
        rows = sorted(run_trials(setup, specs, options.processes), key=lambda row: row["index"])
        result[group] = "".join(str(int(row["success"])) for row in rows)
        result[f"{group}_s"] = sum(row["wall_s"] for row in rows)
        result[f"{group}_failures"] = {kind: sum(row["failure"] == kind for row in rows) for kind in sorted({row["failure"] for row in rows if row["failure"]})}
    return result


# -- the cells ---------------------------------------------------------------------------------------------------------
def cells_of(options: Options) -> list[Cell]:
    """In an order in which an early end leaves whole seeds."""
    counts = {arm: sorted({*options.demonstrations, *(() if arm == "with" else options.further)}) for arm in options.arms}
    return [Cell(arm, seed, k) for seed in options.seeds for k in sorted(set().union(*counts.values())) for arm in options.arms if k in counts[arm]]


def settings_of(options: Options) -> dict[str, Any]:
    """What all cells of a folder have in common."""
    cell = Cell("with", 0, 0)
    found = {"stage_1": asdict(vla_settings(options, cell)), "stage_2": asdict(decoder_settings(options, cell))}
    found |= {key: getattr(options, key) for key in ("kinds", "walks", "postures", "demos")}
    found |= {name: load_manifest(path).hash for name, path in (("lam_mani", options.lam_mani), ("lam_loco", options.lam_loco))}
    found["lmo"] = options.lmo if options.lmo == KINEMATIC else load_manifest(options.lmo).hash
    return json.loads(json.dumps(found | {"grounded": sha256_file(options.grounded)}, default=str))


def require_same(options: Options) -> None:
    """Write the settings down, or raise SystemExit where the folder holds cells of others."""
    path, wanted = options.output / "settings.json", settings_of(options)
    found = json.loads(path.read_text()) if path.exists() else wanted
    differing = sorted(key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key))
    if differing:
        raise SystemExit(f"{options.output} holds cells of other settings ({', '.join(differing)} differ, see settings.json); choose another --output")
    write_json(path, wanted)


def rows_of(options: Options) -> list[dict[str, Any]]:
    """Finished cells, one line each."""
    lines = options.output / "cells.jsonl"
    return [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []


def is_done(rows: list[dict[str, Any]], cell: Cell) -> bool:
    return any(row["cell"] == asdict(cell) for row in rows)


def run(options: Options, log=print) -> None:
    """Do what is missing, one line per finished cell."""
    options.output.mkdir(parents=True, exist_ok=True)
    require_same(options)
    rows = rows_of(options)
    missing = [cell for cell in cells_of(options) if not is_done(rows, cell)]
    if not missing:
        return
    log(cost_text(options, missing, measured_cost(rows) or probe(options)))
    for number, cell in enumerate(missing, start=1):
        if is_done(rows_of(options), cell):  # by another process
            continue
        row = {"cell": asdict(cell), **train_cell(options, cell, log), **try_cell(options, cell), "machine": describe_machine(f"torch {torch.__version__}")}
        row["steps"] = vla_settings(options, cell).codes.loop.steps, decoder_settings(options, cell).loop.steps
        with (options.output / "cells.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        shutil.rmtree(decoder_settings(options, cell).run_dir)
        log(f"cell {number} of {len(missing)} done: {cell}: " + ", ".join(f"{group} {rate_text(row[group].count('1'), len(row[group]))}" for group in GROUPS))


# -- cost --------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Cost:
    """Seconds of an optimiser step of stages 1 and 2, their checks on held-out episodes included, and of a trial of each group."""

    stage_1: float
    stage_2: float
    walk_to: float
    posture: float
    source: str


def probe(options: Options, log=print) -> Cost:
    """Measured on one cell of one step and few trials, of the wanted sizes, thrown away again. Its policy gets lost: trials of a good one are shorter."""
    log("measuring the cost first")
    with tempfile.TemporaryDirectory() as folder:
        cell = Cell("with", options.seeds[0], min(options.demonstrations))
        short = replace(options, output=Path(folder), steps=(1, 1), walks=2, postures=1)
        found = train_cell(short, cell, quiet) | try_cell(short, cell)  # of each stage one step, and one check on held-out episodes
        config = vla_settings(options, cell)
        model, tokenizer = build_model(config)
        spec = ImageSpec.of(load_robot(config.robot).camera, model.config.image_size)
        coding = recorded_step(config, model, tokenizer, spec, quiet)
        stage_1 = one_step(TrainLoop(config.codes.loop, coding.module, coding.step, Path(folder), {}))
        stage_2 = one_step(build_decoder(decoder_settings(short, cell), quiet).loop)
    runs = config.codes.loop.steps, decoder_settings(options, cell).loop.steps
    checks = CHECKS[0] * found["stage_1_s"] / runs[0], CHECKS[1] * found["stage_2_s"] / runs[1]
    trials = {group: found[f"{group}_s"] / len(found[group]) for group in GROUPS}
    return Cost(stage_1 + checks[0], stage_2 + checks[1], source="a probe", **trials)


def one_step(loop: TrainLoop, count: int = 20) -> float:
    """Seconds of an optimiser step, after two that are not counted."""
    for _ in range(2):
        loop.train_step()
    started = time.monotonic()
    for _ in range(count):
        loop.train_step()
    return (time.monotonic() - started) / count


def measured_cost(rows: list[dict[str, Any]]) -> Cost | None:
    """From the cells that are there; None where they do not tell all of it."""
    first, second = ([row for row in rows if row[f"stage_{stage}_s"]] for stage in (1, 2))
    if not first or not second:
        return None
    trials = {group: float(np.mean([row[f"{group}_s"] / len(row[group]) for row in rows])) for group in GROUPS}
    steps = {stage: float(np.mean([row[f"stage_{stage}_s"] / row["steps"][stage - 1] for row in part])) for stage, part in ((1, first), (2, second))}
    return Cost(steps[1], steps[2], source=f"{len(rows)} finished cells", **trials)


def cost_text(options: Options, missing: list[Cell], cost: Cost) -> str:
    """Cells, minutes each and hours in all, before anything is begun."""
    lines, total = [f"{len(missing)} cells to do; by {cost.source}:"], 0.0
    instructions = sum(task.kind in options.kinds and task.kind != "walk_to" for task in TASKS)
    trial_s = options.walks * cost.walk_to + instructions * options.postures * cost.posture
    begun: set[Path] = set()
    for arm in options.arms:
        mine, seconds = [cell for cell in missing if cell.arm == arm], 0.0
        for cell in mine:
            base = vla_settings(options, cell)
            if cell.coded and base.output not in begun and not (base.output / MANIFEST_FILE).exists():
                begun.add(base.output)
                seconds += base.codes.loop.steps * cost.stage_1
            seconds += decoder_settings(options, cell).loop.steps * cost.stage_2 + trial_s / options.processes
        total += seconds
        if mine:
            lines.append(f"  {arm}: {len(mine)} cells, {seconds / len(mine) / 60:.1f} min each, its stage 1 included")
    return "\n".join([*lines, f"  {total / 3600:.1f} h of one process in all"])


# -- table and curve ---------------------------------------------------------------------------------------------------
def marks_of(rows: list[dict[str, Any]], group: str) -> Marks:
    """Success of every trial."""
    marks: Marks = {}
    for row in rows:
        cell = row["cell"]
        marks.setdefault((cell["arm"], cell["demonstrations"]), {})[cell["seed"]] = np.array([mark == "1" for mark in row[group]])
    return marks


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Markdown: success per arm and number of demonstrations, then what is saved."""
    counts = sorted({row["cell"]["demonstrations"] for row in rows})
    lines = []
    for group in GROUPS:
        marks = marks_of(rows, group)
        lines += [f"| {group.replace('_', '-')}: success (Wilson 95 %); per seed | " + " | ".join(map(str, counts)) + " |", "|---" * (len(counts) + 1) + "|"]
        for arm in (arm for arm in LABELS if any(name == arm for name, _ in marks)):
            texts = []
            for k in counts:
                found = marks.get((arm, k), {})
                pooled = np.concatenate([*found.values(), np.zeros(0, bool)])
                each = ", ".join(f"{100 * found[seed].mean():.0f}" for seed in sorted(found))
                texts.append(f"{rate_text(int(pooled.sum()), len(pooled))}; {each}" if found else "–")
            lines.append(f"| {LABELS[arm]} | " + " | ".join(texts) + " |")
        for baseline in (arm for arm in LABELS if arm != "with" and any(name == arm for name, _ in marks)):
            cells = [saving_text(marks, k, "with", baseline) for k in counts]
            lines.append(f"| demonstrations saved over {baseline!r}, times | " + " | ".join(cells) + " |")
        lines.append("")
    wrong = {arm: sum(row["walk_to_failures"].get(Failure.WRONG_BOX.value, 0) for row in rows if row["cell"]["arm"] == arm) for arm in LABELS}
    walks = {arm: sum(len(row["walk_to"]) for row in rows if row["cell"]["arm"] == arm) for arm in LABELS}
    return [*lines, "Walks that ended properly at another box than the named one: " + ", ".join(f"{arm} {wrong[arm]} of {n}" for arm, n in walks.items() if n)]


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Success over demonstrations: mean of the seeds, Wilson's interval of all trials, one dot a seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots(1, len(GROUPS), sharey=True)
    for axis, group in zip(axes, GROUPS, strict=True):
        marks = marks_of(rows, group)
        for arm in (arm for arm in LABELS if any(name == arm for name, _ in marks)):
            counts, rates = curve_of(marks, arm)
            pooled = [np.concatenate(list(marks[arm, k].values())) for k in counts]
            low, high = zip(*(wilson_interval(int(trials.sum()), len(trials)) for trials in pooled), strict=True)
            (line,) = axis.plot(counts, rates, label=LABELS[arm])
            axis.fill_between(counts, low, high, alpha=0.15, color=line.get_color())
            dots = [(k, seed.mean()) for k in counts for seed in marks[arm, k].values()]
            axis.scatter(*zip(*dots, strict=True), s=10, color=line.get_color())
        ticks = sorted({k for _, k in marks})
        axis.set(xscale="log", xlabel="demonstrations", title=group.replace("_", "-"), ylim=(-0.02, 1.02))
        axis.set_xticks(ticks, [str(k) for k in ticks])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("grounded success")
    axes[0].legend()
    figure.savefig(path, dpi=110)


def debug(options: Options) -> Options:
    """Seconds: sizes of tests, two cells an arm, own recordings without physics, stage 0 of a few steps. Says that it runs, nothing else."""
    root, preset = options.output, vla_config.PRESETS["debug"][1]
    recording = demos.DemosConfig(output=root / "recorded", world="kinematic", episodes=30, walk_share=0.2, timeout_s=20.0, duration_s=(1.2, 1.6))
    demos.make(recording)
    grounding = replace(preset.grounding, data=root / "stills")
    train_vla(replace(preset, stage="grounding", grounding=grounding, run_dir=root / "stage_0"))
    data = {"corpus": recording.output, "demos": recording.output, "stills": root / "stills", "grounded": root / "stage_0" / GROUNDED_FILE}
    sizes = {"seeds": (0,), "demonstrations": (2, 5), "further": (), "walks": 2, "postures": 1, "lmo": KINEMATIC}
    return replace(options, **data, **sizes)


def main() -> int:
    options = tyro.cli(Options, description=__doc__)
    if not options.only_table:
        torch.set_num_threads(1)
        if options.preset == "debug":
            options = debug(options)
        if not options.grounded.exists():
            raise SystemExit(f"no {options.grounded}: run stage 0 first, `wbvla train vla {options.preset} --stage grounding`, or say where its weights are")
        run(options)
    rows = rows_of(options)
    if not rows:
        raise SystemExit(f"no finished cell in {options.output}")
    print("\n".join(table(rows)))
    plot(rows, options.output / "curve.png")
    print(f"\ncurve: {options.output / 'curve.png'}")
    return 0


if __name__ == "__main__":
    program(main)
