"""On the GPU box: perception, VLA and decoder: ros2 launch wbvla workstation.launch.py checkpoint:=checkpoints/policy/tiny"""

from launch.actions import DeclareLaunchArgument

from wbvla_core.ros.launching import RVIZ, describe, rviz, text

ARGUMENTS = (
    DeclareLaunchArgument("robot", default_value="x2", description="robot spec: a name of config/robots or the path of a YAML file"),
    DeclareLaunchArgument("checkpoint", default_value="checkpoints/policy/tiny", description="policy bundle: relative to the share folder, or absolute"),
    RVIZ,
)


def overrides(context):
    robot = text(context, "robot")
    return {"perception": {"robot": robot}, "vla": {"robot": robot, "checkpoint": text(context, "checkpoint")}}


def generate_launch_description():
    return describe(("workstation",), arguments=ARGUMENTS, overrides=overrides, extra=rviz)
