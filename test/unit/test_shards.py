"""Demonstrations and films that are damaged are named by file, episode and frame when they are read, not by a loss that is no number."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from wbvla_core.errors import WbvlaError
from wbvla_train.data import prints
from wbvla_train.data.clips import Corpus
from wbvla_train.data.mp4 import read_mp4, write_mp4
from wbvla_train.data.shards import read_shards, shard_path


def shard(root: Path, number: int, **changes) -> Path:
    """Two episodes of 3 and 2 frames."""
    arrays = {
        "stamp_s": np.array((1.7e9, 1.7e9 + 0.1, 1.7e9 + 0.2, 1.7e9, 1.7e9 + 0.1)),
        "episode": np.array((0, 0, 0, 1, 1)) + 2 * number,
        "arm_state": np.full((5, 4), 0.5, np.float32),
        "flags": np.zeros((5, 3), np.int8),
    }
    path = shard_path(root, number)
    np.savez_compressed(path, **(arrays | changes))
    return path


def test_whole_shards_are_read_in_order(tmp_path):
    for number in (1, 0):
        shard(tmp_path, number)
    data = read_shards(tmp_path)
    assert data["episode"].tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 3, 3]
    assert read_shards(tmp_path, ("flags",)).keys() == {"flags"}


@pytest.mark.parametrize(("value", "said"), [(np.nan, "nan"), (-np.inf, "-inf"), (1e30, r"1.0?.*e\+30")])
def test_a_number_that_cannot_be_is_named_by_file_episode_and_frame(tmp_path, value, said):
    shard(tmp_path, 0)
    arm_state = np.full((5, 4), 0.5, np.float32)
    arm_state[4, 2] = value
    path = shard(tmp_path, 1, arm_state=arm_state)
    with pytest.raises(WbvlaError, match=rf"{path}: episode 3, frame 1 \(row 4\): arm_state\[2\] is {said}, expected a finite number .* 1 of 5 frames"):
        read_shards(tmp_path, ("arm_state",))
    assert len(read_shards(tmp_path, ("flags",))["flags"]) == 10  # nobody asked for the others


def test_damaged_empty_and_foreign_shards_are_named(tmp_path):
    with pytest.raises(WbvlaError, match="no shards in .*wbvla data demos"):
        read_shards(tmp_path)
    shard(tmp_path, 0)
    path = shard(tmp_path, 1)
    whole = path.read_bytes()
    for data in (b"", b"junk", whole[: len(whole) // 2], whole[:100] + bytes([whole[100] ^ 255]) + whole[101:]):
        path.write_bytes(data)
        with pytest.raises(WbvlaError, match=rf"{path} is damaged .*makes only what is missing"):
            read_shards(tmp_path)
    shard(tmp_path, 1, **{key: value[:0] for key, value in np.load(shard_path(tmp_path, 0)).items()})
    with pytest.raises(WbvlaError, match="must hold arrays of the same number of frames, at least one"):
        read_shards(tmp_path)
    shard(tmp_path, 1, arm_state=np.zeros((5, 6), np.float32))
    with pytest.raises(WbvlaError, match=r"expected 'arm_state' with rows \[4\] float32 as in shard_00000.npz, got \[6\] float32"):
        read_shards(tmp_path)
    with pytest.raises(WbvlaError, match="lacks the array 'image'"):
        read_shards(tmp_path, ("image",))


def film(root: Path, frames: int = 12) -> Path:
    folder = root / "loco/clip"
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(2).integers(0, 255, (frames, 48, 48, 3), dtype=np.uint8)
    write_mp4(folder / "clip.mp4", pixels, np.arange(frames) / 10)
    (folder / "clips.json").write_text(json.dumps({"clips": [{"file": "clip.mp4", "stamps_s": (np.arange(frames) / 10).tolist()}]}))
    return folder


def test_a_film_that_is_cut_or_gone_is_one_sentence_with_its_name(tmp_path):
    folder = film(tmp_path)
    path = folder / "clip.mp4"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(WbvlaError, match=rf"{path} cannot be read as video .*copy it again"):
        Corpus([tmp_path / "loco"], 48)
    path.unlink()
    with pytest.raises(WbvlaError, match=rf"{path} cannot be read as video \(No such file"):
        read_mp4(path)


def test_a_sidecar_whose_stamps_cannot_be_is_named_by_clip_and_frame(tmp_path):
    sidecar = film(tmp_path) / "clips.json"
    whole = json.loads(sidecar.read_text())
    whole["clips"][0]["stamps_s"][7] = 0.1
    sidecar.write_text(json.dumps(whole))
    with pytest.raises(WbvlaError, match=r"clips.json: clip 0 \(clip.mp4\), frame 7: stamps_s must be finite and rise"):
        Corpus([tmp_path / "loco"], 48)
    sidecar.write_text('{"clips": [{"file": "clip.mp4"}]}')
    with pytest.raises(WbvlaError, match="clips.json is damaged"):
        Corpus([tmp_path / "loco"], 48)


def test_data_are_told_by_what_is_in_them_and_not_by_where_they_lie(tmp_path):
    (tmp_path / "a").mkdir()
    shard(tmp_path / "a", 0), shard(tmp_path / "a", 1)
    before = prints.of_shards(tmp_path / "a")
    assert before["files"] == 2
    (tmp_path / "a/codes_loco.npz").write_bytes(b"labels")  # derived, not data
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert prints.of_shards(tmp_path / "b") == before
    shard(tmp_path / "b", 1, flags=np.ones((5, 3), np.int8))
    assert prints.of_shards(tmp_path / "b")["sha256"] != before["sha256"]
    corpus = Corpus([film(tmp_path / "c").parent], 48)
    moved = Corpus([Path(shutil.copytree(tmp_path / "c", tmp_path / "d")) / "loco"], 48)
    assert corpus.fingerprint == moved.fingerprint and corpus.fingerprint["frames"] == 12
