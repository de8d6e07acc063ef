"""Training of LMO: PPO (stable-baselines3) over one batched MuJoCo VecEnv."""
