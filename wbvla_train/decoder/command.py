"""``wbvla train decoder``: its options. torch is imported when training begins, so that help and refusals come at once."""

from __future__ import annotations

import tyro

from wbvla_train.decoder.config import PRESETS


def main(argv: list[str] | None = None) -> int:
    config = tyro.extras.overridable_config_cli(PRESETS, args=argv, description="Fine-tune the VLA by LoRA together with the decoder.")
    config.require()
    from wbvla_train.decoder.train import train

    train(config)
    return 0
