"""Onboard: LMO, the one writer to the motors. The robot's driver runs beside it and is not started here: ros2 launch wbvla robot.launch.py"""

from launch.actions import DeclareLaunchArgument

from wbvla_core.ros.launching import describe, text

ARGUMENTS = (
    DeclareLaunchArgument("robot", default_value="x2", description="robot spec: a name of config/robots or the path of a YAML file"),
    DeclareLaunchArgument("start_ramp_s", default_value="2.0", description="time in which the gains rise on a robot that hangs limp [s]"),
)


def overrides(context):
    return {"lmo": {"robot": text(context, "robot"), "start_ramp_s": float(text(context, "start_ramp_s"))}}


def generate_launch_description():
    return describe(("robot",), arguments=ARGUMENTS, overrides=overrides)
