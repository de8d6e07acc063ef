"""Procedural rooms in MuJoCo, seen through a free camera with two arms before it.

A :class:`Room` is geometry only: no physics is stepped. ``look`` puts the camera and the hands somewhere and returns the
image. World frame: x forward, y left, z up, metres; the camera's body has the same axes (the optical axis is its +x).

Source: prior work (our prototype's rooms), with floors and walls that repeat less and rooms that a robot-height camera
looking 40 deg down finds textured too.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

os.environ.setdefault("MUJOCO_GL", "egl")  # off screen; MuJoCo reads it on import

import mujoco
import numpy as np

from wbvla_train.data.textures import texture

TEXTURES = 12
MAX_WIDTH, MAX_HEIGHT = 192, 128
LIMBS = ("left", "right")
SMALL_M = 0.1  # things smaller than this keep their colours in a muted room


@dataclass(frozen=True)
class Arms:
    """Looks of the two arms before the camera: "human" (capsules, skin, sleeves) or "robot" (boxes, grey)."""

    kind: str
    skin: tuple[float, float, float]
    sleeve: tuple[float, float, float]

    @staticmethod
    def draw(rng: np.random.Generator, kind: str) -> Arms:
        if kind == "human":
            tone = rng.uniform(0.25, 0.95)
            skin = (tone, tone * rng.uniform(0.68, 0.85), tone * rng.uniform(0.5, 0.75))
            return Arms(kind, skin, tuple(rng.uniform(0.05, 0.95, 3)))
        grey, dark = rng.uniform(0.5, 0.95), rng.uniform(0.05, 0.3)
        return Arms(kind, (dark, dark, dark), (grey, grey, grey))


def _fmt(values) -> str:
    return " ".join(f"{v:.4f}" for v in np.ravel(values))


def _geom(kind: str, size, pos, material: int | None = None, rgb=None, yaw: float = 0.0) -> str:
    look = f'material="m{material}"' if material is not None else f'rgba="{_fmt(rgb)} 1"'
    return f'<geom type="{kind}" size="{_fmt(size)}" pos="{_fmt(pos)}" euler="0 0 {yaw:.3f}" {look}/>'


def _arm_bodies(arms: Arms) -> list[str]:
    """Mocap bodies: upper arm, forearm with hand (origin at the hand, limb along -x), and a carried object, per side."""
    out = []
    for side in LIMBS:
        if arms.kind == "human":
            fore = f'<geom type="capsule" fromto="-0.05 0 0 -0.27 0 0" size="0.038" rgba="{_fmt(arms.sleeve)} 1"/>'
            hand = (
                f'<geom type="ellipsoid" size="0.052 0.042 0.022" rgba="{_fmt(arms.skin)} 1"/>'
                + "".join(
                    f'<geom type="capsule" fromto="0.03 {y} 0 0.09 {y * 1.3:.3f} 0" size="0.009" rgba="{_fmt(arms.skin)} 1"/>' for y in (-0.026, 0.0, 0.026)
                )
                + f'<geom type="capsule" fromto="0.0 0.035 0 0.045 0.06 0" size="0.010" rgba="{_fmt(arms.skin)} 1"/>'
            )
            upper = f'<geom type="capsule" fromto="0 0 0 -0.26 0 0" size="0.045" rgba="{_fmt(arms.sleeve)} 1"/>'
        else:
            fore = f'<geom type="box" pos="-0.15 0 0" size="0.11 0.034 0.034" rgba="{_fmt(arms.sleeve)} 1"/>'
            hand = (
                f'<geom type="box" pos="-0.02 0 0" size="0.03 0.045 0.03" rgba="{_fmt(arms.skin)} 1"/>'
                f'<geom type="box" pos="0.05 0.03 0" size="0.045 0.008 0.012" rgba="{_fmt(arms.skin)} 1"/>'
                f'<geom type="box" pos="0.05 -0.03 0" size="0.045 0.008 0.012" rgba="{_fmt(arms.skin)} 1"/>'
            )
            upper = f'<geom type="box" pos="-0.11 0 0" size="0.11 0.04 0.04" rgba="{_fmt(arms.sleeve)} 1"/>'
        out.append(f'<body name="{side}_hand" mocap="true" pos="0 0 -5">{fore}{hand}</body>')
        out.append(f'<body name="{side}_upper" mocap="true" pos="0 0 -5">{upper}</body>')
    return out


def mute(rgb: np.ndarray) -> np.ndarray:
    """Colours [..., 3] in 0..1 as painted walls, wood and carpets have them: a quarter of the saturation, a little warmer, rather light."""
    grey = rgb.mean(axis=-1, keepdims=True)
    return np.clip((0.25 * rgb + 0.75 * grey) * (1.04, 1.0, 0.92) * 0.75 + 0.24, 0.0, 1.0)


class Room:
    """One furnished room, ready to render.

    Args:
        seed: everything about the room follows from it.
        arms: looks of the arms.
        held_out: surfaces from the family kept for the final test.
        muted: large surfaces in the muted colours of real interiors instead of any colour at all.
        table_ahead: a table with objects before the origin, for manipulation clips; its top's height, m, or None.
        gl: a GL context shared by the rooms of one process.
        max_image: (width, height) of the largest image asked for, px; ``gl`` must be as large.

    Attributes:
        half_size: half extents of the floor [2], m.
        obstacles: [N, 4] x, y, footprint radius, height of what stands in the room.
    """

    def __init__(
        self,
        seed: int,
        arms: Arms,
        *,
        held_out: bool = False,
        muted: bool = False,
        table_ahead: float | None = None,
        gl: mujoco.GLContext | None = None,
        max_image: tuple[int, int] = (MAX_WIDTH, MAX_HEIGHT),
    ) -> None:
        rng = np.random.default_rng((seed, 11))
        self.half_size = rng.uniform(2.2, 4.2, 2)
        self.obstacles = np.zeros((0, 4))
        self._max_image = max_image
        xml = self._xml(rng, arms, table_ahead)
        self.model = mujoco.MjModel.from_xml_string(xml)
        for i in range(self.model.ntex):
            tile = texture(rng, held_out)
            start = self.model.tex_adr[i]
            self.model.tex_data[start : start + tile.size] = (mute(tile / 255.0) * 255.0).astype(np.uint8).ravel() if muted else tile.ravel()
        if muted:
            large = np.flatnonzero((self.model.geom_size.max(axis=1) > SMALL_M) & (self.model.geom_bodyid == 0))
            self.model.geom_rgba[large, :3] = mute(self.model.geom_rgba[large, :3])
        self.data = mujoco.MjData(self.model)
        self._limbs = {name: self.model.body(name).mocapid[0] for side in LIMBS for name in (f"{side}_hand", f"{side}_upper")}
        self._carried = {side: self.model.body(f"{side}_object").mocapid[0] for side in LIMBS}
        self._eye = self.model.body("eye").mocapid[0]
        self._gl = gl or mujoco.GLContext(*max_image)
        self._gl.make_current()
        self._context = mujoco.MjrContext(self.model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._context)
        self._scene = mujoco.MjvScene(self.model, maxgeom=400)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
        self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        self._option = mujoco.MjvOption()
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._camera.fixedcamid = 0

    def close(self) -> None:
        self._context.free()

    def _xml(self, rng: np.random.Generator, arms: Arms, table_ahead: float | None) -> str:
        hx, hy = self.half_size
        wall = rng.uniform(2.2, 2.9)

        def tint() -> np.ndarray:
            return rng.uniform(0.1, 1.0, 3)

        def material() -> int:
            return int(rng.integers(3, TEXTURES))

        def look() -> dict:
            return {"material": material()} if rng.random() < 0.5 else {"rgb": tint()}

        world = [
            f'<geom type="plane" size="{hx + 1:.3f} {hy + 1:.3f} 0.1" material="m0"/>',
            _geom("box", (hx, hy, 0.02), (0, 0, wall), rgb=rng.uniform(0.6, 1, 3)),
        ]
        for sign in (-1, 1):
            world.append(_geom("box", (0.05, hy, wall / 2), (sign * hx, 0, wall / 2), 1))
            world.append(_geom("box", (hx, 0.05, wall / 2), (0, sign * hy, wall / 2), 2))
            world.append(_geom("box", (0.06, hy, 0.05), (sign * hx, 0, 0.05), rgb=tint()))  # skirting board
            for _ in range(2):  # posters
                w, h = rng.uniform(0.2, 0.6, 2)
                world.append(_geom("box", (0.02, w, h), (sign * (hx - 0.05), rng.uniform(-0.8, 0.8) * hy, rng.uniform(0.8, 1.8)), material()))
                world.append(_geom("box", (w, 0.02, h), (rng.uniform(-0.8, 0.8) * hx, sign * (hy - 0.05), rng.uniform(0.8, 1.8)), material()))
        for _ in range(int(rng.integers(0, 4))):  # rugs: edges on the floor, which a camera that looks down sees most of
            size = rng.uniform(0.3, 1.1, 2)
            world.append(_geom("box", (*size, 0.004), (*rng.uniform(-0.8, 0.8, 2) * (hx, hy), 0.004), yaw=rng.uniform(0, 3.1), **look()))

        obstacles = []

        def place(radius: float, height: float) -> np.ndarray | None:
            for _ in range(20):
                xy = rng.uniform(-1, 1, 2) * (hx - radius, hy - radius)
                if np.linalg.norm(xy) > radius + 0.45 and all(np.linalg.norm(xy - o[:2]) > radius + o[2] for o in obstacles):
                    obstacles.append((*xy, radius, height))
                    return xy
            return None

        def table(xy: np.ndarray, yaw: float, top: float, half: np.ndarray, objects: int) -> None:
            cos, sin = np.cos(yaw), np.sin(yaw)
            world.append(_geom("box", (*half, 0.02), (*xy, top - 0.02), yaw=yaw, **look()))
            leg = tint()
            for sx in (-1, 1):
                for sy in (-1, 1):
                    a, b = sx * (half[0] - 0.04), sy * (half[1] - 0.04)
                    world.append(
                        _geom("box", (0.025, 0.025, top / 2 - 0.02), (xy[0] + cos * a - sin * b, xy[1] + sin * a + cos * b, top / 2 - 0.02), rgb=leg, yaw=yaw)
                    )
            for _ in range(objects):
                a, b = rng.uniform(-0.85, 0.85, 2) * half
                kind = ("box", "cylinder", "sphere", "ellipsoid")[rng.integers(4)]
                size = rng.uniform(0.025, 0.07, 3)
                half_height = {"box": size[2], "cylinder": size[1], "sphere": size[0], "ellipsoid": size[2]}[kind]
                world.append(_geom(kind, size, (xy[0] + cos * a - sin * b, xy[1] + sin * a + cos * b, top + half_height), yaw=rng.uniform(0, 3.1), **look()))

        if table_ahead is not None:
            half = np.array((rng.uniform(0.25, 0.4), rng.uniform(0.45, 0.8)))
            table(np.array((half[0] + rng.uniform(0.12, 0.25), rng.uniform(-0.1, 0.1))), rng.uniform(-0.1, 0.1), table_ahead, half, 6)
            obstacles.append((0.5, 0.0, 0.6, table_ahead))
        for _ in range(int(rng.integers(1, 3))):
            half, top = rng.uniform(0.25, 0.55, 2), rng.uniform(0.4, 0.9)
            xy = place(float(np.linalg.norm(half)), top)
            if xy is not None:
                table(xy, rng.uniform(0, 3.1), top, half, 4)
        for _ in range(int(rng.integers(8, 16))):
            half = rng.uniform(0.06, 0.35, 3)
            half[2] = rng.uniform(0.05, 0.5)
            xy = place(float(np.linalg.norm(half[:2])), 2 * half[2])
            if xy is None:
                continue
            if rng.random() < 0.25:
                world.append(_geom("cylinder", (half[0], half[2]), (*xy, half[2]), **look()))
            else:
                world.append(_geom("box", half, (*xy, half[2]), yaw=rng.uniform(0, 3.1), **look()))
        for _ in range(int(rng.integers(4, 12))):  # small things on the floor
            size = rng.uniform(0.02, 0.09, 3)
            world.append(
                _geom("ellipsoid" if rng.random() < 0.5 else "box", size, (*rng.uniform(-0.9, 0.9, 2) * (hx, hy), size[2]), yaw=rng.uniform(0, 3.1), **look())
            )
        self.obstacles = np.array(obstacles).reshape(-1, 4)

        lights = []
        for _ in range(int(rng.integers(1, 3))):
            power = rng.uniform(0.35, 0.75)
            lights.append(
                f'<light pos="{_fmt((*rng.uniform(-0.7, 0.7, 2) * (hx, hy), wall - 0.1))}" dir="{_fmt((*rng.uniform(-0.4, 0.4, 2), -1))}" '
                f'diffuse="{_fmt(power * rng.uniform(0.85, 1, 3))}" specular="0.1 0.1 0.1" cutoff="80" exponent="1"/>'
            )
        ambient, head = rng.uniform(0.2, 0.45), rng.uniform(0.15, 0.4)
        textures = "".join(f'<texture name="t{i}" type="2d" builtin="flat" width="128" height="128" rgb1="1 1 1"/>' for i in range(TEXTURES))
        repeat = [rng.uniform(0.35, 1.2) if i < 3 else rng.uniform(0.8, 3.0) for i in range(TEXTURES)]
        materials = "".join(
            f'<material name="m{i}" texture="t{i}" texuniform="true" texrepeat="{repeat[i]:.2f} {repeat[i]:.2f}" specular="0.1" reflectance="0"/>'
            for i in range(TEXTURES)
        )
        carried = "".join(
            f'<body name="{side}_object" mocap="true" pos="0 0 -5"><geom type="{("box", "cylinder", "sphere")[rng.integers(3)]}" '
            f'size="{_fmt(rng.uniform(0.03, 0.07, 3))}" rgba="{_fmt(tint())} 1"/></body>'
            for side in LIMBS
        )
        width, height = self._max_image
        return (
            f'<mujoco><compiler angle="radian"/><visual><global offwidth="{width}" offheight="{height}"/><quality offsamples="2" shadowsize="0"/>'
            f'<headlight ambient="{_fmt([ambient] * 3)}" diffuse="{_fmt([head] * 3)}" specular="0 0 0"/><map znear="0.005" zfar="30"/></visual>'
            f'<statistic extent="1" center="0 0 0"/><default><geom contype="0" conaffinity="0"/></default>'
            f"<asset>{textures}{materials}</asset><worldbody>{''.join(lights)}{''.join(world)}"
            f'<body name="eye" mocap="true"><camera name="eye" xyaxes="0 -1 0 0 0 1"/></body>{"".join(_arm_bodies(arms))}{carried}</worldbody></mujoco>'
        )

    def thing_half_height(self, side: str) -> float:
        """Half the height of the object that the hand of ``side`` can hold, m."""
        geom = self.model.body(f"{side}_object").geomadr[0]
        index = {mujoco.mjtGeom.mjGEOM_BOX: 2, mujoco.mjtGeom.mjGEOM_CYLINDER: 1, mujoco.mjtGeom.mjGEOM_SPHERE: 0}[int(self.model.geom_type[geom])]
        return float(self.model.geom_size[geom][index])

    def clear(self, path_xy: np.ndarray, camera_height: float, margin: float = 0.35) -> bool:
        """Whether a path [T, 2] stays inside the walls and off anything that would stand in the camera's face."""
        if np.any(np.abs(path_xy) > self.half_size - 0.5):
            return False
        tall = self.obstacles[self.obstacles[:, 3] > camera_height - 0.35]
        if len(tall) == 0:
            return True
        return bool(np.min(np.linalg.norm(path_xy[:, None] - tall[:, :2], axis=-1) - tall[:, 2]) > margin)

    def look(
        self,
        position: np.ndarray,
        rotation: np.ndarray,
        fovy_deg: float,
        hands: dict[str, tuple[np.ndarray, np.ndarray]],
        carrying: dict[str, bool],
        width: int,
        height: int,
        things: dict[str, np.ndarray] | None = None,
    ) -> np.ndarray:
        """Render one image.

        Args:
            position: camera [3], world, m.
            rotation: [3, 3] camera body axes (x ahead, y left, z up) in the world.
            hands: side -> (hand, shoulder) [3] each, world, m; a side that is not named is out of sight.
            carrying: side -> whether the hand holds an object.
            things: side -> where that object is [3], world, m, whether held or not; instead of ``carrying``.

        Returns:
            [height, width, 3] uint8 RGB.

        Raises:
            ValueError: larger than the buffer that the room was made with; what is read beyond it is not a picture.
        """
        if width > self._max_image[0] or height > self._max_image[1]:
            raise ValueError(f"a picture of {width}x{height} px was asked of a room made for at most {self._max_image[0]}x{self._max_image[1]}; give max_image")
        data = self.data
        data.mocap_pos[self._eye] = position
        mujoco.mju_mat2Quat(data.mocap_quat[self._eye], rotation.ravel())
        for side in LIMBS:
            if side not in hands:
                for name in (f"{side}_hand", f"{side}_upper"):
                    data.mocap_pos[self._limbs[name]] = (0, 0, -5)
                data.mocap_pos[self._carried[side]] = (0, 0, -5)
                continue
            hand, shoulder = hands[side]
            elbow = _elbow(hand, shoulder, rotation[:, 2])
            self._point_along(self._limbs[f"{side}_hand"], hand, hand - elbow)
            self._point_along(self._limbs[f"{side}_upper"], elbow, elbow - shoulder)
            data.mocap_pos[self._carried[side]] = hand + 0.07 * (hand - elbow) / np.linalg.norm(hand - elbow) if carrying.get(side) else (0, 0, -5)
        for side, place in (things or {}).items():
            data.mocap_pos[self._carried[side]] = place
        self.model.cam_fovy[0] = fovy_deg
        mujoco.mj_kinematics(self.model, data)
        mujoco.mj_camlight(self.model, data)
        self._gl.make_current()
        mujoco.mjv_updateScene(self.model, data, self._option, None, self._camera, mujoco.mjtCatBit.mjCAT_ALL.value, self._scene)
        rect = mujoco.MjrRect(0, 0, width, height)
        mujoco.mjr_render(rect, self._scene, self._context)
        image = np.empty((height, width, 3), dtype=np.uint8)
        mujoco.mjr_readPixels(image, None, rect, self._context)
        return image[::-1].copy()

    def _point_along(self, mocap: int, position: np.ndarray, direction: np.ndarray) -> None:
        """Put a mocap body at ``position`` with its x axis along ``direction`` and its z axis as upright as that allows."""
        x = direction / max(float(np.linalg.norm(direction)), 1e-6)
        y = np.cross((0.0, 0.0, 1.0), x)
        y = y / max(float(np.linalg.norm(y)), 1e-6)
        self.data.mocap_pos[mocap] = position
        mujoco.mju_mat2Quat(self.data.mocap_quat[mocap], np.stack((x, y, np.cross(x, y)), axis=1).ravel())


def _elbow(hand: np.ndarray, shoulder: np.ndarray, up: np.ndarray, segment_m: float = 0.26) -> np.ndarray:
    """Elbow [3] of a two-segment arm that bends downwards; a hand out of reach gets a straight arm."""
    reach = hand - shoulder
    distance = max(float(np.linalg.norm(reach)), 1e-6)
    drop = np.sqrt(max(segment_m**2 - (distance / 2.0) ** 2, 0.0))
    down = -up + reach * float(np.dot(up, reach)) / distance**2
    return shoulder + reach / 2.0 + drop * down / max(float(np.linalg.norm(down)), 1e-6)
