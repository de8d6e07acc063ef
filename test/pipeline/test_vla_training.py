"""The VLA's chain in its debug sizes: stills, demonstrations, both stages, decoder, policy bundle, and one decision from it."""

from __future__ import annotations

import dataclasses
import json
import logging
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from robot_sets import write_clips, write_film, write_set
from safetensors.torch import load_file

from wbvla_core.catalogue import TaskCatalogue
from wbvla_core.checkpoint import load_manifest
from wbvla_core.errors import CheckpointError, ImageError, InstructionError, WbvlaError
from wbvla_core.robot import load_robot
from wbvla_core.types import PolicyInput, RobotState
from wbvla_sim.instructions import TASKS
from wbvla_train.data import annotate, demos, stills
from wbvla_train.data.camera import robot_view
from wbvla_train.data.lerobot.stream import StreamConfig
from wbvla_train.decoder import train as decoder_train
from wbvla_train.decoder.config import PRESETS as DECODER_PRESETS
from wbvla_train.lam.config import ModelConfig
from wbvla_train.lam.export import export as export_lam
from wbvla_train.lam.export import load_lam
from wbvla_train.lam.model import LatentActionModel
from wbvla_train.parallel import Part, Processes
from wbvla_train.vla import ceiling
from wbvla_train.vla import train as vla_train
from wbvla_train.vla.clips import ClipSet, clip_rows, word_tokenizer
from wbvla_train.vla.codes import code_step_loss, load_grounded
from wbvla_train.vla.config import PRESETS as VLA_PRESETS
from wbvla_train.vla.config import CodesConfig, GroundingConfig, VlaTrainConfig
from wbvla_train.vla.streamed import StreamedCodes, load_frames
from wbvla_vla import config as sizes
from wbvla_vla import serve
from wbvla_vla.checkpoint import load_vla
from wbvla_vla.engine import EngineConfig
from wbvla_vla.image_text import ImageTextVla
from wbvla_vla.model import VlaOutput, code_loss
from wbvla_vla.policy import WholeBodyPolicy
from wbvla_vla.remote import RemotePolicy

torch.set_num_threads(1)  # small matrices: more threads only wait for each other


def quiet(_: str) -> None:
    pass


def write_lam(directory: Path, name: str, seed: int) -> None:
    torch.manual_seed(seed)
    model = LatentActionModel(ModelConfig(image_size=32, stem_width=16, width=16, heads=2, decoder_width=8, rigid=name == "loco"))
    export_lam(model, name, 0.5, robot_view(load_robot("x2")), directory, {})


@dataclasses.dataclass
class Chain:
    root: Path
    vla: VlaTrainConfig
    decoder: decoder_train.DecoderTrainConfig

    @property
    def policy(self) -> Path:
        return self.decoder.output


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    root = tmp_path_factory.mktemp("chain")
    checkpoints = root / "checkpoints"
    write_lam(checkpoints / "lam" / "mani", "mani", 0)
    write_lam(checkpoints / "lam" / "loco", "loco", 1)
    stills.make(stills.StillsConfig(output=root / "stills", scenes=4, per_scene=4, scenes_per_shard=4), quiet)
    recording = demos.DemosConfig(output=root / "demos", world="kinematic", episodes=4, episodes_per_shard=2, timeout_s=1.6, duration_s=(1.2, 1.6), seed=3)
    demos.make(recording, quiet)
    debug = VLA_PRESETS["debug"][1]
    lams = {"lam_mani": checkpoints / "lam" / "mani", "lam_loco": checkpoints / "lam" / "loco"}
    grounding = dataclasses.replace(debug.grounding, data=root / "stills", scenes=0)
    codes = dataclasses.replace(debug.codes, demos=root / "demos", **lams)
    vla = dataclasses.replace(debug, grounding=grounding, codes=codes, run_dir=root / "run_vla", output=checkpoints / "vla" / "debug")
    vla_train.train(vla, quiet)
    decoder = dataclasses.replace(
        DECODER_PRESETS["debug"][1], vla=vla.output, demos=(root / "demos",), run_dir=root / "run_decoder", output=checkpoints / "policy" / "debug", **lams
    )
    decoder_train.train(decoder, quiet)
    return Chain(root, vla, decoder)


