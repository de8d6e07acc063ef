"""``wbvla annotate``: its options. Video is imported when the work begins, so that help and refusals come at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

DESCRIPTION = """``wbvla annotate``: sentences for clips that have none, one after the other in a terminal; or all at once from templates or a table.

The clip in hand is a contact strip, ``annotate.png`` in the folder; ``annotate.html`` beside it shows it in a browser and follows along.
Every answer is written at once: leave when you like, the next run goes on with what is missing.
"""


@dataclass(frozen=True)
class AnnotateConfig:
    """Options of ``wbvla annotate``.

    Attributes:
        folder: searched for clips.json.
        templates: no questions: give every clip of a known primitive that primitive's phrasings.
        table: no questions: take sentences from a CSV file with the columns clip (path below FOLDER) and sentence; several rows of a clip are several
            sentences.
        source: what is noted as the source of a table's sentences.
        all: ask about clips that have a sentence, too (templates and tables: replace it).
    """

    folder: Annotated[Path, tyro.conf.Positional]
    templates: bool = False
    table: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    source: Literal["annotator", "dataset"] = "annotator"
    all: bool = False


def main(argv: list[str] | None = None) -> int:
    config = tyro.cli(AnnotateConfig, args=argv, prog="wbvla annotate", description=DESCRIPTION)
    from wbvla_train.data.annotate import annotate

    annotate(config, log=lambda text: print(text, flush=True))
    return 0
