"""Vector quantiser with one codebook per token, straight-through gradient and resets that cannot revive dead codes.

Source: straight-through VQ and beta 0.25 on the commitment term, van den Oord et al. (VQ-VAE); 4 tokens x 16 codes, UniVLA
(its reset copies from all codes, so a dead code may replace a dead code: avoided here); one book per token and resets drawn
by distance, prior work (our prototype: perplexity 12-15 of 16 and no dead code).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Quantised:
    """codes [B, T] int64; values [B, T, D] (the codes forwards, the encoder's gradient backwards); loss scalar."""

    codes: torch.Tensor
    values: torch.Tensor
    loss: torch.Tensor


class TokenQuantiser(nn.Module):
    """Nearest code of each token in that token's own codebook.

    Args:
        tokens, codes, dim: T, K, D.
        commitment: weight beta of the commitment term.
        reset_below: a code whose running usage falls under this share of its token is reset.
        usage_decay: per training step.
    """

    def __init__(self, tokens: int, codes: int, dim: int, commitment: float = 0.25, reset_below: float = 0.008, usage_decay: float = 0.98) -> None:
        super().__init__()
        self.codebook = nn.Parameter(torch.randn(tokens, codes, dim) * 0.5)  # [T, K, D]
        self.register_buffer("usage", torch.full((tokens, codes), 1.0 / codes))  # running share of each code
        self.commitment, self.reset_below, self.usage_decay = commitment, reset_below, usage_decay

    def distances(self, z: torch.Tensor) -> torch.Tensor:
        """[B, T, D] -> squared distances [B, T, K]."""
        return (z[:, :, None] - self.codebook).square().sum(-1)

    def lookup(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes [B, T] -> values [B, T, D]."""
        tokens = torch.arange(self.codebook.shape[0], device=codes.device)
        return self.codebook[tokens, codes]

    def forward(self, z: torch.Tensor, continuous: bool = False) -> Quantised:
        """Quantise z [B, T, D]; ``continuous`` passes z itself on (the first steps of training)."""
        codes = self.distances(z.detach()).argmin(-1)
        if continuous:
            return Quantised(codes, z, z.new_zeros(()))
        values = self.lookup(codes)
        loss = (values - z.detach()).square().mean() + self.commitment * (z - values.detach()).square().mean()
        return Quantised(codes, z + (values - z).detach(), loss)

    @torch.no_grad()
    def note_usage(self, codes: torch.Tensor) -> None:
        """Update the running usage with the codes [B, T] of one training batch."""
        share = nn.functional.one_hot(codes, self.usage.shape[1]).float().mean(0)  # [T, K]
        self.usage.mul_(self.usage_decay).add_(share, alpha=1.0 - self.usage_decay)

    @torch.no_grad()
    def start_from(self, z: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Put all codes onto outputs of this batch: the end of the continuous start. Returns what :meth:`reset_unused` does."""
        self.usage.zero_()
        return self.reset_unused(z, generator)

    @torch.no_grad()
    def reset_unused(self, z: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Move each unused code onto an encoder output of this batch, drawn with probability proportional to its distance
        from the code it has now. Never onto another code: that one may be dead too.

        Returns:
            [T, K] bool, which codes were moved (the optimiser's moments of those are stale).
        """
        unused = self.usage < self.reset_below
        if not bool(unused.any()):
            return unused
        distance = self.distances(z).min(-1).values + 1e-9  # [B, T]
        for token in torch.nonzero(unused.any(1)).flatten().tolist():
            slots = torch.nonzero(unused[token]).flatten()
            rows = torch.multinomial(distance[:, token].cpu(), len(slots), replacement=len(slots) > len(z), generator=generator)
            self.codebook[token, slots] = z[rows.to(z.device), token]
            self.usage[token, slots] = 1.0 / self.usage.shape[1]
        return unused
