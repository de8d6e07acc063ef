"""Offline training; nothing that runs on the robot imports this. Models live with the runtime that loads them.

data      rendered video, stills and demonstrations, shards
lam       the two latent action models (training only)
vla       stage 0 grounding, stage 1 latent-action codes, export
decoder   stage 2: LoRA and decoder on demonstrations, policy bundle
lmo       the leg policy: PPO over batched MuJoCo
loop      the resumable training loop of the VLA stages
"""
