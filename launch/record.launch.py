"""The recorder beside a stack that runs: ros2 launch wbvla record.launch.py bag:=runs/monday/bag, or session:=runs/monday for episodes

Episodes: ros2 service call /wbvla/record/start std_srvs/srv/Trigger, then .../stop or .../discard. The bag is rosbag2's (MCAP): `ros2 bag play` and
`ros2 bag info` take it. Our recorder writes it, also where `ros2 bag record` exists: that one knows neither episodes nor the audit.
"""

from wbvla_core.ros.launching import describe
from wbvla_core.ros.parameters import BAG, SESSION, dated_bag

GROUPS = ("record",)
ARGUMENTS = (BAG, SESSION)
complete = dated_bag("bag")


def generate_launch_description():
    return describe(GROUPS, ARGUMENTS, complete=complete)
