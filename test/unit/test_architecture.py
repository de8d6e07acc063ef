"""The rules that keep the house a house: who may import whom, what the robot may load, what the tree may hold."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Imports go downwards only; rooms on one floor do not know each other.
FLOORS = (
    ("wbvla_core",),
    ("wbvla_perception", "wbvla_decoder", "wbvla_lmo", "wbvla_sim", "wbvla_teleop", "wbvla_bridge"),
    ("wbvla_vla",),
    ("wbvla_train", "wbvla_eval"),
    ("wbvla_cli",),
)
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
ROOMS = tuple(room for room in FLOOR_OF if (ROOT / room).is_dir())

ROS_PACKAGES = {
    *("rclpy", "wbvla_msgs", "cv_bridge", "launch", "launch_ros", "ament_index_python", "tf2_ros", "rosbag2_py", "rosidl_runtime_py"),
    *("action_msgs", "builtin_interfaces", "diagnostic_msgs", "geometry_msgs", "lifecycle_msgs", "nav_msgs", "rcl_interfaces"),
    *("rosgraph_msgs", "sensor_msgs", "std_msgs", "std_srvs", "tf2_msgs", "trajectory_msgs", "unique_identifier_msgs", "visualization_msgs"),
}
ONBOARD = ("wbvla_core", "wbvla_lmo", "wbvla_teleop", "wbvla_bridge")  # runs on the robot: `pip install wbvla[robot]`, no torch
NOT_ONBOARD = {"torch", "transformers", "mujoco", "stable_baselines3", "gymnasium", "matplotlib"}
MAX_TREE_BYTES = 45e6

# Import name -> distribution, where they differ.
DISTRIBUTION = {
    "pydrake": "drake",
    "yaml": "pyyaml",
    "PIL": "pillow",
    "zmq": "pyzmq",
    "stable_baselines3": "stable-baselines3",
    "cv2": "opencv-python-headless",
    "rerun": "rerun-sdk",
}


@dataclass(frozen=True)
class Import:
    """One import statement's module, absolute, and whether it runs when the file is imported."""

    module: str
    line: int
    at_import: bool

    @property
    def top(self) -> str:
        return self.module.split(".")[0]


def imports_of(path: Path, module: str) -> list[Import]:
    """Every import in a file, at any depth. ``if TYPE_CHECKING`` blocks count: they are knowledge of another room too."""
    found: list[Import] = []

    def visit(node: ast.AST, at_import: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend(Import(alias.name, node.lineno, at_import) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
            base = package[: len(package) - node.level + 1] if node.level else []
            target = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            found.append(Import(target, node.lineno, at_import))
            found.extend(Import(f"{target}.{alias.name}", node.lineno, at_import) for alias in node.names if f"{target}.{alias.name}" in MODULES)
        inside_function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        type_checking = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for child in ast.iter_child_nodes(node):
            visit(child, at_import and not inside_function and not type_checking)

    visit(ast.parse(path.read_text(), filename=str(path)), True)
    return found


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))}
IMPORTS = {name: imports_of(path, name) for name, path in MODULES.items()}


def may_import_ros(name: str) -> bool:
    """Nodes, and the one place where messages are packed and unpacked."""
    last = name.split(".")[-1]
    return last == "node" or last.endswith("_node") or name.startswith("wbvla_core.ros")


def complain(faults: list[str], rule: str) -> None:
    assert not faults, f"{rule}:\n  " + "\n  ".join(faults)


def tracked_files() -> list[Path]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode != 0:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file() and not (ROOT / name).is_symlink()]


def test_every_room_has_a_floor():
    rooms = {path.parent.name for path in ROOT.glob("wbvla_*/__init__.py")}
    assert rooms <= set(FLOOR_OF), f"rooms without a floor: {sorted(rooms - set(FLOOR_OF))}"


def test_imports_go_downwards_only_and_rooms_of_one_floor_do_not_know_each_other():
    faults = [
        f"{name}:{item.line} imports {item.module}"
        for name, items in IMPORTS.items()
        for item in items
        if item.top in FLOOR_OF and item.top != name.split(".")[0] and FLOOR_OF[item.top] >= FLOOR_OF[name.split(".")[0]]
    ]
    complain(faults, "core <- perception, decoder, lmo, sim, teleop, bridge <- vla <- train, eval <- cli")


def test_training_and_evaluation_are_imported_by_the_command_and_by_tests_only():
    faults = [
        f"{name}:{item.line} imports {item.module}"
        for name, items in IMPORTS.items()
        for item in items
        if item.top in ("wbvla_train", "wbvla_eval") and name.split(".")[0] not in (item.top, "wbvla_cli")
    ]
    complain(faults, "nothing that runs on a robot may depend on training or evaluation")


def test_only_nodes_and_the_message_codec_import_ros():
    faults = [
        f"{name}:{item.line} imports {item.module}"
        for name, items in IMPORTS.items()
        for item in items
        if item.top in ROS_PACKAGES and not may_import_ros(name)
    ]
    complain(faults, "rclpy and messages belong into node.py, *_node.py and wbvla_core/ros")


def test_no_plain_module_loads_ros_through_another():
    """Follows what runs at import: a plain module that imports a node there needs ROS after all (a table of topic names beside the codec does not)."""
    loads_ros: dict[str, bool] = {}

    def loads(name: str) -> bool:
        if name not in loads_ros:
            loads_ros[name] = False  # a circle adds nothing
            items = [item for item in IMPORTS[name] if item.at_import]
            parents = {".".join(item.module.split(".")[:count]) for item in items for count in range(1, item.module.count(".") + 2)}
            loads_ros[name] = any(item.top in ROS_PACKAGES for item in items) or any(loads(parent) for parent in parents if parent in MODULES)
        return loads_ros[name]

    faults = [name for name in MODULES if not may_import_ros(name) and loads(name)]
    complain(faults, "these plain modules load ROS when they are imported")


