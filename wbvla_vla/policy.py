"""The 10 Hz policy: image + sentence + proprioception -> Decision. No ROS here; the node and the lock-step episode call the same class."""

from __future__ import annotations

import copy
import time
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from wbvla_core.robot import RobotSpec
from wbvla_core.types import Decision, LatentAction, PolicyInput
from wbvla_decoder.policy import ArmScaling, CommandFilter, arm_chunk, arm_state, decode_height, posture
from wbvla_perception.preprocess import pixel_values, require_policy_image
from wbvla_vla.checkpoint import LoadedPolicy, load_policy
from wbvla_vla.engine import EngineConfig, build


class Policy(Protocol):
    """What the VLA node, data collection and evaluation need of a policy."""

    def reset(self) -> None:
        """Forget the episode so far."""

    def infer(self, inputs: PolicyInput) -> Decision:
        """One decision; carries the stamp of ``inputs.stamp_s``."""


class WholeBodyPolicy:
    """VLA + decoder from a policy bundle.

    Args:
        loaded: verified models, see :meth:`load`.
        robot: the robot that they were made for.
        engine: how the VLA is carried out; None = float32 on the CPU, as a recorded graph.
    """

    def __init__(self, loaded: LoadedPolicy, robot: RobotSpec, engine: EngineConfig | None = None) -> None:
        engine = engine or EngineConfig()
        self.robot = robot
        self.manifest = loaded.manifest
        self.image_spec = loaded.vla.image_spec
        self.tokenizer = loaded.vla.tokenizer
        self.tasks = loaded.tasks
        self._codebook_size = loaded.vla.model.config.codebook_size
        self._vla = build(loaded.vla.model, self.tokenizer.max_words, engine)
        self._decoder = loaded.decoder.to(engine.device)
        self._device = engine.device
        self._scaling = ArmScaling.of(robot)
        self._filter_config = loaded.filter_config
        self._forget()

    def _forget(self) -> None:
        self._filter = CommandFilter(self._filter_config, self.robot.stance_height_range_m, self.robot.default_stance_height_m)
        self._instruction: str | None = None
        self._word_ids: torch.Tensor | None = None

    def twin(self) -> WholeBodyPolicy:
        """The same networks for one more robot, with a memory of its own. Twins take turns: one decision at a time."""
        other = copy.copy(self)
        other._forget()
        return other

    @classmethod
    def load(
        cls, directory: str | Path, robot: RobotSpec, vla_directory: str | Path | None = None, threads: int = 1, engine: EngineConfig | None = None
    ) -> WholeBodyPolicy:
        """Read, verify (policy -> VLA -> LAMs) and warm up.

        Args:
            directory: a policy bundle, for example ``checkpoints/policy/tiny``.
            threads: torch threads of this process; 1 leaves the other core to simulator and LMO.
            engine: see the class.

        Raises:
            CheckpointError: missing, damaged or mismatched checkpoint.
            WbvlaError: an engine that this machine does not have.
        """
        if engine is not None:
            engine.require()
        torch.set_num_threads(threads)
        policy = cls(load_policy(Path(directory), robot, Path(vla_directory) if vla_directory else None), robot, engine)
        policy._warm_up()
        return policy

    def _warm_up(self) -> None:
        size = self.image_spec.size
        words = torch.full((1, self.tokenizer.max_words), self.tokenizer.pad_id)
        words[0, 0] = self.tokenizer.bos_id
        for _ in range(3):
            self._forward(np.zeros((size, size, 3), np.uint8), words, np.zeros(3, np.float32), np.zeros(2 * len(self._scaling.centre), np.float32))

    def check_instruction(self, instruction: str) -> None:
        """Raise :class:`~wbvla_core.errors.InstructionError` for a sentence that is not a task of the policy; the goal is refused before anything moves."""
        self.word_ids(instruction)

    def word_ids(self, instruction: str) -> np.ndarray:
        """What the network is given of a sentence, [max_words] int64: where the bundle lists its tasks, the sentence as it was trained on.

        Raises:
            InstructionError: not in the bundle's list, or not readable by the tokenizer.
        """
        return self.tokenizer.encode(self.tasks.meaning(instruction).spoken if self.tasks else instruction)

    def reset(self) -> None:
        self._filter.reset()
        self._instruction = None

    def infer(self, inputs: PolicyInput) -> Decision:
        """One decision.

        Raises:
            ImageError, InstructionError, StateError: see preprocess, :meth:`word_ids` and types.
        """
        start = time.perf_counter()
        require_policy_image(inputs.image, self.image_spec)
        inputs.state.validate(self.robot.joint_count)
        if inputs.instruction != self._instruction:
            self._word_ids = torch.from_numpy(self.word_ids(inputs.instruction))[None]
            self._instruction = inputs.instruction
            self._filter.reset()  # the old task's flags are no evidence for the new one
        codes, probabilities, height, arms, timing = self._forward(
            inputs.image, self._word_ids, posture(inputs.state, self.robot), arm_state(inputs.state, self.robot)
        )
        loco = self._filter.update(probabilities, decode_height(height, self.robot))
        chunk = arm_chunk(arms, self._scaling, self.robot, self._decoder.config.chunk_dt_s)
        latent = LatentAction(tuple(codes[0].tolist()), tuple(codes[1].tolist()), self._codebook_size)
        timing["total"] = time.perf_counter() - start
        return Decision(inputs.stamp_s, loco.validate(self.robot.stance_height_range_m), chunk.validate(), latent, timing)

    @torch.inference_mode()
    def _forward(
        self, image: np.ndarray, word_ids: torch.Tensor, posture_: np.ndarray, arm_state_: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, float, np.ndarray, dict[str, float]]:
        """-> codes [2, T], flag probabilities [3, 3], height [0, 1], arms [K, A] scaled, seconds per stage."""
        t0 = time.perf_counter()
        pixels = torch.from_numpy(pixel_values(image, self.image_spec))[None]  # [1, C, S, S]
        t1 = time.perf_counter()
        out = self._vla(pixels, word_ids)
        t2 = time.perf_counter()
        body = (torch.from_numpy(value)[None].to(self._device) for value in (posture_, arm_state_))
        action = self._decoder(out, *body)
        probabilities = action.flag_logits.softmax(-1)[0].double().cpu().numpy()
        t3 = time.perf_counter()
        timing = {"normalise": t1 - t0, "vla": t2 - t1, "decoder": t3 - t2}
        return out.codes()[0].cpu().numpy(), probabilities, float(action.height[0]), action.arms[0].cpu().numpy(), timing
