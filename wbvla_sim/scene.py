"""Rooms: a floor, four walls, coloured boxes, a table, a cart and distractors, placed at random by seed.

The robot starts at the origin and looks along +x; the room is laid around it. Boxes and furniture stand fast (they do
not move when kicked): this stage of the project walks to things and does not yet handle them. Every scene's model has
the same textures and materials, so that one GL context draws all of them; only indices, colours and sizes differ.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Collection
from dataclasses import dataclass, replace

import mujoco
import numpy as np

from wbvla_core.errors import WbvlaError
from wbvla_core.robot import RobotSpec, load_robot
from wbvla_sim.model import build
from wbvla_sim.model.rotations import matrix_from_axis_angle, matrix_from_rpy

COLORS = {  # the colours that instructions name
    "red": (0.82, 0.08, 0.07),
    "green": (0.09, 0.58, 0.16),
    "blue": (0.08, 0.22, 0.80),
    "yellow": (0.95, 0.80, 0.06),
}
DISTRACTOR_COLORS = {
    "purple": (0.45, 0.12, 0.58),
    "pink": (0.95, 0.55, 0.70),
    "cyan": (0.25, 0.75, 0.78),
    "white": (0.92, 0.92, 0.90),
    "black": (0.07, 0.07, 0.08),
    "brown": (0.36, 0.22, 0.12),
}
KINDS = ("walk_to", "room", "empty")
STAND_OFF_M = 0.60  # pelvis to the box's face, on the line from pelvis to box centre

BOX_DISTANCE_M = (1.0, 3.0)  # robot to box centre
BOX_HALF_M = (0.10, 0.15)
BOX_HEIGHT_M = (0.22, 0.40)  # under the hanging hands (0.5 m), so that arms pass over a neighbour
PATH_CLEARANCE_M = 0.30  # half of the robot (0.20) and its sway beside the line to each box
IMAGE_MARGIN = 0.03  # part of the image that boxes keep free at each border

FLOORS = 8  # number of floor materials in training scenes; HELD_OUT_FLOORS more follow, which no training scene wears
WALLS = 5
HELD_OUT_FLOORS, HELD_OUT_WALLS = 4, 3


@dataclass(frozen=True)
class Box:
    """An upright box (or a distractor of another shape) on the floor.

    Attributes:
        color: a key of COLORS or DISTRACTOR_COLORS; rgb is that colour as painted in this scene.
        xyz: centre, m. half_extents: half sizes along its own axes, m. yaw: about z, rad.
        shape: "box", "cylinder" (half_extents = radius, radius, half height) or "ellipsoid".
    """

    color: str
    xyz: tuple[float, float, float]
    half_extents: tuple[float, float, float]
    yaw: float
    rgb: tuple[float, float, float]
    shape: str = "box"

    @property
    def radius(self) -> float:
        """Radius of the circle around the footprint, m."""
        return float(np.hypot(*self.half_extents[:2]))

    def corners(self) -> np.ndarray:
        """[8, 3] corners in the room."""
        c, s = np.cos(self.yaw), np.sin(self.yaw)
        signs = np.array(np.meshgrid((-1, 1), (-1, 1), (-1, 1))).reshape(3, -1).T * self.half_extents
        return np.array(self.xyz) + signs @ np.array(((c, -s, 0), (s, c, 0), (0, 0, 1))).T

    def face_distance(self, xy: np.ndarray) -> float:
        """Distance from a point outside to where the line towards the centre enters the box, in the floor plane, m."""
        offset = np.array(self.xyz[:2]) - np.asarray(xy, dtype=float)[:2]
        distance = float(np.hypot(*offset))
        if distance < 1e-9:
            return 0.0
        c, s = np.cos(self.yaw), np.sin(self.yaw)
        direction = np.abs(np.array(((c, s), (-s, c))) @ offset) / distance  # in the box's axes
        inside = float(np.min(np.array(self.half_extents[:2]) / np.maximum(direction, 1e-9)))
        return max(distance - inside, 0.0)


@dataclass(frozen=True)
class Furniture:
    """A table or a cart: centre of its footprint, yaw, full size (length, width, height)."""

    xy: tuple[float, float]
    yaw: float
    size: tuple[float, float, float]

    @property
    def radius(self) -> float:
        return float(np.hypot(*self.size[:2]) / 2)


@dataclass(frozen=True)
class Look:
    """Everything that changes the picture and not the task: materials by index, tints, lights."""

    floor: int
    wall: int
    floor_rgb: tuple[float, float, float]
    wall_rgb: tuple[float, float, float]
    wood_rgb: tuple[float, float, float]
    ambient: float
    light_xyz: tuple[tuple[float, float, float], ...]
    light_diffuse: tuple[float, ...]


@dataclass(frozen=True)
class Scene:
    """One room. Make it with :func:`random_scene`."""

    seed: int
    kind: str
    boxes: tuple[Box, ...]
    distractors: tuple[Box, ...]
    table: Furniture | None
    cart: Furniture | None
    room_xy: tuple[float, float]
    room_half: tuple[float, float]
    look: Look

    def box(self, color: str) -> Box:
        """The box of that colour, or KeyError naming those that are there."""
        for box in self.boxes:
            if box.color == color:
                return box
        raise KeyError(f"the scene of seed {self.seed} has no {color} box; it has {[b.color for b in self.boxes]}")


# ----------------------------------------------------------------------------------------------------------------- sampling


def random_scene(seed: int, *, kind: str = "walk_to", robot: RobotSpec | None = None, held_out: bool = False) -> Scene:
    """Draw a scene.

    Args:
        seed: same seed and kind, same scene.
        kind: "walk_to": 2-4 boxes of different named colours 1-3 m ahead, all wholly inside the head camera's image, none in front of
            another and none in the way to another, and distractors; "room": boxes anywhere around the robot; "empty": floor and walls.
        robot: whose camera must see the boxes; default: the X2.
        held_out: floor and walls of patterns that no training scene wears; everything else as without.

    Raises:
        WbvlaError: a seed below 0.
        ValueError: an unknown kind.
    """
    if seed < 0:
        raise WbvlaError(f"expected a seed of at least 0, got {seed}")
    if kind not in KINDS:
        raise ValueError(f"scene kind must be one of {KINDS}, got {kind!r}")
    rng = np.random.default_rng((seed, KINDS.index(kind)))
    look = _random_look(rng)
    if held_out:
        look = replace(look, floor=FLOORS + look.floor % HELD_OUT_FLOORS, wall=WALLS + look.wall % HELD_OUT_WALLS)
    room_xy = tuple(rng.uniform(-1.0, 1.0, 2) + (0.8, 0.0))
    room_half = tuple(rng.uniform(4.6, 5.6, 2))
    if kind == "empty":
        return Scene(seed, kind, (), (), None, None, room_xy, room_half, look)
    view = HeadView(robot) if kind == "walk_to" else None
    boxes = _place_boxes(rng, view)
    distractors = _place_distractors(rng, boxes, view)
    taken = list(boxes + distractors)
    table = _place_furniture(rng, (rng.uniform(1.0, 1.5), rng.uniform(0.6, 0.8), rng.uniform(0.68, 0.76)), taken, view)
    cart = _place_furniture(rng, (rng.uniform(0.65, 0.85), rng.uniform(0.42, 0.52), rng.uniform(0.8, 0.9)), taken, view)
    return Scene(seed, kind, boxes, distractors, table, cart, room_xy, room_half, look)


class HeadView:
    """The head camera of the robot that stands at the origin in its default pose: where points fall in its image."""

    def __init__(self, robot: RobotSpec | None) -> None:
        spec = robot or load_robot("x2")
        frame = spec.frames["head_camera"]
        rotation, origin = matrix_from_rpy(frame.rpy), np.array(frame.xyz)
        link, parents = frame.parent, {j.child: j for j in spec.joints}
        while link != spec.root:  # up the tree to the pelvis
            joint = parents[link]
            turn = matrix_from_rpy(joint.rpy) @ matrix_from_axis_angle(joint.axis, joint.default)
            rotation, origin = turn @ rotation, np.array(joint.xyz) + turn @ origin
            link = joint.parent
        self.rotation = rotation  # optical frame in the pelvis frame
        self.origin = origin + (0.0, 0.0, spec.default_stance_height_m)
        self.tan_y = np.tan(np.radians(spec.camera.fovy_deg) / 2)
        self.tan_x = self.tan_y * spec.camera.width / spec.camera.height

    def image_points(self, points: np.ndarray) -> np.ndarray:
        """Points [N, 3] -> image coordinates [N, 2], each -1..1 inside the image; points behind the camera are NaN."""
        x, y, z = ((np.atleast_2d(points) - self.origin) @ self.rotation).T
        z = np.where(z > 1e-6, z, np.nan)
        return np.stack((x / z / self.tan_x, y / z / self.tan_y), axis=-1)

    def sees_all(self, box: Box) -> bool:
        """Whether the whole box lies inside the image, with a margin."""
        points = np.abs(self.image_points(box.corners()))
        return not np.isnan(points).any() and float(points.max()) <= 1 - 2 * IMAGE_MARGIN

    def extent(self, box: Box) -> tuple[float, float]:
        """Left and right bearing of a box as seen from the origin, rad."""
        bearing = np.arctan2(box.xyz[1], box.xyz[0])
        half = np.arcsin(min(box.radius / max(np.hypot(*box.xyz[:2]), box.radius), 1.0))
        return bearing - half, bearing + half


def _jitter(rng: np.random.Generator, rgb: Collection[float], amount: float) -> tuple[float, float, float]:
    return tuple(float(v) for v in np.clip(np.array(tuple(rgb)) * rng.uniform(1 - amount, 1 + amount) + rng.uniform(-amount, amount, 3) / 3, 0.02, 1.0))


def _random_look(rng: np.random.Generator) -> Look:
    grey = rng.uniform(0.55, 1.0)
    lights = int(rng.integers(1, 3))
    return Look(
        floor=int(rng.integers(FLOORS)),
        wall=int(rng.integers(WALLS)),
        floor_rgb=_jitter(rng, (grey, grey, grey), 0.1),
        wall_rgb=_jitter(rng, (0.85, 0.84, 0.8), 0.15),
        wood_rgb=_jitter(rng, (0.62, 0.46, 0.30), 0.2),
        ambient=float(rng.uniform(0.38, 0.55)),
        light_xyz=tuple(tuple(rng.uniform((-3, -3, 2.6), (4, 3, 3.6))) for _ in range(lights)),
        light_diffuse=tuple(rng.uniform(0.45, 0.75, lights) / np.sqrt(lights)),
    )


def _random_box(rng: np.random.Generator, color: str, rgb: tuple, distance: tuple, bearing: tuple, scale: float = 1.0, shape: str = "box") -> Box:
    r, b = rng.uniform(*distance), rng.uniform(*bearing)
    half_xy = rng.uniform(*BOX_HALF_M, 2) * scale
    if shape == "cylinder":
        half_xy[:] = half_xy[0]
    half_z = rng.uniform(*BOX_HEIGHT_M) * scale / 2
    yaw = rng.uniform(-np.pi, np.pi)
    return Box(color, (r * np.cos(b), r * np.sin(b), half_z), (*half_xy, half_z), yaw, _jitter(rng, rgb, 0.12), shape)


def _path_clear(target: Box, other: Box) -> bool:
    """Whether the way from the origin to the target's stand-off point passes the other box at a distance."""
    goal = np.array(target.xyz[:2])
    length = np.hypot(*goal)
    along = goal / length
    reach = float(np.clip(np.dot(other.xyz[:2], along), 0.0, max(length - STAND_OFF_M, 0.0)))
    return bool(np.hypot(*(np.array(other.xyz[:2]) - reach * along)) >= other.radius + PATH_CLEARANCE_M)


