"""MCAP that a kill cannot spoil.

:class:`BagWriter` is rosbags' rosbag2 writer over a storage of our own: chunks are closed by age as well as by size and go to the kernel unbuffered, so that
SIGKILL costs at most the last ``FLUSH_S`` seconds. What a kill leaves has no index at its end; :func:`scan` reads it, :func:`repair` makes it whole again.

A full disk does not cost what is recorded either: ``RESERVE_BYTES`` are set aside beside the bag and given back when a write fails, the failed chunk is written
again into that space, and :class:`DiskFullError` says that the bag must be closed now (there is room for its index).
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
import struct
import time
import zlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rosbags.interfaces import Connection, Qos
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.rosbag2.enums import CompressionMode
from rosbags.rosbag2.metadata import parse_qos
from rosbags.rosbag2.storage_mcap import McapWriter, PendingChunk, decompress, write_string, write_uint16, write_uint32, write_uint64
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from wbvla_core.errors import WbvlaError

MAGIC = b"\x89MCAP\x30\r\n"
FLUSH_S = 0.5  # a chunk is closed at this age ...
CHUNK_BYTES = 4 << 20  # ... or at this size
RESERVE_BYTES = 8 << 20  # for the last chunk and the index of a bag whose disk is full
MESSAGE, CHUNK, SCHEMA, CHANNEL, DATA_END = 0x05, 0x06, 0x03, 0x04, 0x0F
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DiskFullError(WbvlaError):
    """No space left; what was handed over until now is in the bag, which must be closed."""


class BagError(WbvlaError):
    """A file that is no bag, or holds nothing that can be read."""


class _Record(io.BytesIO):
    """BytesIO whose positions count from ``base``: the end of a bag, made in memory and written at once."""

    base = 0

    def tell(self) -> int:
        return super().tell() + self.base


class Storage(McapWriter):
    """rosbags' MCAP storage, with chunks closed by age, checksums, and a reserve for a full disk."""

    def __init__(self, path: Path, compression: CompressionMode) -> None:
        super().__init__(path, compression)
        self.bio.flush()
        self.bio = open(self.path, "r+b", buffering=0)  # noqa: SIM115  unbuffered: what was written survives this process
        self.bio.seek(0, os.SEEK_END)
        self._reserve: Path | None = path / ".reserve"
        try:
            with open(self._reserve, "wb") as file:
                os.posix_fallocate(file.fileno(), 0, RESERVE_BYTES)
        except OSError as error:
            self.abort()
            raise DiskFullError(f"{path}: no room to begin a bag ({error.strerror}); free some space") from error
        self._parts: list[bytes] = []  # of the open chunk, after what is in self.chunk.bio (schemas and channels)
        self._size = 0
        self.opened_s = time.monotonic()

    def _release(self) -> None:
        if self._reserve is not None:
            self._reserve.unlink(missing_ok=True)
            self._reserve = None

    def write(self, connection: Connection, timestamp: int, data: bytes | memoryview) -> None:
        """One message into the open chunk; raises DiskFullError once there is no space (the message is kept)."""
        chunk, at = self.chunk, self.chunk.bio.tell() + self._size
        chunk.msgs[connection.id].append((timestamp, at))
        chunk.message_start_time, chunk.message_end_time = min(timestamp, chunk.message_start_time), max(timestamp, chunk.message_end_time)
        self.message_start_time, self.message_end_time = min(timestamp, self.message_start_time), max(timestamp, self.message_end_time)
        self.channel_stats[connection.id] += 1
        self._parts += (struct.pack("<BQHIQQ", MESSAGE, len(data) + 22, connection.id, 0, timestamp, timestamp), bytes(data))
        self._size += len(data) + 31
        if self._size > CHUNK_BYTES:
            self.close_chunk()

    def flush(self) -> None:
        """Close the chunk if it is older than FLUSH_S."""
        if time.monotonic() - self.opened_s >= FLUSH_S:
            self.close_chunk()

    def close_chunk(self) -> None:
        """Write the open chunk and its message index, whole or not at all."""
        self.opened_s = time.monotonic()
        chunk = self.chunk
        body = b"".join((chunk.bio.getvalue(), *self._parts))
        if not body:
            return
        if not any(chunk.msgs.values()):
            chunk.message_start_time = 0
        start = self.bio.tell()
        length = 40 + len(body)
        head = struct.pack("<BQQQQIIQ", CHUNK, length, chunk.message_start_time, chunk.message_end_time, len(body), zlib.crc32(body), 0, len(body))
        end = start + len(head) + len(body)
        index, offsets = bytearray(), []
        for number, messages in chunk.msgs.items():
            offsets.append((number, end + len(index)))
            index += struct.pack("<BQHI", 0x07, 6 + 16 * len(messages), number, 16 * len(messages))
            for entry in messages:
                index += struct.pack("<QQ", *entry)
        full = self._write((head, body, bytes(index)), start)
        record = _Record()
        for value in (chunk.message_start_time, chunk.message_end_time, start, end - start):
            write_uint64(record, value)
        write_uint32(record, len(offsets) * 10)
        for number, offset in offsets:
            write_uint16(record, number)
            write_uint64(record, offset)
        write_uint64(record, len(index))
        write_string(record, "")
        write_uint64(record, len(body))
        write_uint64(record, len(body))
        self.chunks.append(record)
        self.chunk, self._parts, self._size = PendingChunk(2**63 - 1, 0, _Record(), defaultdict(list)), [], 0
        if full:
            raise DiskFullError(f"{self.path}: the disk is full; everything until now is kept, close the bag and free some space")

    def _write(self, parts: tuple[bytes, ...], start: int) -> bool:
        """Write all of it; True where that took the reserve."""
        for attempt in (0, 1):
            try:
                for part in parts:
                    view = memoryview(part)
                    while view:
                        view = view[self.bio.write(view) :]
                return attempt == 1
            except OSError as error:
                self.bio.truncate(start)
                self.bio.seek(start)
                if error.errno not in FULL or self._reserve is None:
                    raise
                self._release()
        raise AssertionError("unreachable")

    def close(self, version: int, metadata: str) -> None:
        """Write what is open, index and footer."""
        with contextlib.suppress(DiskFullError):  # the message is out already, and closing is what it asks for
            self.close_chunk()
        self._release()
        start = self.bio.tell()
        raw, tail = self.bio, _Record()
        tail.base, tail.close = start, lambda: None
        self.bio = tail
        super().close(version, metadata)
        view = memoryview(tail.getvalue())
        while view:
            view = view[raw.write(view) :]
        raw.close()

    def abort(self) -> None:
        self._release()
        super().abort()


