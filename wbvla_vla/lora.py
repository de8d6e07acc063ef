"""Low-rank adapters on the VLA, by peft: attach, take out, put back, merge."""

from __future__ import annotations

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from torch import nn

from wbvla_vla.config import LoraSettings
from wbvla_vla.model import Vla


def linear_layers(model: Vla, towers: bool = True) -> list[str]:
    """Names of all linear layers but the output head ("all-linear" in peft's sense, which peft offers for transformers' classes only)."""
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and not name.endswith("lm_head")]
    return [name for name in names if towers or not name.startswith(model.towers)]


def attach(model: Vla, settings: LoraSettings) -> PeftModel:
    """Freeze ``model`` and hang trainable adapters on its linear layers."""
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        init_lora_weights="gaussian",
        target_modules=linear_layers(model, settings.towers),
        modules_to_save=["embed_tokens"] if settings.embeddings else None,
        bias="none",
    )
    return get_peft_model(model, config)


def adapter_state(adapted: PeftModel, weights: dict[str, torch.Tensor] | None = None) -> dict[str, torch.Tensor]:
    """The adapters alone; ``weights``: where they are not in ``adapted`` (gathered from many processes)."""
    return get_peft_model_state_dict(adapted, state_dict=weights)


def load_adapter(adapted: PeftModel, state: dict[str, torch.Tensor]) -> None:
    """Put adapter weights back.

    Raises:
        ValueError: naming keys that do not fit the model.
    """
    expected = get_peft_model_state_dict(adapted)
    missing, unknown = sorted(set(expected) - set(state)), sorted(set(state) - set(expected))
    wrong = [
        f"{key} {tuple(state[key].shape)} != {tuple(expected[key].shape)}" for key in expected.keys() & state.keys() if state[key].shape != expected[key].shape
    ]
    if missing or unknown or wrong:
        raise ValueError(f"the adapter does not fit the model: missing {missing[:4]}, unknown {unknown[:4]}, wrong shapes {wrong[:4]}")
    set_peft_model_state_dict(adapted, state)


def merge(adapted: PeftModel) -> Vla:
    """Fold the adapters into the base weights; the result is a plain model again."""
    return adapted.merge_and_unload()
