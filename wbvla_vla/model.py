"""Latent-action tokens read from a vision-language model: :class:`Vla`, and its default backbone, :class:`PrismaticVla`.

    pixel_values [B, 6, S, S]
        DINOv2 (registers) [B, P, H1]  ┐ concatenated per patch
        SigLIP             [B, P, H2]  ┘ -> projector -> [B, P, D]
    <bos> | P image tokens | words | 8 queries  ->  Llama  ->  hidden states at the queries [N, 8, D]  ->  codes

All eight codes come out of one forward pass (prior work: OpenVLA-OFT's parallel decoding), or, with ``decoding="autoregressive"``, one
after the other: the first query asks for the first code, every code asks for the next (prior work: OpenVLA, UniVLA). Towers and language
model are transformers classes; a tiny model differs from the 7B in its configuration and in the stem of the towers only. Other backbones
are in :mod:`wbvla_vla.image_text`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel, DynamicCache, LlamaConfig, LlamaForCausalLM, SiglipVisionConfig, SiglipVisionModel

from wbvla_vla.config import AnyVlaConfig, TowerConfig, VlaConfig
from wbvla_vla.tokens import KINDS, InstructionTokenizer


@dataclass
class VlaOutput:
    """What one forward pass gives for N (image, sentence) pairs.

    Attributes:
        logits: code logits [N, kinds, tokens_per_kind, codebook_size]; kinds in the order of ``tokens.KINDS``.
        latent_hidden: last hidden states at the queries [N, kinds * tokens_per_kind, D]: what the decoder reads.
        visual_hidden: last hidden states at the image tokens [N, P, D].
        sampled: codes that were drawn, where they were, [N, kinds, tokens_per_kind].
    """

    logits: torch.Tensor
    latent_hidden: torch.Tensor
    visual_hidden: torch.Tensor
    sampled: torch.Tensor | None = None

    def codes(self) -> torch.Tensor:
        """Most likely code per token [N, kinds, tokens_per_kind], or the sampled ones."""
        return self.logits.argmax(dim=-1) if self.sampled is None else self.sampled


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
                **_activation(d),
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
                **_activation(s),
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


def _activation(config: TowerConfig) -> dict[str, str]:
    return {"hidden_act": config.activation} if config.activation else {}


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


class Vla(nn.Module):
    """The VLA on any backbone. Pure tensor code: sentences become ids in :class:`~wbvla_vla.tokens.InstructionTokenizer`.

    A backbone is a subclass. All that it has to offer:

    Attributes:
        config: sizes of image and language blocks, see :mod:`wbvla_vla.config`; ``config.image_spec`` is how an image is prepared for it.
        language: ``.model`` = causal blocks of transformers (embeddings [N, L, D] and a mask [N, 1, L, L] bool in, last hidden states out),
            ``.get_input_embeddings()`` and ``.get_output_embeddings()`` with one row for each token of the tokenizer.
        towers: how the names of its vision towers begin: what adapters may leave out, and quantisation does.

    and :meth:`encode_image`. Its transformer blocks are transformers' own, so that gradient checkpointing finds them.
    """

    language: nn.Module
    towers: str

    def __init__(self, config: AnyVlaConfig, tokenizer: InstructionTokenizer) -> None:
        super().__init__()
        self.config = config
        self.pad_id = tokenizer.pad_id
        self.register_buffer("act_ids", torch.from_numpy(tokenizer.act_ids(config.codebook_size)), persistent=False)  # [kinds, codes]
        self.register_buffer("query_ids", torch.from_numpy(tokenizer.query_ids(config.tokens_per_kind)), persistent=False)  # [kinds * tokens]
        self.register_buffer("opening_ids", torch.tensor(tokenizer.opening_ids), persistent=False)  # [K] what stands before the image

    def encode_image(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """[B, C, S, S] -> image tokens [B, P, D]."""
        raise NotImplementedError

    def forward(
        self,
        pixel_values: torch.Tensor,
        word_ids: torch.Tensor,
        image_index: torch.Tensor | None = None,
        codes: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> VlaOutput:
        """One pass over N sentences.

        Args:
            pixel_values: [B, C, S, S], normalised as ``config.image_spec`` says.
            word_ids: [N, T], padded on the right with ``pad_id``.
            image_index: which image each sentence belongs to [N]; None = one sentence per image. Several sentences per image share
                the towers' work: this is what makes counterfactual training cheap.
            codes, generator: see :meth:`read_out`.
        """
        image_tokens = self.encode_image(pixel_values)
        if image_index is not None:
            image_tokens = image_tokens[image_index]
        return self.read_out(image_tokens, word_ids, codes, generator)

    def read_out(
        self, image_tokens: torch.Tensor, word_ids: torch.Tensor, codes: torch.Tensor | None = None, generator: torch.Generator | None = None
    ) -> VlaOutput:
        """Image tokens [N, P, D] and words [N, T] -> output; the part behind towers and projector.

        Args:
            codes: the right answer [N, kinds, tokens], for training: an autoregressive model is given the codes before each token (teacher
                forcing, one pass). None = its own. Parallel decoding does not look at them.
            generator: draw the codes by their probabilities with it, in place of the most likely ones (autoregressive decoding only).

        Raises:
            ValueError: sampling was asked of parallel decoding, whose tokens know nothing of each other.
        """
        if self.config.decoding == "autoregressive":
            return self._decode(image_tokens, word_ids, generator) if codes is None else self._teacher_forced(image_tokens, word_ids, codes)
        if generator is not None:
            raise ValueError("codes are sampled one after the other: generator needs decoding='autoregressive', this model has 'parallel'")
        return self.read_queries(image_tokens, word_ids)

    def read_queries(self, image_tokens: torch.Tensor, word_ids: torch.Tensor) -> VlaOutput:
        """Parallel decoding, whatever the model's own (stage 0 reads the queries before there are codes)."""
        n, p = image_tokens.shape[:2]
        embed = self.language.get_input_embeddings()
        queries = embed(self.query_ids).expand(n, -1, -1)
        sequence = torch.cat((self._prompt(image_tokens, word_ids), queries), dim=1)  # [N, K + P + T + Q, D]
        hidden = self.language.model(inputs_embeds=sequence, attention_mask=self._mask(word_ids, p), use_cache=False).last_hidden_state
        latent = hidden[:, -self.query_ids.numel() :]
        return VlaOutput(logits=self._code_logits(latent), latent_hidden=latent, visual_hidden=self._at_image(hidden, p))

    def _teacher_forced(self, image_tokens: torch.Tensor, word_ids: torch.Tensor, codes: torch.Tensor) -> VlaOutput:
        """Every code asked for by the right one before it, all in one pass."""
        p = image_tokens.shape[1]
        before = self._act_tokens(codes)[:, :-1]  # [N, Q - 1]
        first = self.query_ids[:1].expand(len(before), -1)
        asked = self.language.get_input_embeddings()(torch.cat((first, before), dim=1))
        sequence = torch.cat((self._prompt(image_tokens, word_ids), asked), dim=1)
        mask = self._mask(word_ids, p, causal=True)
        hidden = self.language.model(inputs_embeds=sequence, attention_mask=mask, use_cache=False).last_hidden_state
        latent = hidden[:, -self.query_ids.numel() :]
        return VlaOutput(logits=self._code_logits(latent), latent_hidden=latent, visual_hidden=self._at_image(hidden, p))

    def _decode(self, image_tokens: torch.Tensor, word_ids: torch.Tensor, generator: torch.Generator | None) -> VlaOutput:
        """One code after the other; keys and values of what was read stay."""
        p, count = image_tokens.shape[1], self.query_ids.numel()
        embed = self.language.get_input_embeddings()
        mask = self._mask(word_ids, p, causal=True)  # [N, 1, L, L]
        asked = torch.cat((self._prompt(image_tokens, word_ids), embed(self.query_ids[:1]).expand(len(word_ids), -1, -1)), dim=1)
        cache = DynamicCache()
        latent, logits, codes = [], [], []
        for token in range(count):
            start, end = (0 if token == 0 else cache.get_seq_length()), mask.shape[-1] - count + token + 1
            out = self.language.model(inputs_embeds=asked, attention_mask=mask[:, :, start:end, :end], past_key_values=cache, use_cache=True)
            if token == 0:
                visual = self._at_image(out.last_hidden_state, p)
            latent.append(out.last_hidden_state[:, -1])
            ids = self.act_ids[token // self.config.tokens_per_kind]  # [codes]
            logits.append(latent[-1] @ self.language.get_output_embeddings().weight[ids].to(latent[-1].dtype).T)  # [N, codes]
            codes.append(logits[-1].argmax(-1) if generator is None else torch.multinomial(logits[-1].float().softmax(-1), 1, generator=generator)[:, 0])
            asked = embed(ids[codes[-1]])[:, None]
        by_kind = lambda rows: torch.stack(rows, dim=1).unflatten(1, (len(KINDS), self.config.tokens_per_kind))  # noqa: E731
        return VlaOutput(by_kind(logits), torch.stack(latent, dim=1), visual, None if generator is None else by_kind(codes))

    def _prompt(self, image_tokens: torch.Tensor, word_ids: torch.Tensor) -> torch.Tensor:
        """What stands before the image (<bos>), image tokens, words [N, K + P + T, D]."""
        embed = self.language.get_input_embeddings()
        opening = embed(self.opening_ids).expand(len(word_ids), -1, -1)
        return torch.cat((opening, image_tokens.to(opening.dtype), embed(word_ids)), dim=1)

    def _at_image(self, hidden: torch.Tensor, image_tokens: int) -> torch.Tensor:
        """Hidden states [N, L, D] -> those at the image tokens [N, P, D]."""
        start = self.opening_ids.numel()
        return hidden[:, start : start + image_tokens]

    def _act_tokens(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes [N, kinds, tokens] -> ids in the vocabulary [N, kinds * tokens]."""
        return torch.stack([ids[codes[:, kind]] for kind, ids in enumerate(self.act_ids)], dim=1).flatten(1)

    def _mask(self, word_ids: torch.Tensor, image_tokens: int, causal: bool = False) -> torch.Tensor:
        """Who sees whom [N, 1, L, L] bool. Padding is seen by nobody; every row sees at least what opens the sequence.

        Args:
            causal: the last eight see themselves and those before, and nothing before them sees them (autoregressive decoding).
        """
        n = word_ids.shape[0]
        queries = self.query_ids.numel()
        keys = F.pad(word_ids != self.pad_id, (self.opening_ids.numel() + image_tokens, queries), value=True)  # [N, L]
        length = keys.shape[1]
        prefix = self.config.language.attention == "prefix"
        if prefix and not causal:
            return keys[:, None, None, :].expand(n, 1, length, length)
        rule = torch.ones(length, length, dtype=torch.bool, device=keys.device).tril()
        if prefix:
            rule[:-queries, :-queries] = True
        elif not causal:
            rule[-queries:, -queries:] = True
        return keys[:, None, None, :] & rule

    def _code_logits(self, latent: torch.Tensor) -> torch.Tensor:
        """Hidden states at the queries [N, kinds * tokens, D] -> logits of that kind's code tokens [N, kinds, tokens, codes].

        Only the rows of the vocabulary that are valid at a position are scored: a code can never be a word (ours).
        """
        kinds = latent.unflatten(1, (len(KINDS), self.config.tokens_per_kind))
        head = self.language.get_output_embeddings().weight[self.act_ids]  # [kinds, codes, D]
        return torch.einsum("nktd,kcd->nktc", kinds, head.to(kinds.dtype))


class PrismaticVla(Vla):
    """DINOv2 and SigLIP, MLP projector, Llama: see the module text."""

    towers = "vision."

    def __init__(self, config: VlaConfig, tokenizer: InstructionTokenizer) -> None:
        super().__init__(config, tokenizer)
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
                rms_norm_eps=lang.rms_norm_eps,
                pad_token_id=tokenizer.pad_id,
                bos_token_id=tokenizer.bos_id,
                eos_token_id=None,
                use_cache=False,
            )
        )

    def encode_image(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """[B, 6, S, S] -> image tokens [B, P, D]."""
        return self.projector(self.vision(pixel_values))


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
