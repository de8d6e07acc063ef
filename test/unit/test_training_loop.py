"""The training loop: one process and several, whole and in pieces, broken off and continued, all take the same steps."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import training_worker as worker

from wbvla_train.loop import TrainLoop
from wbvla_train.parallel import Part, Processes, find_shards

torch.set_num_threads(1)


def launch(count: int, *arguments: str) -> list[subprocess.Popen]:
    """Start processes as ``accelerate launch`` does with FSDP, on CPUs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = os.environ | {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    env |= {"ACCELERATE_USE_CPU": "true", "ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
    env |= {"FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP", "FSDP_TRANSFORMER_CLS_TO_WRAP": "SiglipEncoderLayer"}
    env["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).resolve().parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, worker.__file__, *arguments]
    ranks = [env | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
    return [subprocess.Popen(command, env=rank, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for rank in ranks]


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What two processes made of it."""
    processes = launch(2, str(tmp_path_factory.mktemp("two")))
    ended = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ended[0][1] + ended[1][1]
    return json.loads(ended[0][0].splitlines()[-1])


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict:
    return worker.outcome(worker.make(tmp_path_factory.mktemp("one")))


@pytest.mark.parametrize("way", ["sharded", "wrapped", "wrapped in pieces", "sharded in pieces"])
def test_two_processes_take_the_steps_of_one(together: dict, alone: dict, way: str) -> None:
    assert together[way]["losses"] == pytest.approx(alone["losses"], rel=1e-5)
    assert together[way]["weights"].keys() == alone["weights"].keys()
    for name, value in alone["weights"].items():
        torch.testing.assert_close(torch.tensor(together[way]["weights"][name]), torch.tensor(value), rtol=1e-4, atol=1e-6)


def test_sharded_in_bfloat16_the_losses_are_those_of_float32_to_two_digits(together: dict, alone: dict) -> None:
    found = together["sharded in bfloat16"]
    assert found["losses"] == pytest.approx(alone["losses"], rel=0.02) and found["losses"] != pytest.approx(alone["losses"], rel=1e-5)


def test_a_sharded_training_that_is_broken_off_goes_on_to_the_bit(together: dict) -> None:
    assert together["broken off"] == together["sharded"]


def test_pieces_and_recomputed_activations_change_nothing_but_float_sums(alone: dict, tmp_path: Path) -> None:
    pieces = worker.outcome(worker.make(tmp_path / "a", replace(worker.CONFIG, accumulate=4)))
    again = worker.outcome(worker.make(tmp_path / "b", replace(worker.CONFIG, checkpointing=True)))
    assert pieces["losses"] == pytest.approx(alone["losses"], rel=1e-5)
    assert again == alone


def test_parts_share_a_batch_out_and_refuse_what_does_not_divide() -> None:
    assert [Part(i, 4).of(8) for i in range(4)] == [slice(0, 2), slice(2, 4), slice(4, 6), slice(6, 8)]
    with pytest.raises(ValueError, match="batch of 9 cannot be shared out equally to 4 pieces"):
        Part(0, 4).of(9)
    with pytest.raises(ValueError, match="one process"):
        Part(0, 2).require_whole("stage 0")


def test_frozen_weights_can_be_held_in_half_the_memory_and_trained_ones_stay(tmp_path: Path) -> None:
    loop = worker.make(tmp_path, replace(worker.CONFIG, frozen_bf16=True, bf16=True))
    kinds = {name: parameter.dtype for name, parameter in loop.module.named_parameters()}
    assert {kind for name, kind in kinds.items() if ".frozen." in name} == {torch.bfloat16}
    assert {kind for name, kind in kinds.items() if ".frozen." not in name} == {torch.float32}
    assert loop.train_step() > 0
    held_out = torch.randn(2, worker.WIDTH)
    assert loop.evaluated(lambda: {"mean": loop.module(held_out).mean().item()})["mean"] != 0


def test_sharding_by_a_class_that_the_model_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has none of them"):
        worker.make(tmp_path, processes=Processes(True, 0, 2, blocks=("GPTBlock",)))


def test_a_state_of_other_settings_is_refused_and_of_another_way_to_run_taken(tmp_path: Path) -> None:
    loop = worker.make(tmp_path)
    loop.train_step()
    loop.save()
    assert worker.make(tmp_path, replace(worker.CONFIG, accumulate=2, checkpointing=True)).resume()
    with pytest.raises(ValueError, match="other settings"):
        worker.make(tmp_path, replace(worker.CONFIG, lr=1.0)).resume()


def test_a_launched_state_goes_on_in_one_process(tmp_path: Path) -> None:
    """Saved as two processes save, by a single launched one; half-written states are passed over."""
    one = Processes(launched=True)
    loop: TrainLoop = worker.make(tmp_path, processes=one)
    unbroken = worker.losses(worker.make(tmp_path / "other", processes=one))
    begun = worker.losses(loop, 2)
    loop.save()
    (tmp_path / ".state_0000004").mkdir()
    (tmp_path / "state_0000005").mkdir()
    again = worker.make(tmp_path, processes=one)
    assert again.resume() and again.step == 2
    assert begun + worker.losses(again) == unbroken


@pytest.mark.slow
def test_kill_9_at_random_times_costs_nothing_but_time(tmp_path: Path) -> None:
    """Two sharded processes, killed again and again; what was saved last is a state of the unbroken run, to the bit."""
    for wait_s in (0.3, 0.6, 0.45):
        processes = launch(2, str(tmp_path), "--until-killed")
        before = find_shards(tmp_path / "killed")
        while (find_shards(tmp_path / "killed") or (None,))[0] == (before or (None,))[0]:
            assert all(process.poll() is None for process in processes), processes[0].communicate()[1]
            time.sleep(0.05)
        time.sleep(wait_s)
        for process in processes:
            process.send_signal(signal.SIGKILL)
        for process in processes:
            process.communicate()
    folder, about = find_shards(tmp_path / "killed")
    unbroken = worker.make(tmp_path / "unbroken", replace(worker.CONFIG, steps=10**9))
    worker.losses(unbroken, about["step"])
    broken = worker.make(tmp_path / "killed", replace(worker.CONFIG, steps=10**9), Processes(launched=True))
    assert broken.resume()
    for name, value in unbroken.weights().items():
        torch.testing.assert_close(broken.weights()[name], value, rtol=1e-2, atol=1e-4)
