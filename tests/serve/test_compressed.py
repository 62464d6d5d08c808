"""Every compression that a client can ask for gives the stored archives, decoded by others."""

import gzip
from collections.abc import Callable
from dataclasses import replace

import lz4.frame
import pytest

from pgbackup.backup.stored import StoredBackup
from pgbackup.pg.tar import END_OF_ARCHIVE
from pgbackup.serve.basebackup.storedbackup import StoredBackupSource
from pgbackup.serve.sendbackup import compressed
from pgbackup.storage.memory import MemoryStorage
from pgbackup.wire.basebackup import BaseBackup
from pgbackup.wire.compression import Compression
from tests.backup.sample import LABEL, OID
from tests.serve.basebackup.test_storedbackup import unpacked, with_map
from tests.stream.checked_sink import CheckedSink

DECODERS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": (".gz", gzip.decompress),
    "lz4": (".lz4", lz4.frame.decompress),
    "zstd": (".zst", unpacked),
}


MADE = replace(with_map(), compressed=False)
"""A backup that is stored plain, so that everything has to be compressed here."""


def compress(wanted: Compression) -> dict[str, bytes]:
    """The archives as they go out."""
    storage = MemoryStorage()
    cluster = MADE.put(storage)
    backup = StoredBackup(storage, cluster.catalog.get(LABEL))
    end = CheckedSink((8192,))
    sink = compressed(end, wanted)
    command = BaseBackup("x", tablespace_map=True)
    try:
        StoredBackupSource(backup, cluster.archive, command, as_stored=False).run(sink)
    finally:
        sink.cleanup()
    assert end.is_complete
    return end.archives


@pytest.mark.parametrize(
    "wanted",
    [
        Compression("gzip"),
        Compression("gzip", 1),
        Compression("gzip", 9),
        Compression("lz4"),
        Compression("lz4", 1),
        Compression("lz4", 12),
        Compression("zstd"),
        Compression("zstd", -7),
        Compression("zstd", 22),
        Compression("zstd", 1, workers=3),
        Compression("zstd", 0, workers=0),
        Compression("zstd", 3, workers=200, long=True),
        Compression("zstd", long=True),
    ],
    ids=lambda wanted: f"{wanted.algorithm}:{wanted.detail}",
)
def test_what_is_compressed_is_what_is_stored(wanted: Compression) -> None:
    suffix, decode = DECODERS[wanted.algorithm]
    archives = compress(wanted)
    assert all(name.endswith(suffix) for name in archives)
    found = {name.removesuffix(suffix): decode(data) for name, data in archives.items()}
    assert found == {
        name: b"".join(member.encode() for member in MADE.archives[oid]) + END_OF_ARCHIVE
        for oid, name in ((OID, f"{OID}.tar"), (None, "base.tar"))
    }


@pytest.mark.parametrize(
    ("algorithm", "low", "high"), [("gzip", 1, 9), ("lz4", 1, 12), ("zstd", -50, 19)]
)
def test_the_level_counts(algorithm: str, low: int, high: int) -> None:
    large, small = (
        sum(map(len, compress(Compression(algorithm, level)).values())) for level in (low, high)
    )
    assert small < large
