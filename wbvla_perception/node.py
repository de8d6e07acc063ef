"""Camera image in, policy image out, same stamp: the ROS side of :mod:`wbvla_perception.preprocess`."""

from __future__ import annotations

import numpy as np
from sensor_msgs.msg import Image

from wbvla_core.robot import load_robot
from wbvla_core.ros import codec
from wbvla_core.ros.health import Health, Level
from wbvla_core.ros.lifecycle import ManagedNode, Parameter, run_node
from wbvla_core.ros.qos import topic
from wbvla_core.timeline import TickFollower
from wbvla_perception.preprocess import ImageSpec, policy_image


class PerceptionNode(ManagedNode):
    """Checks, decimates and transforms camera images."""

    NAME = "perception"
    PARAMETERS = {
        "robot": Parameter("x2", "robot spec: a name of config/robots or the path of a YAML file"),
        "size": Parameter(96, "edge of the square policy image [px]; must equal the policy's", 16, 1024),
        "source_width": Parameter(0, "camera image width that is accepted [px]; 0 = the robot spec's", 0, 4096),
        "source_height": Parameter(0, "camera image height that is accepted [px]; 0 = the robot spec's", 0, 4096),
        "rate_hz": Parameter(10.0, "policy images per second of camera time; faster cameras are decimated", 1.0, 60.0),
    }

    def load(self) -> None:
        s = self.settings
        camera = load_robot(s["robot"]).camera
        self._spec = ImageSpec(
            size=s["size"], source_width=s["source_width"] or camera.width, source_height=s["source_height"] or camera.height, fovy_deg=camera.fovy_deg
        )
        self._follower = TickFollower(1.0 / s["rate_hz"], tolerance_s=0.01)
        self._received = self._sent = 0
        self._out = self.publisher("policy_image")
        self.listen("camera_image", self._decode, self._transform)

    def _decode(self, msg: Image) -> tuple[float, str, np.ndarray]:
        image = codec.image_from_msg(msg, width=self._spec.source_width, height=self._spec.source_height)
        return codec.stamp_s(msg.header.stamp), msg.header.frame_id, image

    def _transform(self, frame: tuple[float, str, np.ndarray]) -> None:
        at_s, frame_id, image = frame
        self._received += 1
        if self._follower.due(at_s):
            self._out.publish(codec.image_msg(policy_image(image, self._spec), at_s, frame_id))
            self._sent += 1

    def health(self) -> Health:
        values = {"camera_images": self._received, "policy_images": self._sent}
        missing = self.heard.missing("camera_image", "usable camera image")
        if missing and self.edges.is_bad(topic("camera_image").name):
            return Health(values, Level.ERROR, f"{missing}: the camera's images are refused, the log says why")
        return Health(values, Level.STALE if missing else Level.OK, missing)


def main(argv: list[str] | None = None) -> None:
    run_node(PerceptionNode, argv)


if __name__ == "__main__":
    main()
