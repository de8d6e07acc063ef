"""``wbvla video review``: its options. Video is imported when the work begins, so that help and refusals come at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

DESCRIPTION = """``wbvla video review``: write the contact sheet of an ingested folder, or take over the decisions that were saved from it."""


@dataclass(frozen=True)
class ReviewConfig:
    """Options of ``wbvla video review``.

    Attributes:
        output: the folder that ``wbvla video ingest`` wrote.
        apply: an ``overrides.json`` that the browser saved: its decisions are added to those of the folder.
    """

    output: Annotated[Path, tyro.conf.Positional]
    apply: Path | None = None


def main(argv: list[str] | None = None) -> int:
    config = tyro.cli(ReviewConfig, args=argv, description=DESCRIPTION)
    from wbvla_train.data.film.review import review

    return review(config, log=lambda text: print(text, flush=True))
