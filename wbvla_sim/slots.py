"""One robot in slots of 20 ms, whatever engine moves it: the motor driver, delays, sensor noise and pushes around its physics.

A world inherits from :class:`SlotWorld` and says how its engine is set back, stepped by 5 ms, pushed and read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from wbvla_core.robot import RobotSpec
from wbvla_core.types import JointCommand, RobotState
from wbvla_sim.driver import Driver, DriverState, MotorLaw
from wbvla_sim.model.build import SLOT_STEPS, TIMESTEP_S

FALLEN_TILT_RAD = 0.8  # the safety ladder's own threshold
FALLEN_HEIGHT_M = 0.3  # a pelvis below this has fallen
DIVERGED_SPEED = 200.0  # rad/s or m/s: no joint of the robot gets near this; the integration has diverged
SLOT_S = TIMESTEP_S * SLOT_STEPS


def fallen(tilt_rad: float | np.ndarray, pelvis_height_m: float | np.ndarray) -> bool | np.ndarray:
    """Whether a robot, or each of many, has fallen."""
    return (tilt_rad > FALLEN_TILT_RAD) | (pelvis_height_m < FALLEN_HEIGHT_M)


def diverged(qpos: np.ndarray, qvel: np.ndarray) -> bool | np.ndarray:
    """Whether a simulation, or each of many, has diverged: coordinates or velocities not finite, or velocities that no robot has.

    Args:
        qpos, qvel: generalised coordinates and velocities [..., nq], [..., nv].
    """
    finite = np.isfinite(qpos).all(axis=-1) & np.isfinite(qvel).all(axis=-1)
    return ~finite | (np.abs(qvel).max(axis=-1) > DIVERGED_SPEED)


@dataclass(frozen=True)
class SensorNoise:
    """Standard deviations of white noise on each sensor; 0 = perfect. Default of the world: none (options, not a claim about X2)."""

    q_rad: float = 0.0
    qd_rad_s: float = 0.0
    gyro_rad_s: float = 0.0
    gravity: float = 0.0

    @classmethod
    def typical(cls) -> SensorNoise:
        """Ours: encoder and MEMS figures of the size that legged RL trains with."""
        return cls(q_rad=0.002, qd_rad_s=0.05, gyro_rad_s=0.02, gravity=0.01)


@dataclass(frozen=True)
class SlotOptions:
    """What lies between a robot and its controller in any engine.

    Attributes:
        noise: of the sensors.
        state_delay_s: age of what :meth:`SlotWorld.state` returns, s (multiple of 5 ms).
        command_delay_s: time from slot to motors, s (multiple of 5 ms).
        watchdog_s: silence that the driver tolerates.
        push_interval_s, push_speed_m_s: every so often (mean, exponential) the pelvis gets a horizontal velocity step of up to this size; 0 = never.
    """

    noise: SensorNoise = field(default_factory=SensorNoise)
    state_delay_s: float = 0.0
    command_delay_s: float = 0.0
    watchdog_s: float = 0.1
    push_interval_s: float = 0.0
    push_speed_m_s: float = 0.0


class SlotWorld:
    """See the module text. A subclass sets its engine up, then calls :meth:`reset`.

    A simulation that diverges is a fault of the simulator, not of the robot: the engine keeps its last sound state, time goes on,
    the driver damps with the reason, and ``fault`` holds that reason until :meth:`reset`.
    """

    slot_s = SLOT_S
    fault = ""

    def __init__(self, robot: RobotSpec, options: SlotOptions) -> None:
        self.robot, self.options = robot, options
        self.driver = Driver(robot, watchdog_s=options.watchdog_s)

    # -- the engine's part ----------------------------------------------------------------------------------------------
    @property
    def time_s(self) -> float:
        """Simulated time since reset, s."""
        raise NotImplementedError

    def _restart(self) -> None:
        """Time zero, default pose at the origin, looking along +x, at rest."""
        raise NotImplementedError

    def _advance(self, law: MotorLaw) -> None:
        """5 ms of physics under a motor law. Where the physics diverges: call :meth:`_diverge`, keep the last sound state, let time go on."""
        raise NotImplementedError

    def _measure(self) -> RobotState:
        """The true state now."""
        raise NotImplementedError

    def _commanded(self) -> None:
        """The driver follows commands: what held the robot until then lets go."""

    def push(self, velocity_m_s: np.ndarray) -> None:
        """Add a horizontal velocity step [2] (room axes) to the pelvis."""
        raise NotImplementedError

    def truth(self) -> dict:
        """What only the simulator knows; at least pelvis_xyz [3], yaw_rad, tilt_rad, fallen."""
        raise NotImplementedError

    # -- time -----------------------------------------------------------------------------------------------------------
    def reset(self, seed: int = 0) -> RobotState:
        """Back to the start: default pose at the origin, looking along +x. The seed drives noise and pushes."""
        self._rng = np.random.default_rng(seed)
        self.fault = ""
        self._restart()
        self.driver.reset(0.0)
        self._inbox: deque[tuple[float, JointCommand]] = deque()
        self._next_push_s = self._draw_push_time()
        self._history: deque[RobotState] = deque(maxlen=round(self.options.state_delay_s / TIMESTEP_S) + 1)
        self._sense()
        return self.state()

    def slot(self, command: JointCommand | None, *, on_step: Callable[[RobotState], None] | None = None) -> RobotState:
        """Advance one 20 ms slot.

        Args:
            command: for all motors; None = silence, which the driver's watchdog counts.
            on_step: called with the state after each 5 ms step (200 Hz joint states and IMU).

        Raises:
            CommandError: a malformed command; nothing has moved then.
        """
        if command is not None:
            command.validate(self.robot.joint_count)
            self._inbox.append((self.time_s + self.options.command_delay_s, command))
        for _ in range(SLOT_STEPS):
            self._step()
            if on_step:
                on_step(self.state())
        return self.state()

    def _diverge(self, why: str) -> None:
        """Note that the physics diverged, and damp."""
        self.fault = f"the simulation diverged at {self.time_s:.3f} s: {why}"
        self.driver.damp(self.fault)

    def _step(self) -> None:
        now_s = self.time_s
        while self._inbox and self._inbox[0][0] <= now_s + 1e-9:
            self.driver.command(self._inbox.popleft()[1], now_s)
            if self.driver.state is DriverState.RUNNING:
                self._commanded()
        law = self.driver.tick(now_s)
        if now_s >= self._next_push_s:
            self.push(self._rng.uniform(-1.0, 1.0, 2) * self.options.push_speed_m_s)
            self._next_push_s = now_s + self._draw_push_time()
        self._advance(law)
        self._sense()

    def _draw_push_time(self) -> float:
        if self.options.push_interval_s <= 0.0:
            return np.inf
        return float(self._rng.exponential(self.options.push_interval_s))

    # -- what the robot feels -------------------------------------------------------------------------------------------
    def _sense(self) -> None:
        noise, rng, n = self.options.noise, self._rng, self.robot.joint_count
        state = self._measure()
        if noise != SensorNoise():
            q = state.q + rng.normal(0.0, noise.q_rad, n)
            qd = state.qd + rng.normal(0.0, noise.qd_rad_s, n)
            gyro = state.gyro + rng.normal(0.0, noise.gyro_rad_s, 3)
            gravity = state.gravity + rng.normal(0.0, noise.gravity, 3)
            gravity /= np.linalg.norm(gravity)
            state = RobotState(state.stamp_s, q, qd, gyro, gravity)
        self._history.append(state)

    def state(self) -> RobotState:
        """What the robot knows of itself now (``state_delay_s`` old, if delayed)."""
        return self._history[0]
