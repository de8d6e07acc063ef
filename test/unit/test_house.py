"""Pins, packaging and set-up agree with each other."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from test_architecture import DISTRIBUTION, ROS_PACKAGES

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / "requirements"
sys.path.insert(0, str(ROOT / "scripts"))

import setup_env  # noqa: E402
from steps import StepError, run_step  # noqa: E402


def requirements(path: Path) -> list[Requirement]:
    return [Requirement(line) for line in path.read_text().splitlines() if line.strip() and not line.startswith(("#", "-"))]


def pins(*names: str) -> dict[str, list[Requirement]]:
    found: dict[str, list[Requirement]] = {}
    for name in names:
        for requirement in requirements(REQUIREMENTS / name):
            found.setdefault(requirement.name, []).append(requirement)
    return found


LISTS = sorted(path for path in REQUIREMENTS.glob("*.txt") if not path.name.startswith("pins"))


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12"])
@pytest.mark.parametrize("flavour", ["pins-wheels.txt", "pins-sourced.txt"])
def test_every_requirement_has_exactly_one_pin_for_each_python(python, flavour):
    table = pins("pins.txt", flavour)
    for path in LISTS:
        for requirement in requirements(path):
            assert not requirement.specifier, f"{path.name}: versions belong into pins.txt, found {requirement}"
            applicable = [pin for pin in table.get(requirement.name, []) if pin.marker is None or pin.marker.evaluate({"python_version": python})]
            assert len(applicable) == 1, f"{path.name}: {requirement.name} has {len(applicable)} pins for Python {python} in {flavour}"
            assert re.fullmatch(r"==[\w.]+", str(applicable[0].specifier)), f"{applicable[0]} is not an exact version"


def ros_imports() -> set[str]:
    """Packages of ROS that the code imports: what is neither Python's, nor ours, nor pip's."""
    pip = (
        {name.replace("-", "_").lower() for name in pins("pins.txt", "pins-wheels.txt")}
        | set(DISTRIBUTION)
        | {name.lower() for name in DISTRIBUTION}
        | {"torch"}
    )
    found = set()
    for path in (*ROOT.glob("wbvla_*/**/*.py"), *ROOT.glob("launch/*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module] if isinstance(node, ast.ImportFrom) else []
            found |= {name.split(".")[0] for name in names if name}
    rooms = {path.name for path in ROOT.glob("wbvla_*")} - {"wbvla_msgs"}
    return {name for name in found if name not in sys.stdlib_module_names | rooms and name.replace("-", "_").lower() not in pip}


def test_package_xml_names_every_ros_package_that_code_launch_files_and_topics_use():
    named = {entry.text for entry in ET.parse(ROOT / "package.xml").getroot() if entry.tag in ("depend", "exec_depend")}
    imported = ros_imports()
    assert {"rclpy", "launch_ros", "tf2_msgs", "sensor_msgs", "wbvla_msgs"} <= imported <= ROS_PACKAGES, imported - ROS_PACKAGES
    started = set(re.findall(r'package="(\w+)"', (ROOT / "wbvla_core" / "ros" / "launching.py").read_text()))
    typed = set(re.findall(r"type: (\w+)/", (ROOT / "config" / "qos.yaml").read_text()))
    assert started == {"rviz2", "robot_state_publisher"}
    assert (imported | started | typed) - named == set(), "add these to package.xml as exec_depend"
    assert "joy" in named  # docs start its joy_node


SCRIPTS = {"colcon build": ("install_scripts", "--install-dir"), "colcon build --symlink-install": ("develop", "--script-dir")}


@pytest.mark.parametrize("way", SCRIPTS)
def test_nodes_run_with_the_python_of_the_shell_and_not_with_the_one_that_colcon_has(tmp_path, way):
    command, option = SCRIPTS[way]
    if command == "develop" and int(metadata.version("setuptools").split(".")[0]) >= 80:
        pytest.skip("from setuptools 80 on `develop` is pip's, and colcon cannot use it")
    for name in ("setup.py", "setup.cfg", "package.xml", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("requirements", "resource"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "wbvla_core").mkdir()
    (tmp_path / "wbvla_core" / "__init__.py").touch()
    (tmp_path / "lib").mkdir()
    arguments = ["--no-deps", "--install-dir", str(tmp_path / "lib")] if command == "develop" else []
    python = [sys.executable, "-W", "ignore", "setup.py", "-q", command, *arguments, option, str(tmp_path / "out")]
    subprocess.run(python, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path / "lib")}, check=True, capture_output=True)
    for name in ("lmo_node", "vla_node", "lifecycle_manager"):
        assert (tmp_path / "out" / name).read_text().splitlines()[0] == "#!/usr/bin/env python3"


def test_every_pin_is_used():
    used = {requirement.name for path in LISTS for requirement in requirements(path)}
    assert set(pins("pins.txt", "pins-wheels.txt", "pins-sourced.txt")) == used


def test_the_robot_installs_without_torch_and_the_simulator():
    onboard = {requirement.name for name in ("core.txt", "robot.txt") for requirement in requirements(REQUIREMENTS / name)}
    assert onboard == {"numpy", "pyyaml", "onnxruntime", "pyzmq", "msgpack", "tyro"}


def test_the_unrelated_program_called_launch_is_never_required():
    names = {requirement.name.lower() for path in REQUIREMENTS.glob("*.txt") for requirement in requirements(path)}
    assert "launch" not in names


def test_installed_versions_are_the_pinned_ones():
    """What was tested is what is pinned: a package that somebody upgraded by hand shows here."""
    flavour = setup_env.detect_flavour(dict(__import__("os").environ))
    table = pins("pins.txt", flavour.pins)
    differing = []
    for name in flavour.requirements:
        for requirement in requirements(REQUIREMENTS / f"{name}.txt"):
            pin = next(pin for pin in table[requirement.name] if pin.marker is None or pin.marker.evaluate())
            found = metadata.version(requirement.name)
            if not pin.specifier.contains(found.split("+")[0]):
                differing.append(f"{pin} is pinned, {found} is installed")
    assert not differing, differing


def test_versions_agree_in_both_packages():
    setup_version = re.search(r'version="([^"]+)"', (ROOT / "setup.py").read_text())[1]
    for package in (ROOT / "package.xml", ROOT / "wbvla_msgs" / "package.xml"):
        assert re.search(r"<version>([^<]+)</version>", package.read_text())[1] == setup_version, package
    assert f"## {setup_version}" in (ROOT / "CHANGELOG.md").read_text()


def test_every_node_of_the_table_is_an_executable_of_the_package():
    table = {node["executable"]: node["module"] for node in yaml.safe_load((ROOT / "config" / "nodes.yaml").read_text())["nodes"]}
    scripts = dict(re.findall(r'"(\w+_node)": "([\w.]+)"', (ROOT / "setup.py").read_text()))
    assert scripts == table


def test_a_wheel_of_the_package_has_every_room_but_not_the_messages():
    shown = subprocess.run(
        [sys.executable, "-c", "import setuptools; print(*setuptools.find_packages(include=['wbvla_*'], exclude=['wbvla_msgs', 'wbvla_msgs.*']))"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert {"wbvla_core", "wbvla_core.ros", "wbvla_lmo", "wbvla_cli"} <= set(shown)
    assert "wbvla_msgs" not in shown
    folders = {str(path.parent.relative_to(ROOT)).replace("/", ".") for room in ROOT.glob("wbvla_*") for path in room.rglob("*.py")}
    assert folders <= set(shown), f"folders with Python files that no __init__.py makes a package: {sorted(folders - set(shown))}"


def test_set_up_does_a_step_again_only_when_what_it_depends_on_changes(tmp_path):
    state = setup_env.State(tmp_path / "state.json")
    state.begin("wheels-jazzy")
    assert not state.is_done("messages", "a")
    state.mark("messages", "a")
    again = setup_env.State(tmp_path / "state.json")
    assert again.key == "wheels-jazzy" and again.is_done("messages", "a") and not again.is_done("messages", "b")


def test_set_up_survives_a_state_file_cut_short(tmp_path):
    (tmp_path / "state.json").write_text('{"key": "whee')
    assert setup_env.State(tmp_path / "state.json").key is None


def test_a_sourced_ros_whose_rclpy_does_not_import_is_refused_with_the_way_out(tmp_path):
    python = tmp_path / "python3"
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    with pytest.raises(setup_env.SetupError, match="humble is sourced, but rclpy does not import"):
        setup_env.detect_flavour({"ROS_DISTRO": "humble"}, python=str(python))


def test_a_sourced_ros_is_used_and_the_wheels_are_not():
    flavour = setup_env.detect_flavour({"ROS_DISTRO": "jazzy"}, python="true")
    assert flavour.sourced and flavour.name == "sourced-jazzy"
    assert not any(name.startswith("ros-wheels") for name in flavour.requirements)
    assert flavour.pins == "pins-sourced.txt"


def test_without_rights_to_install_the_set_up_says_exactly_what_to_install(monkeypatch):
    monkeypatch.setattr(setup_env.shutil, "which", lambda name: "/usr/bin/apt-get" if name == "apt-get" else None)
    monkeypatch.setattr(setup_env.os, "geteuid", lambda: 1000)
    with pytest.raises(setup_env.SetupError, match=r"sudo apt-get update && sudo apt-get install -y cmake g\+\+\n"):
        setup_env.install_system_packages({"a C++ compiler": ("g++",), "cmake": ("cmake",)})


def test_as_root_the_set_up_updates_the_package_lists_and_then_installs(monkeypatch, tmp_path):
    calls = tmp_path / "calls"
    apt = tmp_path / "apt-get"
    apt.write_text(f'#!/bin/sh\necho "$DEBIAN_FRONTEND $@" >> {calls}\n')
    apt.chmod(0o755)
    monkeypatch.setattr(setup_env.shutil, "which", lambda name: str(apt) if name == "apt-get" else None)
    monkeypatch.setattr(setup_env.os, "geteuid", lambda: 0)
    monkeypatch.setattr(setup_env, "LOG", tmp_path / "log")
    setup_env.install_system_packages({"a C++ compiler": ("g++",), "EGL": ("libegl1", "libegl-mesa0")})
    assert calls.read_text().splitlines() == ["noninteractive update", "noninteractive install -y --no-install-recommends g++ libegl-mesa0 libegl1"]


def test_a_failed_installation_of_system_packages_names_the_command_to_run_by_hand(monkeypatch, tmp_path):
    apt = tmp_path / "apt-get"
    apt.write_text("#!/bin/sh\necho 'Temporary failure resolving'\nexit 100\n")
    apt.chmod(0o755)
    monkeypatch.setattr(setup_env.shutil, "which", lambda name: str(apt) if name == "apt-get" else None)
    monkeypatch.setattr(setup_env.os, "geteuid", lambda: 0)
    monkeypatch.setattr(setup_env, "LOG", tmp_path / "log")
    with pytest.raises(setup_env.SetupError, match=r"(?s)Temporary failure resolving.*sudo apt-get install -y g\+\+"):
        setup_env.install_system_packages({"a C++ compiler": ("g++",)})


def test_a_failed_step_shows_the_end_of_its_log(tmp_path):
    with pytest.raises(StepError, match="exit status 3\n.*the reason"):
        run_step("a step", ["sh", "-c", "echo the reason; exit 3"], tmp_path / "log", cwd=tmp_path)


def test_the_environment_script_gives_checkouts_their_own_domain_and_keeps_what_the_user_set(tmp_path):
    def domain(checkout: Path, preset: str = "") -> str:
        (checkout / "scripts").mkdir(parents=True, exist_ok=True)
        (checkout / ".venv" / "bin").mkdir(parents=True, exist_ok=True)
        (checkout / ".venv" / "bin" / "python").write_text("")
        (checkout / ".venv" / "bin" / "python").chmod(0o755)
        (checkout / "scripts" / "env.sh").write_text((ROOT / "scripts" / "env.sh").read_text())
        command = f"export ROS_DOMAIN_ID={preset}; source {checkout}/scripts/env.sh && echo $ROS_DOMAIN_ID $ROS_AUTOMATIC_DISCOVERY_RANGE $MUJOCO_GL"
        environment = {"PATH": "/usr/bin:/bin"}
        return subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True, check=True).stdout.strip()

    first, second = domain(tmp_path / "a"), domain(tmp_path / "b")
    assert first.endswith("LOCALHOST egl") and first != second
    assert 1 <= int(first.split()[0]) <= 100
    assert domain(tmp_path / "a", preset="42").startswith("42 ")


def test_continuous_integration_runs_as_somebody_with_an_ordinary_shell(tmp_path):
    """Only what downloads need is handed on: a test that needs a variable of this machine must fail."""
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci" / "run").write_text((ROOT / ".ci" / "run").read_text())
    make = tmp_path / "make"
    make.write_text(f"""#!/bin/sh
env > {tmp_path}/"$1"
case "$2" in ARGS=--junit-xml=*) echo '<testsuites><testsuite tests="1"/></testsuites>' > build/ci/pytest.xml ;; esac
""")
    make.chmod(0o755)
    here = {"HOME": str(tmp_path), "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONUNBUFFERED": "1", "PYTHONPATH": "/junk", "ROS_DOMAIN_ID": "7"}
    here |= {"PIP_INDEX_URL": "https://packages.example/a b", "TORCH_INDEX_URL": "https://torch.example", "SSL_CERT_FILE": "/etc/x.pem", "https_proxy": "p"}
    done = subprocess.run(["bash", str(tmp_path / ".ci" / "run")], env=here, capture_output=True, text=True)
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stderr
    for target in ("test", "lint"):
        seen = dict(line.split("=", 1) for line in (tmp_path / target).read_text().splitlines())
        for name in ("PWD", "OLDPWD", "SHLVL", "_"):  # of the shell that wrote it
            seen.pop(name, None)
        kept = ("HOME", "PATH", "PIP_INDEX_URL", "TORCH_INDEX_URL", "SSL_CERT_FILE", "https_proxy")
        assert seen == {name: here[name] for name in kept} | {"LANG": "C.UTF-8"}
