"""Other backbones: what they compute is what transformers computes of the same tokens; whatever does not fit is refused by name and reason."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from robot_sets import write_set
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from wbvla_cli.main import main
from wbvla_core.errors import CheckpointError, ErrorCode, InstructionError, WbvlaError
from wbvla_core.robot import load_robot
from wbvla_core.types import PolicyInput, RobotState
from wbvla_perception.preprocess import ImageSpec, normalise, pixel_values
from wbvla_train.data.camera import robot_view
from wbvla_train.data.lerobot.stream import StreamConfig
from wbvla_train.decoder import train as decoder_train
from wbvla_train.decoder.config import PRESETS as DECODER_PRESETS
from wbvla_train.lam.config import ModelConfig
from wbvla_train.lam.export import export as export_lam
from wbvla_train.lam.model import LatentActionModel
from wbvla_train.parallel import checkpoint_blocks
from wbvla_train.vla import train as vla_train
from wbvla_train.vla.config import PRESETS as VLA_PRESETS
from wbvla_train.vla.config import VlaTrainConfig
from wbvla_train.vla.train import build_model
from wbvla_vla import lora, published
from wbvla_vla.checkpoint import load_vla, save_vla
from wbvla_vla.config import ImageTextConfig, image_text_debug
from wbvla_vla.engine import EngineConfig, build
from wbvla_vla.image_text import FAMILIES, QUESTION, ImageTextVla, load_image_text
from wbvla_vla.model import PrismaticVla, code_loss
from wbvla_vla.policy import WholeBodyPolicy
from wbvla_vla.pretrained import PublishedVla
from wbvla_vla.tokens import InstructionTokenizer, build_tokenizer
from wbvla_vla.trace import Plain

torch.set_num_threads(1)

LIMIT = 1e-5
SENTENCE = "walk to the red box"
ROWS = 448  # of the published vocabulary; the tokenizer has fewer
SPECIAL = {
    "smolvlm": ("<image>", "<|im_start|>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"),
    "internvl": ("<IMG_CONTEXT>", "<|im_start|>", "<img>", "</img>", "<|im_end|>"),
    "llava": ("<image>", "<s>", "<pad>"),
}
SPECIAL["idefics3"] = SPECIAL["smolvlm"]
TEXT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48, "initializer_range": 0.2}
VISION = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 40, "initializer_range": 0.2}
TIED = {"internvl"}  # published with one tensor as embeddings and head


def write_tokenizer(folder: Path, special: tuple[str, ...]) -> Tokenizer:
    """A small byte-level tokenizer that knows the prompt's words."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator([QUESTION.format(instruction=SENTENCE), "user\nUser:Assistant: ASSISTANT:assistant\n"] * 3, trainer)
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in special])
    tokenizer.enable_padding(length=99)  # as a folder may say: it must not reach our ids
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer


def describe(kind: str, image_token_id: int) -> dict:
    """config.json of a tiny model."""
    text = {**TEXT, "model_type": {"internvl": "qwen2", "llava": "qwen3"}.get(kind, "llama"), "head_dim": 8, "vocab_size": ROWS}
    text |= {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None, "tie_word_embeddings": kind in TIED}
    sizes = {"internvl": (56, 14), "llava": (28, 14)}.get(kind, (64, 8))
    vision = {**VISION, "image_size": sizes[0], "patch_size": sizes[1]}
    if kind == "llava":
        vision |= {"model_type": "clip_vision_model", "num_hidden_layers": 3}
    return {"model_type": kind, "text_config": text, "vision_config": vision, "image_token_id": image_token_id, "tie_word_embeddings": kind in TIED}


