"""How much memory a training takes per process, before it starts.

Weights, gradients and AdamW's moments are counted; activations follow from a formula (ours; a test holds it against the tensors that autograd keeps).
Kept for the backward pass per token, in bytes, with bfloat16 products, float32 residuals and fused attention, of a block of width D, MLP width F and h heads:

    Llama                     26 D + 8 F + 4 h + 8,  + 8 D where its norms are trained
        two norms' inputs 8 D · inputs of q, k, v 6 D, of gate and up 4 D · q, k, v and attention's result 8 D · gate, silu, up, product 8 F
    DINOv2 and SigLIP         24 D + 4 F + 4 h + 16, + 4 D where DINOv2's layer scales are trained
        two norms' inputs 8 D · inputs of q, k, v 6 D, of the MLP 2 D · q, k, v and attention's result 8 D · before and after GELU 4 F
    adapters                  2 r for each linear layer
    projector                 18 V + 4 D, V = width of both towers together
    mask of a Llama block     2 L² per sentence of L tokens

Other backbones are counted alike: language blocks as Llama's, towers as SigLIP's.
Where blocks are computed again in the backward pass: their inputs, 4 D, and the largest block once. Gradients of activations pass through memory beside
them: counted as large as the largest block's activations (ours: not measured). bfloat16 copies of float32 weights count apart. FSDP keeps residuals in
bfloat16, so that this is somewhat more than it takes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn

from wbvla_core.errors import WbvlaError
from wbvla_train.loop import LoopConfig
from wbvla_train.parallel import Processes, is_block
from wbvla_vla.config import AnyVlaConfig
from wbvla_vla.tokens import KINDS

GIB = 2**30
RESERVE = 0.1  # of a GPU: CUDA's context, NCCL's buffers, gaps between blocks of the allocator (ours; not measured)


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes per process.

    Attributes:
        parameters, trained: of the whole model, not per process.
        parts: what for -> bytes.
        capacity: bytes that the device offers this process.
        setting: processes, batch, options, in words.
    """

    parameters: int
    trained: int
    parts: dict[str, float]
    capacity: float
    setting: str

    @property
    def total(self) -> float:
        return sum(self.parts.values())

    @property
    def fits(self) -> bool:
        return self.total <= self.capacity

    def __str__(self) -> str:
        parts = "  ".join(f"{name} {size / GIB:.2f}" for name, size in self.parts.items())
        return (
            f"memory plan: {self.parameters / 1e6:.1f} M parameters, {self.trained / 1e6:.2f} M trained; {self.setting}\n"
            f"  GiB per process: {parts}  = {self.total / GIB:.2f} of {self.capacity / GIB:.2f}"
        )


def activation_bytes(module: nn.Module, config: AnyVlaConfig, frames: int, sentences: int, checkpointing: bool, rank: int = 0) -> tuple[float, float]:
    """What autograd keeps of one piece of a batch, and the largest block's part of it; see the module text.

    Args:
        module: with the VLA in it; of its towers, blocks without anything trained keep nothing.
        frames, sentences: pictures, and sentences about each, computed at once. rank: of adapters, 0 = none.
    """
    language, image = config.language, config.image_tokens
    length = 1 + image + language.max_words + len(KINDS) * config.tokens_per_kind
    kept, inputs, largest, widths = 0.0, 0.0, 0.0, {}
    for block in (part for part in module.modules() if is_block(part)):
        name = type(block).__name__.removeprefix("FSDP")  # torch renames what it shards
        flags = [parameter.requires_grad for parameter in block.parameters()]
        if name.endswith("DecoderLayer"):
            tokens, width = frames * sentences * length, language.hidden_size
            size = 26 * width + 8 * language.intermediate_size + 4 * language.heads + 8 + (8 * width if all(flags) else 0) + 7 * 2 * rank
            here = tokens * size + frames * sentences * 2 * length**2
        else:
            tower, length_here = config.tower(name)
            tokens, width = frames * length_here, tower.hidden_size
            widths[name] = width
            scaled = name.startswith("Dinov2") and all(flags)
            size = 24 * width + 4 * tower.intermediate_size + 4 * tower.heads + 16 + (4 * width if scaled else 0)
            here = tokens * (size + (6 * 2 * rank if any(flags) else 0)) if any(flags) else 0.0
        kept, largest = kept + here, max(largest, here)
        inputs += 4 * width * tokens if here else 0
    projector = frames * image * (18 * sum(widths.values()) + 4 * language.hidden_size)
    return (inputs + largest if checkpointing else kept) + projector, largest


