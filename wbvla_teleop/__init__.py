"""Teleoperation and recording: what a person's hands say becomes decisions, and what happens is kept in bags.

joystick   one snapshot of axes and buttons; what each axis and button means (config/teleop.yaml)
mapping    joystick -> LocoCommand: dead zone, hysteresis, stance height rate, dead-man
keyboard   key events of a terminal -> the same axes and buttons
gamepad    /dev/input/js* -> the same
script     a file of timed key events or joystick snapshots: an operator's session without an operator
wrists     wrist poses -> arm joints by differential inverse kinematics
node       the ROS 2 node: joystick and wrist poses in, /wbvla/teleop/* out, control taken and given back
recording  MCAP that survives a kill, episodes in folders, the audit at an episode's end
"""
