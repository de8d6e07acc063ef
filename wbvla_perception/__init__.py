"""Camera image in, policy image out. No torch here: the perception process stays small.

preprocess   ImageSpec, policy_image, normalise: the one image transform, for training, evaluation and the node
"""
