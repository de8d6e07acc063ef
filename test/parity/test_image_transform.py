"""The training image is the robot's image, bit for bit; and the normalisation by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wbvla_core.errors import ErrorCode, ImageError
from wbvla_core.robot import load_robot
from wbvla_perception import preprocess
from wbvla_perception.preprocess import ImageSpec, normalise, pixel_values, policy_image
from wbvla_train.vla.images import jitter, mirror, to_model


def camera_image(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (240, 320, 3), dtype=np.uint8)


def test_training_and_robot_make_the_same_tensor_bit_for_bit() -> None:
    spec = ImageSpec.of(load_robot("x2").camera)
    image = policy_image(camera_image(), spec)
    robot_tensor = torch.from_numpy(pixel_values(image, spec))[None]
    batch = to_model(np.stack([policy_image(camera_image(1), spec), image]), spec)
    assert torch.equal(batch[1:], robot_tensor)
    assert policy_image.__module__ == preprocess.__name__


def test_the_spec_survives_a_manifest() -> None:
    import json

    spec = ImageSpec(size=64, fovy_deg=50.0)
    assert ImageSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_normalisation_by_hand() -> None:
    image = np.zeros((2, 2, 3), np.uint8)
    image[0, 1] = (255, 51, 0)
    out = normalise(image, (0.5, 0.1, 0.0), (0.5, 0.2, 0.25))
    assert out.shape == (3, 2, 2) and out.dtype == np.float32
    np.testing.assert_allclose(out[:, 0, 1], (1.0, 0.5, 0.0), atol=1e-6)  # (1 - .5)/.5, (.2 - .1)/.2, 0
    np.testing.assert_allclose(out[:, 0, 0], (-1.0, -0.5, 0.0), atol=1e-6)
    stacked = pixel_values(image, ImageSpec(size=2))
    assert stacked.shape == (6, 2, 2)
    np.testing.assert_array_equal(stacked[3:], normalise(image, (0.5,) * 3, (0.5,) * 3))


def test_the_whole_frame_is_squashed_nothing_is_cropped() -> None:
    spec = ImageSpec(size=96)
    image = np.zeros((240, 320, 3), np.uint8)
    image[:, 160:] = 255
    small = policy_image(image, spec)
    assert small.shape == (96, 96, 3)
    assert small[:, :46].max() == 0 and small[:, 50:].min() == 255


@pytest.mark.parametrize(
    ("image", "code"),
    [
        (np.zeros((480, 640, 3), np.uint8), ErrorCode.IMAGE_SIZE),
        (np.zeros((240, 320, 4), np.uint8), ErrorCode.IMAGE_ENCODING),
        (np.zeros((240, 320), np.uint8), ErrorCode.IMAGE_ENCODING),
        (np.zeros((240, 320, 3), np.float32), ErrorCode.IMAGE_ENCODING),
    ],
)
def test_other_sizes_and_encodings_are_refused(image: np.ndarray, code: ErrorCode) -> None:
    with pytest.raises(ImageError) as refusal:
        policy_image(image, ImageSpec())
    assert refusal.value.code == code


def test_mirroring_twice_is_nothing_and_jitter_keeps_type_and_shape() -> None:
    images = np.stack([policy_image(camera_image(i), ImageSpec()) for i in range(3)])
    np.testing.assert_array_equal(mirror(mirror(images)), images)
    noisy = jitter(images, np.random.default_rng(0))
    assert noisy.dtype == np.uint8 and noisy.shape == images.shape and (noisy != images).any()
    np.testing.assert_array_equal(noisy, jitter(images, np.random.default_rng(0)))
