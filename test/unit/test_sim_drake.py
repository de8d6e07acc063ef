"""The robot in Drake: the same bodies as in MuJoCo, the same slots. What needs Drake itself is skipped where it is not installed."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET

import mujoco
import numpy as np
import pytest

from wbvla_core.errors import WbvlaError
from wbvla_core.robot import load_robot
from wbvla_core.types import JointCommand
from wbvla_eval.lmo import lockstep
from wbvla_sim.drake import DrakeOptions, DrakeWorld, bare_urdf
from wbvla_sim.scene import random_scene
from wbvla_sim.world import World, WorldOptions

X2 = load_robot("x2")
J = X2.joint_count


def drake_world(**options) -> DrakeWorld:
    pytest.importorskip("pydrake", reason="pip install 'wbvla[drake]'")
    return DrakeWorld(X2, options=DrakeOptions(**options))


def hold(q: np.ndarray) -> JointCommand:
    return JointCommand(0.0, q, np.zeros(J), np.zeros(J), X2.kp, X2.kd)


def test_without_drake_the_refusal_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydrake", None)
    monkeypatch.setitem(sys.modules, "pydrake.geometry", None)
    with pytest.raises(WbvlaError, match=r"not installed.*wbvla\[drake\]"):
        DrakeWorld(X2)


def test_the_command_ends_with_that_sentence_and_no_traceback(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydrake", None)
    monkeypatch.setitem(sys.modules, "pydrake.geometry", None)
    with pytest.raises(SystemExit, match=r"^refused: this engine needs Drake.*wbvla\[drake\]"):
        lockstep.main(["--engine", "drake", "--trials", "1", "--only", "stand"])


def test_a_step_that_does_not_divide_five_milliseconds_is_refused():
    with pytest.raises(ValueError, match=r"must divide 0\.005 s, got 0\.003"):
        DrakeWorld(X2, options=DrakeOptions(step_s=0.003))


def test_the_bare_model_keeps_every_mass_and_joint_and_no_shape():
    root = ET.fromstring(bare_urdf(X2))
    assert not list(root.iter("visual")) and not list(root.iter("collision")) and "friction" not in ET.tostring(root, encoding="unicode")
    assert sum(float(m.get("value")) for m in root.iter("mass")) == pytest.approx(X2.total_mass_kg, abs=1e-9)
    assert {j.get("name") for j in root.iter("joint")} >= set(X2.joint_names)


def test_an_unknown_contact_solver_is_refused_by_name():
    with pytest.raises(ValueError, match="approximation must be one of .*lagged.*, got 'exact'"):
        drake_world(approximation="exact")


def test_inertia_and_gravity_of_the_joints_are_those_of_mujoco():
    """With the pelvis at rest the joints' block of the mass matrix, and the forces of gravity and of the joints' own speeds, are the same in any engine."""
    ours, theirs = World(X2, random_scene(0, kind="empty"), options=WorldOptions(gantry=False)), drake_world()
    rng = np.random.default_rng(3)
    q, qd = X2.default_q + 0.3 * rng.uniform(0, 1, J) * (X2.upper - X2.default_q), rng.normal(0, 1, J)
    ours.set_pose((0, 0, 1), (1, 0, 0, 0), q)
    ours.data.qvel[ours.joints.dof] = qd[ours.joints.canonical]
    mujoco.mj_forward(ours.model, ours.data)
    full = np.zeros((ours.model.nv, ours.model.nv))
    mujoco.mj_fullM(ours.model, ours.data, full)
    order = np.argsort(ours.joints.canonical)
    assert np.array_equal(ours.joints.canonical[order], np.arange(J))
    dof = ours.joints.dof[order]
    plant, context = theirs.plant, theirs._context
    positions, velocities = plant.GetPositions(context), np.zeros(plant.num_velocities())
    positions[theirs._q], velocities[theirs._v] = q, qd
    plant.SetPositions(context, positions)
    plant.SetVelocities(context, velocities)
    inertia = plant.CalcMassMatrix(context)[np.ix_(theirs._v, theirs._v)]
    np.testing.assert_allclose(inertia, full[np.ix_(dof, dof)], atol=2e-5)
    bias = (plant.CalcBiasTerm(context) - plant.CalcGravityGeneralizedForces(context))[theirs._v]
    np.testing.assert_allclose(bias, ours.data.qfrc_bias[dof], atol=2e-3)


def test_it_falls_as_a_stone_does_and_says_so():
    """Lifted by a metre and let go for 0.4 s: g t^2 / 2 = 0.785 m, and half of a step's worth of the semi-implicit integrator."""
    world = drake_world()
    plant, context = world.plant, world._context
    q = plant.GetPositions(context)
    place = plant.GetFreeBodyPose(context, world._pelvis)
    start = place.translation() + (0, 0, 1)
    place.set_translation(start)
    plant.SetFreeBodyPose(context, world._pelvis, place)
    assert np.abs(plant.GetPositions(context) - q).max() == pytest.approx(1.0)
    for _ in range(20):
        world.slot(hold(X2.default_q))
    assert world.time_s == pytest.approx(0.4)
    com_fell = 0.5 * 9.81 * 0.4**2
    assert start[2] - world.truth()["pelvis_xyz"][2] == pytest.approx(com_fell, abs=0.02)  # the legs swing a little under the pelvis
    assert world.truth()["velocity_xyz"][2] == pytest.approx(-9.81 * 0.4, abs=0.15)


def test_standing_carries_the_weight_and_a_push_moves_the_pelvis_by_its_speed():
    world = drake_world()
    state = world.reset(1)
    np.testing.assert_allclose(state.q, X2.default_q)
    np.testing.assert_allclose(state.gravity, (0, 0, -1), atol=1e-12)
    for _ in range(10):
        world.slot(hold(X2.default_q))
    truth = world.truth()
    assert not truth["fallen"] and truth["pelvis_xyz"][2] == pytest.approx(X2.default_stance_height_m, abs=0.02)
    before = world.truth()["velocity_xyz"]
    world.push(np.array((0.3, -0.1)))
    np.testing.assert_allclose(world.truth()["velocity_xyz"] - before, (0.3, -0.1, 0.0), atol=1e-9)


def test_the_same_seed_gives_the_same_noise_and_the_same_fall():
    """Nobody balances: with limp joints it falls, both times alike."""
    worlds = drake_world(push_interval_s=0.1, push_speed_m_s=0.5), drake_world(push_interval_s=0.1, push_speed_m_s=0.5)
    limp = JointCommand(0.0, X2.default_q, np.zeros(J), np.zeros(J), 0 * X2.kp, 0.1 * X2.kd)
    ends = []
    for world in worlds:
        world.reset(7)
        while not world.truth()["fallen"] and world.time_s < 2.0:
            world.slot(limp)
        ends.append((world.time_s, world.truth()["pelvis_xyz"]))
    assert 0.2 < ends[0][0] < 2.0
    assert ends[0][0] == ends[1][0]
    np.testing.assert_array_equal(ends[0][1], ends[1][1])
