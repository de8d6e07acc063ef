"""Everything on one machine, MuJoCo in place of the robot: ros2 launch wbvla sim.launch.py seed:=7 rviz:=true"""

from launch.actions import DeclareLaunchArgument

from wbvla_core.ros.launching import RVIZ, describe, rviz, text

ARGUMENTS = (
    DeclareLaunchArgument("seed", default_value="7", description="seed of the scene"),
    DeclareLaunchArgument("scene", default_value="walk_to", description="kind of scene: walk_to, room or empty"),
    DeclareLaunchArgument(
        "policy", default_value="checkpoint", description="what decides: checkpoint, zero (stands still), or tcp://host:port of a `wbvla serve`"
    ),
    RVIZ,
)


def overrides(context):
    return {"sim": {"seed": int(text(context, "seed")), "scene": text(context, "scene")}, "vla": {"policy": text(context, "policy")}}


def generate_launch_description():
    return describe(("sim",), arguments=ARGUMENTS, overrides=overrides, extra=rviz)
