"""The collapse rule, probes on made-up codes, and what a checkpoint and a label cache refuse."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from wbvla_core.errors import CheckpointError, WbvlaError
from wbvla_train.data.camera import CameraView
from wbvla_train.data.clips import Clip, Corpus
from wbvla_train.data.motion import PRIMITIVES
from wbvla_train.data.mp4 import write_mp4
from wbvla_train.lam import probe as probe_module
from wbvla_train.lam.config import ModelConfig, preset
from wbvla_train.lam.export import MAX_BYTES, WEIGHTS_FILE, export, load_lam
from wbvla_train.lam.geometry import lens_from_view
from wbvla_train.lam.health import CollapseError, CollapseMonitor, Health
from wbvla_train.lam.label import label_frames
from wbvla_train.lam.model import LatentActionModel, pixels
from wbvla_train.lam.probe import flag_scores, one_hot, primitive_of, r_squared, retrieval, seconds, true_motion
from wbvla_train.lam.quantiser import TokenQuantiser
from wbvla_train.lam.train import _require_motion

VIEW = CameraView(58.0, 4 / 3, 40.0)


def _health(rrg=0.4, shuffled=-0.2, perplexity=12.0) -> Health:
    return Health(512, rrg, shuffled, 0.2, (perplexity,) * 4, (0,) * 4, 0.9, 0.9, (0.5,) * 4)


def _export(directory, seed=0, name="loco", model_config=None):
    torch.manual_seed(seed)
    model = LatentActionModel(model_config or preset("debug", "loco").model)
    export(model, name, 0.5, VIEW, directory, {"seed": seed})
    return model


def test_a_collapsed_run_is_stopped_and_the_message_says_what_to_do():
    monitor = CollapseMonitor(not_before=1000, patience=3)
    collapsed = _health(rrg=0.19, shuffled=0.19, perplexity=1.1)  # looks like a healthy 0.19
    monitor.check(1000, collapsed)
    monitor.check(1250, collapsed)
    with pytest.raises(CollapseError, match=r"step 1500.*1\.10.*shuffled.*lr"):
        monitor.check(1500, collapsed)


def test_early_collapse_is_not_counted_before_step_1000():
    monitor = CollapseMonitor(not_before=1000, patience=1)
    for step in range(0, 1000, 50):
        monitor.check(step, _health(rrg=0.0, shuffled=0.0, perplexity=1.0))
    assert monitor.bad_checks == 0
    with pytest.raises(CollapseError):
        monitor.check(1000, _health(rrg=0.0, shuffled=0.0, perplexity=1.0))


def test_a_run_that_recovers_goes_on():
    monitor = CollapseMonitor(not_before=1000, patience=2)
    for step, perplexity in ((1000, 1.0), (1250, 9.0), (1500, 1.0), (1750, 9.0)):
        monitor.check(step, _health(perplexity=perplexity))


def test_many_codes_that_say_nothing_are_a_collapse_too():
    with pytest.raises(CollapseError, match="shuffled"):
        CollapseMonitor(1000, 1).check(1000, _health(rrg=0.30, shuffled=0.295, perplexity=14.0))


def test_the_probe_reads_flags_that_are_in_the_codes_and_not_those_that_are_not():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 16, (4000, 4))
    flags = codes[:, 2] % 3 - 1
    x = one_hot(codes, 16)
    read = flag_scores(x[:2000], flags[:2000], x[2000:], flags[2000:])
    assert read["balanced"] > 0.999 and read["majority"] < 0.45
    unrelated = flag_scores(x[:2000], rng.integers(-1, 2, 2000), x[2000:], rng.integers(-1, 2, 2000))
    assert unrelated["balanced"] < 0.42  # chance is 1/3
    # A class between two others along one direction: regression onto indicators never says it ("masking", Hastie et al. 2009, 4.2).
    along = rng.uniform(-1, 1, 4000)
    between, x_along = np.where(np.abs(along) < 0.25, 0, np.sign(along)).astype(int), np.stack((along, np.ones(4000)), axis=1)
    assert flag_scores(x_along[:2000], between[:2000], x_along[2000:], between[2000:])["balanced"] > 0.9
    height = 0.01 * codes[:, 0] + 0.02 * codes[:, 1]
    assert r_squared(x[:2000], height[:2000], x[2000:], height[2000:]) > 0.99
    assert r_squared(x[:2000], rng.normal(size=2000), x[2000:], rng.normal(size=2000)) < 0.05


def _clips(tmp_path, lengths) -> SimpleNamespace:
    """A corpus of clips at 10 Hz without pictures: what the probes ask of one."""
    starts = np.concatenate(([0], np.cumsum(lengths)))
    clips = [Clip(f"clip_{i}", int(starts[i]), np.arange(n) * 0.1, VIEW, "human") for i, n in enumerate(lengths)]
    room = tmp_path / "train" / "loco" / "room_00000"
    corpus = SimpleNamespace(clips=clips, sidecars=[room / "clips.json"])
    corpus.pairs = lambda gap_s: Corpus.pairs(corpus, gap_s)
    return corpus


def test_a_second_of_video_is_the_pairs_that_lie_within_it(tmp_path):
    corpus = _clips(tmp_path, (20, 8, 12))  # the second clip is shorter than a second
    pairs = corpus.pairs(0.5)
    every = seconds(corpus, pairs, 0.5)
    assert every.pairs.shape == (10 + 2, 6), "a second begins at frames 0 to 9 of the first clip, at 0 and 1 of the last"
    assert pairs.first[every.pairs[0]].tolist() == [0, 1, 2, 3, 4, 5] and pairs.later[every.pairs[0]].tolist() == [5, 6, 7, 8, 9, 10]
    assert (every.whole.first[-1], every.whole.later[-1]) == (29, 39) and (pairs.clip[every.pairs] == every.whole.clip[:, None]).all()
    assert seconds(corpus, corpus.pairs(0.6), 0.6).pairs.shape == (12, 5)
    with pytest.raises(ValueError, match="longer clips"):
        seconds(short := _clips(tmp_path, (9,)), short.pairs(0.5), 0.5)


def _truth(tmp_path, corpus, **arrays) -> None:
    path = tmp_path / "truth" / "train" / "loco"
    path.mkdir(parents=True)
    shape = (len(corpus.clips), len(corpus.clips[0].stamps_s), -1)
    np.savez(path / "room_00000.npz", **{name: value.reshape(shape) for name, value in arrays.items()})


def test_who_walks_an_arc_goes_forward_and_not_aside(tmp_path):
    corpus = _clips(tmp_path, (11,))
    turned = 0.1 * np.arange(11)  # 1 rad in a second, on a circle of 0.5 m radius to the left of the start
    pose = np.stack((0.5 * np.sin(turned), 0.5 * (1 - np.cos(turned)), turned, 0.01 * np.arange(11)), axis=1)
    _truth(tmp_path, corpus, pose=pose, hands=np.zeros((11, 6)))
    motion = true_motion(corpus, corpus.pairs(1.0)).displacement
    assert motion[0] == pytest.approx((2 * 0.5 * np.sin(0.5), 0.0, 1.0, 0.1), abs=1e-6), "the chord of the arc, along the heading half-way"


def test_a_command_that_changes_on_the_way_is_nobodys(tmp_path):
    corpus = _clips(tmp_path, (12, 12))
    command = np.zeros((24, 4))
    command[:12, 0] = 1.0  # the first clip walks, the second turns from its frame 5 on
    command[17:, 2] = -1.0
    _truth(tmp_path, corpus, command=command)
    whole = seconds(corpus, corpus.pairs(0.5), 0.5).whole
    assert whole.first.tolist() == [0, 1, 12, 13]
    steady = probe_module.steady_command(corpus, whole)
    assert steady[:2].tolist() == [[1, 0, 0, 0]] * 2 and np.isnan(steady[2:]).all()
    advance, turn_right = 0, 5
    assert primitive_of(corpus, corpus.pairs(0.5)).tolist() == [advance] * 7 + [-1] * 5 + [turn_right] * 2


def test_retrieval_finds_the_primitive_where_the_codes_tell_it_and_guesses_where_not(tmp_path, monkeypatch):
    primitives = [command for name, command in PRIMITIVES.items() if name != "stand"]
    corpus = _clips(tmp_path, (12,) * 32)
    _truth(tmp_path, corpus, command=np.repeat([primitives[i % 8] for i in range(32)], 12, axis=0))
    rng = np.random.default_rng(0)
    lam = SimpleNamespace(gap_s=0.5, model=SimpleNamespace(config=SimpleNamespace(codes=16, tokens=4), quantiser=TokenQuantiser(4, 16, 4)))
    for tell, low, high in ((True, 0.999, 1.0), (False, 0.0, 0.4)):

        def codes(lam, corpus, pairs, index, tell=tell):
            noise = rng.integers(0, 16, (len(index), 4))
            return np.concatenate((pairs.clip[index][:, None] % 8, noise[:, 1:]), axis=1) if tell else noise

        monkeypatch.setattr(probe_module, "codes_of", codes)
        found = retrieval(lam, corpus, corpus)
        assert found["queries"] == 32 * 2 and low <= found["prototype"] <= high, found
        assert set(found["by_primitive"]) == set(PRIMITIVES) - {"stand"}
    assert (primitive_of(corpus, seconds(corpus, corpus.pairs(0.5), 0.5).whole) == np.repeat(np.arange(32) % 8, 2)).all()


def test_a_checkpoint_survives_half_precision_and_is_small(tmp_path):
    model = _export(tmp_path / "loco", model_config=ModelConfig())
    assert (tmp_path / "loco" / WEIGHTS_FILE).stat().st_size <= MAX_BYTES
    lam = load_lam(tmp_path / "loco")
    assert lam.gap_s == 0.5 and lam.view == VIEW and not lam.model.training
    for key, value in model.state_dict().items():
        assert torch.equal(lam.model.state_dict()[key], value.half().float()), key
    again = load_lam(tmp_path / "loco")
    assert again.manifest.hash == lam.manifest.hash
    first, later = torch.rand(8, 3, 48, 48), torch.rand(8, 3, 48, 48)
    lens = lens_from_view(torch.from_numpy(VIEW.as_array())[None]).expand(8, -1)
    assert torch.equal(lam.model.encode(first, later, lens), again.model.encode(first, later, lens))


def test_a_truncated_checkpoint_is_refused(tmp_path):
    _export(tmp_path / "loco")
    weights = tmp_path / "loco" / WEIGHTS_FILE
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="does not match its manifest"):
        load_lam(tmp_path / "loco")


def test_a_label_says_what_happens_until_the_frame_one_gap_later(tmp_path):
    _export(tmp_path / "loco")
    lam = load_lam(tmp_path / "loco")
    frames = np.random.default_rng(0).integers(0, 256, (12, 64, 64, 3), dtype=np.uint8)
    codes, valid = label_frames(lam, frames, np.arange(12) * 0.1)
    assert codes.shape == (12, 4) and codes.dtype == np.uint8 and codes.max() < 16
    assert valid.tolist() == [True] * 7 + [False] * 5 and not codes[7:].any()
    from wbvla_train.data.clips import area_resize

    small = pixels(torch.from_numpy(area_resize(frames, lam.model.config.image_size)))
    lens = lens_from_view(torch.from_numpy(VIEW.as_array())[None])
    assert lam.model.encode(small[3:4], small[8:9], lens)[0].tolist() == codes[3].tolist()


def test_labels_do_not_depend_on_the_frame_rate(tmp_path):
    _export(tmp_path / "loco")
    lam = load_lam(tmp_path / "loco")
    fast = np.random.default_rng(0).integers(0, 256, (46, 32, 32, 3), dtype=np.uint8)
    codes_30, valid_30 = label_frames(lam, fast, np.arange(46) / 30)
    codes_10, valid_10 = label_frames(lam, fast[::3], np.arange(16) / 10)
    assert valid_10[:10].all() and valid_30[:30:3].all()
    assert np.array_equal(codes_30[:30:3], codes_10[:10])


def test_stamps_of_another_count_than_frames_are_refused(tmp_path):
    _export(tmp_path / "loco")
    with pytest.raises(ValueError, match="one stamp per frame"):
        label_frames(load_lam(tmp_path / "loco"), np.zeros((3, 32, 32, 3), np.uint8), np.arange(4))


def test_video_in_which_nothing_moves_is_refused_before_the_training(tmp_path):
    def corpus(name, frames):
        folder = tmp_path / name
        folder.mkdir()
        stamps = np.arange(len(frames)) / 10
        write_mp4(folder / "clip.mp4", frames, stamps)
        (folder / "clips.json").write_text(json.dumps({"clips": [{"file": "clip.mp4", "stamps_s": stamps.tolist()}]}))
        found = Corpus([folder], 48)
        return found, found.pairs(0.5)

    picture = np.random.default_rng(0).integers(0, 255, (48, 48, 3), dtype=np.uint8)
    still, black = np.stack([picture] * 20), np.zeros((20, 48, 48, 3), np.uint8)
    for name, frames in (("still", still), ("black", black)):
        with pytest.raises(WbvlaError, match=f"{name}: nothing moves in 15 of 15 pairs .* a still or black film teaches no motion"):
            _require_motion(tmp_path / name, *corpus(name, frames))
    moving = black.copy()
    for t in range(20):
        moving[t, 10:20, t : t + 10] = 200  # a bright patch walks by
    _require_motion(tmp_path / "moving", *corpus("moving", moving))
