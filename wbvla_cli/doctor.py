"""``wbvla doctor``: what is here, what works, what is missing and how to get it. Changes nothing.

Everything that can crash a process (GL drivers, shared libraries of another Python) is tried in a process of its own.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import tyro

from wbvla_cli.inspect import SHORT_HASH, find_checkpoints
from wbvla_core.checkpoint import Manifest, load_manifest
from wbvla_core.errors import CheckpointError, require_positive
from wbvla_core.ros.tables import share_dir

WIDTH = 140
EXTRAS = ("robot", "sim", "vla", "train", "dev")
# Beside the demo: what ships, and which command makes it again.
SHIPPED = {
    "lmo/x2": "wbvla train lmo --export checkpoints/lmo/x2",
    "lam/mani": "wbvla train lam mani",
    "lam/loco": "wbvla train lam loco",
    "vla/tiny": "wbvla train vla tiny",
    "policy/tiny": "wbvla train decoder tiny",
}
RENDER = """
import time, mujoco, numpy
model = mujoco.MjModel.from_xml_string('<mujoco><worldbody><light pos="0 0 3"/><geom size=".2" rgba="1 0 0 1"/></worldbody></mujoco>')
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 16, 16) as renderer:
    renderer.update_scene(data)
    start = time.perf_counter()
    image = renderer.render()
    assert image.max() > 0, 'the image is black'
    from OpenGL.GL import glGetString, GL_RENDERER
    print(glGetString(GL_RENDERER).decode())
"""


@dataclass(frozen=True)
class Doctor:
    """Look at this machine: packages, ROS 2, rendering, checkpoints. Exit status 1 when the demo would not run."""

    timeout_s: float = 60.0
    """How long one trial (importing rclpy, rendering an image) may take."""


@dataclass(frozen=True)
class Finding:
    """One line of the page.

    Attributes:
        mark: ok; note = fine as it is, but good to know; missing = the demo needs it.
        mend: what to do about it.
    """

    mark: str
    what: str
    mend: str = ""

    def __str__(self) -> str:
        sign = {"ok": " ok ", "note": " -- ", "missing": "MISS"}[self.mark]
        what = textwrap.fill(self.what, WIDTH, initial_indent=f"  [{sign}] ", subsequent_indent=" " * 9, break_long_words=False, break_on_hyphens=False)
        return what + (f"\n         -> {self.mend}" if self.mend else "")


def try_python(code: str, timeout_s: float, *arguments: str, **environment: str) -> tuple[bool, str]:
    """Run ``code`` in a Python of its own, away from the source folders -> (worked, last line it printed)."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd="/", env={**os.environ, **environment}, capture_output=True, text=True, timeout=timeout_s
        )
    except subprocess.TimeoutExpired:
        return False, f"no answer within {timeout_s:.0f} s"
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    text = lines[-1] if lines else f"exit status {done.returncode}"
    return done.returncode == 0, text


def check_machine(_: Doctor) -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0))
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    yield Finding("ok", f"Python {platform.python_version()} in {sys.prefix}, {platform.platform()}")
    text = f"{cores} cores, {memory_gb:.0f} GB of memory"
    yield Finding("ok", text) if cores >= 2 else Finding("note", text, "the demo is built for two cores; on one it does not keep real time")


def check_packages(options: Doctor) -> Iterator[Finding]:
    """Each extra of the installed package: complete and imported, or what it lacks."""
    try:
        package = metadata.distribution("wbvla")
    except metadata.PackageNotFoundError:
        yield Finding(
            "missing", "wbvla is not installed (running from the source folder)", "make setup, or pip install -e '.[sim,vla]' -c requirements/pins-wheels.txt"
        )
        return
    lines = package.requires or []
    for extra in EXTRAS:
        names = [re.match(r"[\w.-]+", line)[0] for line in lines if re.search(rf"extra == ['\"]{extra}['\"]", line)]
        absent = [name for name in names if not _installed(name)]
        present = [name for name in names if name not in absent]
        torn = import_faults({name: modules_of(name) for name in present}, options.timeout_s)
        mark = "missing" if extra in ("robot", "sim", "vla") else "note"
        if absent:
            yield Finding(mark, f"extra {extra}: without {', '.join(absent)}", f"make setup, or pip install 'wbvla[{extra}]' -c requirements/pins.txt")
        for name, fault in torn.items():
            yield Finding(mark, f"extra {extra}: {name} is installed, but {fault}", "make setup, or install it again with pip; unset PYTHONPATH if that is set")
        if not absent and not torn:
            yield Finding("ok", f"extra {extra}: {', '.join(f'{name} {metadata.version(name)}' for name in names)}")


