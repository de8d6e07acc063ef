"""Teleoperation with arms: :class:`wbvla_teleop.node.TeleopNode` and the model of the arms that it does not know itself."""

from __future__ import annotations

from wbvla_core.robot import RobotSpec
from wbvla_core.ros.lifecycle import run_node
from wbvla_teleop.node import TeleopNode


class WholeBodyTeleopNode(TeleopNode):
    """Arms by inverse kinematics where mink and MuJoCo are installed; without, wrist poses are refused by name and the arms stay."""

    def make_wrists(self, robot: RobotSpec) -> object | None:
        try:
            from wbvla_cli.arms import wrist_solver
        except ImportError as error:
            self.say(f"arms stay where they are: {error.name} is not installed (pip install 'wbvla[sim]')")
            return None
        return wrist_solver(robot)


def main(argv: list[str] | None = None) -> None:
    run_node(WholeBodyTeleopNode, argv)


if __name__ == "__main__":
    main()