def plan_memory(
    module: nn.Module,
    config: AnyVlaConfig,
    loop: LoopConfig,
    processes: Processes,
    batch: int,
    sentences: int = 1,
    rank: int = 0,
    capacity: float | None = None,
) -> MemoryPlan:
    """Plan of a training of ``module`` (a meta device will do), before :class:`~wbvla_train.loop.TrainLoop` touches it.

    Args:
        batch: frames of a step, of all processes together; sentences: about each. rank: of adapters.
        capacity: bytes; default: what the device has.
    """
    frames = max(1, batch // (processes.count * loop.accumulate))
    shards = processes.count if processes.blocks else 1
    total = sum(parameter.numel() for parameter in module.parameters())
    trained = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
    frozen = total - trained
    half = loop.frozen_bf16 and not processes.blocks
    parts = {"weights": (4 * trained + (2 if half else 4) * frozen) / shards, "gradients": 4 * trained / shards, "optimizer": 8 * trained / shards}
    if processes.blocks:
        sizes = [sum(parameter.numel() for parameter in part.parameters()) for part in module.modules() if is_block(part)]
        # Two blocks at a time, the second on its way, and what belongs to no block; a block's gradients before and while they are summed.
        parts["gathered"] = (2 if loop.bf16 else 4) * (total - sum(sizes) + 3 * max(sizes)) + 4 * max(sizes)
    elif loop.bf16:
        parts["bf16 copies"] = 2 * (trained if half else total)
    if processes.offload:
        parts |= dict.fromkeys(("weights", "gradients", "optimizer"), 0.0)
    kept, largest = activation_bytes(module, config, frames, sentences, loop.checkpointing, rank)
    parts |= {"activations": kept * (1 if loop.bf16 else 2), "their gradients": largest * (1 if loop.bf16 else 2)}
    setting = f"{processes.count} processes, {'sharded' if processes.blocks else 'each with all weights'}, {batch} samples a step, {frames} at once"
    setting += f" ({loop.accumulate} pieces)" if loop.accumulate > 1 else ""
    setting += ", activations computed again" if loop.checkpointing else ""
    return MemoryPlan(total, trained, parts, device_bytes(processes) if capacity is None else capacity, setting)


def device_bytes(processes: Processes) -> float:
    """What the device offers one process: a GPU less a reserve, or its share of this machine's memory."""
    if processes.device.type == "cuda":
        return (1 - RESERVE) * torch.cuda.get_device_properties(processes.device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / processes.local_count


def require_memory(plan: Callable[[LoopConfig], MemoryPlan], loop: LoopConfig, ignore: bool, log=print, option: str = "--loop") -> None:
    """Print the plan; refuse where it does not fit, with the smallest change of ``loop`` that does (``option``: how the command line calls ``loop``).

    Raises:
        WbvlaError: it does not fit and ``ignore`` is off.
    """
    here = plan(loop)
    log(str(here))
    if here.fits or ignore:
        return
    raise WbvlaError(
        f"this training needs {here.total / GIB:.1f} GiB per process, the device offers {here.capacity / GIB:.1f} GiB; {_advice(plan, loop, option)}, "
        "or --ignore-memory-plan to try all the same"
    )


def _advice(plan: Callable[[LoopConfig], MemoryPlan], loop: LoopConfig, option: str) -> str:
    for accumulate in (loop.accumulate * 2**power for power in range(10)):
        for checkpointing in sorted({loop.checkpointing, True}):
            if plan(replace(loop, accumulate=accumulate, checkpointing=checkpointing)).fits:
                options = f"{option}.accumulate {accumulate}" + (f" {option}.checkpointing" if checkpointing and not loop.checkpointing else "")
                return f"it fits with {options}"
    return "no accumulation makes it fit: shard it over more GPUs (config/accelerate/fsdp_*.yaml) or train adapters alone"
