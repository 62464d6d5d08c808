"""Tar headers against those of a real BASE_BACKUP, of GNU tar's formats, and against damage."""

import io
import random
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from pgbackup.errors import CorruptData, PgbackupError
from pgbackup.pg.tar import (
    BLOCK_SIZE,
    DIRECTORY,
    END_OF_ARCHIVE,
    FILE,
    SYMLINK,
    TarHeader,
    padding,
)

# Sent by PostgreSQL 15.18 for a cluster with one tablespace, without the tablespace map option.
HEADERS = (Path(__file__).parent / "data" / "tar_headers_15.bin").read_bytes()
BLOCKS = [HEADERS[at : at + BLOCK_SIZE] for at in range(0, len(HEADERS), BLOCK_SIZE)]

PLAIN = TarHeader("base/5/1259", 122880, 0o600, 101, 104, 1795373000)


def parsed(block: bytes) -> TarHeader:
    header = TarHeader.parse(block)
    assert header is not None
    return header


def resealed(block: bytes | bytearray) -> bytes:
    """Give a changed block a right checksum, so that only the change is wrong."""
    block = bytearray(block)
    block[148:156] = b" " * 8
    block[148:156] = b"%07o " % sum(block)
    return bytes(block)


def changed(offset: int, data: bytes) -> bytes:
    block = bytearray(PLAIN.encode())
    block[offset : offset + len(data)] = data
    return resealed(block)


def test_headers_of_postgres_are_understood() -> None:
    members = [(h.name, h.type, h.size, h.mode, h.linkname) for h in map(parsed, BLOCKS)]
    assert members == [
        ("PG_15_202209061", DIRECTORY, 0, 0o700, ""),
        ("backup_label", FILE, 199, 0o600, ""),
        ("./pg_wal/archive_status", DIRECTORY, 0, 0o700, ""),
        ("base", DIRECTORY, 0, 0o700, ""),
        ("base/1/n\udcff\udcfeme", FILE, 0, 0o644, ""),
        ("pg_tblspc/16392", SYMLINK, 0, 0o777, "/var/tmp/fast disk"),
        ("grüße", FILE, 0, 0o644, ""),
        ("big.bin", FILE, 9_000_000_000, 0o644, ""),
        ("global/pg_control", FILE, 8192, 0o600, ""),
    ]
    assert {(h.uid, h.gid) for h in map(parsed, BLOCKS)} == {(101, 104)}


@pytest.mark.parametrize("block", BLOCKS, ids=[parsed(b).name for b in BLOCKS])
def test_headers_of_postgres_are_written_byte_for_byte(block: bytes) -> None:
    assert parsed(block).encode() == block


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_can_be_read(kind: Callable[[bytes], bytes]) -> None:
    assert TarHeader.parse(kind(PLAIN.encode())) == PLAIN


def test_zero_block_is_the_end() -> None:
    assert TarHeader.parse(END_OF_ARCHIVE[:BLOCK_SIZE]) is None
    assert len(END_OF_ARCHIVE) == 2 * BLOCK_SIZE


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(PLAIN._replace(size=8**11 - 1), id="largest size in octal"),
        pytest.param(PLAIN._replace(size=8**11), id="smallest size in base 256"),
        pytest.param(PLAIN._replace(size=2**63 - 1), id="largest size"),
        pytest.param(PLAIN._replace(uid=8**7 - 1, gid=8**7 - 1), id="largest owner in octal"),
        pytest.param(PLAIN._replace(uid=8**7, gid=2**32 - 1), id="owner in base 256"),
        pytest.param(PLAIN._replace(mtime=0), id="1970"),
        pytest.param(PLAIN._replace(mtime=-1), id="before 1970"),
        pytest.param(PLAIN._replace(mtime=2**40), id="far future"),
        pytest.param(PLAIN._replace(mode=0o7777), id="all mode bits"),
        pytest.param(PLAIN._replace(name="x" * 99), id="longest name"),
        pytest.param(PLAIN._replace(name="ü" * 49 + "\udcff"), id="longest name in bytes"),
        pytest.param(
            TarHeader("d" * 98, 0, 0o700, 0, 0, 1, DIRECTORY), id="longest directory name"
        ),
        pytest.param(
            TarHeader("pg_tblspc/1", 0, 0o777, 0, 0, 1, SYMLINK, "/" + "t" * 98),
            id="longest link target",
        ),
    ],
)
def test_header_survives_being_written_and_read(header: TarHeader) -> None:
    assert TarHeader.parse(header.encode()) == header


