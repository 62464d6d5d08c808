"""Tar headers exactly as PostgreSQL writes them.

The format is ustar with numbers in octal, or in base 256 where octal is too short, and with names
of at most 99 bytes: no name prefix, no pax, no GNU long names. Only headers are handled here; the
content between them, its padding and the end of an archive belong to whoever moves the bytes.
Whether a name is safe to create is not judged here either.
"""

import re
import struct
from typing import Final, NamedTuple, Self
from zlib import adler32

from pgbackup.errors import CorruptData, PgbackupError

BLOCK_SIZE: Final = 512  # bytes; headers and contents start at multiples of this
END_OF_ARCHIVE: Final = bytes(2 * BLOCK_SIZE)  # servers before 15 leave it out
MAX_NAME: Final = 99  # bytes; pgtar.h leaves room for a terminating zero

FILE: Final = "0"
SYMLINK: Final = "2"
DIRECTORY: Final = "5"

_ZERO_BLOCK = bytes(BLOCK_SIZE)
# name, mode, uid, gid, size, mtime, checksum, type, linkname, magic and version,
# [user, group, device: not read], prefix
_READ = struct.Struct("100s8s8s8s12s12s8sc100s8s80x155s12x")
_WRITE = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s167x")
_CHECKSUM = slice(148, 156)
_BLANK_CHECKSUM = b" " * 8
_USTAR = b"ustar\x0000"
_GNU = b"ustar  \x00"
_OCTAL = re.compile(rb" *([0-7]+)[ \0]*")
_ADLER_BASE = 65521  # RFC 1950
_NO_DEVICE = b"0000000 "
_MAX_NUMBER = 2**63 - 1


class TarHeader(NamedTuple):
    """One member of an archive.

    name:     undecodable bytes as surrogates; without the slash that ends directories and links.
    size:     bytes of content that follow, before padding.
    mode:     permission bits only.
    mtime:    seconds since 1970.
    type:     FILE, DIRECTORY or SYMLINK; any other character may be read, none is written.
    linkname: target of a symbolic link.
    """

    name: str
    size: int
    mode: int
    uid: int
    gid: int
    mtime: int
    type: str = FILE
    linkname: str = ""

    @classmethod
    def parse(cls, block: bytes | bytearray | memoryview) -> Self | None:
        """Read one header of 512 bytes; None for the block of zeros that ends an archive.

        Raises: CorruptData.
        Source: astreamer_tar.c, astreamer_tar_header; tar.c, isValidTarHeader (PostgreSQL 18)
        """
        block = bytes(block)
        if len(block) != BLOCK_SIZE:
            raise _unreadable(f"{len(block)} bytes instead of {BLOCK_SIZE}")
        if not block[0] and block == _ZERO_BLOCK:
            return None
        fields = _READ.unpack(block)
        raw_name, mode, uid, gid, size, mtime, checksum, kind, link, magic, prefix = fields
        if magic != _USTAR and magic != _GNU:
            raise _unreadable("not in ustar format")
        blank = block[: _CHECKSUM.start] + _BLANK_CHECKSUM + block[_CHECKSUM.stop :]
        if _number(checksum) % _ADLER_BASE != _sum(blank):
            raise _unreadable("its checksum does not match")
        if prefix[0] and magic == _USTAR:
            raise _unreadable("the name is split in two parts, which PostgreSQL never does")
        type_ = chr(kind[0] or ord(FILE))  # a zero byte meant a file before POSIX
        name = _text(raw_name)
        if type_ in (DIRECTORY, SYMLINK):
            name = name.removesuffix("/")
        if not name:
            raise _unreadable("it has no name")
        return cls(
            name,
            _number(size),
            _number(mode) & 0o7777,
            _number(uid),
            _number(gid),
            _time(mtime),
            type_,
            _text(link),
        )

    def encode(self) -> bytes:
        """Write the header as the server does.

        Raises: PgbackupError for a name or a link target that the format cannot hold.
        Source: tar.c, tarCreateHeader (PostgreSQL 18)
        """
        if self.type not in (FILE, DIRECTORY, SYMLINK):
            raise _unstorable(self.name, f'type "{self.type}" is never written')
        is_file = self.type == FILE
        # The slash counts: older clients read on into the mode where no zero byte ends the name.
        name = self._field(self.name if is_file else self.name + "/", "file name")
        link = self._field(self.linkname, "symbolic link target")
        header = _WRITE.pack(
            name,
            _digits(self.mode & 0o7777, 8),
            _digits(self.uid, 8),
            _digits(self.gid, 8),
            _digits(self.size if is_file else 0, 12),
            _digits(self.mtime & 0xFFFFFFFFFFFFFFFF, 12),
            _BLANK_CHECKSUM,
            self.type.encode("ascii"),
            link,
            _USTAR,
            b"postgres",
            b"postgres",
            _NO_DEVICE,
            _NO_DEVICE,
        )
        return header[:148] + _digits(_sum(header), 8) + header[156:]

    def _field(self, text: str, what: str) -> bytes:
        field = text.encode("utf-8", "surrogateescape")
        if b"\0" in field:
            raise _unstorable(self.name, f"zero byte in {what}")
        if len(field) > MAX_NAME:
            raise _unstorable(self.name, f"{what} too long for tar format")
        return field


def padding(size: int) -> int:
    """Zero bytes that follow a content of `size` bytes, up to the next block.

    Source: pgtar.h, tarPaddingBytesRequired (PostgreSQL 18)
    """
    return -size % BLOCK_SIZE


def _sum(block: bytes) -> int:
    """All bytes added up, modulo a prime that the headers we write do not reach.

    Adler-32 has this sum in its lower half, some ten times as fast as Python adds.
    """
    return ((adler32(block) & 0xFFFF) - 1) % _ADLER_BASE


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _number(field: bytes) -> int:
    """Read a number that is never negative.

    Source: tar.c, read_tar_number (PostgreSQL 18)
    """
    digits = field[:-1]
    if digits.isdigit():
        try:
            return int(digits, 8)
        except ValueError:
            raise _unreadable(f"{field!r} is not an octal number") from None
    value = _unusual_number(field)
    if not 0 <= value <= _MAX_NUMBER:
        raise _unreadable(f"{field!r} is not a 63-bit number")
    return value


def _unusual_number(field: bytes) -> int:
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    if field[0] == 0xFF:
        return int.from_bytes(field, "big", signed=True)
    match = _OCTAL.fullmatch(field)
    if match is None:
        raise _unreadable(f"{field!r} is not a number")
    return int(match[1], 8)


def _time(field: bytes) -> int:
    if field[0] < 0x80:
        return _number(field)
    # Times before 1970: PostgreSQL writes 64 bits of two's complement, GNU tar the whole field.
    value = _unusual_number(field)
    if value > _MAX_NUMBER:
        value -= 1 << 64
    if abs(value) > _MAX_NUMBER:
        raise _unreadable(f"{field!r} is not a time")
    return value


def _digits(value: int, length: int) -> bytes:
    """Write a number of `length` bytes.

    Source: tar.c, print_tar_number (PostgreSQL 18)
    """
    if value < 8 ** (length - 1):
        return b"%0*o " % (length - 1, value)
    return b"\x80" + value.to_bytes(length - 1, "big")


def _unreadable(reason: str) -> CorruptData:
    return CorruptData(f"could not parse tar header: {reason}")


def _unstorable(name: str, reason: str) -> PgbackupError:
    return PgbackupError(f'could not store file "{name}" in a tar archive: {reason}')
