"""Truncation, damage and junk in zstd objects are found, at every byte."""

import os
import shutil
import subprocess
import zlib
from contextlib import suppress
from pathlib import Path

import pytest
import zstandard

from pgbackup.errors import CorruptData
from pgbackup.repo.decompress import plain_chunks
from pgbackup.repo.seal import SealingCompressor, seal
from pgbackup.storage.memory import MemoryStorage
from tests.backup.wal import sample_wal
from tests.repo.samples import SYSTEM

DESCRIPTOR, WINDOW = 4, 5  # offsets in a frame header
PLAIN = os.urandom(3000) + bytes(200_000) + os.urandom(3000)


def compress(plain: bytes, *, level: int = 3, checksum: bool = True, sized: bool = True) -> bytes:
    compressor = zstandard.ZstdCompressor(level, write_checksum=checksum, write_content_size=sized)
    return compressor.compress(plain)


def skippable(content: bytes, number: int = 0) -> bytes:
    head = (0x184D2A50 + number).to_bytes(4, "little") + len(content).to_bytes(4, "little")
    return head + content


def decode(stored: bytes) -> bytes:
    storage = MemoryStorage()
    storage.create("x", stored)
    with storage.reader("x") as reader:
        return b"".join(plain_chunks(reader, "x"))


FRAME = compress(PLAIN)


@pytest.mark.parametrize(
    ("stored", "plain"),
    [
        pytest.param(FRAME, PLAIN, id="one-frame"),
        pytest.param(FRAME + compress(b"more"), PLAIN + b"more", id="two-frames"),
        pytest.param(compress(b""), b"", id="empty-content"),
        pytest.param(compress(PLAIN, sized=False), PLAIN, id="unknown-size"),
        pytest.param(FRAME + seal(zlib.crc32(FRAME)), PLAIN, id="sealed"),
    ],
)
def test_frames_are_decoded(stored: bytes, plain: bytes) -> None:
    assert decode(stored) == plain


def test_a_truncated_object_is_found_wherever_it_is_cut() -> None:
    stored = compress(PLAIN[:500] + bytes(1000)) + compress(b"second" * 50)
    stored += seal(zlib.crc32(stored))
    first = len(compress(PLAIN[:500] + bytes(1000)))
    second = first + len(compress(b"second" * 50))
    for end in range(len(stored)):
        if end in (first, second):
            continue  # whole frames: only the length that the caller knows can tell
        with pytest.raises(CorruptData):
            decode(stored[:end])


def test_a_flipped_bit_is_found_wherever_it_is() -> None:
    plain = os.urandom(300)
    stored = bytearray(compress(plain))
    for position in range(len(stored)):
        for bit in range(8):
            stored[position] ^= 1 << bit
            with pytest.raises(CorruptData):
                decode(bytes(stored))
            stored[position] ^= 1 << bit
    assert decode(bytes(stored)) == plain


