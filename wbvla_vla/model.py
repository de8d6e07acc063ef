"""Prismatic layout: two vision towers -> fused patch features -> MLP projector -> Llama -> latent-action tokens.

    pixel_values [B, 6, S, S]
        DINOv2 (registers) [B, P, H1]  ┐ concatenated per patch
        SigLIP             [B, P, H2]  ┘ -> projector -> [B, P, D]
    <bos> | P image tokens | words | 8 queries  ->  Llama  ->  hidden states at the queries [N, 8, D]  ->  codes

All eight codes come out of one forward pass (prior work: OpenVLA-OFT's parallel decoding). Towers and language model are
transformers classes; a tiny model differs from the 7B in its configuration and in the stem of the towers only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel, LlamaConfig, LlamaForCausalLM, SiglipVisionConfig, SiglipVisionModel

from wbvla_vla.config import TowerConfig, VlaConfig
from wbvla_vla.tokens import KINDS, InstructionTokenizer


@dataclass
class VlaOutput:
    """What one forward pass gives for N (image, sentence) pairs.

    Attributes:
        logits: code logits [N, kinds, tokens_per_kind, codebook_size]; kinds in the order of ``tokens.KINDS``.
        latent_hidden: last hidden states at the queries [N, kinds * tokens_per_kind, D]: what the decoder reads.
        visual_hidden: last hidden states at the image tokens [N, P, D].
    """

    logits: torch.Tensor
    latent_hidden: torch.Tensor
    visual_hidden: torch.Tensor

    def codes(self) -> torch.Tensor:
        """Most likely code per token [N, kinds, tokens_per_kind]."""
        return self.logits.argmax(dim=-1)


class ConvStem(nn.Module):
    """Three strided convolutions in place of the patch projection (ours, see TowerConfig.stem); one token per ``patch_size`` px.

    The first one already divides by four: on a CPU half of a four-convolution stem's time went into its first, 48 x 48 map.
    """

    def __init__(self, hidden_size: int, patch_size: int) -> None:
        super().__init__()
        if patch_size % 8:
            raise ValueError(f"the conv stem divides by 4, by 2 and by patch_size / 8; patch_size must be a multiple of 8, got {patch_size}")
        a, b = hidden_size * 3 // 8, hidden_size * 3 // 4
        self.layers = nn.Sequential(
            nn.Conv2d(3, a, kernel_size=8, stride=4, padding=2),
            nn.GroupNorm(4, a),
            nn.GELU(),
            nn.Conv2d(a, b, kernel_size=3, stride=2, padding=1),
            nn.GroupNorm(4, b),
            nn.GELU(),
            nn.Conv2d(b, hidden_size, kernel_size=3, stride=patch_size // 8, padding=1),  # ends linear, like a patch projection
        )

    @property
    def weight(self) -> torch.Tensor:
        """The towers ask their projection for its dtype."""
        return self.layers[0].weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [B, 3, S, S] -> [B, H, S / patch, S / patch]
        return self.layers(x)


class VisionTowers(nn.Module):
    """DINOv2 with registers and SigLIP over the same image, fused per patch."""

    def __init__(self, config: VlaConfig) -> None:
        super().__init__()
        d, s = config.dino, config.siglip
        if d.tokens(config.image_size) != s.tokens(config.image_size):
            raise ValueError(f"both towers must cut the image into the same patches, got {d.tokens(config.image_size)} and {s.tokens(config.image_size)}")
        common = {"image_size": config.image_size, "initializer_range": config.language.initializer_range}
        self.dino = Dinov2WithRegistersModel(
            Dinov2WithRegistersConfig(
                hidden_size=d.hidden_size,
                num_hidden_layers=d.layers,
                num_attention_heads=d.heads,
                mlp_ratio=d.intermediate_size // d.hidden_size,
                patch_size=d.patch_size,
                num_register_tokens=d.registers,
                **common,
            )
        )
        self.siglip = SiglipVisionModel(
            SiglipVisionConfig(
                hidden_size=s.hidden_size,
                num_hidden_layers=s.layers,
                num_attention_heads=s.heads,
                intermediate_size=s.intermediate_size,
                patch_size=s.patch_size,
                vision_use_head=False,
                image_size=config.image_size,
            )
        )
        if d.stem == "conv":
            self.dino.embeddings.patch_embeddings.projection = ConvStem(d.hidden_size, d.patch_size)
        if s.stem == "conv":
            self.siglip.embeddings.patch_embedding = ConvStem(s.hidden_size, s.patch_size)
        self.config = config

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """[B, 6, S, S] -> fused patch features [B, P, H1 + H2]."""
        dino = _features(self.dino, pixel_values[:, :3], self.config.dino)
        siglip = _features(self.siglip, pixel_values[:, 3:], self.config.siglip)
        return torch.cat((dino[:, 1 + self.config.dino.registers :], siglip), dim=-1)  # class and register tokens dropped


def _features(tower: nn.Module, pixels: torch.Tensor, config: TowerConfig) -> torch.Tensor:
    if config.feature_layer == -1:
        return tower(pixel_values=pixels).last_hidden_state
    return tower(pixel_values=pixels, output_hidden_states=True).hidden_states[config.feature_layer]


class Projector(nn.Module):
    """Fused patch features -> language width: Linear, GELU, Linear, GELU, Linear (prior work: Prismatic's fused-gelu-mlp)."""

    def __init__(self, vision_size: int, language_size: int, expansion: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(vision_size, expansion * vision_size)
        self.fc2 = nn.Linear(expansion * vision_size, language_size)
        self.fc3 = nn.Linear(language_size, language_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc3(F.gelu(self.fc2(F.gelu(self.fc1(x)))))


class PrismaticVla(nn.Module):
    """The VLA. Pure tensor code: sentences become ids in :class:`~wbvla_vla.tokens.InstructionTokenizer`."""

    def __init__(self, config: VlaConfig, tokenizer: InstructionTokenizer) -> None:
        super().__init__()
        self.config = config
        self.pad_id = tokenizer.pad_id
        lang = config.language
        self.vision = VisionTowers(config)
        self.projector = Projector(config.dino.hidden_size + config.siglip.hidden_size, lang.hidden_size, config.projector_expansion)
        self.language = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=tokenizer.vocab_size,
                hidden_size=lang.hidden_size,
                intermediate_size=lang.intermediate_size,
                num_hidden_layers=lang.layers,
                num_attention_heads=lang.heads,
                initializer_range=lang.initializer_range,
                pad_token_id=tokenizer.pad_id,
                bos_token_id=tokenizer.bos_id,
                eos_token_id=None,
                use_cache=False,
                loss_type="ForCausalLM",  # the class's own; left open it is warned about
            )
        )
        self.register_buffer("act_ids", torch.from_numpy(tokenizer.act_ids(config.codebook_size)), persistent=False)  # [kinds, codes]
        self.register_buffer("query_ids", torch.from_numpy(tokenizer.query_ids(config.tokens_per_kind)), persistent=False)  # [kinds * tokens]
        self.register_buffer("bos_id", torch.tensor([tokenizer.bos_id]), persistent=False)

    def encode_image(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """[B, 6, S, S] -> image tokens [B, P, D]."""
        return self.projector(self.vision(pixel_values))

    def forward(self, pixel_values: torch.Tensor, word_ids: torch.Tensor, image_index: torch.Tensor | None = None) -> VlaOutput:
        """One pass over N sentences.

        Args:
            pixel_values: [B, 6, S, S].
            word_ids: [N, T], padded on the right with ``pad_id``.
            image_index: which image each sentence belongs to [N]; None = one sentence per image. Several sentences per image share
                the towers' work: this is what makes counterfactual training cheap.
        """
        image_tokens = self.encode_image(pixel_values)
        if image_index is not None:
            image_tokens = image_tokens[image_index]
        return self.read_out(image_tokens, word_ids)

    def read_out(self, image_tokens: torch.Tensor, word_ids: torch.Tensor) -> VlaOutput:
        """Image tokens [N, P, D] and words [N, T] -> output; the part behind towers and projector."""
        n, p = image_tokens.shape[:2]
        embed = self.language.get_input_embeddings()
        bos = embed(self.bos_id).expand(n, 1, -1)
        queries = embed(self.query_ids).expand(n, -1, -1)
        sequence = torch.cat((bos, image_tokens.to(bos.dtype), embed(word_ids), queries), dim=1)  # [N, 1 + P + T + Q, D]
        hidden = self.language.model(inputs_embeds=sequence, attention_mask=self._mask(word_ids, p), use_cache=False).last_hidden_state
        latent = hidden[:, -self.query_ids.numel() :]
        return VlaOutput(logits=self._code_logits(latent), latent_hidden=latent, visual_hidden=hidden[:, 1 : 1 + p])

    def _mask(self, word_ids: torch.Tensor, image_tokens: int) -> torch.Tensor:
        """Who sees whom [N, 1, L, L] bool. Padding is seen by nobody; every row sees at least <bos>."""
        n = word_ids.shape[0]
        queries = self.query_ids.numel()
        keys = F.pad(word_ids != self.pad_id, (1 + image_tokens, queries), value=True)  # [N, L]
        length = keys.shape[1]
        if self.config.language.attention == "prefix":
            return keys[:, None, None, :].expand(n, 1, length, length)
        rule = torch.ones(length, length, dtype=torch.bool, device=keys.device).tril()
        rule[-queries:, -queries:] = True
        return keys[:, None, None, :] & rule

    def _code_logits(self, latent: torch.Tensor) -> torch.Tensor:
        """Hidden states at the queries [N, kinds * tokens, D] -> logits of that kind's code tokens [N, kinds, tokens, codes].

        Only the rows of the vocabulary that are valid at a position are scored: a code can never be a word (ours).
        """
        kinds = latent.unflatten(1, (len(KINDS), self.config.tokens_per_kind))
        head = self.language.get_output_embeddings().weight[self.act_ids]  # [kinds, codes, D]
        return torch.einsum("nktd,kcd->nktc", kinds, head.to(kinds.dtype))


def code_loss(logits: torch.Tensor, codes: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
    """Mean cross-entropy of both code sets (paper: -log p(c_mani, c_loco | image, sentence)).

    Args:
        logits: [N, kinds, tokens, codes].
        codes: [N, kinds, tokens] int64.
        weight: per sample and kind [N, kinds]; 0 masks a label that does not exist.
    """
    loss = F.cross_entropy(logits.flatten(0, 2), codes.flatten(), reduction="none").view(codes.shape)
    if weight is None:
        return loss.mean()
    return (loss.mean(dim=-1) * weight).sum() / weight.sum().clamp_min(1e-6)


def parameter_count(module: nn.Module) -> int:
    return int(np.sum([parameter.numel() for parameter in module.parameters()]))
