"""The ROS side of the house. Read in this order:

tables     config/qos.yaml and config/nodes.yaml as typed values (no rclpy: the runner, the docs test and bags use them too)
process    signals, priority and end of a process (no rclpy either)
qos        one table of topics -> QoS profiles and message classes
codec      messages <-> wbvla_core.types, every inbound message checked by our own code
lifecycle  the base of all nodes: parameters, subscriptions with a door, main() that survives a second SIGINT
manager    brings nodes up (LMO first) and down, for the launch files and for the runner
client     sends goals and calls the services from a plain Python program
timing     windows of durations for diagnostics
launching  the same tables as actions of ROS launch, for launch/*.launch.py

This package's __init__ imports nothing: rclpy comes in only where a module asks for it.
"""
