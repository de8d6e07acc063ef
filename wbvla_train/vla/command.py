"""``wbvla train vla``: its options. torch is imported when training begins, so that help and refusals come at once."""

from __future__ import annotations

import tyro

from wbvla_train.vla.config import PRESETS


def main(argv: list[str] | None = None) -> int:
    config = tyro.extras.overridable_config_cli(PRESETS, args=argv, description="Train the vision-language-action model.")
    config.require()
    from wbvla_train.vla.train import train

    train(config)
    return 0
