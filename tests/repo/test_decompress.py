"""Truncation, damage and junk in zstd objects are found, at every byte."""

import os
import shutil
import subprocess

import pytest
import zstandard

from pgbackup.errors import CorruptData
from pgbackup.repo.decompress import plain_chunks
from pgbackup.storage.memory import MemoryStorage

PLAIN = os.urandom(3000) + bytes(200_000) + os.urandom(3000)


def compress(plain: bytes, *, checksum: bool = True, sized: bool = True) -> bytes:
    compressor = zstandard.ZstdCompressor(3, write_checksum=checksum, write_content_size=sized)
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
        pytest.param(FRAME + skippable(b"x" * 17, 14), PLAIN, id="seek-table"),
        pytest.param(skippable(b"") + FRAME + skippable(bytes(9000)), PLAIN, id="skipped"),
    ],
)
def test_frames_are_decoded(stored: bytes, plain: bytes) -> None:
    assert decode(stored) == plain


def test_a_truncated_object_is_found_wherever_it_is_cut() -> None:
    stored = compress(PLAIN[:500] + bytes(1000)) + compress(b"second" * 50) + skippable(b"1234")
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
        for bit in (1, 0x80):
            stored[position] ^= bit
            with pytest.raises(CorruptData):
                decode(bytes(stored))
            stored[position] ^= bit
    assert decode(bytes(stored)) == plain


@pytest.mark.parametrize(
    "stored",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\0" * 100, id="zeros"),
        pytest.param(PLAIN, id="not-compressed"),
        pytest.param(FRAME + b"junk", id="junk-behind"),
        pytest.param(FRAME + b"\0", id="zero-behind"),
        pytest.param(skippable(b"only"), id="no-frame"),
        pytest.param(compress(PLAIN, checksum=False), id="no-checksum"),
        pytest.param(FRAME + compress(PLAIN, checksum=False), id="no-checksum-in-second"),
        pytest.param(b"\x1f\x8b" + bytes(50), id="gzip"),
        pytest.param(FRAME[:4], id="magic-only"),
    ],
)
def test_what_is_not_whole_frames_with_checksums_is_refused(stored: bytes) -> None:
    with pytest.raises(CorruptData, match='could not read object "x"'):
        decode(stored)


def test_a_bomb_is_given_in_pieces() -> None:
    storage = MemoryStorage()
    bomb = compress(bytes(64 << 20), sized=False)
    storage.create("x", bomb)
    with storage.reader("x") as reader:
        sizes = [len(chunk) for chunk in plain_chunks(reader, "x")]
    assert sum(sizes) == 64 << 20


def test_the_stock_tool_reads_and_writes_the_same() -> None:
    tool = shutil.which("zstd")
    assert tool, 'the zstd tool is missing: "apt install zstd"'
    written = subprocess.run([tool, "-c"], input=PLAIN, capture_output=True, check=True).stdout
    assert decode(written) == PLAIN
    read = subprocess.run([tool, "-dc"], input=FRAME, capture_output=True, check=True).stdout
    assert read == PLAIN
