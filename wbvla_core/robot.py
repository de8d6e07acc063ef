"""The robot as data: ordered joints, groups, limits, gains, frames and masses, read from ``config/robots/<name>.yaml``.

Everything that knows how many joints there are asks here. The canonical joint order is the order of ``joints`` in the
file; joint state and joint command arrays carry all joints in it. Kinematics follow URDF: ``rpy`` are fixed-axis x-y-z
angles, a joint's frame is its child link's frame. Units: m, rad, s, kg, Nm (prismatic joints: m, m/s, N).
"""

from __future__ import annotations

import difflib
import hashlib
import math
import os
import sys
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from wbvla_core.errors import WbvlaError

SCHEMA = 1
KINDS = ("revolute", "prismatic")
BASE_LINK = "base_link"  # root of every URDF, in the place of the spec's root (REP-105)
# What ROS calls a frame of the spec, where that is not <frame>_frame: a sensor's link, and REP-103's suffix for axes z ahead, x right, y down.
FRAME_LINKS = {"imu": "imu_link", "head_camera": "head_camera_optical_frame"}


class RobotSpecError(WbvlaError):
    """A robot file that is missing or contradicts itself."""


@dataclass(frozen=True)
class Joint:
    """One motor and the tree edge that it moves.

    Attributes:
        xyz, rpy: origin of the child link's frame in the parent's [3].
        axis: unit axis in the child's frame [3].
        lower, upper: clamp limits, rad (prismatic: m).
        effort_nm, velocity_rad_s: limits of the drive, Nm and rad/s (prismatic: N, m/s).
        armature, damping, frictionloss: reflected rotor inertia (kg m2), viscous (Nm s/rad) and dry (Nm) friction.
        kp, kd: gains of the driver law, Nm/rad and Nm s/rad.
        default: angle in the default pose.
    """

    name: str
    kind: str
    parent: str
    child: str
    xyz: tuple[float, float, float]
    rpy: tuple[float, float, float]
    axis: tuple[float, float, float]
    lower: float
    upper: float
    effort_nm: float
    velocity_rad_s: float
    armature: float
    damping: float
    frictionloss: float
    kp: float
    kd: float
    default: float


@dataclass(frozen=True)
class Link:
    """Mass (kg), centre of mass in the link frame (m), inertia about it, link axes: (ixx, ixy, ixz, iyy, iyz, izz), kg m2."""

    name: str
    mass: float
    com: tuple[float, float, float]
    inertia: tuple[float, float, float, float, float, float]

    @property
    def inertia_matrix(self) -> np.ndarray:
        """[3, 3] inertia tensor about the centre of mass."""
        xx, xy, xz, yy, yz, zz = self.inertia
        return np.array(((xx, xy, xz), (xy, yy, yz), (xz, yz, zz)))


@dataclass(frozen=True)
class Frame:
    """A fixed frame on a link: IMU, camera (optical: z forward, x right, y down), sole."""

    parent: str
    xyz: tuple[float, float, float]
    rpy: tuple[float, float, float]


@dataclass(frozen=True)
class Camera:
    """The head camera's default stream; square pixels, so the horizontal field of view follows from the size."""

    width: int
    height: int
    fovy_deg: float
    rate_hz: float


@dataclass(frozen=True)
class Sole:
    """Contact surface of a foot in the ankle roll link's frame, m: z of the plane, x extent, full width, contact points."""

    z: float
    x_min: float
    x_max: float
    width: float
    contacts: tuple[tuple[float, float], ...]

    @property
    def middle_m(self) -> float:
        """x half way between the foremost and the hindmost contact point: what stands, the outline reaches further."""
        reach = [x for x, _ in self.contacts]
        return 0.5 * (min(reach) + max(reach))

    @property
    def outline_middle_m(self) -> float:
        return 0.5 * (self.x_min + self.x_max)