def policy_input(instruction: str = "walk to the red box", stamp_s: float = 1.5) -> PolicyInput:
    robot = load_robot("x2")
    zeros = np.zeros(robot.joint_count)
    state = RobotState(stamp_s, robot.default_q.copy(), zeros, np.zeros(3), np.array((0.0, 0.0, -1.0)))
    return PolicyInput(stamp_s, np.full((96, 96, 3), 127, np.uint8), instruction, state)


def test_the_chain_ends_in_a_policy_whose_decisions_are_inside_the_limits(chain: Chain) -> None:
    robot = load_robot("x2")
    policy = WholeBodyPolicy.load(chain.policy, robot)
    decision = policy.infer(policy_input())
    assert decision.stamp_s == 1.5
    decision.loco.validate(robot.stance_height_range_m)
    decision.arms.validate(robot.names("upper_body"))
    index = robot.indices("upper_body")
    assert np.all(decision.arms.positions >= robot.lower[index]) and np.all(decision.arms.positions <= robot.upper[index])
    assert len(decision.latent.manipulation) == len(decision.latent.locomotion) == 4
    assert set(decision.timing_s) >= {"vla", "decoder", "total"}


def test_the_bundle_lists_the_tasks_whose_sentences_its_training_drew(chain: Chain) -> None:
    """Counterfactual sentences ask for every task that a room of the training allows; without them, and without mirrored frames, for the recorded ones."""
    data = decoder_train.build(dataclasses.replace(chain.decoder, run_dir=chain.root / "run_tasks"), quiet).step.demos
    rooms = data.data["valid"][data.train_index].any(axis=0)
    assert TaskCatalogue.of(load_manifest(chain.policy)).canonical == tuple(task.instruction for task, there in zip(TASKS, rooms, strict=True) if there)
    recorded = {TASKS[i].instruction for i in data.data["task"][data.train_index]}
    plain = dataclasses.replace(chain.decoder, sentences=1, mirror_share=0.0)
    assert set(data.trained_tasks(plain).canonical) == recorded < set(data.trained_tasks(chain.decoder).canonical)
    mirrored = set(data.trained_tasks(dataclasses.replace(plain, mirror_share=0.25)).canonical)
    assert mirrored == recorded | {task.instruction for task, there in zip(TASKS, rooms, strict=True) if there and task.kind == "walk_to"}


def test_one_observation_gives_one_decision_however_often_it_is_asked(chain: Chain) -> None:
    robot = load_robot("x2")
    first, second = (WholeBodyPolicy.load(chain.policy, robot).infer(policy_input()) for _ in range(2))
    np.testing.assert_array_equal(first.arms.positions, second.arms.positions)
    assert first.loco == second.loco and first.latent == second.latent


