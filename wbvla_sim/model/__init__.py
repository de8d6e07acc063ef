"""The X2 as MJCF and URDF, both generated from the robot spec by ``build.py``."""

from wbvla_sim import mujoco_log

mujoco_log.capture()