@dataclass(frozen=True)
class RobotSpec:
    """Embodiment of one robot. Build it with :func:`load_robot`."""

    name: str
    version: str
    root: str
    joints: tuple[Joint, ...]
    links: tuple[Link, ...]
    groups: dict[str, tuple[str, ...]]
    frames: dict[str, Frame]
    camera: Camera
    sole: Sole
    stance_height_range_m: tuple[float, float]
    default_stance_height_m: float
    torque_speed_knee: float

    @cached_property
    def joint_names(self) -> tuple[str, ...]:
        return tuple(j.name for j in self.joints)

    @property
    def joint_count(self) -> int:
        return len(self.joints)

    def _column(self, field: str) -> np.ndarray:
        column = np.array([getattr(j, field) for j in self.joints], dtype=np.float64)  # [J]
        column.setflags(write=False)
        return column

    @cached_property
    def lower(self) -> np.ndarray:
        """[J] lower clamp limits, rad (prismatic: m)."""
        return self._column("lower")

    @cached_property
    def upper(self) -> np.ndarray:
        """[J] upper clamp limits, rad (prismatic: m)."""
        return self._column("upper")

    @cached_property
    def effort_nm(self) -> np.ndarray:
        """[J] torque limits, Nm (prismatic: N)."""
        return self._column("effort_nm")

    @cached_property
    def velocity_rad_s(self) -> np.ndarray:
        """[J] speed at which the drive has no torque left, rad/s (prismatic: m/s)."""
        return self._column("velocity_rad_s")

    @cached_property
    def kp(self) -> np.ndarray:
        """[J] default position gains, Nm/rad."""
        return self._column("kp")

    @cached_property
    def kd(self) -> np.ndarray:
        """[J] default velocity gains, Nm s/rad."""
        return self._column("kd")

    @cached_property
    def default_q(self) -> np.ndarray:
        """[J] default pose: knees bent to the default stance height, arms hanging."""
        return self._column("default")

    @cached_property
    def _index(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.joint_names)}

    @cached_property
    def total_mass_kg(self) -> float:
        return float(sum(link.mass for link in self.links))

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over name, version and joint order: what a checkpoint must agree with."""
        return hashlib.sha256("\n".join((self.name, self.version, *self.joint_names)).encode()).hexdigest()

    def joint(self, name: str) -> Joint:
        """The joint of that name, or :class:`RobotSpecError`."""
        if name not in self._index:
            raise RobotSpecError(f"robot {self.name!r} has no joint {name!r}; it has {list(self.joint_names)}")
        return self.joints[self._index[name]]

    def link(self, name: str) -> Link:
        """The link of that name, or :class:`RobotSpecError`."""
        for link in self.links:
            if link.name == name:
                return link
        raise RobotSpecError(f"robot {self.name!r} has no link {name!r}; it has {[link.name for link in self.links]}")

    def frame_link(self, frame: str) -> str:
        """The link of the URDF, and the frame_id of messages, of a frame of the spec."""
        if frame not in self.frames:
            raise RobotSpecError(f"robot {self.name!r} has no frame {frame!r}; it has {sorted(self.frames)}")
        return FRAME_LINKS.get(frame, f"{frame}_frame")

    def names(self, group: str) -> tuple[str, ...]:
        """Joint names of a group, in the group's order."""
        if group not in self.groups:
            raise RobotSpecError(f"robot {self.name!r} has no joint group {group!r}; it has {sorted(self.groups)}")
        return self.groups[group]

    def indices(self, group: str) -> np.ndarray:
        """[G] positions of a group's joints in the canonical order."""
        return np.array([self._index[name] for name in self.names(group)], dtype=np.intp)

    def clamp(self, q: np.ndarray) -> np.ndarray:
        """Joint targets [..., J] held inside the limits."""
        return np.clip(q, self.lower, self.upper)

    def torque_range(self, qd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Least and greatest torque that the drives can give at joint velocities qd [..., J].

        Full torque up to ``torque_speed_knee`` of the speed limit, then a straight line to zero at the limit, for the torque
        that drives the motion; a braking drive keeps its full torque (ours: no torque-speed curve of these motors is public).
        """
        slope = 1.0 / (1.0 - self.torque_speed_knee)
        speed = np.asarray(qd) / self.velocity_rad_s
        low = -self.effort_nm * np.clip((1.0 + speed) * slope, 0.0, 1.0)
        high = self.effort_nm * np.clip((1.0 - speed) * slope, 0.0, 1.0)
        return low, high


def share_roots() -> list[Path]:
    """Folders that may hold config/ and checkpoints/: the source, an ament prefix's share folder, the Python prefix's."""
    prefixes = [*os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep), sys.prefix]
    return [Path(__file__).resolve().parents[1], *(Path(prefix) / "share" / "wbvla" for prefix in prefixes if prefix)]


def config_candidates(name: str) -> list[Path]:
    """Where ``config/robots/<name>.yaml`` may lie: beside the source, in an ament prefix, in the Python prefix."""
    return [root / "config" / "robots" / f"{name}.yaml" for root in share_roots()]


def robot_names() -> list[str]:
    """The robots of config/robots."""
    return sorted({path.stem for candidate in config_candidates("") for path in candidate.parent.glob("*.yaml")})


def load_robot(name_or_path: str | Path = "x2") -> RobotSpec:
    """Read a robot by name (``x2``, ``x2_v140``) or by the path of its YAML file."""
    text = str(name_or_path)
    path = Path(text)
    if path.suffix not in (".yaml", ".yml"):
        candidates = config_candidates(text)
        path = next((c for c in candidates if c.is_file()), candidates[0])
    if not path.is_file():
        raise RobotSpecError(f"no robot {text!r}; there are {', '.join(robot_names())} (config/robots), or give the path of a YAML file")
    return _load(path.resolve(), path.stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _load(path: Path, _mtime_ns: int) -> RobotSpec:
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        raise RobotSpecError(f"{path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RobotSpecError(f"{path}: a robot's YAML was expected, but this is none: {' '.join(str(error).split())}") from error
    return parse_robot(data, source=path.name)


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice: YAML's own rule, which PyYAML does not hold to (it takes the last)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        twice = next((key for number, key in enumerate(keys) if key in keys[:number]), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"{twice!r} stands twice in one table", node.start_mark)
        return super().construct_mapping(node, deep)


def parse_robot(data: dict[str, Any], *, source: str = "robot file") -> RobotSpec:
    """Build and check a spec from the parsed YAML; raises :class:`RobotSpecError` naming the entry at fault."""
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        came = data.get("schema") if isinstance(data, dict) else type(data).__name__
        raise RobotSpecError(f"{source}: expected schema {SCHEMA}, got {came!r}; this file was written for another version of wbvla")
    try:
        _check_entries(data)
        spec = _build(data)
    except KeyError as error:
        raise RobotSpecError(f"{source}: entry {error.args[0]!r} is missing") from error
    except (TypeError, AttributeError) as error:
        raise RobotSpecError(f"{source}: a table or a list is not where one was expected: {error}") from error
    except ValueError as error:
        raise RobotSpecError(f"{source}: {error}") from error
    _check(spec, source)
    return spec


_DRIVE = frozenset(("effort", "velocity", "armature", "damping", "frictionloss", "kp", "kd"))
_TABLES = {  # entry -> what it may hold; of drives, links, frames and joints: each of them
    "stance": frozenset(("range_m", "default_m")),
    "sole": frozenset(("z", "x_min", "x_max", "width", "contacts")),
    "camera": frozenset(("width", "height", "fovy_deg", "rate_hz")),
    "drives": _DRIVE,
    "joints": _DRIVE | {"name", "kind", "parent", "child", "xyz", "rpy", "axis", "range", "drive", "default"},
    "links": frozenset(("mass", "com", "inertia")),
    "frames": frozenset(("parent", "xyz", "rpy")),
}
_TOP = frozenset(("schema", "name", "version", "root", "torque_speed_knee", "groups", *_TABLES))


def _check_entries(data: dict[str, Any]) -> None:
    """Refuse a misspelt entry, which would leave a number at its default unseen, and a number that is none."""
    _check_names("the file", data, _TOP)
    for entry in _TABLES.keys() & data.keys():
        value, known = data[entry], _TABLES[entry]
        if entry in ("stance", "sole", "camera"):
            _check_names(entry, value, known)
        else:
            parts = ((part["name"], part) for part in value) if entry == "joints" else value.items()
            for name, part in parts:
                _check_names(f"{name} of {entry}", part, known)
    _check_finite(data, "")


def _check_names(where: str, table: dict[str, Any], known: frozenset[str]) -> None:
    for name in table.keys() - known:
        near = difflib.get_close_matches(str(name), known, n=1)
        raise ValueError(f"{where} has an entry {name!r} that nothing reads; {f'did you mean {near[0]!r}?' if near else f'known are {sorted(known)}'}")


def _check_finite(value: Any, where: str) -> None:
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        name = part.get("name", key) if isinstance(part, dict) else key
        _check_finite(part, f"{where}.{name}" if where else str(name))
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} must be a finite number, got {value}")


def _vector(value: Any, n: int, what: str) -> tuple[float, ...]:
    vector = tuple(float(v) for v in value)
    if len(vector) != n:
        raise ValueError(f"{what} must have {n} numbers, got {len(vector)}")
    return vector


def _whole(value: Any, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{what} must be a whole number, got {value!r}")
    return value


def _build(data: dict[str, Any]) -> RobotSpec:
    drives, stance = data["drives"], data["stance"]
    joints = []
    for raw in data["joints"]:
        merged = {**drives[raw["drive"]], **raw}  # a joint may override its drive
        lower, upper = _vector(merged["range"], 2, f"range of {raw['name']}")
        joints.append(
            Joint(
                name=merged["name"],
                kind=merged.get("kind", "revolute"),
                parent=merged["parent"],
                child=merged["child"],
                xyz=_vector(merged["xyz"], 3, f"xyz of {raw['name']}"),
                rpy=_vector(merged.get("rpy", (0, 0, 0)), 3, f"rpy of {raw['name']}"),
                axis=_vector(merged["axis"], 3, f"axis of {raw['name']}"),
                lower=lower,
                upper=upper,
                effort_nm=float(merged["effort"]),
                velocity_rad_s=float(merged["velocity"]),
                armature=float(merged["armature"]),
                damping=float(merged["damping"]),
                frictionloss=float(merged["frictionloss"]),
                kp=float(merged["kp"]),
                kd=float(merged["kd"]),
                default=float(merged.get("default", 0.0)),
            )
        )
    links = tuple(
        Link(name, float(v["mass"]), _vector(v["com"], 3, f"com of {name}"), _vector(v["inertia"], 6, f"inertia of {name}"))
        for name, v in data["links"].items()
    )
    groups: dict[str, tuple[str, ...]] = {}
    for name, members in data["groups"].items():  # a member is a joint or a group named before
        groups[name] = tuple(j for m in members for j in groups.get(m, (m,)))
    frames = {n: Frame(f["parent"], _vector(f["xyz"], 3, f"xyz of {n}"), _vector(f["rpy"], 3, f"rpy of {n}")) for n, f in data["frames"].items()}
    camera, sole = data["camera"], data["sole"]
    return RobotSpec(
        name=str(data["name"]),
        version=str(data["version"]),
        root=data["root"],
        joints=tuple(joints),
        links=links,
        groups=groups,
        frames=frames,
        camera=Camera(_whole(camera["width"], "camera width"), _whole(camera["height"], "camera height"), float(camera["fovy_deg"]), float(camera["rate_hz"])),
        sole=Sole(
            float(sole["z"]),
            float(sole["x_min"]),
            float(sole["x_max"]),
            float(sole["width"]),
            tuple(_vector(p, 2, "a sole contact") for p in sole["contacts"]),
        ),
        stance_height_range_m=_vector(stance["range_m"], 2, "stance range_m"),
        default_stance_height_m=float(stance["default_m"]),
        torque_speed_knee=float(data["torque_speed_knee"]),
    )


def _check(spec: RobotSpec, source: str) -> None:
    """Refuse a spec that cannot be a robot."""

    def refuse(text: str) -> None:
        raise RobotSpecError(f"{source}: {text}")

    if len(set(spec.joint_names)) != spec.joint_count:
        refuse(f"joint names must differ, got {list(spec.joint_names)}")
    known = {link.name for link in spec.links}
    placed = {spec.root}
    for j in spec.joints:
        if j.kind not in KINDS:
            refuse(f"{j.name}: kind must be one of {KINDS}, got {j.kind!r}")
        if j.parent not in placed:
            refuse(f"{j.name}: parent {j.parent!r} is not yet in the tree; list joints from the root ({spec.root}) outwards")
        if j.child in placed or j.child not in known:
            refuse(f"{j.name}: child {j.child!r} must be a link of the file that no other joint moves")
        placed.add(j.child)
        if not j.lower < j.upper:
            refuse(f"{j.name}: range must rise, got [{j.lower}, {j.upper}]")
        if not j.lower <= j.default <= j.upper:
            refuse(f"{j.name}: default {j.default} lies outside its range [{j.lower}, {j.upper}]")
        if abs(np.linalg.norm(j.axis) - 1.0) > 1e-9:
            refuse(f"{j.name}: axis must be a unit vector, got {j.axis}")
        if min(j.effort_nm, j.velocity_rad_s, j.armature, j.kp, j.kd) <= 0 or min(j.damping, j.frictionloss) < 0:
            refuse(f"{j.name}: effort, velocity, armature and gains must be positive, damping and frictionloss not negative")
    if placed != known:
        refuse(f"links {sorted(known - placed)} hang on no joint")
    for link in spec.links:
        moments = np.linalg.eigvalsh(link.inertia_matrix)
        if link.mass <= 0 or moments[0] <= 0 or moments[0] + moments[1] < moments[2] * (1 - 1e-6):
            refuse(f"{link.name}: mass and principal moments must be positive and obey the triangle inequality, got {link.mass} kg, {moments} kg m2")
    for name, members in spec.groups.items():
        unknown = [m for m in members if m not in spec.joint_names]
        if unknown:
            refuse(f"group {name!r} names {unknown}, which are neither joints nor groups listed before it")
        if len(set(members)) != len(members):
            refuse(f"group {name!r} names a joint twice: {list(members)}")
    for name, frame in spec.frames.items():
        if frame.parent not in known:
            refuse(f"frame {name!r} hangs on {frame.parent!r}, which is no link")
    imu = spec.frames.get("imu")
    if imu is not None and (imu.parent != spec.root or any(imu.rpy)):
        refuse(f"frame 'imu' must lie on {spec.root!r} with its axes (rpy 0 0 0): readings are used as the root's; got {imu.parent!r}, rpy {list(imu.rpy)}")
    low, high = spec.stance_height_range_m
    if not low < spec.default_stance_height_m < high:
        refuse(f"default stance height {spec.default_stance_height_m} m must lie inside {low}..{high} m")
    if low <= 0:
        refuse(f"stance heights must be positive, got {low}..{high} m")
    camera, sole = spec.camera, spec.sole
    if min(camera.width, camera.height) < 1 or not 0.0 < camera.fovy_deg < 180.0 or camera.rate_hz <= 0:
        refuse(f"the camera must have a size, a field of view inside 0..180 deg and a rate, got {camera}")
    if not sole.x_min < sole.x_max or sole.width <= 0 or not sole.contacts:
        refuse(f"the sole must reach from x_min to a larger x_max, and have a width and contacts, got {sole}")
    if not 0.0 < spec.torque_speed_knee < 1.0:
        refuse(f"torque_speed_knee must lie in (0, 1), got {spec.torque_speed_knee}")
