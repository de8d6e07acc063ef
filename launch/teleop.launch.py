"""Teleoperation beside a stack that runs: ros2 launch wbvla teleop.launch.py

The gamepad: ros2 run joy joy_node --ros-args -r joy:=/wbvla/teleop/joy"""

from launch.actions import DeclareLaunchArgument

from wbvla_core.ros.launching import describe, text

ARGUMENTS = (
    DeclareLaunchArgument("robot", default_value="x2", description="robot spec: a name of config/robots or the path of a YAML file"),
    DeclareLaunchArgument("mapping", default_value="config/teleop.yaml", description="what axes and buttons mean: relative to the share folder, or absolute"),
)


def overrides(context):
    return {"teleop": {"robot": text(context, "robot"), "mapping": text(context, "mapping")}}


def generate_launch_description():
    return describe(("teleop",), arguments=ARGUMENTS, overrides=overrides)
