"""Memory plans, presets and accelerate's files agree with what they describe."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import ClusterConfig
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env

from wbvla_core.checkpoint import shipped_checkpoints
from wbvla_core.errors import WbvlaError
from wbvla_train.decoder.config import PRESETS as DECODER_PRESETS
from wbvla_train.lam.config import SIZES
from wbvla_train.lam.config import preset as lam_preset
from wbvla_train.loop import LoopConfig
from wbvla_train.memory import GIB, activation_bytes, plan_memory, require_memory
from wbvla_train.parallel import BLOCKS, Processes, checkpoint_blocks, fsdp_settings, is_block
from wbvla_train.plan import PlanOptions, plan
from wbvla_train.vla.config import PRESETS as VLA_PRESETS
from wbvla_vla import lora
from wbvla_vla.checkpoint import build_vla
from wbvla_vla.config import PRESETS, AnyVlaConfig, ImageTextConfig, LanguageConfig, TowerConfig, VlaConfig, debug
from wbvla_vla.model import Vla, code_loss, parameter_count
from wbvla_vla.tokens import InstructionTokenizer, build_tokenizer

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "config" / "accelerate").glob("*.yaml"))
SENTENCE = "walk to the red box"
# The published kinds of blocks with odd sizes, so that no tensor of activations has the shape of a weight.
MIXED = VlaConfig(
    dino=TowerConfig(64, 3, 4, 256, 14, registers=4),
    siglip=TowerConfig(96, 3, 4, 400, 14, activation="gelu"),
    language=LanguageConfig(128, 3, 4, 352, max_words=16),
    image_size=56,
)
SMOLVLM = ImageTextConfig(
    {
        "model_type": "smolvlm",
        "vision_config": {"hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 400, "image_size": 64, "patch_size": 8},
        "text_config": {"model_type": "llama", "hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 352}
        | {"num_key_value_heads": 2, "pad_token_id": None},
    },
    TowerConfig(96, 3, 4, 400, 8),
    LanguageConfig(128, 3, 4, 352, max_words=16),
    image_size=64,
    image_tokens=16,
)
torch.set_num_threads(1)


def make(config: AnyVlaConfig) -> tuple[Vla, InstructionTokenizer]:
    tokenizer = InstructionTokenizer(build_tokenizer([SENTENCE], 16, 4), config.language.max_words)
    torch.manual_seed(0)
    return build_vla(config, tokenizer), tokenizer


def batch(tokenizer: InstructionTokenizer, config: AnyVlaConfig, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    pixels = torch.randn(count, config.channels, config.image_size, config.image_size, generator=torch.Generator().manual_seed(1))
    return pixels, torch.from_numpy(tokenizer.encode_batch([SENTENCE] * count))


@pytest.mark.parametrize("rank", [0, 32], ids=["everything trained", "adapters"])
@pytest.mark.parametrize(("config", "tolerance"), [(MIXED, 0.01), (SMOLVLM, 0.02)], ids=["default", "SmolVLM"])
def test_the_formula_of_activations_agrees_with_what_autograd_keeps(config: AnyVlaConfig, tolerance: float, rank: int) -> None:
    """Tensors saved for the backward pass, each storage once, without weights and their copies; 4 pictures."""
    model, tokenizer = make(config)
    module = lora.attach(model, lora.LoraSettings(rank=rank)) if rank else model
    weights = {shape for p in module.parameters() for shape in (tuple(p.shape), tuple(p.shape)[::-1])}
    held = {p.untyped_storage().data_ptr() for p in module.parameters()}
    kept: dict[int, torch.Tensor] = {}
    inside: list[str] = []

    def save(tensor: torch.Tensor) -> torch.Tensor:
        place = tensor.untyped_storage().data_ptr()
        if inside and place not in held and tuple(tensor.shape) not in weights:
            kept.setdefault(place, tensor)
        return tensor

    for part in module.modules():
        if is_block(part) or type(part).__name__ in ("Projector", "SmolVLMConnector"):
            part.register_forward_pre_hook(lambda *_: inside.append("block"))
            part.register_forward_hook(lambda *_: inside.clear())
    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor), torch.autocast("cpu", dtype=torch.bfloat16):
        module(*batch(tokenizer, config, 4)).logits.float().mean()
    measured = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    expected, largest = activation_bytes(module, config, 4, 1, checkpointing=False, rank=rank)
    assert expected == pytest.approx(measured, rel=tolerance if not rank else 0.05)
    if config is not MIXED:
        return
    again, _ = activation_bytes(module, MIXED, 4, 1, checkpointing=True, rank=rank)
    tokens = {"LlamaDecoderLayer": (41, 128), "Dinov2WithRegistersLayer": (21, 64), "SiglipEncoderLayer": (16, 96)}
    inputs = sum(3 * 4 * 4 * length * width for length, width in tokens.values())  # 3 blocks, 4 pictures, 4 bytes
    projector = 4 * 16 * (18 * 160 + 4 * 128)
    assert again == inputs + largest + projector


@pytest.mark.parametrize("config", [debug(), MIXED], ids=["debug", "published kinds"])
def test_blocks_computed_again_give_the_same_gradients(config: VlaConfig) -> None:
    def gradients(again: bool) -> dict[str, torch.Tensor]:
        model, tokenizer = make(config)
        assert not again or checkpoint_blocks(model) == config.dino.layers + config.siglip.layers + config.language.layers
        out = model(*batch(tokenizer, config, 2))
        code_loss(out.logits, torch.zeros(out.logits.shape[:3], dtype=torch.int64)).backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    plain, again = gradients(False), gradients(True)
    assert plain.keys() == again.keys()
    for name, value in plain.items():
        torch.testing.assert_close(again[name], value, msg=name)


def test_a_plan_counts_weights_gradients_and_moments_by_hand() -> None:
    model, _ = make(MIXED)
    count = parameter_count(model)
    loop = LoopConfig(bf16=False)
    alone = plan_memory(model, MIXED, loop, Processes(), 8, capacity=GIB).parts
    assert (alone["weights"], alone["gradients"], alone["optimizer"]) == (4 * count, 4 * count, 8 * count)
    eight = plan_memory(model, MIXED, loop, Processes(count=8, blocks=BLOCKS), 8, capacity=GIB).parts
    assert (eight["weights"], eight["gradients"], eight["optimizer"]) == (count / 2, count / 2, count)
    assert eight["activations"] == pytest.approx(alone["activations"] / 8)
    model.vision.requires_grad_(False)
    towers = parameter_count(model.vision)
    half = plan_memory(model, MIXED, replace(loop, frozen_bf16=True), Processes(), 8, capacity=GIB).parts
    assert half["weights"] == 4 * (count - towers) + 2 * towers and half["optimizer"] == 8 * (count - towers)
    assert half["activations"] < alone["activations"]  # towers without anything trained keep nothing


def test_what_does_not_fit_is_refused_with_what_would() -> None:
    model, _ = make(MIXED)
    one = plan_memory(model, MIXED, LoopConfig(accumulate=16), Processes(), 64, capacity=1)
    room = one.total * 1.01

    def planned(loop: LoopConfig):
        return plan_memory(model, MIXED, loop, Processes(), 64, capacity=room)

    said: list[str] = []
    with pytest.raises(WbvlaError, match=r"it fits with --codes.loop.accumulate \d+.*--ignore-memory-plan"):
        require_memory(planned, LoopConfig(), False, said.append, "--codes.loop")
    assert "GiB per process: weights" in said[0]
    require_memory(planned, LoopConfig(), True, said.append)
    require_memory(planned, LoopConfig(accumulate=16), False, said.append)
    room = 1.0
    with pytest.raises(WbvlaError, match="no accumulation makes it fit"):
        require_memory(planned, LoopConfig(), False, said.append)


def test_presets_have_the_papers_steps_and_batch_and_fit_the_gpus_they_are_for() -> None:
    vla, adapters = VLA_PRESETS["7b-pretrain"][1], DECODER_PRESETS["7b-lora"][1]
    assert (vla.codes.loop.steps, vla.codes.batch, vla.size) == (20_000, 1024, "full")
    assert (adapters.loop.steps, adapters.batch, adapters.lora.rank, adapters.lora.towers) == (10_000, 64, 32, True)
    assert plan(PlanOptions("7b-pretrain", processes=8)).fits
    assert plan(PlanOptions("7b-lora", processes=1)).fits


def test_the_small_preset_is_half_a_billion_at_224_px() -> None:
    config = PRESETS["small"]()
    with torch.device("meta"):
        model, _ = make(config)
    assert config.image_size == 224 and parameter_count(model) == pytest.approx(0.51e9, rel=0.01)
    assert config.dino.tokens(224) == config.siglip.tokens(224) == 256


# -- accelerate's files ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_accelerate_reads_our_files_and_hands_on_what_they_say(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = ClusterConfig.from_yaml_file(path)  # refuses keys that it does not know
    if path.stem == "one_gpu":
        assert config.num_processes == 1 and not config.fsdp_config
        return
    arguments, *_ = _validate_launch_command(launch_command_parser().parse_args(["--config_file", str(path), "train.py"]))
    assert set(config.fsdp_config) <= vars(arguments).keys()  # accelerate launch passes over keys that it does not know
    assert arguments.use_fsdp and arguments.mixed_precision == "bf16"
    arguments.main_process_port = 0
    handed = prepare_multi_gpu_env(arguments)
    for key, value in handed.items():
        if key.startswith("FSDP_"):
            monkeypatch.setenv(key, value)
    assert fsdp_settings() == {"blocks": BLOCKS, "reshard": True, "offload": False}


def test_blocks_are_the_names_of_our_transformer_blocks() -> None:
    model, _ = make(debug())
    names = [type(part).__name__ for part in model.modules()]
    assert [names.count(name) for name in BLOCKS] == [1, 1, 1]


def test_fsdp_of_the_first_kind_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in [key for key in os.environ if key.startswith("FSDP_")]:
        monkeypatch.delenv(key)
    with pytest.raises(ValueError, match="fsdp_version: 2 .* config/accelerate"):
        fsdp_settings()


def test_only_the_presets_that_ship_write_where_the_checkpoints_lie_that_ship():
    """A run of seconds leaves the models alone that everybody's demo uses. LAMs of full size take the place of the tiny ones: one family in one folder."""
    shipped = {Path("checkpoints") / name for name in shipped_checkpoints()}
    lams = {(size, name): lam_preset(size, name).checkpoint_dir for size in SIZES for name in ("mani", "loco")}
    vlas = {(size, stage): config.output for stage, presets in (("vla", VLA_PRESETS), ("decoder", DECODER_PRESETS)) for size, (_, config) in presets.items()}
    overwriting = {key for key, output in (lams | vlas).items() if output in shipped}
    assert overwriting == {(size, name) for size in ("tiny", "full") for name in ("mani", "loco")} | {("tiny", "vla"), ("tiny", "decoder")}
    debug = [output for (size, _), output in (lams | vlas).items() if "debug" in size]
    assert len(debug) == 7 and all(output.parts[0] == "runs" for output in debug)
    runs = [lam_preset(size, name).state_dir for size in SIZES for name in ("mani", "loco")]
    assert len(set(runs)) == len(runs), "a run of another size would be refused by the state of this one"
