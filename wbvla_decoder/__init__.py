"""Latent action + proprioception -> arm chunk + LocoCommand.

model    MAP pooling over the VLA's hidden states, heads for flags, stance height and the arm chunk (torch)
policy   proprioception, normalisation, hysteresis and limits between the network's numbers and a Decision (numpy)
"""
