"""sim.launch.py with a recorder: ros2 launch wbvla demo.launch.py bag:=runs/monday/episode

Then send the goal: ros2 action send_goal /wbvla/execute_task wbvla_msgs/action/ExecuteTask "{instruction: walk to the blue box, timeout_s: 40.0}" --feedback
"""

from datetime import datetime
from pathlib import Path

from launch.actions import DeclareLaunchArgument

from wbvla_core.ros.launching import RVIZ, describe, rviz, text

ARGUMENTS = (
    DeclareLaunchArgument("seed", default_value="7", description="seed of the scene"),
    DeclareLaunchArgument("bag", default_value="", description="folder of the MCAP bag; default: runs/<time>/episode"),
    RVIZ,
)


def overrides(context):
    bag = Path(text(context, "bag") or f"runs/{datetime.now():%Y%m%d-%H%M%S}/episode").absolute()
    return {"sim": {"seed": int(text(context, "seed")), "scene": "walk_to"}, "record": {"output": str(bag)}}


def generate_launch_description():
    return describe(("sim", "record"), arguments=ARGUMENTS, overrides=overrides, extra=rviz)
