"""``wbvla import image-text``: does a published image-text-to-text model fit as a backbone; on demand, written as a checkpoint of our own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from wbvla_cli.import_prismatic import report
from wbvla_core.errors import require_at_least


@dataclass(frozen=True)
class ImportImageText:
    """Check a published SmolVLM, Idefics3, InternVL or LLaVA as a backbone. With --out it is written as checkpoints/vla/NAME."""

    source: Annotated[str, tyro.conf.Positional]
    """A folder as transformers writes it, or owner/name[/folder]@revision on the hub."""

    out: Path | None = None
    """Checkpoint directory to write, e.g. checkpoints/vla/smolvlm (half precision; its code tokens are untrained)."""

    image_size: int | None = None
    """Edge of the policy image, px; by default the model's own."""

    robot: str = "x2"
    """Robot whose camera the checkpoint's image spec names."""


def main(argv: Sequence[str]) -> int:
    options = tyro.cli(ImportImageText, args=list(argv))
    require_at_least(options, image_size=1)
    from wbvla_vla.image_text import load_image_text  # here, so that help and refusals come at once

    loaded = load_image_text(options.source, image_size=options.image_size)
    parts = {"vision": loaded.model.vision, "language": loaded.model.language}
    return report(options.source, loaded, parts, options.out, options.robot)