def write_published(folder: Path, kind: str) -> Path:
    """A folder as transformers writes it, with random weights; InternVL in several files, Idefics3 in bfloat16."""
    folder.mkdir(parents=True)
    words = write_tokenizer(folder, SPECIAL[kind])
    described = describe(kind, words.token_to_id(SPECIAL[kind][0]))
    config = AutoConfig.for_model(**described)
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1 or "cls" in name or "position" in name:  # norms, biases and tokens that begin as zeros and ones
            parameter.data += 0.1 * torch.randn(parameter.shape)
    model.to(torch.bfloat16 if kind == "idefics3" else torch.float32).save_pretrained(folder, max_shard_size="60KB" if kind == "internvl" else "1GB")
    processor = {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.26, 0.25, 0.27], "rescale_factor": 1 / 255, "do_normalize": True}
    if kind == "llava":
        (folder / "processor_config.json").write_text(json.dumps({"processor_class": "LlavaProcessor", "image_processor": processor}))
    else:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("published")
    return {kind: write_published(root / kind, kind) for kind in FAMILIES}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A SmolVLM that may be spoilt."""
    return write_published(tmp_path / "smolvlm", "smolvlm")


def edit_json(path: Path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def picture(loaded: PublishedVla, count: int = 1) -> torch.Tensor:
    size = loaded.model.config.image_size
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def words(loaded: PublishedVla, *sentences: str) -> torch.Tensor:
    return torch.from_numpy(loaded.tokenizer.encode_batch(sentences or (SENTENCE,)))


@torch.no_grad()
def theirs(folder: Path, loaded: PublishedVla, ids: torch.Tensor, seen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states [1, L, D] and logits [1, L, V] of transformers' own class, whose vocabulary is given our tokens' rows."""
    whole: PreTrainedModel = AutoModelForImageTextToText.from_pretrained(folder, tie_word_embeddings=False, dtype=torch.float32).eval()
    ours = loaded.model.language
    rows, head = whole.get_input_embeddings().weight.clone(), whole.get_output_embeddings().weight.clone()
    whole.resize_token_embeddings(loaded.tokenizer.vocab_size, mean_resizing=False)
    for theirs_, published_, mine in (
        (whole.get_input_embeddings(), rows, ours.get_input_embeddings()),
        (whole.get_output_embeddings(), head if folder.name not in TIED else rows, ours.get_output_embeddings()),
    ):
        assert torch.equal(mine.weight[:ROWS], published_)
        theirs_.weight.copy_(mine.weight)
    pixels = picture(loaded)
    pixels = pixels[:, None] if folder.name in ("smolvlm", "idefics3") else pixels  # they take several pictures
    out = whole(input_ids=ids, pixel_values=pixels, attention_mask=seen, output_hidden_states=True, use_cache=False)
    return out.hidden_states[-1], out.logits


def sequence(loaded: PublishedVla, asked: torch.Tensor) -> torch.Tensor:
    """Opening, placeholders, words with their padding, what is asked for [1, L], as ids."""
    config, tokenizer = loaded.model.config, loaded.tokenizer
    image = torch.full((config.image_tokens,), tokenizer.image_id)
    return torch.cat((torch.tensor(tokenizer.opening_ids), image, words(loaded)[0], asked))[None]


# what it computes


