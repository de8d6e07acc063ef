"""The simulated motor driver: law, limits and the last rung of the safety ladder. Pure numpy; time comes in from outside.

Law per motor: tau = kp (q* - q) + kd (qd* - qd) + tau_ff, held inside the torque limit and the torque-speed line. MuJoCo evaluates it as
actuator gain and bias, so that the integrator takes the velocity term implicitly (see :mod:`wbvla_sim.model.build`).
No JointCommand for ``watchdog_s`` -> damping (no stiffness, pure velocity gain), latched until :meth:`Driver.rearm`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np

from wbvla_core.damping import damping_gains
from wbvla_core.robot import RobotSpec
from wbvla_core.types import JointCommand

WATCHDOG_S = 0.1  # DESIGN: the last rung is in the driver


class DriverState(enum.Enum):
    WAITING = "waiting"  # no command yet: holds the default pose, the gantry carries the robot
    RUNNING = "running"
    DAMPING = "damping"


@dataclass(frozen=True)
class MotorLaw:
    """What every motor does until told otherwise; arrays [J] in the spec's order."""

    q: np.ndarray
    qd: np.ndarray
    tau_ff: np.ndarray
    kp: np.ndarray
    kd: np.ndarray

    def torque(self, q: np.ndarray, qd: np.ndarray, spec: RobotSpec) -> np.ndarray:
        """Torque [J] at measured q, qd [J], limits applied."""
        low, high = spec.torque_range(qd)
        return np.clip(self.kp * (self.q - q) + self.kd * (self.qd - qd) + self.tau_ff, low, high)


class Driver:
    """Turns JointCommands into motor laws, and silence into damping."""

    def __init__(self, spec: RobotSpec, *, watchdog_s: float = WATCHDOG_S) -> None:
        self.spec = spec
        self.watchdog_s = watchdog_s
        zeros = np.zeros(spec.joint_count)
        self._hold = MotorLaw(spec.default_q, zeros, zeros, spec.kp, spec.kd)
        self._damp = MotorLaw(spec.default_q, zeros, zeros, zeros, damping_gains(spec))
        self.reset(0.0)

    def reset(self, now_s: float) -> None:
        """Forget everything and wait for a first command."""
        self.state, self.reason = DriverState.WAITING, ""
        self.law = self._hold
        self._command_s = now_s

    def command(self, command: JointCommand, now_s: float) -> None:
        """Take a command. A malformed one raises CommandError and does not feed the watchdog; in damping all are ignored."""
        command.validate(self.spec.joint_count)
        if self.state is DriverState.DAMPING:
            return
        self.state = DriverState.RUNNING
        self._command_s = now_s
        self.law = MotorLaw(self.spec.clamp(command.q), command.qd, command.tau_ff, command.kp, command.kd)

    def tick(self, now_s: float) -> MotorLaw:
        """The law that holds now; falls into damping when the last command is too old."""
        if self.state is DriverState.RUNNING and now_s - self._command_s > self.watchdog_s + 1e-9:
            self.damp(f"no JointCommand for {self.watchdog_s:g} s")
        return self.law

    def damp(self, reason: str) -> None:
        """Go to damping, latched."""
        self.state, self.reason, self.law = DriverState.DAMPING, reason, self._damp

    def rearm(self, now_s: float) -> None:
        """Leave damping: wait for a command again, holding the default pose."""
        self.reset(now_s)
