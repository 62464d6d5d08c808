"""Where a receiver is, for other processes of its host to read without a lock.

A small mapped file with two copies of the positions and a counter that says which one counts. The
writer fills the other copy, then moves the counter on; a reader takes the copy, and takes it again
if the counter has moved twice meanwhile, or if the checksum does not fit. A writer that is killed
at any instant leaves a copy that counts.

The file outlives the receiver: whether that is alive, only its lock tells.

Source: walreceiver.h, WalRcvData (PostgreSQL 18), in spirit.
"""

import mmap
import os
import struct
import time
import zlib
from typing import NamedTuple

from pgbackup.errors import CorruptData, NotFound
from pgbackup.pg.lsn import Lsn, Timeline, WalPosition
from pgbackup.storage.durable import FileSystem, PathName, storage_errors
from pgbackup.storage.leftovers import temporary_name

MAGIC = b"pgbrcv02"
FILE_SIZE = 4096  # bytes; one page, which is mapped as a whole
FILE_MODE = 0o600
ATTEMPTS = 1000
"""Reads that may fall together with two updates each before the file counts as damaged."""

_COUNTER = 1  # in words of 8 bytes; the magic is word 0
_COPY = struct.Struct("=QIIQQQqqQIIq")
_CHECKSUM = struct.Struct("=I")
_COPIES = (64, 192)  # offsets in bytes


class ReceiverPositions(NamedTuple):
    """Where a receiver is.

    written:    everything before this has been handed to the file system.
    flushed:    everything before this is durable.
    server_end: where the server's WAL ended when it sent its last message.
    started, updated: microseconds since 1970-01-01 UTC, by this host's clock.
    start, start_timeline: the position with which the receiver began.
    server_end_time: when server_end last moved; like started.
    is_streaming: a connection stands and is streaming.
    """

    system_identifier: int
    pid: int
    timeline: Timeline
    written: Lsn
    flushed: Lsn
    server_end: Lsn
    started: int
    updated: int
    start: Lsn
    start_timeline: Timeline
    server_end_time: int
    is_streaming: bool


class PositionsWriter:
    """The receiver's side. Always: flushed <= written in what is published."""

    def __init__(
        self, path: PathName, system_identifier: int, filesystem: FileSystem | None = None
    ) -> None:
        """Make the file anew; readers of an older one keep that."""
        self._system_identifier = system_identifier
        self._started = now()
        self._counter = 0
        self._start: WalPosition | None = None
        self._server_end = (Lsn(0), 0)
        self._map = self._make(os.fspath(path), filesystem or FileSystem())
        self._words = memoryview(self._map).cast("Q")

    def publish(
        self, position: WalPosition, flushed: Lsn, server_end: Lsn, *, is_streaming: bool = True
    ) -> None:
        """Let readers see new positions.

        position: the timeline, and what is written.
        """
        time_now = now()
        start = self._start = self._start or position
        if server_end != self._server_end[0]:
            self._server_end = (server_end, time_now)
        copy = _COPY.pack(
            self._system_identifier,
            os.getpid(),
            position.timeline,
            position.lsn,
            min(flushed, position.lsn),
            server_end,
            self._started,
            time_now,
            start.lsn,
            start.timeline,
            is_streaming,
            self._server_end[1],
        )
        at = _COPIES[(self._counter + 1) % 2]
        self._map[at : at + len(copy)] = copy
        _CHECKSUM.pack_into(self._map, at + len(copy), zlib.crc32(copy))
        self._counter += 1
        self._words[_COUNTER] = self._counter  # one store; pack_into would write zeros first

    def close(self) -> None:
        """Leave the file as it is."""
        self._words.release()
        self._map.close()

    def _make(self, path: str, filesystem: FileSystem) -> mmap.mmap:
        folder, name = os.path.split(path)
        temporary = f"{folder}/{temporary_name(name)}"
        with storage_errors("write file", path):
            fd = filesystem.open_new(temporary, FILE_MODE)
            try:
                filesystem.write_all(fd, MAGIC.ljust(FILE_SIZE, b"\0"))
                filesystem.rename(temporary, path)
            except BaseException:
                filesystem.unlink(temporary)
                raise
            finally:
                filesystem.close(fd)
            fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                return mmap.mmap(fd, FILE_SIZE)
            finally:
                os.close(fd)


def read_positions(path: PathName) -> ReceiverPositions | None:
    """What a receiver last published; None if there never was one.

    Raises: CorruptData, StorageError.
    """
    located = os.fspath(path)
    try:
        data, _ = _map(path, located)
    except NotFound:
        return None
    with data, memoryview(data) as view, view.cast("Q") as words:
        return _read(data, words, located)


class PositionsReader:
    """What a receiver publishes, for somebody who looks many times a second.

    The file stays mapped, until a new receiver has made another.
    """

    def __init__(self, path: PathName) -> None:
        """Open nothing yet."""
        self._path = os.fspath(path)
        self._inode = -1
        self._counter = 0
        self._data: mmap.mmap | None = None
        self._words: memoryview | None = None

    def read(self) -> ReceiverPositions | None:
        """As read_positions."""
        try:
            with storage_errors("read file", self._path):
                inode = os.lstat(self._path).st_ino
            if self._data is None or self._words is None or inode != self._inode:
                self._data, self._inode = _map(self._path, self._path)
                self._words = memoryview(self._data).cast("Q")
        except NotFound:
            return None
        self._counter = self._words[_COUNTER]
        return _read(self._data, self._words, self._path)

    def has_moved(self) -> bool:
        """Tell whether the file that was read last has been written to since."""
        return self._words is not None and self._words[_COUNTER] != self._counter


def _map(path: PathName, located: str) -> tuple[mmap.mmap, int]:
    """The file and its inode. Raises: NotFound, CorruptData, StorageError."""
    with storage_errors("read file", located):
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            found = os.fstat(fd)
            if found.st_size >= FILE_SIZE:
                return mmap.mmap(fd, FILE_SIZE, prot=mmap.PROT_READ), found.st_ino
        finally:
            os.close(fd)
    raise _damaged(located)


def now() -> int:
    """Microseconds since 1970-01-01 UTC."""
    return time.time_ns() // 1000


def _read(data: mmap.mmap, words: memoryview, located: str) -> ReceiverPositions | None:
    if data[: len(MAGIC)] != MAGIC:
        raise _damaged(located)
    for _ in range(ATTEMPTS):
        counter = words[_COUNTER]
        if counter == 0:
            return None
        at = _COPIES[counter % 2]
        copy = data[at : at + _COPY.size]
        (checksum,) = _CHECKSUM.unpack_from(data, at + _COPY.size)
        if zlib.crc32(copy) == checksum:
            return _positions(copy)
    raise _damaged(located)


def _positions(copy: bytes) -> ReceiverPositions:
    system, pid, timeline, written, flushed, server_end, *rest = _COPY.unpack(copy)
    started, updated, start, start_timeline, is_streaming, server_end_time = rest
    return ReceiverPositions(
        system,
        pid,
        Timeline(timeline),
        Lsn(written),
        Lsn(flushed),
        Lsn(server_end),
        started,
        updated,
        Lsn(start),
        Timeline(start_timeline),
        server_end_time,
        bool(is_streaming),
    )


def _damaged(located: str) -> CorruptData:
    return CorruptData(
        f'could not read positions "{located}": no receiver has written them like this',
        hint="The next pgbackup receive-wal makes the file anew.",
    )
