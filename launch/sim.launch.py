"""Everything on one machine, MuJoCo in place of the robot: ros2 launch wbvla sim.launch.py seed:=7 rviz:=true"""

from wbvla_core.ros.launching import describe
from wbvla_core.ros.parameters import ROBOT, Argument
from wbvla_sim.model.urdf import robot_urdf

GROUPS = ("sim",)
ARGUMENTS = (
    ROBOT,
    Argument("seed", int, "seed of the scene, the sensor noise and the pushes", lambda seed: {"sim": {"seed": seed}}),
    Argument("scene", str, "kind of scene: walk_to, room or empty", lambda scene: {"sim": {"scene": scene}}),
    Argument("policy", str, "what decides: checkpoint, zero (stands still), or tcp://host:port of a `wbvla serve`", lambda policy: {"vla": {"policy": policy}}),
)


def generate_launch_description():
    return describe(GROUPS, ARGUMENTS, urdf=robot_urdf)
