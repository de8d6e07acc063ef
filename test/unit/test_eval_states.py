"""Truth computed from recorded states equals what the simulator itself says, and the same judge serves logs and bags."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import av
import numpy as np
import pytest

from wbvla_core.robot import load_robot
from wbvla_eval.bag import BagError, decode
from wbvla_eval.episode_log import judge_log, recording_of, trace_of
from wbvla_eval.produce import EpisodeFacts, produce
from wbvla_eval.protocol import load_body, load_policy
from wbvla_eval.states import trace_from_states
from wbvla_eval.tasks import Failure
from wbvla_eval.trace import bearing_to
from wbvla_sim.episode import run_episode
from wbvla_sim.instructions import Task
from wbvla_sim.scene import random_scene

ROBOT = load_robot()
SEED = 1_000_003


@pytest.fixture(scope="module")
def walk():
    """(task, scene, log, truths): the scripted teleoperator walks to a box in the world without physics; truth noted at every slot."""
    scene = random_scene(SEED)
    task = Task("walk_to", color=str(scene.boxes[0].color))
    make_policy, observe = load_policy("expert", ROBOT)
    world_class, controller = load_body("kinematic", ROBOT)
    world = world_class(ROBOT, scene)
    truths = {}

    def note(world, loco):
        truths[round(world.time_s, 3)] = world.truth()

    log = run_episode(world, controller, make_policy(world), task.instruction, timeout_s=20, observe=observe, on_step=note)
    return task, scene, log, truths


def test_trace_from_states_equals_the_simulators_own_truth(walk):
    _, scene, log, truths = walk
    trace = trace_of(log, ROBOT, scene)
    for i in range(0, len(trace.time_s), 7):
        truth = truths[round(float(log.tick_time_s[i]), 3)]
        assert trace.xyz[i] == pytest.approx(truth["pelvis_xyz"], abs=1e-9)
        assert trace.yaw[i] == pytest.approx(truth["yaw_rad"], abs=1e-9)
        assert trace.tilt_rad[i] == pytest.approx(truth["tilt_rad"], abs=1e-6)
        assert trace.stance_height_m[i] == pytest.approx(truth["stance_height_m"], abs=1e-9)
        assert trace.velocity[i, :2] == pytest.approx(truth["velocity_heading"], abs=1e-9)
        assert trace.velocity[i, 2] == pytest.approx(truth["yaw_rate_rad_s"], abs=1e-9)


def test_scripted_teleoperator_succeeds_and_the_box_stays_in_view(walk):
    task, scene, log, _ = walk
    trace = trace_of(log, ROBOT, scene)
    verdict = judge_log(task, log, trace)
    assert verdict.success, verdict.reason
    assert verdict.measures["in_view_share"] == 1.0
    assert abs(bearing_to(scene.box(task.color), trace.xyz[-1], trace.yaw[-1])) < math.radians(15)
    other = next(box.color for box in scene.boxes if box.color != task.color)
    assert not judge_log(Task("walk_to", color=str(other)), log, trace).success


def test_hands_hang_below_the_pelvis_and_a_box_behind_is_out_of_view(walk):
    task, scene, log, _ = walk
    trace = trace_of(log, ROBOT, scene)
    for side, sign in (("left", 1), ("right", -1)):
        assert np.all(sign * trace.hands[side][:, 1] > 0.1) and np.all(trace.hands[side][:, 2] < 0.1)
    turned = log.tick_qpos[:2].copy()
    turned[:, 3:7] = (0.0, 0.0, 0.0, 1.0)  # half a turn about z
    back = trace_from_states(ROBOT, scene, np.array((0.0, 0.02)), turned, np.zeros_like(log.tick_qvel[:2]), log.tick_loco[:2])
    assert not np.any(back.in_view[task.color])


def test_standing_in_a_box_is_noticed_as_touching_it(walk):
    task, scene, log, _ = walk
    inside = log.tick_qpos[:2].copy()
    inside[:, :2] = scene.box(task.color).xyz[:2]
    trace = trace_from_states(ROBOT, scene, np.array((0.0, 0.02)), inside, np.zeros_like(log.tick_qvel[:2]), log.tick_loco[:2])
    assert f"box_{task.color}" in trace.touched
    assert not trace_of(log, ROBOT, scene).touched


def test_a_log_that_ended_in_a_fault_is_a_fall(walk):
    task, scene, log, _ = walk
    broken = replace(log, outcome="fault", reason="no JointCommand for 0.1 s")
    assert judge_log(task, broken, trace_of(log, ROBOT, scene)).failure is Failure.FALL


def test_states_of_another_model_are_refused():
    scene = random_scene(SEED)
    with pytest.raises(ValueError, match="another robot spec"):
        trace_from_states(ROBOT, scene, np.array((0.0, 0.02)), np.zeros((2, 5)), np.zeros((2, 5)), np.zeros((2, 4)))


# -- bags ------------------------------------------------------------------------------------------------------------
def stamp(seconds):
    return SimpleNamespace(sec=int(seconds), nanosec=int(round((seconds - int(seconds)) * 1e9)))


def header(seconds):
    return SimpleNamespace(stamp=stamp(seconds), frame_id="")


WALL_S = 1_700_000_000.0  # when the task began by the wall clock


def bag_of(log, scene, speed=1.0):
    """The messages that the stack would have recorded: simulated time runs at ``speed`` of the wall clock, decisions arrive 60 ms after their image."""
    out = []
    start = log.meta["start_s"]

    def wall(sim_s):
        return WALL_S + (sim_s - start) / speed

    def put(topic, at_s, **fields):
        out.append((topic, int(round(at_s * 1e9)), SimpleNamespace(**fields)))

    for i, t in enumerate(log.tick_time_s):
        at = wall(t)
        put(
            "/wbvla/sim/state",
            at,
            header=header(at),
            seed=scene.seed,
            scene=scene.kind,
            sim_time_s=float(t),
            real_time_factor=speed,
            qpos=log.tick_qpos[i],
            qvel=log.tick_qvel[i],
        )
        put("/wbvla/robot/joint_states", at + 0.001, header=header(at), name=list(ROBOT.joint_names), position=log.tick_target[i])
        put("/wbvla/lmo/joint_command", at + 0.004, header=header(at), name=list(ROBOT.joint_names), position=log.tick_target[i])
    for i, t in enumerate(log.stamp_s):
        at = wall(t)
        put("/wbvla/camera/image_raw", at + 0.01, header=header(at))
        if i != 5:
            put("/wbvla/perception/image", at + 0.02, header=header(at))
            forward, lateral, yaw, height = log.loco[i]
            command = {"forward": int(forward), "lateral": int(lateral), "yaw": int(yaw), "stance_height_m": float(height)}
            put("/wbvla/vla/loco_command", at + 0.06, header=header(at), **command)
            put("/wbvla/vla/latent_action", at + 0.06, header=header(at), codebook_size=16, manipulation=[1, 2], locomotion=[3, 4])
    put("/wbvla/lmo/safety_state", wall(start) - 1.0, header=header(0.0), state=1, code=412, reason="nobody is in control", source="")
    put("/wbvla/lmo/safety_state", wall(start) + 0.05, header=header(0.0), state=0, code=0, reason="", source="vla")
    return out


def test_a_bag_decodes_to_the_same_truth_as_the_log(walk):
    task, scene, log, _ = walk
    messages = bag_of(log, scene)
    end = messages[-1][1] + int(60e9)
    recording, found = decode(messages, ROBOT, log.instruction, goal_ns=int(WALL_S * 1e9) - 1, end_ns=end)
    trace = trace_of(log, ROBOT, scene)
    assert (found.seed, found.kind) == (scene.seed, scene.kind)
    assert recording.trace.xyz == pytest.approx(trace.xyz)
    assert recording.trace.time_s == pytest.approx(trace.time_s)
    assert np.median(recording.image_age_s.values) == pytest.approx(0.06, abs=1e-3)
    assert np.median(recording.tick_interval_s.values) == pytest.approx(0.02, abs=1e-3)
    assert np.median(recording.response_s.values) == pytest.approx(0.003, abs=1e-3)
    assert recording.frames.rendered - recording.frames.received == 1  # frame 5 never came through perception
    assert recording.frames.lost_share == pytest.approx(1 / recording.frames.rendered)
    assert recording.latent.values[0].tolist() == [1, 2, 3, 4] and recording.manipulation_tokens == 2
    assert not np.any(recording.trace.command[:2, :3])  # before LMO follows, nothing is carried out
    assert np.any(recording.trace.command[:, 0] == 1)
    assert recording.rung_at(0.0).rung.name == "STAND" and recording.rung_at(1.0).rung.name == "FOLLOW"
    assert judge_log(task, log, recording.trace).success


def test_a_slow_machine_stretches_the_wall_clock_but_not_the_task(walk):
    _, scene, log, _ = walk
    messages = bag_of(log, scene, speed=0.5)
    recording, _ = decode(messages, ROBOT, log.instruction, goal_ns=int(WALL_S * 1e9) - 1, end_ns=messages[-1][1] + int(60e9))
    assert recording.trace.duration_s == pytest.approx(log.tick_time_s[-1] - log.tick_time_s[0])
    assert recording.command.time_s[10] == pytest.approx((log.stamp_s[11] - log.meta["start_s"]) + 0.03, abs=2e-3)  # 60 ms of wall time are 30 ms of task time


def test_a_bag_without_simulator_states_says_so():
    with pytest.raises(BagError, match="/wbvla/sim/state"):
        decode([], ROBOT, "turn left", goal_ns=0, end_ns=1)


def test_recording_of_a_log_covers_the_whole_episode(walk):
    _, scene, log, _ = walk
    recording = recording_of(log, ROBOT, trace_of(log, ROBOT, scene))
    assert recording.end_s == pytest.approx(log.tick_time_s[-1] - log.meta["start_s"])
    assert recording.qpos.shape == log.tick_qpos.shape


def test_a_bag_becomes_video_report_and_summary(walk, tmp_path):
    task, scene, log, _ = walk
    messages = bag_of(log, scene)
    facts = EpisodeFacts(
        instruction=log.instruction, task=task, goal_ns=int(WALL_S * 1e9) - 1, end_ns=messages[-1][1] + int(60e9), ended="still", message="flags zero",
        elapsed_s=3.0, seed=SEED, robot=ROBOT.name, duration_s=None, policy=None, lmo=None, store=tmp_path, commands=("wbvla demo",),
    )  # fmt: skip
    shares = []
    summary, verdict = produce(tmp_path, messages, ROBOT, facts, fps=4, progress=shares.append)
    assert verdict.success and summary["success"] and shares[-1] == 1.0 and shares == sorted(shares)
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert {"video.mp4", "report.html", "summary.json"} <= set(summary["files"])
    with av.open(str(tmp_path / "video.mp4")) as video:
        seconds = float(video.streams.video[0].duration * video.streams.video[0].time_base)
    assert seconds == pytest.approx(log.tick_time_s[-1] - log.meta["start_s"] + 1.5, abs=0.4)
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/jpeg") == 4 and "Reached" in page


def test_damping_during_the_episode_is_a_fall_even_if_the_pelvis_is_in_place(walk, tmp_path):
    task, scene, log, _ = walk
    messages = bag_of(log, scene)
    damping = SimpleNamespace(header=header(0.0), state=2, code=507, reason="no JointCommand for 0.1 s", source="lmo")
    messages.append(("/wbvla/robot/driver_state", int((WALL_S + 2.0) * 1e9), damping))
    facts = EpisodeFacts(
        instruction=log.instruction, task=task, goal_ns=int(WALL_S * 1e9) - 1, end_ns=int((WALL_S + 60.0) * 1e9), ended="fault", message="damping",
        elapsed_s=3.0, seed=SEED, robot=ROBOT.name, duration_s=None, policy=None, lmo=None, store=tmp_path,
    )  # fmt: skip
    summary, verdict = produce(tmp_path, messages, ROBOT, facts, video=False)
    assert verdict.failure is Failure.FALL and "no JointCommand" in summary["reason"]
    assert "video.mp4" not in summary["files"]
