"""``wbvla import prismatic``: do published weights fit, and what do they hold; on demand, written as a checkpoint of our own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from wbvla_core.robot import load_robot
from wbvla_vla.config import PRESETS

if TYPE_CHECKING:
    from torch import nn

    from wbvla_vla.pretrained import PublishedVla


@dataclass(frozen=True)
class ImportPrismatic:
    """Check published Prismatic or OpenVLA weights name by name and shape by shape. With --out they are written as checkpoints/vla/NAME."""

    source: Annotated[str, tyro.conf.Positional]
    """A folder in Prismatic's or the Hugging Face layout, or owner/name[/folder]@revision on the hub."""

    out: Path | None = None
    """Checkpoint directory to write, e.g. checkpoints/vla/openvla (half precision; its code tokens are untrained)."""

    towers: tuple[Path, Path] | None = None
    """timm's files of DINOv2 and SigLIP, for a checkpoint that was trained with frozen towers."""

    tokenizer: Path | None = None
    """Folder of Llama-2's tokenizer.json, for the Prismatic layout."""

    robot: str = "x2"
    """Robot whose camera the checkpoint's image spec names."""


def main(argv: Sequence[str]) -> int:
    options = tyro.cli(ImportPrismatic, args=list(argv))
    import torch  # here, so that help and refusals come at once

    from wbvla_vla.pretrained import load_published

    loaded = load_published(options.source, PRESETS["full"](), towers=options.towers, tokenizer=options.tokenizer, dtype=torch.bfloat16)
    model = loaded.model
    parts = {"DINOv2": model.vision.dino, "SigLIP": model.vision.siglip, "projector": model.projector, "Llama": model.language}
    return report(options.source, loaded, parts, options.out, options.robot)


def report(source: str, loaded: PublishedVla, parts: dict[str, nn.Module], out: Path | None, robot_name: str) -> int:
    """Say what was read; write it as a checkpoint where ``out`` says so."""
    from wbvla_vla.checkpoint import save_vla
    from wbvla_vla.model import parameter_count

    model = loaded.model
    print(f"{source}: {loaded.layout} layout, everything fits")
    print("  " + ", ".join(f"{name} {parameter_count(part) / 1e6:.1f} M" for name, part in parts.items()))
    print(f"  vocabulary: {loaded.rows} published rows, {loaded.tokenizer.vocab_size - loaded.rows} tokens of ours after them")
    if out:
        robot = load_robot(robot_name)
        extra = {"vision_weights": f"published: {source}", "parameters": parameter_count(model)}
        manifest = save_vla(out, out.name, model, loaded.tokenizer, model.config.image_spec(robot.camera), robot, {}, extra)
        print(f"{manifest.label} written to {out}")
    return 0
