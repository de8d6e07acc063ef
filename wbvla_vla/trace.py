"""The VLA as a recorded graph: one image at a time, a small model spends most of its time in Python, not in arithmetic.

Recording took a frame of the tiny policy from 12 to 5 ms on one core. The graph is checked against the model on another image and
another sentence before it is used.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import nn

from wbvla_vla.model import Vla, VlaOutput

TOLERANCE = 1e-3  # of logits; recording does not change the arithmetic, so that any real difference is a constant that should not be one


class Plain(nn.Module):
    """The forward pass with tensors at both ends: float32 in and out, whatever the weights are; recorded graphs return tuples."""

    def __init__(self, model: Vla) -> None:
        super().__init__()
        self.model = model
        self.dtype = model.language.get_input_embeddings().weight.dtype
        self.eval()

    def forward(self, pixel_values: torch.Tensor, word_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        out = self.model(pixel_values.to(self.dtype), word_ids)
        return out.logits.float(), out.latent_hidden.float(), out.visual_hidden.float()


def example_inputs(model: Vla, max_words: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two images [2, 1, C, S, S] and two sentences [2, 1, max_words] of different lengths: padding must not become a constant."""
    size = model.config.image_size
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 1, model.config.channels, size, size, generator=generator)
    vocabulary = model.language.get_input_embeddings().weight.shape[0]
    words = torch.randint(1, vocabulary, (2, 1, max_words), generator=generator)
    words[0, 0, max_words // 2 :] = model.pad_id
    words[1, 0, 1:] = model.pad_id
    return images, words


def record(model: Vla, max_words: int) -> Callable[[torch.Tensor, torch.Tensor], VlaOutput]:
    """A function (pixel_values [1, C, S, S], word_ids [1, max_words]) -> VlaOutput that does what ``model`` does.

    Raises:
        RuntimeError: the recorded graph answers differently from the model.
    """
    images, words = example_inputs(model, max_words)
    for module in model.modules():
        if getattr(module, "loss_type", "") is None:
            module.loss_type = "ForCausalLM"  # tracing reads every property, and transformers' one warns of a loss that nobody asks for
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # shapes are constants on purpose: one image, one length of word list
        graph = torch.jit.freeze(torch.jit.trace(Plain(model), (images[0], words[0]), check_trace=False))

    def run(pixel_values: torch.Tensor, word_ids: torch.Tensor) -> VlaOutput:
        return VlaOutput(*graph(pixel_values, word_ids))

    with torch.inference_mode():
        for image, text in zip(images, words, strict=True):
            difference = float((run(image, text).logits - model(image, text).logits).abs().max())
            if not difference <= TOLERANCE:
                raise RuntimeError(f"the recorded graph of the VLA differs from the model by {difference:.2e} (at most {TOLERANCE:.0e} is rounding)")
    return run
