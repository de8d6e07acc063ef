"""What the 10 Hz node sees of the robot while it runs is what the converter writes down from the recording of it."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest

pytest.importorskip("rclpy")

from wbvla_core.timeline import Resampler  # noqa: E402
from wbvla_vla.node import _nearest  # noqa: E402


@pytest.mark.parametrize("phase_s", [0.0, 0.0013, 0.0025, 0.0041])
def test_the_node_and_the_converter_choose_the_same_state_for_every_image(phase_s):
    """States at 200 Hz with jitter, images 8 ms on their way; the node looks when an image arrives, the converter when all is recorded."""
    rng = np.random.default_rng(5)
    states = np.cumsum(0.005 + rng.uniform(-5e-4, 5e-4, 800))
    images = [0.5 + 0.1 * i + phase_s for i in range(30)]
    live = {}
    for image in images:
        arrived = [stamp for stamp in states if stamp + 0.001 <= image + 0.008]
        live[image] = _nearest(deque(((stamp, stamp) for stamp in arrived), maxlen=64), image, "joint states")
    resampler = Resampler(("joints",))
    for stamp, kind in sorted([(s, "state") for s in states] + [(i, "image") for i in images]):
        if kind == "state":
            resampler.add("joints", stamp, stamp)
        else:
            resampler.add_image(stamp, None)
    frames = list(resampler.frames(final=True))
    assert {frame.stamp_s: frame.nearest["joints"] for frame in frames} == live
    assert max(abs(frame.skew_s["joints"]) for frame in frames) < 0.003
