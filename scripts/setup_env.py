"""Set up everything that ``make demo`` and ``make test`` need, and skip what is done. Standard library only.

What it leaves behind is all in ``.venv`` (and, on a machine with ROS 2, ``ros_ws/install``): remove it and everything is undone
but the system packages. The virtual environment is keyed by ROS flavour and Python: it is made again when one of them changes,
because wheels and a sourced ROS 2 must never meet in one process. Each later step is keyed by the files it depends on.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import hashlib
import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from steps import StepError, run_step

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
STATE_FILE = "wbvla-setup.json"
LOG = ROOT / "build" / "setup.log"
MINIMUM_PYTHON = (3, 10)
WHEELS_DISTRO = "jazzy"
WHEELS_PYTHON = ((3, 10), (3, 13))  # rclpy's wheels exist for these, x86_64 only
REQUIREMENTS = ("core", "robot", "sim", "vla", "train", "dev")
WHEEL_REQUIREMENTS = ("ros-wheels", "ros-wheels-build")


class SetupError(StepError):
    """Something that the person at the keyboard has to do; the text says what."""


# --------------------------------------------------------------------------------------------------------------- ROS flavour


@dataclass(frozen=True)
class Flavour:
    """Which ROS 2 this checkout runs on: a sourced installation, or Jazzy's wheels."""

    distro: str
    sourced: bool

    @property
    def name(self) -> str:
        return f"{'sourced' if self.sourced else 'wheels'}-{self.distro}"

    @property
    def pins(self) -> str:
        return "pins-sourced.txt" if self.sourced else "pins-wheels.txt"

    @property
    def requirements(self) -> tuple[str, ...]:
        return REQUIREMENTS if self.sourced else REQUIREMENTS + WHEEL_REQUIREMENTS


def detect_flavour(environ: dict[str, str], python: str = sys.executable) -> Flavour:
    """A sourced ROS 2 wins; without one, the wheels."""
    distro = environ.get("ROS_DISTRO", "")
    version = sys.version_info[:2]
    if distro:
        if subprocess.run([python, "-c", "import rclpy"], env=environ, capture_output=True).returncode != 0:
            raise SetupError(
                f"ROS 2 {distro} is sourced, but rclpy does not import with {python} (Python {version[0]}.{version[1]}).\n"
                "Use the Python that this ROS 2 was built for: make PYTHON=/usr/bin/python3 ...  or start from a shell where ROS 2 is not sourced."
            )
        return Flavour(distro, sourced=True)
    if not WHEELS_PYTHON[0] <= version <= WHEELS_PYTHON[1] or os.uname().machine != "x86_64":
        raise SetupError(
            f"No ROS 2 is sourced, and its wheels exist for Python {'.'.join(map(str, WHEELS_PYTHON[0]))} to {'.'.join(map(str, WHEELS_PYTHON[1]))} on x86_64; "
            f"this is Python {version[0]}.{version[1]} on {os.uname().machine}.\nSource a ROS 2 installation (`source /opt/ros/<distro>/setup.bash`), "
            "or name another Python: make PYTHON=python3.12 ..."
        )
    return Flavour(WHEELS_DISTRO, sourced=False)


# ------------------------------------------------------------------------------------------------------------- system needs


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _egl_driver() -> bool:
    """libEGL only dispatches: it needs a vendor behind it, and Mesa's vendor needs a software driver where there is no GPU."""
    vendors = [path.name for folder in ("/usr/share/glvnd/egl_vendor.d", "/etc/glvnd/egl_vendor.d") for path in Path(folder).glob("*.json")]
    mesa_driver = any(any(Path("/usr").glob(pattern)) for pattern in ("lib*/*/dri/*swrast_dri.so", "lib*/dri/*swrast_dri.so", "lib*/*/libgallium-*.so"))
    return any("mesa" not in name for name in vendors) or (bool(vendors) and mesa_driver)


