"""Wrist poses -> arm joints: differential inverse kinematics with joint, speed and collision limits (mink, solved by DAQP).

The model of the arms is handed in by who starts the node: rooms on one floor do not know each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

STEPS = 5  # of the solver per decision: limits hold to first order, and a hand moves up to 2 cm per step


class WristSolver:
    """Follows one pose per hand; a hand without a pose stays where it is.

    Args:
        model: MuJoCo model of the arms alone on a pelvis that cannot move: its joints are exactly ``joint_names``; pairs in its contact section keep apart.
        joint_names: order of the joint arrays [A].
        hands: side -> body that the poses are of.
        speed_rad_s: no joint is asked to move faster; far poses are approached, not jumped to (ours: as the arms' free motions in demonstrations).
        distance_m: what pairs keep between them.
    """

    def __init__(
        self, model: Any, joint_names: Sequence[str], hands: Mapping[str, str], *, speed_rad_s: float = 1.5, distance_m: float = 0.02, iterations: int = STEPS
    ) -> None:
        import mink

        self._mink, self._iterations = mink, iterations
        if model.nq != len(joint_names):
            raise ValueError(f"the model of the arms must have exactly the joints {list(joint_names)}, it has {model.nq} degrees of freedom")
        self._order = np.array([model.joint(name).qposadr[0] for name in joint_names])
        self._lower, self._upper = model.jnt_range[:, 0], model.jnt_range[:, 1]
        pairs = [(int(a), int(b)) for a, b in zip(model.pair_geom1, model.pair_geom2, strict=True)]
        for geom in {g for pair in pairs for g in pair}:  # mink leaves out pairs that physics would not let touch
            model.geom_contype[geom] = model.geom_conaffinity[geom] = 1
        self._configuration = mink.Configuration(model)
        self.tasks = {side: mink.FrameTask(body, "body", position_cost=1.0, orientation_cost=0.1, lm_damping=1e-3) for side, body in hands.items()}
        self._posture = mink.PostureTask(model, cost=1e-3)  # of the joint that seven joints have too many
        self._damping = mink.DampingTask(model, cost=1e-3)
        names = [model.joint(i).name for i in range(model.njnt)]
        self.limits = [mink.ConfigurationLimit(model), mink.VelocityLimit(model, dict.fromkeys(names, speed_rad_s))]
        if pairs:
            self.limits.append(
                mink.CollisionAvoidanceLimit(
                    model, [([a], [b]) for a, b in pairs], minimum_distance_from_collisions=distance_m, collision_detection_distance=5 * distance_m
                )
            )

    def pose(self, side: str, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(xyz [3] m, quaternion [4] wxyz) of a hand in the pelvis frame at arm joints q [A]."""
        self._set(q)
        transform = self._configuration.get_transform_frame_to_world(self.tasks[side].frame_name, "body")
        return transform.translation(), transform.rotation().wxyz

    def solve(self, poses: Mapping[str, tuple[np.ndarray, np.ndarray]], q: np.ndarray, dt_s: float) -> np.ndarray:
        """Arm joints [A] after ``dt_s`` on the way from ``q`` [A] to the poses (side -> xyz [3] m, quaternion [4] wxyz, in the pelvis frame).

        Where the solver finds nothing (limits that exclude each other) the arms stay.
        """
        mink = self._mink
        self._set(q)
        tasks: list[Any] = [self._posture, self._damping]
        self._posture.set_target(self._configuration.q)
        for side, task in self.tasks.items():
            if side in poses:
                xyz, wxyz = poses[side]
                rotation = mink.SO3(np.asarray(wxyz, dtype=float) / np.linalg.norm(wxyz))
                task.set_target(mink.SE3.from_rotation_and_translation(rotation, np.asarray(xyz, dtype=float)))
            else:
                task.set_target_from_configuration(self._configuration)
            tasks.append(task)
        step_s = dt_s / self._iterations
        for _ in range(self._iterations):
            try:
                velocity = mink.solve_ik(self._configuration, tasks, step_s, "daqp", limits=self.limits)
            except mink.NoSolutionFound:
                break
            self._configuration.integrate_inplace(velocity, step_s)
        return np.clip(self._configuration.q, self._lower, self._upper)[self._order]

    def _set(self, q: np.ndarray) -> None:
        full = np.empty(len(self._order))
        full[self._order] = q
        self._configuration.update(np.clip(full, self._lower, self._upper))
