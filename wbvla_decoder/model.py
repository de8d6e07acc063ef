"""The lightweight decoder a_t = f(c_mani, c_loco, s_t) (paper).

    latent hidden states [B, Q, D] ─ MAP ┐
    visual hidden states [B, P, D] ─ MAP ┼─► flags 3 x {-1, 0, 1}, stance height
    posture              [B, S]    ─ MLP ┘
    the same + arm joints [B, A2]  ─ MLP ──► arm chunk [B, K, A]

With ``latents="codes"`` the predicted codes' probabilities [B, kinds, tokens, codes] stand in the place of both hidden states: a
narrow door, through which a few demonstrations learn what many do not through the wide one (measured: docs/vla.md), and nothing
that the codes do not tell comes along.

The locomotion heads do not see the arm joints and nothing sees the legs: from moving legs a network reads off "I was walking"
and repeats it (copycat). Hysteresis belongs into :mod:`wbvla_decoder.policy`, not into the weights (ours).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn
from torch.nn import functional as F

from wbvla_decoder.config import DecoderConfig


class LatentActions(Protocol):
    """What the decoder takes from a VLA (:class:`wbvla_vla.model.VlaOutput`)."""

    logits: torch.Tensor  # [B, kinds, tokens, codes]
    latent_hidden: torch.Tensor  # [B, Q, D]
    visual_hidden: torch.Tensor  # [B, P, D]


@dataclass
class DecoderOutput:
    """Raw numbers of the network.

    Attributes:
        flag_logits: [B, 3, 3]; axes forward, lateral, yaw; classes -1, 0, 1.
        height: stance height [B], 0 = lowest, 1 = highest of the robot's range.
        arms: arm targets [B, K, A] in :class:`~wbvla_decoder.policy.ArmScaling` units.
        pooled: what the locomotion heads saw [B, 3 * hidden], of codes [B, 2 * hidden] (training hangs auxiliary losses on it).
    """

    flag_logits: torch.Tensor
    height: torch.Tensor
    arms: torch.Tensor
    pooled: torch.Tensor


class MapPool(nn.Module):
    """Multi-head attention pooling with one learnt query, then an MLP (prior work: Set Transformer's PMA, SigLIP's head, UniVLA's MAPBlock)."""

    def __init__(self, input_size: int, hidden_size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Parameter(torch.randn(1, 1, hidden_size) * hidden_size**-0.5)
        self.norm_in = nn.LayerNorm(input_size)
        self.key_value = nn.Linear(input_size, 2 * hidden_size)
        self.out = nn.Linear(hidden_size, hidden_size)
        self.norm_mlp = nn.LayerNorm(hidden_size)
        self.mlp = nn.Sequential(nn.Linear(hidden_size, 2 * hidden_size), nn.GELU(), nn.Linear(2 * hidden_size, hidden_size))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:  # [B, T, D] -> [B, hidden]
        b = tokens.shape[0]
        key, value = self.key_value(self.norm_in(tokens)).chunk(2, dim=-1)
        query = self.query.expand(b, -1, -1).to(key.dtype)
        split = lambda x: x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # noqa: E731  [B, T, H] -> [B, heads, T, H / heads]
        pooled = F.scaled_dot_product_attention(split(query), split(key), split(value)).transpose(1, 2).flatten(1)
        pooled = self.out(pooled)
        return pooled + self.mlp(self.norm_mlp(pooled))


class ActionDecoder(nn.Module):
    """See the module text.

    Args:
        latent_size: width D of the VLA's hidden states. code_size: kinds x tokens x codes.
        posture_size, arm_state_size: lengths of the two proprioception vectors (:func:`wbvla_decoder.policy.proprioception`).
        arm_count: joints of an arm chunk (the robot spec's ``upper_body``).
    """

    def __init__(self, config: DecoderConfig, latent_size: int, code_size: int, posture_size: int, arm_state_size: int, arm_count: int) -> None:
        super().__init__()
        self.config = config
        self.arm_count = arm_count
        h = config.hidden_size
        if config.latents == "codes":
            self.codes = nn.Sequential(nn.Linear(code_size, h), nn.GELU(), nn.Linear(h, h))
        else:
            self.pool_latent = MapPool(latent_size, h, config.heads)
            self.pool_visual = MapPool(latent_size, h, config.heads)
        width = 2 * h if config.latents == "codes" else 3 * h
        self.posture = nn.Sequential(nn.Linear(posture_size, h), nn.GELU(), nn.Linear(h, h))
        self.arm_state = nn.Sequential(nn.Linear(arm_state_size, h), nn.GELU(), nn.Linear(h, h))
        self.loco = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, h), nn.GELU(), nn.Linear(h, 3 * 3 + 1))
        self.arms = nn.Sequential(nn.LayerNorm(width + h), nn.Linear(width + h, 2 * h), nn.GELU(), nn.Linear(2 * h, config.chunk_rows * arm_count))

    def forward(self, latents: LatentActions, posture: torch.Tensor, arm_state: torch.Tensor) -> DecoderOutput:
        """Outputs for B rows of what the VLA said, posture [B, S] and arm state [B, 2 A]."""
        if self.config.latents == "codes":
            read = [self.codes(latents.logits.float().softmax(-1).flatten(1))]
        else:
            read = [self.pool_latent(latents.latent_hidden), self.pool_visual(latents.visual_hidden)]
        pooled = torch.cat((*read, self.posture(posture)), dim=-1)
        loco = self.loco(pooled)
        return DecoderOutput(
            flag_logits=loco[:, :9].unflatten(-1, (3, 3)),
            height=torch.sigmoid(loco[:, 9]),
            arms=self.arm_targets(pooled, arm_state),
            pooled=pooled,
        )

    def arm_targets(self, pooled: torch.Tensor, arm_state: torch.Tensor) -> torch.Tensor:
        """Pooled features [..., width] and arm state [..., 2 A] -> arm targets [..., K, A]."""
        joined = torch.cat((pooled, self.arm_state(self.config.arm_gain * arm_state)), dim=-1)
        return self.arms(joined).unflatten(-1, (self.config.chunk_rows, self.arm_count))