def modules_of(package: str) -> list[str]:
    """What an installed package gives to import: its top packages, else its top modules; private ones and tests aside."""
    files = metadata.files(package) or []
    tops = {file.parts[0] for file in files if len(file.parts) == 2 and file.name == "__init__.py"}
    tops = tops or {file.stem for file in files if len(file.parts) == 1 and file.suffix == ".py"}
    return sorted(name for name in tops if name.isidentifier() and not name.startswith("_") and name not in ("tests", "test"))


IMPORT_ALL = """
import importlib, json, os, sys
faults = {}
for package, modules in json.loads(sys.argv[1]).items():
    for name in modules:
        try:
            where = getattr(importlib.import_module(name), "__file__", None) or ""
        except BaseException as error:
            faults[package] = f"{name} does not import ({type(error).__name__}: {error})"
            break
        strange = [folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder and where.startswith(os.path.abspath(folder) + os.sep)]
        if strange and not where.startswith(sys.prefix + os.sep):
            faults[package] = f"{name} comes from {where}, which PYTHONPATH puts before it"
            break
print(json.dumps(faults))
"""


def import_faults(modules: dict[str, list[str]], timeout_s: float) -> dict[str, str]:
    """Package -> what is wrong with importing it; tried in a process of its own, because a library that does not fit can end one."""
    worked, text = try_python(IMPORT_ALL, timeout_s, json.dumps(modules))
    if worked:
        return json.loads(text)
    if len(modules) == 1:
        return dict.fromkeys(modules, f"does not import ({text})")
    return {name: fault for package in modules for name, fault in import_faults({package: modules[package]}, timeout_s).items()}


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def check_ros(options: Doctor) -> Iterator[Finding]:
    distro = os.environ.get("ROS_DISTRO")
    wheels = _installed("ros-rclpy")
    kind = f"ROS 2 {distro}, sourced" if distro else "ROS 2 Jazzy from wheels" if wheels else "no ROS 2"
    if distro and wheels:
        yield Finding(
            "missing",
            f"{kind}, and ROS 2 wheels in the same environment: they do not load together",
            "make distclean setup, from the shell where ROS 2 is sourced",
        )
    worked, text = try_python("import rclpy; from rclpy.utilities import get_rmw_implementation_identifier as f; print(f())", options.timeout_s)
    yield (
        Finding("ok", f"{kind}: rclpy with {text}") if worked else Finding("missing", f"{kind}: rclpy does not import ({text})", "make setup, or source ROS 2")
    )
    worked, text = try_python("from wbvla_msgs.msg import LocoCommand; print(LocoCommand.__module__)", options.timeout_s)
    built = "make setup (wheels), or cd ros_ws && colcon build, then source install/setup.bash"
    yield Finding("ok", "wbvla_msgs is built") if worked else Finding("missing", f"wbvla_msgs is not built ({text})", built)
    profile = os.environ.get("FASTRTPS_DEFAULT_PROFILES_FILE") or os.environ.get("FASTDDS_DEFAULT_PROFILES_FILE")
    if profile and Path(profile).is_file():
        yield Finding("ok", f"Fast DDS profile {profile}")
    else:
        yield Finding(
            "note",
            "no Fast DDS profile in this shell: best-effort images would lose frames",
            "source scripts/env.sh (`wbvla demo` and `wbvla run` set it themselves)",
        )
    domain, reach = os.environ.get("ROS_DOMAIN_ID", "0 (default)"), os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET (default)")
    yield Finding("ok", f"domain {domain}, discovery {reach}")
    tools = {"ros2 launch": "launch_ros.actions.node", "ros2 bag": "rosbag2_py", "TF": "tf2_msgs.msg"}
    absent = [tool for tool, module in tools.items() if not try_python(f"import {module}", options.timeout_s)[0]]
    if absent:
        yield Finding("note", f"not here: {', '.join(absent)} (they come with an installed ROS 2 only); `wbvla run` and `wbvla record` take their place")


