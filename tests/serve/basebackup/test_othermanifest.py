"""A client gets a manifest with the checksums that it asked for, whatever is stored."""

from dataclasses import replace

import pytest

from pgbackup.backup.stored import StoredBackup
from pgbackup.errors import CorruptData
from pgbackup.pg.manifest import Manifest
from pgbackup.repo import layout
from pgbackup.serve.basebackup.othermanifest import OtherManifest
from pgbackup.serve.basebackup.storedbackup import StoredBackupSource
from pgbackup.storage.memory import MemoryStorage
from pgbackup.stream.sink import LARGEST_ROOM
from pgbackup.wire.basebackup import BaseBackup
from tests.backup.sample import LABEL, Sample, sample, symlink
from tests.stream.checked_sink import CheckedSink


def serve(
    made: Sample,
    algorithm: str | None,
    *,
    force_encode: bool = False,
    as_stored: bool = False,
    room: int = 8192,
) -> tuple[CheckedSink, bytes]:
    """What arrives, and the stored manifest."""
    storage = MemoryStorage()
    cluster = made.put(storage)
    backup = StoredBackup(storage, cluster.catalog.get(LABEL))
    end = CheckedSink((room,))
    sink = OtherManifest(end, made.major, algorithm, force_encode=force_encode)
    command = BaseBackup("x", tablespace_map=True)
    source = StoredBackupSource(backup, cluster.archive, command, as_stored=as_stored)
    try:
        source.run(sink)
    finally:
        sink.cleanup()
    return end, backup.read(layout.MANIFEST)


@pytest.mark.parametrize("room", [700, LARGEST_ROOM], ids=["small", "large"])
@pytest.mark.parametrize("algorithm", ["CRC32C", "SHA224", "SHA256", "SHA384", "SHA512"])
def test_checksums_are_made_of_the_files(algorithm: str, room: int) -> None:
    made = sample(tablespace="/srv/space")
    made.algorithm = "NONE"
    sink, _ = serve(made, algorithm, room=room)
    assert sink.manifest == replace(made, algorithm=algorithm).manifest()
    assert sink.is_complete


def test_archives_are_the_same_as_without() -> None:
    made = sample(tablespace="/srv/space")
    other, _ = serve(made, "SHA256")
    same, _ = serve(made, None)
    assert other.archives == same.archives


@pytest.mark.parametrize("as_stored", [False, True], ids=["plain", "as-stored"])
def test_a_manifest_without_checksums_needs_no_look_at_the_files(*, as_stored: bool) -> None:
    made = sample()
    sink, _ = serve(made, "NONE", as_stored=as_stored)
    assert sink.manifest == replace(made, algorithm="NONE").manifest()


def test_names_can_be_hexadecimal_throughout() -> None:
    sink, stored = serve(sample(), None, force_encode=True)
    assert sink.manifest is not None
    assert b'"Path"' not in sink.manifest
    assert Manifest.parse(sink.manifest).files == Manifest.parse(stored).files


def test_a_file_that_did_not_go_by_has_no_checksum() -> None:
    made = sample()
    made.archives[None].append(replace(symlink("link", "/srv"), in_manifest=True))
    with pytest.raises(CorruptData, match='could not make a checksum of file "link"'):
        serve(made, "SHA256")
