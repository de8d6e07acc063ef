"""``wbvla serve``: one policy on a machine with a GPU, for the 10 Hz nodes of robots that have none."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import tyro

from wbvla_core.checkpoint import find_checkpoint, load_manifest
from wbvla_core.errors import require_at_least
from wbvla_core.robot import load_robot
from wbvla_vla.guard import guard_of
from wbvla_vla.serve import PolicyServer, load, needs_network


@dataclass(frozen=True)
class Serve:
    """Answer the decisions of VLA nodes that were started with `policy: tcp://HOST:5571`.

    Anyone who reaches the port may ask: keep it inside the robot's network."""

    policy: str = "checkpoints/policy/tiny"
    """Policy bundle, zero (stands still) or replay:FILE (a recorded command stream)."""

    bind: str = "tcp://*:5571"
    """Where to listen, e.g. tcp://127.0.0.1:5571 for this machine only."""

    robot: str = "x2"
    """Robot spec: a name of config/robots or the path of a YAML file."""

    device: Literal["cpu", "cuda"] = "cpu"
    """Where the VLA runs."""

    dtype: Literal["float32", "bf16"] = "float32"
    """Number format of the VLA (the decoder stays in float32)."""

    quantize: Literal["none", "int8", "int4"] = "none"
    """Weights of the language model, by torchao (pip install 'wbvla[quantize]'); int4 needs cuda and bf16."""

    compile: bool = True
    """Recorded graph on the CPU, CUDA graph on the GPU; off: from Python, slower."""

    threads: int = 1
    """torch threads."""


def main(argv: Sequence[str]) -> int:
    options = tyro.cli(Serve, args=list(argv))
    require_at_least(options, threads=1)
    robot = load_robot(options.robot)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    start = time.perf_counter()
    if needs_network(options.policy):
        load_manifest(options.policy, kind="policy", robot=robot, verify_files=False)  # refused before torch is imported
        from wbvla_vla.engine import EngineConfig

        engine = EngineConfig(options.device, options.dtype, options.quantize, options.compile)
        served, make = load(str(find_checkpoint(options.policy)), robot, engine, options.threads)
    else:
        served, make = load(options.policy, robot)
    try:
        server = PolicyServer(served, make, robot, options.bind)
        print(
            f"{served.label} {served.hash[:12]} loaded and warm after {time.perf_counter() - start:.1f} s, serving {robot.name} on {server.address}", flush=True
        )
        print(f"sentences: {guard_of(make())[1]}", flush=True)
        server.run()
    except KeyboardInterrupt:
        print("wbvla serve: stopped", flush=True)
    return 0
