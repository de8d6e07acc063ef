"""``wbvla video ingest``: its options. Video is imported when the work begins, so that help and refusals come at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from wbvla_core.errors import WbvlaError, require_at_least, require_shares
from wbvla_train.data.film.gates import Gates
from wbvla_train.data.film.people import Limits

DESCRIPTION = """``wbvla video ingest``: folders of films -> gated, sorted clips in the layout that ``wbvla train lam`` reads.

One process per film at a time; a film that was finished is not touched again, so that a run that was killed goes on where it was and
ends with the same result. Machines that share the output folder take a part each with ``--shard i/n``.
"""


@dataclass(frozen=True)
class IngestConfig:
    """Options of ``wbvla video ingest``.

    Attributes:
        inputs: folders (searched through) or single films. A folder's ``camera.json`` {"fovy_deg": 70, "pitch_deg": 20} states the lens.
        output: data root: ``wbvla train lam loco --data OUTPUT --no-robot-video``, or beside rendered video ``--extra-data OUTPUT/train/loco``.
        workers: processes.
        shard: ``i/n``: take every n-th film, starting with the i-th (0 <= i < n); the last shard to end writes the lists. For job
            arrays: ``--shard $SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT``.
        rate_hz: frames kept per second of the film's own clock (the policy's 10 Hz); a slower film is kept whole.
        image_size: side of the square clips, px: 96 for the tiny models, 224 for the full size.
        dev_share: share of films that become the dev split, chosen by name.
        fovy_deg: vertical field of view, deg, where no camera.json says so (70 is assumed without either).
        pitch_deg: optical axis below the horizontal, deg, where no camera.json says so (20 is assumed without either).
        overrides: decisions from the contact sheet; default OUTPUT/overrides.json.
        gates: thresholds.
        hands: look for hands and faces, too: clips that show people from outside, and manipulation without a hand, are left out. Needs the
            detector that ``wbvla video hands`` sets up; drawn or robot hands are none to it.
        hands_environment: where that is; default: wbvla/hands in the user's cache.
        people: thresholds of that gate.
    """

    inputs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    output: Path = Path("data/film")
    workers: int = 2
    shard: str = "0/1"
    rate_hz: float = 10.0
    image_size: int = 96
    dev_share: float = 0.1
    fovy_deg: float | None = None
    pitch_deg: float | None = None
    overrides: Path | None = None
    gates: Gates = field(default_factory=Gates)
    hands: bool = False
    hands_environment: Path | None = None
    people: Limits = field(default_factory=Limits)


def main(argv: list[str] | None = None) -> int:
    config = tyro.cli(IngestConfig, args=argv, description=DESCRIPTION)
    require_at_least(config, workers=1, rate_hz=0.1, image_size=8)
    require_shares(config, "", "dev_share")
    if config.fovy_deg is not None and not 1.0 <= config.fovy_deg < 180.0:
        raise WbvlaError(f"expected --fovy-deg between 1 and 180, got {config.fovy_deg}")
    from wbvla_train.data.film.ingest import ingest

    return ingest(config, log=lambda text: print(text, flush=True))
