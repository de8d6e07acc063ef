"""The ament_python package ``wbvla``. All metadata is here; pyproject.toml only names the build system and the tools.

Works for ``pip install -e .``, for ``pip install 'wbvla[robot]'`` and for ``colcon build``.
"""

from __future__ import annotations

import os
from glob import glob
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.develop import develop

HERE = Path(__file__).resolve().parent
NAME = "wbvla"
# The executables of config/nodes.yaml, for `ros2 run wbvla <node>` and launch files; a test holds the two together.
NODES = {
    "sim_node": "wbvla_sim.node",
    "render_node": "wbvla_sim.render_node",
    "lmo_node": "wbvla_lmo.node",
    "perception_node": "wbvla_perception.node",
    "vla_node": "wbvla_vla.node",
    "record_node": "wbvla_cli.record_node",
    "teleop_node": "wbvla_cli.teleop_node",
    "lifecycle_manager": "wbvla_core.ros.manager",
}
EXTRAS = ("robot", "sim", "vla", "train", "view", "quantize", "drake", "dev")


def requirements(name: str) -> list[str]:
    """Lines of requirements/<name>.txt without comments. Versions are pinned by requirements/pins*.txt, given with ``pip -c``."""
    lines = (HERE / "requirements" / f"{name}.txt").read_text().splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def data_files(*folders: str) -> list[tuple[str, list[str]]]:
    """Every file below ``folders``, installed under share/wbvla with the same relative path."""
    found: list[tuple[str, list[str]]] = []
    for folder in folders:
        for directory, _, files in os.walk(folder):
            paths = [os.path.join(directory, name) for name in sorted(files) if not name.endswith(".pyc")]
            if paths:
                found.append((f"share/{NAME}/{directory}", paths))
    return found


class Develop(develop):
    """``colcon build --symlink-install``: this command alone does not read ``[build_scripts]`` of setup.cfg, whose first line the nodes must have, too.

    From setuptools 80 on the command is pip's and writes no scripts itself.
    """

    def write_script(self, script_name, contents, mode="t", blockers=()):
        if contents.startswith("#!"):
            shebang = f"#!{self.distribution.get_option_dict('build_scripts')['executable'][1]}"
            contents = "\n".join((shebang, *contents.split("\n")[1:]))
        super().write_script(script_name, contents, mode, blockers)


os.chdir(HERE)  # data files are named relative to this file, wherever the build was started

extras = {name: requirements(name) for name in EXTRAS}
extras["test"] = requirements("dev")  # the name by which colcon test recognises a package that uses pytest

setup(
    name=NAME,
    version="0.1.0",
    description="Whole-body vision-language-action control of a humanoid on ROS 2: an open implementation of WholeBodyVLA",
    author="wbvla maintainers",
    author_email="maintainers@wbvla.example",
    maintainer="wbvla maintainers",
    maintainer_email="maintainers@wbvla.example",
    license="Apache-2.0",
    python_requires=">=3.10",
    # wbvla_msgs is an ament_cmake package of its own; its folder must not be packed as an empty Python package
    packages=find_packages(include=["wbvla_*"], exclude=["wbvla_msgs", "wbvla_msgs.*"]),
    package_data={"wbvla_sim": ["model/*.xml", "model/*.urdf"], "wbvla_eval": ["*.css"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml", *glob("LICENSE")]),
        *data_files("config", "launch", "checkpoints"),
    ],
    install_requires=requirements("core"),
    extras_require=extras,
    # wbvla_core.start imports next to nothing before a signal can be answered, and then the module of nodes.yaml
    entry_points={"console_scripts": [f"{name} = wbvla_core.start:{name}" for name in ("wbvla", *NODES)]},
    cmdclass={"develop": Develop},
    zip_safe=False,
)
