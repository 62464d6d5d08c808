"""Plain bytes out of a zstd object, proven to be all of them.

Four checks, each of which finds what the others do not: every frame begins with a header as zstd
writes it, reaches its end, has a checksum of its content that matches, and as many bytes come out
as it says. The library alone does not do: it passes over bits of the header that change nothing,
and its streaming readers return less than all, without an error, if the input ends early. What we
stored ends in a seal, which proves the rest: bits of the format that change no content.

The decoder is fed block by block: a block holds at most 128 KiB, while a few bytes of input could
make it give any number of blocks at once.
"""

import zlib
from collections.abc import Iterator

import zstandard

from pgbackup.errors import CorruptData
from pgbackup.repo.seal import SEAL_SIZE, seal
from pgbackup.storage.api import ObjectReader

_FEED = 1 << 16  # bytes read ahead

_MAX_HEADER = 18  # bytes; RFC 8878, 3.1.1.1
_MAGIC = b"\x28\xb5\x2f\xfd"
_SKIPPABLE_MAGIC_END = b"\x2a\x4d\x18"  # after a byte from 0x50 to 0x5f

_DESCRIPTOR = 4  # offset of the frame header's descriptor
_WINDOW = 5  # offset of the window descriptor, where there is one
_SINGLE_SEGMENT = 0x20  # the window is the content: no window descriptor
_CHECKSUM = 0x04
_NEVER_SET = 0x1B  # unused, reserved, dictionary: we have none to decode with
_MANTISSA = 0x07  # of the window descriptor
_CHECKSUM_SIZE = 4  # bytes

_BLOCK_HEADER = 3  # bytes; RFC 8878, 3.1.1.2
_RLE = 1
_RESERVED = 3
_MAX_BLOCK = 128 << 10  # bytes


def plain_chunks(reader: ObjectReader, name: str) -> Iterator[bytes]:
    """Yield the content of all frames of an object, in pieces of up to 128 KiB.

    The bytes are proven when the iterator is exhausted, not before.

    name: for messages.

    Raises: CorruptData, StorageError.
    """
    source = _Source(reader, name)
    frames = 0
    while head := source.peek(_MAX_HEADER):
        if head[1:4] == _SKIPPABLE_MAGIC_END:
            _check_seal(source, name)
            break
        yield from _frame_chunks(source, name)
        frames += 1
    if frames == 0:
        raise _damaged(name, "it is empty")


class _Source:
    """Stored bytes, taken in the pieces that the format has."""

    def __init__(self, reader: ObjectReader, name: str) -> None:
        self._reader = reader
        self._name = name
        self._ahead = b""
        self.checksum = 0

    def peek(self, size: int) -> bytes:
        """The next bytes, fewer only at the end."""
        if len(self._ahead) < size:
            self._ahead += self._reader.read(max(_FEED, size - len(self._ahead)))
        return self._ahead[:size]

    def take(self, size: int) -> bytes:
        """Exactly so many bytes. Raises: CorruptData."""
        taken = self.peek(size)
        if len(taken) < size:
            raise _damaged(self._name, "it is truncated")
        self._ahead = self._ahead[size:]
        self.checksum = zlib.crc32(taken, self.checksum)
        return taken


def _frame_chunks(source: _Source, name: str) -> Iterator[bytes]:
    head = source.peek(_MAX_HEADER)
    wanted = _content_size(head, name)
    decompressor = zstandard.ZstdDecompressor().decompressobj()
    data = source.take(zstandard.frame_header_size(head))
    size, is_last = 0, False
    while not is_last:
        block, is_last = _take_block(source, name)
        data += block
        try:
            plain = decompressor.decompress(data)
        except zstandard.ZstdError as error:
            raise _damaged(name, "a frame cannot be decompressed") from error
        data = b""
        size += len(plain)
        if wanted is not None and size > wanted:
            break
        if plain:
            yield plain
    if wanted is not None and size != wanted:
        raise _damaged(name, f"a frame has other than the {wanted} bytes it tells of")
    if not decompressor.eof:
        raise _damaged(name, "a frame has no end")


def _content_size(header: bytes, name: str) -> int | None:
    """How many bytes a frame says it holds, if it does.

    Raises: CorruptData for a header that zstd does not write.
    Source: zstd_compress.c, ZSTD_writeFrameHeader (zstd 1.5)
    """
    if not header.startswith(_MAGIC):
        raise _damaged(name, "it is not in zstd format")
    try:
        parameters = zstandard.get_frame_parameters(header)
    except zstandard.ZstdError as error:
        raise _damaged(name, "it is truncated or not in zstd format") from error
    descriptor = header[_DESCRIPTOR]
    if not descriptor & _CHECKSUM:
        raise _damaged(name, "a frame has no checksum")
    is_unknown = parameters.content_size == zstandard.CONTENTSIZE_UNKNOWN
    is_odd = bool(descriptor & _NEVER_SET)
    if not descriptor & _SINGLE_SEGMENT:
        # A window that holds all of a content whose size is known is not written.
        is_useless = not is_unknown and parameters.window_size >= parameters.content_size
        is_odd = is_odd or is_useless or bool(header[_WINDOW] & _MANTISSA)
    if is_odd:
        raise _damaged(name, "the header of a frame is not one that zstd writes")
    return None if is_unknown else parameters.content_size


def _take_block(source: _Source, name: str) -> tuple[bytes, bool]:
    """A block with its header, and with the checksum if it is the last; whether it is that."""
    head = int.from_bytes(source.peek(_BLOCK_HEADER), "little")
    is_last, kind, length = bool(head & 1), head >> 1 & 3, head >> 3
    if kind == _RESERVED or length > _MAX_BLOCK:
        raise _damaged(name, "a frame cannot be decompressed")
    stored = 1 if kind == _RLE else length
    return source.take(_BLOCK_HEADER + stored + (_CHECKSUM_SIZE if is_last else 0)), is_last


def _check_seal(source: _Source, name: str) -> None:
    """Refuse any skippable frame but a seal that is right and comes last."""
    if source.peek(SEAL_SIZE + 1) != seal(source.checksum):
        raise _damaged(name, "its seal is not that of its bytes")


def _damaged(name: str, reason: str) -> CorruptData:
    return CorruptData(f'could not read object "{name}": {reason}')
