"""Sizes of the decoder, on their own: parsing a command line needs no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from wbvla_core.errors import WbvlaError


@dataclass(frozen=True)
class DecoderConfig:
    """Sizes of the decoder.

    Attributes:
        hidden_size: width after pooling (ours: 128 in the tiny policy; prior work (UniVLA): 512).
        heads: attention heads of the pooling (prior work (UniVLA): 8).
        arm_gain: factor on the arm state before its first layer (ours: a wave moves the scaled inputs by 0.3; at gain 1 the layer hardly
            leaves its linear range and the phase of the swing is learnt half as fast).
        latents: what is read of the VLA: its hidden states (prior work (UniVLA), OpenVLA-OFT), or the probabilities of its codes alone (paper, taken by
            the letter; the soft form ours).
        chunk_rows, chunk_dt_s: arm targets per decision and their spacing; 10 rows at 0.1 s = 1 s (prior work: OpenVLA-OFT's 1 s chunk).
    """

    hidden_size: int = 128
    heads: int = 4
    arm_gain: float = 1.0
    latents: Literal["hidden", "codes"] = "hidden"
    chunk_rows: int = 10
    chunk_dt_s: float = 0.1

    def __post_init__(self) -> None:
        """Raise WbvlaError for sizes that no network has."""
        least = {"hidden_size": 1, "heads": 1, "chunk_rows": 1, "chunk_dt_s": 1e-3}
        for name, bound in least.items():
            if not getattr(self, name) >= bound:
                raise WbvlaError(f"decoder.{name} must be at least {bound}, got {getattr(self, name)}")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
