"""Reference gait: leg inverse kinematics, stance table, clock."""

import numpy as np
import pytest

from wbvla_core.robot import RobotSpecError, load_robot, parse_robot
from wbvla_lmo.gait import GaitConfig, ReferenceGait
from wbvla_lmo.leg_kinematics import LegInverse, centre_of_mass, link_poses, rotation

ROBOT = load_robot("x2")
DT_S = 0.02
CRUISE = np.array((0.3, 0.3, 0.4))
CONFIG = GaitConfig(period_s=0.6, capture_m=(0.085, 0.085, 0.12))


@pytest.fixture
def gait() -> ReferenceGait:
    return ReferenceGait(ROBOT, CONFIG, 1)


def walk(gait: ReferenceGait, velocity: tuple, ticks: int, capture: tuple = (0.0, 0.0)) -> list[tuple[float, bool]]:
    out = []
    for _ in range(ticks):
        gait.advance(np.array([velocity]), CRUISE, np.array([capture]), DT_S)
        out.append((float(gait.phase[0]), bool(gait.stepping[0])))
    return out


def test_soles_land_where_asked_flat_and_heading_where_asked():
    """Forward kinematics of the solution, for feet anywhere a step can go: within 1.5 mm, 1 deg of flat, 2 deg of heading."""
    inverse = LegInverse(ROBOT)
    rng = np.random.default_rng(0)
    for _ in range(30):
        height, lean = rng.uniform(0.5, 0.64), rng.uniform(0.0, 0.2)
        sole = np.array([[[rng.uniform(-0.06, 0.08), s * rng.uniform(0.1, 0.18), -height + rng.uniform(0, 0.05)] for s in (1, -1)]])
        yaw = rng.uniform(-0.12, 0.12, (1, 2))
        legs = inverse.solve(sole, yaw, np.array([lean]))[0]
        q = ROBOT.default_q.copy()
        q[ROBOT.indices("left_leg")], q[ROBOT.indices("right_leg")] = legs
        poses, level = link_poses(ROBOT, q), rotation(np.array((0, 1.0, 0)), lean)
        if np.any(legs[:, 4:] <= inverse.lower[:, 4:] + 1e-9) or np.any(legs[:, 5] >= inverse.upper[:, 5] - 1e-9):
            continue  # at an ankle limit nothing can be exact
        for i, side in enumerate(("left", "right")):
            position, orientation = poses[ROBOT.frames[f"{side}_foot"].parent]
            found = level @ (position + orientation @ np.array((0, 0, ROBOT.sole.z)))
            foot = level @ orientation
            np.testing.assert_allclose(found, sole[0, i], atol=1.5e-3)
            np.testing.assert_allclose(level @ inverse.soles(legs[None])[0, i], found, atol=1e-12)
            assert foot[2, 2] > np.cos(np.radians(1.0))
            assert np.arctan2(foot[1, 0], foot[0, 0]) == pytest.approx(yaw[0, i], abs=np.radians(2.0))


def test_standing_at_default_height_is_the_robots_default_pose_within_3_hundredths(gait):
    legs = gait.inverse.solve(
        np.array([[[-0.019, gait.inverse.half_width_m, -0.64], [-0.019, -gait.inverse.half_width_m, -0.64]]]), np.zeros((1, 2)), np.zeros(1)
    )
    np.testing.assert_allclose(legs[0].reshape(-1), ROBOT.default_q[ROBOT.indices("legs")], atol=0.03)


# Outline of the X2's soles: 65 mm behind the ankle to 139 mm ahead; contact points: 50 mm behind to 110 mm ahead.
@pytest.mark.parametrize(("over_contacts", "middle"), [(False, 0.037), (True, 0.030)])
@pytest.mark.parametrize("height", [0.46, 0.52, 0.58, 0.64])
def test_squat_keeps_the_centre_of_mass_over_the_middle_of_the_soles_and_the_ankle_inside_its_limit(over_contacts, middle, height):
    gait = ReferenceGait(ROBOT, GaitConfig(over_contacts=over_contacts), 1)
    ankle_x, lean = (float(v[0]) for v in gait.stance(np.array([height])))
    q, legs = gait.stance._posture(height, lean, ankle_x)
    com = centre_of_mass(ROBOT, q)
    level_x = np.cos(lean) * com[0] + np.sin(lean) * com[2]
    assert level_x == pytest.approx(ankle_x + middle, abs=0.003)
    assert legs[0, 4] > gait.inverse.lower[0, 4] + 0.05


def test_gravity_sags_the_knees_of_a_squat_more_than_those_of_a_stand(gait):
    knee = ROBOT.names("left_leg").index("left_knee_joint")
    high, low = gait.stance.sag_at(np.array([0.64, 0.48]), np.zeros((2, 2)))[:, 0, knee]
    assert low < high < 0, "the target must be straighter than the knee, the load bends it"


def test_clock_stands_still_without_command_and_starts_with_one(gait):
    assert walk(gait, (0, 0, 0), 100)[-1] == (0.0, False)
    phase, stepping = walk(gait, (0.3, 0, 0), 9)[-1]
    assert stepping and phase == pytest.approx(9 * DT_S / 0.6)


def test_clock_stops_only_at_double_support_and_within_half_a_cycle(gait):
    walk(gait, (0.3, 0, 0), 22)  # in the middle of the right foot's swing
    trace = walk(gait, (0, 0, 0), 25)
    stopped = next(i for i, (_, stepping) in enumerate(trace) if not stepping)
    assert stopped * DT_S <= 0.3
    assert trace[-1][0] in (0.0, 0.5)


