"""The network: shapes, one pass for all eight tokens, who sees whom, adapters, half precision, published sizes."""

from __future__ import annotations

import dataclasses
import json
import os

import numpy as np
import pytest
import torch

from wbvla_core.errors import CheckpointError
from wbvla_vla import lora
from wbvla_vla.checkpoint import load_float, save_half, save_tensors
from wbvla_vla.config import LanguageConfig, VlaConfig, debug, full
from wbvla_vla.model import PrismaticVla, code_loss, parameter_count
from wbvla_vla.tokens import InstructionTokenizer, build_tokenizer

torch.set_num_threads(1)  # small matrices: more threads only wait for each other


def make(config: VlaConfig | None = None, seed: int = 0) -> tuple[PrismaticVla, InstructionTokenizer]:
    config = config or debug()
    tokenizer = InstructionTokenizer(build_tokenizer(["walk to the red box", "turn left"], config.codebook_size, config.tokens_per_kind), 12)
    torch.manual_seed(seed)
    return PrismaticVla(config, tokenizer).eval(), tokenizer


def pixels(count: int = 1, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 6, 96, 96, generator=torch.Generator().manual_seed(seed))


def words(tokenizer: InstructionTokenizer, *sentences: str) -> torch.Tensor:
    return torch.from_numpy(tokenizer.encode_batch(sentences))


@torch.no_grad()
def test_one_forward_pass_gives_all_eight_tokens_and_they_are_the_argmax() -> None:
    model, tokenizer = make()
    calls = []
    hook = model.language.model.register_forward_hook(lambda *_: calls.append(1))
    out = model(pixels(2), words(tokenizer, "turn left", "walk to the red box"))
    hook.remove()
    assert len(calls) == 1
    assert out.logits.shape == (2, 2, 4, 16) and out.latent_hidden.shape == (2, 8, 32) and out.visual_hidden.shape == (2, 16, 32)
    # the language model's own head over the whole vocabulary, at the query positions, cut to the code tokens of that kind
    vocabulary = model.language.get_output_embeddings()(out.latent_hidden).unflatten(1, (2, 4))  # [N, kinds, tokens, V]
    ids = torch.from_numpy(tokenizer.act_ids(16))
    for kind in range(2):
        torch.testing.assert_close(vocabulary[:, kind][..., ids[kind]], out.logits[:, kind])
        assert torch.equal(vocabulary[:, kind][..., ids[kind]].argmax(-1), out.codes()[:, kind])


