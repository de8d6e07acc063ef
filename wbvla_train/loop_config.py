"""Options of the training loop, on their own: parsing a command line needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

from wbvla_core.errors import require_at_least, require_positive, require_seed, require_shares


@dataclass(frozen=True)
class LoopConfig:
    """Optimisation.

    Attributes:
        lr, warmup_steps, final_lr: AdamW, linear warm-up, cosine down to ``final_lr`` of the peak.
        betas, weight_decay, clip_norm: prior work (our prototype).
        bf16: matrix products in bfloat16, weights and sums in float32 (2 x faster on CPUs with AVX512-BF16 or AMX).
        threads: of torch; 1 leaves a core to whatever else runs.
        save_every, log_every: steps.
        accumulate: pieces that a process's batch is computed in, one after the other; the step stays the same, up to the order of float sums.
        checkpointing: activations of the transformer blocks are computed again in the backward pass (a third more work for a fraction of the memory).
        frozen_bf16: weights that are not trained are held in bfloat16, where they are not sharded (FSDP wants one number format).
    """

    steps: int = 1000
    lr: float = 1e-3
    warmup_steps: int = 100
    final_lr: float = 0.02
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    bf16: bool = True
    threads: int = 1
    seed: int = 0
    save_every: int = 250
    log_every: int = 25
    accumulate: int = 1
    checkpointing: bool = False
    frozen_bf16: bool = False

    def require(self, where: str) -> None:
        """Raise WbvlaError for the first value that no training can have; ``where`` stands before its name on the command line."""
        require_at_least(self, where, steps=1, warmup_steps=0, weight_decay=0, threads=1, save_every=1, log_every=1, accumulate=1)
        require_positive(self, where, "lr", "clip_norm")
        require_shares(self, where, "final_lr")
        require_seed(self, where)
