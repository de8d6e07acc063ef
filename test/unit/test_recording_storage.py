"""MCAP storage: rosbags reads what it writes; kills, full disks and damaged files cost what they must and no more."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from rosbags.highlevel import AnyReader
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.typesys import Stores, get_typestore

from wbvla_teleop.recording import storage
from wbvla_teleop.recording.storage import MAGIC, BagError, BagWriter, DiskFullError, bag_file, is_complete, repair, scan

ROOT = Path(__file__).resolve().parents[2]
STORE = get_typestore(Stores.ROS2_JAZZY)
STRING = STORE.types["std_msgs/msg/String"]


def message(text: str) -> bytes:
    return bytes(STORE.serialize_cdr(STRING(text), "std_msgs/msg/String"))


def written(path: Path, count: int, *, close: bool = True) -> BagWriter:
    """A bag of ``count`` numbered messages on two topics, a millisecond apart."""
    writer = BagWriter(path)
    writer.open()
    topics = [writer.add_connection(name, "std_msgs/msg/String", typestore=STORE) for name in ("/a", "/b")]
    for i in range(count):
        writer.write(topics[i % 2], 10**18 + i * 1_000_000, message(f"number {i}"))
    if close:
        writer.close()
    return writer


def numbers(bag: Path) -> list[int]:
    with AnyReader([bag], default_typestore=STORE) as reader:
        return [int(reader.deserialize(data, c.msgtype).data.split()[1]) for c, _, data in reader.messages()]


def scanned(bag: Path) -> list[int]:
    return [int(STORE.deserialize_cdr(data, channel.type).data.split()[1]) for channel, _, data in scan(bag_file(bag))]


def test_rosbags_reads_every_message_back_in_order_by_the_index(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "CHUNK_BYTES", 2000)  # many chunks
    written(tmp_path / "bag", 500)
    assert numbers(tmp_path / "bag") == list(range(500))
    with AnyReader([tmp_path / "bag"]) as reader:
        assert {c.topic: c.msgcount for c in reader.connections} == {"/a": 250, "/b": 250}
        late = [t for _, t, _ in reader.messages(start=10**18 + 490 * 1_000_000)]
    assert len(late) == 10
    assert repair(tmp_path / "bag") is None, "a whole bag is left alone"
    assert not (tmp_path / "bag" / ".reserve").exists()


def test_metadata_is_what_humbles_and_jazzys_rosbag2_both_read(tmp_path):
    """Humble's decoder wants offered_qos_profiles as one string of YAML with numbers for the policies, which is version 4 to 8; 9 is a list with words."""
    forever = QosTime(2**31 - 1, 2**32 - 1)  # Fast DDS' infinity, which both translate
    keep, reliable, latched, automatic = QosHistory.KEEP_LAST, QosReliability.RELIABLE, QosDurability.TRANSIENT_LOCAL, QosLiveliness.AUTOMATIC
    offered = Qos(keep, 1, reliable, latched, forever, forever, automatic, forever, False)
    for name, mend in (("bag", False), ("mended", True)):
        writer = BagWriter(tmp_path / name)
        writer.open()
        topic = writer.add_connection("/a", "std_msgs/msg/String", typestore=STORE, offered_qos_profiles=[offered])
        writer.write(topic, 10**18, message("number 0"))
        writer.close()
        if mend:
            (tmp_path / name / "metadata.yaml").unlink()
            assert repair(tmp_path / name) == 1
        metadata = yaml.safe_load((tmp_path / name / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
        assert metadata["version"] == 8 and metadata["storage_identifier"] == "mcap"
        text = metadata["topics_with_message_count"][0]["topic_metadata"]["offered_qos_profiles"]
        assert isinstance(text, str)
        profile = yaml.safe_load(text)[0]
        # rmw: keep last 1, reliable 1, transient local 1, automatic 1
        assert {key: profile[key] for key in ("history", "depth", "reliability", "durability", "liveliness")} == {
            "history": 1, "depth": 1, "reliability": 1, "durability": 1, "liveliness": 1,
        }  # fmt: skip
        assert profile["deadline"] == {"sec": 0x7FFFFFFF, "nsec": 0xFFFFFFFF}
        assert next(scan(bag_file(tmp_path / name)))[0].qos == text, "the same inside the MCAP file"
        with AnyReader([tmp_path / name]) as reader:
            assert reader.connections[0].ext.offered_qos_profiles == [offered]


def test_a_chunk_is_closed_by_age_so_that_slow_topics_reach_the_disk(tmp_path, monkeypatch):
    writer = written(tmp_path / "bag", 10, close=False)
    assert scanned(tmp_path / "bag") == []
    writer.flush()
    assert scanned(tmp_path / "bag") == [], "not yet half a second old"
    monkeypatch.setattr(storage, "FLUSH_S", 0.0)
    writer.flush()
    assert scanned(tmp_path / "bag") == list(range(10))
    writer.abort()


def test_a_bag_cut_at_any_byte_gives_all_whole_chunks_and_is_mended(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "CHUNK_BYTES", 1000)
    written(tmp_path / "bag", 100)
    whole = bag_file(tmp_path / "bag").read_bytes()
    rng = random.Random(1)
    for cut in sorted(rng.sample(range(len(MAGIC) + 50, len(whole)), 25)):
        folder = tmp_path / f"cut{cut}"
        folder.mkdir()
        (folder / f"cut{cut}.mcap").write_bytes(whole[:cut])
        got = scanned(folder)
        assert got == list(range(len(got))), "a beginning, without holes"
        assert len(got) * len(whole) / 100 > cut - 4000, f"{len(got)} messages in the first {cut} of {len(whole)} bytes"
        if not got:
            with pytest.raises(BagError, match="no whole message"):
                repair(folder)
            continue
        assert repair(folder) == len(got)
        assert numbers(folder) == got
        assert repair(folder) is None
        assert sorted(p.name for p in folder.iterdir()) == [f"cut{cut}.mcap", "metadata.yaml"]


def test_a_flipped_bit_ends_the_reading_at_the_chunk_before_it(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "CHUNK_BYTES", 1000)
    written(tmp_path / "bag", 100)
    path = bag_file(tmp_path / "bag")
    data = bytearray(path.read_bytes())
    data[data.index(b"number 50")] ^= 1
    path.write_bytes(data)
    got = scanned(tmp_path / "bag")
    assert got == list(range(len(got))) and 20 < len(got) <= 50


def test_what_is_no_bag_is_refused_by_name(tmp_path):
    (tmp_path / "x.mcap").write_bytes(b"not a bag at all")
    with pytest.raises(BagError, match="no MCAP"):
        is_complete(tmp_path / "x.mcap")
    with pytest.raises(BagError, match="no MCAP"):
        list(scan(tmp_path / "x.mcap"))
    with pytest.raises(BagError, match="does not exist"):
        bag_file(tmp_path / "nowhere")


class SmallDisk:
    """The bag's file on a disk with room for ``room`` bytes, and as many more as the reserve once that is gone."""

    def __init__(self, raw, room: int, reserve: Path) -> None:
        self._raw, self._room, self._reserve = raw, room, reserve

    def write(self, data) -> int:
        room = self._room + (0 if self._reserve.exists() else storage.RESERVE_BYTES) - self._raw.tell()
        if room <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self._raw.write(data[: min(len(data), room)])  # a part of it, as write(2) does

    def __getattr__(self, name):
        return getattr(self._raw, name)


def test_a_full_disk_loses_nothing_of_what_was_handed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "CHUNK_BYTES", 1000)
    writer = written(tmp_path / "bag", 0, close=False)
    writer.storage.bio = SmallDisk(writer.storage.bio, 5000, tmp_path / "bag" / ".reserve")
    count = 0
    with pytest.raises(DiskFullError, match="full"):
        while count < 1000:
            count += 1
            writer.write(writer.connections[0], 10**18 + count, message(f"number {count}"))
    writer.close()
    assert numbers(tmp_path / "bag") == list(range(1, count + 1))


def test_where_there_is_no_room_to_begin_nothing_is_begun(tmp_path, monkeypatch):
    def refuse(fd, offset, length):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(DiskFullError, match="no room to begin"):
        written(tmp_path / "bag", 1)


SCRIPT = """
import sys, time
sys.path[:0] = [{root!r}, {root!r} + '/test/unit']
from test_recording_storage import *
writer = written(Path({bag!r}), 0, close=False)
print("open", flush=True)
i = 0
while True:
    writer.write(writer.connections[i % 2], time.time_ns(), message(f"number {{i}}"))
    writer.flush()
    i += 1
    time.sleep(0.002)
"""


def kill_one(folder: Path, after_s: float) -> tuple[int, float]:
    """Record in a process, kill it after a while; (messages read back, age of the newest at the kill in s)."""
    process = subprocess.Popen([sys.executable, "-c", SCRIPT.format(root=str(ROOT), bag=str(folder))], stdout=subprocess.PIPE, cwd=ROOT)
    process.stdout.readline()
    time.sleep(after_s)
    killed_ns = time.time_ns()
    process.send_signal(signal.SIGKILL)
    process.wait()
    found = list(scan(bag_file(folder)))
    assert scanned(folder) == list(range(len(found)))
    if found:
        before = [(at_ns, data) for _, at_ns, data in found]
        assert repair(folder) == len(found)
        with AnyReader([folder], default_typestore=STORE) as reader:
            assert [(t, bytes(d)) for _, t, d in reader.messages()] == before, "mending changes nothing"
    return len(found), (killed_ns - (found[-1][1] if found else killed_ns - int(after_s * 1e9))) / 1e9


def test_a_kill_costs_at_most_the_last_second(tmp_path):
    count, age_s = kill_one(tmp_path / "bag", 1.3)
    assert count > 100 and age_s < 1.0


@pytest.mark.slow
def test_fifty_kills_at_random_times_cost_at_most_the_last_second_each(tmp_path):
    rng = random.Random(7)
    ages = [kill_one(tmp_path / f"bag{i}", rng.uniform(0.05, 2.5))[1] for i in range(50)]
    print(f"oldest loss {max(ages):.3f} s")
    assert max(ages) < 1.0


def test_a_closed_bag_that_is_damaged_in_its_middle_is_a_problem_of_its_audit(tmp_path, monkeypatch):
    from wbvla_core.ros.tables import topic_table
    from wbvla_teleop.recording.audit import audit_bag

    monkeypatch.setattr(storage, "CHUNK_BYTES", 2000)
    written(tmp_path / "bag", 500)
    path = bag_file(tmp_path / "bag")
    assert not [text for text in audit_bag(path, topic_table())["problems"] if "damaged" in text]
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(64)
    path.write_bytes(bytes(data))
    report = audit_bag(path, topic_table())
    assert any("damaged" in text and "what comes behind it is not read" in text for text in report["problems"])