@torch.no_grad()
def test_several_sentences_per_picture_equal_one_by_one() -> None:
    model, tokenizer = make()
    image, text = pixels(2), words(tokenizer, "turn left", "walk to the red box", "walk")
    index = torch.tensor([0, 1, 1])
    together = model(image, text, index)
    for i in range(3):
        alone = model(image[index[i] : index[i] + 1], text[i : i + 1])
        torch.testing.assert_close(alone.logits[0], together.logits[i], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_padding_changes_nothing() -> None:
    model, tokenizer = make()
    short = InstructionTokenizer(tokenizer.tokenizer, max_words=2)
    assert model.config.language.attention == "prefix"
    a = model(pixels(), words(short, "turn left")).logits
    # Positions of the queries differ with the padding (rotary embeddings), so compare what padding may not do: leak its own content.
    padded = words(tokenizer, "turn left")
    with torch.no_grad():
        model.language.get_input_embeddings().weight[tokenizer.pad_id] = 100.0
    b = model(pixels(), padded).logits
    model.language.get_input_embeddings().weight[tokenizer.pad_id] = -3.0
    torch.testing.assert_close(model(pixels(), padded).logits, b)
    assert a.shape == b.shape and torch.isfinite(b).all()


@torch.no_grad()
def test_under_the_parallel_mask_image_tokens_do_not_see_the_words_and_queries_see_each_other() -> None:
    base = debug()
    model, tokenizer = make(dataclasses.replace(base, language=dataclasses.replace(base.language, attention="parallel")))
    one, two = (model(pixels(), words(tokenizer, sentence)) for sentence in ("turn left", "walk to the red box"))
    torch.testing.assert_close(one.visual_hidden, two.visual_hidden)
    assert not torch.allclose(one.latent_hidden, two.latent_hidden)
    mask = model._mask(words(tokenizer, "turn left"), 16)[0, 0]
    assert mask[-8:, -8:].all() and not mask[0, 1:].any()

    prefix, tokenizer = make()
    one, two = (prefix(pixels(), words(tokenizer, sentence)) for sentence in ("turn left", "walk to the red box"))
    assert not torch.allclose(one.visual_hidden, two.visual_hidden)


def test_the_code_loss_is_the_log_of_the_codebook_size_for_no_opinion_and_masks_what_has_no_label() -> None:
    codes = torch.randint(0, 16, (3, 2, 4), generator=torch.Generator().manual_seed(0))
    assert code_loss(torch.zeros(3, 2, 4, 16), codes).item() == pytest.approx(np.log(16), abs=1e-5)
    sure = torch.full((3, 2, 4, 16), -50.0).scatter_(3, codes[..., None], 50.0)
    wrong_kind = sure.clone()
    wrong_kind[:, 1] = -wrong_kind[:, 1]
    weight = torch.tensor([[1.0, 0.0]]).repeat(3, 1)
    assert code_loss(wrong_kind, codes, weight).item() == pytest.approx(0.0, abs=1e-5)
    assert code_loss(wrong_kind, codes).item() > 10


def test_merged_adapters_equal_unmerged_ones_and_a_fresh_adapter_changes_nothing() -> None:
    model, tokenizer = make()
    text = words(tokenizer, "turn left")
    with torch.no_grad():
        before = model(pixels(), text).logits
    adapted = lora.attach(model, lora.LoraSettings(rank=4, alpha=8))
    with torch.no_grad():
        torch.testing.assert_close(adapted(pixels(), text).logits, before)
        generator = torch.Generator().manual_seed(1)
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
        unmerged = adapted(pixels(), text).logits
    state = {key: value.clone() for key, value in lora.adapter_state(adapted).items()}
    assert (unmerged - before).abs().max() > 1e-2

    fresh, _ = make()
    again = lora.attach(fresh, lora.LoraSettings(rank=4, alpha=8))
    lora.load_adapter(again, state)
    with torch.no_grad():
        torch.testing.assert_close(lora.merge(again)(pixels(), text).logits, unmerged, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="missing"):
        lora.load_adapter(lora.attach(make()[0], lora.LoraSettings(rank=4)), dict(list(state.items())[1:]))


@torch.no_grad()
def test_adapters_that_were_merged_come_out_again() -> None:
    model, tokenizer = make()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    adapted = lora.attach(model, lora.LoraSettings())  # rank 32, all linear layers
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.normal_(0.0, 0.1)
    unmerged = adapted(pixels(), words(tokenizer, "turn left")).logits
    adapted.merge_adapter()
    torch.testing.assert_close(adapted(pixels(), words(tokenizer, "turn left")).logits, unmerged, rtol=1e-4, atol=1e-5)
    adapted.unmerge_adapter()
    for name, value in lora.merge(adapted_with_zero(adapted)).state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=1e-6, msg=name)


def adapted_with_zero(adapted):
    """The same with adapters that add nothing: what is left is the base."""
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.zero_()
    return adapted


@torch.no_grad()
def test_half_precision_weights_read_back_as_the_nearest_halves(tmp_path) -> None:
    model, tokenizer = make()
    save_half(model.state_dict(), tmp_path / "model.safetensors")
    read = load_float(tmp_path / "model.safetensors")
    assert set(read) == set(model.state_dict())
    for name, value in model.state_dict().items():
        torch.testing.assert_close(read[name], value.half().float(), rtol=0, atol=0)
    other, _ = make(seed=1)
    other.load_state_dict(read)
    text = words(tokenizer, "turn left")
    torch.testing.assert_close(other(pixels(), text).logits, model(pixels(), text).logits, rtol=0.02, atol=0.02)


