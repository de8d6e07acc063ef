"""Is the virtual environment still what the set-up left? Reads lists of files, imports nothing. Standard library only."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

NOT_NEEDED = re.compile(r"\.pyc$|(^|/)__pycache__(/|$)")  # caches: Python makes them again
REQUIRED = frozenset(("cv2", "mujoco", "numpy", "PIL", "rclpy", "torch", "tyro", "yaml"))  # looked for before anything is installed, too
MARK = "wbvla"  # the prompt of the environments that the set-up makes, in pyvenv.cfg


def canonical(name: str) -> str:
    """A package's name as the package index compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


@dataclass(frozen=True)
class Damage:
    """What is missing of an environment.

    Attributes:
        base: bin/python does not run, or the environment's own file or pip is incomplete.
        packages: incomplete packages, canonical name -> version.
        absent: packages that were installed and of which nothing is left.
        files: how many files are missing in all.
    """

    base: bool = False
    packages: dict[str, str] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    files: int = 0

    def __bool__(self) -> bool:
        return self.base or bool(self.packages) or bool(self.absent)

    def __str__(self) -> str:
        parts = ["Python itself or pip"] if self.base else []
        parts += [f"{self.files} files of {_listed(sorted(self.packages))}"] if self.packages else []
        parts += [f"the whole of {_listed(self.absent)}"] if self.absent else []
        return " and ".join(parts)


def _listed(names: Iterable[str], most: int = 4) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def site_packages(venv: Path) -> Path:
    """Where packages lie; the set-up makes an environment again when Python's version changes, so this Python's version counts."""
    return venv / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"


def installed(site: Path) -> dict[str, tuple[str, Path]]:
    """Canonical name -> (version, its .dist-info folder)."""
    found = {}
    for folder in site.glob("*.dist-info"):
        name, _, version = folder.name.removesuffix(".dist-info").rpartition("-")
        found[canonical(name)] = version, folder
    return found


def missing_files(site: Path, info: Path) -> Iterator[str]:
    """Files that a package's own list names and that are not there; the list itself where it is gone."""
    record = info / "RECORD"
    if not record.is_file():
        yield f"{info.name}/RECORD"
        return
    with record.open(newline="", encoding="utf-8") as lines:
        for row in csv.reader(lines):
            if row and not NOT_NEEDED.search(row[0]) and not os.path.lexists(os.path.join(site, row[0])):
                yield row[0]


def python_runs(venv: Path) -> bool:
    """bin/python starts and finds its own environment."""
    python = venv / "bin" / "python"
    try:
        done = subprocess.run([str(python), "-I", "-c", "import sys; print(sys.prefix)"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and os.path.realpath(done.stdout.strip()) == os.path.realpath(venv)


def look(venv: Path, expected: Iterable[str] = ()) -> Damage:
    """What is missing.

    Args:
        expected: names of the packages that were installed.
    """
    site = site_packages(venv)
    found = installed(site)
    packages, files = {}, 0
    for name, (version, info) in sorted(found.items()):
        lost = sum(1 for _ in missing_files(site, info))
        if lost:
            packages[name] = version
            files += lost
    base = not (venv / "pyvenv.cfg").is_file() or not python_runs(venv) or not (site / "pip" / "__main__.py").is_file() or "pip" in packages
    return Damage(base, packages, tuple(sorted(set(map(canonical, expected)) - set(found))), files)


def is_ours(venv: Path) -> bool:
    """Whether the set-up made this environment, even where its state file is gone."""
    try:
        text = (venv / "pyvenv.cfg").read_text()
    except OSError:
        text = ""
    return bool(re.search(rf"^prompt = '?{MARK}'?$", text, re.MULTILINE)) or any(site_packages(venv).glob("wbvla-*.dist-info"))


def fits(venv: Path, sourced: bool) -> bool:
    """Whether an environment is of this Python and, by whether it sees the system's packages, of this ROS."""
    try:
        text = (venv / "pyvenv.cfg").read_text()
    except OSError:
        return site_packages(venv).is_dir()
    sees_system = bool(re.search(r"^include-system-site-packages *= *true", text, re.MULTILINE | re.IGNORECASE))
    return site_packages(venv).is_dir() and sees_system == sourced


def shadows(search_path: str, venv: Path, root: Path) -> list[tuple[Path, str]]:
    """(folder, name) of modules on ``search_path`` (PYTHONPATH) that stand before Python's own, the environment's or ours."""
    site = site_packages(venv)
    known = set(sys.stdlib_module_names) | REQUIRED
    for folder in (site, root):
        known |= {module_name(entry) for entry in _entries(folder) if folder == site or entry.name.startswith("wbvla_")}
    found = []
    for text in filter(None, search_path.split(os.pathsep)):
        folder = Path(text)
        if folder.is_dir() and not any(folder.samefile(own) for own in (root, site) if own.is_dir()):
            found += [(folder, name) for name in sorted({module_name(entry) for entry in _entries(folder)} & (known - {""}))]
    return found


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def module_name(entry: Path) -> str:
    """What ``import`` would call a folder's entry; empty where it is none."""
    if entry.is_dir():
        return entry.name if (entry / "__init__.py").is_file() else ""  # without one it stands behind every module of its name
    return entry.name.split(".")[0] if entry.suffix in (".py", ".so") else ""
