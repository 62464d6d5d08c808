"""A link that makes each archive one gzip stream."""

import zlib

from pgbackup.stream.gzip import Gzip
from pgbackup.stream.sink import Sink
from tests.stream.link_contract import LinkContract


class TestGzip(LinkContract):
    def link(self, successor: Sink) -> Sink:
        return Gzip(successor)

    def restored(self, stored: dict[str, bytes]) -> dict[str, bytes]:
        return {name.removesuffix(".gz"): unpacked(data) for name, data in stored.items()}


def unpacked(data: bytes) -> bytes:
    """The content of what is one whole stream."""
    decompressor = zlib.decompressobj(31)
    found = decompressor.decompress(data)
    assert decompressor.eof
    assert not decompressor.unused_data
    return found