def test_the_full_preset_has_the_published_sizes() -> None:
    config = full()
    tokenizer = InstructionTokenizer(build_tokenizer(["walk"], 16, 4), config.language.max_words)
    with torch.device("meta"):
        model = PrismaticVla(config, tokenizer)
    # DINOv2 ViT-L/14 with registers 304.4 M, SigLIP So400m/14 at 224 px 412.4 M (without its pooling head), Llama-2 blocks 6476.3 M
    assert parameter_count(model.vision.dino) == pytest.approx(304e6, rel=0.01)
    assert parameter_count(model.vision.siglip) == pytest.approx(413e6, rel=0.01)
    assert parameter_count(model.language.model.layers) == 32 * (4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096)
    assert config.image_tokens == 256


def autoregressive(attention: str) -> VlaConfig:
    base = debug()
    return dataclasses.replace(base, decoding="autoregressive", language=dataclasses.replace(base.language, attention=attention, layers=2))


@torch.no_grad()
@pytest.mark.parametrize("attention", ["prefix", "parallel"])
def test_codes_decoded_one_by_one_are_those_of_one_pass_that_is_given_them(attention: str) -> None:
    model, tokenizer = make(autoregressive(attention))
    image, text = pixels(2), words(tokenizer, "turn left", "walk to the red box")
    own = model(image, text)
    given = model(image, text, codes=own.codes())
    assert own.logits.shape == (2, 2, 4, 16) and own.latent_hidden.shape == (2, 8, 32)
    for name in ("logits", "latent_hidden", "visual_hidden"):
        torch.testing.assert_close(getattr(own, name), getattr(given, name), rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["prefix", "parallel"])
def test_a_code_changes_the_codes_after_it_and_nothing_before(attention: str) -> None:
    model, tokenizer = make(autoregressive(attention))
    image, text = pixels(), words(tokenizer, "turn left")
    codes = torch.arange(8).view(1, 2, 4)
    other = codes.clone()
    other[0, 0, 3] = 15  # the fourth of eight
    a, b = model(image, text, codes=codes), model(image, text, codes=other)
    same = (a.logits == b.logits).all(dim=-1).flatten()
    assert same.tolist() == [True] * 4 + [False] * 4
    assert torch.equal(a.visual_hidden, b.visual_hidden)


@torch.no_grad()
def test_sampling_repeats_with_its_seed_and_parallel_decoding_refuses_it() -> None:
    model, tokenizer = make(autoregressive("prefix"))
    image, text = pixels(), words(tokenizer, "turn left")
    draw = lambda seed: model(image, text, generator=torch.Generator().manual_seed(seed)).codes()  # noqa: E731
    assert torch.equal(draw(1), draw(1)) and len({tuple(draw(seed).flatten().tolist()) for seed in range(5)}) > 1
    parallel, tokenizer = make()
    with pytest.raises(ValueError, match="this model has 'parallel'"):
        parallel(image, text, generator=torch.Generator())


@torch.no_grad()
def test_parallel_decoding_does_not_look_at_the_codes() -> None:
    model, tokenizer = make()
    image, text = pixels(), words(tokenizer, "turn left")
    assert torch.equal(model(image, text).logits, model(image, text, codes=torch.zeros(1, 2, 4, dtype=torch.long)).logits)


def test_a_checkpoint_that_says_nothing_about_decoding_is_parallel() -> None:
    older = debug().to_json()
    del older["decoding"]
    assert VlaConfig.from_json(older) == debug()


def test_configs_survive_json() -> None:
    for config in (debug(), full()):
        assert VlaConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    assert isinstance(VlaConfig.from_json(debug().to_json()).language, LanguageConfig)


def test_weights_have_the_mode_of_a_new_file_and_a_number_that_is_not_finite_is_named(tmp_path) -> None:
    path, before = tmp_path / "model.safetensors", os.umask(0o022)
    try:
        save_tensors({"a": torch.ones(3), "codes": torch.arange(3)}, path)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o644
    assert torch.equal(load_float(path)["a"], torch.ones(3))
    save_tensors({"a": torch.ones(3), "b": torch.tensor([1.0, torch.nan, -torch.inf]).half()}, path)
    with pytest.raises(CheckpointError, match="2 of 3 numbers of b are not finite"):
        load_float(path)
    save_tensors({"a": torch.full((3,), 3e38)}, path)  # their sum is infinite, they are not
    assert torch.isfinite(load_float(path)["a"]).all()
    path.write_bytes(b"junk")
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        load_float(path)
