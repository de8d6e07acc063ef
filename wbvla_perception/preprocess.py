"""The one image transform: camera frame -> policy image -> normalised tensor.

Training, evaluation and the robot all call these functions, so a policy never sees an image that was made in another way
than its training images (a test holds this bit for bit). The transform itself is Prismatic's "resize-naive" for its
DINOv2 + SigLIP pair (prior work: the whole frame is squashed onto a square, nothing is cropped), in Pillow with bicubic
anti-aliasing.

    camera frame [H, W, 3] uint8  --policy_image-->  [S, S, 3] uint8  --pixel_values-->  [6, S, S] float32 (one tower: [3, S, S])

The policy image travels on a topic and is stored in data sets; the normalised tensor exists only in front of the model.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image

from wbvla_core.errors import CheckpointError, ErrorCode, ImageError
from wbvla_core.robot import Camera, RobotSpec

# Statistics of the published towers (prior work: DINOv2 was trained with ImageNet's, SigLIP with 0.5). Our own tiny towers
# use the same, so that both sizes share one path.
DINO_MEAN, DINO_STD = (0.484375, 0.455078125, 0.40625), (0.228515625, 0.2236328125, 0.224609375)
SIGLIP_MEAN, SIGLIP_STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class ImageSpec:
    """What a policy image is, and which camera frame it may be made from.

    Attributes:
        size: edge of the square policy image, px (ours: 96 in the tiny policy, a 0.25 m box at 3 m is still 5 px wide;
            prior work (Prismatic, OpenVLA): 224).
        source_width, source_height: camera frame, px.
        fovy_deg: vertical field of view of that camera; another lens is another policy.
        dino_mean, dino_std, siglip_mean, siglip_std: per-channel statistics of the two towers, on images scaled to [0, 1].
        mean, std: those of a model with one tower, in their place; () = two towers.
    """

    size: int = 96
    source_width: int = 320
    source_height: int = 240
    fovy_deg: float = 58.0
    dino_mean: tuple[float, ...] = DINO_MEAN
    dino_std: tuple[float, ...] = DINO_STD
    siglip_mean: tuple[float, ...] = SIGLIP_MEAN
    siglip_std: tuple[float, ...] = SIGLIP_STD
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @classmethod
    def of(cls, camera: Camera, size: int = 96) -> ImageSpec:
        """The policy image of a robot's camera."""
        return cls(size=size, source_width=camera.width, source_height=camera.height, fovy_deg=camera.fovy_deg)

    @property
    def statistics(self) -> dict[str, list[float]]:
        """Per-channel statistics of the towers that there are, by their names."""
        names = ("mean", "std") if self.mean else ("dino_mean", "dino_std", "siglip_mean", "siglip_std")
        return {name: list(getattr(self, name)) for name in names}

    def to_json(self) -> dict[str, Any]:
        """Without the statistics of towers that are not there."""
        everything = asdict(self)
        return {name: value for name, value in everything.items() if not name.endswith(("mean", "std")) or name in self.statistics}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ImageSpec:
        """Inverse of :meth:`to_json` (JSON turns tuples into lists)."""
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in data.items()})


def require_camera(label: str, spec: ImageSpec, robot: RobotSpec) -> None:
    """Refuse pictures of another camera than the robot has.

    Raises:
        CheckpointError: naming both cameras.
    """
    camera = robot.camera
    if (spec.source_width, spec.source_height, spec.fovy_deg) != (camera.width, camera.height, camera.fovy_deg):
        raise CheckpointError(
            f"{label} was trained with a camera of {spec.source_width}x{spec.source_height} px and {spec.fovy_deg:g} deg, "
            f"robot {robot.name} has {camera.width}x{camera.height} px and {camera.fovy_deg:g} deg; use a checkpoint for this camera"
        )


def policy_image(image: np.ndarray, spec: ImageSpec) -> np.ndarray:
    """Camera frame [H, W, 3] uint8 RGB -> policy image [S, S, 3] uint8 RGB.

    Raises:
        ImageError: another size than the spec's camera, or not 8-bit RGB.
    """
    require_rgb8(image)
    expected = (spec.source_height, spec.source_width, 3)
    if image.shape != expected:
        raise ImageError(
            f"camera image must be {expected[1]}x{expected[0]} px, got {image.shape[1]}x{image.shape[0]}; "
            "set the camera to the size that the policy was trained with (its manifest: inputs.image)",
            ErrorCode.IMAGE_SIZE,
        )
    return np.asarray(Image.fromarray(image).resize((spec.size, spec.size), Image.Resampling.BICUBIC))


def require_rgb8(image: np.ndarray) -> None:
    """Raise :class:`ImageError` for anything but [H, W, 3] uint8."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        came = f"{type(image).__name__} {getattr(image, 'shape', '')} {getattr(image, 'dtype', '')}"
        raise ImageError(f"image must be 8-bit RGB, a uint8 array [H, W, 3]; got {came}", ErrorCode.IMAGE_ENCODING)


def require_policy_image(image: np.ndarray, spec: ImageSpec) -> None:
    """Raise :class:`ImageError` for anything but [S, S, 3] uint8."""
    require_rgb8(image)
    if image.shape[:2] != (spec.size, spec.size):
        raise ImageError(
            f"policy image must be {spec.size}x{spec.size} px, got {image.shape[1]}x{image.shape[0]}; "
            "perception and policy were started with different image specs",
            ErrorCode.IMAGE_SIZE,
        )


def normalise(image: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """[..., S, S, 3] uint8 -> [..., 3, S, S] float32, (x / 255 - mean) / std per channel."""
    scale = (1.0 / (255.0 * np.asarray(std))).astype(np.float32)
    offset = (np.asarray(mean) / np.asarray(std)).astype(np.float32)
    return np.ascontiguousarray(np.moveaxis(image.astype(np.float32) * scale - offset, -1, -3))


def pixel_values(image: np.ndarray, spec: ImageSpec) -> np.ndarray:
    """[..., S, S, 3] uint8 -> [..., 6, S, S] float32: channels 0-2 for DINOv2, 3-5 for SigLIP (OpenVLA's layout); one tower: [..., 3, S, S]."""
    if spec.mean:
        return normalise(image, spec.mean, spec.std)
    dino = normalise(image, spec.dino_mean, spec.dino_std)
    siglip = normalise(image, spec.siglip_mean, spec.siglip_std)
    return np.concatenate((dino, siglip), axis=-3)
