"""Wrist poses to arm joints: reached where they can be, within joint, speed and collision limits where not."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

pytest.importorskip("mink", reason="needs inverse kinematics: run `make setup`")

from wbvla_cli.arms import arm_model, wrist_solver  # noqa: E402
from wbvla_core.robot import load_robot  # noqa: E402

ROBOT = load_robot("x2")
ARMS = ROBOT.indices("arms")
REST = ROBOT.default_q[ARMS]
LOWER, UPPER = ROBOT.lower[ARMS], ROBOT.upper[ARMS]
DT_S, SPEED = 0.1, 1.5


@pytest.fixture(scope="module")
def solver():
    return wrist_solver(ROBOT)


def angle(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * float(np.arccos(min(1.0, abs(float(a @ b)))))


@pytest.mark.parametrize("name", ["x2", "x2_v140"])
def test_the_solvers_kinematics_are_the_simulators(name):
    robot = load_robot(name)
    made, model = wrist_solver(robot), arm_model(robot)
    assert [model.joint(i).name for i in range(model.njnt)] == list(robot.names("arms"))
    rng = np.random.default_rng(0)
    q = rng.uniform(robot.lower[robot.indices("arms")], robot.upper[robot.indices("arms")])
    data = mujoco.MjData(model)
    data.qpos[:] = q
    mujoco.mj_forward(model, data)
    for side in ("left", "right"):
        body = robot.joint(robot.names(f"{side}_arm")[-1]).child
        np.testing.assert_allclose(made.pose(side, q)[0], data.body(body).xpos, atol=1e-9)


def test_poses_within_reach_are_reached_by_both_hands_from_random_postures(solver):
    rng = np.random.default_rng(3)
    errors = []
    for _ in range(20):
        around = REST + rng.uniform(-0.5, 0.5, len(REST))
        goal = np.clip(around, LOWER + 0.05, UPPER - 0.05)
        poses = {side: solver.pose(side, goal) for side in ("left", "right")}
        q = REST.copy()
        for _ in range(60):
            q = solver.solve(poses, q, DT_S)
        errors += [np.linalg.norm(solver.pose(side, q)[0] - poses[side][0]) for side in poses]
    assert np.median(errors) < 1e-3 and np.percentile(errors, 90) < 0.02, sorted(errors)[-5:]


def test_a_hand_without_a_pose_stays(solver):
    xyz, wxyz = solver.pose("left", REST)
    q = REST.copy()
    for _ in range(30):
        q = solver.solve({"left": (xyz + (0.1, 0.05, 0.1), wxyz)}, q, DT_S)
    right = [i for i, name in enumerate(ROBOT.names("arms")) if name.startswith("right")]
    np.testing.assert_allclose(q[right], REST[right], atol=0.02)
    assert np.linalg.norm(solver.pose("left", q)[0] - xyz - (0.1, 0.05, 0.1)) < 1e-2


def test_wild_poses_keep_every_joint_within_its_limits_and_its_speed(solver):
    rng = np.random.default_rng(5)
    q = REST.copy()
    for _ in range(200):
        poses = {side: (rng.uniform(-2, 2, 3), rng.normal(size=4)) for side in ("left", "right")}
        after = solver.solve(poses, q, DT_S)
        assert np.all(after >= LOWER - 1e-9) and np.all(after <= UPPER + 1e-9)
        assert np.max(np.abs(after - q)) <= SPEED * DT_S + 1e-6
        q = after


def test_hands_sent_into_the_body_and_into_each_other_stop_before_it(solver):
    model = arm_model(ROBOT)
    data = mujoco.MjData(model)
    pairs = list(zip(model.pair_geom1, model.pair_geom2, strict=True))
    assert pairs

    def clearance(q: np.ndarray) -> float:
        data.qpos[:] = q
        mujoco.mj_forward(model, data)
        return min(mujoco.mj_geomDistance(model, data, int(a), int(b), 1.0, None) for a, b in pairs)

    assert clearance(REST) > 0.0
    for centre in ((0.0, 0.0, 0.1), (0.0, 0.0, 0.3), (0.02, -0.1, -0.1), (0.3, 0.0, 0.2)):
        q, least = REST.copy(), np.inf
        for _ in range(40):
            q = solver.solve({side: (np.array(centre), np.array((1.0, 0, 0, 0))) for side in ("left", "right")}, q, DT_S)
            least = min(least, clearance(q))
        assert least > 0.0, f"{centre}: {least:.4f} m"


def test_a_model_with_other_joints_is_refused():
    from wbvla_teleop.wrists import WristSolver

    with pytest.raises(ValueError, match="exactly the joints"):
        WristSolver(arm_model(ROBOT), ROBOT.names("left_arm"), {})
