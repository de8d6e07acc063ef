"""``wbvla train plan``: what a preset takes of each GPU's memory, on a machine that has none.

wbvla train plan 7b-pretrain --processes 8
wbvla train plan 7b-lora --processes 1 --no-shard --device-gib 80
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from wbvla_core.errors import require_at_least, require_positive
from wbvla_core.robot import load_robot
from wbvla_train.decoder.config import PRESETS as DECODER_PRESETS
from wbvla_train.vla.config import PRESETS as VLA_PRESETS
from wbvla_vla import config as sizes

if TYPE_CHECKING:
    from wbvla_train.memory import MemoryPlan

PUBLISHED_ROWS = 32_064  # of the published 7B's vocabulary, padding included


@dataclass(frozen=True)
class PlanOptions:
    """What to plan.

    Attributes:
        preset: of ``train vla``, or 7b-lora of ``train decoder``.
        processes: GPUs.
        shard: over all of them (FSDP), or each holds everything.
        device_gib: memory of one GPU, GiB.
        accumulate, checkpointing: in place of the preset's.
    """

    preset: Annotated[Literal["tiny", "small", "7b-pretrain", "7b-lora"], tyro.conf.Positional]
    processes: int = 8
    shard: bool = True
    device_gib: float = 80.0
    accumulate: int | None = None
    checkpointing: bool | None = None


def plan(options: PlanOptions) -> MemoryPlan:
    """The plan that training prints before it begins, from the preset alone."""
    import torch  # this and what follows: here, so that help and refusals come at once

    from wbvla_train.decoder.train import Student
    from wbvla_train.memory import GIB, RESERVE, plan_memory
    from wbvla_train.parallel import BLOCKS, Processes
    from wbvla_vla import lora
    from wbvla_vla.checkpoint import build_decoder
    from wbvla_vla.model import PrismaticVla
    from wbvla_vla.tokens import InstructionTokenizer, build_tokenizer

    adapters = options.preset == "7b-lora"
    training = DECODER_PRESETS[options.preset][1] if adapters else VLA_PRESETS[options.preset][1]
    size = sizes.PRESETS["full" if adapters else training.size]()
    words = [f"word{i}" for i in range(PUBLISHED_ROWS)] if size == sizes.full() else ["walk"]
    tokenizer = InstructionTokenizer(build_tokenizer(words, size.codebook_size, size.tokens_per_kind), size.language.max_words)
    batch, loop = (training.batch, training.loop) if adapters else (training.codes.batch, training.codes.loop)
    changes = {"accumulate": options.accumulate, "checkpointing": options.checkpointing}
    loop = replace(loop, **{name: value for name, value in changes.items() if value is not None})
    with torch.device("meta"):
        module = model = PrismaticVla(size, tokenizer)
        if adapters:
            decoder = build_decoder(training.decoder, size, load_robot(training.robot))
            module = Student(lora.attach(model, training.lora), decoder, size.language.hidden_size)
    processes = Processes(True, 0, options.processes, options.processes, blocks=BLOCKS if options.shard and options.processes > 1 else ())
    rank = training.lora.rank if adapters else 0
    return plan_memory(module, size, loop, processes, batch, 1, rank, (1 - RESERVE) * options.device_gib * GIB)


def main(argv: list[str] | None = None) -> int:
    """``wbvla train plan``: exit status 1 where the preset does not fit."""
    options = tyro.cli(PlanOptions, args=argv, prog="wbvla train plan", description=__doc__)
    require_at_least(options, processes=1, accumulate=1)
    require_positive(options, "", "device_gib")
    found = plan(options)
    print(found)
    print("fits" if found.fits else "does not fit")
    return 0 if found.fits else 1