def test_random_headers_are_read_alike_by_pythons_own_tarfile() -> None:
    source = random.Random(7)
    for _ in range(300):
        kind = source.choice([FILE, DIRECTORY])
        header = TarHeader(
            "".join(chr(source.randint(33, 0x2FF)) for _ in range(30)).replace("/", "_"),
            source.getrandbits(source.randint(1, 62)) if kind == FILE else 0,
            source.randint(0, 0o7777),
            source.getrandbits(source.randint(1, 32)),
            source.getrandbits(source.randint(1, 32)),
            source.getrandbits(source.randint(1, 40)),
            kind,
        )
        info = tarfile.TarInfo.frombuf(header.encode(), "utf-8", "surrogateescape")
        assert (info.name, info.size, info.mode) == (header.name, header.size, header.mode)
        assert (info.uid, info.gid, info.mtime) == (header.uid, header.gid, header.mtime)
        assert TarHeader.parse(header.encode()) == header


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT])
def test_headers_of_other_writers_are_read(tar_format: Literal[0, 1]) -> None:
    info = tarfile.TarInfo("base/1/112")
    info.size, info.mode, info.uid, info.mtime = 8192, 0o640, 1000, 1795373000
    header = parsed(info.tobuf(tar_format))
    assert header == TarHeader("base/1/112", 8192, 0o640, 1000, 0, 1795373000)


def test_gnu_tar_negative_time_is_read() -> None:
    info = tarfile.TarInfo("old")
    info.mtime = -5
    assert parsed(info.tobuf(tarfile.GNU_FORMAT)).mtime == -5


@pytest.mark.parametrize("type_", ["1", "3", "4", "6", "7", "g", "x", "L", "K", "S", "\xff"])
def test_types_that_postgres_never_writes_are_left_to_the_caller(type_: str) -> None:
    assert parsed(changed(156, type_.encode("latin-1"))).type == type_


def test_zero_type_is_a_file() -> None:
    assert parsed(changed(156, b"\0")).type == FILE


def test_slash_at_the_end_is_kept_where_it_does_not_belong() -> None:
    assert parsed(changed(0, b"base/5/12/\0")).name == "base/5/12/"


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        pytest.param(b"", "0 bytes instead of 512", id="empty"),
        pytest.param(PLAIN.encode()[:-1], "511 bytes instead of 512", id="short"),
        pytest.param(PLAIN.encode() + b"\0", "513 bytes instead of 512", id="long"),
        pytest.param(bytes(511) + b"x", "not in ustar format", id="almost zeros"),
        pytest.param(random.Random(1).randbytes(512), "not in ustar format", id="noise"),
        pytest.param(changed(257, b"ustar\0 0"), "not in ustar format", id="magic"),
        pytest.param(changed(257, bytes(8)), "not in ustar format", id="no magic"),
        pytest.param(changed(345, b"dir"), "split in two parts", id="prefix"),
        pytest.param(changed(0, bytes(100)), "no name", id="no name"),
        pytest.param(changed(124, b"-0000000001 "), "is not a number", id="negative size"),
        pytest.param(changed(124, b"0000000_001 "), "is not a number", id="underscore"),
        pytest.param(changed(124, b"0o000000001 "), "is not a number", id="python octal"),
        pytest.param(changed(124, b"00000000009 "), "not an octal number", id="digit 9"),
        pytest.param(changed(124, b"0000000012x "), "is not a number", id="trailing letter"),
        pytest.param(changed(124, b" " * 12), "is not a number", id="blank size"),
        pytest.param(changed(124, bytes(12)), "is not a number", id="zero bytes as size"),
        pytest.param(changed(124, b"\xff" * 12), "not a 63-bit number", id="base 256 negative"),
        pytest.param(changed(124, b"\x80" + b"\xff" * 11), "63-bit", id="base 256 too large"),
        pytest.param(changed(124, b"\x81" + bytes(11)), "is not a number", id="base 256 marker"),
        pytest.param(changed(136, b"\x80" + b"\x7f" * 11), "is not a time", id="time too large"),
        pytest.param(changed(100, b"rw-r--r-"), "is not a number", id="mode"),
        pytest.param(changed(108, b"postgres"), "is not a number", id="owner"),
    ],
)
def test_damaged_header_is_refused(block: bytes, reason: str) -> None:
    with pytest.raises(CorruptData, match=f"could not parse tar header: .*{reason}"):
        TarHeader.parse(block)


