"""The training environment and trainer, at debug size."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mujoco
import numpy as np
import pytest
import torch

from wbvla_core.errors import WbvlaError
from wbvla_core.robot import load_robot
from wbvla_train.lmo.ablations import ABLATIONS, ablated
from wbvla_train.lmo.command import PRESETS, main
from wbvla_train.lmo.config import STAGE_I, STAGE_II, CurriculumConfig, DisturbanceConfig, PhysicsConfig, PPOConfig, TrainConfig
from wbvla_train.lmo.curriculum import Curriculum
from wbvla_train.lmo.env import LmoVecEnv
from wbvla_train.lmo.network import weights_of
from wbvla_train.lmo.physics import BatchPhysics
from wbvla_train.lmo.streams import CommandStream, Pushes, RandomReaching
from wbvla_train.lmo.train import STATE_FILE, Trainer, differences

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


def test_a_training_state_can_be_filmed_without_a_display(tmp_path):
    Trainer(dataclasses.replace(PRESETS["debug"], physics=PhysicsConfig(threads=1)), tmp_path, threads=1).save(0.0)
    environment = {k: v for k, v in os.environ.items() if k not in ("MUJOCO_GL", "DISPLAY")}
    command = [sys.executable, "-m", "wbvla_train.lmo.film", str(tmp_path / STATE_FILE), str(tmp_path / "gait.mp4"), "--fps", "2", "--size", "64", "48"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "gait.mp4").stat().st_size > 1000


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


def test_what_is_exported_is_the_running_mean_of_the_weights_over_a_share_of_the_steps(tmp_path):
    ppo = dataclasses.replace(PRESETS["debug"].ppo, average_share=0.5)  # of 2048 steps: two updates of 512
    trainer = Trainer(dataclasses.replace(PRESETS["debug"], physics=PhysicsConfig(threads=1), ppo=ppo), tmp_path, threads=1)
    bias, means = trainer.model.policy.action_net.bias, []
    for update, value in enumerate((8.0, 4.0, 1.0), start=1):
        trainer.steps_before = 512 * update
        with torch.no_grad():
            bias.fill_(value)
        trainer.average()
        means.append(float(trainer.averaged["action_net.bias"][0]))
    assert means == [8.0, 6.0, 3.5], "the first weights, the mean of two, then half of the way to each new ones"
    trainer.save(0.0)
    state = torch.load(tmp_path / STATE_FILE, weights_only=True)
    assert weights_of(state)["action_net.bias"][0] == 3.5 and state["policy"]["action_net.bias"][0] == 1.0
    again = Trainer(trainer.config, tmp_path, threads=1)
    again.load(tmp_path / STATE_FILE)
    assert again.averaged["action_net.bias"][0] == 3.5 and again.model.policy.action_net.bias[0] == 1.0, "training goes on from the weights"
    before_there_was_one = {k: v for k, v in state.items() if k != "averaged"}
    assert weights_of(before_there_was_one)["action_net.bias"][0] == 1.0


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
    assert main([*command[3:-1], str(done + 512), "--change-settings"]) == 0
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


@pytest.mark.parametrize("simulation", [{}, {"substeps": 10}, {"substeps": 10, "integrator": "euler"}])
def test_command_delay_is_counted_in_5_ms_steps_whatever_the_time_step(simulation):
    """A robot with a delay of d steps gets the new target d steps after one with none: compare torques after one slot."""
    physics = BatchPhysics(ROBOT, PhysicsConfig(threads=1, **simulation), 3)
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
    c.note(100.0, 1)  # one fall in 100 s: two steps
    assert c.difficulty == pytest.approx(0.1)
    again = Curriculum(c.config)
    again.load(c.state())
    assert again.state() == c.state()


def test_commands_cover_every_flag_combination_class_and_the_whole_height_range():
    stream = CommandStream(ROBOT, STAGE_II.command, 4000, np.random.default_rng(0))
    stream.draw(np.arange(4000), ROBOT.stance_height_range_m[0])
    seen = {tuple(f) for f in stream.flags.astype(int).tolist()}
    assert len(seen) == 27
    assert stream.height_m.min() < 0.47 and stream.height_m.max() > 0.655
    assert np.all(stream.factor == 1.0)
    single = (np.abs(stream.flags).sum(axis=1) == 1).mean()
    assert 0.5 < single < 0.8


def test_stage_one_draws_the_goal_speed_from_zero_to_its_maximum_and_the_velocity_baseline_one_per_direction():
    stream = CommandStream(ROBOT, STAGE_I.command, 4000, np.random.default_rng(0))
    stream.draw(np.arange(4000), 0.64)
    assert stream.factor.min() < 0.01 and stream.factor.max() == pytest.approx(1.3, abs=0.01)
    assert np.all(stream.factor[:, 0] == stream.factor[:, 2])
    stream.config = ablated(TrainConfig(), "velocity").stages[1].command
    stream.draw(np.arange(4000), 0.64)
    assert np.corrcoef(stream.factor[:, 0], stream.factor[:, 2])[0, 1] == pytest.approx(0.0, abs=0.1)


def test_in_stage_two_half_of_the_moving_commands_are_followed_by_rest():
    stream = CommandStream(ROBOT, STAGE_II.command, 4000, np.random.default_rng(0))
    stream.flags[:] = (1.0, 0.0, 0.0)
    stream.draw(np.arange(4000), 0.64)
    assert (~stream.flags.any(axis=1)).mean() == pytest.approx(0.5, abs=0.03)  # and 1 in 27 of the combined fifth


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


# ------------------------------------------------------------------------------------------------- stages, lags, injections, ablations


def hanging(count: int, **physics) -> BatchPhysics:
    """Robots in the air, at rest in the default pose."""
    s = BatchPhysics(ROBOT, PhysicsConfig(threads=1, **physics), count)
    s.place(np.arange(count), np.tile(ROBOT.default_q, (count, 1)), np.tile((0, 0, 2.0), (count, 1)), np.tile((1.0, 0, 0, 0), (count, 1)))
    return s


def test_stages_follow_each_other_at_their_share_of_the_steps_and_a_resumed_run_is_in_the_right_one(tmp_path):
    config = dataclasses.replace(PRESETS["debug"], physics=PhysicsConfig(threads=1))
    assert [config.stage_at(n) for n in (0, 307, 308, 1023, 1024, 2048, 9999)] == [0, 0, 1, 1, 2, 2, 2]  # 0.15 x 2048 = 307.2, 0.5 x 2048 = 1024
    first = Trainer(config, tmp_path, threads=1)
    first.run()
    assert first.env.stage.name == "III" and first.env.commands.config.cruise_factor == (1.0, 1.0)
    second = Trainer(config, tmp_path, threads=1)
    assert second.env.stage.name == "I"
    second.load(tmp_path / STATE_FILE)
    assert second.env.stage.name == "III"


def test_a_run_with_other_settings_is_not_continued_unless_told_to_and_says_so_ever_after(tmp_path, capsys):
    config = dataclasses.replace(PRESETS["debug"], total_steps=512, physics=PhysicsConfig(threads=1))
    Trainer(config, tmp_path, threads=1).run()
    other = dataclasses.replace(config, seed=9, total_steps=1024, checkpoint_every=512)
    with pytest.raises(WbvlaError, match=r"\(state -> asked for\); .* --change-settings to go on with these:\n  seed: 1 -> 9$"):
        Trainer(other, tmp_path, threads=1).load(tmp_path / STATE_FILE)
    with pytest.raises(WbvlaError, match="total_steps: 512 -> 256"):
        Trainer(dataclasses.replace(config, total_steps=256), tmp_path, threads=1).load(tmp_path / STATE_FILE)
    longer = dataclasses.replace(other, seed=1)
    second = Trainer(longer, tmp_path, threads=1)
    second.load(tmp_path / STATE_FILE)  # more steps of the same need no permission; at half of the new number stage III begins
    assert "steps 512 -> 1024: stages begin at their share of the new number; this is stage III" in capsys.readouterr().out
    second.run()
    third = Trainer(other, tmp_path, threads=1)
    third.load(tmp_path / STATE_FILE, change_settings=True)
    assert third.changes == [{"steps": 512, "settings": ["total_steps: 512 -> 1024"]}, {"steps": 1024, "settings": ["seed: 1 -> 9"]}]


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("--steps", "0"), "--steps of at least 1, got 0"),
        (("--seed", "-1"), "--seed of at least 0, got -1"),
        (("--film-every", "0"), "--film-every of at least 1, got 0"),
        (("--difficulty", "7"), r"--difficulty in \[0, 1\], got 7.0"),
        (("--ablation", "nojdir"), "an ablation among none, no-jdir, .* got 'nojdir'"),
        (("--ablation", "no-jdir+"), "joined by [+], got 'no-jdir[+]'"),
        (("--robot", "nosuch"), "no robot 'nosuch'"),
        (("--start-from", "nowhere/state.pt"), "no training state at nowhere/state.pt"),
    ],
)
def test_an_option_that_cannot_be_is_refused_before_anything_is_written(argv, says, tmp_path):
    with pytest.raises(WbvlaError, match=says):
        main(["--preset", "debug", "--out", str(tmp_path / "run"), *argv])
    assert not (tmp_path / "run").exists()


def test_a_changed_setting_is_named_by_its_place():
    was, now = {"a": 1, "s": [{"x": [1, 2]}]}, {"a": 1, "s": [{"x": [1, 3]}, {"y": 0}], "b": None}
    assert differences(was, now) == ["s[0].x: [1, 2] -> [1, 3]", 's[1]: null -> {"y": 0}']


def test_lags_deliver_joint_states_and_imu_as_old_as_they_say():
    """Three robots, lags of 0, 3 and 5 physics steps: each sees what the first one saw 0, 15 and 25 ms ago."""
    s = hanging(3)
    s.joint_lag_steps[:] = s.imu_lag_steps[:] = (0, 3, 5)
    target = np.tile(ROBOT.default_q, (3, 1))
    target[:, ROBOT.indices("arms")[:1]] -= 1.0
    trace = []
    remember = s._remember

    def watched():
        remember()
        trace.append((s.qpos[0, 7:].copy(), s.qvel[0, 3:6].copy()))

    s._remember = watched
    for _ in range(5):
        s.slot(target)
    gyro, gravity, q, qd = s.sense()
    for robot, lag in enumerate((0, 3, 5)):
        np.testing.assert_allclose(q[robot, s.joints], trace[-1 - lag][0], atol=1e-9)
        np.testing.assert_allclose(gyro[robot], trace[-1 - lag][1], atol=1e-9)
    assert not np.allclose(q[0], q[2]) and not np.allclose(gravity[0], gravity[2])


def test_lags_reach_their_range_at_full_difficulty_and_none_at_zero():
    s, rng = hanging(400), np.random.default_rng(0)
    s.randomise(np.arange(400), STAGE_II.disturbance, 1.0, rng)
    assert (s.joint_lag_steps.min(), s.joint_lag_steps.max()) == (0, 4) and (s.imu_lag_steps.min(), s.imu_lag_steps.max()) == (1, 5)
    s.randomise(np.arange(400), STAGE_II.disturbance, 0.0, rng)
    assert s.joint_lag_steps.max() == s.imu_lag_steps.max() == 0
    s.randomise(np.arange(400), dataclasses.replace(STAGE_II.disturbance, lag=False), 1.0, rng)
    assert s.joint_lag_steps.max() == s.imu_lag_steps.max() == 0


def test_a_lost_command_leaves_the_one_before_in_force():
    s = hanging(2)
    s.delay_steps[:] = 0
    elbow = ROBOT.joint_names.index("left_elbow_joint")
    first, second = np.tile(ROBOT.default_q, (2, 1)), np.tile(ROBOT.default_q, (2, 1))
    second[:, elbow] -= 0.5
    s.slot(first)
    s.slot(second, lost=np.array([True, False]))
    column = int(np.flatnonzero(s.joints == elbow)[0])
    assert s.ctrl[:, column].tolist() == [first[0, elbow], second[0, elbow]]
    s.slot(second)
    assert s.ctrl[:, column].tolist() == [second[0, elbow]] * 2


def test_injected_torque_moves_the_joint_as_a_spring_of_its_gain_says():
    """A constant 3 Nm on an elbow with kp 50 displaces it by 0.06 rad, wherever else gravity puts it."""
    s = hanging(2)
    elbow = int(np.flatnonzero(s.joints == ROBOT.joint_names.index("left_elbow_joint"))[0])
    noise = np.zeros((2, s.model.nu))
    noise[0, elbow] = 3.0
    for _ in range(100):
        s.qpos[:, :7], s.qvel[:, :6] = (0, 0, 2.0, 1, 0, 0, 0), 0.0
        s.slot(np.tile(ROBOT.default_q, (2, 1)), torque_noise=noise)
    assert s.qpos[0, 7 + elbow] - s.qpos[1, 7 + elbow] == pytest.approx(3.0 / 50.0, rel=0.15)


def test_a_pulse_changes_the_momentum_by_force_times_time():
    """150 N for 0.1 s on a robot in free fall: 15 N s, over 42 kg 0.36 m/s of its centre of mass."""
    s = hanging(1)
    wrench = np.array([[150.0, 0.0, 0.0]])
    for _ in range(5):
        s.slot(np.tile(ROBOT.default_q, (1, 1)), wrench=wrench)
    data = mujoco.MjData(s.model)
    data.qpos[:], data.qvel[:] = s.qpos[0], s.qvel[0]
    mujoco.mj_forward(s.model, data)
    mujoco.mj_subtreeVel(s.model, data)
    assert data.subtree_linvel[1][0] == pytest.approx(15.0 / s.model.body_mass.sum(), rel=0.02)


def test_pulses_last_a_tenth_of_a_second_and_stay_within_their_size():
    pushes = Pushes(STAGE_II.disturbance, 50, np.random.default_rng(0))
    trace = np.array([pushes.pulse(0.02, 1.0).copy() for _ in range(1500)])
    on = np.abs(trace[..., :2]).sum(axis=-1) > 0
    assert np.hypot(trace[..., 0], trace[..., 1]).max() <= 150.0 and np.abs(trace[..., 2]).max() <= 30.0
    edges = np.diff(on[:, 0].astype(int), prepend=0, append=0)
    lengths = np.flatnonzero(edges == -1) - np.flatnonzero(edges == 1)
    assert set(lengths[:-1].tolist()) == {5}  # the last one may be cut off
    assert Pushes(STAGE_I.disturbance, 2, np.random.default_rng(0)).pulse(0.02, 1.0) is None


def test_each_episode_has_its_own_severity_of_body_arms_and_pushes():
    severity = ((0.0, 1.0, 0.0), (0.5, 1.0, 0.0), (0.0, 0.8, 0.5))
    stage = dataclasses.replace(STAGE_II, disturbance=dataclasses.replace(STAGE_II.disturbance, severity=severity))
    env = LmoVecEnv(small(stages=(stage,)), 400, seed=2)
    env.curriculum.difficulty = 0.5
    env.reset()
    body, arms, pushed = env.difficulty
    for part, (low, high, full) in zip((body, arms, pushed), severity, strict=True):
        assert 0.5 * low <= part.min() and part.max() <= (0.5 if full else 0.5 * high)
        assert (part == 0.5).mean() == pytest.approx(full, abs=0.08), "episodes at full size"
        assert part[part < 0.5].mean() == pytest.approx(0.25 * (low + high), abs=0.03)
    assert abs(np.corrcoef(body, arms)[0, 1]) < 0.2 and abs(np.corrcoef(body, pushed)[0, 1]) < 0.2, "drawn apart"
    heavy = np.abs(env.physics._mass[:, env.physics._torso] / env.physics.model.body_mass[env.physics._torso] - 1.0)
    assert heavy[body > 0.4].mean() > 3 * heavy[body < 0.1].mean(), "a mild body is near the nominal one"


def test_pulses_are_as_strong_as_their_robots_severity():
    pushes = Pushes(STAGE_II.disturbance, 2, np.random.default_rng(0))
    trace = np.array([pushes.pulse(0.02, np.array((1.0, 0.1))).copy() for _ in range(6000)])
    strongest = np.hypot(trace[..., 0], trace[..., 1]).max(axis=0)
    assert 100.0 < strongest[0] <= 150.0 and 5.0 < strongest[1] <= 15.0


def test_heavier_torso_hands_and_links_are_what_randomisation_made_of_them():
    s, rng = hanging(300), np.random.default_rng(1)
    s.randomise(np.arange(300), STAGE_II.disturbance, 1.0, rng)
    extra = s._mass[:, s._torso] / s.model.body_mass[s._torso]
    assert extra.max() > 1.6 and 0.3 <= extra.min() < 0.6  # 10.1 kg x 0.8..1.2, -5..+10 kg
    assert s._friction[:, :, 0].min() < 0.3 and s._friction[:, :, 0].max() > 2.7
    s.randomise(np.arange(300), STAGE_II.disturbance, 0.0, rng)
    np.testing.assert_allclose(s._mass, np.tile(s.model.body_mass, (300, 1)))


def test_heading_at_the_end_is_punished_once_when_flags_are_zero_and_the_robot_stands():
    env = LmoVecEnv(small(), seed=0)
    env.set_stage(1)
    r, everyone = env.rewards, np.zeros((8, 3))
    r.episode[:3], r.turn_error[:3] = True, (0.2, -0.1, 2 * np.pi + 0.05)
    env.pipeline.gait.stepping[:] = False
    env.physics.yaw_rate[:] = 0.0
    env.pipeline.goal[:] = 0.0
    got = np.array([r._end_of_episode(np.ones(8, dtype=bool), np.zeros(8), 0.02) for _ in range(30)])
    np.testing.assert_allclose(got.sum(axis=0)[:4], (0.2, 0.1, 0.05, 0.0), atol=1e-9)
    assert (got > 0).sum(axis=0).max() == 1
    assert got[:14].sum() == 0.0, "not before it has stood for 0.3 s"
    total, terms = r.compute(everyone, 0.02)
    assert set(terms) >= {"heading_end", "path_position", "path_heading", "stand_action"} and np.all(np.isfinite(total))


@pytest.mark.parametrize("name", list(ABLATIONS))
def test_every_ablation_builds_steps_and_differs_from_the_method_only_in_its_configuration(name):
    base = small()
    config = ablated(base, name)
    assert config.ablation == name
    assert (dataclasses.replace(config, ablation="none") == base) == (name == "none")
    env = LmoVecEnv(config, seed=0)
    env.reset()
    for stage in range(len(config.stages)):
        env.set_stage(stage)
        env.step_async(np.zeros((8, len(env.legs)), np.float32))
        observation, reward, _, _ = env.step_wait()
        assert np.all(np.isfinite(observation)) and np.all(np.isfinite(reward))


def test_ablations_joined_by_a_plus_are_made_one_after_the_other():
    both, base = ablated(small(), "no-path+no-jdir"), small()
    assert both.pipeline == ablated(base, "no-path").pipeline != base.pipeline
    assert both.stages == ablated(base, "no-jdir").stages != base.stages
    assert both == dataclasses.replace(ablated(base, "no-jdir+no-path"), ablation="no-path+no-jdir")


def test_ablation_switches_switch():
    def walked(name: str) -> LmoVecEnv:
        env = LmoVecEnv(ablated(small(), name), seed=0)
        env.reset()
        env.commands.flags[:], env.commands.factor[:], env.commands.left_s[:] = (1, 0, 0), 1.0, 1e9
        for _ in range(40):
            env.step_async(np.zeros((8, len(env.legs)), np.float32))
            env.step_wait()
            env.commands.flags[:], env.commands.factor[:] = (1, 0, 0), 1.0
        return env

    method, gait = walked("none"), walked("no-gait")
    assert method.pipeline.gait.stepping.any() and not gait.pipeline.gait.stepping.any()
    np.testing.assert_array_equal(gait.pipeline.reference.q, np.tile(ROBOT.default_q[gait.legs], (8, 1)))
    path = walked("no-path")
    assert not path.pipeline.path.error.any() and path.actor_size == method.actor_size - 3
    steer = walked("no-steer").pipeline.path
    assert steer.error.any() and not steer.correction.any() and method.pipeline.path.correction.any()
    literal = walked("literal").pipeline
    assert np.abs(literal.velocity).max() < 0.05, "the literal gate fades while the flag is held"
    assert literal.goal[0, 0] == pytest.approx(0.3) and literal.gait.stepping.any()
    velocity = LmoVecEnv(ablated(small(), "velocity"), seed=0).pipeline
    assert velocity.gate.step(np.ones((8, 3)), np.full(8, 0.64), 0.02)[0][0, 0] == 0.3, "at once"
    assert [s.name for s in ablated(small(), "no-stage2").stages] == ["I"]
    late = ablated(small(), "no-stage1").stages
    assert [s.name for s in late] == ["II", "III"] and late[0].curriculum.start == 0.0 < small().stages[1].curriculum.start
    assert late[0].share == pytest.approx(0.35 / 0.85) and sum(s.share for s in late) == pytest.approx(1.0)
    assert late[0].disturbance.arm_replay and not ablated(small(), "no-replay").stages[1].disturbance.arm_replay
    no_jdir = ablated(small(), "no-jdir")
    assert all(s.reward.heading_end == s.reward.path_heading == 0.0 for s in no_jdir.stages)
    assert ablated(small(), "no-lag").physics.delay_steps_max == 0 and not ablated(small(), "no-lag").stages[1].disturbance.lag
    with pytest.raises(ValueError, match="no-jdir"):
        ablated(small(), "nothing")


def test_without_the_mirror_the_second_half_of_the_cycle_is_shown_as_it_is():
    for name, shown in (("none", False), ("no-mirror", True)):
        pipeline = LmoVecEnv(ablated(small(), name), seed=0).pipeline
        assert pipeline.observation.mirrored(np.array([0.2, 0.7]))[1] != shown


def test_a_checkpoints_metrics_keep_the_benchmarks_rows_and_leave_its_episodes_behind():
    from wbvla_train.lmo.export import benchmark_rows

    row = {"row": "stand", "cells": ["stand"], "episodes": 100, "falls": 2, "hours": 0.6, "numbers": {"coms_m": {"mean": 0.03, "sd": 0.01, "count": 98}}}
    report = {"seed_base": 3_000_000, "options": {"episodes": 100}, "suites": {"stability": {"rows": [row], "episodes": {"stand": [{"seed": 1}]}}}}
    kept = benchmark_rows(report)
    assert kept["suites"]["stability"]["stand"]["numbers"]["coms_m"]["mean"] == 0.03
    assert kept["suites"]["stability"]["stand"]["falls"] == 2 and "seed" not in str(kept["suites"])
