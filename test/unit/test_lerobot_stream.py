"""Streaming of LeRobot data: order, memory, what is refused, and both training stages from it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from robot_sets import write_set

from wbvla_core.robot import load_robot
from wbvla_decoder.policy import ArmScaling
from wbvla_perception.preprocess import ImageSpec, policy_image
from wbvla_train.data.camera import robot_view
from wbvla_train.data.lerobot.episode import DataError
from wbvla_train.data.lerobot.reader import open_dataset
from wbvla_train.data.lerobot.schema import CAMERA
from wbvla_train.data.lerobot.stream import FrameStream, StreamConfig, camera_of, read_images, recorded_spec
from wbvla_train.decoder import train as decoder_train
from wbvla_train.decoder.config import PRESETS as DECODER_PRESETS
from wbvla_train.decoder.streamed import RobotFrames
from wbvla_train.lam import label_command
from wbvla_train.lam.config import ModelConfig
from wbvla_train.lam.export import export as export_lam
from wbvla_train.lam.export import load_lam
from wbvla_train.lam.model import LatentActionModel
from wbvla_train.parallel import Part, Processes
from wbvla_train.vla import train as vla_train
from wbvla_train.vla.config import PRESETS as VLA_PRESETS
from wbvla_train.vla.streamed import LabelledFrames, StreamedCodes, load_labelled
from wbvla_vla.checkpoint import load_policy
from wbvla_vla.tokens import InstructionTokenizer, build_tokenizer

torch.set_num_threads(1)
ROBOT = load_robot("x2")
SMALL = StreamConfig(lanes=4, chunk_frames=5, pool_chunks=2)


class Counting:
    """Stands in for data: frames are (episode, number); remembers what was read."""

    def __init__(self, *lengths: int) -> None:
        self.views = [SimpleNamespace(index=i, length=n) for i, n in enumerate(lengths)]
        self.usable = [np.ones(n, dtype=bool) for n in lengths]
        self.read_frames = 0

    def read(self, view, start: int, count: int) -> dict[str, np.ndarray]:
        self.read_frames += count
        return {"frame": np.stack((np.full(count, view.index), np.arange(start, start + count)), axis=1)}

    def stream(self, batch: int = 8, seed: int = 0, config: StreamConfig = SMALL) -> FrameStream:
        return FrameStream(self.views, self.usable, self.read, config, batch, seed)


def frames(stream: FrameStream, steps: range, part: slice = slice(0, 8)) -> list[tuple[int, int]]:
    return [tuple(row) for step in steps for row in stream.batch(step, part)["frame"].tolist()]


def test_every_frame_is_drawn_once_per_epoch() -> None:
    data = Counting(20, 20, 40)  # 16 chunks of 5: 4 lanes of 20 frames, 2 a step: 10 steps an epoch
    drawn = frames(data.stream(), range(10))
    assert len(drawn) == 80 and len(set(drawn)) == 80
    assert sorted(frames(data.stream(), range(10, 20))) == sorted(drawn)
    assert frames(data.stream(), range(10, 20)) != drawn


def test_a_step_is_a_function_of_its_number_and_the_seed() -> None:
    data = Counting(23, 31)
    in_order = frames(data.stream(), range(40))
    assert frames(data.stream(), range(25, 40)) == in_order[25 * 8 :]
    assert frames(data.stream(seed=1), range(40)) != in_order


def test_parts_are_the_whole_and_read_their_own_lanes_only() -> None:
    data, half = Counting(20, 20, 40), Counting(20, 20, 40)
    whole = frames(data.stream(), range(10))
    parts = [frames(half.stream(), range(10), Part(i, 2).of(8)) for i in range(2)]
    assert [parts[(i // 4) % 2][i // 8 * 4 + i % 4] for i in range(80)] == whole
    assert half.read_frames == data.read_frames == 80  # each frame was read once, by one of the two


def test_frames_that_may_not_be_drawn_are_not_and_none_at_all_is_refused() -> None:
    data = Counting(20, 20)
    data.usable[0][3:18] = False
    drawn = frames(data.stream(), range(40))
    assert {number for episode, number in drawn if episode == 0} == {0, 1, 2, 18, 19}
    data.usable = [np.zeros(20, dtype=bool)] * 2
    with pytest.raises(DataError, match="no frame of the data"):
        data.stream()


def test_lanes_are_as_many_as_divide_the_batch_and_have_data() -> None:
    assert Counting(20, 20, 40).stream(batch=6).lanes == 3
    assert Counting(5).stream().lanes == 1


# -- from files ------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("data") / "set")


@pytest.fixture(scope="module")
def lams(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("checkpoints") / "lam"
    for seed, name in enumerate(("mani", "loco")):
        torch.manual_seed(seed)
        model = LatentActionModel(ModelConfig(image_size=32, stem_width=16, width=16, heads=2, decoder_width=8, rigid=name == "loco"))
        export_lam(model, name, 0.5, robot_view(ROBOT), root / name, {})
    return {f"lam_{name}": root / name for name in ("mani", "loco")}


def labelled(root: Path, lams: dict[str, Path], size: int = 96) -> LabelledFrames:
    spec = ImageSpec.of(ROBOT.camera, size)
    one = load_labelled(root, [load_lam(path) for path in lams.values()], spec, "", Processes(), lambda _: None)
    return LabelledFrames([one], InstructionTokenizer(build_tokenizer(open_dataset(root).tasks.values(), 16, 4), 12))


def test_chunks_are_the_frames_of_the_video_through_perceptions_transform(recorded: Path) -> None:
    dataset = open_dataset(recorded)
    spec = recorded_spec(dataset, camera_of(dataset), ImageSpec.of(ROBOT.camera, 64))
    for view in dataset.views:
        every = np.stack([policy_image(image, spec) for image in view.images(CAMERA)])
        np.testing.assert_array_equal(read_images(view, CAMERA, 7, 6, spec), every[7:13])


def test_rows_carry_sentence_codes_and_the_teleoperators_answer(recorded: Path, lams: dict[str, Path]) -> None:
    config = dataclasses.replace(DECODER_PRESETS["debug"][1].decoder, chunk_rows=3)
    read = RobotFrames(labelled(recorded, lams), ROBOT, config)
    view = read.frames.views[0]  # 23 frames
    rows = read.read(view, 20, 3)
    assert rows["flags"].tolist() == [[2, 1, 2], [0, 1, 2], [1, 1, 2]]  # t % 3 - 1 at t = 20, 21, 22
    raised = ArmScaling.of(ROBOT).encode(0.01 * np.array([[20, 21, 22], [21, 22, 22], [22, 22, 22]])[:, :, None])
    np.testing.assert_allclose(rows["arms"], raised, atol=1e-6)  # behind the end the last target stays
    assert rows["code_weight"].tolist() == [0, 0, 0]  # a code looks half a second ahead
    assert read.read(view, 17, 2)["code_weight"].tolist() == [1, 0]
    assert rows["images"].shape == (3, 96, 96, 3) and rows["codes"].shape == (3, 2, 4)


def test_recordings_that_do_not_fit_are_refused_by_name(recorded: Path, lams: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="128x96 px, the model sees 224x224 px"):
        labelled(recorded, lams, 224)
    with pytest.raises(DataError, match="cameras observation.images.head, not wrist"):
        camera_of(open_dataset(recorded), "wrist")
    decoder = DECODER_PRESETS["debug"][1].decoder
    with pytest.raises(DataError, match="column observation.imu must hold the 6 numbers"):
        RobotFrames(labelled(write_set(tmp_path / "blind", (9,), drop="observation.imu"), lams), ROBOT, decoder)
    with pytest.raises(DataError, match="5 frames/s, arm chunks have a row every 0.1 s"):
        RobotFrames(labelled(write_set(tmp_path / "slow", (9,), fps=5.0), lams), ROBOT, decoder)


def test_several_processes_want_labels_made_before(lams: dict[str, Path], tmp_path: Path) -> None:
    root = write_set(tmp_path / "new", (9,))
    with pytest.raises(DataError, match="has no labels of .*wbvla label"):
        load_labelled(root, [load_lam(lams["lam_mani"])], ImageSpec(), "", Processes(count=2), lambda _: None)
    assert label_command.main(["--data", str(tmp_path), "--lams", str(lams["lam_mani"])]) == 0
    made = load_labelled(root, [load_lam(lams["lam_mani"])], ImageSpec(), "", Processes(count=2), lambda _: None)
    assert [len(codes) for codes in made.codes] == [9] and made.valid[0].tolist() == [True] * 4 + [False] * 5  # a code looks half a second ahead


def configs(root: Path, recorded: Path, lams: dict[str, Path], steps: int = 4):
    """Both stages, debug size, from ``recorded``."""
    vla, decoder = VLA_PRESETS["debug"][1], DECODER_PRESETS["debug"][1]
    loop = dataclasses.replace(vla.codes.loop, steps=steps, save_every=100)
    codes = dataclasses.replace(vla.codes, lerobot=(recorded,), stream=SMALL, batch=8, grounding_weight=0.0, loop=loop, **lams)
    place = root / "checkpoints"
    vla = dataclasses.replace(vla, stage="codes", codes=codes, run_dir=root / "vla", output=place / "vla" / "debug")
    decoder = dataclasses.replace(decoder, vla=vla.output, lerobot=(recorded,), stream=SMALL, batch=8, loop=loop, arm_states=0, **lams)
    return vla, dataclasses.replace(decoder, run_dir=root / "decoder", output=place / "policy" / "debug")


def test_both_stages_train_from_a_stream_and_go_on_to_the_bit(recorded: Path, lams: dict[str, Path], tmp_path: Path) -> None:
    vla, decoder = configs(tmp_path, recorded, lams)
    said: list[str] = []
    vla_train.train(vla, said.append)
    assert any(line.startswith("memory plan: ") for line in said)
    decoder_train.train(decoder, said.append)
    policy = load_policy(decoder.output, ROBOT)
    assert policy.vla.tokenizer.encode("juggle oranges").any()  # words of the data set
    trained = {task for view in open_dataset(recorded).views[:-1] for task in view.tasks}  # the last episode is held out
    assert set(policy.tasks.canonical) == trained and policy.tasks.find("Turn LEFT, please!")
    assert policy.tasks.find("juggle oranges") is None and any("only held-out episodes say it: 'juggle oranges'" in line for line in said)

    def losses(run_dir: str, until: int) -> list[float]:
        loop = decoder_train.build(dataclasses.replace(decoder, run_dir=tmp_path / run_dir), lambda _: None).loop
        loop.resume()
        values = [loop.train_step() for _ in range(until - loop.step)]
        loop.save()
        return values

    assert losses("broken", 2) + losses("broken", 4) == losses("unbroken", 4)


def test_augmentation_of_a_sample_does_not_depend_on_who_draws_it(recorded: Path, lams: dict[str, Path]) -> None:
    step = StreamedCodes(torch.nn.Linear(1, 1), ImageSpec(), labelled(recorded, lams), SMALL, 8, 0)
    whole = step.draw(np.random.default_rng(5), 3, Part())
    parts = [step.draw(np.random.default_rng(5), 3, Part(i, 4)) for i in range(4)]
    assert torch.equal(torch.cat([part.pixels for part in parts]), whole.pixels)
    assert torch.equal(torch.cat([part.codes for part in parts]), whole.codes)