def test_first_foot_is_the_one_on_the_side_it_goes_to():
    for lateral, phase in ((0.3, 0.0), (-0.3, 0.5)):
        gait = ReferenceGait(ROBOT, CONFIG, 1)
        gait.phase[:] = 0.5 - phase
        assert walk(gait, (0, lateral, 0), 1)[0][0] == pytest.approx(phase + DT_S / 0.6)


def test_balance_of_any_stand_is_that_of_its_whole_body_centre_of_mass(gait):
    """Pelvis anywhere within 4 cm over flat feet, leaning up to 0.1 rad: joints and tilt alone give the centre of mass over the soles within 4 mm."""
    rng, width = np.random.default_rng(3), gait.inverse.half_width_m
    middle = 0.5 * (ROBOT.sole.x_min + ROBOT.sole.x_max)
    for _ in range(20):
        x, y, lean = rng.uniform(-0.06, 0.02), rng.uniform(-0.04, 0.04), rng.uniform(-0.1, 0.1)
        legs = gait.inverse.solve(np.array([[[x, y + width, -0.62], [x, y - width, -0.62]]]), np.zeros((1, 2)), np.array([lean]))[0]
        q = ROBOT.default_q.copy()
        q[ROBOT.indices("left_leg")], q[ROBOT.indices("right_leg")] = legs
        com = rotation(np.array((0, 1.0, 0)), lean) @ centre_of_mass(ROBOT, q)
        tilt = np.array([[np.sin(lean), 0.0, -np.cos(lean)]])
        legs_q = q[None, ROBOT.indices("lmo_action")]
        gait.reset()
        point = capture(gait, tilt, np.zeros((1, 3)), legs_q, np.zeros_like(legs_q), 0.62)[0]
        np.testing.assert_allclose(point, com[:2] - (x + middle, y), atol=4e-3)


def test_a_push_seen_by_the_imu_makes_one_cycle_of_steps_and_no_more(gait):
    walk(gait, (0, 0, 0), 5, capture=(0.08, 0.0))
    assert not gait.stepping[0], "inside the soles' reach"
    walk(gait, (0, 0, 0), 3, capture=(0.15, 0.0))
    assert gait.stepping[0]
    trace = walk(gait, (0, 0, 0), 60)
    assert 0.5 <= sum(stepping for _, stepping in trace) * DT_S <= 0.62


def test_right_after_a_stop_it_takes_twice_as_much_to_step_again(gait):
    walk(gait, (0.3, 0, 0), 30)
    while gait.stepping[0]:
        walk(gait, (0, 0, 0), 1)
    walk(gait, (0, 0, 0), 4, capture=(0.12, 0.0))
    assert not gait.stepping[0]
    walk(gait, (0, 0, 0), 25, capture=(0.12, 0.0))
    assert gait.stepping[0]


def capture(gait: ReferenceGait, gravity, gyro, q, qd, height_m: float = 0.64) -> np.ndarray:
    feet, velocity = gait.sense_feet(gravity, gyro, q, qd)
    return gait.capture_point(gravity, gyro, feet, velocity, np.array([height_m]), DT_S)


def test_capture_point_of_a_robot_standing_still_is_zero_and_of_a_rigid_fall_what_a_pendulum_says(gait):
    height = np.array([0.64])
    q = gait.reference(np.zeros((1, 3)), height).q - gait.stance.sag_at(height, np.zeros((1, 2))).reshape(1, -1)[:, gait.order]
    still = np.zeros_like(q)
    point = capture(gait, np.array([[0, 0, -1.0]]), np.zeros((1, 3)), q, still)
    np.testing.assert_allclose(point, 0.0, atol=2e-3)
    # the whole body, stiff, turns forward about the soles: pelvis and centre of mass move by angle x height
    angle, rate = 0.05, 0.2
    gravity = np.array([[np.sin(angle), 0, -np.cos(angle)]])
    ahead = capture(gait, gravity, np.array([[0, rate, 0]]), q, still)[0]
    length = 0.64 + gait.stance.com_above_m
    expected = length * (angle + rate / np.sqrt(9.81 / length))
    assert ahead[0] == pytest.approx(expected, abs=3e-3) and abs(ahead[1]) < 1e-3
    # level pelvis, both hips and ankles turning so that the body slides backward over its feet: seen in the joints alone
    qd = still.copy()
    for i, name in enumerate(ROBOT.names("lmo_action")):
        qd[0, i] = {"hip_pitch": -0.3, "ankle_pitch": 0.3}.get(name.split("_", 1)[1].removesuffix("_joint"), 0.0)
    back = capture(gait, np.array([[0, 0, -1.0]]), np.zeros((1, 3)), q, qd)[0]
    assert back[0] < -0.03


def test_swing_foot_lifts_and_stance_foot_stays_down(gait):
    walk(gait, (0.3, 0, 0), 8)  # a quarter of the cycle but 10 ms: middle of the left swing
    reference = gait.reference(np.array([[0.3, 0, 0]]), np.array([0.64]))
    assert reference.lift_m[0, 0] == pytest.approx(GaitConfig().lift_m, abs=2e-3)
    assert reference.lift_m[0, 1] == 0.0 and reference.swing[0, 1] == 0.0


def test_another_leg_chain_is_refused():
    import yaml

    from wbvla_core.robot import config_candidates

    path = next(p for p in config_candidates("x2") if p.is_file())
    data = yaml.safe_load(path.read_text())
    next(j for j in data["joints"] if j["name"] == "left_hip_roll_joint")["axis"] = [0, 0, 1]
    with pytest.raises(RobotSpecError, match="left_leg must be a pitch-roll-yaw hip"):
        LegInverse(parse_robot(data))
