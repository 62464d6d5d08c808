"""Compress: independent frames, in order, that any zstd can read, within bounded memory."""

import random
import subprocess
import threading
import tracemalloc
from functools import partial
from pathlib import Path

import pytest
import zstandard

from pgbackup.errors import StorageError
from pgbackup.stream.compress import Compress, ZstdSettings
from pgbackup.stream.seekable import FOOTER_SIZE, Frame, decode_seek_table, seek_table_size
from pgbackup.stream.sink import End, Sink
from tests.stream.checked_sink import CheckedSink, backup_state, send
from tests.stream.link_contract import ARCHIVES, MANIFEST, LinkContract
from tests.waiting import PATIENCE

FRAME_SIZE = 4096


def compress(successor: Sink, workers: int = 2, frame_size: int = FRAME_SIZE) -> Compress:
    return Compress(successor, ZstdSettings(level=1, workers=workers), frame_size=frame_size)


def frames_of(stored: bytes) -> tuple[Frame, ...]:
    size = seek_table_size(stored[-FOOTER_SIZE:], "x")
    return decode_seek_table(stored[-size:], len(stored), "x")


def frame_bytes(stored: bytes, frame: Frame) -> bytes:
    return stored[frame.stored_offset : frame.stored_offset + frame.stored_size]


def decompress(stored: bytes) -> bytes:
    """Decode each frame on its own, with an object that has never seen another."""
    parts = []
    for frame in frames_of(stored):
        part = zstandard.ZstdDecompressor().decompress(frame_bytes(stored, frame))
        assert len(part) == frame.size
        parts.append(part)
    return b"".join(parts)


class TestCompressWithOneWorker(LinkContract):
    def link(self, successor: Sink) -> Sink:
        return compress(successor, workers=1)

    def restored(self, stored: dict[str, bytes]) -> dict[str, bytes]:
        assert all(name.endswith(".tar.zst") for name in stored)
        return {name.removesuffix(".zst"): decompress(data) for name, data in stored.items()}


class TestCompressWithManyWorkers(TestCompressWithOneWorker):
    def link(self, successor: Sink) -> Sink:
        return compress(successor, workers=5, frame_size=777)


def stored_archive(content: bytes, workers: int = 2, frame_size: int = FRAME_SIZE) -> bytes:
    end = CheckedSink([1000])
    send(compress(end, workers, frame_size), {"base.tar": content})
    return end.archives["base.tar.zst"]


@pytest.mark.parametrize("length", [1, FRAME_SIZE - 1, FRAME_SIZE, FRAME_SIZE + 1, 3 * FRAME_SIZE])
def test_frames_are_full_but_the_last(length: int) -> None:
    stored = stored_archive(b"x" * length)
    sizes = [frame.size for frame in frames_of(stored)]
    assert sum(sizes) == length
    assert all(size == FRAME_SIZE for size in sizes[:-1])
    assert 0 < sizes[-1] <= FRAME_SIZE


def test_each_frame_carries_its_size_and_the_checksum_of_the_table() -> None:
    stored = stored_archive(ARCHIVES["base.tar"])
    frames = frames_of(stored)
    assert len(frames) > 3
    for frame in frames:
        data = frame_bytes(stored, frame)
        parameters = zstandard.get_frame_parameters(data)
        assert parameters.content_size == frame.size
        assert parameters.has_checksum
        assert int.from_bytes(data[-4:], "little") == frame.checksum


def test_a_wrong_checksum_is_noticed_by_zstd() -> None:
    stored = stored_archive(b"page" * 100)
    data = bytearray(frame_bytes(stored, frames_of(stored)[0]))
    data[-1] ^= 1
    with pytest.raises(zstandard.ZstdError, match="checksum"):
        zstandard.ZstdDecompressor().decompress(bytes(data))


def test_an_empty_archive_is_a_seek_table_alone() -> None:
    stored = stored_archive(b"")
    assert frames_of(stored) == ()
    assert len(stored) == 17


def test_the_order_is_kept_with_many_workers() -> None:
    """Frames that take long to compress stand between frames that take no time."""
    chance = random.Random(1)
    pieces = [
        chance.randbytes(50_000) if number % 3 == 0 else bytes([number % 256]) * 50_000
        for number in range(60)
    ]
    stored = stored_archive(b"".join(pieces), workers=8, frame_size=50_000)
    assert decompress(stored) == b"".join(pieces)
    assert [frame.size for frame in frames_of(stored)] == [50_000] * 60


def test_a_second_archive_starts_a_table_of_its_own() -> None:
    end = CheckedSink()
    send(compress(end), {"16384.tar": b"a" * 9000, "base.tar": b"b" * 10})
    assert [len(frames_of(stored)) for stored in end.archives.values()] == [3, 1]


def test_the_manifest_passes_untouched() -> None:
    end = CheckedSink([100])
    send(compress(end), ARCHIVES, MANIFEST)
    assert end.manifest == MANIFEST


