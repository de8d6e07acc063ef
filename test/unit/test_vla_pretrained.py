"""Published weights: our classes compute what the original code computed, from both layouts; whatever does not fit is refused by name."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from wbvla_cli.main import main
from wbvla_core.errors import CheckpointError, ErrorCode
from wbvla_core.robot import load_robot
from wbvla_perception.preprocess import ImageSpec, pixel_values, policy_image
from wbvla_train.vla.config import VlaTrainConfig
from wbvla_train.vla.train import build_model
from wbvla_vla import config as sizes
from wbvla_vla import published
from wbvla_vla.checkpoint import load_vla, save_vla
from wbvla_vla.config import LanguageConfig, TowerConfig, VlaConfig, full
from wbvla_vla.model import PrismaticVla
from wbvla_vla.pretrained import PublishedVla, load_published, plan, resample_positions
from wbvla_vla.tokens import InstructionTokenizer, build_tokenizer

torch.set_num_threads(1)

FIXTURE = Path(__file__).resolve().parents[1] / "fixtures/prismatic"
GOLDEN = load_file(FIXTURE / "golden.safetensors")
LAYOUTS = ("original", "hf")
ROWS = 512  # 448 words and one for padding, to a multiple of 64
LIMIT = 1e-4
SENTENCE = "walk to the red box"

TINY = dataclasses.replace(
    full(),
    dino=TowerConfig(24, 3, 2, 96, 14, registers=4),
    siglip=TowerConfig(20, 3, 2, 74, 14, activation=full().siglip.activation),
    language=LanguageConfig(24, 2, 4, 48, max_words=64),
    image_size=56,
)


def load(layout: str, config: VlaConfig = TINY, **options) -> PublishedVla:
    return load_published(FIXTURE / layout, config, **options)


def words(tokenizer: InstructionTokenizer) -> torch.Tensor:
    """Ids of the sentence without padding [1, T]."""
    ids = torch.from_numpy(tokenizer.encode(SENTENCE))
    return ids[ids != tokenizer.pad_id][None]


def vocabulary_logits(loaded: PublishedVla, image_tokens: torch.Tensor) -> torch.Tensor:
    """Logits of the whole vocabulary over <s> | image | words, [1, L, V], without our queries."""
    model = loaded.model
    embed = model.language.get_input_embeddings()
    sequence = torch.cat((embed(model.opening_ids)[None], image_tokens, embed(words(loaded.tokenizer))), dim=1)
    return model.language(inputs_embeds=sequence).logits


def deviation(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).abs().max())


@pytest.fixture
def copy(tmp_path):
    """A copy of a layout that may be spoilt."""

    def copy_of(layout: str) -> Path:
        return Path(shutil.copytree(FIXTURE / layout, tmp_path / layout))

    return copy_of


def edit_json(path: Path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def edit_pt(folder: Path, change) -> None:
    path = folder / "checkpoints/latest-checkpoint.pt"
    content = torch.load(path, weights_only=True)
    change(content["model"])
    torch.save(content, path)


@pytest.fixture
def tiny_preset(monkeypatch) -> None:
    monkeypatch.setitem(sizes.PRESETS, "full", lambda: TINY)


# what it computes


@pytest.mark.parametrize("layout", LAYOUTS)
@torch.no_grad()
def test_towers_projector_and_logits_agree_with_the_original_code(layout):
    loaded = load(layout)
    features = loaded.model.vision(GOLDEN["pixel_values"])
    assert deviation(features[..., :24], GOLDEN["dino"]) < LIMIT
    assert deviation(features[..., 24:], GOLDEN["siglip"]) < LIMIT
    projected = loaded.model.projector(features)
    assert deviation(projected, GOLDEN["projected"]) < LIMIT
    assert deviation(vocabulary_logits(loaded, projected)[..., :ROWS], GOLDEN[f"logits_{layout}"]) < LIMIT


@pytest.mark.parametrize("layout", LAYOUTS)
@torch.no_grad()
def test_the_forward_pass_of_the_vla_itself_agrees_where_the_queries_are_not_seen(layout):
    loaded = load(layout)
    ids = torch.from_numpy(loaded.tokenizer.encode(SENTENCE))[None]
    out = loaded.model(GOLDEN["pixel_values"], ids)
    logits = loaded.model.language.lm_head(out.visual_hidden)[..., :ROWS]
    assert deviation(logits, GOLDEN[f"logits_{layout}"][:, 1 : 1 + TINY.image_tokens]) < LIMIT
    assert out.logits.shape == (1, 2, 4, 16) and torch.isfinite(out.logits).all()


@pytest.mark.parametrize(
    "detail",
    [
        {"siglip": dataclasses.replace(TINY.siglip, activation=None)},  # transformers' own: the tanh approximation
        {"siglip": dataclasses.replace(TINY.siglip, feature_layer=-1)},
        {"dino": dataclasses.replace(TINY.dino, feature_layer=-1)},
        {"dino": dataclasses.replace(TINY.dino, feature_layer=-3)},
    ],
)
@torch.no_grad()
def test_each_detail_of_the_towers_shows_in_the_golden_features(detail):
    features = load("hf", dataclasses.replace(TINY, **detail)).model.vision(GOLDEN["pixel_values"])
    assert deviation(features, torch.cat((GOLDEN["dino"], GOLDEN["siglip"]), dim=-1)) > 5 * LIMIT


def test_the_epsilon_of_llama_is_its_own_in_one_layout_and_what_the_description_says_in_the_other(copy):
    assert load("original").model.config.language.rms_norm_eps == 1e-5
    assert load("hf").model.config.language.rms_norm_eps == 1e-6
    assert deviation(GOLDEN["logits_original"], GOLDEN["logits_hf"]) > 100 * LIMIT  # so the agreement above holds each to its own
    folder = copy("hf")
    text = json.loads((folder / "config.json").read_text())["text_config"]
    edit_json(folder / "config.json", text_config=text | {"rms_norm_eps": 1e-5})
    assert load_published(folder, TINY).model.config.language.rms_norm_eps == 1e-5


def test_the_full_preset_asks_for_exactly_the_names_and_shapes_of_the_published_model():
    tokenizer = InstructionTokenizer(build_tokenizer(["walk"], 16, 4), 64)
    with torch.device("meta"):
        model = PrismaticVla(full(), tokenizer)
    lines = sorted(f"{name} {slot.shape}" for name, slot in plan(model, published.HUGGING_FACE, 32064).items())
    assert len(lines) == 969
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == (FIXTURE / "published_shapes.sha256").read_text().strip()


def test_pictures_are_prepared_as_the_original_prepares_them():
    spec = ImageSpec(size=56, source_width=80, source_height=60)
    ours = pixel_values(policy_image(GOLDEN["image"].numpy(), spec), spec)
    assert np.abs(ours - GOLDEN["pixel_values"][0].numpy()).max() < 1e-5


# towers that a checkpoint left out


@torch.no_grad()
def test_frozen_towers_come_from_timms_files_and_their_positions_are_resampled_as_timm_does(copy, tmp_path):
    folder = copy("original")
    edit_pt(folder, lambda model: model.pop("vision_backbone"))
    with pytest.raises(CheckpointError, match=r"missing vision_backbone\.dino_featurizer.*frozen towers.*towers="):
        load_published(folder, TINY)
    dino, siglip = FIXTURE / "timm/dino.safetensors", FIXTURE / "timm/siglip.safetensors"
    assert load_file(dino)["pos_embed"].shape == (1, 81, 24)
    # SigLIP's hub file is a whole open_clip model
    whole = {f"visual.trunk.{name}": tensor for name, tensor in load_file(siglip).items()} | {"text.positional_embedding": torch.zeros(4, 4)}
    torch.save(whole, tmp_path / "open_clip_pytorch_model.bin")
    for second in (siglip, tmp_path / "open_clip_pytorch_model.bin"):
        model = load_published(folder, TINY, towers=(dino, second)).model
        assert deviation(model.vision.dino.embeddings.position_embeddings[:, 1:], GOLDEN["positions_resampled"]) < 1e-6
        assert deviation(model.vision(GOLDEN["pixel_values"]), GOLDEN["patches_resampled"]) < LIMIT


def test_resampling_keeps_what_is_constant_and_the_grid_that_fits():
    positions = torch.randn(1, 81, 4, generator=torch.Generator().manual_seed(0))
    assert resample_positions(positions, 81) is positions
    torch.testing.assert_close(resample_positions(torch.full((1, 81, 4), 3.0), 16), torch.full((1, 16, 4), 3.0))


# words


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_prompt_has_the_original_ids(layout):
    assert torch.equal(words(load(layout).tokenizer), GOLDEN["input_ids"][:, 1:])  # <s> is the model's to add


def test_the_instruction_is_read_in_lower_case_as_openvla_was_trained():
    tokenizer = load("hf").tokenizer
    np.testing.assert_array_equal(tokenizer.encode("Walk to the RED box"), tokenizer.encode(SENTENCE))


@torch.no_grad()
def test_our_tokens_follow_the_last_published_row_and_leave_the_published_ones_as_they_are():
    loaded = load("hf")
    tokenizer, model = loaded.tokenizer, loaded.model
    ours = np.concatenate((tokenizer.act_ids(16).ravel(), tokenizer.query_ids(4)))
    assert sorted(ours) == list(range(ROWS, ROWS + 40)) and tokenizer.vocab_size == ROWS + 40
    assert tokenizer.pad_id == 448 and tokenizer.bos_id == 1
    shards = [load_file(path) for path in sorted((FIXTURE / "hf").glob("*.safetensors"))]
    rows = next(shard["language_model.lm_head.weight"] for shard in shards if "language_model.lm_head.weight" in shard).float()
    head = model.language.lm_head.weight
    assert torch.equal(head[:ROWS], rows)
    new = head[ROWS:]
    assert deviation(new.mean(dim=0), rows.mean(dim=0)) < 0.1 * rows.std()
    assert len(new.unique(dim=0)) == 40 and (new.std(dim=0) < 0.2 * rows.std(dim=0)).all()
    assert torch.equal(load("hf").model.language.lm_head.weight, head)  # the same every time


# forms


@torch.no_grad()
def test_bfloat16_is_loaded_as_it_lies_in_the_file_and_runs():
    model = load("hf", dtype=torch.bfloat16).model
    exact = load("hf").model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert torch.get_default_dtype() == torch.float32
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, exact.state_dict()[name].bfloat16(), rtol=0, atol=0)
    assert deviation(model.encode_image(GOLDEN["pixel_values"].bfloat16()).float(), GOLDEN["projected"]) < 0.2


@torch.no_grad()
def test_saved_as_our_own_checkpoint_it_reads_back_the_same(tmp_path):
    loaded = load("hf")
    save_vla(tmp_path / "vla/tiny", "tiny", loaded.model, loaded.tokenizer, ImageSpec(size=56), load_robot("x2"), {}, {})
    again = load_vla(tmp_path / "vla/tiny")
    assert again.model.config == loaded.model.config
    ids = torch.from_numpy(again.tokenizer.encode(SENTENCE))[None]
    a, b = (model(GOLDEN["pixel_values"], ids).logits for model in (again.model, loaded.model))
    assert deviation(a, b) < 0.01  # half precision


def test_training_begins_from_published_weights_where_it_is_told_to(tiny_preset):
    model, tokenizer = build_model(VlaTrainConfig(size="full", pretrained=str(FIXTURE / "hf")))
    assert torch.equal(model.projector.fc1.weight, load("hf").model.projector.fc1.weight)
    assert tokenizer.vocab_size == ROWS + 40


def test_the_command_checks_a_folder_and_writes_it_as_our_own_checkpoint(tiny_preset, tmp_path, capsys):
    assert main(["import", "prismatic", str(FIXTURE / "hf")]) == 0
    text = capsys.readouterr().out
    assert "Hugging Face layout" in text and "512 published rows" in text and "40 tokens of ours" in text
    assert main(["import", "prismatic", str(FIXTURE / "original"), "--out", str(tmp_path / "vla/base")]) == 0
    loaded = load_vla(tmp_path / "vla/base", load_robot("x2"))
    assert loaded.image_spec.size == TINY.image_size
    assert loaded.manifest.extra["vision_weights"].startswith("published")
    assert main(["import", "prismatic", str(tmp_path)]) == 2
    assert "config.json is not there" in capsys.readouterr().err


def test_the_hub_is_asked_for_weights_and_descriptions_of_one_revision_only(monkeypatch):
    asked = {}

    def download(repository, revision, allow_patterns):
        asked.update(repository=repository, revision=revision, patterns=allow_patterns)
        return str(FIXTURE)

    monkeypatch.setattr(published, "snapshot_download", download)
    assert load_published("owner/name/original@0123abc", TINY).layout == "Prismatic"
    assert (asked["repository"], asked["revision"]) == ("owner/name", "0123abc")
    assert "original/checkpoints/latest-checkpoint.pt" in asked["patterns"]
    assert not any(pattern.endswith((".py", "*")) for pattern in asked["patterns"])
    with pytest.raises(CheckpointError, match="revision"):
        load_published("owner/name", TINY)

    def refuse(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr(published, "snapshot_download", refuse)
    with pytest.raises(CheckpointError, match="no route.*give the folder"):
        load_published("owner/name@0123abc", TINY)


# refusals


def test_missing_unexpected_and_wrongly_shaped_tensors_are_named(copy):
    name = "projector.fc2.bias"
    folder = copy("hf")
    shard = folder / json.loads((folder / published.INDEX_FILE).read_text())["weight_map"][name]
    tensors = load_file(shard)

    def spoil(**changes) -> None:
        kept = {key: value for key, value in (tensors | changes).items() if value is not None}
        save_file(kept, shard)

    spoil(**{name: None})
    with pytest.raises(CheckpointError, match=r"index\.json lists tensors.*projector\.fc2\.bias"):
        load_published(folder, TINY)
    spoil(**{name: torch.zeros(7)})
    with pytest.raises(CheckpointError, match=r"projector\.fc2\.bias \(7,\) \(expected \(24,\)\)"):
        load_published(folder, TINY)
    spoil(**{"projector.fc4.bias": torch.zeros(7)})
    with pytest.raises(CheckpointError, match=r"missing none; unexpected projector\.fc4\.bias"):
        load_published(folder, TINY)


def test_in_the_prismatic_layout_too(copy):
    folder = copy("original")
    edit_pt(folder, lambda model: model["llm_backbone"].pop("llm.lm_head.weight"))
    with pytest.raises(CheckpointError, match=r"missing llm_backbone\.llm\.lm_head\.weight; unexpected none"):
        load_published(folder, TINY)
    edit_pt(folder, lambda model: model.pop("llm_backbone"))
    with pytest.raises(CheckpointError, match=r"has no llm_backbone\.llm\.model\.embed_tokens\.weight"):
        load_published(folder, TINY)


def test_a_model_of_another_size_is_refused_with_the_first_names_and_their_number():
    with pytest.raises(CheckpointError, match=r"missing .*blocks\.3.* and \d+ more"):
        load("hf", dataclasses.replace(TINY, dino=dataclasses.replace(TINY.dino, layers=4)))
    with pytest.raises(CheckpointError, match=r"expected \(1, 4, 24\)|expected \(1, 16, 48\)"):
        load("hf", dataclasses.replace(TINY, dino=dataclasses.replace(TINY.dino, hidden_size=48)))


@pytest.mark.parametrize(
    ("layout", "change", "message"),
    [
        ("hf", {"model_type": "llava"}, "model_type 'llava'"),
        ("hf", {"vision_backbone_id": "siglip-vit-so400m"}, "vision_backbone_id 'siglip-vit-so400m' .expected 'dinosiglip-vit-so-224px'"),
        ("hf", {"text_config": {"num_attention_heads": 8}}, "num_attention_heads 8 .expected 4"),
        ("hf", {"text_config": {"num_attention_heads": 4, "rope_theta": 5e5}}, "rope_theta 500000.0 .expected 10000.0"),
        ("original", {"model": {"arch_specifier": "linear"}}, "arch_specifier 'linear' .expected 'no-align.fused-gelu-mlp'"),
    ],
)
def test_another_architecture_is_refused_by_what_its_description_says(copy, layout, change, message):
    folder = copy(layout)
    edit_json(folder / "config.json", **change)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_published(folder, TINY)
    assert caught.value.code == ErrorCode.CHECKPOINT_MISMATCH


def test_an_openvla_training_run_is_known_by_the_model_it_began_from(copy):
    folder = copy("original")
    (folder / "config.json").write_text(json.dumps({"vla": {"base_vlm": "prism-dinosiglip-224px+7b"}}))
    assert load_published(folder, TINY).layout == "Prismatic"
    (folder / "config.json").write_text(json.dumps({"vla": {"base_vlm": "siglip-224px+7b"}}))
    with pytest.raises(CheckpointError, match="prism-dinosiglip-224px"):
        load_published(folder, TINY)


@pytest.mark.parametrize(("layout", "file"), [("hf", "model-00003-of-00005.safetensors"), ("original", "checkpoints/latest-checkpoint.pt")])
def test_a_truncated_file_and_a_missing_one_are_named(copy, layout, file):
    path = copy(layout) / file
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match=path.name) as caught:
        load_published(path.parents[1] if layout == "original" else path.parent, TINY)
    assert caught.value.code == ErrorCode.CHECKPOINT_CORRUPT
    path.unlink()
    with pytest.raises(CheckpointError, match=r"model-00003|latest-checkpoint\.pt"):
        load_published(path.parents[1] if layout == "original" else path.parent, TINY)


def test_a_pickle_that_would_run_code_is_refused(copy):
    folder = copy("original")
    (folder / "checkpoints/latest-checkpoint.pt").write_bytes(pickle.dumps({"model": np.array}))
    with pytest.raises(CheckpointError, match="weights alone"):
        load_published(folder, TINY)


def test_a_folder_without_tokenizer_or_with_another_ones_is_refused(copy):
    folder = copy("original")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match="Llama-2's tokenizer.json"):
        load_published(folder, TINY)
    assert load_published(folder, TINY, tokenizer=FIXTURE / "hf").rows == ROWS
    build_tokenizer([f"word{index}" for index in range(600)], 16, 4).save(str(folder / "tokenizer.json"))
    with pytest.raises(CheckpointError, match="512 rows"):
        load_published(folder, TINY)
