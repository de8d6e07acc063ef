"""What a GPU makes of the full size: one decision in bf16, int8 and int4, and one LoRA step. Weights are random: speed and memory do not ask what they mean.

python benchmarks/gpu.py                          # 7B, everything, under nine minutes
python benchmarks/gpu.py --preset tiny            # the same on a CPU, to see that it runs

Each part is a process of its own, so that one that fails or does not fit spoils no other; what was left out says why.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from torch.nn import functional as F

from wbvla_core.console import program
from wbvla_core.machine import describe_machine
from wbvla_core.robot import RobotSpec, load_robot
from wbvla_core.types import PolicyInput, RobotState
from wbvla_decoder.model import ActionDecoder, DecoderConfig
from wbvla_decoder.policy import FilterConfig
from wbvla_perception.preprocess import ImageSpec, policy_image
from wbvla_vla import lora
from wbvla_vla.checkpoint import LoadedPolicy, LoadedVla, build_decoder
from wbvla_vla.config import PRESETS
from wbvla_vla.engine import EngineConfig
from wbvla_vla.model import PrismaticVla, code_loss, parameter_count
from wbvla_vla.policy import WholeBodyPolicy
from wbvla_vla.tokens import InstructionTokenizer, build_tokenizer

SENTENCE = "walk to the red box"
LLAMA_WORDS = 32_000
DECODERS = {"full": DecoderConfig(hidden_size=512, heads=8)}  # prior work (UniVLA); the small presets take the default
DECISIONS = {
    "bf16": EngineConfig(dtype="bf16"),
    "bf16 from Python": EngineConfig(dtype="bf16", compile=False),
    "int8": EngineConfig(dtype="bf16", quantize="int8"),
    "int4": EngineConfig(dtype="bf16", quantize="int4"),
}
LORA = "LoRA step"
PARTS = ("bf16", LORA, "bf16 from Python", "int8", "int4")  # what matters most comes first
TARGET_MS, TARGET_GB = 20.0, 18.0  # of a decision of the full size in bf16: 99th percentile, peak


@dataclass(frozen=True)
class Options:
    """Options of the benchmark.

    Attributes:
        preset: size of the VLA.
        device: cuda where there is a GPU, else cpu.
        frames: decisions that are timed, after ten that are not.
        batch: sentences per LoRA step, one picture each.
        budget_s: parts that have not ended by then are cut off.
        out: JSON file for the numbers.
        part: run one part here instead of all of them.
    """

    preset: str = "full"
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    frames: int = 200
    batch: int = 8
    budget_s: float = 510.0
    out: Path | None = None
    part: str | None = None


def make(options: Options, robot: RobotSpec) -> tuple[LoadedVla, ActionDecoder]:
    """A VLA with random weights in bf16 on the device, and its decoder in float32."""
    config = PRESETS[options.preset]()
    words = [SENTENCE, config.prompt, *(f"w{index}" for index in range(LLAMA_WORDS if options.preset == "full" else 0))]
    tokenizer = InstructionTokenizer(build_tokenizer(words, config.codebook_size, config.tokens_per_kind), config.language.max_words, config.prompt)
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(options.device):
            model = PrismaticVla(config, tokenizer)
    finally:
        torch.set_default_dtype(before)
    decoder = build_decoder(DECODERS.get(options.preset, DecoderConfig()), config, robot).to(options.device)
    spec = ImageSpec.of(robot.camera, config.image_size)
    return LoadedVla(model.to(options.device).eval(), tokenizer, spec, None), decoder.eval()


def decisions(options: Options, engine: EngineConfig) -> dict[str, float]:
    """Camera frame -> commands, one at a time, as the node asks for them."""
    engine = replace(engine, device=options.device).require()
    robot = load_robot("x2")
    vla, decoder = make(options, robot)
    parameters = parameter_count(vla.model)
    start = time.perf_counter()
    policy = WholeBodyPolicy(LoadedPolicy(vla, decoder, FilterConfig(), None), robot, engine)
    built_s = time.perf_counter() - start
    forget_peak()
    rng, zeros = np.random.default_rng(0), np.zeros(robot.joint_count)
    rows: dict[str, list[float]] = {}
    for i in range(-10, options.frames):
        camera = rng.integers(0, 256, (vla.image_spec.source_height, vla.image_spec.source_width, 3), dtype=np.uint8)
        state = RobotState(i * 0.1, robot.default_q, zeros, np.zeros(3), np.array((0.0, 0.0, -1.0)))
        start = time.perf_counter()
        decision = policy.infer(PolicyInput(i * 0.1, policy_image(camera, vla.image_spec), SENTENCE, state))
        seconds = {**decision.timing_s, "total": time.perf_counter() - start}
        if i >= 0:
            for name, value in seconds.items():
                rows.setdefault(name, []).append(value * 1e3)
    total = rows["total"]
    found = {f"{name}_ms": float(np.median(values)) for name, values in rows.items() if name != "total"}
    return {
        "p50_ms": float(np.median(total)),
        "p99_ms": float(np.percentile(total, 99)),
        **found,
        **peak(),
        "parameters_M": parameters / 1e6,
        "built_s": built_s,
    }


def lora_step(options: Options) -> dict[str, float]:
    """Forward, backward and AdamW of adapters on all linear layers and of the decoder; activations are recomputed where they do not fit otherwise."""
    robot = load_robot("x2")
    vla, decoder = make(options, robot)
    adapted, decoder = lora.attach(vla.model, lora.LoraSettings()), decoder.train()
    trained = [parameter for module in (adapted, decoder) for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=3.5e-4)
    config, n, arms = vla.model.config, options.batch, len(robot.names("upper_body"))
    on = {"device": options.device}
    pixels = torch.randn(n, 6, config.image_size, config.image_size, dtype=torch.bfloat16, **on)
    words = torch.from_numpy(vla.tokenizer.encode_batch([SENTENCE] * n)).to(options.device)
    codes = torch.randint(config.codebook_size, (n, 2, config.tokens_per_kind), **on)
    posture, arm_state, flags = torch.randn(n, 3, **on), torch.randn(n, 2 * arms, **on), torch.randint(3, (n, 3), **on)

    def step() -> None:
        with torch.autocast(options.device, dtype=torch.bfloat16):
            out = adapted(pixels, words)
            action = decoder(out, posture, arm_state)
        loss = code_loss(out.logits.float(), codes) + F.cross_entropy(action.flag_logits.float().flatten(0, 1), flags.flatten())
        (loss + action.arms.float().abs().mean() + action.height.float().mean()).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if options.device == "cuda":
            torch.cuda.synchronize()

    recomputed = False
    try:
        step()
    except torch.OutOfMemoryError:
        recomputed = True
    if recomputed:  # outside of the handler, which keeps the failed step's tensors alive
        optimizer.zero_grad(set_to_none=True)
        gc.collect()
        torch.cuda.empty_cache()
        vla.model.language.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        vla.model.language.train()
        step()
    step()
    forget_peak()
    start, count = time.perf_counter(), 8
    for _ in range(count):
        step()
    seconds = (time.perf_counter() - start) / count
    trained_m = sum(parameter.numel() for parameter in trained) / 1e6
    return {"step_ms": seconds * 1e3, "samples_per_s": n / seconds, "batch": n, **peak(), "trained_M": trained_m, "activations_recomputed": float(recomputed)}


def forget_peak() -> None:
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak() -> dict[str, float]:
    """Most memory that the process held of the GPU since :func:`forget_peak`, the allocator's reserve included, GB (1e9 bytes)."""
    return {"peak_GB": torch.cuda.max_memory_reserved() / 1e9} if torch.cuda.is_available() else {}


