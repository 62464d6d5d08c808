"""A link that makes each archive one gzip stream."""

import gzip
import zlib

import pytest

from pgbackup.stream.gzip import Gzip
from tests.stream.checked_sink import CheckedSink, send

CONTENT = bytes(range(256)) * 5000


@pytest.mark.parametrize("level", [-1, 1, 9])
def test_each_archive_is_one_stream_and_the_manifest_is_left_alone(level: int) -> None:
    sink = CheckedSink((1000, 70_000))
    send(Gzip(sink, level), {"1.tar": CONTENT, "base.tar": b"small"}, b"manifest", pieces=(999,))
    decompressor = zlib.decompressobj(31)
    assert decompressor.decompress(sink.archives["1.tar.gz"]) == CONTENT
    assert decompressor.eof
    assert not decompressor.unused_data
    assert gzip.decompress(sink.archives["base.tar.gz"]) == b"small"
    assert sink.manifest == b"manifest"
