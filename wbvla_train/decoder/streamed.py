"""Stage 2 from LeRobot data sets of the robot (``wbvla dataset convert``): what it saw, how its arms were, what the teleoperator told it."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from wbvla_core.catalogue import TaskCatalogue
from wbvla_core.robot import RobotSpec
from wbvla_core.types import RobotState
from wbvla_decoder.model import DecoderConfig
from wbvla_decoder.policy import ArmScaling, arm_state, encode_height, posture
from wbvla_perception.preprocess import ImageSpec
from wbvla_train.data.lerobot.episode import DataError, shown
from wbvla_train.data.lerobot.reader import Dataset, View
from wbvla_train.data.lerobot.schema import LOCO, columns
from wbvla_train.data.lerobot.stream import FrameStream
from wbvla_train.decoder.batches import Batch
from wbvla_train.decoder.config import DecoderTrainConfig
from wbvla_train.parallel import Part, to_device
from wbvla_train.vla.codes import held_out_episodes
from wbvla_train.vla.images import jitter, to_model
from wbvla_train.vla.streamed import EVALUATED, LabelledFrames, frame_sentences
from wbvla_vla.model import code_loss

NEEDED = ("observation.state", "observation.velocity", "observation.imu", "action")


def require_robot(dataset: Dataset, robot: RobotSpec, config: DecoderConfig) -> None:
    """Raise DataError where the data set is not a recording of this robot by our converter, or of another rate than the arm chunks."""
    expected = columns(robot)
    for key in NEEDED:
        if key not in dataset.features or dataset.names(key) != expected[key]["names"]:
            came = len(dataset.names(key)) if key in dataset.features else "nothing"
            raise DataError(
                f"{shown(dataset.root)}: column {key} must hold the {len(expected[key]['names'])} numbers of {robot.name} that `wbvla dataset convert` writes, "
                f"got {came}; convert the recordings again, or use the data set for stage 1 only (train vla)"
            )
    if abs(dataset.fps * config.chunk_dt_s - 1.0) > 1e-6:
        raise DataError(f"{shown(dataset.root)} has {dataset.fps:g} frames/s, arm chunks have a row every {config.chunk_dt_s} s: they must agree")


class RobotFrames:
    """Reads chunks of frames with the teleoperator's answers."""

    def __init__(self, frames: LabelledFrames, robot: RobotSpec, config: DecoderConfig) -> None:
        self.frames, self.robot, self.config = frames, robot, config
        for dataset in {id(view.dataset): view.dataset for view in frames.views}.values():
            require_robot(dataset, robot, config)
        names = columns(robot)["action"]["names"]
        self._arms = [names.index(name) for name in robot.names("upper_body")]
        self._loco = [names.index(name) for name in LOCO]

    def read(self, view: View, start: int, count: int) -> dict[str, np.ndarray]:
        table, robot = view.finite(NEEDED), self.robot
        q, qd, imu, action = (table[key] for key in NEEDED)
        rows = range(start, start + count)
        states = [RobotState(t / view.dataset.fps, q[t], qd[t], imu[t, :3], imu[t, 3:]) for t in rows]
        # Row k is due (k + 1) dt after the image: the target at the end of frame t + k. Behind the episode's end its last target stays.
        ahead = np.minimum(np.arange(start, start + count)[:, None] + np.arange(self.config.chunk_rows), view.length - 1)
        loco = action[start : start + count, self._loco]
        return {
            **self.frames.read(view, start, count),
            "posture": np.stack([posture(state, robot) for state in states]),
            "arm_state": np.stack([arm_state(state, robot) for state in states]),
            "flags": np.round(loco[:, :3]).astype(np.int64) + 1,
            "height": encode_height(loco[:, 3], robot),
            "arms": ArmScaling.of(robot).encode(action[ahead][:, :, self._arms]),
            "code_weight": self.frames.valid_of(view)[start : start + count].astype(np.float32),
        }


def _sentences(views: list[View]) -> set[str]:
    """What is said in some episodes."""
    return {view.dataset.tasks[index] for view in views for index in np.unique(frame_sentences(view))}


