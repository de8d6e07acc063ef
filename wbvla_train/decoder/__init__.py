"""Fine-tuning on demonstrations: LoRA on the VLA and the decoder, together."""