@pytest.mark.slow
@pytest.mark.parametrize("level", [1, 3, 19])
def test_every_flipped_bit_in_a_sealed_segment_is_found(level: int) -> None:
    for plain in sample_wal(SYSTEM)[0].values():
        compressor = SealingCompressor(level, len(plain))
        stored = bytearray(compressor.compress(plain) + compressor.flush())
        sampled = range(32, len(stored) - 48, len(stored) // 60)
        for position in [*range(32), *sampled, *range(len(stored) - 48, len(stored))]:
            for bit in range(8):
                stored[position] ^= 1 << bit
                with pytest.raises(CorruptData):
                    decode(bytes(stored))
                stored[position] ^= 1 << bit
        assert decode(bytes(stored)) == plain


@pytest.mark.parametrize("level", [1, 3, 19])
def test_a_flipped_bit_without_a_seal_is_found_unless_it_changes_nothing(level: int) -> None:
    for plain in sample_wal(SYSTEM)[0].values():
        stored = bytearray(zstandard.ZstdCompressor(level, write_checksum=True).compress(plain))
        for position in range(0, len(stored), len(stored) // 100 or 1):
            stored[position] ^= 1 << position % 8
            with suppress(CorruptData):
                assert decode(bytes(stored)) == plain
            stored[position] ^= 1 << position % 8


SEGMENT = compress(os.urandom(1 << 20), level=1)
"""Of which the header is 28b52ffd 84 48 00001000: checksum, 4 bytes of size, window of 512 KiB."""


@pytest.mark.parametrize(
    ("position", "value"),
    [
        pytest.param(DESCRIPTOR, 0x94, id="unused-bit"),
        pytest.param(DESCRIPTOR, 0x8C, id="reserved-bit"),
        pytest.param(DESCRIPTOR, 0x80, id="no-checksum"),
        pytest.param(DESCRIPTOR, 0x85, id="dictionary"),
        pytest.param(WINDOW, 0x49, id="window-between-powers"),
        pytest.param(WINDOW, 0x50, id="window-as-large-as-the-content"),
        pytest.param(WINDOW, 0x58, id="window-larger-than-the-content"),
    ],
)
def test_a_header_that_zstd_does_not_write_is_refused(position: int, value: int) -> None:
    assert SEGMENT[:10].hex() == "28b52ffd844800001000"
    changed = bytearray(SEGMENT)
    changed[position] = value
    with pytest.raises(CorruptData, match=r"header|checksum|not in zstd format"):
        decode(bytes(changed))


@pytest.mark.parametrize(
    "stored",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\0" * 100, id="zeros"),
        pytest.param(PLAIN, id="not-compressed"),
        pytest.param(FRAME + b"junk", id="junk-behind"),
        pytest.param(FRAME + b"\0", id="zero-behind"),
        pytest.param(skippable(b"only"), id="no-frame"),
        pytest.param(seal(0), id="seal-of-nothing"),
        pytest.param(FRAME + seal(zlib.crc32(FRAME) ^ 1), id="wrong-seal"),
        pytest.param(FRAME + skippable(b"seal1234", 9), id="almost-a-seal"),
        pytest.param(FRAME + seal(zlib.crc32(FRAME)) + b"x", id="junk-behind-the-seal"),
        pytest.param(FRAME + seal(zlib.crc32(FRAME)) + FRAME, id="frame-behind-the-seal"),
        pytest.param(compress(PLAIN, checksum=False), id="no-checksum"),
        pytest.param(FRAME + compress(PLAIN, checksum=False), id="no-checksum-in-second"),
        pytest.param(b"\x1f\x8b" + bytes(50), id="gzip"),
        pytest.param(FRAME[:4], id="magic-only"),
    ],
)
def test_what_is_not_whole_frames_with_checksums_is_refused(stored: bytes) -> None:
    with pytest.raises(CorruptData, match='could not read object "x"'):
        decode(stored)


@pytest.mark.parametrize("sized", [True, False])
def test_a_bomb_is_given_in_pieces(sized: bool) -> None:
    storage = MemoryStorage()
    bomb = compress(bytes(64 << 20), sized=sized)
    storage.create("x", bomb)
    with storage.reader("x") as reader:
        sizes = [len(chunk) for chunk in plain_chunks(reader, "x")]
    assert sum(sizes) == 64 << 20
    assert max(sizes) <= 128 << 10


OPTIONS = ["-1", "-3", "-19", "--fast=5", "--long=27", "--ultra -22", "-T2", "--zstd=wlog=12"]


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("size", [0, 255, 65_792, 1 << 20, 2 << 20])
def test_what_the_stock_tool_writes_is_accepted(options: str, size: int, tmp_path: Path) -> None:
    plain = b"".join(sample_wal(SYSTEM)[0].values())[:size]
    (tmp_path / "x").write_bytes(plain)
    command = ["zstd", "-q", *options.split()]
    sized = subprocess.run([*command, "-c", tmp_path / "x"], capture_output=True, check=True)
    assert decode(sized.stdout) == plain
    piped = subprocess.run(command, input=plain, capture_output=True, check=True)
    assert decode(piped.stdout) == plain


def test_the_stock_tool_reads_and_writes_the_same() -> None:
    tool = shutil.which("zstd")
    assert tool, 'the zstd tool is missing: "apt install zstd"'
    written = subprocess.run([tool, "-c"], input=PLAIN, capture_output=True, check=True).stdout
    assert decode(written) == PLAIN
    read = subprocess.run([tool, "-dc"], input=FRAME, capture_output=True, check=True).stdout
    assert read == PLAIN
