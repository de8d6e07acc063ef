"""Set up everything that ``make demo`` and ``make test`` need, and skip what is done. Standard library only.

What it leaves behind is all in ``.venv`` (and, on a machine with ROS 2, ``ros_ws/install``): remove it and everything is undone
but the system packages. The virtual environment is keyed by ROS flavour and Python: it is made again when one of them changes,
because wheels and a sourced ROS 2 must never meet in one process. Each later step is keyed by the files it depends on.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import errno
import fcntl
import hashlib
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import intact
from steps import StepError, run_step

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
STATE_FILE = "wbvla-setup.json"
MESSAGES = "wbvla-msgs"
LOG = ROOT / "build" / "setup.log"
MINIMUM_PYTHON = (3, 10)
WHEELS_DISTRO = "jazzy"
WHEELS_PYTHON = ((3, 10), (3, 13))  # rclpy's wheels exist for these, x86_64 only
REQUIREMENTS = ("core", "robot", "sim", "vla", "train", "dev")
WHEEL_REQUIREMENTS = ("ros-wheels", "ros-wheels-build")
FREE_GB = 2.5  # measured: 2.3 GB with a CPU build of torch; the default index takes more
# ROS 2's message generator splits paths at spaces and colons, and makes CMake targets of them, which must be ASCII
PLAIN = re.compile(r"[A-Za-z0-9_./+-]+")


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

    @property
    def packages(self) -> list[str]:
        """Names of the packages that the last complete set-up left."""
        return self.data.get("packages", [])

    @property
    def message_files(self) -> list[str]:
        """What building the messages installed, relative to the checkout."""
        return self.data.get("message_files", [])

    def begin(self, key: str) -> None:
        self.data = {"key": key, "done": {}}
        self._write()

    def forget(self, *steps: str) -> None:
        """These are to be done again."""
        for step in steps:
            self.data["done"].pop(step, None)
        self._write()

    def note(self, **facts: list[str]) -> None:
        self.data.update(facts)
        self._write()

    def mark(self, step: str, inputs: str) -> None:
        self.data["done"][step] = inputs
        self._write()

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.data, indent=2, sort_keys=True) + "\n")
        temporary.replace(self.path)


# ------------------------------------------------------------------------------------------------------- the checkout's place


def plain_root() -> Path:
    """The checkout by a path of plain characters: itself, or a link to it in a cache folder where its own path has others.

    Raises:
        SetupError: no cache folder has a plain path either.
    """
    if PLAIN.fullmatch(str(ROOT)):
        return ROOT
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wbvla"
    for folder in (cache, Path(f"/var/tmp/wbvla-{os.getuid()}"), Path(f"/tmp/wbvla-{os.getuid()}")):
        if not PLAIN.fullmatch(str(folder)):
            continue
        link = folder / hashlib.sha256(str(ROOT).encode()).hexdigest()[:16]
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            if not link.is_symlink() or os.readlink(link) != str(ROOT):
                link.unlink(missing_ok=True)
                link.symlink_to(ROOT)
            return link
    raise SetupError(
        f"The path of this checkout, {ROOT}, holds characters that ROS 2's message generator cannot read, and neither {cache} nor /tmp can be used instead.\n"
        "Move it to a path of letters without accents, digits and _ . + - only."
    )


def require_folder(venv: Path) -> None:
    """Raise SetupError where ``venv`` is neither a folder, a link to one, nor free."""
    if venv.is_symlink() and not venv.exists():
        raise SetupError(f"{venv} is a link to {os.readlink(venv)}, which does not exist. Remove the link: rm {shlex.quote(str(venv))}")
    if venv.exists() and not venv.is_dir():
        raise SetupError(f"{venv} is not a folder. Move it away.")


def require_writable() -> None:
    """Raise SetupError where the checkout cannot be written by this user, or has no room."""
    for folder in (ROOT, *(path for path in (VENV, LOG.parent) if path.is_dir())):
        if not os.access(folder, os.W_OK):
            owner = folder.stat().st_uid
            raise SetupError(
                f"{folder} cannot be written by this user (id {os.geteuid()}; the folder belongs to id {owner}).\n"
                "Clone the repository as yourself, or run the command as the owner."
            )
    free_gb = shutil.disk_usage(VENV if VENV.is_dir() else ROOT).free / 1e9
    if free_gb < FREE_GB and not (intact.site_packages(VENV) / "torch").is_dir():
        raise SetupError(f"{ROOT} has {free_gb:.1f} GB left, and the set-up takes at least {FREE_GB} GB. Make room, or clone to another disk.")


def require_no_shadows(search_path: str) -> None:
    """Raise SetupError where PYTHONPATH holds modules that would be imported in place of Python's, the environment's or ours."""
    found = intact.shadows(search_path, VENV, ROOT)
    if found:
        listed = "; ".join(f"{name} in {folder}" for folder, name in found[:4])
        raise SetupError(f"PYTHONPATH holds modules that would be imported in place of the right ones: {listed}.\nRun: unset PYTHONPATH")


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Two makes in one checkout take turns. Where the checkout cannot be written there is nothing to take turns about."""
    try:
        handle = (ROOT / ".setup.lock").open("w")
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        yield
        return
    with handle as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Another set-up is running in this checkout: waiting for it", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# -------------------------------------------------------------------------------------------------------------- the set-up


