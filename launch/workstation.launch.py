"""On the GPU box: perception, VLA and decoder: ros2 launch wbvla workstation.launch.py checkpoint:=checkpoints/policy/tiny"""

from wbvla_core.ros.launching import describe
from wbvla_core.ros.parameters import ROBOT, Argument
from wbvla_sim.model.urdf import robot_urdf

GROUPS = ("workstation",)
ARGUMENTS = (
    ROBOT,
    Argument("checkpoint", str, "policy bundle: relative to the share folder, or absolute", lambda checkpoint: {"vla": {"checkpoint": checkpoint}}),
)


def generate_launch_description():
    return describe(GROUPS, ARGUMENTS, urdf=robot_urdf)
