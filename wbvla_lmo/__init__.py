"""LMO, the 50 Hz locomotion policy: observation, gating, reference gait, policy, whole-body controller. numpy + onnxruntime only."""
