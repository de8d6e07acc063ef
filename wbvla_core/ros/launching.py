"""What launch/*.launch.py share: the node table of config/nodes.yaml as launch actions.

ROS launch itself is imported when a description is made: it belongs to a real ROS installation and is not among the wheels, where the launch files'
arguments must still be readable (tests, documents).

At Ctrl-C launch signals every process at once. The nodes leave SIGINT to the lifecycle manager, which takes them down in order (VLA first, LMO last);
launch's SIGTERM two seconds later is for those that it did not reach. Launch that is killed takes nobody down: every process watches its parent.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wbvla_core.robot import RobotSpec, load_robot
from wbvla_core.ros.parameters import (
    LOG_LEVELS,
    MANAGER,
    SIM_TIME,
    Argument,
    Values,
    check_robots,
    file_text,
    final_parameters,
    given,
    given_parameters,
    in_file,
    strangers,
)
from wbvla_core.ros.process import MANAGED_VARIABLE, PARENT_VARIABLE
from wbvla_core.ros.tables import PACKAGE, NodeEntry, node_table, share_dir, topic_table

LOG_LEVEL = Argument("log_level", str, f"least severity that the nodes log: {', '.join(LOG_LEVELS)}; default: info", lambda _: {}, choices=LOG_LEVELS)
RVIZ = Argument("rviz", bool, "true: start rviz2 with config/rviz/wbvla.rviz, and robot_state_publisher for it; default: false", lambda _: {})
RVIZ_DESCRIPTION = "/wbvla/rviz/robot_description"  # /robot_description has one owner already: the driver or the simulator
FILES_ARGUMENT = "parameters"
Urdf = Callable[[RobotSpec], str]
Complete = Callable[[dict[str, Values]], None]


def describe(groups: Sequence[str], arguments: Sequence[Argument] = (), *, urdf: Urdf | None = None, complete: Complete | None = None) -> Any:
    """LaunchDescription of these launch groups' nodes and of the lifecycle manager that brings them up.

    Args:
        groups: launch groups of config/nodes.yaml.
        arguments: what may be given beside ``parameters``, ``use_sim_time`` and ``log_level``, which every launch file has.
        urdf: makes the URDF that rviz shows; without it there is no argument ``rviz``.
        complete: fills in what neither files nor arguments say: node -> parameters, changed in place.
    """
    from launch.actions import DeclareLaunchArgument, OpaqueFunction
    from launch.substitutions import LaunchConfiguration

    from launch import LaunchDescription

    arguments = (*arguments, SIM_TIME)
    offered = (*arguments, LOG_LEVEL, *([RVIZ] if urdf else []))
    declared = [DeclareLaunchArgument(a.name, default_value="", description=_described(a)) for a in offered]

    def actions(context: Any) -> list:
        texts = {a.name: LaunchConfiguration(a.name).perform(context) for a in declared}
        own_file = LaunchConfiguration(FILES_ARGUMENT).perform(context)
        files = [node_table().parameter_file, *([own_file] if own_file else [])]
        parameters = plan(groups, arguments, texts, files, complete)
        level = LOG_LEVEL.read(texts[LOG_LEVEL.name]) if texts[LOG_LEVEL.name] else ""
        out = [_note(text) for file in files for text in strangers(file)]
        out += _stack(groups, parameters, level)
        return out + (_rviz(parameters, urdf) if urdf and RVIZ.read(texts[RVIZ.name] or "false") else [])

    over = DeclareLaunchArgument(FILES_ARGUMENT, default_value="", description=f"ROS parameter file, over {node_table().parameters} of the share folder")
    return LaunchDescription([over, *declared, OpaqueFunction(function=actions)])


def _described(argument: Argument) -> str:
    return argument.description if "default" in argument.description else f"{argument.description}; default: what the parameter files say"


def plan(
    groups: Sequence[str], arguments: Sequence[Argument], texts: Mapping[str, str], files: Sequence[Path | str], complete: Complete | None = None
) -> dict[str, Values]:
    """The parameters of every process that a launch file starts, the manager included. No launch needed.

    Raises:
        ParameterFileError: an argument or a file that cannot be used.
        RobotSpecError: a robot that does not exist.
    """
    over = given_parameters(arguments, texts)
    parameters = final_parameters(groups, files, over)
    manager: Values = {}
    for file in files:
        manager |= in_file(file, MANAGER)
    if complete is not None:
        complete(parameters)
    check_robots(parameters)
    parameters[MANAGER] = manager | {name: given(value) for name, value in {**over.get(MANAGER, {}), "launches": list(groups)}.items()}
    return parameters


def _stack(groups: Sequence[str], parameters: Mapping[str, Values], level: str) -> list:
    """The processes; the stack ends with a critical one, and with the manager: it ends early only where the bring-up failed."""
    from launch.actions import EmitEvent, RegisterEventHandler
    from launch.event_handlers import OnProcessExit
    from launch.events import Shutdown

    rows = node_table().launch(*groups)
    nodes = [(_process(row.name, row.executable, parameters[row.name], level, row), row.critical, f"{row.name} ended") for row in rows]
    nodes.append((_process(MANAGER, MANAGER, parameters[MANAGER], level), True, "the lifecycle manager ended"))
    out = []
    for node, critical, what in nodes:
        out.append(node)
        if critical:
            reason = f"{what}: the stack stops"
            over = [_note(reason), EmitEvent(event=Shutdown(reason=reason))]
            out.append(RegisterEventHandler(OnProcessExit(target_action=node, on_exit=over)))
    return out


def _process(name: str, executable: str, values: Values, level: str, row: NodeEntry | None = None) -> Any:
    from launch_ros.actions import Node

    environment = {PARENT_VARIABLE: str(os.getpid())}
    if row is not None:
        environment |= {MANAGED_VARIABLE: "1", **row.dds_environment(os.environ)}
    return Node(
        package=PACKAGE,
        executable=executable,
        name=name,
        parameters=[_written(name, values)],
        ros_arguments=["--log-level", f"{name}:={level}"] if level else [],  # of our logger only: at debug the middleware's own would flood the 50 Hz loop
        additional_env=environment,
        sigterm_timeout="2",
        sigkill_timeout="1",
        output="screen",
        emulate_tty=True,
    )


def _written(name: str, values: Values) -> str:
    """The node's parameter file, beside launch's log: what it ran with can be read there afterwards."""
    from launch.logging import launch_config

    path = Path(launch_config.get_log_file_path(f"{name}.parameters.yaml"))
    path.write_text(f"# what {name} was started with: defaults, parameter files and launch arguments\n{file_text(name, values)}")
    return str(path)


def _note(text: str) -> Any:
    from launch.actions import LogInfo

    return LogInfo(msg=text)


def _rviz(parameters: Mapping[str, Values], urdf: Urdf) -> list:
    """rviz2, and the transforms that it draws the robot with. Where one of them is not installed a sentence says so and the stack runs without."""
    from ament_index_python.packages import PackageNotFoundError, get_package_prefix
    from launch_ros.actions import Node

    missing = []
    for package in ("rviz2", "robot_state_publisher"):
        try:
            get_package_prefix(package)
        except PackageNotFoundError:
            missing.append(package)
    if missing:
        distro = os.environ.get("ROS_DISTRO", "<distro>")
        packages = " ".join(f"ros-{distro}-{package.replace('_', '-')}" for package in missing)
        return [_note(f"rviz:=true, but {' and '.join(missing)} cannot be found: the stack runs without rviz. To mend it: sudo apt-get install {packages}")]
    own: Values = {"robot_description": given(urdf(load_robot(check_robots(parameters))))}
    clock = next((values["use_sim_time"] for values in parameters.values() if "use_sim_time" in values), None)
    times: Values = {} if clock is None else {"use_sim_time": clock}
    joints = ("joint_states", topic_table().topics["joint_states"].name)
    return [
        Node(package="rviz2", executable="rviz2", arguments=["-d", str(share_dir() / "config" / "rviz" / "wbvla.rviz")], parameters=[_written("rviz2", times)]),
        Node(
            package="robot_state_publisher",
            executable="robot_state_publisher",
            parameters=[_written("robot_state_publisher", own | times)],
            remappings=[joints, ("robot_description", RVIZ_DESCRIPTION)],
        ),
    ]
