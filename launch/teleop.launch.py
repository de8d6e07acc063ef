"""Teleoperation beside a stack that runs: ros2 launch wbvla teleop.launch.py

The gamepad: ros2 run joy joy_node --ros-args -r joy:=/wbvla/teleop/joy"""

from wbvla_core.ros.launching import describe
from wbvla_core.ros.parameters import ROBOT, Argument

GROUPS = ("teleop",)
ARGUMENTS = (
    ROBOT,
    Argument("mapping", str, "what axes and buttons mean: a file, relative to the share folder or absolute", lambda mapping: {"teleop": {"mapping": mapping}}),
)


def generate_launch_description():
    return describe(GROUPS, ARGUMENTS)
