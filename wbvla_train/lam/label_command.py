"""``wbvla label``: its options. torch is imported when labelling begins, so that help and refusals come at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from wbvla_core.errors import WbvlaError, require_at_least

SAVE_EVERY_S = 5.0  # what a kill costs at most, beside the clip or episode in hand


@dataclass(frozen=True)
class LabelConfig:
    """Options of ``wbvla label``.

    Attributes:
        data: root under which every folder with a clips.json, and every LeRobot data set, is labelled.
        lams: LAM checkpoints.
        shard: ``i/n``: take every n-th clip or episode, starting with the i-th (0 <= i < n); for several processes or machines that share the folder.
        features: where the frozen extractor of a LAM on DINOv2 features lies; empty: where it lay in training.
        overwrite: replace labels that were made by another LAM.
        camera: image column of a data set; default: the head camera, or the only one.
        fovy_deg, pitch_deg: vertical field of view and pitch of a data set's camera that is not the robot's, deg.
        save_every_s: time between two writes, s.
        threads: of torch.
    """

    data: Path = Path("data/video/train")
    lams: tuple[Path, ...] = (Path("checkpoints/lam/mani"), Path("checkpoints/lam/loco"))
    shard: str = "0/1"
    features: str = ""
    overwrite: bool = False
    camera: str = ""
    fovy_deg: float | None = None
    pitch_deg: float | None = None
    save_every_s: float = SAVE_EVERY_S
    threads: int = 1


def main(argv: list[str] | None = None) -> int:
    """``wbvla label``: codes of both latent action models for clips and data sets; a second run does what is missing."""
    config = tyro.cli(LabelConfig, args=argv, prog="wbvla label", description=main.__doc__)
    require_at_least(config, threads=1, save_every_s=0)
    if config.fovy_deg is not None and not 1.0 <= config.fovy_deg < 180.0:
        raise WbvlaError(f"expected --fovy-deg between 1 and 180, got {config.fovy_deg}")
    import torch

    from wbvla_train.lam.label import label

    torch.set_num_threads(config.threads)
    label(config, log=lambda text: print(text, flush=True))
    return 0
