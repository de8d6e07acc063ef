"""The forward pass in other number formats, and what a machine cannot do said before anything is loaded."""

from __future__ import annotations

import dataclasses
import sys

import pytest
import torch

from wbvla_core.errors import WbvlaError
from wbvla_vla.config import PRESETS, debug
from wbvla_vla.engine import EngineConfig, build
from wbvla_vla.model import PrismaticVla
from wbvla_vla.tokens import InstructionTokenizer, build_tokenizer
from wbvla_vla.trace import Plain

torch.set_num_threads(1)  # small matrices: more threads only wait for each other


def make(decoding: str = "parallel") -> tuple[PrismaticVla, torch.Tensor, torch.Tensor]:
    config = dataclasses.replace(debug(), decoding=decoding)
    tokenizer = InstructionTokenizer(build_tokenizer(["walk to the red box"], config.codebook_size, config.tokens_per_kind), 12)
    torch.manual_seed(0)
    model = PrismaticVla(config, tokenizer).eval()
    return model, torch.randn(1, 6, 96, 96), torch.from_numpy(tokenizer.encode("walk to the box"))[None]


@torch.inference_mode()
@pytest.mark.parametrize("decoding", ["parallel", "autoregressive"])
def test_float32_is_the_model_to_the_bit_with_and_without_the_recorded_graph(decoding):
    model, pixels, words = make(decoding)
    wanted = model(pixels, words)
    for compiled in (False, True):
        found = build(model, 12, EngineConfig(compile=compiled))(pixels, words)
        assert torch.equal(found.logits, wanted.logits) and torch.equal(found.visual_hidden, wanted.visual_hidden)


@torch.inference_mode()
def test_bf16_is_near_the_model_answers_in_float32_and_keeps_the_positions_exact():
    model, pixels, words = make()
    wanted = model(pixels, words).logits
    found = build(model, 12, EngineConfig(dtype="bf16"))(pixels, words).logits
    assert next(model.parameters()).dtype == torch.bfloat16 and found.dtype == torch.float32
    assert 0 < (found - wanted).abs().max() < 0.05 * wanted.abs().max()
    assert all(buffer.dtype != torch.bfloat16 for buffer in model.buffers())


@torch.inference_mode()
def test_int8_weights_are_near_the_model_and_leave_towers_and_head_alone():
    pytest.importorskip("torchao", reason="pip install 'wbvla[quantize]'")
    model, pixels, words = make()
    wanted = model(pixels, words).logits
    found = build(model, 12, EngineConfig(quantize="int8"))(pixels, words).logits
    assert 0 < (found - wanted).abs().max() < 0.1 * wanted.abs().max()
    plain = {name for name, parameter in model.named_parameters() if type(parameter.data) is torch.Tensor}
    assert "language.lm_head.weight" in plain and any(name.startswith("vision.") for name in plain)
    assert "language.model.layers.0.mlp.up_proj.weight" not in plain


@pytest.mark.parametrize(("preset", "decoding"), [("debug", "parallel"), ("full", "parallel"), ("debug", "autoregressive")])
def test_no_step_of_the_pass_asks_for_a_value_so_that_a_cuda_graph_can_hold_it(preset, decoding):
    """On the meta device every read of a value, and every mix with a tensor on the CPU, is an error."""
    config = dataclasses.replace(PRESETS[preset](), decoding=decoding)
    words = ["walk to the red box", config.prompt]
    tokenizer = InstructionTokenizer(build_tokenizer(words, config.codebook_size, config.tokens_per_kind), config.language.max_words, config.prompt)
    with torch.device("meta"), torch.no_grad():
        model = PrismaticVla(config, tokenizer).to("meta")
        sizes = (torch.empty(1, 6, config.image_size, config.image_size), torch.ones(1, config.language.max_words, dtype=torch.long))
        logits = Plain(model)(*sizes)[0]
    assert logits.is_meta and logits.shape == (1, 2, config.tokens_per_kind, config.codebook_size)


def test_what_this_machine_cannot_do_is_refused_with_the_way_out(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(WbvlaError, match="sees no GPU.*--device cpu"):
        EngineConfig(device="cuda").require()
    monkeypatch.setitem(sys.modules, "torchao", None)
    with pytest.raises(WbvlaError, match=r"needs torchao .*wbvla\[quantize\]"):
        EngineConfig(quantize="int8").require()