def check_rendering(options: Doctor) -> Iterator[Finding]:
    chosen = os.environ.get("MUJOCO_GL", "egl")
    for backend in dict.fromkeys((chosen, "egl", "osmesa")):
        # PyOpenGL picks its platform from PYOPENGL_PLATFORM, which must agree
        worked, text = try_python(RENDER, options.timeout_s, MUJOCO_GL=backend, PYOPENGL_PLATFORM=backend if backend != "glfw" else "")
        if worked:
            yield Finding(
                "ok" if backend == chosen else "note", f"MUJOCO_GL={backend} renders: {text}", "" if backend == chosen else f"export MUJOCO_GL={backend}"
            )
            return
        yield Finding("note", f"MUJOCO_GL={backend} does not render: {text[:120]}")
    yield Finding("missing", "no GL without a screen", "sudo apt-get install -y libegl1 libegl-mesa0 libgl1-mesa-dri")


def check_checkpoints(_: Doctor) -> Iterator[Finding]:
    root = share_dir() / "checkpoints"
    good: dict[str, Manifest] = {}
    for directory in find_checkpoints(root):
        label = f"{directory.parent.name}/{directory.name}"
        try:
            manifest = load_manifest(directory)
        except CheckpointError as error:
            yield Finding("missing" if label in SHIPPED else "note", f"{label}: {error}")
            continue
        good[label] = manifest
    hashes = {manifest.hash for manifest in good.values()}
    for label, manifest in good.items():
        strangers = [f"{role} {parent[:SHORT_HASH]}" for role, parent in sorted(manifest.parents.items()) if parent not in hashes]
        robot = f"{manifest.robot['name']} {manifest.robot['version']}" if manifest.robot else "any robot"
        text = f"{label}: {manifest.hash[:SHORT_HASH]}, {robot}, files match"
        if strangers:
            yield Finding(
                "note", f"{text}; built on {', '.join(strangers)}, not in {root}", "train it again on the checkpoints that are here, or copy its parents"
            )
        else:
            yield Finding("ok", text)
    for label, command in SHIPPED.items():
        if not (root / label).is_dir():
            yield Finding("missing", f"{label}: not in {root}", f"git checkout -- checkpoints, or make it: {command}")


def check_tools(_: Doctor) -> Iterator[Finding]:
    needed = {"g++": "g++", "cmake": "cmake", "ninja": "ninja-build", "git": "git"}
    absent = [package for tool, package in needed.items() if shutil.which(tool) is None]
    if absent:
        yield Finding("note", "building messages needs " + ", ".join(absent), f"sudo apt-get install -y {' '.join(absent)}")
    else:
        yield Finding("ok", "tools for building messages: " + ", ".join(needed))


SECTIONS: tuple[tuple[str, Callable[[Doctor], Iterator[Finding]]], ...] = (
    ("machine", check_machine),
    ("packages", check_packages),
    ("ROS 2", check_ros),
    ("rendering", check_rendering),
    ("checkpoints", check_checkpoints),
    ("tools", check_tools),
)


def main(argv: Sequence[str]) -> int:
    options = tyro.cli(Doctor, args=list(argv))
    require_positive(options, "", "timeout_s")
    missing = 0
    for title, check in SECTIONS:
        print(title, flush=True)
        for finding in check(options):
            missing += finding.mark == "missing"
            print(finding, flush=True)
    print("\nEverything that the demo needs is here." if missing == 0 else f"\n{missing} thing(s) are missing for the demo: see the arrows above.")
    return 0 if missing == 0 else 1
