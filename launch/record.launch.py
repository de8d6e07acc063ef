"""The recorder beside a stack that runs: ros2 launch wbvla record.launch.py bag:=runs/monday/bag, or session:=runs/monday for episodes

Episodes: ros2 service call /wbvla/record/start std_srvs/srv/Trigger, then .../stop or .../discard. The bag is rosbag2's (MCAP): `ros2 bag play` and
`ros2 bag info` take it. Our recorder writes it, also where `ros2 bag record` exists: that one knows neither episodes nor the audit.
"""

from datetime import datetime
from pathlib import Path

from launch.actions import DeclareLaunchArgument

from wbvla_core.ros.launching import describe, text

ARGUMENTS = (
    DeclareLaunchArgument("bag", default_value="", description="folder of one bag; default: runs/<time>/bag, unless session is given"),
    DeclareLaunchArgument("session", default_value="", description="folder of episodes, begun and ended by services or by the gamepad"),
)


def overrides(context):
    session = text(context, "session")
    if session:
        return {"record": {"session": str(Path(session).absolute())}}
    return {"record": {"output": str(Path(text(context, "bag") or f"runs/{datetime.now():%Y%m%d-%H%M%S}/bag").absolute())}}


def generate_launch_description():
    return describe(("record",), arguments=ARGUMENTS, overrides=overrides)
