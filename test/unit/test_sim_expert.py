"""The scripted teleoperator, its instructions, the episode loop and the log."""

from __future__ import annotations

import numpy as np
import pytest

from wbvla_core.errors import ErrorCode, InstructionError
from wbvla_core.robot import load_robot
from wbvla_core.types import Decision, JointCommand, LocoCommand, PolicyInput, RobotState
from wbvla_sim.episode import EpisodeLog, Outcome, run_episode
from wbvla_sim.expert import SQUAT_HEIGHT_M, ArmScript, ExpertConfig, Perturbation, Perturbed, ScriptedTeleoperator
from wbvla_sim.instructions import INSTRUCTIONS, TASKS, VOCABULARY, Task, paraphrases, parse_instruction
from wbvla_sim.kinematic import KinematicController, KinematicWorld, LegPlane
from wbvla_sim.scene import STAND_OFF_M, random_scene
from wbvla_sim.slots import SensorNoise
from wbvla_sim.video import read_mp4, write_mp4
from wbvla_sim.world import World, WorldOptions

X2 = load_robot("x2")


class BlindWorld(KinematicWorld):
    """Pictures cost most of an episode, and the expert does not look at them."""

    def render(self, camera="head", width=None, height=None):
        return np.zeros((3, 4, 3), np.uint8)


def observe(image):
    return image


def walk(seed, **kwargs):
    scene = random_scene(seed)
    world = BlindWorld(X2, scene)
    color = scene.boxes[seed % len(scene.boxes)].color
    log = run_episode(
        world, KinematicController(X2), ScriptedTeleoperator(world), f"walk to the {color} box", timeout_s=40, observe=observe, seed=seed, **kwargs
    )
    return world, scene.box(color), log


def facing_error_deg(world, box):
    truth = world.truth()
    towards = np.array(box.xyz[:2]) - truth["pelvis_xyz"][:2]
    return abs(np.degrees((np.arctan2(towards[1], towards[0]) - truth["yaw_rad"] + np.pi) % (2 * np.pi) - np.pi))


# -- instructions -------------------------------------------------------------------------------------------------------


def test_every_instruction_means_its_task_and_so_does_every_paraphrase():
    assert len(INSTRUCTIONS) == 12
    for task in TASKS:
        assert parse_instruction(task.instruction) == task
        for sentence in paraphrases(task):
            assert parse_instruction(f"  {sentence.upper()}. ") == task


def test_no_sentence_means_two_tasks():
    sentences = [s for task in TASKS for held_out in (False, True) for s in paraphrases(task, held_out)]
    assert len(sentences) == len(set(sentences))


def test_held_out_phrasings_mean_their_task_in_known_words():
    for task in TASKS:
        assert len(paraphrases(task, held_out=True)) >= 4
        for sentence in paraphrases(task, held_out=True):
            assert parse_instruction(sentence) == task
            assert set(sentence.split()) <= set(VOCABULARY) and len(sentence.split()) <= 12


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ("", ErrorCode.INSTRUCTION_EMPTY, "empty"),
        ("  . ", ErrorCode.INSTRUCTION_EMPTY, "empty"),
        ("juggle the red box", ErrorCode.INSTRUCTION_UNKNOWN_WORDS, "not trained to .juggle"),
        ("walk the red box", ErrorCode.INSTRUCTION_UNKNOWN_WORDS, "walk to the red box"),
    ],
)
def test_what_cannot_be_followed_is_refused_with_its_code(text, code, message):
    with pytest.raises(InstructionError, match=message) as error:
        parse_instruction(text)
    assert error.value.code is code


def test_vocabulary_holds_every_word_of_every_sentence():
    assert {w for task in TASKS for s in paraphrases(task) for w in s.split()} == set(VOCABULARY)


# -- walking ------------------------------------------------------------------------------------------------------------


def test_expert_reaches_at_least_19_of_20_boxes_on_the_kinematic_walker():
    reached = 0
    for seed in range(20):
        world, box, log = walk(seed)
        gap = box.face_distance(world.truth()["pelvis_xyz"])
        reached += log.outcome == Outcome.STILL and abs(gap - STAND_OFF_M) < 0.15 and facing_error_deg(world, box) < 12.0
    assert reached >= 19