def carry_out(options: Options, name: str, left_s: float) -> dict[str, Any]:
    """The numbers of one part from a process of its own, or {"skipped": why}."""
    if left_s < 20:
        return {"skipped": "no time was left"}
    command = [sys.executable, __file__, "--part", name, "--preset", options.preset, "--device", options.device]
    command += ["--frames", str(options.frames), "--batch", str(options.batch)]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=left_s)
    except subprocess.TimeoutExpired:
        return {"skipped": f"cut off after {left_s:.0f} s"}
    for line in reversed(ended.stdout.splitlines()):
        with suppress(json.JSONDecodeError):
            return json.loads(line)
    return {"skipped": f"exit status {ended.returncode}: " + " | ".join(ended.stderr.strip().splitlines()[-3:])}


def run_part(options: Options) -> int:
    try:
        found = lora_step(options) if options.part == LORA else decisions(options, DECISIONS[options.part])
    except Exception as error:  # the report names it and goes on
        found = {"skipped": f"{type(error).__name__}: {' '.join(str(error).split())[:600]}"}
    print(json.dumps(found))
    return 0


def main() -> int:
    options = tyro.cli(Options, description=__doc__)
    if options.part:
        return run_part(options)
    name = torch.cuda.get_device_name() if options.device == "cuda" else "no GPU"
    machine = describe_machine(f"torch {torch.__version__}", name)
    print(f"{machine}; preset {options.preset}, random weights, one image at a time", flush=True)
    end_s, found = time.monotonic() + options.budget_s, {}
    for part in PARTS:
        begin_s = time.monotonic()
        found[part] = carry_out(options, part, end_s - begin_s)
        text = found[part].get("skipped") or "  ".join(f"{key} {value:.4g}" for key, value in found[part].items())
        print(f"{part:<18} {'skipped: ' if 'skipped' in found[part] else ''}{text}  ({time.monotonic() - begin_s:.0f} s)", flush=True)
        if options.out:  # after each part: what was measured stays, whatever happens to the rest
            options.out.write_text(json.dumps({"machine": machine, "preset": options.preset, "parts": found}, indent=2) + "\n")
    bf16 = found["bf16"]
    if options.preset != "full" or options.device != "cuda" or "skipped" in bf16:
        print("the target (full size on a GPU) was not measured")
        return 0
    met = bf16["p99_ms"] <= TARGET_MS and bf16["peak_GB"] <= TARGET_GB
    print(f"target: p99 <= {TARGET_MS:g} ms, peak <= {TARGET_GB:g} GB: {'met' if met else 'missed'}")
    return 0 if met else 1


if __name__ == "__main__":
    program(main)
