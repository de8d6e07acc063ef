"""Bags: ``wbvla record`` writes every topic of config/qos.yaml to MCAP, :func:`read_messages` and :func:`read_arrays` read them back without ROS.

``wbvla record DIR`` is one bag; ``--episodes`` makes DIR a session of episodes, begun and ended by keys, by a gamepad's buttons (``wbvla teleop``) or by the
services; ``--audit`` mends what a kill left in DIR and prints what its bags are worth.

The recorder itself is :mod:`wbvla_cli.record_node`, a process of the node table. Definitions of our own messages are read from the ``.msg`` files and
travel inside the bag, so that a bag stays readable where wbvla is not installed.
"""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from wbvla_cli.notes import HELP as NOTES_HELP
from wbvla_cli.notes import Notebook
from wbvla_cli.record_command import RecordOptions
from wbvla_core.console import program
from wbvla_core.ros.tables import message_folders, topic_table
from wbvla_teleop.keyboard import RawTerminal
from wbvla_teleop.recording.audit import as_table, audit_bag, write_json
from wbvla_teleop.recording.episodes import AUDIT, Session, episode_folders
from wbvla_teleop.recording.storage import BagError, is_complete, repair, scan

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
    bag = Path(bag)
    files = sorted(bag.glob("*.mcap")) if bag.is_dir() else [bag] if bag.suffix == ".mcap" else []
    if len(files) == 1 and (not is_complete(files[0]) or (bag.is_dir() and not (bag / "metadata.yaml").is_file())):
        yield from _read_unclosed(files[0], topics)
        return
    with AnyReader([bag], default_typestore=typestore()) as reader:
        connections = [c for c in reader.connections if topics is None or c.topic in topics]
        for connection, arrival_ns, data in reader.messages(connections=connections):
            yield connection.topic, arrival_ns, reader.deserialize(data, connection.msgtype)


def _read_unclosed(path: Path, topics: Sequence[str] | None) -> Iterator[tuple[str, int, Any]]:
    """The same from a bag whose recorder was killed, or works on it still."""
    store = typestore()
    for channel, arrival_ns, data in scan(path):
        if topics is None or channel.topic in topics:
            if channel.type not in store.types:
                store.register(get_types_from_msg(channel.definition, channel.type))
            yield channel.topic, arrival_ns, store.deserialize_cdr(data, channel.type)


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


KEYS = {"s": "record_start", "e": "record_stop", "x": "record_discard"}


def audit(folder: Path) -> int:
    """Mend and audit a bag, or all episodes of a session. Exit status 1 where one of them has problems."""
    table = topic_table()
    if not folder.exists():
        raise BagError(f"{folder} does not exist")
    if folder.is_dir() and not list(folder.glob("*.mcap")):
        session = Session(folder, table)  # its lock: no recorder is at work here; mends what one left
        for name, text in session.recovered:
            print(f"{name}: {text}")
        session.close()
        bags = episode_folders(folder)
        if not bags:
            raise BagError(f"{folder} holds neither a bag nor episodes")
    else:
        bags = [folder]
    status = 0
    for bag in bags:
        try:
            mended = repair(bag)
            report = audit_bag(bag, table)
            if bag.is_dir() and (mended or not (bag / AUDIT).is_file()):
                write_json(bag / AUDIT, report)
        except (BagError, OSError) as error:
            print(f"\n{bag.name}: {error}")
            status = 1
            continue
        print(f"\n{bag.name}{f': mended, {mended} messages' if mended else ''}\n{as_table(report)}")
        status = 1 if report["problems"] else status
    return status


def record(options: RecordOptions) -> int:
    """Record until Ctrl-C, or audit what is there; returns the exit status."""
    if options.audit:
        return audit(options.output)
    from wbvla_cli.runner import Stack
    from wbvla_core.ros.process import StopSignal

    stop = StopSignal()
    place = {"session" if options.episodes else "output": str(options.output.absolute()), "min_free_mb": options.min_free_mb}
    with Stack(("record",), parameters={"record": place}, domain_id=options.domain, cancelled=stop.is_set) as stack, RawTerminal() as terminal:
        stack.wait_active()
        notebook = Notebook(stack.client.note, options.instruction, options.notes)
        if options.episodes:
            print(f"[record] s start   e end   x discard   {NOTES_HELP}   q quit", flush=True)
        deadline_s = time.monotonic() + (options.duration_s or float("inf"))
        while not stop.is_set() and time.monotonic() < deadline_s and not stack.dead():
            if not (options.episodes and sys.stdin.isatty()):
                time.sleep(0.1)
                continue
            for key in terminal.keys(0.1):
                if notebook.key(key):
                    continue
                if key == "q":
                    deadline_s = 0.0
                elif key in KEYS:
                    try:
                        print(f"[record] {stack.client.call(KEYS[key], timeout_s=10.0).message}", flush=True)
                    except TimeoutError as error:
                        print(f"[record] {error}", file=sys.stderr)
        status = 1 if stack.dead() else 0
    if not options.episodes and options.output.is_dir() and (options.output / AUDIT).is_file():
        print(as_table(json.loads((options.output / AUDIT).read_text(encoding="utf-8"))))
    return status


if __name__ == "__main__":
    from wbvla_cli.record_command import main

    program(main)