class StreamedFineTune:
    """Step of stage 2 without the simulator's labels; the last episodes are held out for :meth:`evaluate`."""

    def __init__(self, config: DecoderTrainConfig, student: nn.Module, frames: RobotFrames, spec: ImageSpec) -> None:
        self.config, self.student, self.spec, self.robot = config, student, spec, frames.robot
        views = frames.frames.views
        held_out = held_out_episodes(np.arange(len(views)))

        def stream(chosen: np.ndarray, batch: int) -> FrameStream:
            taken = [views[i] for i in np.flatnonzero(chosen)]
            everything = [np.ones(view.length, dtype=bool) for view in taken]
            return FrameStream(taken, everything, frames.read, config.stream, batch, config.loop.seed)

        trained, checked = (_sentences([views[i] for i in np.flatnonzero(chosen)]) for chosen in (~held_out, held_out))
        self.tasks = TaskCatalogue.of_sentences(trained, "the sentences of the recordings that it was trained on")
        self.untrained = sorted(checked - trained)  # said in held-out episodes alone, so no tasks of this policy
        self.stream, self._check = stream(~held_out, config.batch), stream(held_out, EVALUATED)

    def draw(self, rng: np.random.Generator, step: int, part: Part) -> Batch:
        mine = part.of(self.config.batch)
        rows, noise = self.stream.batch(step, mine), int(rng.integers(2**62))
        rows["images"] = np.concatenate([jitter(image[None], np.random.default_rng((noise, mine.start + i))) for i, image in enumerate(rows["images"])])
        return self._batch(rows)

    def _batch(self, rows: dict[str, np.ndarray]) -> Batch:
        n, none = len(rows["images"]), torch.zeros(len(rows["images"]))
        t = {key: torch.from_numpy(value) for key, value in rows.items() if key != "images"}
        return Batch(
            pixels=to_model(rows["images"], self.spec),
            image_index=torch.arange(n),
            words=t["words"],
            posture=t["posture"],
            arm_state=t["arm_state"],
            flags=t["flags"],
            height=t["height"],
            arms=t["arms"],
            arm_weight=none + 1,
            other_arm_state=t["arm_state"][:, None][:, :0],
            other_arms=t["arms"][:, None][:, :0],
            box=torch.zeros(n, 3),
            box_weight=none,
            codes=t["codes"],
            code_weight=t["code_weight"][:, None].expand(-1, 2),
        )

    def loss(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        c = self.config
        out, action, _ = model(batch)
        flags = F.cross_entropy(action.flag_logits.float().flatten(0, 1), batch.flags.flatten())
        height = (action.height.float() - batch.height).abs().mean()
        arms = (action.arms.float() - batch.arms).abs().mean()
        # A mean over all frames, with nothing from those without a code: parts of a batch then add up to the whole.
        codes = code_loss(out.logits.float(), batch.codes, batch.code_weight) * batch.code_weight.mean()
        loss = c.flag_weight * flags + c.height_weight * height + c.arm_weight * arms + c.code_weight * codes
        right = (action.flag_logits.argmax(-1) == batch.flags).all(dim=1).float().mean()
        return loss, {"flags": float(flags.detach()), "all_flags_right": float(right), "arms": float(arms.detach())}

    @torch.no_grad()
    def evaluate(self, batches: int = 4) -> dict[str, float]:
        """On held-out episodes; all processes compute the same."""
        rows: dict[str, list[float]] = {}
        for step in range(min(batches, -(-self._check.frames // EVALUATED))):  # no held-out frame twice
            batch = to_device(self._batch(self._check.batch(step, slice(0, EVALUATED))), next(self.student.parameters()).device)
            out, action, _ = self.student(batch)
            rows.setdefault("all_flags", []).append(float((action.flag_logits.argmax(-1) == batch.flags).all(dim=1).float().mean()))
            rows.setdefault("height_m", []).append(float((action.height - batch.height).abs().mean()) * float(np.ptp(self.robot.stance_height_range_m)))
            rows.setdefault("arms_l1", []).append(float((action.arms - batch.arms).abs().mean()))
        return {name: float(np.mean(values)) for name, values in rows.items()}
