"""What launch/*.launch.py share: the node table of config/nodes.yaml as launch actions. Needs a real ROS installation: launch is not among the wheels.

At Ctrl-C launch signals every process at once. The nodes leave SIGINT to the lifecycle manager, which takes them down in order (VLA first, LMO last);
launch's SIGTERM two seconds later is for those that it did not reach.
"""

from __future__ import annotations

import os
from importlib import resources

from launch.actions import DeclareLaunchArgument, EmitEvent, OpaqueFunction, RegisterEventHandler
from launch.conditions import IfCondition
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchDescription
from wbvla_core.ros.process import MANAGED_VARIABLE
from wbvla_core.ros.tables import PACKAGE, node_table, share_dir, topic_table

RVIZ = DeclareLaunchArgument("rviz", default_value="false", description="start rviz2 with config/rviz/wbvla.rviz, and robot_state_publisher for it")


def rviz(_context=None) -> list:
    """rviz2 and the transforms that it draws the robot with, if argument ``rviz`` is true."""
    condition = IfCondition(LaunchConfiguration("rviz"))
    urdf = (resources.files("wbvla_sim") / "model" / "x2.urdf").read_text()
    topics = [("joint_states", topic_table().topics["joint_states"].name), ("robot_description", "/wbvla/rviz/robot_description")]
    return [
        Node(package="rviz2", executable="rviz2", arguments=["-d", str(share_dir() / "config" / "rviz" / "wbvla.rviz")], condition=condition),
        Node(
            package="robot_state_publisher",
            executable="robot_state_publisher",
            parameters=[{"robot_description": urdf}],
            remappings=topics,  # the description has one owner already: the driver or the simulator
            condition=condition,
        ),
    ]


def text(context, name: str) -> str:
    """Value of a launch argument."""
    return LaunchConfiguration(name).perform(context)


def describe(groups: tuple[str, ...], *, arguments: tuple[DeclareLaunchArgument, ...] = (), overrides=None, extra=None) -> LaunchDescription:
    """The nodes of these launch groups, and the lifecycle manager that brings them up.

    Args:
        groups: launch groups of config/nodes.yaml.
        arguments: further launch arguments.
        overrides: context -> {node: {parameter: value}}, over the parameter file.
        extra: context -> further actions (rviz, robot_state_publisher).
    """

    def nodes(context) -> list:
        changed = overrides(context) if overrides else {}
        out = []
        for row in node_table().launch(*groups):
            parameters = [row.defaults_in(groups), LaunchConfiguration("parameters"), changed.get(row.name, {})]
            node = Node(
                package=PACKAGE,
                executable=row.executable,
                name=row.name,
                parameters=parameters,
                additional_env={MANAGED_VARIABLE: "1", **row.dds_environment(os.environ)},
                sigterm_timeout="2",
                sigkill_timeout="1",
                output="screen",
                emulate_tty=True,
            )
            out.append(node)
            if row.critical:
                over = EmitEvent(event=Shutdown(reason=f"{row.name} ended: the stack stops"))
                out.append(RegisterEventHandler(OnProcessExit(target_action=node, on_exit=[over])))
        manager = Node(
            package=PACKAGE,
            executable="lifecycle_manager",
            name="lifecycle_manager",
            parameters=[{"launches": list(groups)}],
            output="screen",
            emulate_tty=True,
        )
        return [*out, manager, *(extra(context) if extra else [])]

    return LaunchDescription(
        [
            DeclareLaunchArgument("parameters", default_value=str(node_table().parameter_file), description="ROS parameter file of all nodes"),
            *arguments,
            OpaqueFunction(function=nodes),
        ]
    )