def test_expert_searches_to_the_left_for_a_box_it_cannot_see_and_finds_it():
    scene = random_scene(0)
    world = BlindWorld(X2, scene)
    expert, controller = ScriptedTeleoperator(world), KinematicController(X2)
    box = scene.boxes[0]
    world._yaw = np.arctan2(box.xyz[1], box.xyz[0]) + np.radians(60)  # the box is 60 deg to the right, out of the picture
    for _ in range(2):
        world.slot(controller.tick(world.state(), LocoCommand(), world.time_s))
    assert not expert.sees(box)
    decision = expert.infer(PolicyInput(0.0, np.zeros((4, 4, 3), np.uint8), f"walk to the {box.color} box", world.state()))
    assert tuple(decision.loco.flags) == (0, 0, 1)


def test_expert_steps_back_from_a_box_that_is_too_close():
    scene = random_scene(0)
    world = BlindWorld(X2, scene)
    box = scene.boxes[0]
    bearing = np.arctan2(box.xyz[1], box.xyz[0])
    world._yaw, distance = bearing, np.hypot(*box.xyz[:2]) - box.face_distance((0, 0)) + 0.35
    world._xy = np.array(box.xyz[:2]) - distance * np.array((np.cos(bearing), np.sin(bearing)))
    world.slot(KinematicController(X2).tick(world.state(), LocoCommand(), 0.0))
    decision = ScriptedTeleoperator(world).infer(PolicyInput(0.0, np.zeros((4, 4, 3), np.uint8), f"walk to the {box.color} box", world.state()))
    assert decision.loco.forward == -1


def test_expert_asks_only_for_boxes_that_are_there():
    scene = random_scene(0)
    missing = next(c for c in ("red", "green", "blue", "yellow") if c not in {b.color for b in scene.boxes})
    world = BlindWorld(X2, scene)
    with pytest.raises(KeyError, match=f"no {missing} box"):
        ScriptedTeleoperator(world).infer(PolicyInput(0.0, np.zeros((4, 4, 3), np.uint8), f"walk to the {missing} box", world.state()))


@pytest.mark.parametrize(
    ("instruction", "flags", "height"),
    [
        ("turn left", (0, 0, 1), 0.64),
        ("turn right", (0, 0, -1), 0.64),
        ("step left", (0, 1, 0), 0.64),
        ("step right", (0, -1, 0), 0.64),
        ("squat down", (0, 0, 0), SQUAT_HEIGHT_M),
        ("stand up", (0, 0, 0), 0.64),
    ],
)
def test_open_instructions_are_constant_commands(instruction, flags, height):
    world = BlindWorld(X2, random_scene(0))
    decision = ScriptedTeleoperator(world).infer(PolicyInput(0.0, np.zeros((4, 4, 3), np.uint8), instruction, world.state()))
    assert tuple(decision.loco.flags) == flags and decision.loco.stance_height_m == height
    np.testing.assert_allclose(decision.arms.positions, np.tile(X2.default_q[X2.indices("upper_body")], (8, 1)), atol=1e-9)


# -- arms ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["left", "right"])
def test_wave_is_a_limit_cycle_of_the_measured_arm_under_physics_and_noise(side):
    """Nothing but joint positions and velocities goes in, so a policy without memory can do the same."""
    world = World(X2, random_scene(1, kind="empty"), options=WorldOptions(noise=SensorNoise.typical()))
    world._set_gantry = lambda active: None  # hang it up: this is about arms
    script, controller = ArmScript(X2, ExpertConfig()), KinematicController(X2)
    elbow, roll = (X2.joint_names.index(f"{side}_{name}_joint") for name in ("elbow", "shoulder_roll"))
    trace = []
    for tick in range(300):
        if tick % 5 == 0:
            controller.set_decision(Decision(world.time_s, LocoCommand(), script.chunk(world.state(), side)), world.time_s)
        command = controller.tick(world.state(), LocoCommand(), world.time_s)
        world.slot(JointCommand(command.stamp_s, command.q, command.qd, command.tau_ff, command.kp, command.kd))
        trace.append(world.state().q)
    swing = np.array(trace)[150:, elbow]  # the last 3 s
    assert swing.min() < -1.75 and swing.max() > -1.25
    crossings = np.count_nonzero(np.diff(np.sign(swing + 1.5)))
    assert 0.6 <= crossings / 2 / 3.0 <= 2.0  # Hz
    assert abs(trace[-1][roll]) > 1.0
    other = X2.indices(f"{'right' if side == 'left' else 'left'}_arm")
    np.testing.assert_allclose(trace[-1][other], X2.default_q[other], atol=0.06)


