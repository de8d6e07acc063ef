"""Training and node compute the same thing: observation bit for bit, torch and ONNX within float32."""

import dataclasses

import numpy as np
import torch

from wbvla_core.robot import load_robot
from wbvla_core.types import LocoCommand, RobotState
from wbvla_lmo.controller import LmoController
from wbvla_train.lmo.config import STAGE_I, DisturbanceConfig, PPOConfig, TrainConfig
from wbvla_train.lmo.env import LmoVecEnv
from wbvla_train.lmo.export import actor_onnx
from wbvla_train.lmo.network import mlp

ROBOT = load_robot("x2")


class Recorded:
    """Stands in for the policy: keeps what the controller shows it, answers with given actions."""

    def __init__(self, actions: list[np.ndarray]) -> None:
        self.config, self.actions, self.seen = TrainConfig().pipeline, actions, []

    def __call__(self, observation: np.ndarray) -> np.ndarray:
        self.seen.append(observation.copy())
        return self.actions[len(self.seen) - 1]


def test_observation_in_training_equals_the_nodes_bit_for_bit_and_so_do_the_targets():
    """The same command stream, states and actions through the VecEnv and through LmoController."""
    silent = DisturbanceConfig(noise_gyro=0, noise_gravity=0, noise_q=0, noise_qd=0, bias_gravity=0, push_m_s=0, arm_amplitude=0)
    silent = dataclasses.replace(silent, lag=False)
    config = dataclasses.replace(TrainConfig(ppo=PPOConfig(envs=2)), stages=(dataclasses.replace(STAGE_I, disturbance=silent),))
    env = LmoVecEnv(config, robot=ROBOT, seed=5)
    env.reset()
    env.commands.left_s[:] = 1e9
    env.commands.flags[:], env.commands.height_m[:], env.commands.factor[:] = (1, 0, 1), 0.6, 1.0
    everyone = np.arange(2)
    env.pipeline.reset(everyone, ROBOT.default_stance_height_m)
    rng = np.random.default_rng(0)
    actions = [rng.normal(0, 0.3, (2, len(env.legs))).astype(np.float32) for _ in range(30)]
    states, training, targets = [], [], []
    for action in actions:
        states.append((env.physics.q.copy(), env.physics.qd.copy(), env.physics.gyro.copy(), env.physics.gravity.copy()))
        training.append(env._observe())
        env.target[:, env.legs] = env.pipeline.act(action)
        targets.append(env.target[:, env.legs].copy())
        env.physics.slot(env.target)
    for robot_index in everyone:
        node = Recorded([a[robot_index : robot_index + 1] for a in actions])
        controller = LmoController(ROBOT, node)
        q, qd, gyro, gravity = (x[robot_index] for x in states[0])
        controller.reset(RobotState(0.0, q, qd, gyro, gravity))
        for i in range(len(actions)):
            q, qd, gyro, gravity = (x[robot_index] for x in states[i])
            command = controller.tick(RobotState(i * 0.02, q, qd, gyro, gravity), LocoCommand(1, 0, 1, 0.6), i * 0.02)
            np.testing.assert_array_equal(node.seen[i][0], training[i][robot_index])
            np.testing.assert_array_equal(command.q[env.legs], targets[i][robot_index])


def test_torch_actor_and_onnx_graph_agree():
    import onnxruntime

    torch.manual_seed(0)
    actor = torch.nn.Sequential(*mlp([40, 32, 16]), torch.nn.Linear(16, 12)).eval()
    session = onnxruntime.InferenceSession(actor_onnx(actor).SerializeToString(), providers=["CPUExecutionProvider"])
    observation = np.random.default_rng(0).normal(0, 8, (64, 40)).astype(np.float32)  # also beyond the clip of 20
    observation[0] = 1000.0
    with torch.no_grad():
        expected = actor(torch.from_numpy(np.clip(observation, -20, 20))).numpy()
    got = session.run(["action"], {"observation": observation})[0]
    np.testing.assert_allclose(got, expected, atol=2e-5, rtol=1e-5)


def test_training_physics_and_the_lock_step_world_agree_over_a_step():
    """The lean training model (welded wrists, no arm friction) and the full one, same targets, half a second: centimetres apart at most."""
    from wbvla_sim.scene import random_scene
    from wbvla_sim.world import World, WorldOptions
    from wbvla_train.lmo.config import PhysicsConfig
    from wbvla_train.lmo.physics import BatchPhysics

    physics = BatchPhysics(ROBOT, dataclasses.replace(PhysicsConfig(), threads=1), 1)
    world = World(ROBOT, random_scene(0, kind="empty"), options=WorldOptions(gantry=False))
    state = world.reset(0)
    physics.place(np.array([0]), state.q[None], world.truth()["pelvis_xyz"][None], np.array([[1.0, 0, 0, 0]]))
    target = ROBOT.default_q.copy()
    knees = [ROBOT.joint_names.index(f"{side}_knee_joint") for side in ("left", "right")]
    from wbvla_core.types import JointCommand

    zeros = np.zeros(ROBOT.joint_count)
    for i in range(25):
        target[knees] = ROBOT.default_q[knees] + 0.1 * np.sin(i * 0.3)
        world.slot(JointCommand(world.time_s, target, zeros, zeros, ROBOT.kp, ROBOT.kd))
        physics.slot(target[None])
    truth = world.truth()
    np.testing.assert_allclose(physics.qpos[0, :3], truth["pelvis_xyz"], atol=0.02)
    np.testing.assert_allclose(physics.q[0, ROBOT.indices("legs")], world.state().q[ROBOT.indices("legs")], atol=0.05)