@torch.no_grad()
def test_the_recorded_graph_answers_like_the_model_for_any_image_and_sentence(chain: Chain, monkeypatch) -> None:
    from wbvla_vla.checkpoint import load_policy
    from wbvla_vla.trace import record

    warned: list[tuple] = []  # transformers' own warnings, which come on a robot's terminal
    monkeypatch.setattr(logging.Logger, "warning_once", lambda _, *text: warned.append(text))
    vla = load_policy(chain.policy, load_robot("x2")).vla
    run = record(vla.model, vla.tokenizer.max_words)
    assert not warned
    generator = torch.Generator().manual_seed(5)
    for sentence in ("walk to the blue box and stop in front of it", "squat", "wave your left arm"):
        words = torch.from_numpy(vla.tokenizer.encode(sentence))[None]
        pixels = torch.randn(1, 6, 96, 96, generator=generator)
        expected, answer = vla.model(pixels, words), run(pixels, words)
        torch.testing.assert_close(answer.logits, expected.logits, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(answer.visual_hidden, expected.visual_hidden, rtol=1e-4, atol=1e-5)


def test_sentences_that_cannot_be_followed_are_refused(chain: Chain) -> None:
    policy = WholeBodyPolicy.load(chain.policy, load_robot("x2"))
    for sentence, code in (("", "INSTRUCTION_EMPTY"), ("walk to the orange box", "INSTRUCTION_UNKNOWN_WORDS"), ("walk " * 50, "INSTRUCTION_TOO_LONG")):
        with pytest.raises(InstructionError) as refusal:
            policy.infer(policy_input(sentence))
        assert refusal.value.code.name == code


def test_an_image_of_another_size_is_refused(chain: Chain) -> None:
    policy = WholeBodyPolicy.load(chain.policy, load_robot("x2"))
    with pytest.raises(ImageError, match="96x96"):
        policy.infer(dataclasses.replace(policy_input(), image=np.zeros((64, 64, 3), np.uint8)))


def test_a_policy_is_refused_on_another_vla(chain: Chain) -> None:
    other = dataclasses.replace(chain.vla, stage="codes", run_dir=chain.root / "run_other", output=chain.root / "other" / "vla" / "debug")
    vla_train.train(other, quiet)  # no grounding stage in that folder: other weights
    with pytest.raises(CheckpointError, match="was built on a vla with hash"):
        WholeBodyPolicy.load(chain.policy, load_robot("x2"), other.output)


def test_an_autoregressive_vla_is_trained_and_read_back_but_refused_by_stage_2(chain: Chain) -> None:
    config = dataclasses.replace(chain.vla, stage="codes", decoding="autoregressive", run_dir=chain.root / "run_ar", output=chain.root / "ar" / "vla" / "debug")
    loaded = load_vla(vla_train.train(config, quiet))
    assert loaded.model.config.decoding == "autoregressive"
    with pytest.raises(WbvlaError, match="--decoding parallel"):
        decoder_train.build(dataclasses.replace(chain.decoder, vla=config.output, run_dir=chain.root / "run_ar_decoder"), quiet)


def test_another_backbone_goes_the_whole_way_from_stage_0_to_a_served_policy(chain: Chain) -> None:
    root, name = chain.root / "image_text", "image_text_debug"
    preset = VLA_PRESETS["image-text-debug"][1]
    vla = dataclasses.replace(preset, grounding=chain.vla.grounding, codes=chain.vla.codes, run_dir=root / "run_vla", output=root / "vla" / name)
    loaded = load_vla(vla_train.train(vla, quiet))
    assert loaded.manifest.extra["backbone"] == "smolvlm" and isinstance(loaded.model, ImageTextVla)
    assert (vla.run_dir / "grounded.safetensors").exists()  # stage 0 too
    decoder = dataclasses.replace(chain.decoder, vla=vla.output, run_dir=root / "run_decoder", output=root / "policy" / name)
    decoder_train.train(decoder, quiet)
    robot = load_robot("x2")
    here = WholeBodyPolicy.load(decoder.output, robot)
    decision = here.infer(policy_input())
    decision.arms.validate(robot.names("upper_body"))
    decision.loco.validate(robot.stance_height_range_m)
    plain = WholeBodyPolicy.load(decoder.output, robot, engine=EngineConfig(compile=False)).infer(policy_input())
    np.testing.assert_allclose(plain.arms.positions, decision.arms.positions, atol=1e-5)  # recorded graph or not
    server = serve.PolicyServer(*serve.load(str(decoder.output), robot), robot, "tcp://127.0.0.1:*")
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        there = RemotePolicy(server.address, robot, load_manifest(decoder.output), answer_s=20.0, connect_s=20.0)
        served = there.infer(policy_input())
        there.close()
    finally:
        server.stop()
        thread.join()
    np.testing.assert_array_equal(served.arms.positions, decision.arms.positions)
    assert served.loco == decision.loco and served.latent == decision.latent
    with pytest.raises(CheckpointError, match="was built on a vla with hash"):  # not over the default backbone
        WholeBodyPolicy.load(decoder.output, robot, chain.vla.output)


def test_the_ceiling_is_measured_on_held_out_and_on_unseen_recordings_and_refuses_other_lams(chain: Chain, tmp_path: Path) -> None:
    unseen = demos.DemosConfig(
        output=tmp_path / "unseen", world="kinematic", episodes=2, episodes_per_shard=2, timeout_s=1.2, duration_s=(1.0, 1.2), held_out=True
    )
    demos.make(unseen, quiet)
    lams = {"lam_mani": chain.vla.codes.lam_mani, "lam_loco": chain.vla.codes.lam_loco}
    oracle = ceiling.OracleConfig(width=8, steps=4, check_every=2, batch=4)
    config = ceiling.CeilingConfig(vla=chain.vla.output, demos=chain.vla.codes.demos, unseen=unseen.output, oracle=oracle, resamples=20, **lams)
    result = ceiling.evaluate(config, quiet)
    assert list(result) == ["held-out episodes", "unseen rooms", "unseen rooms and phrasings"]
    for part in result.values():
        assert part["frames"] > 0 and set(part["scores"]) == {"motion", "command", "task"}
        assert list(part["scores"]["motion"]) == [
            *(f"{kind} {i}" for kind in ("mani",) for i in range(1, 5)),
            "mani",
            *(f"loco {i}" for i in range(1, 5)),
            "loco",
        ]
    write_lam(tmp_path / "loco", "loco", 99)
    with pytest.raises(CheckpointError, match="lam_loco"):
        ceiling.evaluate(dataclasses.replace(config, lam_loco=tmp_path / "loco"), quiet)


def test_a_vla_is_refused_beside_another_lam(chain: Chain, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(chain.root / "checkpoints", tmp_path / "checkpoints")
    shutil.rmtree(tmp_path / "checkpoints" / "lam" / "loco")
    write_lam(tmp_path / "checkpoints" / "lam" / "loco", "loco", 99)
    with pytest.raises(CheckpointError, match="lam_loco"):
        WholeBodyPolicy.load(tmp_path / "checkpoints" / "policy" / "debug", load_robot("x2"))


def test_a_truncated_weights_file_is_refused(chain: Chain, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(chain.root / "checkpoints", tmp_path / "checkpoints")
    weights = tmp_path / "checkpoints" / "vla" / "debug" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="truncated"):
        WholeBodyPolicy.load(tmp_path / "checkpoints" / "policy" / "debug", load_robot("x2"))


def test_a_killed_decoder_training_goes_on_with_the_same_losses(chain: Chain) -> None:
    config = dataclasses.replace(chain.decoder, loop=dataclasses.replace(chain.decoder.loop, steps=6))

    def losses(run_dir: str, stop: int | None) -> list[float]:
        loop = decoder_train.build(dataclasses.replace(config, run_dir=chain.root / run_dir), quiet).loop
        loop.resume()
        values = []
        while loop.step < (stop or config.loop.steps):
            values.append(loop.train_step())
        loop.save()
        return values

    unbroken = losses("unbroken", None)
    assert losses("broken", 3) + losses("broken", None) == unbroken


def test_a_corpus_beside_the_demonstrations_adds_the_loss_of_its_codes_and_nothing_else(chain: Chain) -> None:
    plain = dataclasses.replace(chain.decoder, run_dir=chain.root / "run_plain")
    beside = dataclasses.replace(plain, corpus=chain.root / "demos", corpus_frames=3, corpus_weight=0.5, run_dir=chain.root / "run_beside")
    losses, drawn = [], []
    for config in (plain, beside):
        run = decoder_train.build(config, quiet)
        run.student.eval()
        drawn.append(run.step.draw(np.random.default_rng(7), 0, Part()))
        losses.append(run.step.loss(run.student, drawn[-1])[0])
    assert drawn[0][1] is None and len(drawn[1][1].pixels) == 3
    torch.testing.assert_close(drawn[0][0].pixels, drawn[1][0].pixels)  # the same demonstrations
    codes, _ = code_step_loss(run.student.vla, drawn[1][1])
    assert float(codes.detach()) > 1.0  # 16 codes, a network that has hardly learnt: near log 16 = 2.8
    torch.testing.assert_close(losses[1], losses[0] + 0.5 * codes)
    with pytest.raises(WbvlaError, match="--corpus .* not beside --lerobot"):
        decoder_train.build(dataclasses.replace(beside, lerobot=(chain.root / "lerobot",)), quiet)


def test_a_decoder_of_codes_sees_nothing_but_them_and_makes_a_policy(chain: Chain) -> None:
    by_codes = dataclasses.replace(chain.decoder.decoder, latents="codes")
    config = dataclasses.replace(chain.decoder, decoder=by_codes, run_dir=chain.root / "run_codes", output=chain.root / "checkpoints" / "policy" / "codes")
    decoder_train.train(config, quiet)
    robot = load_robot("x2")
    policy = WholeBodyPolicy.load(config.output, robot)
    policy.infer(policy_input()).loco.validate(robot.stance_height_range_m)
    decoder = policy._decoder
    logits = torch.randn(1, 2, 4, 16, generator=torch.Generator().manual_seed(0))
    body = torch.zeros(1, 3), torch.zeros(1, 2 * len(robot.names("upper_body")))
    said = [VlaOutput(logits + shift, torch.randn(1, 8, 32), torch.randn(1, 16, 32)) for shift in (0.0, 3.0)]
    first, second = (decoder(out, *body) for out in said)  # the same probabilities, other hidden states
    torch.testing.assert_close(first.flag_logits, second.flag_logits)
    torch.testing.assert_close(first.arms, second.arms)
    other = decoder(VlaOutput(-logits, said[0].latent_hidden, said[0].visual_hidden), *body)
    assert (other.flag_logits - first.flag_logits).abs().max() > 1e-4


def test_counterfactual_labels_name_every_box_and_the_recorded_task(chain: Chain) -> None:
    from wbvla_train.data.shards import read_shards

    data = read_shards(chain.root / "demos")
    valid = data["valid"]
    assert valid.shape[1] == len(TASKS)
    assert valid[np.arange(len(valid)), data["task"]].all()
    turn_left = [task.instruction for task in TASKS].index("turn left")
    assert (data["flags"][:, turn_left] == (0, 0, 1)).all()
    assert json.loads((chain.root / "demos" / "dataset.json").read_text())["settings"]["kind"] == "demos"


def test_an_interrupted_recording_is_continued_with_the_same_data(chain: Chain, tmp_path: Path) -> None:
    config = demos.DemosConfig(output=tmp_path, world="kinematic", episodes=2, episodes_per_shard=1, timeout_s=0.5, duration_s=(0.4, 0.5), seed=3)
    demos.make(config, quiet)
    with np.load(tmp_path / "shard_00001.npz") as shard:
        before = {key: shard[key] for key in shard.files}
    (tmp_path / "shard_00001.npz").unlink()
    assert demos.make(config, quiet) == 1
    with np.load(tmp_path / "shard_00001.npz") as shard:
        for key, value in before.items():
            np.testing.assert_array_equal(shard[key], value, err_msg=key)
    with pytest.raises(ValueError, match="timeout_s"):
        demos.make(dataclasses.replace(config, timeout_s=0.7), quiet)


@pytest.fixture(scope="module")
def film(chain: Chain) -> Path:
    return write_film(chain.root / "film", (chain.vla.codes.lam_mani, chain.vla.codes.lam_loco))


def clip_set(chain: Chain, film: Path, code_losses: str) -> ClipSet:
    lams = load_lam(chain.vla.codes.lam_mani), load_lam(chain.vla.codes.lam_loco)
    return ClipSet((film,), lams, word_tokenizer(sizes.PRESETS["debug"](), (film,)), code_losses, 96, quiet)


def test_a_masked_clip_trains_the_codes_of_its_own_domain_only(chain: Chain, film: Path) -> None:
    both, masked = clip_set(chain, film, "both"), clip_set(chain, film, "masked")
    assert len(both.index) == len(masked.index) == 2 * 7  # of 12 frames at 10 Hz seven have a partner half a second later; the clips without a sentence are out
    _, _, codes, weight = masked.draw(np.random.default_rng(0), 64)
    assert sorted(map(tuple, np.unique(weight, axis=0))) == [(0.0, 1.0), (1.0, 0.0)]  # manipulation first
    assert (both.draw(np.random.default_rng(0), 64)[3] == 1).all()
    logits = torch.randn(64, 2, 4, 16, generator=torch.Generator().manual_seed(0))
    other = np.where(weight[:, :, None] == 0, (codes + 5) % 16, codes)  # whatever the other model says
    losses = [float(code_loss(logits, torch.from_numpy(c), torch.from_numpy(weight))) for c in (codes, other)]
    assert losses[0] == losses[1]


def test_every_sentence_of_a_clip_is_drawn(chain: Chain, film: Path) -> None:
    clips = clip_set(chain, film, "masked")
    _, words, _, _ = clips.draw(np.random.default_rng(0), 200)
    assert len(np.unique(words, axis=0)) == 4


def test_stage_1_learns_the_clips_words_on_a_stage_0_that_did_not_know_them(chain: Chain, film: Path) -> None:
    codes = dataclasses.replace(chain.vla.codes, clips=(film,), clip_share=0.5)
    run = chain.root / "run_clips"
    run.mkdir()
    (run / "grounded.safetensors").write_bytes((chain.vla.run_dir / "grounded.safetensors").read_bytes())
    config = dataclasses.replace(chain.vla, stage="codes", codes=codes, run_dir=run, output=chain.root / "clips" / "vla" / "debug")
    lines: list[str] = []
    vla_train.train(config, lines.append)
    assert any("1 loco, 1 mani; 14 labelled frames; left out: 2 clips without a sentence" in line for line in lines)
    assert {"forward", "backward"} <= set(load_vla(config.output).tokenizer.words())
    with pytest.raises(ValueError, match="other settings"):
        vla_train.train(dataclasses.replace(config, codes=dataclasses.replace(codes, code_losses="both")), quiet)


def test_words_that_stage_0_knew_keep_their_rows(chain: Chain, film: Path) -> None:
    model, tokenizer = vla_train.build_model(dataclasses.replace(chain.vla, codes=dataclasses.replace(chain.vla.codes, clips=(film,))))
    known = word_tokenizer(model.config)
    weights = {name: value.float() for name, value in load_file(chain.vla.run_dir / "grounded.safetensors").items()}
    rows = weights["language.model.embed_tokens.weight"]
    load_grounded(model, tokenizer, dict(weights), known)
    grown = model.language.get_input_embeddings().weight
    assert len(grown) == len(rows) + 4  # forward, backward, loco, mani
    for token, row in known.tokenizer.get_vocab().items():
        assert torch.equal(grown[tokenizer.tokenizer.get_vocab()[token]], rows[row]), token
    with pytest.raises(ValueError, match="run with other clips"):
        load_grounded(model, tokenizer, {**weights, "language.model.embed_tokens.weight": rows[:-1]}, known)


def test_clips_without_codes_or_without_any_sentence_are_refused_with_what_to_run(chain: Chain, film: Path, tmp_path: Path) -> None:
    write_clips(tmp_path / "train" / "loco" / "new", 9)
    with pytest.raises(WbvlaError, match="wbvla annotate"):
        clip_set(chain, tmp_path, "both")
    annotate.Clip(tmp_path / "train" / "loco" / "new", "clip_01.mp4", None).put("annotator", ("walk to the red box",))
    with pytest.raises(WbvlaError, match=r"clip_01.mp4 has no codes of .*; run wbvla label --data"):
        clip_set(chain, tmp_path, "masked")


def test_clips_beside_a_stream_weigh_in_the_pieces_of_a_batch_what_they_weigh_in_the_whole(chain: Chain, film: Path, tmp_path: Path) -> None:
    recorded = write_set(tmp_path / "set")
    config = dataclasses.replace(chain.vla, codes=dataclasses.replace(chain.vla.codes, lerobot=(recorded,), clips=(film,)))
    model, tokenizer = vla_train.build_model(config)
    spec = model.config.image_spec(load_robot("x2").camera)
    few = StreamConfig(lanes=4, chunk_frames=5, pool_chunks=2)
    frames, _ = load_frames((recorded,), (config.codes.lam_mani, config.codes.lam_loco), tokenizer, spec, few, Processes(), quiet)
    clips = clip_set(chain, film, "masked")
    step = StreamedCodes(model, spec, frames, few, 12, 0, clips, 4)
    whole, *parts = (step.draw(np.random.default_rng(5), 3, Part(i, n)) for i, n in ((0, 1), (0, 2), (1, 2)))
    assert [batch.recorded for batch in (whole, *parts)] == [8, 4, 4]
    for name in ("pixels", "words", "codes", "weight"):
        (a, b), together = (getattr(part, name) for part in parts), getattr(whole, name)
        assert torch.equal(torch.cat((a[:4], b[:4], a[4:], b[4:])), together), name
    assert whole.weight.mean() == pytest.approx(1.0) and whole.weight[0, 0] == pytest.approx(24 / 20)  # of 8 x 2 + 4 x 2 code sets the clips lack 4
    with torch.no_grad():
        losses = [float(step.loss(model, batch)[0]) for batch in (whole, *parts)]
        logits = model(whole.pixels, whole.words).logits
    assert losses[0] == pytest.approx(float(code_loss(logits, whole.codes, whole.weight)), rel=1e-5)
    assert (losses[1] + losses[2]) / 2 == pytest.approx(losses[0], rel=1e-5)


def test_stage_1_trains_from_a_stream_and_clips_together(chain: Chain, film: Path, tmp_path: Path) -> None:
    codes = dataclasses.replace(chain.vla.codes, lerobot=(write_set(tmp_path / "set"),), clips=(film,), clip_share=0.5)
    config = dataclasses.replace(chain.vla, stage="codes", codes=codes, run_dir=tmp_path / "run", output=tmp_path / "vla" / "debug")
    lines: list[str] = []
    vla_train.train(config, lines.append)
    assert any("1 loco, 1 mani; 14 labelled frames" in line for line in lines)
    assert {"forward", "juggle"} <= set(load_vla(config.output).tokenizer.words())  # of the clips, of the data set


def test_a_share_of_clips_is_one_that_many_processes_can_share_out() -> None:
    assert [clip_rows(batch, 0.3) for batch in (1024, 128, 48, 4)] == [320, 40, 14, 1]  # multiples of 32, 8, 2, 1
    assert clip_rows(64, 0.0) == 0
    assert [clip_rows(batch, 0.99) for batch in (1024, 4)] == [992, 3]  # some of a batch is always recorded


def test_presets_are_complete() -> None:

    assert isinstance(VLA_PRESETS["7b-pretrain"][1].codes, CodesConfig) and isinstance(VLA_PRESETS["tiny"][1].grounding, GroundingConfig)
    assert set(VLA_PRESETS) == {"debug", "tiny", "small", "7b-pretrain", "image-text-debug", "image-text"} and set(DECODER_PRESETS) == {
        "debug",
        "tiny",
        "small",
        "7b-lora",
    }