def test_deferred_contents_are_written_on_the_thread_of_their_frame() -> None:
    """And in the order of the frame; contents that are there already stay."""
    end = CheckedSink([1000])
    link = compress(end, workers=1)
    link.begin_backup(backup_state())
    link.begin_archive("base.tar")
    seen: list[tuple[str, str]] = []

    def fill(what: bytes, memory: memoryview) -> None:
        seen.append((what.decode(), threading.current_thread().name))
        memory[:] = what * len(memory)

    assert len(link.buffer) == FRAME_SIZE
    link.archive_later(700, partial(fill, b"a"))
    link.buffer[:300] = b"b" * 300
    link.archive_contents(300)
    link.archive_later(FRAME_SIZE - 1000, partial(fill, b"c"))
    assert len(link.buffer) == FRAME_SIZE
    link.archive_later(5, partial(fill, b"d"))
    link.end_archive()
    link.cleanup()
    plain = decompress(end.archives["base.tar.zst"])
    assert plain == b"a" * 700 + b"b" * 300 + b"c" * (FRAME_SIZE - 1000) + b"d" * 5
    assert [what for what, _ in seen] == ["a", "c", "d"]
    assert all(thread.startswith("compress") for _, thread in seen)


def test_an_error_of_deferred_contents_reaches_the_owner() -> None:
    threads = threading.active_count()
    end = CheckedSink()
    link = compress(end)
    link.begin_backup(backup_state())
    link.begin_archive("base.tar")

    def fill(memory: memoryview) -> None:
        raise StorageError('could not read file "x": input/output error')

    assert len(link.buffer) == FRAME_SIZE
    link.archive_later(10, fill)
    with pytest.raises(StorageError, match="input/output error"):
        link.end_archive()
    link.cleanup()
    assert end.archives == {}
    assert threading.active_count() == threads


def test_a_flush_ends_a_frame_and_its_deferred_contents_are_written() -> None:
    end = CheckedSink()
    link = compress(end)
    link.begin_backup(backup_state())
    link.begin_archive("base.tar")
    is_written = threading.Event()
    assert len(link.buffer) == FRAME_SIZE
    link.archive_later(100, lambda memory: is_written.set())
    link.flush()
    assert is_written.wait(PATIENCE)
    assert len(link.buffer) == FRAME_SIZE
    link.buffer[:7] = bytes(7)
    link.archive_contents(7)
    link.flush()
    link.flush()
    link.end_archive()
    link.cleanup()
    assert [frame.size for frame in frames_of(end.archives["base.tar.zst"])] == [100, 7]


@pytest.mark.interop
@pytest.mark.parametrize("content", [b"", b"x", ARCHIVES["base.tar"]], ids=["empty", "x", "tar"])
def test_stock_zstd_restores_the_archive(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "base.tar.zst"
    path.write_bytes(stored_archive(content))
    assert subprocess.run(["zstd", "-dc", path], capture_output=True, check=True).stdout == content
    subprocess.run(["zstd", "-qt", path], check=True)


def test_a_run_given_up_in_the_middle_of_a_page_leaves_nothing() -> None:
    threads = threading.active_count()
    end = CheckedSink()
    link = compress(end)
    link.begin_backup(backup_state())
    link.begin_archive("base.tar")
    for _ in range(9):
        link.buffer[:1024] = bytes(1024)
        link.archive_contents(1024)
    link.cleanup()
    assert end.is_clean
    assert threading.active_count() == threads


def test_memory_does_not_grow_with_the_archive() -> None:
    workers, frame_size, frames = 2, 64 * 1024, 300
    noise = random.Random(2).randbytes(frame_size)
    link = Compress(Discard(), ZstdSettings(1, workers), frame_size=frame_size)
    link.begin_backup(backup_state())
    link.begin_archive("base.tar")
    tracemalloc.start()
    try:
        for _ in range(frames):
            link.buffer[:] = noise
            link.archive_contents(frame_size)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        link.cleanup()
    buffers = 2 * workers + 1
    assert peak < (buffers + 2) * frame_size * 1.2, "more compressed frames than buffers are held"


class Discard(End):
    """An end that forgets."""

    def __init__(self) -> None:
        super().__init__()
        self._memory = memoryview(bytearray(8192))

    @property
    def buffer(self) -> memoryview:
        return self._memory


def test_more_workers_than_useful_are_not_started() -> None:
    end = CheckedSink()
    threads = threading.active_count()
    link = Compress(end, ZstdSettings(workers=1000), frame_size=10)
    link.begin_backup(backup_state())
    link.begin_archive("base.tar")
    for _ in range(100):
        link.buffer[:] = bytes(10)
        link.archive_contents(10)
    assert threading.active_count() - threads <= 16
    link.cleanup()


def test_frames_ended_early_never_use_up_the_buffers() -> None:
    end = CheckedSink()
    link = compress(end, workers=1)
    link.begin_backup(backup_state())
    link.begin_archive("base.tar")
    for _ in range(20):
        link.buffer[:3] = b"abc"
        link.archive_contents(3)
        link.flush()
    link.end_archive()
    link.cleanup()
    assert decompress(end.archives["base.tar.zst"]) == b"abc" * 20
