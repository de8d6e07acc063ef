"""The shipped leg policy: an ONNX file and the manifest that says how to feed it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime

from wbvla_core import checkpoint
from wbvla_core.errors import CheckpointError
from wbvla_core.robot import RobotSpec
from wbvla_lmo.pipeline import LegPipeline, PipelineConfig

MODEL_FILE = "policy.onnx"
OBSERVATION_CLIP = 20.0  # inside the graph: what training clips, the node clips
GAIN_TOLERANCE = 1e-6


class LmoPolicy:
    """Network and its contract. One thread: the net takes microseconds, a thread pool would take longer to wake up."""

    def __init__(self, manifest: checkpoint.Manifest, config: PipelineConfig, session: onnxruntime.InferenceSession) -> None:
        self.manifest, self.config, self._session = manifest, config, session
        self._input, self._output = session.get_inputs()[0].name, session.get_outputs()[0].name

    @classmethod
    def load(cls, directory: str | Path, robot: RobotSpec) -> LmoPolicy:
        """Load ``checkpoints/lmo/<name>``.

        Raises:
            CheckpointError: missing, damaged, for another robot, for other gains, or of another observation size.
        """
        manifest = checkpoint.load_manifest(directory, kind="lmo", robot=robot)
        for name in ("kp", "kd"):
            made, here = np.asarray(manifest.normalisation[name]), getattr(robot, name)[robot.indices("lmo_action")]
            if made.shape != here.shape or np.any(np.abs(made - here) > GAIN_TOLERANCE):
                raise CheckpointError(
                    f"{manifest.label} was trained with leg {name} {made.tolist()}, {robot.name} has {here.tolist()}; restore the gains or train again"
                )
        try:
            config = PipelineConfig.from_json(manifest.extra["pipeline"])
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"{manifest.label}: this version of wbvla does not know its pipeline ({error}); export it again or update wbvla") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(str(manifest.path(MODEL_FILE)), options, providers=["CPUExecutionProvider"])
        size = LegPipeline(robot, config, 1).observation.size
        expected = session.get_inputs()[0].shape[-1]
        if expected != size:
            raise CheckpointError(
                f"{manifest.label}: the network reads {expected} numbers, this code builds {size}; it was exported by another version, export it again"
            )
        return cls(manifest, config, session)

    def __call__(self, observation: np.ndarray) -> np.ndarray:
        """Observation [N, D] float32 -> action [N, A] float32."""
        return self._session.run([self._output], {self._input: observation})[0]
