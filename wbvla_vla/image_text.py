"""Backbones of transformers' image-text-to-text family: vision tower -> connector -> causal language blocks, pictures at placeholder tokens.

    pixel_values [B, 3, S, S] -> tower -> connector -> [B, P, D]
    opening | P image tokens | words, all as the model's own prompt has them | 8 queries  ->  language blocks  ->  hidden states  ->  codes

The modules are transformers' own, taken out of the class that joins them, so that a picture is encoded once for several sentences. It is squashed
onto a square, as for every backbone: neither tiles nor crops. A family is added by its line in :data:`FAMILIES`, if transformers' class computes
no more than the above.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from tokenizers import AddedToken, Tokenizer
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedConfig, PreTrainedModel

from wbvla_core.errors import CheckpointError, ErrorCode
from wbvla_vla.config import Decoding, ImageTextConfig, LanguageConfig, TowerConfig
from wbvla_vla.model import Vla
from wbvla_vla.pretrained import PublishedVla, new_rows, reserve_rows
from wbvla_vla.published import HUB_FILES, local_folder, read_json, some
from wbvla_vla.tokens import PAD, TOKENIZER_FILE, InstructionTokenizer, add_action_tokens

PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")  # the image processor on its own, or as a part of the second
QUESTION = "What action should the robot take to {instruction}?"  # prior work: OpenVLA
MAX_WORDS = 64  # ours: question, instruction and what closes the prompt
VISION_MODELS = ("smolvlm_vision", "idefics3_vision", "internvl_vision", "clip_vision_model")
TEXT_MODELS = ("llama", "qwen2", "qwen3")  # plain causal blocks: every layer sees what the mask says


@dataclass(frozen=True)
class Family:
    """How transformers' class of one model type is put together.

    Attributes:
        tower, blocks: what it calls vision tower and language blocks.
        prompt: its own chat around one picture and one question; {image} = where its placeholder stands.
        encode: (transformers' model without language blocks, pixels [B, 3, S, S]) -> image tokens [B, P, D].
        any_size: the tower knows its positions on pictures of other sizes too.
    """

    tower: str
    blocks: str
    prompt: str
    encode: Callable[[nn.Module, torch.Tensor], torch.Tensor]
    any_size: bool = False


def _one_whole_picture(model: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """What get_image_features does for SmolVLM, without its search for blank and padded pictures: that reads values back, which a CUDA graph cannot hold."""
    tower = model.vision_model
    side = pixels.shape[-1] // tower.patch_size
    seen = torch.ones(len(pixels), side, side, dtype=torch.bool, device=pixels.device)
    hidden = tower.encoder(inputs_embeds=tower.embeddings(pixel_values=pixels, patch_attention_mask=seen)).last_hidden_state
    return model.connector(tower.post_layernorm(hidden))


def _features(model: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    return torch.stack(list(model.get_image_features(pixels).pooler_output))


_SMOLVLM = Family(
    "vision_model",
    "text_model",
    f"<|im_start|>User:<fake_token_around_image><global-img>{{image}}<fake_token_around_image>{QUESTION}<end_of_utterance>\nAssistant:",
    _one_whole_picture,
    any_size=True,
)
FAMILIES = {
    "smolvlm": _SMOLVLM,
    "idefics3": _SMOLVLM,
    "internvl": Family("vision_tower", "language_model", f"<|im_start|>user\n<img>{{image}}</img>\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n", _features),
    "llava": Family("vision_tower", "language_model", f"<s>USER: {{image}}\n{QUESTION} ASSISTANT:", _features),
}
REASONS = {
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "glm4v"), "its positions have three dimensions and its pictures come as lists of patches"),
    **dict.fromkeys(("paligemma", "gemma3", "gemma4"), "its language blocks have masks of their own around pictures"),
    **dict.fromkeys(("llava_next", "llava_onevision"), "it reads a picture as a varying number of tiles"),
    **dict.fromkeys(("mllama", "idefics", "blip"), "it reads pictures by cross-attention, there are no image tokens to be read out"),
    **dict.fromkeys(("blip-2", "instructblip"), "a transformer with queries of its own stands between tower and language"),
    **dict.fromkeys(("florence2", "udop"), "its language side is an encoder with a decoder"),
    "internvl_chat": "it needs code of its repository; the same weights in transformers' layout (-hf) are read",
    **dict.fromkeys(("openvla", "prismatic"), "that is the default backbone's layout: wbvla import prismatic"),
}


class Language(nn.Module):
    """Language blocks and output head under the names that they have in transformers' causal language models."""

    def __init__(self, model: PreTrainedModel, lm_head: nn.Linear) -> None:
        super().__init__()
        self.model, self.lm_head = model, lm_head

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Linear:
        return self.lm_head


class ImageTextVla(Vla):
    """See the module text.

    Args:
        published: transformers' model with its weights; it is taken apart, and its vocabulary grows by our tokens. None = random weights.
    """

    def __init__(self, config: ImageTextConfig, tokenizer: InstructionTokenizer, published: PreTrainedModel | None = None) -> None:
        super().__init__(config, tokenizer)
        family = FAMILIES[config.backbone]
        whole = published or _random(config, tokenizer.vocab_size)
        blocks = getattr(whole.model, family.blocks)
        # The head is a tensor of its own even where it was published as the same as the embeddings: adapters train the latter alone.
        words, head = (_grown(part.weight, tokenizer.vocab_size) for part in (blocks.get_input_embeddings(), whole.get_output_embeddings()))
        blocks.set_input_embeddings(nn.Embedding(*words.shape, _weight=words))
        lm_head = nn.Linear(*reversed(head.shape), bias=False, device="meta")
        lm_head.weight = nn.Parameter(head)
        self.language = Language(blocks, lm_head)
        delattr(whole.model, family.blocks)
        self.vision, self.towers = whole.model, f"vision.{family.tower}."
        self._encode = family.encode

    def encode_image(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """[B, 3, S, S] -> image tokens [B, P, D]."""
        return self._encode(self.vision, pixel_values)


def _random(config: ImageTextConfig, rows: int) -> PreTrainedModel:
    described = {key: value for key, value in config.model.items() if key != "model_type"}
    text = {**described["text_config"], "vocab_size": rows, "tie_word_embeddings": False}
    whole = AutoConfig.for_model(config.backbone, **{**described, "text_config": text, "tie_word_embeddings": False})
    return AutoModelForImageTextToText.from_config(whole, attn_implementation="sdpa", dtype=torch.get_default_dtype())


@torch.no_grad()
def _grown(rows: torch.Tensor, count: int) -> torch.Tensor:
    """Rows of a vocabulary, and new ones up to ``count``."""
    return torch.cat((rows, new_rows(rows, count - len(rows)).to(rows))) if count > len(rows) else rows.detach().clone()


def load_image_text(source: str | Path, *, image_size: int | None = None, decoding: Decoding = "parallel", dtype: torch.dtype = torch.float32) -> PublishedVla:
    """Read published weights with the tokenizer and the image statistics of their own folder.

    Args:
        source: a folder as transformers writes it (config.json, safetensors, tokenizer.json, image processor), or ``owner/name[/folder]@revision`` on the hub.
        image_size: edge of the policy image, px; None = the model's own.
        decoding: see :class:`~wbvla_vla.config.VlaConfig`.
        dtype: of the weights in memory.

    Raises:
        CheckpointError: a model that does not fit, with the reason; files that are missing, damaged or of another model.
    """
    folder = local_folder(source, (*HUB_FILES, *PROCESSOR_FILES))
    family, described = _described(folder)
    rows = described.text_config.vocab_size
    words, image_token = _tokenizer(folder, rows, described.image_token_id)
    config = _config(folder, described, image_size, family.any_size)
    config = replace(config, prompt=family.prompt.replace("{image}", image_token), image_token=image_token, decoding=decoding)
    add_action_tokens(words, config.codebook_size, config.tokens_per_kind)
    tokenizer = InstructionTokenizer(words, config.language.max_words, config.prompt, image_token)
    try:
        options = {"attn_implementation": "sdpa", "use_safetensors": True, "local_files_only": True, "output_loading_info": True}
        whole, found = AutoModelForImageTextToText.from_pretrained(folder, config=described, dtype=dtype, **options)
    except (OSError, RuntimeError, SafetensorError) as error:
        text = str(error).strip().split("\n")[0]
        raise CheckpointError(f"{folder} holds no readable weights of its config.json ({text}); copy it again", ErrorCode.CHECKPOINT_CORRUPT) from error
    missing, unexpected = sorted(found["missing_keys"]), sorted(found["unexpected_keys"])
    if missing or unexpected:
        raise CheckpointError(f"{folder} does not fit its config.json: missing {some(missing)}; unexpected {some(unexpected)}")
    model = ImageTextVla(config, tokenizer, whole).eval()
    with torch.no_grad():
        blank = torch.zeros(1, config.channels, config.image_size, config.image_size, dtype=dtype)
        model.config = replace(config, image_tokens=model.encode_image(blank).shape[1])
    return PublishedVla(model, tokenizer, f"transformers' {config.backbone}", rows)


def _described(folder: Path) -> tuple[Family, PreTrainedConfig]:
    """Family and transformers' description of the folder's model, or a refusal that names what does not fit."""
    path = folder / "config.json"
    said = read_json(path)
    kind = said.get("model_type")
    if "quantization_config" in said:
        raise CheckpointError(f"{path} describes quantised weights; give the model as it was before: wbvla quantises when it serves")
    if kind not in FAMILIES:
        raise CheckpointError(f"{path} has model_type {kind!r}: {REASONS.get(kind, 'nobody has shown that it fits')}; read are {', '.join(FAMILIES)}")
    try:
        described = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (ValueError, StrictDataclassError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path} is no description that transformers {transformers.__version__} reads: {reason[:200]}") from error
    tower, text = type(described.vision_config).model_type, described.text_config
    if tower not in VISION_MODELS:
        raise CheckpointError(f"{path} has a vision tower of {tower}; read are {', '.join(VISION_MODELS)}")
    layers = set(getattr(text, "layer_types", None) or ("full_attention",))
    if text.model_type not in TEXT_MODELS or layers != {"full_attention"}:
        raise CheckpointError(
            f"{path} has language blocks of {text.model_type} with {', '.join(sorted(layers))}; read are {', '.join(TEXT_MODELS)} with full_attention "
            "in every layer: others do not follow a mask that is given to them"
        )
    return FAMILIES[kind], described


def _config(folder: Path, described: PreTrainedConfig, image_size: int | None, any_size: bool) -> ImageTextConfig:
    vision, text = described.vision_config, described.text_config
    own, patch = _edge(vision.image_size), _edge(vision.patch_size)
    mean, std = _statistics(folder)
    image_size = image_size or own
    joined = patch * getattr(described, "scale_factor", 1)
    if image_size != own and not (any_size and image_size % joined == 0 and image_size < own):
        allowed = f"a smaller multiple of {joined} or {own}" if any_size else str(own)
        raise CheckpointError(f"{described.model_type} in {folder} reads pictures of {allowed} px, not {image_size}")
    return ImageTextConfig(
        model=_plain(described.to_dict()),
        vision=TowerConfig(vision.hidden_size, vision.num_hidden_layers, vision.num_attention_heads, vision.intermediate_size, patch),
        language=LanguageConfig(text.hidden_size, text.num_hidden_layers, text.num_attention_heads, text.intermediate_size, max_words=MAX_WORDS),
        image_size=image_size,
        image_tokens=0,  # counted when the model is there
        mean=mean,
        std=std,
    )


def _plain(described: dict[str, Any]) -> dict[str, Any]:
    """As JSON gives it back, without the folder's place and the number format of its weights: a checkpoint's are its own."""
    return json.loads(json.dumps(described), object_hook=lambda part: {key: part[key] for key in part if not key.startswith("_") and key != "dtype"})


def _edge(size: int | list[int] | tuple[int, ...]) -> int:
    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        raise CheckpointError(f"the vision tower reads {width}x{height} px; pictures and patches must be square")
    return height


def _statistics(folder: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and spread per channel from the folder's image processor. How it resizes and cuts is not taken over: see perception's one transform."""
    alone, joint = (folder / name for name in PROCESSOR_FILES)
    path = joint if joint.is_file() and not alone.is_file() else alone
    said: dict[str, Any] = read_json(path)
    said = said.get("image_processor", said)
    if not said.get("do_normalize", True) or abs(said.get("rescale_factor", 1 / 255) - 1 / 255) > 1e-6 or not {"image_mean", "image_std"} <= said.keys():
        raise CheckpointError(f"{path} must scale pictures by 1/255 and name image_mean and image_std; it has {some(said)}")
    return tuple(said["image_mean"]), tuple(said["image_std"])


def _tokenizer(folder: Path, rows: int, image_id: int) -> tuple[Tokenizer, str]:
    """The folder's tokenizer and its placeholder of pictures; padding follows the last published row where the model has none by our name."""
    path = folder / TOKENIZER_FILE
    if not path.is_file():
        raise CheckpointError(f"{path} is not there; copy the tokenizer of the model beside its weights", ErrorCode.CHECKPOINT_MISSING)
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    image_token = tokenizer.id_to_token(image_id)
    if image_token is None:
        raise CheckpointError(f"{path} has no token {image_id}, which config.json calls the image token; they belong to different models")
    reserve_rows(tokenizer, rows, path)
    tokenizer.add_special_tokens([AddedToken(PAD, special=True, normalized=False)])  # no change where it is there
    return tokenizer, image_token
