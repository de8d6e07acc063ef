"""Single pictures of the head camera with what stands where: free labels for the vision towers and for word grounding.

The robot is put at random places of random rooms, near and far from boxes, a little tilted, as it is while walking. No
action, no time: these pictures stand in for the image-text data that the published towers and the published VLM were trained
on (ours; the 7B path loads those weights instead). Boxes are labelled, robot motion is not.

Per picture and colour (order of ``COLORS``): present in the room, wholly or half inside the image, bearing from the pelvis's heading
(rad, left positive), distance from the pelvis to the box's face (m).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from wbvla_core.console import program
from wbvla_core.robot import RobotSpec, load_robot
from wbvla_perception.preprocess import ImageSpec, policy_image
from wbvla_sim.scene import COLORS, Box, random_scene
from wbvla_sim.world import World
from wbvla_train.data.shards import write_shards

SEED_BASE = 500_000  # training scenes lie below 1 000 000: demonstrations in the lower half, stills in the upper; evaluation draws above


@dataclass(frozen=True)
class StillsConfig:
    """How many pictures, and from where.

    Attributes:
        scenes, per_scene, scenes_per_shard: numbers of rooms, pictures per room, rooms per file.
        near_share: share of the pictures that look roughly at some box from a walking distance; the rest from anywhere (ours).
        distance_m, bearing_rad: where that box is then (distance to its face).
        tilt_rad, height_m: standard deviation of roll and pitch (walking wobble), range of stance heights.
        seed: shifts the rooms.
    """

    output: Path = Path("data/stills")
    robot: str = "x2"
    scenes: int = 2400
    per_scene: int = 10
    scenes_per_shard: int = 50
    near_share: float = 0.8
    distance_m: tuple[float, float] = (0.4, 3.0)
    bearing_rad: float = 0.9
    tilt_rad: float = 0.03
    height_m: tuple[float, float] = (0.46, 0.66)
    seed: int = 0
    workers: int = 1

    def settings(self) -> dict:
        kept = {key: value for key, value in asdict(self).items() if key not in ("output", "workers", "scenes")}
        return kept | {"kind": "stills", "image": ImageSpec.of(load_robot(self.robot).camera).to_json()}


def box_labels(boxes: dict[str, Box], xy: np.ndarray, yaw: float, camera: tuple[np.ndarray, np.ndarray], tangent: tuple[float, float]) -> np.ndarray:
    """What a picture shows [4 colours, 4]: present, visible, bearing (rad), face distance (m).

    Args:
        camera: position [3] and optical axes as columns [3, 3] (right, down, forward).
        tangent: half the field of view's tangents (horizontal, vertical).
    """
    labels = np.zeros((len(COLORS), 4), dtype=np.float32)
    for row, color in zip(labels, COLORS, strict=True):
        box = boxes.get(color)
        if box is None:
            continue
        offset = np.array(box.xyz[:2]) - xy
        bearing = np.arctan2(offset[1], offset[0]) - yaw
        row[:] = 1.0, _visible(box, camera, tangent), np.arctan2(np.sin(bearing), np.cos(bearing)), box.face_distance(xy)
    return labels


def _visible(box: Box, camera: tuple[np.ndarray, np.ndarray], tangent: tuple[float, float]) -> bool:
    """Whether at least half of the corners fall into the image (occlusion is not looked at)."""
    position, axes = camera
    x, y, z = ((box.corners() - position) @ axes).T
    inside = (z > 0.05) & (np.abs(x) <= tangent[0] * z) & (np.abs(y) <= tangent[1] * z)
    return int(inside.sum()) >= 4


def camera_tangents(robot: RobotSpec) -> tuple[float, float]:
    vertical = float(np.tan(np.radians(robot.camera.fovy_deg) / 2))
    return vertical * robot.camera.width / robot.camera.height, vertical


def _draw_pose(rng: np.random.Generator, config: StillsConfig, boxes: dict[str, Box]) -> tuple[np.ndarray, float]:
    """A place and heading that keep 0.35 m from every box."""
    for _ in range(100):
        if rng.random() < config.near_share:
            box = boxes[str(rng.choice(sorted(boxes)))]
            direction, distance = rng.uniform(-np.pi, np.pi), rng.uniform(*config.distance_m)
            xy = np.array(box.xyz[:2]) - (distance + box.half_extents[0]) * np.array((np.cos(direction), np.sin(direction)))
            yaw = direction + rng.uniform(-1.0, 1.0) * config.bearing_rad
        else:
            xy, yaw = rng.uniform((-1.0, -2.0), (3.0, 2.0)), rng.uniform(-np.pi, np.pi)
        if all(box.face_distance(xy) > 0.35 for box in boxes.values()):
            return xy, yaw
    return np.zeros(2), 0.0


def _quaternion(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """wxyz of Rz(yaw) Ry(pitch) Rx(roll)."""
    (cy, sy), (cp, sp), (cr, sr) = ((np.cos(a / 2), np.sin(a / 2)) for a in (yaw, pitch, roll))
    return np.array((cr * cp * cy + sr * sp * sy, sr * cp * cy - cr * sp * sy, cr * sp * cy + sr * cp * sy, cr * cp * sy - sr * sp * cy))


def make_shard(config: StillsConfig, number: int) -> dict[str, np.ndarray]:
    """One file: images [N, S, S, 3] uint8 and labels [N, 4, 4] float32."""
    robot = load_robot(config.robot)
    spec, tangent = ImageSpec.of(robot.camera), camera_tangents(robot)
    images, labels = [], []
    first = SEED_BASE + config.seed * 50_000 + number * config.scenes_per_shard
    for scene_seed in range(first, first + config.scenes_per_shard):
        rng = np.random.default_rng((scene_seed, 7))
        scene = random_scene(scene_seed, robot=robot)
        world = World(robot, scene)
        boxes = {box.color: box for box in scene.boxes}
        for _ in range(config.per_scene):
            xy, yaw = _draw_pose(rng, config, boxes)
            pitch, roll = rng.normal(0.0, config.tilt_rad, 2)
            q = robot.default_q.copy()
            for group, spread in (("arms", 0.25), ("waist", 0.03)):
                index = robot.indices(group)
                q[index] = np.clip(q[index] + rng.normal(0.0, spread, len(index)), robot.lower[index], robot.upper[index])
            world.set_pose(np.array((*xy, rng.uniform(*config.height_m))), _quaternion(yaw, pitch, roll), q)
            images.append(policy_image(world.render("head", spec.source_width, spec.source_height), spec))
            labels.append(box_labels(boxes, xy, yaw, world.camera_pose(), tangent))
    return {"images": np.stack(images), "labels": np.stack(labels)}


def make(config: StillsConfig, log=print) -> int:
    """Write all shards that are missing."""
    return write_shards(config.output, config.settings(), make_shard, config, -(-config.scenes // config.scenes_per_shard), config.workers, log)


def main(argv: list[str] | None = None) -> int:
    import tyro

    make(tyro.cli(StillsConfig, args=argv, description="Render pictures with box labels (stage 0 of the VLA)."))
    return 0


if __name__ == "__main__":
    program(main)
