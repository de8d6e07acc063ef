"""The X2 as MJCF and URDF, both generated from the robot spec by ``build.py``. The URDF needs no MuJoCo: launch files read it."""
