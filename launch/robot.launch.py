"""Onboard: LMO, the one writer to the motors. The robot's driver runs beside it and is not started here: ros2 launch wbvla robot.launch.py"""

from wbvla_core.ros.launching import describe
from wbvla_core.ros.parameters import ROBOT, Argument

GROUPS = ("robot",)
ARGUMENTS = (
    ROBOT,
    Argument(
        "start_ramp_s",
        float,
        "time in which the gains rise on a robot that hangs limp [s]; default: what the parameter files say, or else 2.0",
        lambda ramp_s: {"lmo": {"start_ramp_s": ramp_s}},
    ),
)


def generate_launch_description():
    return describe(GROUPS, ARGUMENTS)