def test_any_changed_bit_is_noticed() -> None:
    block = PLAIN.encode()
    source = random.Random(3)
    checksum_field = range(148, 156)
    for at in (at for at in range(BLOCK_SIZE) if at not in checksum_field):
        damaged = bytearray(block)
        damaged[at] ^= 1 << source.randrange(8)
        with pytest.raises(CorruptData, match=r"checksum does not match|not in ustar format"):
            TarHeader.parse(damaged)


def test_wrong_checksum_is_noticed() -> None:
    block = bytearray(PLAIN.encode())
    block[154] ^= 1
    with pytest.raises(CorruptData, match="checksum does not match"):
        TarHeader.parse(block)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        pytest.param(PLAIN._replace(name="x" * 100), "file name too long", id="name"),
        pytest.param(PLAIN._replace(name="ü" * 50), "file name too long", id="name in bytes"),
        pytest.param(
            PLAIN._replace(name="d" * 99, type=DIRECTORY), "file name too long", id="directory"
        ),
        pytest.param(
            PLAIN._replace(linkname="t" * 100, type=SYMLINK), "target too long", id="link target"
        ),
        pytest.param(PLAIN._replace(name="a\0b"), "zero byte in file name", id="zero byte"),
        pytest.param(PLAIN._replace(type="x"), 'type "x" is never written', id="pax"),
    ],
)
def test_what_the_format_cannot_hold_is_refused(header: TarHeader, reason: str) -> None:
    with pytest.raises(PgbackupError, match=reason):
        header.encode()


@pytest.mark.parametrize(
    ("size", "pad"), [(0, 0), (1, 511), (511, 1), (512, 0), (513, 511), (2**40 + 1, 511)]
)
def test_padding_fills_up_to_the_next_block(size: int, pad: int) -> None:
    assert padding(size) == pad


def test_archive_of_our_headers_is_read_by_tarfile() -> None:
    members = [
        (TarHeader("base", 0, 0o700, 1, 2, 3, DIRECTORY), b""),
        (TarHeader("base/PG_VERSION", 3, 0o600, 1, 2, 3), b"15\n"),
        (TarHeader("pg_tblspc/16392", 0, 0o777, 1, 2, 3, SYMLINK, "/var/tmp/fast disk"), b""),
    ]
    archive = b"".join(
        header.encode() + content + bytes(padding(header.size)) for header, content in members
    )
    with tarfile.open(fileobj=io.BytesIO(archive + END_OF_ARCHIVE)) as tar:
        assert tar.getnames() == ["base", "base/PG_VERSION", "pg_tblspc/16392/"]
        content = tar.extractfile("base/PG_VERSION")
        assert content is not None
        assert content.read() == b"15\n"
        link = tar.getmembers()[2]
        assert link.issym()
        assert link.linkname == "/var/tmp/fast disk"
