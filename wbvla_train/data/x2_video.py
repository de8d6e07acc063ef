"""The simulated robot's own camera in the scenes of its tasks, as action-free video: where the labels will be asked for.

The robot slides kinematically (:class:`wbvla_sim.kinematic.KinematicWorld`: lag, bob, sway, nodding, no balance), so that this
video needs no locomotion policy. One long random episode per scene is cut into clips. Like the other video it carries no
action: commands and poses go to the truth files only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wbvla_core.robot import RobotSpec, load_robot
from wbvla_core.types import ArmChunk, Decision, LocoCommand, RobotState
from wbvla_perception.preprocess import ImageSpec, policy_image
from wbvla_sim.expert import ArmScript, ExpertConfig
from wbvla_sim.kinematic import KinematicController, KinematicWorld, Walk
from wbvla_sim.scene import random_scene
from wbvla_train.data.motion import draw_command

FIRST_SCENE_SEED = 20_000_000  # far from the seeds of demonstrations and evaluation
RATE_HZ = 10.0
SLOTS_PER_IMAGE = 5  # of the 50 Hz slots
# Share of the commands that only squat or rise: they are over sooner than a walk (ours; without them 8 % of the pairs sink and 5 % rise, with them
# 8 % and 7 %).
EXTRA_SQUATS = 0.25


@dataclass
class _Arms:
    """Arm motions of one episode: hanging, waving, or moving between random postures."""

    script: ArmScript
    robot: RobotSpec
    rng: np.random.Generator
    mode: str = "rest"
    until_s: float = 0.0
    goal: np.ndarray | None = None

    def chunk(self, state: RobotState, now_s: float, moving_share: float) -> ArmChunk:
        if now_s >= self.until_s:
            self.mode = "rest" if self.rng.random() > moving_share else ("left", "right", "reach", "reach")[self.rng.integers(4)]
            self.until_s = now_s + self.rng.uniform(0.8, 2.5)
            self.goal = self._posture()
        if self.mode != "reach":
            return self.script.chunk(state, "" if self.mode == "rest" else self.mode)
        q = state.q[self.script.indices]
        times = (np.arange(10) + 1) * 0.1
        part = np.minimum(1.0, (times + 0.15) / max(float(np.max(np.abs(self.goal - q))) / 1.5, 0.1))
        return ArmChunk(self.script.names, q + part[:, None] * (self.goal - q), 0.1)

    def _posture(self) -> np.ndarray:
        """Random hands before the chest: raised upper arms, bent elbows; each arm may stay at rest."""
        goal = self.script.rest.copy()
        for side, sign in (("left", 1.0), ("right", -1.0)):
            if self.rng.random() < 0.25:
                continue
            for name, low, high in (("shoulder_pitch", -1.3, -0.1), ("shoulder_roll", 0.0, 0.5), ("shoulder_yaw", -0.4, 0.4), ("elbow", -1.9, -0.5)):
                value = self.rng.uniform(low, high)
                goal[self.script.names.index(f"{side}_{name}_joint")] = value * (sign if name in ("shoulder_roll", "shoulder_yaw") else 1.0)
        return np.clip(goal, self.robot.lower[self.script.indices], self.robot.upper[self.script.indices])


def record(rng: np.random.Generator, walking: bool, clips: int, frames: int, image_size: int, scene_seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """One random episode in one scene.

    Args:
        walking: locomotion video (arms mostly hang); else the robot stands and moves its arms.

    Returns:
        images [clips, frames, S, S, 3] uint8 at 10 Hz, and the truth: pose [clips, frames, 4] (pelvis x, y, yaw, height; m, rad),
        command [clips, frames, 4], hands [clips, frames, 2, 3] in the level frame of the camera, m.
    """
    robot = load_robot("x2")
    scene = random_scene(FIRST_SCENE_SEED + scene_seed, kind="room" if rng.random() < 0.5 else "walk_to", robot=robot)
    cruise = tuple(np.array(Walk().cruise) * rng.uniform(0.6, 1.2, 3))
    walk = Walk(
        cruise=cruise,
        period_s=rng.uniform(0.6, 0.85),
        bob_m=rng.uniform(0.002, 0.015),
        sway_m=rng.uniform(0.005, 0.025),
        roll_rad=rng.uniform(0.005, 0.035),
        pitch_rad=rng.uniform(0.005, 0.035),
    )
    world = KinematicWorld(robot, scene, walk=walk)
    state = world.reset(int(rng.integers(2**31)))
    controller = KinematicController(robot)
    arms = _Arms(ArmScript(robot, ExpertConfig()), robot, rng)
    spec = ImageSpec.of(robot.camera, image_size)
    low, high = robot.stance_height_range_m
    fingers = [world.data.body(robot.joint(robot.names(f"{side}_gripper")[0]).child) for side in ("left", "right")]

    direction, height, change_s = np.zeros(4, dtype=np.int64), robot.default_stance_height_m, 0.0
    images = np.empty((clips * frames, image_size, image_size, 3), dtype=np.uint8)
    pose, command, hands = np.zeros((clips * frames, 4)), np.zeros((clips * frames, 4)), np.zeros((clips * frames, 2, 3))
    for i in range(clips * frames):
        now_s = world.time_s
        if now_s >= change_s:
            direction = draw_command(rng) if walking else np.zeros(4, dtype=np.int64)
            if walking and rng.random() < EXTRA_SQUATS:
                direction = np.array((0, 0, 0, -1))
            change_s = now_s + rng.uniform(0.7, 2.5)
            if direction[3] != 0:  # squat or rise, to where there is more room; the robot stands near its highest, so that most rises would show nothing
                direction[3] = 1 if height < 0.5 * (low + high) else -1
                height += direction[3] * rng.uniform(0.6, 1.0) * ((high - height) if direction[3] > 0 else (height - low))
        images[i] = policy_image(world.render("head"), spec)
        truth = world.truth()
        pose[i] = (*truth["pelvis_xyz"][:2], truth["yaw_rad"], truth["pelvis_xyz"][2])
        command[i] = direction
        position = world.camera_pose()[0]
        cos, sin = np.cos(truth["yaw_rad"]), np.sin(truth["yaw_rad"])
        for k, finger in enumerate(fingers):
            offset = finger.xpos - position
            hands[i, k] = (cos * offset[0] + sin * offset[1], -sin * offset[0] + cos * offset[1], offset[2])
        loco = LocoCommand(*(int(v) for v in direction[:3]), float(np.clip(height, low, high)))
        controller.set_decision(Decision(now_s, loco, arms.chunk(state, now_s, 0.25 if walking else 0.9)), now_s)
        for _ in range(SLOTS_PER_IMAGE):
            state = world.slot(controller.tick(state, loco, world.time_s))
    shape = (clips, frames)
    return images.reshape(*shape, *images.shape[1:]), {
        "pose": pose.reshape(*shape, 4),
        "command": command.reshape(*shape, 4),
        "hands": hands.reshape(*shape, 2, 3),
    }
