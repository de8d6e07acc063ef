"""Video -> latent action model -> labels, in the debug preset; and the shipped models on rooms rendered here."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from wbvla_core.errors import CheckpointError
from wbvla_train.data.clips import Corpus
from wbvla_train.data.mp4 import read_mp4, write_mp4
from wbvla_train.data.video import Shard, VideoConfig, render, render_shard
from wbvla_train.lam import label, label_command
from wbvla_train.lam.config import preset
from wbvla_train.lam.export import MAX_BYTES, WEIGHTS_FILE, load_lam
from wbvla_train.lam.health import CollapseError, measure
from wbvla_train.lam.probe import true_motion
from wbvla_train.lam.train import STATE_FILE, LamTrainer, PairSampler, train

REPO = Path(__file__).resolve().parents[2]
SMALL_VIDEO = VideoConfig(clips_per_room=3, frames=12, image_size=64)


def _quiet(text: str) -> None:
    pass


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    """One training room and one development room of each kind of video."""
    config = replace(SMALL_VIDEO, output=tmp_path_factory.mktemp("video"))
    for split in ("train", "dev"):
        for domain in ("loco", "mani", "x2_loco", "x2_mani"):
            render_shard((config, Shard(split, domain, 0)))
    return config.output


def _config(video: Path, run: Path, name="loco", **changes):
    return replace(preset("debug", name), data=video, output=run / "checkpoint", run_dir=run / "run", **changes)


def test_a_rendered_room_is_a_folder_of_clips_with_stamps_and_a_camera(video):
    folder = video / "train" / "loco" / "room_00000"
    clips = json.loads((folder / "clips.json").read_text())["clips"]
    assert [c["file"] for c in clips] == ["clip_00.mp4", "clip_01.mp4", "clip_02.mp4"]
    frames, stamps = read_mp4(folder / clips[0]["file"])
    assert frames.shape == (12, 64, 64, 3) and frames.std() > 5
    assert stamps == pytest.approx(clips[0]["stamps_s"]) and stamps[1] == pytest.approx(0.1)
    assert set(clips[0]) == {"file", "stamps_s", "camera", "source"}, "a sidecar must carry no truth"


def test_a_finished_room_is_not_rendered_again_and_a_lost_one_comes_back_the_same(tmp_path, video):
    shutil.copytree(video / "train" / "loco", tmp_path / "train" / "loco")
    shutil.copytree(video / "truth" / "train" / "loco", tmp_path / "truth" / "train" / "loco")
    config = replace(SMALL_VIDEO, output=tmp_path, domains=("loco",), splits=("train",), train_rooms=1)
    assert render(config, _quiet) == 0
    clip = tmp_path / "train" / "loco" / "room_00000" / "clip_00.mp4"
    truth = tmp_path / "truth" / "train" / "loco" / "room_00000.npz"
    before, moved = read_mp4(clip)[0], np.load(truth)["pose"]
    shutil.rmtree(clip.parent)
    render_shard((config, Shard("train", "loco", 0)))
    assert np.array_equal(np.load(truth)["pose"], moved)
    assert np.abs(read_mp4(clip)[0].astype(int) - before).mean() < 0.5  # software GL does not repeat every last bit


def test_the_robots_own_camera_is_among_the_video(video):
    for domain in ("x2_loco", "x2_mani"):
        entry = json.loads((video / "train" / domain / "room_00000" / "clips.json").read_text())["clips"][0]
        assert entry["source"] == "x2" and entry["camera"]["fovy_deg"] == 58.0
    corpus = Corpus([video / "train" / "x2_loco"], 32)
    motion = true_motion(corpus, corpus.pairs(0.5))
    assert np.abs(motion.displacement).max() > 0.03, "the robot must move in its locomotion video"
    still = Corpus([video / "train" / "x2_mani"], 32)
    assert np.abs(true_motion(still, still.pairs(0.5)).displacement).max() < 0.03, "and stand in its manipulation video"


def test_mp4_keeps_stamps_and_what_a_lam_can_see(tmp_path):
    ramp = np.linspace(0, 255, 32).astype(np.uint8)
    frames = np.stack([np.roll(np.broadcast_to(ramp[None, :, None], (32, 32, 3)), i, axis=1) for i in range(5)])
    stamps = np.array((0.0, 0.033, 0.067, 0.2, 0.233))
    write_mp4(tmp_path / "clip.mp4", frames, stamps)
    back, back_stamps = read_mp4(tmp_path / "clip.mp4")
    assert back_stamps == pytest.approx(stamps)
    assert np.abs(back.astype(int) - frames).mean() < 4.0


@pytest.mark.parametrize("name", ["loco", "mani"])
def test_debug_training_exports_a_checkpoint_without_opening_the_truth(video, tmp_path, name):
    hidden = video / "truth"
    hidden.rename(video / "truth_away")
    try:
        directory = train(_config(video, tmp_path, name), _quiet, command="test")
    finally:
        (video / "truth_away").rename(hidden)
    lam = load_lam(directory)
    metrics = json.loads((directory / "metrics.json").read_text())
    assert metrics["pairs_seen"] == 20 * 8 and metrics["command"] == "test" and all(metrics["dev"][domain]["pairs"] > 0 for domain in (name, f"x2_{name}"))
    assert lam.manifest.name == name and lam.manifest.robot is None
    assert lam.model.config.rigid == (name == "loco")


def test_one_model_of_both_domains_is_measured_on_each(video, tmp_path):
    directory = train(_config(video, tmp_path, "shared"), _quiet)
    metrics = json.loads((directory / "metrics.json").read_text())
    assert metrics["pairs_seen"] == 20 * 8 * 2 and set(metrics["dev"]) == {"mani", "x2_mani", "loco", "x2_loco"}
    assert load_lam(directory).manifest.name == "shared"


@pytest.mark.parametrize("cached", [False, True])
def test_debug_training_on_features_exports_a_checkpoint_that_labels_clips(video, tmp_path, cached):
    config = replace(preset("debug-dinov2", "loco"), data=video, output=tmp_path / "lam", run_dir=tmp_path / "run", cache_features=cached)
    lam = load_lam(train(config, _quiet))
    assert lam.model.config.feature_space == "dinov2" and lam.manifest.extra["features"]["source"] == "random"
    frames, stamps = read_mp4(video / "dev" / "loco" / "room_00000" / "clip_00.mp4")
    codes, valid = label.label_frames(lam, frames, stamps)
    assert codes.shape == (12, 4) and valid.sum() == 7


def test_a_resumed_run_repeats_the_losses_of_an_unbroken_one_to_the_bit(video, tmp_path):
    config = _config(video, tmp_path, steps=30)
    corpus = Corpus([video / "train" / "loco"], config.model.image_size)

    pairs = corpus.pairs(config.gap_s)

    def trainer() -> LamTrainer:
        return LamTrainer(config, PairSampler(config, (corpus, pairs), (corpus, pairs)))

    unbroken = trainer()
    for _ in range(10):
        unbroken.train_step()
    unbroken.save(tmp_path / STATE_FILE)
    expected = [unbroken.train_step() for _ in range(4)]
    torch.manual_seed(999)  # whatever else happened to the process
    resumed = trainer()
    resumed.restore(tmp_path / STATE_FILE)
    assert resumed.step == 10
    assert [resumed.train_step() for _ in range(4)] == expected


def test_a_killed_training_goes_on_where_it_was_and_other_settings_are_refused(video, tmp_path):
    config = _config(video, tmp_path)

    def die_at_step_10(text: str) -> None:
        if "/20:" in text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(replace(config, save_every=5), die_at_step_10)
    lines: list[str] = []
    train(replace(config, save_every=5), lines.append)
    assert any("resumed at step 5" in line for line in lines)
    with pytest.raises(ValueError, match="other settings"):
        train(replace(config, lr=1.0), _quiet)


def test_a_collapsed_training_stops_by_itself(video, tmp_path):
    # no learning rate, and no step that puts the codes onto the encoder's outputs: shuffling the codes of such a model costs next to nothing
    with pytest.raises(CollapseError, match="step 15"):
        train(_config(video, tmp_path, lr=0.0, continuous_steps=0, stop_after=6, stop_patience=2, health_every=5, steps=40), _quiet)


def test_labels_are_cached_beside_the_clips_and_bound_to_their_lam(video, tmp_path, capsys):
    directory = train(_config(video, tmp_path / "a"), _quiet)
    data = tmp_path / "clips"
    shutil.copytree(video / "dev" / "loco", data)
    arguments = ["--data", str(data), "--lams", str(directory)]
    assert label_command.main(arguments) == 0 and "3 to do" in capsys.readouterr().out
    labels = label.read_labels(data / "room_00000", load_lam(directory))
    assert [(one.codes.shape, int(one.valid.sum())) for one in labels.values()] == 3 * [((12, 4), 7)]
    assert label_command.main(arguments) == 0 and "0 to do" in capsys.readouterr().out
    other = train(_config(video, tmp_path / "b", seed=5), _quiet)
    with pytest.raises(CheckpointError, match="label again"):
        label_command.main(["--data", str(data), "--lams", str(other)])


@pytest.mark.parametrize("name", ["loco", "mani"])
def test_the_shipped_codes_say_something_about_rooms_never_seen(name, tmp_path):
    """Shuffling the codes between pairs must cost much of the reconstruction gain, on surfaces of the held-out family."""
    directory = REPO / "checkpoints" / "lam" / name
    lam = load_lam(directory)
    assert (directory / WEIGHTS_FILE).stat().st_size <= MAX_BYTES
    config = VideoConfig(output=tmp_path, clips_per_room=4, frames=14, seed=77)
    for index in range(3):
        render_shard((config, Shard("test", name, index)))
    corpus = Corpus([tmp_path / "test" / name], lam.model.config.image_size)
    health = measure(lam.model, corpus, corpus.pairs(lam.gap_s), count=96)
    assert health.rrg > health.rrg_shuffled + 0.1
    assert min(health.perplexity) > 3.0 and health.rrg > 0.1