@pytest.mark.parametrize(
    ("offset", "speed", "end"), [(0.0, 0.0, 1), (0.0, 1.0, 1), (0.0, -1.0, -1), (0.39, 0.2, -1), (-0.39, -0.2, 1), (0.2, 1.0, 1), (-0.2, -1.5, -1)]
)
def test_a_wave_goes_on_where_it_moves_and_turns_round_near_the_ends(offset, speed, end):
    """Turns where speed < 4/s x (offset - 0.1 rad): at 0.39 rad below 1.16 rad/s, at -0.39 rad above -1.96 rad/s; at rest in the middle 0 > -0.4, up."""
    script, elbow = ArmScript(X2, ExpertConfig()), X2.joint_names.index("left_elbow_joint")
    world = BlindWorld(X2, random_scene(0))
    still = world.state()
    q, qd = still.q.copy(), np.zeros(X2.joint_count)
    for name, value in ArmScript.RAISED.items():
        q[X2.joint_names.index(f"left_{name}_joint")] = value
    q[elbow] += offset
    qd[elbow] = speed
    target = script.chunk(RobotState(0.0, q, qd, still.gyro, still.gravity), "left").positions[:, X2.names("upper_body").index("left_elbow_joint")]
    np.testing.assert_allclose(target, -1.5 + end * 0.4, atol=0.1)  # 0.1: sag of the forearm


def test_leg_plane_agrees_with_the_default_pose_of_the_spec():
    hip, knee, ankle = LegPlane(X2).solve(X2.default_stance_height_m)
    names = [X2.joint_names.index(f"left_{n}_joint") for n in ("hip_pitch", "knee", "ankle_pitch")]
    np.testing.assert_allclose((hip, knee, ankle), X2.default_q[names], atol=2e-4)


# -- the loop and its log -----------------------------------------------------------------------------------------------


def test_open_ended_task_ends_by_its_duration_and_turns_that_way():
    world = BlindWorld(X2, random_scene(0))
    log = run_episode(world, KinematicController(X2), ScriptedTeleoperator(world), "turn right", timeout_s=9, duration_s=2.0, observe=observe)
    assert log.outcome == "duration"
    assert len(log.stamp_s) == 20 and len(log.tick_time_s) == 100
    np.testing.assert_allclose(np.diff(log.stamp_s), 0.1)
    assert world.truth()["yaw_rad"] == pytest.approx(-0.4 * (2.0 - 0.15), abs=0.1)  # cruise 0.4 rad/s, lag 0.15 s


def test_task_without_end_times_out():
    world = BlindWorld(X2, random_scene(0))
    log = run_episode(world, KinematicController(X2), ScriptedTeleoperator(world), "turn left", timeout_s=1.0, observe=observe)
    assert log.outcome == "timeout" and log.tick_time_s[-1] - log.meta["start_s"] == pytest.approx(0.98)


def test_squat_ends_still_at_the_lower_stance():
    world = BlindWorld(X2, random_scene(0))
    log = run_episode(world, KinematicController(X2), ScriptedTeleoperator(world), "squat down", timeout_s=9, observe=observe)
    assert log.outcome == "still"
    assert world.truth()["stance_height_m"] == pytest.approx(SQUAT_HEIGHT_M, abs=0.01)


def test_a_falling_robot_ends_the_episode_as_a_fault():
    class Limp(KinematicController):
        def tick(self, state, loco, now_s):
            command = super().tick(state, loco, now_s)
            zero = np.zeros(X2.joint_count)
            kp = command.kp if now_s < 0.3 else zero
            return JointCommand(command.stamp_s, command.q, zero, zero, kp, command.kd)

    world = World(X2, random_scene(1, kind="empty"))
    world.render = lambda *args: np.zeros((3, 4, 3), np.uint8)
    log = run_episode(world, Limp(X2), ScriptedTeleoperator(world), "turn left", timeout_s=9, observe=observe, settle_s=0.2)
    assert log.outcome == "fault" and log.reason == "fallen"