def test_the_core_needs_numpy_and_yaml_only():
    allowed = {"numpy", "yaml", "wbvla_core", *sys.stdlib_module_names}
    faults = [
        f"{name}:{item.line} imports {item.module}"
        for name, items in IMPORTS.items()
        if name.split(".")[0] == "wbvla_core"
        for item in items
        if item.top not in allowed and not (item.top in ROS_PACKAGES and may_import_ros(name))
    ]
    complain(faults, "wbvla_core imports numpy and yaml")


def test_no_module_imports_itself_in_a_circle():
    graph = {name: {item.module for item in items if item.at_import and item.module in MODULES and item.module != name} for name, items in IMPORTS.items()}
    done: set[str] = set()

    def walk(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"circle: {' -> '.join((*path[path.index(name) :], name))}"
        if name not in done:
            for target in sorted(graph[name]):
                walk(target, (*path, name))
            done.add(name)

    for name in graph:
        walk(name, ())


def test_onboard_modules_load_on_a_machine_without_torch_and_simulator():
    """Imports every module of the robot's rooms but the nodes in a process where the heavy packages do not exist."""
    names = [name for name in MODULES if name.split(".")[0] in ONBOARD and not may_import_ros(name)]
    assert len(names) > 5
    code = f"""
import importlib, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {NOT_ONBOARD!r}:
            raise ModuleNotFoundError(f'{{name}} does not exist on the robot', name=name)
sys.meta_path.insert(0, Absent())
for name in {names!r}:
    importlib.import_module(name)
"""
    outcome = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert outcome.returncode == 0, outcome.stderr


def test_onboard_rooms_never_name_torch_or_the_simulator():
    faults = [
        f"{name}:{item.line} imports {item.module}"
        for name, items in IMPORTS.items()
        if name.split(".")[0] in ONBOARD
        for item in items
        if item.top in NOT_ONBOARD
    ]
    complain(faults, "not even inside a function: the robot has no torch")


def test_every_third_party_import_is_a_declared_requirement():
    declared = {
        re.split(r"[\[;<>=! ]", line.strip())[0].lower()
        for path in (ROOT / "requirements").glob("*.txt")
        if not path.name.startswith(("pins", "ros-"))
        for line in path.read_text().splitlines()
        if line.strip() and not line.startswith("#")
    }
    known = set(sys.stdlib_module_names) | ROS_PACKAGES | set(FLOOR_OF)
    faults = [
        f"{name}:{item.line} imports {item.module}"
        for name, items in IMPORTS.items()
        for item in items
        if item.top not in known and DISTRIBUTION.get(item.top, item.top).lower() not in declared
    ]
    complain(faults, "add the package to requirements/<room>.txt and its version to requirements/pins.txt")


def test_every_verb_of_the_command_has_its_module_and_every_module_its_main():
    from wbvla_cli.main import VERBS

    faults = []
    for verb in VERBS:
        path = MODULES.get(verb.module)
        functions = [node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)] if path else []
        if "main" not in functions:
            faults.append(f"wbvla {verb.name}: {verb.module} {'has no main(argv)' if path else 'does not exist'}")
    complain(faults, "the table in wbvla_cli/main.py")


def test_every_room_says_in_its_docstring_what_it_is():
    faults = [room for room in ROOMS if (ROOT / room / "__init__.py").is_file() and not ast.get_docstring(ast.parse((ROOT / room / "__init__.py").read_text()))]
    complain(faults, "the package docstring is the map")


def test_joint_counts_are_asked_of_the_robot_spec():
    """No joint count of the X2 as a bare number in the rooms that handle joints (wbvla_vla does not: its 14 and 27 are patch size and vision layers)."""
    counts = {14, 27, 29, 33}
    rooms = ("wbvla_core", "wbvla_perception", "wbvla_lmo", "wbvla_decoder", "wbvla_sim", "wbvla_teleop", "wbvla_bridge")
    faults = [
        f"{name}:{node.lineno} has the number {node.value}"
        for name, path in MODULES.items()
        if name.split(".")[0] in rooms
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and type(node.value) is int and node.value in counts
    ]
    complain(faults, "embodiment is data: robot.joint_count, robot.indices(group)")


def test_no_file_names_a_place_on_one_machine():
    places = re.compile("|".join(re.escape(f"/{top}/") for top in ("work", "home", "root", "Users")))
    faults = []
    for path in tracked_files():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        faults += [f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}" for number, line in enumerate(text.splitlines(), 1) if places.search(line)]
    complain(faults, "absolute paths")


def test_the_tree_stays_small_enough_to_clone():
    sizes = {path: path.stat().st_size for path in tracked_files()}
    largest = sorted(sizes, key=sizes.get, reverse=True)[:5]
    assert sum(sizes.values()) < MAX_TREE_BYTES, [(str(path.relative_to(ROOT)), sizes[path]) for path in largest]


def test_both_packages_are_visible_to_colcon_and_each_test_runs_once():
    assert (ROOT / "ros_ws" / "src" / "wbvla" / "package.xml").is_file()
    assert (ROOT / "ros_ws" / "src" / "wbvla_msgs" / "package.xml").is_file()
    # collects as `make test` does, but opens only the files whose names begin with "a": the others load torch
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "--ignore-glob=*/test_[!a]*.py"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert listing.stdout.count("::test_both_packages") == 1, listing.stdout + listing.stderr
