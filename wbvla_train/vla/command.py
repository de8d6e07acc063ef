"""``wbvla train vla``: its options. torch is imported when training begins, so that help and refusals come at once."""

from __future__ import annotations

import tyro

from wbvla_train.vla.config import DEBUG_DEMOS, PRESETS


def main(argv: list[str] | None = None) -> int:
    config = tyro.extras.overridable_config_cli(PRESETS, args=argv, description="Train the vision-language-action model.")
    config.require()
    if config.codes.demos == DEBUG_DEMOS and not config.codes.lerobot and config.stage != "grounding":
        from wbvla_train.data.debug import record_demos

        record_demos(config.codes.demos)
    from wbvla_train.vla.train import train

    train(config)
    return 0