def missing_system_packages() -> dict[str, tuple[str, ...]]:
    """What the system lacks -> the Debian/Ubuntu packages that bring it."""
    minor = f"python3.{sys.version_info.minor}"
    needs = {
        "a C++ compiler (messages are compiled)": (shutil.which("g++") is not None, ("g++",)),
        "cmake": (shutil.which("cmake") is not None, ("cmake",)),
        "ninja": (shutil.which("ninja") is not None, ("ninja-build",)),
        "Python headers": ((Path(sysconfig.get_path("include")) / "Python.h").is_file(), (f"{minor}-dev",)),
        "Python's venv module": (importlib.util.find_spec("ensurepip") is not None and importlib.util.find_spec("venv") is not None, (f"{minor}-venv",)),
        "EGL (rendering without a screen)": (_loads("libEGL.so.1") and _egl_driver(), ("libegl1", "libegl-mesa0", "libgl1-mesa-dri")),
        "OpenGL": (_loads("libOpenGL.so.0") or _loads("libGL.so.1"), ("libgl1", "libopengl0")),
    }
    return {what: packages for what, (there, packages) in needs.items() if not there}


def install_system_packages(missing: dict[str, tuple[str, ...]]) -> None:
    """apt-get, through sudo where not root; where that does not work, say exactly what to install."""
    packages = sorted({package for group in missing.values() for package in group})
    by_hand = (
        f"This machine lacks {'; '.join(missing)}.\nPlease run:  sudo apt-get update && sudo apt-get install -y {' '.join(packages)}\n"
        "and then the same make command again."
    )
    apt = shutil.which("apt-get")
    if apt is None:
        raise SetupError(f"{by_hand}\n(There is no apt-get here: install the same things with this system's package manager.)")
    prefix: list[str] = []
    if os.geteuid() != 0:
        sudo = shutil.which("sudo")
        asks_nothing = sudo is not None and subprocess.run([sudo, "-n", "true"], capture_output=True).returncode == 0
        if sudo is None or not (asks_nothing or sys.stdin.isatty()):
            raise SetupError(f"{by_hand}\n(Not root, and sudo is {'not there' if sudo is None else 'asking for a password'}.)")
        print(f"  needs {'; '.join(missing)}: installing {' '.join(packages)} through sudo", flush=True)
        subprocess.run([sudo, "-v"], check=False)  # ask for the password now, not behind the progress line
        prefix = [sudo]
    command = [*prefix, "env", "DEBIAN_FRONTEND=noninteractive", apt]
    try:
        step("system package lists", [*command, "update"])
        step(f"system packages: {' '.join(packages)}", [*command, "install", "-y", "--no-install-recommends", *packages])
    except StepError as error:
        raise SetupError(f"{error}\n{by_hand}") from error


# ------------------------------------------------------------------------------------------------------------------- steps


def step(title: str, command: list[str], *, env: dict[str, str] | None = None, cwd: Path = ROOT) -> None:
    """One visible step, logged to build/setup.log."""
    run_step(title, command, LOG, cwd=cwd, env=env)


def digest(*parts: Path | str) -> str:
    """sha256 over texts and the names and contents of files; a folder stands for the files in it."""
    sha = hashlib.sha256()
    for part in parts:
        files = [part] if isinstance(part, str) or part.is_file() else sorted(path for path in part.rglob("*") if path.is_file())
        for item in files:
            sha.update(item.encode() if isinstance(item, str) else str(item.relative_to(ROOT)).encode() + b"\0" + item.read_bytes())
            sha.update(b"\0")
    return sha.hexdigest()


