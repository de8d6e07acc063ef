"""What every room of the house shares: robot spec, types, checkpoints, safety, time.

Plain Python on numpy and yaml. Nothing here imports rclpy (``wbvla_core.ros`` does, and
only nodes import that), torch or mujoco. Read in this order:

    errors      numbered error codes, and exceptions that say what to do
    robot       RobotSpec: ordered joints, groups, limits, gains, frames (config/robots/*.yaml)
    types       RobotState, LocoCommand, ArmChunk, LatentAction, Decision, JointCommand
    checkpoint  a directory with manifest.json that a node can trust or refuse
    safety      the ladder follow -> stand -> damping, a pure state machine
    damping     what the motors do on the ladder's last rung
    task        when a task ends, which goals are not begun
    machine     one line that says what a number was measured on
    timeline    ages, ticks that follow stamps, pairing of messages by stamp
"""
