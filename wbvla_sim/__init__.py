"""The simulated X2: MuJoCo model, scenes, lock-step world, scripted teleoperator. Nothing here but node.py imports rclpy."""
