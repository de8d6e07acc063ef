"""sim.launch.py with a recorder: ros2 launch wbvla demo.launch.py bag:=runs/monday/episode

Then send the goal: ros2 action send_goal /wbvla/execute_task wbvla_msgs/action/ExecuteTask "{instruction: walk to the blue box, timeout_s: 40.0}" --feedback
"""

from wbvla_core.ros.launching import describe
from wbvla_core.ros.parameters import BAG, ROBOT, Argument, dated_bag
from wbvla_sim.model.urdf import robot_urdf

GROUPS = ("sim", "record")
ARGUMENTS = (
    ROBOT,
    Argument("seed", int, "seed of the scene, the sensor noise and the pushes", lambda seed: {"sim": {"seed": seed}}),
    BAG,
)
complete = dated_bag("episode")


def generate_launch_description():
    return describe(GROUPS, ARGUMENTS, urdf=robot_urdf, complete=complete)
