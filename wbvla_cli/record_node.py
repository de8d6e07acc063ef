"""The recorder: every topic of config/qos.yaml, undecoded, to MCAP: one bag, or a session of episodes.

Messages stay serialized and are filed under the time of their publication (this machine's wall clock: what the bag says of jitter and latency is the
stack's, not the recorder's). One thread takes them from the middleware every few milliseconds, another one writes them: waking rclpy's executor for each of
400 messages a second would cost more than all the rest. Whatever ends this process, a kill included, leaves what was recorded: see
:mod:`wbvla_teleop.recording.storage`.

Parameter ``output`` is one bag, recorded from configure to the end. Parameter ``session`` is a folder of episodes; the services record_start, record_stop and
record_discard begin and end them, and what topic record_note said last (instruction, notes) is stored with them.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from rclpy.callback_groups import CallbackGroup
from rclpy.serialization import deserialize_message
from rosbags.interfaces import Connection, Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from std_msgs.msg import String

from wbvla_cli.record import typestore
from wbvla_core.ros.health import Health, Level
from wbvla_core.ros.lifecycle import ManagedNode, Parameter, run_node
from wbvla_core.ros.qos import available, interface_class, qos
from wbvla_core.ros.tables import Endpoint, Profile, topic_table
from wbvla_teleop.recording.episodes import EpisodeBag, EpisodeError, Session
from wbvla_teleop.recording.storage import DiskFullError

DEPTH_S, MIN_DEPTH = 2.0, 60  # of the middleware's queues, in time and in messages: this process may be held up for a moment, the bag must not have holes
TAKE_S = 0.005
MAX_QUEUED_BYTES = 256 << 20  # ten seconds of VGA images; more means that the disk cannot follow, and memory must not grow without end
TICK_S = 0.2  # how often the writer looks after old chunks and free space
ANSWER_S = 5.0  # an episode is begun or ended within this time


class Polled(CallbackGroup):
    """Subscriptions that the executor leaves alone: somebody takes their messages himself."""

    def can_execute(self, entity: object) -> bool:
        return False

    def beginning_execution(self, entity: object) -> bool:
        return False

    def ending_execution(self, entity: object) -> None: ...


class RecordNode(ManagedNode):
    """See the module text. Opens its folder at configure, so that a bad path is refused there."""

    NAME = "record"
    PARAMETERS = {
        "output": Parameter("", "folder of one bag, recorded until the end; must not exist yet"),
        "session": Parameter("", "folder of a session of episodes; one that is there is continued"),
        "min_free_mb": Parameter(300, "with less free space than this [10^6 bytes] recording stops", 0, 1_000_000),
    }

    def load(self) -> None:
        output, session = (Path(self.settings[name]) if self.settings[name] else None for name in ("output", "session"))
        if (output is None) == (session is None):
            raise ValueError("one of the parameters output (a bag's folder) and session (a folder of episodes) must be set")
        min_free = self.settings["min_free_mb"] * 1_000_000
        self._queue: queue.SimpleQueue[list[tuple[int, str, bytes]] | Callable[[], None] | None] = queue.SimpleQueue()
        self._polled, self._sources = Polled(), []
        self._in_bytes = self._out_bytes = 0  # each counted up by one thread; the difference waits
        self._written = self._lost = self._lost_before = 0
        self._full = ""  # why recording stopped, where the disk was full
        latched = (row.name for row in topic_table().topics.values() if topic_table().profile(row.key).durability == "transient_local")
        self._latched: dict[str, bytes | None] = dict.fromkeys(latched)  # the last message of each latched topic: every episode begins with them
        self._facts: dict[str, Any] = {}
        self._bag: EpisodeBag | None = None
        self._connections: dict[str, Connection] = {}
        self._session: Session | None = None
        self._store = typestore()
        self._state_out = self.publisher("record_state")
        if output is not None:
            self._adopt(EpisodeBag(output, topic_table(), min_free_bytes=min_free))
        else:
            self._session = Session(session, topic_table(), min_free_bytes=min_free)
            for name, text in self._session.recovered:
                self.say(f"{name}: {text}")
        for key, handle in (("record_start", self._start_episode), ("record_stop", self._stop_episode), ("record_discard", self._discard_episode)):
            self.serve(key, lambda _, response, handle=handle: self._serve(handle, response))
        for row in topic_table().topics.values():
            if row.record and available(row.key):
                self._listen(row)
            elif row.record:
                self.say(f"{row.name} is not recorded: {row.type.split('/')[0]} is not installed here")
        self._ending = False
        self._thread = threading.Thread(target=self._write, name="writer", daemon=True)
        self._taker = threading.Thread(target=self._take, name="taker", daemon=True)
        self._thread.start()
        self._taker.start()

    def start(self) -> None:
        self._say_state({"state": "recording" if self._bag is not None else "waiting"})

    # -- taking thread ------------------------------------------------------------------------------------------------------------
    def _listen(self, row: Endpoint) -> None:
        """Unlike other nodes' subscriptions these are deep and run from configure on: latched messages and first states belong into the bag."""
        depth = max(MIN_DEPTH, round(DEPTH_S * row.rate_hz))
        made = self.create_subscription(interface_class(row.type), row.name, lambda _: None, qos(row.key, depth), raw=True, callback_group=self._polled)
        self._owned.append((self.destroy_subscription, made))
        self._sources.append((row.name, made, row.key == "record_note"))

    def _take(self) -> None:
        try:
            while not self._ending:
                self._take_all()
                time.sleep(TAKE_S)
            self._take_all()
        except Exception as error:
            self.fail("taking messages stopped", error)
        self._queue.put(None)

    def _take_all(self) -> None:
        """Everything that has arrived since the last time, in the order of publication."""
        batch: list[tuple[int, str, bytes]] = []
        for name, source, note in self._sources:
            with source.handle:
                while (taken := source.handle.take_message(source.msg_type, True)) is not None:
                    data, info = taken
                    batch.append((info["source_timestamp"], name, data))
                    if note:
                        self._take_note(data)
        if not batch:
            return
        batch.sort()
        if self._in_bytes - self._out_bytes > MAX_QUEUED_BYTES:
            self._lost += len(batch)
            self.edges.bad("writer", f"the disk cannot follow: more than {MAX_QUEUED_BYTES >> 20} MiB wait; messages are lost")
            return
        self.edges.good("writer")
        self._in_bytes += sum(len(data) for _, _, data in batch)
        self._queue.put(batch)

    def _take_note(self, data: bytes) -> None:
        """Instruction and notes for this episode and the next ones."""
        try:
            said = yaml.safe_load(deserialize_message(data, String).data)
            if not isinstance(said, dict):
                raise ValueError(f"a note must be a YAML mapping of instruction and notes, got {type(said).__name__}")
        except (yaml.YAMLError, ValueError) as error:
            self.refuse("record_note", error)
            return
        facts = {key: str(said[key]) for key in ("instruction", "notes") if key in said}
        self._facts |= facts
        if self._session is not None:
            self._queue.put(lambda: self._session.describe(**facts))

    # -- executor thread ----------------------------------------------------------------------------------------------------------
    def _serve(self, handle: Callable[[], str], response: Any) -> Any:
        """Let the writer thread do it, behind everything that came before, and wait for the answer."""
        done, answer = threading.Event(), [False, f"the recorder did not answer within {ANSWER_S:g} s: the disk is busy"]

        def work() -> None:
            try:
                if self._session is None:
                    raise EpisodeError("this recorder writes one bag (parameter output); episodes want parameter session")
                answer[:] = True, handle()
            except (EpisodeError, OSError, DiskFullError) as error:
                answer[:] = False, str(error)
            done.set()

        self._queue.put(work)
        done.wait(ANSWER_S)
        response.success, response.message = answer
        return response

    # -- writer thread -------------------------------------------------------------------------------------------------------------
    def _adopt(self, bag: EpisodeBag) -> None:
        """Write into this bag from now on."""
        self._connections = {
            row.name: bag.connect(topic=row.name, msgtype=row.type, typestore=self._store, offered_qos_profiles=[_bag_qos(topic_table().profile(row.key))])
            for row in topic_table().topics.values()
            if row.record
        }
        self._lost_before = self._lost
        self._began_ns = time.time_ns()
        self._bag = bag

    def _start_episode(self) -> str:
        self._full = ""
        self._adopt(self._session.begin(**{"instruction": "", "notes": "", **self._facts}))
        for name, data in self._latched.items():
            if data is not None:
                self._bag.write(self._connections[name], self._began_ns, data)
        name = self._bag.folder.name
        self._say_state({"state": "recording", "episode": name, **self._facts})
        return f"{name} is recorded"

    def _stop_episode(self) -> str:
        return self._finish("kept")

    def _finish(self, state: str, **facts: str) -> str:
        folder, lost = self._bag.folder if self._bag else Path(), self._lost - self._lost_before
        self._bag = None
        report = self._session.end(lost=lost, state=state, **facts)
        problems = report["problems"]
        self._say_state({"state": "waiting", "episode": folder.name, "kept": True, "problems": problems})
        verdict = f"{len(problems)} problems: {'; '.join(problems[:3])}" if problems else "no problems"
        return "; ".join((f"{folder.name} is kept: {report['messages']} messages in {report['duration_s']:.1f} s, {verdict}", *report["notes"]))

    def _discard_episode(self) -> str:
        self._bag = None
        folder = self._session.discard(lost=self._lost - self._lost_before)
        self._say_state({"state": "waiting", "episode": folder.name, "kept": False})
        return f"{folder.name} is discarded; it lies in {folder.parent}"

    def _say_state(self, state: dict[str, Any]) -> None:
        self._state_out.publish(String(data=yaml.safe_dump(state, sort_keys=False, allow_unicode=True)))

    def _write(self) -> None:
        try:
            while (item := self._next()) is not None:
                try:
                    if callable(item):
                        item()
                    for at_ns, name, data in () if callable(item) else item:
                        self._out_bytes += len(data)
                        if name in self._latched:  # kept here, not where it is taken: what an episode begins with comes before what follows
                            self._latched[name] = data
                        if self._bag is not None:
                            self._written += 1
                            # a latched message was published long ago, and is part of the episode from its beginning
                            self._bag.write(self._connections[name], max(at_ns, self._began_ns), data)
                    if self._bag is not None:
                        self._bag.flush()
                except DiskFullError as error:
                    self._stop_full(error)
        except Exception as error:
            self.fail("writing stopped", error)
        if self._bag is not None:
            self._close()

    def _next(self) -> list[tuple[int, str, bytes]] | Callable[[], None] | None:
        """A batch of messages, something to do, or None at the end; an empty batch where nothing came."""
        try:
            return self._queue.get(timeout=TICK_S)
        except queue.Empty:
            return []

    def _stop_full(self, error: DiskFullError) -> None:
        """Keep what is there and say so; a session waits for room, a single bag is over."""
        self._full = str(error)
        if self._session is not None:
            self.say(f"recording stops: {error}. {self._finish('kept', ended_because='disk full')}", error=True)
        else:
            self._close()
            self.fail("recording stopped", error)

    def _close(self) -> None:
        bag, self._bag = self._bag, None
        if self._session is not None:
            report = self._session.end(lost=self._lost - self._lost_before, ended_because="the recorder was stopped")
        else:
            report = bag.close(self._lost)
        self.say(f"{report['messages']} messages in {bag.folder}; {len(report['problems'])} problems, see audit.json")

    def unload(self) -> None:
        """Write what waits and close: from here on the bag is readable."""
        if getattr(self, "_thread", None) is None:
            bag = getattr(self, "_bag", None)
            if bag is not None:  # refused after the bag was opened
                bag.close()
        else:
            self._ending = True
            self._taker.join(0.5)
            self._thread.join(1.5)
            self._thread = None
        if getattr(self, "_session", None) is not None:
            self._session.close()

    def health(self) -> Health:
        values = {"messages": self._written, "lost": self._lost, "waiting_bytes": self._in_bytes - self._out_bytes}
        if self._full:
            return Health(values, Level.ERROR, f"recording stopped: {self._full}")
        if self.edges.is_bad("writer"):
            return Health(values, Level.ERROR, f"{self._lost} messages were lost: the disk cannot follow")
        return Health(values, Level.WARN if self._lost else Level.OK, f"{self._lost} messages were lost" if self._lost else "")


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
