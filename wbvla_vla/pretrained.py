"""Published Prismatic and OpenVLA weights (:mod:`wbvla_vla.published`), loaded into :class:`~wbvla_vla.model.PrismaticVla`.

Their towers are timm's, ours are transformers'; :data:`RENAMES` joins the two. Every name and every shape is checked before the first
tensor is copied, and they are copied one by one: a 7B needs the memory of one model.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer
from torch.nn import functional as F
from transformers.initialization import no_init_weights

from wbvla_core.errors import CheckpointError, ErrorCode
from wbvla_vla.config import VlaConfig, full
from wbvla_vla.model import PrismaticVla, Vla
from wbvla_vla.published import Layout, local_folder, read_folder, read_towers, some
from wbvla_vla.tokens import LLAMA_PAD, TOKENIZER_FILE, InstructionTokenizer, add_action_tokens

NEW_ROW_NOISE = 0.1  # ours: of the published rows' spread; tokens of one mean are told apart from the first step on
# Ours -> timm's, replaced in this order; {scale} is the layout's. Llama and projector differ in their prefixes only.
RENAMES = (
    ("embeddings.cls_token", "cls_token"),
    ("embeddings.register_tokens", "reg_token"),
    ("embeddings.position_embeddings", "pos_embed"),
    ("embeddings.position_embedding.weight", "pos_embed"),
    ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
    ("embeddings.patch_embedding", "patch_embed.proj"),
    ("encoder.layers.", "blocks."),
    ("encoder.layer.", "blocks."),
    ("self_attn.out_proj", "attn.proj"),
    ("attention.o_proj", "attn.proj"),
    ("self_attn.", "attn."),
    ("attention.", "attn."),
    ("layer_scale1.lambda1", "ls1.{scale}"),
    ("layer_scale2.lambda1", "ls2.{scale}"),
    ("post_layernorm", "norm"),
    ("layernorm", "norm"),
    ("layer_norm", "norm"),
)
POSITIONS, VOCABULARY = "pos_embed", ("embed_tokens.weight", "lm_head.weight")  # what is not simply copied
UNUSED = "attn_pool."  # published, of no use here: SigLIP's pooling head
UNPUBLISHED = "vision.dino.embeddings.mask_token"  # only ever read where patches are masked


@dataclass
class PublishedVla:
    """A published model in our classes, on whatever backbone.

    Attributes:
        model: in eval mode; the rows of our own tokens are new.
        rows: published rows of the vocabulary; our tokens follow them.
    """

    model: Vla
    tokenizer: InstructionTokenizer
    layout: str
    rows: int


def load_published(
    source: str | Path,
    config: VlaConfig | None = None,
    *,
    towers: tuple[Path, Path] | None = None,
    tokenizer: Path | None = None,
    dtype: torch.dtype = torch.float32,
) -> PublishedVla:
    """Read published weights.

    Args:
        source: a folder, or ``owner/name[/folder]@revision`` on the hub.
        config: what to build; default :func:`~wbvla_vla.config.full`. Positions are resampled where its image has another size.
        towers: timm's own files of DINOv2 and SigLIP (.safetensors, .bin, .pt), for checkpoints that left out frozen towers.
        tokenizer: folder with Llama-2's tokenizer.json; default: ``source``.
        dtype: of the weights in memory.

    Raises:
        CheckpointError: something is missing, unexpected, of another shape or architecture; names it.
    """
    folder = local_folder(source)
    layout, config, tensors = read_folder(folder, config or full())
    if towers:
        tensors |= read_towers(towers, layout)
    embedding = f"{layout.language}model.embed_tokens.weight"
    if embedding not in tensors:
        raise CheckpointError(f"{folder} has no {embedding}; it has {some(tensors)}")
    rows = len(tensors[embedding])
    words = published_tokenizer(Path(tokenizer) if tokenizer else folder, rows, config)
    previous = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with no_init_weights():
            model = PrismaticVla(config, words)
    finally:
        torch.set_default_dtype(previous)
    _fill(model, tensors, layout, rows, folder)
    return PublishedVla(model.eval(), words, layout.name, rows)


def published_tokenizer(folder: Path, rows: int, config: VlaConfig) -> InstructionTokenizer:
    """Llama-2's tokenizer with Prismatic's padding token; our tokens follow the last published row, padded rows included.

    Raises:
        CheckpointError: no tokenizer.json, or one of another vocabulary.
    """
    path = folder / TOKENIZER_FILE
    if not path.is_file():
        raise CheckpointError(
            f"{path} is not there; the Prismatic layout comes without a tokenizer: give the folder of Llama-2's tokenizer.json "
            "(a tokenizer.model alone is not read; transformers converts it: AutoTokenizer.from_pretrained(...).save_pretrained(...))",
            ErrorCode.CHECKPOINT_MISSING,
        )
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.add_special_tokens([AddedToken(LLAMA_PAD, special=True, normalized=False)])  # no change where it is there
    reserve_rows(tokenizer, rows, path)
    add_action_tokens(tokenizer, config.codebook_size, config.tokens_per_kind)
    return InstructionTokenizer(tokenizer, config.language.max_words, config.prompt)


def reserve_rows(tokenizer: Tokenizer, rows: int, path: Path) -> None:
    """Name every published row of the vocabulary, so that tokens added afterwards follow the last one; ``path``: of the tokenizer, for the error.

    Raises:
        CheckpointError: more tokens than rows.
    """
    words = tokenizer.get_vocab_size(with_added_tokens=True)
    if words > rows:
        raise CheckpointError(f"{path} has {words} tokens, the embeddings have {rows} rows; they belong to different models")
    tokenizer.add_special_tokens([AddedToken(f"<unused_{index}>", special=True, normalized=False) for index in range(words, rows)])


def published_name(name: str, layout: Layout) -> tuple[str, int | None]:
    """Name in our state dict -> published name, and which third of it where query, key and value are one tensor there."""
    if name.startswith("projector."):
        return layout.projector[int(name[len("projector.fc")]) - 1] + name.rpartition(".")[2], None
    if name.startswith("language."):
        return layout.language + name.removeprefix("language."), None
    _, tower, name = name.split(".", 2)
    for ours, theirs in RENAMES:
        name = name.replace(ours, theirs)
    name = getattr(layout, tower) + name.format(scale=layout.scale)
    match = re.search(r"\.([qkv])_proj\.", name)
    return (name, None) if match is None else (name.replace(match[0], ".qkv."), "qkv".index(match[1]))


@dataclass
class Slot:
    """A published tensor: its shape, and which of our parameters it fills, with which third of it (None = with all)."""

    shape: tuple[int, ...]
    targets: list[tuple[torch.Tensor, int | None]]


def plan(model: PrismaticVla, layout: Layout, rows: int) -> dict[str, Slot]:
    """Published name -> slot, for every tensor that ``model`` needs; ``rows`` of the vocabulary are published."""
    slots: dict[str, Slot] = {}
    for ours, parameter in model.state_dict().items():
        if ours == UNPUBLISHED:
            continue
        name, part = published_name(ours, layout)
        shape = tuple(parameter.shape)
        if name.endswith(POSITIONS):
            shape = (1, model.config.image_tokens, shape[-1])
        elif name.endswith(VOCABULARY):
            shape = (rows, *shape[1:])
        elif part is not None:
            shape = (3 * shape[0], *shape[1:])
        slots.setdefault(name, Slot(shape, [])).targets.append((parameter, part))
    return slots


@torch.no_grad()
def _fill(model: PrismaticVla, tensors: dict[str, torch.Tensor], layout: Layout, rows: int, folder: Path) -> None:
    """Check every name and shape, then copy."""
    slots = plan(model, layout, rows)
    missing = sorted(set(slots) - set(tensors))
    unexpected = sorted(name for name in set(tensors) - set(slots) if not name.startswith(layout.siglip + UNUSED))
    if missing or unexpected:
        if missing and all(name.startswith((layout.dino, layout.siglip)) for name in missing):
            hint = "a checkpoint that was trained with frozen towers needs timm's files of them (towers=...)"
        else:
            hint = "is it of another model, or of other sizes than the configuration?"
        raise CheckpointError(f"{folder} does not fit ({layout.name} layout): missing {some(missing)}; unexpected {some(unexpected)}; {hint}")
    wrong = [f"{name} {tuple(tensors[name].shape)} (expected {slot.shape})" for name, slot in slots.items() if not _fits(name, tensors[name], slot)]
    if wrong:
        raise CheckpointError(f"{folder} has tensors of other shapes than the configuration: {some(wrong)}")
    model.state_dict()[UNPUBLISHED].zero_()
    for name, slot in slots.items():
        for parameter, part in slot.targets:
            _copy(name, tensors[name], parameter, part, rows)


def _fits(name: str, tensor: torch.Tensor, slot: Slot) -> bool:
    shape = tuple(tensor.shape)
    if name.endswith(POSITIONS) and len(shape) == 3 and _square(shape[1]):  # of another image size: will be resampled
        shape = (shape[0], slot.shape[1], shape[2])
    return shape == slot.shape


def _square(count: int) -> bool:
    return math.isqrt(count) ** 2 == count


def _copy(name: str, tensor: torch.Tensor, parameter: torch.Tensor, part: int | None, rows: int) -> None:
    if name.endswith(POSITIONS):
        # transformers' DINOv2 has a position for its class token, timm's class token carries it already; registers have none in either.
        patches = parameter.flatten(0, -2)  # [1 + P, H] or [P, H]
        classes = 0 if _square(len(patches)) else 1
        patches[:classes] = 0.0
        patches[classes:] = resample_positions(tensor, len(patches) - classes)[0]
    elif name.endswith(VOCABULARY):
        parameter[:rows] = tensor
        parameter[rows:] = new_rows(tensor, len(parameter) - rows)
    else:
        parameter.copy_(tensor if part is None else tensor.chunk(3)[part])


def resample_positions(positions: torch.Tensor, count: int) -> torch.Tensor:
    """Square grid of position embeddings [1, P, H] -> [1, count, H] (prior work: timm, bicubic with anti-aliasing, in float32)."""
    if positions.shape[1] == count:
        return positions
    old, new = math.isqrt(positions.shape[1]), math.isqrt(count)
    grid = positions.float().unflatten(1, (old, old)).permute(0, 3, 1, 2)  # [1, H, old, old]
    return F.interpolate(grid, size=(new, new), mode="bicubic", antialias=True).flatten(2).transpose(1, 2)


def new_rows(published: torch.Tensor, count: int) -> torch.Tensor:
    """Rows for added tokens [count, D]: the mean of the published ones with a little noise, always the same (ours)."""
    rows = published.float()
    noise = torch.randn(count, rows.shape[1], generator=torch.Generator().manual_seed(0))
    return rows.mean(dim=0) + NEW_ROW_NOISE * rows.std(dim=0) * noise
