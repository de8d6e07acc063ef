"""`wbvla label`: folders of clips and data sets, in shards, killed and continued, bound to one latent action model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from wbvla_core.errors import CheckpointError, WbvlaError
from wbvla_core.robot import load_robot
from wbvla_perception.preprocess import ImageSpec, policy_image
from wbvla_train.data.camera import CameraView, robot_view
from wbvla_train.data.lerobot.assemble import assemble
from wbvla_train.data.lerobot.episode import EpisodeWriter
from wbvla_train.data.lerobot.reader import open_dataset
from wbvla_train.data.mp4 import read_mp4, write_mp4
from wbvla_train.lam.config import ModelConfig
from wbvla_train.lam.export import export, load_lam
from wbvla_train.lam.label import LabelConfig, LabelSet, label, label_files, label_frames, label_path, read_file, read_labels
from wbvla_train.lam.model import LatentActionModel

ROOT = Path(__file__).resolve().parents[2]
CLIPS, FRAMES = 24, 12
torch.set_num_threads(1)  # small matrices: more threads only wait for each other


def write_lam(directory: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    model = LatentActionModel(ModelConfig(image_size=32, stem_width=16, width=16, heads=2, decoder_width=8, rigid=True))
    export(model, "loco", 0.5, robot_view(load_robot("x2")), directory, {})
    return directory


def moving(seed: int, frames: int = FRAMES, height: int = 48, width: int = 48) -> np.ndarray:
    """Grey blocks that slide, [T, H, W, 3] uint8."""
    blocks = np.random.default_rng(seed).integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
    picture = np.repeat(np.repeat(blocks, 8, 0), 8, 1)
    return np.stack([np.roll(picture, 2 * t, axis=1) for t in range(frames)])


@pytest.fixture(scope="module")
def lam(tmp_path_factory) -> Path:
    return write_lam(tmp_path_factory.mktemp("lam") / "loco", 0)


def write_clips(folder: Path, count: int = CLIPS) -> Path:
    folder.mkdir(parents=True)
    stamps = np.arange(FRAMES) * 0.1
    for i in range(count):
        write_mp4(folder / f"clip_{i:02d}.mp4", moving(i), stamps)
    entries = [{"file": f"clip_{i:02d}.mp4", "stamps_s": stamps.round(3).tolist(), "camera": None, "source": "film"} for i in range(count)]
    (folder / "clips.json").write_text(json.dumps({"schema": 1, "clips": entries}))
    return folder


@pytest.fixture(scope="module")
def labelled(lam, tmp_path_factory) -> tuple[Path, LabelSet]:
    """A folder of clips that one unbroken run labelled."""
    folder = write_clips(tmp_path_factory.mktemp("clips") / "loco" / "film")
    assert label(LabelConfig(data=folder, lams=(lam,)), quiet) == CLIPS
    return folder, read_labels(folder, load_lam(lam))


def quiet(text: str) -> None:
    pass


def copied(source: Path, target: Path) -> Path:
    """Clips without their labels."""
    target.mkdir(parents=True)
    for path in source.iterdir():
        if not path.name.startswith("labels_"):
            (target / path.name).symlink_to(path)
    return target


def same(a: LabelSet, b: LabelSet) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[n].codes, b[n].codes) and np.array_equal(a[n].valid, b[n].valid) for n in a)


def test_every_clip_has_the_codes_that_its_own_frames_give(labelled, lam):
    folder, found = labelled
    frames, _ = read_mp4(folder / "clip_07.mp4")
    codes, valid = label_frames(load_lam(lam), frames, np.arange(FRAMES) * 0.1, view=CameraView())
    (mine,) = (labels for (name, _), labels in found.items() if name == "clip_07.mp4")
    assert np.array_equal(mine.codes, codes) and valid.sum() == 7 and np.array_equal(mine.valid, valid)
    assert len(found) == CLIPS


def test_shards_of_one_folder_together_are_the_whole_and_share_nothing(labelled, lam, tmp_path):
    folder = copied(labelled[0], tmp_path / "film")
    assert [label(LabelConfig(data=folder, lams=(lam,), shard=f"{i}/5"), quiet) for i in range(5)] == [5, 5, 5, 5, 4]
    files = label_files(folder, load_lam(lam))
    assert [path.name for path in files] == [f"labels_loco.{i}of5.npz" for i in range(5)]
    assert same(read_labels(folder, load_lam(lam)), labelled[1])
    assert label(LabelConfig(data=folder, lams=(lam,), shard="1/2"), quiet) == 0, "who made a label does not matter"
    with pytest.raises(WbvlaError, match="i/n with 0 <= i < n"):
        label(LabelConfig(data=folder, lams=(lam,), shard="5/5"), quiet)


def test_a_run_killed_inside_a_folder_goes_on_there_and_ends_with_the_same_codes(labelled, lam, tmp_path):
    folder = copied(labelled[0], tmp_path / "film")
    path = label_path(folder, load_lam(lam))
    command = [sys.executable, "-m", "wbvla_train.lam.label", "--data", str(folder), "--lams", str(lam), "--save-every-s", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT)}) as process:
        while process.poll() is None and not path.exists():
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    kept = len(read_labels(folder, load_lam(lam)))
    assert 0 < kept < CLIPS, "the kill came inside the folder"
    assert label(LabelConfig(data=folder, lams=(lam,)), quiet) == CLIPS - kept
    assert same(read_labels(folder, load_lam(lam)), labelled[1])


def test_a_clip_whose_stamps_changed_is_labelled_again_and_no_other(labelled, lam, tmp_path):
    folder = copied(labelled[0], tmp_path / "film")
    config = LabelConfig(data=folder, lams=(lam,))
    label(config, quiet)
    sidecar = json.loads((folder / "clips.json").read_text())
    sidecar["clips"][3]["stamps_s"] = (np.arange(FRAMES) * 0.125).tolist()  # 8 Hz: the partner of frame 0 is now frame 4
    (folder / "clips.json").unlink()
    (folder / "clips.json").write_text(json.dumps(sidecar))
    assert label(replace(config, shard="1/2"), quiet) == 1, "the fourth clip is the second shard's"
    valid = {name: int(piece.valid.sum()) for (name, _), piece in read_file(label_path(folder, load_lam(lam), (1, 2)), load_lam(lam)).items()}
    assert valid == {"clip_03.mp4": 8}
    assert label(config, quiet) == 0, "the old labels of that clip do no harm"


def test_labels_of_another_model_are_refused_until_they_are_to_be_replaced(labelled, lam, tmp_path):
    folder = copied(labelled[0], tmp_path / "film")
    label(LabelConfig(data=folder, lams=(lam,), shard="0/2"), quiet)
    config = LabelConfig(data=folder, lams=(write_lam(tmp_path / "loco", 1),))
    with pytest.raises(CheckpointError, match="label again with `wbvla label --overwrite`"):
        label(config, quiet)
    assert label(replace(config, overwrite=True), quiet) == CLIPS
    assert len(label_files(folder, load_lam(tmp_path / "loco"))) == 1, "no file of the other model is left"


def test_a_clip_that_does_not_fit_its_stamps_is_named(lam, tmp_path):
    folder = write_clips(tmp_path / "film", 2)
    write_mp4(folder / "clip_01.mp4", moving(1, frames=5), np.arange(5) * 0.1)
    with pytest.raises(WbvlaError, match=r"clip_01.mp4: 5 frames but 12 stamps.*what was labelled before is kept"):
        label(LabelConfig(data=folder, lams=(lam,)), quiet)
    assert len(read_labels(folder, load_lam(lam))) == 1
    with pytest.raises(WbvlaError, match="no clips.json and no LeRobot data set"):
        label(LabelConfig(data=tmp_path / "nothing", lams=(lam,)), quiet)


def write_dataset(root: Path, lengths: tuple[int, ...], cameras: tuple[str, ...] = ("observation.images.head",)) -> Path:
    features = {"observation.stamp_s": {"dtype": "float64", "shape": [1], "names": ["stamp_s"]}}
    episodes = []
    for number, length in enumerate(lengths):
        with EpisodeWriter(root.with_name(f"{root.name}_{number}"), features, 10.0) as writer:
            for t, image in enumerate(moving(number, length, 96, 128)):
                writer.add({"observation.stamp_s": np.array([0.1 * t])}, dict.fromkeys(cameras, image), "turn left")
            episodes.append(writer.finish({}))
    assemble(episodes, root, robot_type="x2")
    return root


def test_a_data_set_is_labelled_by_episode_and_frame_from_the_policy_image(lam, tmp_path):
    root = write_dataset(tmp_path / "boxes", (9, 14))
    assert sum(label(LabelConfig(data=root, lams=(lam,), shard=f"{i}/2"), quiet) for i in range(2)) == 2
    found = read_labels(root, load_lam(lam))
    assert {name: (len(one.codes), int(one.valid.sum())) for (name, _), one in found.items()} == {"episode_000000": (9, 4), "episode_000001": (14, 9)}
    frames = np.stack([policy_image(image, ImageSpec(96, 128, 96)) for image in open_dataset(root).views[1].images("observation.images.head")])
    (second,) = (labels for (name, _), labels in found.items() if name == "episode_000001")
    assert np.array_equal(second.codes, label_frames(load_lam(lam), frames, np.arange(14) * 0.1)[0])
    assert label(LabelConfig(data=root, lams=(lam,)), quiet) == 0


def test_of_several_cameras_one_must_be_chosen(lam, tmp_path):
    root = write_dataset(tmp_path / "boxes", (8,), ("observation.images.left", "observation.images.right"))
    config = LabelConfig(data=root, lams=(lam,))
    with pytest.raises(WbvlaError, match=r"observation.images.left, observation.images.right; choose one with --camera"):
        label(config, quiet)
    assert label(replace(config, camera="observation.images.right"), quiet) == 1


def test_another_camera_is_described_whole_or_not_at_all(lam, tmp_path):
    root = write_dataset(tmp_path / "boxes", (8,))
    config = LabelConfig(data=root, lams=(lam,))
    with pytest.raises(WbvlaError, match="give both, or neither"):
        label(replace(config, fovy_deg=90.0), quiet)
    with pytest.raises(WbvlaError, match=r"must lie in \[5, 150\]"):
        label(replace(config, fovy_deg=1.5, pitch_deg=0.5), quiet)
    assert label(config, quiet) == 1 and label(replace(config, fovy_deg=90.0, pitch_deg=10.0), quiet) == 1, "another camera, other labels"
