"""Plain bytes out of a zstd object, proven to be all of them.

Three checks, each of which finds what the others do not: every frame reaches its end, has a
checksum of its content that matches, and as many bytes come out as it says. The library alone
does not do: its streaming readers return less than all, without an error, if the input ends early.
"""

from collections.abc import Iterator

import zstandard

from pgbackup.errors import CorruptData
from pgbackup.storage.api import ObjectReader

# Bytes handed to the decompressor at once. A block of 128 KiB can take as little as 4 bytes, so
# this also bounds what a hostile object makes us hold: 128 MiB.
_FEED = 4096

_MAX_HEADER = 18  # bytes; RFC 8878, 3.1.1.1
_MAGIC = b"\x28\xb5\x2f\xfd"
_SKIPPABLE_MAGIC_END = b"\x2a\x4d\x18"  # after a byte from 0x50 to 0x5f
_SKIPPABLE_HEADER = 8  # bytes


def plain_chunks(reader: ObjectReader, name: str) -> Iterator[bytes]:
    """Yield the content of all frames of an object, in pieces of any size.

    The bytes are proven when the iterator is exhausted, not before.

    name: for messages.

    Raises: CorruptData, StorageError.
    """
    source = _Source(reader)
    frames = 0
    while source.fill(_MAX_HEADER):
        if source.data[:1] >= b"\x50" and source.data[1:4] == _SKIPPABLE_MAGIC_END:
            _skip(source, name)
            continue
        yield from _frame_chunks(source, name)
        frames += 1
    if frames == 0:
        raise _damaged(name, "it is empty")


class _Source:
    """Stored bytes, with those in front that were read ahead."""

    def __init__(self, reader: ObjectReader) -> None:
        self._reader = reader
        self.data = b""

    def fill(self, size: int) -> bool:
        """Read ahead to at least this many bytes, if there are; tell whether there are any."""
        while len(self.data) < size and (more := self._reader.read(_FEED)):
            self.data += more
        return bool(self.data)

    def take(self) -> bytes:
        """The next bytes; none at the end."""
        taken, self.data = self.data, b""
        return taken or self._reader.read(_FEED)


def _frame_chunks(source: _Source, name: str) -> Iterator[bytes]:
    wanted = _content_size(source.data, name)
    decompressor = zstandard.ZstdDecompressor().decompressobj()
    size = 0
    while not decompressor.eof:
        data = source.take()
        if not data:
            raise _damaged(name, "it is truncated")
        try:
            plain = decompressor.decompress(data)
        except zstandard.ZstdError as error:
            raise _damaged(name, "a frame cannot be decompressed") from error
        size += len(plain)
        if wanted is not None and size > wanted:
            break
        if plain:
            yield plain
    if wanted is not None and size != wanted:
        raise _damaged(name, f"a frame has other than the {wanted} bytes it tells of")
    source.data = decompressor.unused_data + source.data


def _content_size(header: bytes, name: str) -> int | None:
    """How many bytes a frame says it holds, if it does."""
    if not header.startswith(_MAGIC):
        raise _damaged(name, "it is not in zstd format")
    try:
        parameters = zstandard.get_frame_parameters(header)
    except zstandard.ZstdError as error:
        raise _damaged(name, "it is truncated or not in zstd format") from error
    if not parameters.has_checksum:
        raise _damaged(name, "a frame has no checksum")
    unknown = parameters.content_size == zstandard.CONTENTSIZE_UNKNOWN
    return None if unknown else parameters.content_size


def _skip(source: _Source, name: str) -> None:
    left = int.from_bytes(source.data[4:_SKIPPABLE_HEADER], "little") + _SKIPPABLE_HEADER
    while left:
        data = source.take()
        if not data:
            raise _damaged(name, "it is truncated")
        source.data = data[left:]
        left -= min(left, len(data))


def _damaged(name: str, reason: str) -> CorruptData:
    return CorruptData(f'could not read object "{name}": {reason}')
