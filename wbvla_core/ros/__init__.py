"""The ROS side of the house. Read in this order:

tables     config/qos.yaml and config/nodes.yaml as typed values (no rclpy: the runner, the docs test and bags use them too)
process    signals, priority and end of a process (no rclpy either)
qos        one table of topics -> QoS profiles and message classes
codec      messages <-> wbvla_core.types, every inbound message checked by our own code
lifecycle  the base of all nodes: parameters, subscriptions with a door, main() that survives a second SIGINT
manager    brings nodes up (LMO first) and down, for the launch files and for the runner
client     sends goals and calls the services from a plain Python program
caller     calls one service, for the e-stop: nothing else is made that a person would have to wait for
domains    which ROS domains are in use on this machine, and by which stack of this checkout (no rclpy)
health     what a node says of itself on /diagnostics, by level (no rclpy)
timing     windows of durations for diagnostics
misspelt   names in parameter files that no parameter has (no rclpy)
launching  the same tables as actions of ROS launch, for launch/*.launch.py

This package's __init__ imports nothing: rclpy comes in only where a module asks for it.
"""