@pytest.mark.parametrize("kind", FAMILIES)
@torch.no_grad()
def test_the_forward_pass_is_transformers_own_of_the_same_tokens(folders, kind) -> None:
    loaded = load_image_text(folders[kind], decoding="autoregressive")  # causal from end to end, as transformers' own
    model, codes = loaded.model, torch.arange(8).view(1, 2, 4)
    out = model(picture(loaded), words(loaded), codes=codes)
    before = torch.cat([model.act_ids[kind_][codes[0, kind_]] for kind_ in range(2)])[:-1]
    ids = sequence(loaded, torch.cat((model.query_ids[:1], before)))
    hidden, logits = theirs(folders[kind], loaded, ids, (ids != loaded.tokenizer.pad_id).long())
    start, p = len(loaded.tokenizer.opening_ids), model.config.image_tokens
    assert out.latent_hidden.abs().max() > 0.5
    assert (out.latent_hidden - hidden[:, -8:]).abs().max() <= LIMIT
    assert (out.visual_hidden - hidden[:, start : start + p]).abs().max() <= LIMIT
    for token in range(8):
        allowed = model.act_ids[token // 4]
        assert (out.logits.flatten(1, 2)[:, token] - logits[:, -8 + token, allowed]).abs().max() <= LIMIT


@pytest.mark.parametrize("kind", ["smolvlm", "internvl"])
@torch.no_grad()
def test_under_the_parallel_mask_everything_before_the_queries_is_transformers_own(folders, kind) -> None:
    loaded = load_image_text(folders[kind])
    out = loaded.model(picture(loaded), words(loaded))
    ids = sequence(loaded, torch.empty(0, dtype=torch.long))
    hidden, _ = theirs(folders[kind], loaded, ids, (ids != loaded.tokenizer.pad_id).long())
    start = len(loaded.tokenizer.opening_ids)
    assert (out.visual_hidden - hidden[:, start : start + loaded.model.config.image_tokens]).abs().max() <= LIMIT


@pytest.mark.parametrize(("kind", "tokens"), [("smolvlm", 16), ("idefics3", 16), ("internvl", 4), ("llava", 4)])
def test_the_prompt_is_cut_where_the_picture_stands_and_reads_as_the_tokenizer_reads_it_whole(folders, kind, tokens) -> None:
    """64 px in patches of 8, four to a token; 56 px in patches of 14, four to a token; 28 px in patches of 14, each a token."""
    loaded = load_image_text(folders[kind])
    config, tokenizer = loaded.model.config, loaded.tokenizer
    assert config.image_tokens == tokens and config.backbone == kind
    text = config.prompt.format(instruction=SENTENCE).replace(config.image_token, tokens * config.image_token)
    whole = Tokenizer.from_file(str(folders[kind] / "tokenizer.json"))
    whole.no_padding()
    ids = sequence(loaded, torch.empty(0, dtype=torch.long))[0]
    assert ids[ids != tokenizer.pad_id].tolist() == whole.encode(text, add_special_tokens=False).ids
    assert tokenizer.query_ids(4)[-1] == tokenizer.vocab_size - 1 and tokenizer.act_ids(16)[0, 0] >= ROWS  # ours follow the published rows


def test_pictures_are_scaled_as_the_folders_own_processor_scales_them(folders) -> None:
    loaded = load_image_text(folders["smolvlm"])
    spec = loaded.model.config.image_spec(load_robot("x2").camera)
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    processor = SmolVLMImageProcessorPil.from_pretrained(folders["smolvlm"], size={"longest_edge": 64}, do_image_splitting=False, do_pad=False)
    processor.max_image_size = {"longest_edge": 64}
    wanted = processor(image, return_tensors="np")["pixel_values"]
    np.testing.assert_allclose(pixel_values(image, spec), wanted.reshape(3, 64, 64), atol=1e-6)
    assert ImageSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec and "dino_mean" not in spec.to_json()


def test_a_picture_for_two_towers_is_what_it_was() -> None:
    image, spec = np.full((2, 2, 3), 51, np.uint8), ImageSpec(size=2)
    assert set(spec.to_json()) == {"size", "source_width", "source_height", "fovy_deg", "dino_mean", "dino_std", "siglip_mean", "siglip_std"}
    assert pixel_values(image, spec).shape == (6, 2, 2)
    one = ImageSpec(size=2, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    np.testing.assert_array_equal(pixel_values(image, one), pixel_values(image, spec)[3:])  # SigLIP's own statistics
    np.testing.assert_allclose(normalise(image, one.mean, one.std), (51 / 255 - 0.5) / 0.5, atol=1e-6)


@torch.no_grad()
def test_smolvlm_reads_smaller_pictures_too_and_the_others_only_their_own_size(folders) -> None:
    loaded = load_image_text(folders["smolvlm"], image_size=32)
    assert loaded.model.config.image_tokens == 4 and loaded.model(picture(loaded), words(loaded)).visual_hidden.shape == (1, 4, 32)
    for kind, size, says in (("smolvlm", 40, "a smaller multiple of 16 or 64 px, not 40"), ("llava", 14, "pictures of 28 px, not 14")):
        with pytest.raises(CheckpointError, match=says):
            load_image_text(folders[kind], image_size=size)


# through the same code as the default backbone


def debug(seed: int = 0, **changes) -> tuple[ImageTextVla, torch.Tensor, torch.Tensor]:
    config = ImageTextConfig.from_json(image_text_debug().to_json() | changes)
    tokenizer = InstructionTokenizer(build_tokenizer([SENTENCE], 16, 4), 12)
    torch.manual_seed(seed)
    model = ImageTextVla(config, tokenizer).eval()
    return model, torch.randn(2, 3, 96, 96), torch.from_numpy(tokenizer.encode_batch([SENTENCE, "walk"]))


@torch.no_grad()
def test_codes_decoded_one_by_one_are_those_of_one_pass_that_is_given_them() -> None:
    model, pixels, text = debug(decoding="autoregressive")
    own = model(pixels, text)
    given = model(pixels, text, codes=own.codes())
    for name in ("logits", "latent_hidden", "visual_hidden"):
        torch.testing.assert_close(getattr(own, name), getattr(given, name), rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("towers", [True, False])
def test_merged_adapters_equal_unmerged_ones_and_leave_the_tower_alone_where_they_are_told_to(towers) -> None:
    model, pixels, text = debug()
    adapted = lora.attach(model, lora.LoraSettings(rank=4, alpha=8, towers=towers, embeddings=True))
    before = adapted(pixels, text).logits
    generator = torch.Generator().manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name or ("modules_to_save" in name):
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    unmerged = adapted(pixels, text).logits
    assert (unmerged - before).abs().max() > 1e-2
    state = {key: value.clone() for key, value in lora.adapter_state(adapted).items()}
    assert any("vision_model" in key for key in state) is towers and any("connector" in key for key in state)
    again = lora.attach(debug()[0], lora.LoraSettings(rank=4, alpha=8, towers=towers, embeddings=True))
    lora.load_adapter(again, state)
    torch.testing.assert_close(lora.merge(again)(pixels, text).logits, unmerged, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [*FAMILIES, "debug"])
def test_blocks_computed_again_give_the_same_gradients(folders, kind) -> None:
    def gradients(again: bool) -> dict[str, torch.Tensor]:
        if kind == "debug":
            model, pixels, text = debug()
        else:
            loaded = load_image_text(folders[kind])
            model, pixels, text = loaded.model, picture(loaded), words(loaded)
        if again:
            assert checkpoint_blocks(model) == model.config.vision.layers + model.config.language.layers
        out = model(pixels, text)
        code_loss(out.logits, torch.zeros(out.logits.shape[:3], dtype=torch.int64)).backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    plain, again = gradients(False), gradients(True)
    assert plain.keys() == again.keys() and any(name.startswith("vision.") for name in plain)
    for name, value in plain.items():
        torch.testing.assert_close(again[name], value, msg=name)


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["smolvlm", "internvl", "llava"])
def test_the_recorded_graph_is_the_model_and_bf16_is_near_it(folders, kind) -> None:
    loaded = load_image_text(folders[kind])
    pixels, text = picture(loaded), words(loaded)
    wanted = loaded.model(pixels, text)
    found = build(loaded.model, text.shape[1], EngineConfig())(pixels, text)
    torch.testing.assert_close(found.logits, wanted.logits, rtol=1e-4, atol=1e-5)
    half = build(loaded.model, text.shape[1], EngineConfig(dtype="bf16"))(pixels, text).logits
    assert half.dtype == torch.float32 and 0 < (half - wanted.logits).abs().max() < 0.1 * wanted.logits.abs().max()


@pytest.mark.parametrize("decoding", ["parallel", "autoregressive"])
@pytest.mark.parametrize("kind", FAMILIES)
def test_no_step_of_the_pass_asks_for_a_value_so_that_a_cuda_graph_can_hold_it(folders, kind, decoding) -> None:
    model = load_image_text(folders[kind], decoding=decoding).model.to("meta")
    size, length = model.config.image_size, model.config.language.max_words
    with torch.device("meta"), torch.no_grad():
        logits = Plain(model)(torch.empty(1, 3, size, size), torch.ones(1, length, dtype=torch.long))[0]
    assert logits.is_meta and logits.shape == (1, 2, 4, 16)


@pytest.mark.parametrize("kind", FAMILIES)
@torch.no_grad()
def test_a_checkpoint_names_its_backbone_and_reads_back_the_same(folders, kind, tmp_path) -> None:
    loaded, robot = load_image_text(folders[kind]), load_robot("x2")
    spec = loaded.model.config.image_spec(robot.camera)
    manifest = save_vla(tmp_path / "vla/own", "own", loaded.model, loaded.tokenizer, spec, robot, {}, {})
    assert manifest.extra["backbone"] == kind
    assert str(folders[kind]) not in (tmp_path / "vla/own/manifest.json").read_text()
    again = load_vla(tmp_path / "vla/own", robot)
    assert again.model.config == loaded.model.config and again.image_spec == spec
    assert again.tokenizer.opening_ids == loaded.tokenizer.opening_ids
    pixels, text = picture(loaded), torch.from_numpy(again.tokenizer.encode(SENTENCE))[None]
    assert torch.equal(text, words(loaded)) and {p.dtype for p in again.model.parameters()} == {torch.float32}
    assert (again.model(pixels, text).logits - loaded.model(pixels, text).logits).abs().max() < 0.05  # half precision


def test_a_checkpoint_of_a_backbone_that_this_version_lacks_is_refused_and_one_that_names_none_is_the_default(tmp_path) -> None:
    model, *_ = debug()
    tokenizer = InstructionTokenizer(build_tokenizer([SENTENCE], 16, 4), 12)
    robot = load_robot("x2")
    save_vla(tmp_path / "own", "own", model, tokenizer, model.config.image_spec(robot.camera), robot, {}, {"backbone": "newest"})
    with pytest.raises(CheckpointError, match="backbone 'newest'; this version knows prismatic, smolvlm"):
        load_vla(tmp_path / "own")
    older = Path(shutil.copytree(Path(__file__).resolve().parents[2] / "checkpoints/vla/tiny", tmp_path / "tiny")) / "manifest.json"
    manifest = json.loads(older.read_text())
    assert manifest["extra"].pop("backbone") == "prismatic"
    older.write_text(json.dumps(manifest))
    (older.parent / "metrics.json").unlink()  # which would tell that the manifest was edited
    assert isinstance(load_vla(older.parent).model, PrismaticVla)


def test_training_and_the_command_begin_from_the_published_weights(folders, tmp_path, capsys) -> None:
    model, tokenizer = build_model(VlaTrainConfig(size="image-text", pretrained=str(folders["smolvlm"]), decoding="autoregressive"))
    assert model.config.decoding == "autoregressive" and tokenizer.vocab_size == ROWS + 1 + 40  # padding, 2 x 16 codes, 8 queries
    assert torch.equal(model.vision.connector.modality_projection.proj.weight, load_file(folders["smolvlm"] / "model.safetensors")[CONNECTOR])
    assert main(["import", "image-text", str(folders["internvl"]), "--out", str(tmp_path / "vla/base")]) == 0
    assert "transformers' internvl layout, everything fits" in capsys.readouterr().out
    assert load_vla(tmp_path / "vla/base", load_robot("x2")).manifest.extra["vision_weights"].startswith("published")
    with pytest.raises(WbvlaError, match="--pretrained FOLDER"):
        build_model(VlaTrainConfig(size="image-text"))
    with pytest.raises(WbvlaError, match="--image-size 64 is for --size image-text"):
        build_model(VlaTrainConfig(size="debug", image_size=64))


CONNECTOR = "model.connector.modality_projection.proj.weight"


def test_from_a_published_folder_and_lerobot_data_to_a_policy(folders, tmp_path) -> None:
    robot, data = load_robot("x2"), write_set(tmp_path / "set", (23, 17))
    checkpoints = tmp_path / "checkpoints"
    lams = {f"lam_{name}": checkpoints / "lam" / name for name in ("mani", "loco")}
    for name, path in lams.items():
        small = ModelConfig(image_size=32, stem_width=16, width=16, heads=2, decoder_width=8, rigid=name == "lam_loco")
        export_lam(LatentActionModel(small), name.removeprefix("lam_"), 0.5, robot_view(robot), path, {})
    loop = {"steps": 2, "warmup_steps": 0}
    vla = VLA_PRESETS["image-text"][1]
    codes = replace(
        vla.codes, lerobot=(data,), batch=4, stream=StreamConfig(lanes=2, chunk_frames=5, pool_chunks=2), loop=replace(vla.codes.loop, **loop), **lams
    )
    assert codes.loop.checkpointing and codes.loop.accumulate == 2
    output = checkpoints / "vla" / "smolvlm"
    vla_train.train(replace(vla, pretrained=str(folders["smolvlm"]), codes=codes, run_dir=tmp_path / "vla", output=output), lambda _: None)
    lora_ = DECODER_PRESETS["7b-lora"][1]
    decoder = replace(lora_, vla=output, lerobot=(data,), stream=codes.stream, batch=4, run_dir=tmp_path / "decoder", **lams)
    decoder = replace(decoder, loop=replace(decoder.loop, **loop), output=checkpoints / "policy" / "smolvlm")
    decoder_train.train(decoder, lambda _: None)
    policy = WholeBodyPolicy.load(decoder.output, robot)
    state = RobotState(0.0, robot.default_q.copy(), np.zeros(robot.joint_count), np.zeros(3), np.array((0.0, 0.0, -1.0)))
    foreign = PolicyInput(0.0, np.full((64, 64, 3), 127, np.uint8), "fetch the zeppelin", state)
    with pytest.raises(InstructionError, match="not a task of this policy"):
        policy.infer(foreign)
    policy.infer(replace(foreign, instruction=policy.tasks.canonical[0]))
    policy.tasks = None  # without the guard any words do: the tokenizer is the model's own
    decision = policy.infer(foreign)
    decision.arms.validate(robot.names("upper_body"))
    assert policy.manifest.extra["vla_name"] == "smolvlm"


def test_the_hub_is_asked_for_one_revision_with_its_tokenizer_and_image_processor(folders, monkeypatch) -> None:
    asked = {}

    def download(repository, revision, allow_patterns):
        asked.update(repository=repository, revision=revision, patterns=allow_patterns)
        return str(folders["smolvlm"])

    monkeypatch.setattr(published, "snapshot_download", download)
    assert load_image_text("owner/name@0123abc").layout == "transformers' smolvlm"
    assert (asked["repository"], asked["revision"]) == ("owner/name", "0123abc")
    assert {"tokenizer.json", "preprocessor_config.json", "model*.safetensors"} <= set(asked["patterns"])
    assert not any(pattern.endswith((".py", "*")) for pattern in asked["patterns"])
    with pytest.raises(CheckpointError, match="revision"):
        load_image_text("owner/name")


# refusals


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model_type": "qwen2_5_vl"}, "'qwen2_5_vl': its positions have three dimensions"),
        ({"model_type": "mllama"}, "'mllama': it reads pictures by cross-attention"),
        ({"model_type": "openvla"}, "'openvla': .*wbvla import prismatic"),
        ({"quantization_config": {"bits": 4}}, "quantised weights"),
        ({"model_type": "newest"}, "'newest': nobody has shown that it fits; read are smolvlm, idefics3, internvl, llava"),
        ({"text_config": {**TEXT, "hidden_size": "many"}}, r"transformers [\d.]+ reads: .*'hidden_size' expected int, got str"),
        ({"text_config": {**TEXT, "model_type": "nonsense"}}, "Unrecognized model type"),
        ({"model_type": "llava", "vision_config": {**VISION, "model_type": "pixtral"}}, "vision tower of pixtral"),
        ({"vision_config": {**VISION, "image_size": [64, 32], "patch_size": 8}}, "32x64 px; pictures and patches must be square"),
        ({"text_config": {**TEXT, "model_type": "mistral"}}, "language blocks of mistral"),
        ({"text_config": {**TEXT, "model_type": "qwen2", "layer_types": ["full_attention", "sliding_attention"]}}, "sliding_attention"),
        ({"text_config": {**TEXT, "model_type": "llama", "vocab_size": 300}}, r"tokenizer\.json has \d+ tokens, the embeddings have 300 rows"),
        ({"text_config": {**TEXT, "model_type": "llama", "vocab_size": ROWS, "num_hidden_layers": 3}}, r"missing .*layers\.2\..* and \d+ more"),
        ({"text_config": {**TEXT, "model_type": "llama", "vocab_size": ROWS, "num_hidden_layers": 1}}, r"unexpected .*layers\.1\..* and \d+ more"),
        ({"text_config": {**TEXT, "model_type": "llama", "vocab_size": ROWS, "intermediate_size": 40}}, "no readable weights of its config.json"),
        ({"image_token_id": 440}, "has no token 440, which config.json calls the image token"),
    ],
)
def test_a_model_that_does_not_fit_is_refused_by_name_and_reason(folder, change, says) -> None:
    edit_json(folder / "config.json", **change)
    with pytest.raises(CheckpointError, match=says):
        load_image_text(folder)


def test_missing_and_damaged_files_are_named(folder) -> None:
    processor = folder / "preprocessor_config.json"
    edit_json(processor, rescale_factor=1.0)
    with pytest.raises(CheckpointError, match="scale pictures by 1/255"):
        load_image_text(folder)
    processor.unlink()
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json is not there"):
        load_image_text(folder)
    processor.write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}))
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    save_file({name: value for name, value in tensors.items() if name != CONNECTOR}, weights, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=f"missing {CONNECTOR}; unexpected none"):
        load_image_text(folder)
    save_file(tensors, weights, metadata={"format": "pt"})
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="no readable weights") as caught:
        load_image_text(folder)
    assert caught.value.code == ErrorCode.CHECKPOINT_CORRUPT
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is not there"):
        load_image_text(folder)
