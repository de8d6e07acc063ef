"""The other side of a node under test: publishers and subscriptions by the keys of the topic table, and a leg controller that only holds still."""

from __future__ import annotations

import time
from collections import defaultdict

import numpy as np
from rclpy.node import Node

from wbvla_core.robot import load_robot
from wbvla_core.ros import codec
from wbvla_core.ros.qos import interface_class, qos, service, topic
from wbvla_core.types import ArmChunk, Decision, JointCommand, LocoCommand, RobotState
from wbvla_lmo.node import LmoNode

from .conftest import PATIENCE_S

ROBOT = load_robot("x2")
STAND = LocoCommand(stance_height_m=ROBOT.default_stance_height_m)
UPRIGHT = np.array((0.0, 0.0, -1.0))


class HoldController:
    """Holds the default pose and remembers what it was told."""

    def __init__(self) -> None:
        self.ticks: list[LocoCommand] = []
        self.decisions: list[Decision] = []
        self.holds = 0
        self.spoil = False  # give a command that is not finite

    def reset(self, state: RobotState) -> None:
        pass

    def set_decision(self, decision: Decision, now_s: float, *, age_s: float | None = None) -> None:
        self.decisions.append(decision)

    def hold_arms(self) -> None:
        self.holds += 1

    def tick(self, state: RobotState, loco: LocoCommand, now_s: float) -> JointCommand:
        self.ticks.append(loco)
        zeros = np.zeros(ROBOT.joint_count)
        q = np.full(ROBOT.joint_count, np.nan) if self.spoil else ROBOT.default_q.copy()
        return JointCommand(state.stamp_s, q, zeros, zeros, ROBOT.kp.copy(), ROBOT.kd.copy())

    def anticipate(self, loco: LocoCommand) -> None:
        pass


class HoldLmo(LmoNode):
    """LMO with that controller."""

    def make_controller(self, robot):
        return HoldController()


class Probe(Node):
    """Publishes and hears anything by its key."""

    def __init__(self, context) -> None:
        super().__init__("probe", context=context)
        self._out: dict[str, object] = {}
        self.heard: dict[str, list] = defaultdict(list)

    def hear(self, *keys: str) -> None:
        for key in keys:
            self.create_subscription(interface_class(topic(key).type), topic(key).name, self.heard[key].append, qos(key, 100))

    def out(self, key: str):
        if key not in self._out:
            self._out[key] = self.create_publisher(interface_class(topic(key).type), topic(key).name, qos(key))
        return self._out[key]

    def send(self, key: str, msg) -> None:
        """Publish once somebody listens."""
        publisher, deadline_s = self.out(key), time.monotonic() + PATIENCE_S
        while publisher.get_subscription_count() == 0:
            assert time.monotonic() < deadline_s, f"nobody listens to {key}"
            time.sleep(0.005)
        publisher.publish(msg)

    def state(self, at_s: float, *, q: np.ndarray | None = None, gravity: np.ndarray = UPRIGHT) -> None:
        """One IMU sample and one joint state of this stamp."""
        self.send("imu", codec.imu_msg("pelvis", at_s, codec.quaternion_from_gravity(gravity, 0.0), np.zeros(3)))
        self.send("joint_states", codec.joint_state_msg(ROBOT.joint_names, at_s, ROBOT.default_q if q is None else q, np.zeros(ROBOT.joint_count)))

    def decide(self, source: str, at_s: float, command: LocoCommand) -> None:
        """One decision: arms and command of one stamp."""
        arms = ROBOT.default_q[ROBOT.indices("upper_body")][None]
        self.send(f"{source}_arms", codec.arms_msg(ArmChunk(ROBOT.names("upper_body"), arms), at_s))
        self.send(f"{source}_loco", codec.loco_msg(command, at_s, ROBOT.stance_height_range_m))

    def call(self, key: str, request=None, timeout_s: float = PATIENCE_S):
        """Call a service and wait for the answer (another thread spins)."""
        client = self.create_client(interface_class(service(key).type), service(key).name)
        assert client.wait_for_service(timeout_s), f"{key} is not offered"
        future, deadline_s = client.call_async(request or interface_class(service(key).type).Request()), time.monotonic() + timeout_s
        while not future.done():
            assert time.monotonic() < deadline_s, f"{key} did not answer"
            time.sleep(0.005)
        self.destroy_client(client)
        return future.result()
