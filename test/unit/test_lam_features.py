"""The latent action model on frozen DINOv2 features, with a tiny random backbone; batches of the shared model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from wbvla_core.errors import CheckpointError
from wbvla_train.data.camera import CameraView
from wbvla_train.data.clips import Corpus, Pairs
from wbvla_train.lam.config import LamTrainConfig, ModelConfig, domains_of, preset
from wbvla_train.lam.export import Lam, export, load_lam
from wbvla_train.lam.feature_model import FeatureActionModel, new_model
from wbvla_train.lam.features import IMAGENET_MEAN, IMAGENET_STD, RANDOM, FeatureCorpus, load_features
from wbvla_train.lam.geometry import lens_from_view
from wbvla_train.lam.label import label_frames
from wbvla_train.lam.model import Block, pixels
from wbvla_train.lam.train import BalancedSampler, Batch, LamTrainer, PairSampler, train

torch.set_num_threads(1)  # small matrices: more threads only wait for each other
CONFIG = preset("debug-dinov2", "loco")
VIEW = CameraView(58.0, 4 / 3, 40.0)


def _frames(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 56, 56, 3), dtype=np.uint8)


def _lens(count: int) -> torch.Tensor:
    return lens_from_view(torch.from_numpy(VIEW.as_array())[None]).expand(count, -1)


@pytest.fixture(scope="module")
def extractor():
    return load_features(RANDOM, CONFIG.model)


@pytest.fixture
def model(extractor) -> FeatureActionModel:
    torch.manual_seed(0)
    return FeatureActionModel(CONFIG.model, extractor).eval()


def _published(folder: Path, seed: int) -> Path:
    """A folder as transformers writes it, of the tiny architecture."""
    tower = load_features(RANDOM, CONFIG.model).tower
    torch.manual_seed(seed)
    torch.nn.init.normal_(tower.layernorm.weight)
    tower.save_pretrained(folder)
    return folder


def test_features_are_the_patch_tokens_after_the_final_norm_of_an_image_normalised_as_dinov2_wants_it(extractor):
    frames = _frames(2)
    image = (torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255 - torch.tensor(IMAGENET_MEAN)[:, None, None]) / torch.tensor(IMAGENET_STD)[
        :, None, None
    ]
    tokens = extractor.tower(pixel_values=image).last_hidden_state  # class token, 1 register, 4 x 4 patches row by row
    features = extractor(pixels(torch.from_numpy(frames)))
    assert tokens.shape == (2, 18, 32) and features.shape == (2, 32, 4, 4)
    assert torch.allclose(features[:, :, 1, 2], tokens[:, 2 + 4 * 1 + 2], atol=1e-5)


def test_published_weights_are_read_from_a_folder_and_named_by_their_hash(tmp_path, extractor):
    folder = _published(tmp_path / "weights", seed=1)
    loaded = load_features(str(folder), CONFIG.model)
    assert loaded.record["source"] == str(folder) and len(loaded.record["sha256"]) == 64
    frames = pixels(torch.from_numpy(_frames(1)))
    assert torch.equal(loaded(frames), load_features(str(folder), CONFIG.model)(frames)) and not torch.allclose(loaded(frames), extractor(frames))


def test_weights_that_are_not_there_or_of_another_backbone_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="--features"):
        load_features("", CONFIG.model)
    with pytest.raises(CheckpointError, match="revision"):
        load_features("facebook/dinov2-with-registers-base", CONFIG.model)
    folder = _published(tmp_path, seed=1)
    with pytest.raises(CheckpointError, match=r"hidden_size 32 \(expected 768\)"):
        load_features(str(folder), preset("full", "loco").model)
    description = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**description, "model_type": "dinov2"}))
    with pytest.raises(CheckpointError, match="'dinov2'"):
        load_features(str(folder), CONFIG.model)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="must hold config.json and model.safetensors"):
        load_features(str(folder), CONFIG.model)


def test_the_extractor_is_neither_trained_nor_saved_and_moves_with_the_model(model):
    names = [*model.state_dict(), *(name for name, _ in model.named_parameters())]
    assert not any("tower" in name for name in names)
    assert not any(p.requires_grad for p in model.extractor.parameters())
    model.train()
    assert not model.extractor.tower.training
    copy = FeatureActionModel(CONFIG.model, load_features(RANDOM, CONFIG.model)).double()
    assert next(copy.extractor.parameters()).dtype == torch.float64


def test_standardised_features_have_mean_zero_and_spread_one_per_channel(model):
    frames = pixels(torch.from_numpy(_frames(6)))
    model.fit_standardisation(model.extractor(frames))
    features = model.features(frames)
    assert features.mean((0, 2, 3)).abs().max() < 1e-4 and (features.std((0, 2, 3)) - 1).abs().max() < 1e-3


def test_a_block_that_is_read_at_its_first_tokens_gives_what_the_whole_block_gives_there():
    torch.manual_seed(0)
    block, x = Block(16, 2), torch.randn(3, 9, 16)
    assert torch.allclose(block(x, 4), block(x)[:, :4], atol=1e-5)


def test_an_untrained_model_predicts_the_first_frames_features(model):
    first, later = torch.randn(2, 32, 4, 4), torch.randn(2, 32, 4, 4)
    assert torch.equal(model(first, later, _lens(2)).prediction.frame, first)


def test_all_that_a_prediction_of_features_knows_of_the_later_frame_is_its_codes(model):
    torch.nn.init.normal_(model.decoder.head[1].weight)  # else the prediction is the first frame whatever the codes
    first, later = torch.randn(4, 32, 4, 4), torch.randn(4, 32, 4, 4)
    out = model(first, later, _lens(4))
    assert torch.allclose(model.predict(first, out.codes, _lens(4)).frame, out.prediction.frame, atol=1e-5)
    other = (out.codes + 1) % CONFIG.model.codes
    assert not torch.allclose(model.predict(first, other, _lens(4)).frame, out.prediction.frame, atol=1e-2)


class _OneBatch:
    """Sixteen pairs of noise with one and the same first frame: nothing but the codes can tell the later ones apart."""

    data = {"noise": "seeds 1 and 2"}  # what tells its video, as PairSampler has it

    def batch(self, step: int) -> Batch:
        first, later = pixels(torch.from_numpy(_frames(1, 1))), pixels(torch.from_numpy(_frames(16, 2)))
        return Batch(first.expand(16, -1, -1, -1), later, _lens(16))


def test_the_codes_learn_to_tell_sixteen_later_frames_apart():
    trainer = LamTrainer(replace(CONFIG, steps=100, batch=16, lr=3e-3, continuous_steps=50), _OneBatch())
    losses = [trainer.train_step() for _ in range(100)]
    assert losses[0]["rrg_train"] == pytest.approx(0.0, abs=1e-4)  # a copy of the first frame
    batch, model = trainer.sampler.batch(0), trainer.model.eval()
    first, later = model.features(torch.cat((batch.first, batch.later))).chunk(2)
    codes = model.encode(first, later, batch.lens)
    error = [float((model.predict(first, c, batch.lens).frame - later).square().mean()) for c in (codes, codes.roll(1, 0))]
    assert len(codes.unique(dim=0)) == 16 and error[0] < 0.7 * error[1]


def test_a_run_in_bfloat16_passes_its_continuous_start_and_its_resets():
    trainer = LamTrainer(replace(CONFIG, steps=6, batch=16, continuous_steps=2, bf16=True), _OneBatch())
    losses = []
    for _ in range(6):
        trainer.model.quantiser.usage.mul_(0.0 if trainer.step > 2 else 1.0)  # every code is reset
        losses.append(trainer.train_step()["loss"])
    assert trainer.resets > 0 and np.isfinite(losses).all()
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}


def test_every_frame_of_a_clip_goes_through_the_extractor_once_and_labels_are_those_of_its_pairs(model, monkeypatch):
    seen = []
    extract = model.extractor.forward
    monkeypatch.setattr(model.extractor, "forward", lambda frames: seen.append(len(frames)) or extract(frames))
    frames = _frames(20)
    codes, valid = label_frames(Lam(None, model, 0.5, VIEW), frames, np.arange(20) * 0.1, batch=4)
    assert sum(seen) == 20 and valid.sum() == 15  # 15 pairs have 30 ends
    for t in (0, 7, 14):
        pair = pixels(torch.from_numpy(frames[[t, t + 5]]))
        assert model.encode_frames(pair[:1], pair[1:], _lens(1))[0].tolist() == codes[t].tolist()


class _Decoded:
    """Stands in for a corpus: 12 frames of one clip and its cache on disk."""

    def __init__(self, folder: Path) -> None:
        self.frames, self.size, self.cache = _frames(12), 56, folder / "clips_56.npy"
        self.fingerprint = {"frames": 12}


def test_cached_features_are_those_of_the_frames_and_only_time_is_reversed(tmp_path, model):
    corpus = _Decoded(tmp_path)
    pairs = Pairs(np.arange(7), np.arange(5, 12), np.zeros(7, int), VIEW.as_array()[None])
    stored = FeatureCorpus(corpus, model.extractor)
    assert stored.frames.shape == (12, 4, 4, 32) and stored.frames.dtype == np.float16
    fresh = model.extractor(pixels(torch.from_numpy(corpus.frames))).permute(0, 2, 3, 1).numpy()
    assert np.abs(stored.frames - fresh).max() < 5e-3
    batch = PairSampler(replace(CONFIG, cache_features=True), (stored, pairs), None).batch(0)
    assert batch.extracted and batch.first.shape == (8, 32, 4, 4)
    frame_of = {stored.frames[i].tobytes(): i for i in range(12)}
    ends = [tuple(frame_of[x.permute(1, 2, 0).contiguous().numpy().tobytes()] for x in pair) for pair in zip(batch.first, batch.later, strict=True)]
    assert {later - first for first, later in ends} == {5, -5}


def test_features_of_pixels_are_not_cached():
    with pytest.raises(ValueError, match="pixels has none"):
        LamTrainConfig(cache_features=True)


def test_a_model_that_would_ship_is_not_trained_on_random_features(tmp_path):
    with pytest.raises(ValueError, match="says nothing about video"):
        train(replace(preset("full", "loco"), features=RANDOM, data=tmp_path, run_dir=tmp_path / "run"))


def test_an_image_that_the_patches_do_not_fill_is_refused():
    with pytest.raises(ValueError, match="multiple of 14"):
        ModelConfig("dinov2", image_size=48)


def test_a_checkpoint_is_loaded_with_the_extractor_of_its_training_and_with_no_other(tmp_path):
    ours, others = _published(tmp_path / "a", seed=1), _published(tmp_path / "b", seed=2)
    torch.manual_seed(0)
    model = new_model(CONFIG.model, str(ours)).eval()
    export(model, "loco", 0.5, VIEW, tmp_path / "loco", {})
    frames = pixels(torch.from_numpy(_frames(4)))
    lam = load_lam(tmp_path / "loco")
    assert lam.model.encode_frames(frames[:2], frames[2:], _lens(2)).shape == (2, 4)
    moved = (tmp_path / "a").rename(tmp_path / "elsewhere")
    load_lam(tmp_path / "loco", features=str(moved))
    with pytest.raises(CheckpointError, match="give the former with --features"):
        load_lam(tmp_path / "loco", features=str(others))


def _corpus(seed: int) -> tuple[Corpus, Pairs]:
    corpus = Corpus.__new__(Corpus)
    corpus.frames = np.random.default_rng(seed).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    return corpus, Pairs(np.arange(7), np.arange(5, 12), np.zeros(7, int), VIEW.as_array()[None])


def test_the_shared_model_sees_in_each_step_exactly_the_pairs_of_the_separate_ones():
    mani, loco = (PairSampler(preset("debug", name), _corpus(seed), None) for seed, name in enumerate(("mani", "loco")))
    both = BalancedSampler([mani, loco]).batch(3)
    assert torch.equal(both.first, torch.cat((mani.batch(3).first, loco.batch(3).first))) and len(both.lens) == 16
    assert torch.equal(both.later[8:], loco.batch(3).later)


def test_the_shared_model_has_both_domains_and_no_video_of_unknown_domain():
    assert domains_of("shared") == ("mani", "loco") and domains_of("loco") == ("loco",)
    assert preset("tiny", "shared").model.rigid
    with pytest.raises(ValueError, match="train/mani and"):
        LamTrainConfig("shared", extra_data=(Path("data/film/train/loco"),))