class State:
    """Which steps are done, in ``.venv/wbvla-setup.json``: {"key": flavour and Python, "done": {step: hash of its inputs}}."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.data = json.loads(path.read_text())
        except (OSError, json.JSONDecodeError):
            self.data = {}

    @property
    def key(self) -> str | None:
        return self.data.get("key")

    def is_done(self, step: str, inputs: str) -> bool:
        return self.data.get("done", {}).get(step) == inputs

    def begin(self, key: str) -> None:
        self.data = {"key": key, "done": {}}
        self._write()

    def mark(self, step: str, inputs: str) -> None:
        self.data["done"][step] = inputs
        self._write()

    def _write(self) -> None:
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.data, indent=2, sort_keys=True) + "\n")
        temporary.replace(self.path)


# -------------------------------------------------------------------------------------------------------------- the set-up


class Setup:
    """The steps, in order. ``run`` is safe to repeat and to interrupt."""

    def __init__(self, flavour: Flavour, adopt: bool = False) -> None:
        self.flavour = flavour
        self.adopt = adopt
        self.python = VENV / "bin" / "python"
        self.state = State(VENV / STATE_FILE)
        self.pins = ROOT / "requirements" / flavour.pins
        self.all_pins = digest(*sorted((ROOT / "requirements").glob("pins*.txt")))

    @property
    def key(self) -> str:
        version = sys.version_info
        return f"{self.flavour.name} python-{version.major}.{version.minor}.{version.micro} at {VENV}"  # environments do not survive a move

    def run(self) -> bool:
        """Do what is not done yet. True when anything was done."""
        steps = self.steps()
        if self.state.key == self.key and all(self.state.is_done(name, inputs) for name, inputs, _ in steps):
            return False
        print(f"Setting up {self.flavour.name} with Python {sys.version.split()[0]} in {VENV} (log: {LOG})", flush=True)
        missing = missing_system_packages()
        if missing:
            install_system_packages(missing)
        self.make_venv()
        for name, inputs, action in steps:
            if not self.state.is_done(name, inputs):
                action()
                self.state.mark(name, inputs)
        return True

    def steps(self) -> tuple[tuple[str, str, Callable[[], None]], ...]:
        """(name, hash of what it depends on, action), in order."""
        requirements = [self.requirements_file(name) for name in self.flavour.requirements]
        rooms = sorted(path.parent.name for path in ROOT.glob("wbvla_*/__init__.py"))  # an editable install lists packages by name
        steps = (
            ("installer", digest(self.requirements_file("setup"), self.pin("pip"), self.pin("setuptools")), self.install_installer),
            ("torch", digest(self.pin("torch")), self.install_torch),
            ("requirements", digest(self.all_pins, *requirements), self.install_requirements),
            ("messages", digest(ROOT / "wbvla_msgs", ROOT / "scripts" / "fix_wheel_paths.cmake", self.key), self.build_messages),
            ("package", digest(ROOT / "setup.py", ROOT / "setup.cfg", str(ROOT), *rooms), self.install_package),
        )
        return (*steps, ("check", digest(*(inputs for _, inputs, _ in steps)), self.verify))

    def requirements_file(self, name: str) -> Path:
        return ROOT / "requirements" / f"{name}.txt"

    def pin(self, name: str) -> str:
        """The pinned requirement of one package, e.g. ``torch==2.13.0``."""
        lines = (ROOT / "requirements" / "pins.txt").read_text().splitlines()
        return next(line.split(";")[0].strip() for line in lines if line.startswith(f"{name}=="))

    def environment(self) -> dict[str, str]:
        """Environment in which CMake and colcon find the virtual environment first."""
        env = {**os.environ, "PATH": f"{VENV / 'bin'}:{os.environ['PATH']}", "VIRTUAL_ENV": str(VENV)}
        if not self.flavour.sourced:
            env.update(AMENT_PREFIX_PATH=str(VENV), CMAKE_PREFIX_PATH=str(VENV))
        return env

    def pip(self, title: str, *arguments: str) -> None:
        step(title, [str(self.python), "-m", "pip", "--disable-pip-version-check", "install", "--progress-bar", "off", *arguments])

    def make_venv(self) -> None:
        if VENV.exists() and self.state.key is None and any(VENV.iterdir()):
            if not self.adopt:
                raise SetupError(f"{VENV} was not made by this set-up. Move it away, or install into it with: {sys.executable} scripts/setup_env.py --adopt")
            self.state.begin(self.key)
        if self.state.key == self.key:
            return
        if VENV.exists():
            print(f"  {VENV} was made for {self.state.key}: making it again", flush=True)
            shutil.rmtree(VENV)
        options = ["--system-site-packages"] if self.flavour.sourced else []
        step("virtual environment", [getattr(sys, "_base_executable", sys.executable), "-m", "venv", *options, str(VENV)])
        self.state.begin(self.key)

    def install_installer(self) -> None:
        self.pip("pip and setuptools", "-c", str(self.pins), "-r", str(self.requirements_file("setup")))

    def install_torch(self) -> None:
        """torch on its own and first: it is the largest, and a CPU build may come from an index of its own."""
        pin = self.pin("torch")
        query = subprocess.run([str(self.python), "-c", "from importlib.metadata import version; print(version('torch'))"], capture_output=True, text=True)
        if query.returncode == 0 and query.stdout.strip().split("+")[0] == pin.split("==")[1]:
            return
        index = os.environ.get("TORCH_INDEX_URL")
        note = "from TORCH_INDEX_URL" if index else "no TORCH_INDEX_URL: the default index, on Linux usually the CUDA build, 2 GB more"
        self.pip(f"{pin} ({note})", pin, *(["--index-url", index] if index else []))

    def install_requirements(self) -> None:
        files = [argument for name in self.flavour.requirements for argument in ("-r", str(self.requirements_file(name)))]
        self.pip("Python packages" + ("" if self.flavour.sourced else " and ROS 2 wheels"), "-c", str(self.pins), *files)

    def build_messages(self) -> None:
        """``wbvla_msgs`` from its ordinary package folder: colcon on a sourced ROS 2, plain CMake into the venv on wheels."""
        if self.flavour.sourced:
            build = [*self.colcon(), "build", "--packages-select", "wbvla_msgs"]
            step("wbvla_msgs (colcon)", build, env=self.environment(), cwd=ROOT / "ros_ws")
            return
        build = ROOT / "build" / "wbvla_msgs"
        shutil.rmtree(build, ignore_errors=True)
        env = self.environment()
        definitions = {
            "CMAKE_BUILD_TYPE": "Release",
            "CMAKE_INSTALL_PREFIX": VENV,
            "Python3_EXECUTABLE": self.python,
            "BUILD_TESTING": "OFF",
            "CMAKE_PROJECT_INCLUDE": ROOT / "scripts" / "fix_wheel_paths.cmake",
        }
        configure = ["cmake", "-S", str(ROOT / "wbvla_msgs"), "-B", str(build), "-G", "Ninja", *(f"-D{name}={value}" for name, value in definitions.items())]
        step("wbvla_msgs: configure", configure, env=env)
        step("wbvla_msgs: compile", ["cmake", "--build", str(build)], env=env)
        step("wbvla_msgs: install into .venv", ["cmake", "--install", str(build)], env=env)

    def colcon(self) -> list[str]:
        """The command colcon: the system's, or one in the venv."""
        found = shutil.which("colcon", path=self.environment()["PATH"])
        if found is None:
            self.pip("colcon", "-c", str(self.pins), "colcon-common-extensions")
            found = shutil.which("colcon", path=self.environment()["PATH"])
        # pip installs no script where colcon is already importable from elsewhere (PYTHONPATH)
        return [found] if found else [str(self.python), "-c", "import sys; from colcon_core.command import main; sys.exit(main())"]

    def install_package(self) -> None:
        self.pip("wbvla (editable)", "--no-deps", "--no-build-isolation", "-e", str(ROOT))

    def verify(self) -> None:
        """The parts load together, in a process of their own and away from the source folders."""
        code = "import mujoco, numpy, rclpy, torch; from wbvla_msgs.msg import LocoCommand; import wbvla_cli.main"
        script = f"source {shlex.quote(str(ROOT / 'scripts' / 'env.sh'))} && cd / && python -c {shlex.quote(code)}"
        step("check: rclpy, wbvla_msgs, torch and mujoco load together", ["bash", "-c", script])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--adopt", action="store_true", help="install into a .venv that this script did not make")
    arguments = parser.parse_args()
    if sys.version_info < MINIMUM_PYTHON:
        raise SetupError(f"wbvla needs Python >= 3.10, this is {sys.version.split()[0]}. Name another: make PYTHON=python3.12 ...")
    with (ROOT / ".setup.lock").open("w") as lock:  # two makes in one checkout take turns
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Another set-up is running in this checkout: waiting for it", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        start = time.monotonic()
        if Setup(detect_flavour(dict(os.environ)), adopt=arguments.adopt).run():
            print(f"Set-up done in {time.monotonic() - start:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except StepError as error:
        print(f"\nwbvla set-up: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("\nwbvla set-up: interrupted; the same command goes on where this stopped", file=sys.stderr)
        sys.exit(130)
