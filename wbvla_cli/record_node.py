"""The recorder: every topic of config/qos.yaml, undecoded, to one MCAP file.

Subscriptions hand over serialized messages and the time of their publication (this machine's wall clock: what the bag says of jitter and latency is the
stack's, not the recorder's); a thread writes them. Whatever ends this process but a kill
leaves a complete bag: SIGINT, SIGTERM, and the end of the runner.
"""

from __future__ import annotations

import queue
import threading
import time
from pathlib import Path
from typing import Any

from rclpy.subscription import Subscription
from rosbags.interfaces import Connection, Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import StoragePlugin, Writer

from wbvla_cli.record import typestore
from wbvla_core.ros.lifecycle import ManagedNode, Parameter, run_node
from wbvla_core.ros.qos import interface_class, qos
from wbvla_core.ros.tables import Endpoint, Profile, topic_table

DEPTH = 200  # a second of joint states: the writer may be slow for a moment, the bag must not have holes
MAX_QUEUED = 5000  # messages; more means that the disk cannot follow, and memory must not grow without end


class RecordNode(ManagedNode):
    """See the module text. Opens the bag at configure, so that a bad path is refused there."""

    NAME = "record"
    PARAMETERS = {"output": Parameter("", "folder of the bag; must not exist yet")}

    def load(self) -> None:
        if not self.settings["output"]:
            raise ValueError("parameter output must name the bag's folder")
        self._path = Path(self.settings["output"])
        if self._path.exists():
            raise FileExistsError(f"{self._path} exists already; name a folder that does not, or move it away")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = Writer(self._path, version=Writer.VERSION_LATEST, storage_plugin=StoragePlugin.MCAP)
        self._writer.open()
        self._queue: queue.Queue[tuple[Connection, int, bytes] | None] = queue.Queue(MAX_QUEUED)
        self._written = self._lost = 0
        self._thread = threading.Thread(target=self._write, name="writer", daemon=True)
        self._thread.start()
        store = typestore()
        for row in topic_table().topics.values():
            if row.record:
                profile = topic_table().profile(row.key)
                connection = self._writer.add_connection(row.name, row.type, typestore=store, offered_qos_profiles=[_bag_qos(profile)])
                self._listen(row, connection)

    def _listen(self, row: Endpoint, connection: Connection) -> None:
        """Unlike other nodes' subscriptions these are deep and run from configure on: latched messages and first states belong into the bag."""

        def keep(data: bytes, at_ns: int) -> None:
            try:
                self._queue.put_nowait((connection, at_ns, data))
            except queue.Full:
                self._lost += 1
                self.edges.bad("writer", f"the disk cannot follow: more than {MAX_QUEUED} messages wait; messages are lost")

        def receive(data: bytes, info: dict[str, Any]) -> None:
            keep(data, info["source_timestamp"])

        def receive_alone(data: bytes) -> None:  # Humble's rclpy hands over the message without its times
            keep(data, time.time_ns())

        made = self.create_subscription(
            interface_class(row.type), row.name, receive if hasattr(Subscription, "CallbackType") else receive_alone, qos(row.key, DEPTH), raw=True
        )
        self._owned.append((self.destroy_subscription, made))

    def _write(self) -> None:
        try:
            while (item := self._queue.get()) is not None:
                self._writer.write(*item)
                self._written += 1
        except Exception as error:
            self.fail(f"writing {self._path} stopped", error)

    def unload(self) -> None:
        """Write what waits and close: from here on the bag is readable."""
        writer, self._writer = getattr(self, "_writer", None), None
        if writer is None:
            return
        self._queue.put(None)
        self._thread.join(1.5)
        if writer.storage is not None:
            writer.close()
            self.say(f"{self._written} messages in {self._path}")

    def health(self) -> tuple[dict[str, object], str]:
        return {"messages": self._written, "lost": self._lost, "waiting": self._queue.qsize()}, ""


def _bag_qos(profile: Profile) -> Qos:
    """How the topic was offered, for players."""
    forever = QosTime(2**31 - 1, 2**32 - 1)
    return Qos(
        QosHistory.KEEP_LAST,
        profile.depth,
        QosReliability.RELIABLE if profile.reliability == "reliable" else QosReliability.BEST_EFFORT,
        QosDurability.TRANSIENT_LOCAL if profile.durability == "transient_local" else QosDurability.VOLATILE,
        forever,
        forever,
        QosLiveliness.AUTOMATIC,
        forever,
        False,
    )


def main(argv: list[str] | None = None) -> None:
    run_node(RecordNode, argv)


if __name__ == "__main__":
    main()