def test_perturbed_demonstrations_execute_bursts_but_label_what_the_expert_meant():
    scene = random_scene(4)
    world = BlindWorld(X2, scene)
    policy = Perturbed(ScriptedTeleoperator(world), Perturbation(rate_per_step=0.05), seed=1)
    log = run_episode(world, KinematicController(X2), policy, f"walk to the {scene.boxes[0].color} box", timeout_s=40, observe=observe)
    differs = np.any(log.loco[:, :3] != log.label_loco[:, :3], axis=1)
    assert 0.1 < differs.mean() < 0.9
    assert log.outcome == "still"  # and the expert mends it
    assert abs(scene.boxes[0].face_distance(world.truth()["pelvis_xyz"]) - STAND_OFF_M) < 0.15
    assert np.all((log.loco[:, 3] >= X2.stance_height_range_m[0]) & (log.loco[:, 3] <= X2.stance_height_range_m[1]))


def test_same_seeds_give_the_same_episode():
    a, b = walk(7)[2], walk(7)[2]
    np.testing.assert_array_equal(a.tick_qpos, b.tick_qpos)
    np.testing.assert_array_equal(a.loco, b.loco)


def test_decision_delay_shifts_commands_and_not_the_images():
    world = BlindWorld(X2, random_scene(0))
    run = {"timeout_s": 9, "duration_s": 1.0, "observe": observe}
    log = run_episode(world, KinematicController(X2), ScriptedTeleoperator(world), "turn left", decision_delay_ticks=3, **run)
    assert np.argmax(log.tick_loco[:, 2] > 0) == 3
    assert log.stamp_s[0] == log.tick_time_s[0]


def test_log_comes_back_from_disk_as_it_was(tmp_path):
    log = walk(2)[2]
    log.save(tmp_path / "a.npz")
    back = EpisodeLog.load(tmp_path / "a.npz")
    assert (back.instruction, back.outcome, back.reason) == (log.instruction, log.outcome, log.reason)
    assert back.meta["boxes"] == log.meta["boxes"] and back.meta["robot_fingerprint"] == X2.fingerprint
    for name in ("stamp_s", "image", "q", "loco", "arms", "label_arms", "tick_qpos", "tick_qvel", "tick_torque", "latent"):
        np.testing.assert_array_equal(getattr(back, name), getattr(log, name))


def test_kinematic_world_refuses_a_command_that_does_not_say_where_to_slide():
    world, zero = BlindWorld(X2, random_scene(0)), np.zeros(X2.joint_count)
    with pytest.raises(ValueError, match="KinematicController"):
        world.slot(JointCommand(0.0, X2.default_q, zero, zero, X2.kp, X2.kd))


def test_kinematic_walker_keeps_its_feet_near_the_floor_and_its_speed():
    world, controller = BlindWorld(X2, random_scene(0)), KinematicController(X2)
    lowest = []
    for _ in range(200):
        world.slot(controller.tick(world.state(), LocoCommand(forward=1), world.time_s))
        world.refresh()
        lowest.append(min(world.data.site(f).xpos[2] for f in ("left_foot", "right_foot")))
    assert np.abs(lowest).max() < 0.02
    assert world.truth()["pelvis_xyz"][0] == pytest.approx(0.3 * (4.0 - 0.6), rel=0.15)  # cruise 0.3 m/s, lag 0.6 s


def test_task_names_its_canonical_sentence():
    assert Task("wave", side="left").instruction == "wave the left arm"
    assert Task("walk_to", color="blue").instruction == "walk to the blue box"
    assert Task("wave", side="left").open_ended and not Task("squat").open_ended


def test_mp4_comes_back_with_the_same_frames_in_order(tmp_path):
    frames = [np.full((48, 64, 3), value, np.uint8) for value in (20, 90, 160, 230)]
    back = read_mp4(write_mp4(tmp_path / "a.mp4", frames, fps=10))
    assert back.shape == (4, 48, 64, 3)
    np.testing.assert_allclose(back.mean(axis=(1, 2, 3)), (20, 90, 160, 230), atol=4)
    with pytest.raises(ValueError, match="no frames"):
        write_mp4(tmp_path / "b.mp4", [], fps=10)