class Setup:
    """The steps, in order. ``run`` is safe to repeat and to interrupt."""

    def __init__(self, flavour: Flavour, adopt: bool = False) -> None:
        self.flavour = flavour
        self.adopt = adopt
        self.python = VENV / "bin" / "python"
        require_folder(VENV)
        self.state = State(VENV / STATE_FILE)
        self.pins = ROOT / "requirements" / flavour.pins
        self.all_pins = digest(*sorted((ROOT / "requirements").glob("pins*.txt")))

    @property
    def key(self) -> str:
        version = sys.version_info
        return f"{self.flavour.name} python-{version.major}.{version.minor}.{version.micro} at {VENV}"  # environments do not survive a move

    def run(self) -> bool:
        """Do what is not done yet, and again what was damaged. True when anything was done."""
        if not self.flavour.sourced:
            require_no_shadows(os.environ.get("PYTHONPATH", ""))
        steps = self.steps()
        done = self.state.key == self.key and self.state.packages and all(self.state.is_done(name, inputs) for name, inputs, _ in steps)
        if done and not self.damage():
            return False
        require_writable()
        print(f"Setting up {self.flavour.name} with Python {sys.version.split()[0]} in {VENV} (log: {LOG})", flush=True)
        missing = missing_system_packages()
        if missing:
            install_system_packages(missing)
        self.make_venv()
        self.repair()
        for name, inputs, action in steps:
            if not self.state.is_done(name, inputs):
                action()
                self.state.mark(name, inputs)
        return True

    def damage(self) -> intact.Damage:
        """What is missing of the environment; the messages count as the package ``wbvla-msgs``."""
        found = intact.look(VENV, self.state.packages)
        lost = [path for path in self.state.message_files if not os.path.lexists(ROOT / path)]
        return replace(found, packages=found.packages | {MESSAGES: ""}, files=found.files + len(lost)) if lost else found

    def repair(self) -> None:
        """Make good what is missing, so that the steps find an environment that is whole as far as they went."""
        damage = self.damage()
        if not damage:
            return
        print(f"  {VENV} lacks {damage}: making it good", flush=True)
        self.state.forget("check", "installer", *(("messages",) if MESSAGES in damage.packages else ()))
        if damage.base:
            self.make_python()
        site = intact.site_packages(VENV)
        for rest in site.glob("~*"):  # of an installation that was broken off
            shutil.rmtree(rest, ignore_errors=True)
        torn = {name: version for name, version in damage.packages.items() if name not in (MESSAGES, "pip")}
        for name in torn:
            shutil.rmtree(intact.installed(site)[name][1])  # pip takes a package whose list is there for whole
        if torn.keys() & {"torch"} or "torch" in damage.absent:
            self.state.forget("torch")
        if torn.keys() & {"wbvla"} or "wbvla" in damage.absent:
            self.state.forget("package")
        if torn or damage.absent:
            self.state.forget("requirements")

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
        env = {**os.environ, "PATH": f"{self.venv / 'bin'}:{os.environ['PATH']}", "VIRTUAL_ENV": str(self.venv)}
        if not self.flavour.sourced:
            env.update(AMENT_PREFIX_PATH=str(self.venv), CMAKE_PREFIX_PATH=str(self.venv))
        return env

    def pip(self, title: str, *arguments: str) -> None:
        step(title, [str(self.python), "-m", "pip", "--disable-pip-version-check", "install", "--progress-bar", "off", *arguments])

    def make_venv(self) -> None:
        """The environment of this flavour and Python. Its state file comes first: a set-up that is killed here goes on later."""
        if self.state.key is None and VENV.is_dir() and any(VENV.iterdir()):
            if not self.adopt and not intact.is_ours(VENV):
                raise SetupError(f"{VENV} was not made by this set-up. Move it away, or install into it with: {sys.executable} scripts/setup_env.py --adopt")
            if not self.adopt and not intact.fits(VENV, self.flavour.sourced):
                print(f"  {VENV} is of another Python or ROS: making it again", flush=True)
                shutil.rmtree(VENV.resolve())
                VENV.resolve().mkdir()
            self.state.begin(self.key)
        elif self.state.key != self.key:
            if VENV.is_symlink() and any(VENV.iterdir()):
                raise SetupError(f"{VENV} is a link to {VENV.resolve()}, which was made for {self.state.key}. Remove the link: rm {shlex.quote(str(VENV))}")
            if self.state.key is not None:
                print(f"  {VENV} was made for {self.state.key}: making it again", flush=True)
                shutil.rmtree(VENV)
            self.state.begin(self.key)
        if not intact.python_runs(VENV):
            self.make_python()

    def make_python(self) -> None:
        """bin/python, pyvenv.cfg and pip; what else is installed stays."""
        site = intact.site_packages(VENV)
        for rest in (site / "pip", *site.glob("pip-*.dist-info")):
            shutil.rmtree(rest, ignore_errors=True)
        for link in (VENV / "bin").glob("python*"):
            link.unlink()
        options = ["--system-site-packages"] if self.flavour.sourced else []
        step("virtual environment", [getattr(sys, "_base_executable", sys.executable), "-m", "venv", "--prompt", intact.MARK, *options, str(VENV)])

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

    @property
    def venv(self) -> Path:
        """The environment, by a path that CMake can read."""
        return plain_root() / ".venv"

    def build_messages(self) -> None:
        """``wbvla_msgs`` from its ordinary package folder: colcon on a sourced ROS 2, plain CMake into the venv on wheels."""
        root = plain_root()
        if self.flavour.sourced:
            build = [*self.colcon(), "build", "--packages-select", "wbvla_msgs"]
            if root != ROOT:
                bases = {"base-paths": "src/wbvla_msgs", "build-base": "build", "install-base": "install"}
                build += [word for name, folder in bases.items() for word in (f"--{name}", str(root / "ros_ws" / folder))]
            step("wbvla_msgs (colcon)", build, env=self.environment(), cwd=ROOT / "ros_ws")
            files = sorted(path for path in (ROOT / "ros_ws" / "install" / "wbvla_msgs").rglob("*") if path.is_file())
            self.state.note(message_files=[str(path.relative_to(ROOT)) for path in files])
            return
        build = root / "build" / "wbvla_msgs"
        shutil.rmtree(build, ignore_errors=True)
        env = self.environment()
        definitions = {
            "CMAKE_BUILD_TYPE": "Release",
            "CMAKE_INSTALL_PREFIX": self.venv,
            "Python3_EXECUTABLE": self.venv / "bin" / "python",
            "BUILD_TESTING": "OFF",
            "CMAKE_PROJECT_INCLUDE": root / "scripts" / "fix_wheel_paths.cmake",
        }
        configure = ["cmake", "-S", str(root / "wbvla_msgs"), "-B", str(build), "-G", "Ninja", *(f"-D{name}={value}" for name, value in definitions.items())]
        step("wbvla_msgs: configure", configure, env=env)
        step("wbvla_msgs: compile", ["cmake", "--build", str(build)], env=env)
        step("wbvla_msgs: install into .venv", ["cmake", "--install", str(build)], env=env)
        files = (build / "install_manifest.txt").read_text().splitlines()
        self.state.note(message_files=[os.path.relpath(path, root) for path in files])

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
        if not self.flavour.sourced:
            require_no_shadows(os.environ.get("PYTHONPATH", ""))  # again: now the environment is full
        code = "import mujoco, numpy, rclpy, torch; from wbvla_msgs.msg import LocoCommand; import wbvla_cli.main"
        script = f"source {shlex.quote(str(ROOT / 'scripts' / 'env.sh'))} && cd / && python -c {shlex.quote(code)}"
        step("check: rclpy, wbvla_msgs, torch and mujoco load together", ["bash", "-c", script])
        self.state.note(packages=sorted(intact.installed(intact.site_packages(VENV))))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--adopt", action="store_true", help="install into a .venv that this script did not make")
    arguments = parser.parse_args()
    if sys.version_info < MINIMUM_PYTHON:
        raise SetupError(f"wbvla needs Python >= 3.10, this is {sys.version.split()[0]}. Name another: make PYTHON=python3.12 ...")
    with one_at_a_time():
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
    except OSError as error:
        print(f"\nwbvla set-up: {error.strerror}{f': {error.filename}' if error.filename else ''}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("\nwbvla set-up: interrupted; the same command goes on where this stopped", file=sys.stderr)
        sys.exit(130)
