"""Bags: ``wbvla record`` writes every topic of config/qos.yaml to MCAP, :func:`read_messages` and :func:`read_arrays` read them back without ROS.

The recorder itself is :mod:`wbvla_cli.record_node`, a process of the node table. Definitions of our own messages are read from the ``.msg`` files and
travel inside the bag, so that a bag stays readable where wbvla is not installed.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from wbvla_core.ros.tables import message_folders

MESSAGES = "wbvla_msgs"


def typestore() -> Typestore:
    """ROS 2 Jazzy's types and ours.

    Raises:
        FileNotFoundError: the .msg files of wbvla_msgs are nowhere.
    """
    store = get_typestore(Stores.ROS2_JAZZY)
    folder = next((folder for folder in message_folders(MESSAGES) if folder.is_dir()), None)
    if folder is None:
        raise FileNotFoundError(f"the .msg files of {MESSAGES} expected in one of {[str(f) for f in message_folders(MESSAGES)]}; build the messages")
    types: dict[str, Any] = {}
    for path in sorted(folder.glob("*.msg")):
        types |= get_types_from_msg(path.read_text(), f"{MESSAGES}/msg/{path.stem}")
    store.register(types)
    return store


def read_messages(bag: Path, topics: Sequence[str] | None = None) -> Iterator[tuple[str, int, Any]]:
    """(topic, time of arrival in ns, message with the field names of its .msg) in the order of arrival.

    Args:
        bag: the recorder's folder, or the .mcap file alone.
        topics: only these topic names; default all.
    """
    with AnyReader([Path(bag)], default_typestore=typestore()) as reader:
        connections = [c for c in reader.connections if topics is None or c.topic in topics]
        for connection, arrival_ns, data in reader.messages(connections=connections):
            yield connection.topic, arrival_ns, reader.deserialize(data, connection.msgtype)


def read_arrays(bag: Path, topics: Sequence[str] | None = None) -> dict[str, dict[str, np.ndarray]]:
    """Topic -> {arrival_ns [M], stamp_ns [M] where there is a header, and every number or numeric array of the message stacked [M, ...]}.

    Fields whose length differs between messages are left out; nested fields have dotted names.
    """
    columns: dict[str, dict[str, list]] = defaultdict(lambda: defaultdict(list))
    for topic, arrival_ns, message in read_messages(bag, topics):
        columns[topic]["arrival_ns"].append(arrival_ns)
        if hasattr(message, "header"):
            stamp = message.header.stamp
            columns[topic]["stamp_ns"].append(stamp.sec * 1_000_000_000 + stamp.nanosec)
        for name, value in _numbers(message, ""):
            columns[topic][name].append(value)
    out: dict[str, dict[str, np.ndarray]] = {}
    for topic, fields in columns.items():
        count = len(fields["arrival_ns"])
        out[topic] = {name: np.array(values) for name, values in fields.items() if len(values) == count and len({np.shape(v) for v in values}) == 1}
    return out


def _numbers(message: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in vars(message).items():
        if name.isupper():  # a constant of the message
            continue
        if isinstance(value, (bool, int, float)) or (isinstance(value, np.ndarray) and value.dtype.kind in "biuf"):
            yield prefix + name, value
        elif hasattr(value, "__msgtype__") and name != "header":
            yield from _numbers(value, f"{prefix}{name}.")


@dataclass(frozen=True)
class RecordOptions:
    """Record every topic of config/qos.yaml to MCAP until Ctrl-C."""

    output: Annotated[Path, tyro.conf.Positional]
    """folder of the bag; must not exist yet"""
    duration_s: float = 0.0
    """stop by itself after this time, s; 0 = at Ctrl-C"""
    domain: int | None = None
    """ROS domain id; default: the environment's"""


def main(argv: Sequence[str] | None = None) -> int:
    """``wbvla record``."""
    from wbvla_cli.runner import Stack
    from wbvla_core.ros.process import StopSignal

    options = tyro.cli(RecordOptions, args=argv, prog="wbvla record")
    stop = StopSignal()
    with Stack(("record",), parameters={"record": {"output": str(options.output.absolute())}}, domain_id=options.domain, cancelled=stop.is_set) as stack:
        stack.wait_active()
        deadline_s = time.monotonic() + (options.duration_s or float("inf"))
        while not stop.is_set() and time.monotonic() < deadline_s and not stack.dead():
            time.sleep(0.1)
        status = 1 if stack.dead() else 0
    return status


if __name__ == "__main__":
    sys.exit(main())
