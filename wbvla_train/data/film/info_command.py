"""``wbvla video info``: its options. Video is imported when the work begins, so that help and refusals come at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from wbvla_core.errors import require_at_least
from wbvla_train.data.film.gates import Gates

DESCRIPTION = """``wbvla video info``: what a film is and what the gates would say of it, without writing anything."""


@dataclass(frozen=True)
class InfoConfig:
    """Options of ``wbvla video info``.

    Attributes:
        inputs: films, or folders of films.
        rate_hz: samples per second. gates: thresholds.
    """

    inputs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    rate_hz: float = 10.0
    gates: Gates = field(default_factory=Gates)


def main(argv: list[str] | None = None) -> int:
    config = tyro.cli(InfoConfig, args=argv, description=DESCRIPTION)
    require_at_least(config, rate_hz=0.1)
    from wbvla_train.data.film.info import info

    return info(config, log=lambda text: print(text, flush=True))
