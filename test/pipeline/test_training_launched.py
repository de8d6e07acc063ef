"""Both VLA stages at debug size, as the launcher starts them: two sharded processes, killed on the way, against one process. Minutes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from robot_sets import write_film, write_set

from wbvla_core.robot import load_robot
from wbvla_train.data.camera import robot_view
from wbvla_train.lam.config import ModelConfig
from wbvla_train.lam.export import export as export_lam
from wbvla_train.lam.model import LatentActionModel
from wbvla_train.parallel import BLOCKS, STATE_FILE, find_shards
from wbvla_vla.checkpoint import load_float, load_policy

ROOT = Path(__file__).resolve().parents[2]
STEPS = 8
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options that both runs share: data, latent action models. Beside the data lies a film, labelled."""
    root = tmp_path_factory.mktemp("inputs")
    lams = []
    for seed, name in enumerate(("mani", "loco")):
        torch.manual_seed(seed)
        model = LatentActionModel(ModelConfig(image_size=32, stem_width=16, width=16, heads=2, decoder_width=8, rigid=name == "loco"))
        export_lam(model, name, 0.5, robot_view(load_robot("x2")), root / "lam" / name, {})
        lams += [f"--lam-{name}", str(root / "lam" / name)]
    write_film(root / "film", (root / "lam" / "mani", root / "lam" / "loco"))
    return ["--lerobot", str(write_set(root / "set")), *lams]


def start(way: str, arguments: list[str]) -> list[subprocess.Popen]:
    """One process without launcher, or two as `accelerate launch` starts them on CPUs: "sharded" or "wrapped"."""
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "wbvla_cli", "train", *arguments]
    if way == "alone":
        return [subprocess.Popen(command, env=env)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    if way == "sharded":
        env |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP"}
        env["FSDP_TRANSFORMER_CLS_TO_WRAP"] = ",".join((*BLOCKS, "SmolVLMEncoderLayer"))
    return [subprocess.Popen(command, env=env | {"RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(2)]


def finish(processes: list[subprocess.Popen]) -> None:
    assert [process.wait(timeout=400) for process in processes] == [0] * len(processes)


def vla_options(root: Path, inputs: list[str], preset: str = "debug") -> list[str]:
    of_codes = [f"--codes.{option[2:]}" if option.startswith("--") else option for option in inputs]
    of_codes += ["--codes.batch", "8", "--codes.grounding-weight", "0", "--codes.loop.steps", str(STEPS), "--codes.loop.save-every", "2"]
    of_codes += ["--clips", str(Path(inputs[1]).with_name("film")), "--clip-share", "0.5"]
    of_codes += ["--codes.stream.lanes", "4", "--codes.stream.chunk-frames", "5", "--codes.loop.checkpointing"]
    return ["vla", preset, "--stage", "codes", *of_codes, "--run-dir", str(root / "vla_run"), "--output", str(root / "checkpoints" / "vla" / "debug")]


def decoder_options(root: Path, inputs: list[str]) -> list[str]:
    options = ["--batch", "8", "--loop.steps", str(STEPS), "--stream.lanes", "4", "--stream.chunk-frames", "5", "--loop.checkpointing", "--arm-states", "0"]
    place = root / "checkpoints"
    options += ["--vla", str(place / "vla" / "debug"), "--run-dir", str(root / "decoder_run"), "--output", str(place / "policy" / "debug")]
    return ["decoder", "debug", *inputs, *options]


def weights(root: Path, kind: str) -> dict[str, torch.Tensor]:
    return load_float(root / "checkpoints" / kind / "debug" / "model.safetensors")


@pytest.fixture(scope="module")
def alone(inputs: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("alone")
    finish(start("alone", vla_options(root, inputs)))
    finish(start("alone", decoder_options(root, inputs)))
    return root


@pytest.mark.parametrize("way", ["sharded", "wrapped"])
def test_two_processes_killed_on_the_way_end_with_the_weights_of_one(way: str, inputs: list[str], alone: Path, tmp_path: Path) -> None:
    processes = start(way, vla_options(tmp_path, inputs))
    run = tmp_path / "vla_run" / "codes"
    while not (find_shards(run) if way == "sharded" else (run / STATE_FILE).exists()):
        assert all(process.poll() is None for process in processes)
        time.sleep(0.05)
    for process in processes:
        process.kill()
        process.wait()
    finish(start(way, vla_options(tmp_path, inputs)))
    # float16 files: half a unit of the last of 11 bits, beside the order of float sums, which AdamW's division by small moments enlarges
    for name, value in weights(alone, "vla").items():
        torch.testing.assert_close(weights(tmp_path, "vla")[name], value, rtol=2e-2, atol=2e-3, msg=lambda text, name=name: f"{name}: {text}")
    finish(start(way, decoder_options(tmp_path, inputs)))
    for name, value in weights(alone, "policy").items():
        torch.testing.assert_close(weights(tmp_path, "policy")[name], value, rtol=2e-2, atol=2e-3, msg=lambda text, name=name: f"{name}: {text}")
    assert load_policy(tmp_path / "checkpoints" / "policy" / "debug", load_robot("x2"))


def test_another_backbone_in_two_processes_ends_with_the_weights_of_one(inputs: list[str], tmp_path: Path) -> None:
    for way in ("alone", "sharded"):
        finish(start(way, vla_options(tmp_path / way, inputs, "image-text-debug")))
    one, two = (weights(tmp_path / way, "vla") for way in ("alone", "sharded"))
    assert one.keys() == two.keys() and any("vision_model" in name for name in one)
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=2e-2, atol=2e-3, msg=lambda text, name=name: f"{name}: {text}")
