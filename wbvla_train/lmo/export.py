"""Training state -> deployable checkpoint: ONNX float32, manifest, metrics.

python -m wbvla_train.lmo.export runs/train/lmo checkpoints/lmo/x2
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
import tyro
from onnx import TensorProto, helper, numpy_helper

from wbvla_core import checkpoint
from wbvla_core.console import program
from wbvla_core.errors import CheckpointError, ErrorCode
from wbvla_core.machine import describe_machine
from wbvla_core.robot import load_robot
from wbvla_lmo.pipeline import LegPipeline, PipelineConfig
from wbvla_lmo.policy import MODEL_FILE, OBSERVATION_CLIP, contract
from wbvla_train.lmo.config import STATE_FILE, STATE_HOLDS
from wbvla_train.lmo.evaluate import actor_network, development_report
from wbvla_train.lmo.network import weights_of
from wbvla_train.state_file import read_state


def actor_onnx(actor: torch.nn.Sequential) -> onnx.ModelProto:
    """The actor as a graph of Clip, Gemm and Elu. Written out by hand: six nodes need no tracing exporter."""
    nodes, constants = [], []

    def constant(name: str, value: np.ndarray) -> str:
        constants.append(numpy_helper.from_array(np.asarray(value, dtype=np.float32), name))
        return name

    nodes.append(helper.make_node("Clip", ["observation", constant("low", -OBSERVATION_CLIP), constant("high", OBSERVATION_CLIP)], ["clipped"]))
    last = "clipped"
    linear = [m for m in actor if isinstance(m, torch.nn.Linear)]
    for i, layer in enumerate(linear):
        weight = constant(f"weight_{i}", layer.weight.detach().numpy())
        bias = constant(f"bias_{i}", layer.bias.detach().numpy())
        out = "action" if i == len(linear) - 1 else f"linear_{i}"
        nodes.append(helper.make_node("Gemm", [last, weight, bias], [out], transB=1))
        last = out
        if i < len(linear) - 1:
            nodes.append(helper.make_node("Elu", [last], [f"elu_{i}"], alpha=1.0))
            last = f"elu_{i}"
    shape_in, shape_out = ("N", linear[0].in_features), ("N", linear[-1].out_features)
    graph = helper.make_graph(
        nodes,
        "lmo",
        [helper.make_tensor_value_info("observation", TensorProto.FLOAT, shape_in)],
        [helper.make_tensor_value_info("action", TensorProto.FLOAT, shape_out)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="wbvla")
    model.ir_version = 8
    onnx.checker.check_model(model)
    return model


def export_checkpoint(
    run: Path, target: Path, *, state_file: str = STATE_FILE, notes: str = "", development: dict | None = None, evaluation: dict | None = None
) -> checkpoint.Manifest:
    """Write ``target/{policy.onnx, manifest.json, metrics.json}`` from a training run.

    Args:
        notes: how the weights came about, if not by one run of the command.
        development, evaluation: reports to keep in metrics.json.
    """
    state = read_state(run / state_file, holds=STATE_HOLDS)
    config = json.loads(state["config"])
    pipeline_config = PipelineConfig.from_json(config["pipeline"])
    robot = load_robot(config["robot"])
    changes = json.loads(state.get("changes", "[]"))
    pipeline = LegPipeline(robot, pipeline_config, 1)
    weights = weights_of(state)
    if bad := [name for name, value in weights.items() if not torch.isfinite(value).all()]:
        raise CheckpointError(f"{run / state_file}: {bad[0]} is not finite, the training diverged; take an older state", ErrorCode.CHECKPOINT_CORRUPT)
    metrics = {
        "command": f"wbvla train lmo --preset x2 --seed {config['seed']}"
        + (f" --ablation {config['ablation']}" if config.get("ablation", "none") != "none" else ""),
        "how": notes or ("one run of this command" if not changes else "this command, with changes on the way"),
        "changes": changes,
        "seed": config["seed"],
        "steps": int(state["steps"]),
        "wall_hours": round(float(state["wall_s"]) / 3600.0, 3),
        "machine": describe_machine(f"torch {torch.__version__}"),
        "threads": config["physics"]["threads"],
        "layers": config["ppo"]["layers"],
        "curriculum": state["curriculum"],
        "development": development or {},  # wbvla_train.lmo.evaluate
        "evaluation": evaluation or {},  # wbvla eval lmo: held-out seeds, whole controller
    }
    with checkpoint.writing(target) as folder:
        onnx.save(actor_onnx(actor_network(weights, config["ppo"]["layers"])), str(folder / MODEL_FILE))
        inputs, outputs = contract(pipeline)
        manifest = checkpoint.save_manifest(
            folder,
            "lmo",
            target.name,
            robot,
            inputs=inputs,
            outputs=outputs,
            rate_hz=pipeline_config.rate_hz,
            files=[MODEL_FILE],
            extra={
                "pipeline": pipeline_config.to_json(),
                "target_hold": "zero-order",
                "posture_joints": list(pipeline.observation.posture_names),
            },
        )
        checkpoint.write_json(folder / checkpoint.METRICS_FILE, metrics | {"manifest": manifest.hash})
    return dataclasses.replace(manifest, directory=target)


def benchmark_rows(report: dict) -> dict:
    """What metrics.json keeps of the benchmark's results.json: per suite and row the counts, and mean and spread of every number; episodes stay behind."""
    rows = {
        suite: {r["row"]: {k: v for k, v in r.items() if k not in ("row", "cells", "part")} for r in part["rows"]} for suite, part in report["suites"].items()
    }
    return {"seed_base": report["seed_base"], "episodes_per_cell": report["options"]["episodes"], "suites": rows}


@dataclass(frozen=True)
class Arguments:
    """Export a training run."""

    run: tyro.conf.Positional[Path]
    target: tyro.conf.Positional[Path] = Path("checkpoints/lmo/x2")
    state_file: str = STATE_FILE
    notes: str = ""  # how the weights came about, if not by one run of the training command
    evaluation: Path | None = None  # results.json of `wbvla eval lmo`: its rows go into metrics.json
    development: bool = True  # run the development evaluation (a minute or two)


def main(argv: list[str] | None = None) -> int:
    args = tyro.cli(Arguments, args=argv, prog="python -m wbvla_train.lmo.export")
    evaluation = None if args.evaluation is None else benchmark_rows(json.loads(args.evaluation.read_text()))
    development = development_report(args.run / args.state_file) if args.development else None
    manifest = export_checkpoint(args.run, args.target, state_file=args.state_file, notes=args.notes, development=development, evaluation=evaluation)
    print(f"wrote {args.target}: {manifest.hash}")
    return 0


if __name__ == "__main__":
    program(main)
