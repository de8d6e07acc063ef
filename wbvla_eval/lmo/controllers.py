"""What may be benchmarked: anything that turns commands and proprioception of N robots into leg targets at 50 Hz.

    class MyController:
        name, cruise = "mine", (0.3, 0.3, 0.3)
        def __init__(self, robot, count): ...
        def reset(self, ids): ...
        def act(self, flags, height_m, gyro, gravity, q, qd): return targets

``wbvla eval lmo --controller my_package.my_module:MyController`` runs it. See docs/benchmark.md.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np

from wbvla_core.checkpoint import Manifest
from wbvla_core.errors import CommandError, ErrorCode, WbvlaError
from wbvla_core.robot import RobotSpec
from wbvla_lmo.pipeline import LegPipeline
from wbvla_lmo.policy import LmoPolicy

Cruise = tuple[float, float, float]


class Controller(Protocol):
    """N robots under one controller. Rows of robots whose episode is over go on arriving and are ignored.

    Attributes:
        name: for tables.
        cruise: what a flag of 1 asks for (forward m/s, left m/s, yaw rad/s): the ideal that accuracy is measured against.
        velocity: optional, [N, 3]: the controller's own smooth reference at the last :meth:`act`. If it is there, its error is reported apart.
    """

    name: str
    cruise: Cruise

    def reset(self, ids: np.ndarray) -> None:
        """Robots ``ids`` stand still in the default pose and begin afresh."""

    def act(self, flags: np.ndarray, height_m: np.ndarray, gyro: np.ndarray, gravity: np.ndarray, q: np.ndarray, qd: np.ndarray) -> np.ndarray:
        """One 20 ms tick.

        Args:
            flags: [N, 3] in {-1, 0, 1} (forward, left, yaw). height_m: commanded stance height [N], m.
            gyro, gravity: [N, 3], pelvis frame. q, qd: [N, J], the robot spec's joint order.

        Returns:
            Targets of the joints of group ``lmo_action`` [N, L], rad.
        """


Factory = Callable[[RobotSpec, int], Controller]


class CheckpointController:
    """An exported checkpoint (ONNX and manifest) through the pipeline that the node runs, N robots at once."""

    def __init__(self, robot: RobotSpec, count: int, policy: LmoPolicy) -> None:
        self.name, self.manifest, self._policy = policy.manifest.name, policy.manifest, policy
        self.pipeline = LegPipeline(robot, policy.config, count)
        self.cruise: Cruise = tuple(float(v) for v in policy.config.gating.cruise)
        self._height_m = robot.default_stance_height_m

    @property
    def velocity(self) -> np.ndarray:
        """Gated reference [N, 3]."""
        return self.pipeline.velocity

    def reset(self, ids: np.ndarray) -> None:
        self.pipeline.reset(ids, height_m=self._height_m)

    def act(self, flags: np.ndarray, height_m: np.ndarray, gyro: np.ndarray, gravity: np.ndarray, q: np.ndarray, qd: np.ndarray) -> np.ndarray:
        return self.pipeline.act(self._policy(self.pipeline.observe(flags, height_m, gyro, gravity, q, qd)))


class Standing:
    """Holds the default pose, whatever is commanded: what a controller must beat, and the shortest example of one."""

    name, cruise = "standing", (0.3, 0.3, 0.3)

    def __init__(self, robot: RobotSpec, count: int) -> None:
        self._target = np.tile(robot.default_q[robot.indices("lmo_action")], (count, 1))

    def reset(self, ids: np.ndarray) -> None:
        pass

    def act(self, flags: np.ndarray, height_m: np.ndarray, gyro: np.ndarray, gravity: np.ndarray, q: np.ndarray, qd: np.ndarray) -> np.ndarray:
        return self._target


def checkpoint_factory(directory: Path, robot: RobotSpec) -> tuple[Factory, Manifest]:
    """Load an exported checkpoint once; the factory makes controllers of any count from it.

    Raises:
        CheckpointError: missing, damaged, or for another robot.
    """
    policy = LmoPolicy.load(directory, robot)
    return (lambda robot, count: CheckpointController(robot, count, policy)), policy.manifest


def callable_factory(text: str) -> Factory:
    """Import ``package.module:factory``; the current folder counts.

    Raises:
        CommandError: no such module or attribute, or it cannot be called.
    """
    module_name, _, attribute = text.partition(":")
    if not module_name or not attribute or not all(part.isidentifier() for part in module_name.split(".")) or module_name.endswith(".py"):
        raise CommandError(f"--controller must look like package.module:factory, got {text!r}{_as_module(module_name, attribute)}", ErrorCode.COMMAND_SHAPE)
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
    except ModuleNotFoundError as error:
        raise CommandError(
            f"--controller {text}: cannot import {error.name!r}; run from the folder that holds it, or install it", ErrorCode.COMMAND_SHAPE
        ) from error
    except AttributeError as error:
        raise CommandError(f"--controller {text}: module {module_name} has no {attribute!r}", ErrorCode.COMMAND_SHAPE) from error
    if not callable(factory):
        raise CommandError(f"--controller {text}: {attribute} must be callable as factory(robot, count), got {type(factory).__name__}", ErrorCode.COMMAND_SHAPE)
    return factory


def _as_module(path: str, attribute: str) -> str:
    """What to write in place of a file's path: its folder to go to, and its name as a module's."""
    file = Path(path)
    if file.suffix != ".py" or not attribute:
        return ""
    folder = "" if str(file.parent) == "." else f", from the folder {file.parent}"
    return f"; for the file {path} that is {file.stem}:{attribute}{folder}"


class Checked:
    """A controller whose answers are looked at: wrong shape or NaN ends the run with a sentence instead of a strange table."""

    def __init__(self, factory: Factory, robot: RobotSpec, count: int) -> None:
        try:
            self.inner = factory(robot, count)
        except WbvlaError:
            raise
        except Exception as error:
            called = f"{getattr(factory, '__name__', factory)}(robot, {count})"
            raise CommandError(f"controller {called} raised {type(error).__name__}: {error}; see docs/benchmark.md for the interface") from error
        self.shape = (count, len(robot.indices("lmo_action")))
        for name in ("name", "cruise", "reset", "act"):
            if not hasattr(self.inner, name):
                raise CommandError(f"controller {type(self.inner).__name__} has no {name!r}; see docs/benchmark.md for the interface", ErrorCode.COMMAND_SHAPE)
        cruise = np.asarray(self.inner.cruise, dtype=float)
        if cruise.shape != (3,) or not np.isfinite(cruise).all() or (cruise <= 0).any():
            raise CommandError(f"controller {self.inner.name}: cruise must be 3 positive speeds, got {self.inner.cruise!r}", ErrorCode.COMMAND_SHAPE)
        self.name, self.cruise = str(self.inner.name), cruise

    @property
    def velocity(self) -> np.ndarray | None:
        """The controller's own reference [N, 3], None if it shows none."""
        return getattr(self.inner, "velocity", None)

    def reset(self, ids: np.ndarray) -> None:
        self.inner.reset(ids)

    def act(self, alive: np.ndarray, *inputs: np.ndarray) -> np.ndarray:
        """Targets [N, L] of robots ``alive`` [N] (the others' rows are set to 0 where they are not finite)."""
        target = np.asarray(self.inner.act(*inputs), dtype=np.float64)
        if target.shape != self.shape:
            raise CommandError(
                f"controller {self.name}: act must return leg targets of shape {self.shape} (robots, joints of group lmo_action), got {target.shape}",
                ErrorCode.COMMAND_SHAPE,
            )
        good = np.isfinite(target).all(axis=1)
        if not good[alive].all():
            first = int(np.flatnonzero(alive & ~good)[0])
            raise CommandError(
                f"controller {self.name}: targets of robot {first} are not finite: {target[first].tolist()}; its inputs were finite",
                ErrorCode.COMMAND_NOT_FINITE,
            )
        return np.where(good[:, None], target, 0.0)
