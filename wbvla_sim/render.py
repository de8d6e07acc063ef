"""Off-screen pictures of MuJoCo worlds: one GL context per thread and picture size, shared by every world drawn there.

``mujoco.Renderer`` opens a GL context per model, which costs more than hundreds of frames. All our scenes carry the same textures
(:mod:`wbvla_sim.scene`), so the context made for the first model draws the others too. Shadows and reflections stay off: on a CPU
renderer they cost five times the rest. Set ``MUJOCO_GL=egl`` before mujoco is imported; :mod:`wbvla_sim` does so if it is unset.
"""

from __future__ import annotations

import atexit
import threading

import mujoco
import numpy as np

MAX_GEOMS = 400
SMOOTH_WIDTH = 400  # from this width on, pictures are for people: 4 samples per pixel (twice the time); smaller ones are scaled down by the policy


class Picture:
    """A GL context with an off-screen buffer of one size."""

    def __init__(self, model: mujoco.MjModel, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._gl = mujoco.GLContext(width, height)
        self._gl.make_current()
        saved = model.vis.global_.offwidth, model.vis.global_.offheight
        samples = model.vis.quality.offsamples
        model.vis.global_.offwidth, model.vis.global_.offheight = width, height
        model.vis.quality.offsamples = 4 if width >= SMOOTH_WIDTH else 0
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        model.vis.global_.offwidth, model.vis.global_.offheight = saved
        model.vis.quality.offsamples = samples
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._scene = mujoco.MjvScene(model, MAX_GEOMS)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
        self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        self._option = mujoco.MjvOption()
        self._option.sitegroup[:] = 0
        self._textures = model.ntex

    def draw(self, model: mujoco.MjModel, data: mujoco.MjData, camera: mujoco.MjvCamera) -> np.ndarray:
        """One frame, uint8 [height, width, 3], RGB, first row on top."""
        if model.ntex != self._textures:
            raise ValueError(f"this context was made for models with {self._textures} textures, got one with {model.ntex}; build models with scene.to_mjcf")
        self._gl.make_current()
        mujoco.mjv_updateScene(model, data, self._option, None, camera, mujoco.mjtCatBit.mjCAT_ALL, self._scene)
        viewport = mujoco.MjrRect(0, 0, self.width, self.height)
        mujoco.mjr_render(viewport, self._scene, self._context)
        pixels = np.empty((self.height, self.width, 3), np.uint8)
        mujoco.mjr_readPixels(pixels, None, viewport, self._context)
        return pixels[::-1].copy()  # GL's first row is the lowest

    def close(self) -> None:
        self._context.free()
        self._gl.free()


class _Pictures(threading.local):
    """This thread's contexts by size. A GL context that is current in one thread cannot be used by another, not even after the first has ended."""

    def __init__(self) -> None:
        self.by_size: dict[tuple[int, int], Picture] = {}


_pictures = _Pictures()
_closes_at_exit = False


def draw(model: mujoco.MjModel, data: mujoco.MjData, camera: mujoco.MjvCamera, width: int, height: int) -> np.ndarray:
    """Draw with this thread's context of that size. Returns uint8 [height, width, 3]."""
    global _closes_at_exit
    picture = _pictures.by_size.get((width, height))
    if picture is None:
        picture = _pictures.by_size[width, height] = Picture(model, width, height)
        if not _closes_at_exit:  # only now, after mujoco has put its own end of EGL on the exit list: the list runs backwards
            _closes_at_exit = True
            atexit.register(close_all)
    return picture.draw(model, data, camera)


def close_all() -> None:
    """Free every context of this thread (while the GL library is still loaded); other threads' go with their thread."""
    while _pictures.by_size:
        _pictures.by_size.popitem()[1].close()
