"""The shipped leg policy: an ONNX file and the manifest that says how to feed it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from wbvla_core import checkpoint, robot_numbers
from wbvla_core.errors import CheckpointError, ErrorCode
from wbvla_core.robot import RobotSpec
from wbvla_lmo.pipeline import LegPipeline, PipelineConfig

MODEL_FILE = "policy.onnx"
OBSERVATION_CLIP = 20.0  # inside the graph: what training clips, the node clips


def contract(pipeline: LegPipeline) -> tuple[dict[str, Any], dict[str, Any]]:
    """Inputs and outputs of the network, as its manifest names them."""
    inputs = {"observation": {"shape": ["N", pipeline.observation.size], "dtype": "float32", "unit": "scaled, wbvla_lmo.observation", "clip": OBSERVATION_CLIP}}
    outputs = {
        "action": {
            "shape": ["N", len(pipeline.legs)],
            "dtype": "float32",
            "unit": "residual on the reference leg targets, x action_scale_rad",
            "joints": list(pipeline.observation.leg_names),
        }
    }
    return inputs, outputs


def _require_written(manifest: checkpoint.Manifest, pipeline: LegPipeline, robot: RobotSpec) -> None:
    """Refuse a manifest whose legs have other gains, default pose or action scale than the robot spec here (newer ones keep them in robot.numbers),
    or whose observation is of other joints."""
    legs = pipeline.legs
    here = {"kp": robot.kp[legs], "kd": robot.kd[legs], "default_q": robot.default_q[legs], "action_scale_rad": pipeline.action_scale}
    for name in here.keys() & manifest.normalisation.keys():
        if not robot_numbers.same(manifest.normalisation[name], here[name].tolist()):
            raise CheckpointError(
                f"{manifest.label} was trained with leg {name} {manifest.normalisation[name]}, {robot.name} has {here[name].tolist()}; "
                "restore them in the robot spec, or train again"
            )
    made, joints = manifest.extra.get("posture_joints"), list(pipeline.observation.posture_names)
    if made is not None and made != joints:
        raise CheckpointError(f"{manifest.label} observes the joints {made}, here they are {joints}; restore the robot spec, or train again")


def _session(manifest: checkpoint.Manifest) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    path = manifest.path(MODEL_FILE)
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's kinds have no common base but Exception
        why = str(error).splitlines()[0]
        raise CheckpointError(
            f"{manifest.label}: {path} is no network that can be run ({why}); copy or export it again", ErrorCode.CHECKPOINT_CORRUPT
        ) from error


class LmoPolicy:
    """Network and its contract. One thread: the net takes microseconds, a thread pool would take longer to wake up."""

    def __init__(self, manifest: checkpoint.Manifest, config: PipelineConfig, session: onnxruntime.InferenceSession) -> None:
        self.manifest, self.config, self._session = manifest, config, session
        self._input, self._output = session.get_inputs()[0].name, session.get_outputs()[0].name

    @classmethod
    def load(cls, directory: str | Path, robot: RobotSpec) -> LmoPolicy:
        """Load ``checkpoints/lmo/<name>``.

        Raises:
            CheckpointError: missing, damaged, for another robot, for other numbers of it, or of another observation size.
        """
        manifest = checkpoint.load_manifest(directory, kind="lmo", robot=robot)
        config = checkpoint.settings_of(manifest, "pipeline", PipelineConfig.from_json)
        pipeline = LegPipeline(robot, config, 1)
        _require_written(manifest, pipeline, robot)
        checkpoint.require_contract(manifest, *contract(pipeline), config.rate_hz)
        session = _session(manifest)
        expected = session.get_inputs()[0].shape[-1]
        if expected != pipeline.observation.size:
            raise CheckpointError(
                f"{manifest.label}: the network reads {expected} numbers, this code builds {pipeline.observation.size}; it was exported by another version, "
                "export it again"
            )
        policy = cls(manifest, config, session)
        for value in (0.0, 1.0, -1.0):  # a weight that is not finite reaches every action behind it
            if not np.isfinite(policy(np.full((1, expected), value, np.float32))).all():
                raise CheckpointError(
                    f"{manifest.label}: {MODEL_FILE} gives actions that are not finite; the training diverged, or the file was changed: copy or train it again",
                    ErrorCode.CHECKPOINT_CORRUPT,
                )
        return policy

    def __call__(self, observation: np.ndarray) -> np.ndarray:
        """Observation [N, D] float32 -> action [N, A] float32."""
        return self._session.run([self._output], {self._input: observation})[0]
