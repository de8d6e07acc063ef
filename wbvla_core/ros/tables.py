"""config/qos.yaml and config/nodes.yaml as typed values.

No rclpy here: the runner, the documentation test and the bag reader use these tables on machines without ROS.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from wbvla_core.robot import share_roots

PACKAGE = "wbvla"


def share_dir() -> Path:
    """The folder that holds config/ and checkpoints/: the repository, or the installed share folder.

    Raises:
        FileNotFoundError: neither is there; the text lists where it looked.
    """
    candidates = share_roots()
    for candidate in candidates:
        if (candidate / "config" / "qos.yaml").is_file():
            return candidate
    raise FileNotFoundError(f"config/qos.yaml expected in one of {[str(c) for c in candidates]}; is {PACKAGE} installed, or AMENT_PREFIX_PATH set?")


def message_folders(package: str) -> list[Path]:
    """Where the .msg files of an interface package may lie: beside the source, or installed."""
    prefixes = [prefix for prefix in (*os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep), sys.prefix) if prefix]
    return [Path(__file__).resolve().parents[2] / package / "msg", *(Path(prefix) / "share" / package / "msg" for prefix in prefixes)]


@dataclass(frozen=True)
class Endpoint:
    """One row of qos.yaml: a topic, a service or an action.

    Attributes:
        key: what the code calls it.
        name: what ROS calls it.
        type: package/msg/Name (srv, action).
        owner: the one process that publishes or serves it.
        profile: how it travels (topics only).
        rate_hz: nominal rate; 0 = on change (topics only).
        units: units of the values, for people.
        record: whether bags keep it.
        on_demand: silent while nobody commands or notes anything: a gap is no fault of a recording (topics only).
        optional: its message type is not installed everywhere; without it the topic is neither published nor recorded (topics only).
    """

    key: str
    name: str
    type: str
    owner: str
    profile: str = ""
    rate_hz: float = 0.0
    units: str = ""
    record: bool = True
    on_demand: bool = False
    optional: bool = False


@dataclass(frozen=True)
class Profile:
    """How a topic travels: reliability (reliable | best_effort), durability (volatile | transient_local), depth."""

    reliability: str
    durability: str
    depth: int


@dataclass(frozen=True)
class TopicTable:
    """qos.yaml."""

    profiles: dict[str, Profile]
    topics: dict[str, Endpoint]
    services: dict[str, Endpoint]
    actions: dict[str, Endpoint]

    def profile(self, key: str) -> Profile:
        """The profile of topic ``key``."""
        return self.profiles[self.topics[key].profile]


@dataclass(frozen=True)
class NodeEntry:
    """One row of nodes.yaml: a process of the stack.

    Attributes:
        name: node name, also the prefix of its log lines.
        module: python module with ``main()``.
        executable: name of the console script, for ros2 launch and ros2 run.
        order: start order; nodes stop in reverse order.
        launches: which launch groups contain it.
        critical: whether the whole stack stops when this process dies.
        loop: whether it belongs to the 50 Hz loop, which talks over UDP only.
        rss_limit_mb: what its resident memory is held to by the benchmark, 0 = no limit.
        defaults: launch group -> parameters in place of the code's defaults there, under every parameter file.
    """

    name: str
    module: str
    executable: str
    order: int
    launches: tuple[str, ...]
    critical: bool = False
    loop: bool = False
    rss_limit_mb: float = 0.0
    defaults: Mapping[str, Mapping[str, object]] = field(default_factory=dict)

    def defaults_in(self, groups: Iterable[str]) -> dict[str, object]:
        """This node's defaults where it runs in these launch groups."""
        return {name: value for group in groups for name, value in self.defaults.get(group, {}).items()}

    def dds_environment(self, environment: Mapping[str, str]) -> dict[str, str]:
        """What this process's environment has beside ``environment``: its Fast DDS profile. One that the operator chose is left alone.

        Fast DDS 2 (Humble, Jazzy) reads the first variable, Fast DDS 3 the second.
        """
        ours = share_dir() / "config"
        names = [n for n in ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE") if n not in environment or Path(environment[n]).parent == ours]
        if not self.loop or not names:
            return dict.fromkeys(names, str(ours / "fastdds.xml"))
        # restricted to this machine, rmw_fastrtps adds shared memory whatever the profile says: the restriction moves into the profile
        local = {n: v for n, v in (("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST"), ("ROS_LOCALHOST_ONLY", "1")) if environment.get(n) == v}
        free = {"ROS_AUTOMATIC_DISCOVERY_RANGE": "SYSTEM_DEFAULT", "ROS_LOCALHOST_ONLY": "0"}
        return dict.fromkeys(names, str(ours / ("fastdds_loop_local.xml" if local else "fastdds_loop.xml"))) | {n: free[n] for n in local}


@dataclass(frozen=True)
class NodeTable:
    """nodes.yaml.

    Attributes:
        parameters: ROS parameter file of all nodes, relative to the share folder.
        nodes: rows in start order.
    """

    parameters: str
    nodes: tuple[NodeEntry, ...] = field(default=())

    def launch(self, *groups: str) -> tuple[NodeEntry, ...]:
        """The nodes of these launch groups, in start order.

        Raises:
            ValueError: a group that no node names.
        """
        known = {group for node in self.nodes for group in node.launches}
        for group in groups:
            if group not in known:
                raise ValueError(f"launch group must be one of {sorted(known)}, got {group!r}")
        return tuple(node for node in self.nodes if set(groups) & set(node.launches))

    @property
    def parameter_file(self) -> Path:
        return share_dir() / self.parameters


@functools.cache
def topic_table() -> TopicTable:
    """qos.yaml, read once."""
    raw = yaml.safe_load((share_dir() / "config" / "qos.yaml").read_text())
    table = TopicTable(
        profiles={name: Profile(**values) for name, values in raw["profiles"].items()},
        topics={key: Endpoint(key=key, **values) for key, values in raw["topics"].items()},
        services={key: Endpoint(key=key, **values) for key, values in raw["services"].items()},
        actions={key: Endpoint(key=key, **values) for key, values in raw["actions"].items()},
    )
    for topic in table.topics.values():
        if topic.profile not in table.profiles:
            raise ValueError(f"qos.yaml: topic {topic.key} names profile {topic.profile!r}, expected one of {sorted(table.profiles)}")
    return table


@functools.cache
def node_table() -> NodeTable:
    """nodes.yaml, read once, in start order."""
    raw = yaml.safe_load((share_dir() / "config" / "nodes.yaml").read_text())
    rows = [NodeEntry(**{**row, "launches": tuple(row["launches"])}) for row in raw["nodes"]]
    if len({row.name for row in rows}) != len(rows):
        raise ValueError("nodes.yaml: node names must be unique")
    return NodeTable(parameters=raw["parameters"], nodes=tuple(sorted(rows, key=lambda row: row.order)))
