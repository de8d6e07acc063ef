"""The training environment and trainer, at debug size."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from wbvla_core.robot import load_robot
from wbvla_train.lmo.config import CurriculumConfig, DisturbanceConfig, PhysicsConfig, PPOConfig, TrainConfig
from wbvla_train.lmo.curriculum import Curriculum
from wbvla_train.lmo.env import LmoVecEnv
from wbvla_train.lmo.physics import BatchPhysics
from wbvla_train.lmo.streams import CommandStream, RandomReaching
from wbvla_train.lmo.train import PRESETS, STATE_FILE, Trainer, main

ROBOT = load_robot("x2")


def small(**kwargs) -> TrainConfig:
    return TrainConfig(ppo=PPOConfig(envs=8), physics=PhysicsConfig(threads=1), **kwargs)


def test_debug_preset_trains_exports_and_the_result_loads(tmp_path):
    from wbvla_lmo.policy import LmoPolicy

    assert main(["--preset", "debug", "--out", str(tmp_path / "run"), "--threads", "1", "--export", str(tmp_path / "x2")]) == 0
    policy = LmoPolicy.load(tmp_path / "x2", ROBOT)
    size = policy.manifest.inputs["observation"]["shape"][1]
    assert policy(np.zeros((3, size), np.float32)).shape == (3, len(ROBOT.names("lmo_action")))
    assert (tmp_path / "run" / "log.jsonl").read_text().count("\n") >= 2


def test_a_resumed_run_goes_on_where_the_killed_one_stopped(tmp_path):
    config = dataclasses.replace(PRESETS["debug"], physics=PhysicsConfig(threads=1))
    first = Trainer(config, tmp_path, threads=1)
    first.env.curriculum.difficulty = 0.35
    first.rate = 4e-4
    first.model.learn(512)
    first.save(12.0)
    second = Trainer(config, tmp_path, threads=1)
    second.load(tmp_path / STATE_FILE)
    assert second.steps == first.steps == 512
    assert second.env.curriculum.difficulty == 0.35 and second.rate == 4e-4 and second.wall_before_s == 12.0
    for name, value in first.model.policy.state_dict().items():
        assert torch.equal(value, second.model.policy.state_dict()[name]), name
    old, new = (t.model.policy.optimizer.state_dict()["state"] for t in (first, second))
    assert all(torch.equal(old[k]["exp_avg"], new[k]["exp_avg"]) for k in old)
    assert first.env.rng.random() == second.env.rng.random()
    second.run()
    assert second.steps >= config.total_steps
    assert torch.load(tmp_path / STATE_FILE, weights_only=True)["steps"] == second.steps


def test_a_run_killed_hard_leaves_a_state_that_the_same_command_continues(tmp_path, capsys):
    command = [sys.executable, "-m", "wbvla_train.lmo.train", "--preset", "debug", "--out", str(tmp_path), "--threads", "1", "--steps", "1000000"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    deadline = time.monotonic() + 90
    while not (tmp_path / STATE_FILE).exists():
        assert process.poll() is None and time.monotonic() < deadline, "the run ended or hung before its first checkpoint"
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = torch.load(tmp_path / STATE_FILE, weights_only=True)["steps"]
    assert done >= 1024
    assert main([*command[3:-1], str(done + 512)]) == 0
    assert f"{done} of {done + 512} steps done" in capsys.readouterr().out
    assert torch.load(tmp_path / STATE_FILE, weights_only=True)["steps"] == done + 512


def test_time_outs_hand_over_their_last_observation_and_falls_do_not():
    env = LmoVecEnv(small(), seed=0)
    env.reset()
    env.age_s[:] = 0.0
    env.age_s[0] = env.config.physics.episode_s
    env.physics.qpos[1, 2] = 0.2
    env.step_async(np.zeros((8, len(env.legs)), np.float32))
    observation, _, done, infos = env.step_wait()
    assert done[0] and done[1] and not done[2:].any()
    assert infos[0]["TimeLimit.truncated"] and infos[0]["terminal_observation"].shape == observation[0].shape
    assert "TimeLimit.truncated" not in infos[1]
    assert env.age_s[0] == 0.0 and env.physics.height_m[1] > 0.4


def test_a_robot_whose_simulation_breaks_is_reset_and_does_not_spread():
    env = LmoVecEnv(small(), seed=0)
    env.reset()
    env.physics.qvel[3] = np.nan
    env.step_async(np.zeros((8, len(env.legs)), np.float32))
    observation, reward, done, _ = env.step_wait()
    assert done[3] and np.all(np.isfinite(observation)) and np.all(np.isfinite(reward))


def test_same_seed_same_episode_other_seed_another():
    def run(seed):
        env = LmoVecEnv(small(), seed=seed)
        out = [env.reset()]
        for _ in range(10):
            env.step_async(np.zeros((8, len(env.legs)), np.float32))
            out.append(env.step_wait()[0])
        return np.array(out)

    np.testing.assert_array_equal(run(1), run(1))
    assert not np.array_equal(run(1), run(2))


def test_command_delay_is_counted_in_5_ms_steps():
    """A robot with a delay of d steps gets the new target d steps after one with none: compare torques after one slot."""
    physics = BatchPhysics(ROBOT, PhysicsConfig(threads=1), 3)
    everyone = np.arange(3)
    physics.place(everyone, np.tile(ROBOT.default_q, (3, 1)), np.tile((0, 0, 2.0), (3, 1)), np.tile((1.0, 0, 0, 0), (3, 1)))
    physics.delay_steps[:] = (0, 4, 8)
    elbow = ROBOT.joint_names.index("left_elbow_joint")
    target = np.tile(ROBOT.default_q, (3, 1))
    target[:, elbow] -= 0.5
    moved = []
    for _ in range(3):
        before = physics.q[:, elbow].copy()
        physics.slot(target)
        moved.append(before - physics.q[:, elbow] > 0.02)
    assert np.array(moved)[:, 0].tolist() == [True, True, True]
    assert np.array(moved)[:, 1].tolist() == [False, True, True]
    assert np.array(moved)[:, 2].tolist() == [False, False, True]


def test_four_solver_iterations_keep_height_and_contact_of_a_hundred():
    got = {}
    for iterations in (4, 100):
        physics = BatchPhysics(ROBOT, PhysicsConfig(threads=1), 16, iterations=iterations)
        rng = np.random.default_rng(0)
        physics.place(np.arange(16), np.tile(ROBOT.default_q, (16, 1)), np.tile((0, 0, 0.642), (16, 1)), np.tile((1.0, 0, 0, 0), (16, 1)))
        down = []
        for _ in range(30):
            physics.slot(ROBOT.default_q + rng.normal(0, 0.05, (16, ROBOT.joint_count)))
            down.append((physics.sole_low_m < 0.003).mean())
        got[iterations] = physics.height_m.mean(), np.mean(down)
    assert got[4][0] == pytest.approx(got[100][0], abs=1e-3)
    assert got[4][1] == pytest.approx(got[100][1], abs=0.03)


def test_difficulty_rises_when_falls_are_rare_and_sinks_when_they_are_common():
    c = Curriculum(CurriculumConfig(window_falls_s=100.0, raise_above_s=25.0, lower_below_s=8.0, step=0.05))
    c.note(100.0, 3)  # one fall in 33 s
    assert c.difficulty == pytest.approx(0.05)
    c.note(100.0, 10)  # one in 10 s: neither
    assert c.difficulty == pytest.approx(0.05)
    c.note(50.0, 10)
    assert c.difficulty == pytest.approx(0.05), "half a window decides nothing"
    c.note(50.0, 10)
    assert c.difficulty == 0.0
    again = Curriculum(c.config)
    again.load(c.state())
    assert again.state() == c.state()


def test_commands_cover_every_flag_combination_class_and_the_whole_height_range():
    stream = CommandStream(ROBOT, TrainConfig().command, 4000, np.random.default_rng(0))
    stream.draw(np.arange(4000), ROBOT.stance_height_range_m[0], True)
    seen = {tuple(f) for f in stream.flags.astype(int).tolist()}
    assert len(seen) == 27
    assert stream.height_m.min() < 0.47 and stream.height_m.max() > 0.655
    assert np.all(stream.factor == 1.0)
    single = (np.abs(stream.flags).sum(axis=1) == 1).mean()
    assert 0.5 < single < 0.8


def test_arm_targets_are_smooth_inside_limits_and_still_at_difficulty_zero():
    joints = np.arange(ROBOT.joint_count)
    arms = RandomReaching(ROBOT, joints, DisturbanceConfig(), 20, np.random.default_rng(0))
    arms.reset(np.arange(20), 1.0)
    path = np.array([arms.step(0.02, 1.0) for _ in range(500)])
    assert np.all(path >= ROBOT.lower[arms.joints] - 1e-9) and np.all(path <= ROBOT.upper[arms.joints] + 1e-9)
    assert np.abs(np.diff(path, axis=0)).max() <= RandomReaching.SPEED_LIMIT_RAD_S * 0.02 * 1.01
    assert path.std() > 0.1
    arms.reset(np.arange(20), 0.0)
    assert np.abs(arms.step(0.02, 0.0) - ROBOT.default_q[arms.joints]).max() < 1e-12


def test_standing_reference_earns_more_than_a_wrong_height():
    env = LmoVecEnv(small(), seed=0)
    env.reset()
    env.commands.flags[:] = 0
    env.pipeline.height_m[:] = env.physics.height_m
    good, _ = env.rewards.compute(env.commands.flags, 0.02)
    env.pipeline.height_m[:] = env.physics.height_m - 0.1
    bad, _ = env.rewards.compute(env.commands.flags, 0.02)
    assert np.all(good > bad)
