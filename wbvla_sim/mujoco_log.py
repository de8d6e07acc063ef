"""Where MuJoCo's warnings go: to Python's logging, once of each kind. Left alone it appends them to MUJOCO_LOG.TXT in whatever folder one stands."""

from __future__ import annotations

import logging

import mujoco

LOGGER = logging.getLogger("mujoco")
KIND = 40  # characters that tell one kind of warning from another; what follows are numbers

_said: set[str] = set()


def _warn(text: str) -> None:
    if text[:KIND] not in _said:
        _said.add(text[:KIND])
        LOGGER.warning("MuJoCo: %s", text)


def capture() -> None:
    """Take MuJoCo's warnings over, unless the program that imports us has done so."""
    if mujoco.get_mju_user_warning() is None:
        mujoco.set_mju_user_warning(_warn)
