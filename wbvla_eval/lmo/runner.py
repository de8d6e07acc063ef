"""N robots through one program under one set of conditions: the loop, and the log of what happened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from wbvla_core.numeric import wrap
from wbvla_core.robot import RobotSpec
from wbvla_eval.lmo.arms import BenchmarkArms
from wbvla_eval.lmo.conditions import LOSS, NOISE, Conditions, Disturber, embody
from wbvla_eval.lmo.controllers import Checked
from wbvla_eval.lmo.programs import DT_S, SETTLE_S, Program, Truth
from wbvla_sim.batch import BatchWorld

RATE_FILTER_S = 0.3


@dataclass
class Log:
    """T ticks of N robots, values at the end of each 20 ms slot. Rows of a robot stay as they were when it fell; ``alive`` says until when they count.

    Attributes:
        seeds [N]; alive [T, N]; flags [T, N, 3], height_command [T, N]: as commanded.
        xy [T, N, 2], height [T, N], yaw [T, N] (unwrapped), pitch [T, N] (forward), com [T, N, 2]: of the pelvis and of the whole body.
        reference [T, N, 3]: the controller's own velocity reference; None if it shows none.
        feet [T, N, 2, 3]: sole points; loaded [T, N, 2]: vertical force over LOADED_N.
        over, speed, torque, work_j, self_contact, shake [T, N], force_n [T, N, 2]: wbvla_sim.batch.SlotUse.
        thing [T, N]: way of the scenery's first own coordinate (the cart), m; None without.
        qpos [T, N, nq] float32, None unless asked for.
        program: with whatever it knows (goals).
        drawn: bodies and delays [N] by name.
    """

    seeds: np.ndarray
    alive: np.ndarray
    flags: np.ndarray
    height_command: np.ndarray
    xy: np.ndarray
    height: np.ndarray
    yaw: np.ndarray
    pitch: np.ndarray
    com: np.ndarray
    reference: np.ndarray | None
    feet: np.ndarray
    loaded: np.ndarray
    over: np.ndarray
    speed: np.ndarray
    torque: np.ndarray
    work_j: np.ndarray
    self_contact: np.ndarray
    shake: np.ndarray
    force_n: np.ndarray
    thing: np.ndarray | None
    qpos: np.ndarray | None
    program: Program
    drawn: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def fell(self) -> np.ndarray:
        """[N]"""
        return ~self.alive[-1]

    @property
    def seconds(self) -> np.ndarray:
        """Time on its feet [N], s, the settling included."""
        return self.alive.sum(axis=0) * DT_S


LOADED_N = 30.0  # a foot with more than this on it stands: 7 % of the X2's weight


def run(
    world: BatchWorld,
    controller: Checked,
    program: Program,
    conditions: Conditions,
    seeds: Sequence[int],
    *,
    arm_pose: np.ndarray | None = None,
    keep_qpos: bool = False,
    on_tick: Callable[[int, int], None] | None = None,
    disturber: Disturber | None = None,
) -> Log:
    """Run ``len(seeds)`` robots, one episode each.

    Args:
        arm_pose: fixed targets [K] of group ``arms`` instead of arm motion.
        on_tick: called with (tick, ticks).
        disturber: in place of the conditions' own pulses and pushes.
    """
    robot, n = world.robot, len(seeds)
    if world.count != n:
        raise ValueError(f"the world holds {world.count} robots, got {n} seeds")
    drawn = embody(world, conditions, seeds)
    start = robot.default_q.copy()
    arms = robot.indices("arms")
    if arm_pose is not None:
        start[arms] = arm_pose
    world.reset(start)
    controller.reset(np.arange(n))
    total = round(program.seconds / DT_S)
    disturber = disturber or Disturber(conditions, seeds, program.seconds, DT_S, SETTLE_S)
    motion = (
        None
        if conditions.arms is None or arm_pose is not None
        else BenchmarkArms(robot, seeds, speed=conditions.arms.speed, amplitude=conditions.arms.amplitude)
    )
    noise, losses = np.random.default_rng((seeds[0], NOISE)), np.random.default_rng((seeds[0], LOSS))
    legs, target = robot.indices("lmo_action"), np.tile(start, (n, 1))
    sent = target.copy()
    alive = np.ones(n, dtype=bool)
    truth = Truth(world.qpos[:, :2].copy(), world.yaw_rad, np.zeros((n, 2)), np.zeros(n))
    log = _empty(world, controller, program, seeds, total, keep_qpos)
    log.drawn = drawn
    ids: np.ndarray | None = None
    own = robot.joint_count + 7  # scenery's coordinates come behind the robot's
    for t in range(total):
        flags, height = program.command(t, truth)
        inputs = (flags, height, *world.sense(conditions.noise, noise))
        target[:, legs] = controller.act(alive, *(np.nan_to_num(v) for v in inputs))
        if motion is not None:
            target[:, arms] = motion.step(DT_S)
        disturber.apply(world, t)
        arrives = losses.random(n) >= conditions.loss
        sent[arrives] = target[arrives]
        world.slot(sent, ids)
        now_alive = alive & ~world.fallen
        if (now_alive != alive).any():
            alive = now_alive
            ids = np.flatnonzero(alive)
        xy, yaw = world.qpos[:, :2].copy(), world.yaw_rad
        gain = DT_S / RATE_FILTER_S
        turned = wrap(yaw - truth.yaw)
        truth.velocity += gain * ((xy - truth.xy) / DT_S - truth.velocity)
        truth.yaw_rate += gain * (turned / DT_S - truth.yaw_rate)
        truth.xy, truth.yaw = xy, yaw
        log.alive[t], log.flags[t], log.height_command[t] = alive, flags, height
        log.xy[t], log.height[t], log.yaw[t], log.pitch[t], log.com[t] = xy, world.qpos[:, 2], yaw, world.pitch_rad, world.com[:, :2]
        if log.reference is not None:
            log.reference[t] = controller.velocity
        log.feet[t], log.loaded[t] = world.feet, world.foot_force_n > LOADED_N
        use = world.use
        log.over[t], log.speed[t], log.torque[t], log.work_j[t] = use.over, use.speed, use.torque, use.work_j
        log.self_contact[t], log.force_n[t], log.shake[t] = use.self_contact, use.force_n, use.shake
        if log.thing is not None:
            log.thing[t] = world.qpos[:, own]
        if log.qpos is not None:
            log.qpos[t] = world.qpos
        if on_tick is not None:
            on_tick(t, total)
        if not alive.any():  # nothing more can happen
            for name in ("xy", "height", "yaw", "pitch", "com", "feet", "flags", "height_command", "thing", "qpos", "reference"):
                if (rows := getattr(log, name)) is not None:
                    rows[t + 1 :] = rows[t]
            break
    log.yaw = np.unwrap(np.nan_to_num(log.yaw), axis=0)
    return log


def _empty(world: BatchWorld, controller: Checked, program: Program, seeds: Sequence[int], t: int, keep_qpos: bool) -> Log:
    n, real = world.count, np.float64
    scenery = world.model.nq > world.robot.joint_count + 7
    return Log(
        seeds=np.asarray(seeds),
        alive=np.zeros((t, n), dtype=bool),
        flags=np.zeros((t, n, 3), dtype=np.int8),
        height_command=np.zeros((t, n), dtype=np.float32),
        xy=np.zeros((t, n, 2), dtype=real),
        height=np.zeros((t, n), dtype=real),
        yaw=np.zeros((t, n), dtype=real),
        pitch=np.zeros((t, n), dtype=np.float32),
        com=np.zeros((t, n, 2), dtype=real),
        reference=None if controller.velocity is None else np.zeros((t, n, 3)),
        feet=np.zeros((t, n, 2, 3), dtype=np.float32),
        loaded=np.zeros((t, n, 2), dtype=bool),
        over=np.zeros((t, n), dtype=np.float32),
        speed=np.zeros((t, n), dtype=np.float32),
        torque=np.zeros((t, n), dtype=np.float32),
        work_j=np.zeros((t, n), dtype=np.float32),
        self_contact=np.zeros((t, n), dtype=bool),
        shake=np.zeros((t, n), dtype=np.float32),
        force_n=np.zeros((t, n, 2), dtype=np.float32),
        thing=np.zeros((t, n)) if scenery else None,
        qpos=np.zeros((t, n, world.model.nq), dtype=np.float32) if keep_qpos else None,
        program=program,
    )


def make_world(robot: RobotSpec, count: int, **options: object) -> BatchWorld:
    """A batch world with these :class:`wbvla_sim.batch.BatchOptions`; ``scenery`` is passed through."""
    from wbvla_sim.batch import BatchOptions

    scenery = options.pop("scenery", None)
    return BatchWorld(robot, count, options=BatchOptions(**options), scenery=scenery)
