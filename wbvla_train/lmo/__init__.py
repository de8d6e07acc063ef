"""Training of the locomotion policy: batched environment, PPO, curriculum, export."""

import os

import wbvla_sim  # noqa: F401  (sets MUJOCO_GL before mujoco is imported: films of the gait)

# Before torch is imported anywhere: an OpenMP thread that spins while its partner has lost its core to another process makes an update four times
# as long on a busy machine (measured: 5.3 s against 1.3 s); one that sleeps costs nothing where the cores are free.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
