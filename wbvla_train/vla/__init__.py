"""Stages of the VLA: grounding (stage 0), latent-action pre-training (stage 1), export."""
