"""``wbvla train lam``: its options. torch is imported when training begins, so that help and refusals come at once."""

from __future__ import annotations

import sys

import tyro

from wbvla_core.errors import require_at_least, require_positive, require_seed, require_shares
from wbvla_train.lam.config import DEBUG_VIDEO, NAMES, SIZES, LamTrainConfig, Name, preset

PLACES = ("--output", "--run-dir")
USAGE = """usage: wbvla train lam {loco,mani,shared} [debug|tiny|full] [options]

Trains one of the two latent action models, or one for both domains, on `wbvla data video` and exports it to checkpoints/lam/<name>.
`tiny` (the default) is what ships: about half an hour of one thread. `wbvla train lam loco --help` lists the options."""


def recorded_command(arguments: list[str]) -> str:
    """What metrics.json says was run: everything but where it was written."""
    kept = [a for i, a in enumerate(arguments) if a not in PLACES and (i == 0 or arguments[i - 1] not in PLACES)]
    return " ".join(["wbvla train lam", *kept])


def main(argv: list[str] | None = None) -> int:
    """Parse ``{loco,mani,shared} [preset] [options]`` and train."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] not in NAMES:
        print(USAGE, file=sys.stdout if arguments[:1] in (["-h"], ["--help"]) else sys.stderr)
        return 0 if arguments[:1] in (["-h"], ["--help"]) else 2
    name: Name = arguments[0]
    size, rest = (arguments[1], arguments[2:]) if arguments[1:2] and arguments[1] in SIZES else ("tiny", arguments[1:])
    config = tyro.cli(LamTrainConfig, default=preset(size, name), args=rest, prog=f"wbvla train lam {name} {size}", description=USAGE)
    if config.name != name:
        print(f"wbvla train lam {name}: --name says {config.name}; name the model once, as the first word", file=sys.stderr)
        return 2
    require_at_least(config, steps=1, batch=1, warmup_steps=0, continuous_steps=0, weight_decay=0, loss_scales=1, threads=1)
    require_at_least(config, health_every=1, stop_after=0, stop_patience=1, save_every=1, zoom=0, gain=0, offset=0, mask_weight=0)
    require_positive(config, "", "gap_s", "lr", "clip_norm")
    require_shares(config, "", "extra_share", "final_lr")
    require_seed(config)
    if config.data == DEBUG_VIDEO:
        from wbvla_train.data.debug import render_video

        render_video(config.data)
    from wbvla_train.lam.train import train

    train(config, log=lambda text: print(text, flush=True), command=recorded_command(arguments))
    return 0
