"""The head camera of the simulated robot, in its own process: SimState in, Image and CameraInfo out, same stamp.

Rendering takes many milliseconds; physics and the 50 Hz loop must never wait for it.
"""

from __future__ import annotations

import math
import time

import mujoco
import numpy as np

from wbvla_core.errors import ErrorCode, StateError
from wbvla_core.robot import load_robot
from wbvla_core.ros import codec
from wbvla_core.ros.health import Health, Level
from wbvla_core.ros.lifecycle import ManagedNode, Parameter, run_node
from wbvla_core.ros.qos import topic
from wbvla_core.timeline import TickFollower
from wbvla_msgs.msg import SimState
from wbvla_sim.scene import random_scene
from wbvla_sim.world import World, WorldOptions


class RenderNode(ManagedNode):
    """Renders the head camera from the simulator's state."""

    NAME = "render"
    PARAMETERS = {
        "robot": Parameter("x2", "robot spec: a name of config/robots or the path of a YAML file"),
        "width": Parameter(0, "image width [px]; 0 = the robot spec's", 0, 1920),
        "height": Parameter(0, "image height [px]; 0 = the robot spec's", 0, 1080),
        "rate_hz": Parameter(0.0, "images per second of simulated time; 0 = the robot spec's", 0.0, 60.0),
    }

    def load(self) -> None:
        s = self.settings
        self.robot = load_robot(s["robot"])
        camera, self._frame_id = self.robot.camera, self.robot.frame_link("head_camera")
        self._size = (s["width"] or camera.width, s["height"] or camera.height)
        self._follower = TickFollower(1.0 / (s["rate_hz"] or camera.rate_hz))
        self._world: World | None = None
        self._scene_key: tuple[str, int] | None = None
        self._frames, self._render_s = 0, 0.0
        self._image_out, self._info_out = self.publisher("camera_image"), self.publisher("camera_info")
        self.listen("sim_state", self._decode, self._draw)

    def _decode(self, msg: SimState) -> tuple[float, str, int, np.ndarray]:
        qpos = np.asarray(msg.qpos, dtype=np.float64)
        if not np.isfinite(qpos).all():
            raise StateError("simulator state must be finite", ErrorCode.STATE_NOT_FINITE)
        return codec.stamp_s(msg.header.stamp), msg.scene, msg.seed, qpos

    def _draw(self, state: tuple[float, str, int, np.ndarray]) -> None:
        at_s, kind, seed, qpos = state
        if not self._follower.due(at_s):
            return
        if self._scene_key != (kind, seed):  # the scene comes with the state: there is no second place to set it
            self._world = World(self.robot, random_scene(seed, kind=kind, robot=self.robot), options=WorldOptions(camera_size=self._size))
            self._scene_key = (kind, seed)
        if qpos.shape != (self._world.model.nq,):
            error = StateError(f"simulator state must have {self._world.model.nq} positions, got {len(qpos)}; same robot on both sides?", ErrorCode.STATE_SHAPE)
            self.refuse(topic("sim_state").name, error)
            return
        start = time.perf_counter()
        self._world.data.qpos[:] = qpos
        mujoco.mj_kinematics(self._world.model, self._world.data)
        mujoco.mj_camlight(self._world.model, self._world.data)
        image = self._world.render("head")
        self._render_s, self._frames = time.perf_counter() - start, self._frames + 1
        self._image_out.publish(codec.image_msg(image, at_s, self._frame_id))
        self._info_out.publish(codec.camera_info_msg(*self._size, math.radians(self.robot.camera.fovy_deg), at_s, self._frame_id))

    def health(self) -> Health:
        missing = self.heard.missing("sim_state", "simulator state")
        return Health({"frames": self._frames, "render_ms": self._render_s * 1e3}, Level.STALE if missing else Level.OK, missing)


def main(argv: list[str] | None = None) -> None:
    run_node(RenderNode, argv)


if __name__ == "__main__":
    main()
