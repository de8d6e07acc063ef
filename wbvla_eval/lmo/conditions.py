"""What the world does to the robots during an episode. Every law is written here once, with its source, and drawn per robot from its own seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from wbvla_sim.batch import BatchWorld
from wbvla_sim.model.build import TIMESTEP_S
from wbvla_sim.slots import SensorNoise

Range = tuple[float, float]

# Second word of each generator's seed: draws for one purpose do not move when another purpose draws more. 1 is taken by BenchmarkArms.
PROGRAM, BODIES, PULSES, PUSHES, NOISE, LOSS = 0, 2, 3, 4, 5, 6


@dataclass(frozen=True)
class Bodies:
    """Ranges of uniform draws per episode; the defaults are the nominal robot.

    Attributes:
        link_mass, gains: factors of each body's mass and of each drive's kp and kd.
        payload_kg, hand_kg: added to the torso and to each hand.
        friction: between soles and floor.
        torque_bias: constant torque per drive, part of its limit.
    """

    link_mass: Range = (1.0, 1.0)
    payload_kg: Range = (0.0, 0.0)
    hand_kg: Range = (0.0, 0.0)
    friction: Range = (0.8, 0.8)
    gains: Range = (1.0, 1.0)
    torque_bias: Range = (0.0, 0.0)


@dataclass(frozen=True)
class Delays:
    """Ranges of uniform whole numbers of 5 ms steps, constant within an episode.

    Attributes:
        command: slot to motors. joints, imu: age of what the controller reads.
    """

    command: tuple[int, int] = (4, 4)
    joints: tuple[int, int] = (0, 0)
    imu: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Pulses:
    """Force and torque pulses on the torso's centre of mass. Size and length: paper (A7); gaps, uniform sizes and the point of attack: ours.

    Two independent trains. Horizontal: direction uniform, force uniform in [0, force_n]. Yaw: torque uniform in [-torque_nm, torque_nm].
    The gap from one pulse to the next of its train is uniform in gap_s.
    """

    force_n: float = 150.0
    torque_nm: float = 30.0
    length_s: float = 0.1
    gap_s: Range = (2.0, 5.0)


@dataclass(frozen=True)
class Pushes:
    """Velocity steps of the pelvis: direction uniform, size uniform in [0, speed_m_s] (paper: up to 0.5 m/s, every 4 s), gaps uniform in gap_s (ours)."""

    speed_m_s: float = 0.5
    gap_s: Range = (2.0, 6.0)


@dataclass(frozen=True)
class Arms:
    """Factors of the arm replay (paper, A7: stability at 2.0 and 1.5)."""

    speed: float = 1.0
    amplitude: float = 1.0


@dataclass(frozen=True)
class Conditions:
    """All of it. The default is the nominal robot: sensor noise of typical size, 20 ms from tick to motors (ours), arms in motion, no pushes.

    Attributes:
        loss: probability that a tick's command never reaches the motors; they hold the one before.
    """

    noise: SensorNoise = field(default_factory=SensorNoise.typical)
    bodies: Bodies = Bodies()
    delays: Delays = Delays()
    loss: float = 0.0
    arms: Arms | None = Arms()
    pulses: Pulses | None = None
    pushes: Pushes | None = None


NOMINAL = Conditions()

# Paper, Table 5, but: friction not under 0.4 and torso load -1..3 kg (both have a sweep of their own), joint and IMU lag to 10 and 15 ms instead of
# 40 and 50 (ours: a joint state on the X2's own computer is not older).
RANDOMISED_BODIES = Bodies((0.8, 1.2), (-1.0, 3.0), (-0.1, 0.3), (0.4, 1.3), (0.9, 1.1), (-0.05, 0.05))
RANDOMISED_DELAYS = Delays((2, 8), (0, 2), (1, 3))


def embody(world: BatchWorld, conditions: Conditions, seeds: Sequence[int]) -> dict[str, np.ndarray]:
    """Give each robot of ``world`` its body and delays; returns what was drawn that one number can tell [N]."""
    b, d, robot = conditions.bodies, conditions.delays, world.robot
    legs_and_all, bodies = robot.joint_count, world.model.nbody
    rows: dict[str, list] = {k: [] for k in ("mass", "payload", "hand", "friction", "kp", "kd", "bias", "command", "joints", "imu")}
    for seed in seeds:
        rng = np.random.default_rng((seed, BODIES))
        rows["mass"].append(rng.uniform(*b.link_mass, bodies))
        rows["payload"].append(rng.uniform(*b.payload_kg))
        rows["hand"].append(rng.uniform(*b.hand_kg, 2))
        rows["friction"].append(rng.uniform(*b.friction))
        rows["kp"].append(rng.uniform(*b.gains, legs_and_all))
        rows["kd"].append(rng.uniform(*b.gains, legs_and_all))
        rows["bias"].append(rng.uniform(*b.torque_bias, legs_and_all) * robot.effort_nm)
        for name, (low, high) in (("command", d.command), ("joints", d.joints), ("imu", d.imu)):
            rows[name].append(int(rng.integers(low, high + 1)))
    v = {k: np.array(values) for k, values in rows.items()}
    world.vary(link_mass=v["mass"], payload_kg=v["payload"], hand_kg=v["hand"], friction=v["friction"], kp=v["kp"], kd=v["kd"], torque_bias=v["bias"])
    world.delay(command=v["command"], joints=v["joints"], imu=v["imu"])
    late = {f"drawn_{name}_ms": 1e3 * TIMESTEP_S * v[name] for name in ("command", "joints", "imu")}
    return {"drawn_payload_kg": v["payload"], "drawn_friction": v["friction"]} | late


class Disturber:
    """Applies pulses and pushes to a world, tick by tick."""

    def __init__(self, conditions: Conditions, seeds: Sequence[int], seconds: float, dt_s: float, quiet_s: float) -> None:
        """Works out all events beforehand; none in the first ``quiet_s``."""
        ticks, n = round(seconds / dt_s) + 1, len(seeds)
        self.force: np.ndarray | None = None
        self.events: dict[int, list[tuple[int, np.ndarray]]] = {}
        if (p := conditions.pulses) is not None:
            self.force = np.zeros((ticks, n, 3), dtype=np.float32)  # x, y force N, yaw torque Nm
            length = round(p.length_s / dt_s)
            for i, seed in enumerate(seeds):
                rng = np.random.default_rng((seed, PULSES))
                for start in _moments(rng, p.gap_s, quiet_s, seconds):
                    angle, size = rng.uniform(-np.pi, np.pi), rng.uniform(0.0, p.force_n)
                    k = round(start / dt_s)
                    self.force[k : k + length, i, :2] = size * np.cos(angle), size * np.sin(angle)
                for start in _moments(rng, p.gap_s, quiet_s, seconds):
                    k = round(start / dt_s)
                    self.force[k : k + length, i, 2] = rng.uniform(-p.torque_nm, p.torque_nm)
        if (v := conditions.pushes) is not None:
            for i, seed in enumerate(seeds):
                rng = np.random.default_rng((seed, PUSHES))
                for start in _moments(rng, v.gap_s, quiet_s, seconds):
                    angle, size = rng.uniform(-np.pi, np.pi), rng.uniform(0.0, v.speed_m_s)
                    self.events.setdefault(round(start / dt_s), []).append((i, size * np.array((np.cos(angle), np.sin(angle)))))

    def apply(self, world: BatchWorld, tick: int) -> None:
        """What happens in the slot that begins now."""
        if self.force is not None:
            world.pull(self.force[tick, :, :2], self.force[tick, :, 2])
        for i, velocity in self.events.get(tick, ()):
            world.push(np.array([i]), velocity[None])


def _moments(rng: np.random.Generator, gap_s: Range, begin_s: float, end_s: float) -> list[float]:
    """Times whose gaps are uniform in ``gap_s``."""
    times, now = [], begin_s + rng.uniform(0.0, gap_s[1])
    while now < end_s:
        times.append(now)
        now += rng.uniform(*gap_s)
    return times
