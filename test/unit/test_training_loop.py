"""The training loop: one process and several, whole and in pieces, broken off and continued, all take the same steps."""

from __future__ import annotations

import json
import math
import os
import shutil
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

from wbvla_core.errors import WbvlaError
from wbvla_train.loop import TrainLoop
from wbvla_train.parallel import STATE_FILE, Part, Processes, find_shards

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
    root = tmp_path_factory.mktemp("two")
    processes = launch(2, str(root))
    ended = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ended[0][1] + ended[1][1]
    return json.loads(ended[0][0].splitlines()[-1]) | {"root": root}


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
    with pytest.raises(WbvlaError, match=r"other settings \(state -> asked for\): loop.lr: 0.01 -> 1.0"):
        worker.make(tmp_path, replace(worker.CONFIG, lr=1.0)).resume()


def test_more_steps_go_on_with_the_rates_of_the_longer_run_and_say_so(tmp_path: Path) -> None:
    said: list[str] = []
    worker.losses(loop := worker.make(tmp_path))
    loop.save()
    longer = worker.make(tmp_path, replace(worker.CONFIG, steps=12), log=said.append)
    assert longer.resume() and longer.step == 6
    # a cosine from 0.01 after 2 steps of warm-up: at step 6 of 12, 4 of its 10 steps are over; at step 5 of 6, 3 of 4
    now, was = (0.01 * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * part))) for part in (4 / 10, 3 / 4))
    assert f"steps 6 -> 12: the learning rate goes on as it would have been in a run of 12 steps (now {now:.2e}, it was {was:.2e})" in said[-1]
    worker.losses(longer, 8)
    longer.save()
    with pytest.raises(WbvlaError, match="is at step 8 already, 6 were asked for"):
        worker.make(tmp_path).resume()


def test_a_state_of_other_data_is_refused_with_both(tmp_path: Path) -> None:
    loop = worker.make(tmp_path, data={"demos": {"files": 2}})
    loop.train_step()
    loop.save()
    assert worker.make(tmp_path, data={"demos": {"files": 2}}).resume()
    with pytest.raises(WbvlaError, match="trained on other data .*demos.files: 2 -> 1"):
        worker.make(tmp_path, data={"demos": {"files": 1}}).resume()


def test_a_state_of_before_the_states_of_one_and_many_processes_were_the_same_goes_on_to_the_bit(tmp_path: Path) -> None:
    """It had the optimizer's own state dict, which counts parameters, and no word of the data."""
    unbroken = worker.losses(worker.make(tmp_path / "other"))
    loop = worker.make(tmp_path)
    begun = worker.losses(loop, 3)
    weights = {name: value for name, value in loop.module.state_dict().items() if name in dict(loop.module.named_parameters()) and "frozen" not in name}
    older = {"step": 3, "seconds": 1.0, "weights": weights, "optimizer": loop.optimizer.state_dict(), "settings": loop._settings}
    torch.save(older, tmp_path / STATE_FILE)
    said: list[str] = []
    again = worker.make(tmp_path, log=said.append)
    assert again.resume() and begun + worker.losses(again) == unbroken
    assert "does not say which data it was trained on" in said[0]


def test_a_state_goes_from_one_process_to_shards_on_two_and_back(together: dict, alone: dict) -> None:
    assert together["grown"] == pytest.approx(alone["losses"][3:], rel=1e-5)
    folder = together["root"] / "grown"
    assert [path.name for path in folder.iterdir()] == ["state_0000006"]  # one state at a time, of either form
    back = worker.make(folder, replace(worker.CONFIG, steps=7))
    assert back.resume() and back.step == 6
    for name, value in back.weights().items():
        torch.testing.assert_close(value, torch.tensor(alone["weights"][name]), rtol=1e-4, atol=1e-6)
    back.train_step()
    back.save()
    assert [path.name for path in folder.iterdir()] == [STATE_FILE]


def test_a_damaged_shard_is_named(together: dict, tmp_path: Path) -> None:
    shutil.copytree(together["root"] / "broken", tmp_path / "run")
    shard = next((tmp_path / "run").rglob("__1_*.distcp"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(WbvlaError, match=rf"state_0000003 is no training state or a damaged one \({shard.name} is missing or does not match its checksum"):
        worker.make(tmp_path / "run").resume()


def test_a_loss_that_is_not_a_number_names_the_largest_numbers_of_the_batch(tmp_path: Path) -> None:
    class Absurd(worker.Regression):
        def draw(self, rng, step, part):
            batch = super().draw(rng, step, part)
            batch.x[2, 1] = 1e30
            return batch

    loop = worker.make(tmp_path)
    loop._step = Absurd()
    with pytest.raises(WbvlaError, match=r"the loss is (inf|nan) at step 0; the largest numbers of the batch are x 1e\+30, y 0.\d+:"):
        loop.train_step()


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
