"""A run's resumable state in one file: written by rename, so that a kill leaves the old one or the new one, and read without running code from it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from wbvla_core.errors import WbvlaError


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values to ``path``; its folder must exist."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    torch.save(state, temporary)
    os.replace(temporary, path)


def read_state(path: Path, *, holds: Sequence[str] = (), device: str = "cpu") -> dict[str, Any]:
    """The state at ``path``, its tensors on ``device``.

    Args:
        holds: keys that tell this kind of state from another training's.

    Raises:
        WbvlaError: no such file, a damaged or foreign one, or another kind of state.
    """
    if not path.is_file():
        raise WbvlaError(f"no training state at {path}; give the state.pt that a training wrote")
    try:
        state = torch.load(path, weights_only=True, map_location=device)
    except OSError:
        raise
    except Exception as error:  # an unpickler that is fed with another file raises anything
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        raise WbvlaError(f"{path} is no training state or a damaged one ({why}); take an older one, or delete it to start anew") from error
    missing = [key for key in holds if key not in state] if isinstance(state, dict) else list(holds)
    if missing or not isinstance(state, dict):
        raise WbvlaError(f"{path} is not a state of this training: it lacks {', '.join(missing) or 'everything'}; give another file")
    return state
