"""Arm poses that no demonstration visited, with what the scripted teleoperator would do there.

In the tasks of this stage the arms' answer depends on sentence and arms alone, so the teleoperator can be asked about any arm state
without simulating it. That fills the states that a wave never passes and a policy that is still learning does.
"""

from __future__ import annotations

import numpy as np

from wbvla_core.robot import RobotSpec
from wbvla_core.types import RobotState
from wbvla_decoder.policy import ArmScaling, arm_state
from wbvla_sim.expert import ArmScript, ExpertConfig
from wbvla_sim.instructions import SIDES
from wbvla_train.data.demos import WAVES

SWING_RAD, SWING_RAD_S = 0.7, 2.0  # range of the waving joint that is asked about, somewhat more than a wave's
POSE_NOISE_RAD, SPEED_NOISE_RAD_S = 0.08, 0.2  # of every joint, standard deviations


def ask_about_arms(robot: RobotSpec, count: int, seed: int = 0, wave_share: float = 0.6) -> tuple[np.ndarray, np.ndarray]:
    """Random arm states and the teleoperator's answers.

    Args:
        wave_share: share of states with an arm up and its waving joint anywhere, at any speed; the rest lie on the way between hanging and raised.

    Returns:
        arm states [count, 2 A] and arm targets [count, 3 (no wave, left, right), K, A], both in the decoder's units, float32.
    """
    rng = np.random.default_rng((seed, 23))
    script, scaling = ArmScript(robot, ExpertConfig()), ArmScaling.of(robot)
    index = robot.indices("upper_body")
    states, answers = [], []
    for _ in range(count):
        side = str(rng.choice(SIDES))
        raised = _raised(script, side)
        swinging = rng.random() < wave_share
        part = 1.0 if swinging else rng.uniform(0.0, 1.0)
        pose = script.rest + part * (raised - script.rest) + rng.normal(0.0, POSE_NOISE_RAD, len(index))
        speed = rng.normal(0.0, SPEED_NOISE_RAD_S, len(index))
        if swinging:
            joint = script.names.index(f"{side}_{script.WAVING}_joint")
            pose[joint] = raised[joint] + rng.uniform(-SWING_RAD, SWING_RAD)
            speed[joint] = rng.uniform(-SWING_RAD_S, SWING_RAD_S)
        elif rng.random() < 0.5:
            speed += np.sign(rng.uniform(-1.0, 1.0)) * script.SPEED_RAD_S * _direction(raised - script.rest)
        q, qd = robot.default_q.copy(), np.zeros(robot.joint_count)
        q[index], qd[index] = np.clip(pose, robot.lower[index], robot.upper[index]), speed
        state = RobotState(0.0, q, qd, np.zeros(3), np.array((0.0, 0.0, -1.0)))
        states.append(arm_state(state, robot))
        answers.append(np.stack([scaling.encode(script.chunk(state, wave).positions) for wave in WAVES]))
    return np.stack(states), np.stack(answers)


def _raised(script: ArmScript, side: str) -> np.ndarray:
    """Pose [A] with that arm up and the other hanging."""
    pose, sign = script.rest.copy(), 1.0 if side == "left" else -1.0
    for name, value in script.RAISED.items():
        pose[script.names.index(f"{side}_{name}_joint")] = value * (sign if name in ("shoulder_roll", "shoulder_yaw") else 1.0)
    return pose


def _direction(move: np.ndarray) -> np.ndarray:
    """Joint speeds [A] of a straight move, largest = 1."""
    return move / max(float(np.max(np.abs(move))), 1e-9)