VERSION = 8  # of metadata.yaml: the newest that Humble's rosbag2 reads, and Jazzy's too. 9 writes QoS as a list, which Humble refuses


class BagWriter(Writer):
    """rosbags' writer over :class:`Storage`: ``open``, ``add_connection``, ``write``, ``flush``, ``close``."""

    STORAGE_PLUGINS = {StoragePlugin.MCAP: Storage}

    def __init__(self, path: Path) -> None:
        super().__init__(path, version=VERSION, storage_plugin=StoragePlugin.MCAP)

    def flush(self) -> None:
        """Close the chunk if it is old enough; call at least twice a second."""
        if self.storage is not None:
            self.storage.flush()


# -- reading what a kill left ----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Channel:
    """Topic of a bag: message type, definition (text of the .msg and of what it uses) and offered QoS (YAML)."""

    topic: str
    type: str
    definition: str
    qos: str


def is_complete(path: Path) -> bool:
    """Whether an MCAP file was closed."""
    with open(path, "rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise BagError(f"{path} is no MCAP file: its first bytes are not MCAP's")
        file.seek(0, os.SEEK_END)
        if file.tell() < 2 * len(MAGIC):
            return False
        file.seek(-len(MAGIC), os.SEEK_END)
        return file.read() == MAGIC


def scan(path: Path, damage: list[str] | None = None) -> Iterator[tuple[Channel, int, bytes]]:
    """(channel, time of arrival in ns, serialized message) of every whole message, index or not, up to where the file breaks off or is damaged.

    Args:
        damage: takes a sentence that says where reading ended, unless that was the end of the data.
    """
    damage = [] if damage is None else damage
    schemas: dict[int, tuple[str, str]] = {}
    channels: dict[int, Channel] = {}

    def records(data: memoryview) -> Iterator[tuple[Channel, int, bytes]]:
        at = 0
        while at + 9 <= len(data):
            op, length = struct.unpack_from("<BQ", data, at)
            body = data[at + 9 : at + 9 + length]
            if len(body) < length:
                return
            at += 9 + length
            if op == SCHEMA:
                number = struct.unpack_from("<H", body)[0]
                name, rest = _text(body[2:])
                _, rest = _text(rest)
                schemas[number] = name, _text(rest)[0]
            elif op == CHANNEL:
                number, schema = struct.unpack_from("<HH", body)
                topic, rest = _text(body[4:])
                _, rest = _text(rest)
                channels[number] = Channel(topic, *schemas[schema], _pairs(rest).get("offered_qos_profiles", ""))
            elif op == MESSAGE:
                number, _, at_ns, _ = struct.unpack_from("<HIQQ", body)
                if number in channels:
                    yield channels[number], at_ns, bytes(body[22:])

    with open(path, "rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise BagError(f"{path} is no MCAP file: its first bytes are not MCAP's")
        size = os.fstat(file.fileno()).st_size
        while (head := file.read(9)) and len(head) == 9:
            op, length = struct.unpack("<BQ", head)
            at = file.tell() - len(head)
            if op == DATA_END:
                return
            if file.tell() + length > size:
                damage.append(f"cut off, or damaged, at byte {at} of {size}: what comes behind it is not read")
                return
            try:
                if op == CHUNK:
                    body = memoryview(file.read(length))
                    _, _, whole, crc = struct.unpack_from("<QQQI", body)
                    compression, rest = _text(body[28:])
                    yield from records(memoryview(decompress(bytes(rest[8:]), compression, whole, crc)))
                elif op in (SCHEMA, CHANNEL, MESSAGE):
                    yield from records(memoryview(head + file.read(length)))
                else:
                    file.seek(length, os.SEEK_CUR)
            except Exception as error:  # any codec's own exception: this chunk is damaged, and what comes behind it is not trusted
                damage.append(f"damaged at byte {at} of {size} ({' '.join(str(error).split()) or type(error).__name__}): what comes behind it is not read")
                return
        damage.append(f"it ends at byte {size} without an end of its data")


def _text(data: memoryview) -> tuple[str, memoryview]:
    length = struct.unpack_from("<I", data)[0]
    return bytes(data[4 : 4 + length]).decode(errors="replace"), data[4 + length :]


def _pairs(data: memoryview) -> dict[str, str]:
    """An MCAP map of strings."""
    end = 4 + struct.unpack_from("<I", data)[0]
    data, out = data[4:end], {}
    while data:
        key, data = _text(data)
        out[key], data = _text(data)
    return out


def bag_file(bag: Path) -> Path:
    """The one .mcap file of a bag's folder, or the file itself. Raises BagError."""
    if bag.is_file():
        return bag
    files = sorted(bag.glob("*.mcap")) if bag.is_dir() else []
    if len(files) != 1:
        raise BagError(f"{bag} should hold one .mcap file, it {'does not exist' if not bag.exists() else f'holds {len(files)}'}")
    return files[0]


def repair(bag: Path) -> int | None:
    """Make a bag whole that was not closed: its messages go into a new file with index and metadata.yaml, which then takes the old one's place.

    Killed halfway, it is simply begun again. Returns the number of messages, None where there was nothing to do.

    Raises:
        BagError: there is no MCAP file, or it holds no whole message.
        OSError: no room for the new file; the old one is as it was.
    """
    path = bag_file(bag)
    folder = path.parent
    if is_complete(path) and (folder / "metadata.yaml").is_file():
        return None
    work = folder / ".repair" / path.stem
    shutil.rmtree(work.parent, ignore_errors=True)
    work.parent.mkdir()
    store, writer, connections, count = get_typestore(Stores.ROS2_JAZZY), BagWriter(work), {}, 0
    writer.open()
    try:
        for channel, at_ns, data in scan(path):
            if channel not in connections:
                with contextlib.suppress(Exception):  # a type of the distribution is known already
                    store.register(get_types_from_msg(channel.definition, channel.type))
                connections[channel] = writer.add_connection(
                    channel.topic, channel.type, msgdef=channel.definition, rihs01=store.hash_rihs01(channel.type), offered_qos_profiles=_qos(channel.qos)
                )
            writer.write(connections[channel], at_ns, data)
            count += 1
        if count == 0:
            raise BagError(f"{path} holds no whole message")
        writer.close()
    except BaseException:
        writer.abort()
        shutil.rmtree(work.parent, ignore_errors=True)
        raise
    os.replace(work / f"{path.stem}.mcap", path)
    os.replace(work / "metadata.yaml", folder / "metadata.yaml")
    shutil.rmtree(work.parent)
    (folder / ".reserve").unlink(missing_ok=True)
    return count


def _qos(text: str) -> list[Qos]:
    try:
        return list(parse_qos(text)) if text else []
    except Exception:  # another recorder's dialect: players then use their defaults
        return []
