"""The simulated X2: MuJoCo model, scenes, lock-step world, scripted teleoperator. Nothing here but node.py imports rclpy.

scene       rooms drawn by seed
world       physics in 20 ms slots behind the driver law; sensors, pictures, truth
kinematic   the same interface without physics: a walker that slides, for quick data
episode     10 Hz policy over 50 Hz controller in lock-step, and its log
expert      the scripted teleoperator
render, video  pictures and mp4
"""

import os
import sys

if sys.platform == "linux":
    os.environ.setdefault("MUJOCO_GL", "egl")  # before mujoco is imported: off-screen rendering needs no display