def _compatible(a: Box, b: Box, view: HeadView | None) -> bool:
    if np.hypot(a.xyz[0] - b.xyz[0], a.xyz[1] - b.xyz[1]) < a.radius + b.radius + 0.1:
        return False
    if view is None:
        return True
    (a0, a1), (b0, b1) = view.extent(a), view.extent(b)
    hidden = a0 < b1 + 0.02 and b0 < a1 + 0.02
    return not hidden and _path_clear(a, b) and _path_clear(b, a)


def _place_boxes(rng: np.random.Generator, view: HeadView | None) -> tuple[Box, ...]:
    count = int(rng.integers(2, 5)) if view else 4
    colors = list(rng.permutation(list(COLORS)))[:count]
    bearing = (-0.6, 0.6) if view else (-np.pi, np.pi)
    distance = BOX_DISTANCE_M if view else (1.0, 3.5)
    for attempt in range(2000):  # a near box shuts out many places: start again rather than search on
        boxes: list[Box] = []
        for color in colors[: count - attempt // 500]:  # at worst two boxes, always possible
            for _ in range(30):
                box = _random_box(rng, color, COLORS[color], distance, bearing)
                if (view is None or view.sees_all(box)) and all(_compatible(box, other, view) for other in boxes):
                    boxes.append(box)
                    break
            else:
                break
        else:
            if len(boxes) >= 2:
                return tuple(boxes)
    raise RuntimeError("no room for two boxes in view: the camera of this robot spec cannot see the floor 1-3 m ahead")


def _place_distractors(rng: np.random.Generator, boxes: tuple[Box, ...], view: HeadView | None) -> tuple[Box, ...]:
    placed: list[Box] = []
    for color in list(rng.permutation(list(DISTRACTOR_COLORS)))[: int(rng.integers(1, 4))]:
        shape = str(rng.choice(("box", "cylinder", "ellipsoid")))
        for _ in range(40):
            far = (1.6, 4.2) if view else (1.2, 4.0)
            item = _random_box(rng, color, DISTRACTOR_COLORS[color], far, (-0.9, 0.9) if view else (-np.pi, np.pi), rng.uniform(0.5, 1.0), shape)
            clear = all(_path_clear(box, item) for box in boxes)
            apart = all(np.hypot(item.xyz[0] - o.xyz[0], item.xyz[1] - o.xyz[1]) > item.radius + o.radius + 0.15 for o in (*boxes, *placed))
            hides = view is not None and any(_hides(view, item, box) for box in boxes)
            if clear and apart and not hides:
                placed.append(item)
                break
    return tuple(placed)


def _hides(view: HeadView, front: Box, box: Box) -> bool:
    """Whether ``front`` stands before ``box`` as seen from the origin."""
    (a0, a1), (b0, b1) = view.extent(front), view.extent(box)
    return a0 < b1 and b0 < a1 and np.hypot(*front.xyz[:2]) < np.hypot(*box.xyz[:2])


def _place_furniture(rng: np.random.Generator, size: tuple[float, float, float], taken: list[Box], view: HeadView | None) -> Furniture | None:
    """A place out of the way: far ahead behind everything, or well to the side."""
    for _ in range(60):
        distance = rng.uniform(2.2, 4.2)
        bearing = rng.uniform(-np.pi, np.pi)
        piece = Furniture((distance * np.cos(bearing), distance * np.sin(bearing)), rng.uniform(-np.pi, np.pi), size)
        if view is not None and abs(bearing) < 1.0 and distance - piece.radius < 3.3:
            continue
        if all(np.hypot(piece.xy[0] - o.xyz[0], piece.xy[1] - o.xyz[1]) > piece.radius + o.radius + 0.4 for o in taken):
            taken.append(Box("white", (*piece.xy, size[2] / 2), (piece.radius, 0.0, size[2] / 2), 0.0, (1, 1, 1)))
            return piece
    return None


# ------------------------------------------------------------------------------------------------------------------- model


def to_mjcf(
    robot: RobotSpec,
    scene: Scene,
    *,
    self_collision: Collection[str] = ("legs", "arms"),
    iterations: int = build.SOLVER_ITERATIONS,
    ls_iterations: int = build.SOLVER_LS_ITERATIONS,
) -> mujoco.MjModel:
    """Compile robot and scene. The weld ``gantry`` holds the pelvis while it is active."""
    return mujoco.MjModel.from_xml_string(scene_xml(robot, scene, self_collision=self_collision, iterations=iterations, ls_iterations=ls_iterations))


def scene_xml(
    robot: RobotSpec,
    scene: Scene,
    *,
    self_collision: Collection[str] = ("legs", "arms"),
    iterations: int = build.SOLVER_ITERATIONS,
    ls_iterations: int = build.SOLVER_LS_ITERATIONS,
) -> str:
    """MJCF text of robot and scene."""
    root = ET.fromstring(build.robot_mjcf(robot, floor=False, self_collision=self_collision, iterations=iterations, ls_iterations=ls_iterations))
    root.set("model", f"{robot.name} in {scene.kind} {scene.seed}")
    visual = ET.SubElement(root, "visual")
    ET.SubElement(visual, "global", offwidth="1280", offheight="960")
    ET.SubElement(visual, "quality", shadowsize="0", offsamples="4")
    ET.SubElement(visual, "map", znear="0.005", zfar="20")
    ambient = f"{scene.look.ambient:.3f} " * 3
    ET.SubElement(visual, "headlight", ambient=ambient, diffuse="0.3 0.3 0.3", specular="0 0 0")
    _add_assets(root)
    world = root.find("worldbody")
    _add_room(world, scene)
    for box in scene.boxes:
        _add_box(world, f"box_{box.color}", box)
    for i, item in enumerate(scene.distractors):
        _add_box(world, f"distractor_{i}", item)
    if scene.table:
        _add_table(world, scene.table, scene.look)
    if scene.cart:
        _add_cart(world, scene.cart)
    equality = ET.SubElement(root, "equality")
    ET.SubElement(equality, "weld", name="gantry", body1=robot.root, active="false", solref="0.01 1")
    return ET.tostring(root, encoding="unicode")


_TOUCHES = str(build.FOOT | build.BODY | build.HAND | build.OBJECT)


def _geom(parent: ET.Element, solid: bool = True, **attributes: str) -> None:
    ET.SubElement(parent, "geom", contype=str(build.OBJECT) if solid else "0", conaffinity=_TOUCHES if solid else "0", **attributes)


def _rgba(rgb: Collection[float]) -> str:
    return " ".join(f"{v:.3f}" for v in rgb) + " 1"


def _numbers(values: Collection[float]) -> str:
    return " ".join(f"{v:.4f}" for v in values)


def _add_assets(root: ET.Element) -> None:
    """Textures and materials: the same in every scene. Greyscale, tinted by the geom that wears them."""
    asset = ET.SubElement(root, "asset")
    sky = {"name": "sky", "type": "skybox", "builtin": "gradient", "rgb1": "0.75 0.8 0.85", "rgb2": "0.55 0.6 0.66", "width": "64", "height": "384"}
    ET.SubElement(asset, "texture", sky)
    floors = (  # builtin pattern, two greys, speckle, repetitions per metre
        ("checker", 0.85, 0.70, 0.0, 1.0),
        ("checker", 0.80, 0.74, 0.0, 2.0),
        ("checker", 0.90, 0.55, 0.0, 0.5),
        ("flat", 0.80, 0.80, 0.02, 1.0),
        ("flat", 0.75, 0.75, 0.2, 0.7),
        ("gradient", 0.85, 0.60, 0.01, 1.0),
        ("gradient", 0.75, 0.65, 0.05, 3.0),
        ("flat", 0.85, 0.85, 0.0, 1.0),
    )
    for i, (pattern, a, b, speckle, repeat) in enumerate(floors):
        mark = {"mark": "random", "random": str(speckle), "markrgb": "0.55 0.55 0.55"} if speckle else {}
        _add_surface(asset, f"floor_{i}", pattern, a, b, repeat, "0.1", mark)
    walls = (("flat", 0.9, 0.9), ("gradient", 0.95, 0.75), ("flat", 0.8, 0.8), ("checker", 0.9, 0.86), ("gradient", 0.8, 0.9))
    for i, (pattern, a, b) in enumerate(walls):
        _add_surface(asset, f"wall_{i}", pattern, a, b, 0.7, "0", {})
    # The held-out family is drawn with lines, which the other lacks: tiles, panels, crosses, and checks of a wall's size.
    tiles, crosses = ({"mark": mark, "markrgb": "0.35 0.35 0.35"} for mark in ("edge", "cross"))
    floors = (("flat", 0.85, 0.85, 2.0, tiles), ("flat", 0.75, 0.75, 1.5, crosses), ("checker", 0.85, 0.65, 1.0, tiles), ("gradient", 0.9, 0.5, 1.0, crosses))
    for i, (pattern, a, b, repeat, mark) in enumerate(floors, start=FLOORS):
        _add_surface(asset, f"floor_{i}", pattern, a, b, repeat, "0.1", mark)
    for i, (pattern, a, b, repeat, mark) in enumerate(
        (("flat", 0.9, 0.9, 1.0, tiles), ("checker", 0.95, 0.65, 1.5, {}), ("flat", 0.85, 0.85, 1.2, crosses)), WALLS
    ):
        _add_surface(asset, f"wall_{i}", pattern, a, b, repeat, "0", mark)
    ET.SubElement(asset, "material", name="matte", specular="0.15", shininess="0.1")


def _add_surface(asset: ET.Element, name: str, pattern: str, a: float, b: float, repeat: float, specular: str, mark: dict[str, str]) -> None:
    """Texture and material ``name``: MuJoCo's pattern of two greys, marked, ``repeat`` times a metre."""
    texture = {"name": name, "type": "2d", "builtin": pattern, "rgb1": f"{a} {a} {a}", "rgb2": f"{b} {b} {b}", "width": "128", "height": "128"}
    ET.SubElement(asset, "texture", texture | mark)
    ET.SubElement(asset, "material", name=name, texture=name, texrepeat=f"{repeat} {repeat}", texuniform="true", specular=specular)


def _add_room(world: ET.Element, scene: Scene) -> None:
    look, (cx, cy), (hx, hy) = scene.look, scene.room_xy, scene.room_half
    for xyz, diffuse in zip(look.light_xyz, look.light_diffuse, strict=True):
        ET.SubElement(world, "light", pos=_numbers(xyz), dir="0 0 -1", diffuse=f"{diffuse:.3f} " * 3, specular="0.1 0.1 0.1", castshadow="false", cutoff="90")
    floor = {"name": "floor", "type": "plane", "size": "10 10 1", "material": f"floor_{look.floor}"}
    _geom(world, **floor, rgba=_rgba(look.floor_rgb), friction=f"{build.FLOOR_FRICTION}")
    height, thick = 1.3, 0.05
    for i, (x, y, sx, sy) in enumerate(((cx + hx, cy, thick, hy), (cx - hx, cy, thick, hy), (cx, cy + hy, hx, thick), (cx, cy - hy, hx, thick))):
        wall = {"name": f"wall_{i}", "type": "box", "size": _numbers((sx, sy, height)), "pos": _numbers((x, y, height)), "material": f"wall_{look.wall}"}
        _geom(world, **wall, rgba=_rgba(look.wall_rgb))


def _add_box(world: ET.Element, name: str, box: Box) -> None:
    size = (box.half_extents[0], box.half_extents[2]) if box.shape == "cylinder" else box.half_extents
    attributes = {"name": name, "type": box.shape, "size": _numbers(size), "pos": _numbers(box.xyz), "euler": f"0 0 {box.yaw:.4f}"}
    _geom(world, **attributes, rgba=_rgba(box.rgb), material="matte")


def _add_table(world: ET.Element, table: Furniture, look: Look) -> None:
    length, width, height = table.size
    body = ET.SubElement(world, "body", name="table", pos=_numbers((*table.xy, 0)), euler=f"0 0 {table.yaw:.4f}")
    _geom(body, type="box", size=_numbers((length / 2, width / 2, 0.018)), pos=_numbers((0, 0, height - 0.018)), rgba=_rgba(look.wood_rgb), material="matte")
    for x in (-1, 1):
        for y in (-1, 1):
            leg = {"type": "cylinder", "size": _numbers((0.022, height / 2 - 0.018)), "rgba": "0.2 0.2 0.22 1", "material": "matte"}
            _geom(body, **leg, pos=_numbers((x * (length / 2 - 0.06), y * (width / 2 - 0.06), height / 2 - 0.018)))


def _add_cart(world: ET.Element, cart: Furniture) -> None:
    length, width, height = cart.size
    body = ET.SubElement(world, "body", name="cart", pos=_numbers((*cart.xy, 0)), euler=f"0 0 {cart.yaw:.4f}")
    for z in (0.17, 0.52):
        tray = {"type": "box", "size": _numbers((length / 2, width / 2, 0.02)), "rgba": "0.55 0.58 0.62 1", "material": "matte"}
        _geom(body, **tray, pos=_numbers((0, 0, z)))
    for x in (-1, 1):
        for y in (-1, 1):
            corner = (x * (length / 2 - 0.02), y * (width / 2 - 0.02))
            top = height if x < 0 else 0.54
            post = {"type": "cylinder", "size": _numbers((0.012, (top - 0.1) / 2)), "rgba": "0.35 0.37 0.4 1", "material": "matte"}
            _geom(body, **post, pos=_numbers((*corner, (top + 0.1) / 2)))
            wheel = {"type": "cylinder", "size": "0.05 0.015", "euler": "1.5708 0 0", "rgba": "0.1 0.1 0.1 1", "material": "matte"}
            _geom(body, **wheel, pos=_numbers((*corner, 0.05)))
    bar = {"type": "capsule", "size": _numbers((0.014, width / 2 - 0.02)), "euler": "1.5708 0 0", "rgba": "0.1 0.1 0.1 1", "material": "matte"}
    _geom(body, **bar, pos=_numbers((-(length / 2 - 0.02), 0, height)))
