"""Stage 0's pictures and result, which stage 1 goes on from."""

from __future__ import annotations

import numpy as np

from wbvla_train.data import stills
from wbvla_train.data.shards import read_shards
from wbvla_train.vla.config import VlaTrainConfig

GROUNDED_FILE = "grounded.safetensors"  # in the run folder: weights of the VLA without the heads
HELD_OUT = 0.03  # share of the pictures (the last ones) that is kept for measuring


def load_stills(config: VlaTrainConfig, log=print) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Pictures and labels, (training, held out); renders what is missing."""
    g = config.grounding
    if g.scenes:
        stills.make(stills.StillsConfig(output=g.data, robot=config.robot, scenes=g.scenes), log)
    data = read_shards(g.data)
    cut = int(len(data["images"]) * (1 - HELD_OUT)) - 1
    return {key: value[:cut] for key, value in data.items()}, {key: value[cut:] for key, value in data.items()}
