"""Films that people bring (phone, GoPro, RealSense) -> gated, sorted clips that latent action models train on."""
