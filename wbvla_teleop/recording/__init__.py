"""Recording without ROS: storage that survives a kill, episodes in folders, the audit."""
