"""BASE_BACKUP out of a repository: what is stored arrives, in the form that was asked for."""

import hashlib
import io
import tarfile
from dataclasses import replace

import pytest
import zstandard

from pgbackup.backup.stored import StoredBackup
from pgbackup.errors import CorruptData, WalGap
from pgbackup.pg.manifest import Manifest
from pgbackup.pg.tar import END_OF_ARCHIVE
from pgbackup.repo import layout
from pgbackup.serve.basebackup.storedbackup import StoredBackupSource
from pgbackup.storage.memory import MemoryStorage
from pgbackup.stream.sink import LARGEST_ROOM
from pgbackup.wire.basebackup import BaseBackup
from tests.backup.sample import LABEL, MIB, OID, Member, Sample, rewrite, sample
from tests.repo.samples import SYSTEM
from tests.stream.checked_sink import CheckedSink

WANTED = BaseBackup("x", tablespace_map=True)
MAP = Member("tablespace_map", f"{OID} /srv/space\n".encode())


def with_map() -> Sample:
    """As our backups from a server are: a map, and no links."""
    made = sample(tablespace="/srv/space")
    members = [member for member in made.archives[None] if member.type != "2"]
    made.archives[None] = [members[0], MAP, *members[1:]]
    return made


def serve(
    made: Sample, command: BaseBackup = WANTED, *, as_stored: bool = False, room: int = 8192
) -> tuple[CheckedSink, StoredBackup]:
    storage = MemoryStorage()
    cluster = made.put(storage)
    backup = StoredBackup(storage, cluster.catalog.get(LABEL))
    sink = CheckedSink((room,))
    source = StoredBackupSource(backup, cluster.archive, command, as_stored=as_stored)
    try:
        source.run(sink)
    finally:
        sink.cleanup()
    assert sink.state is not None
    assert sink.state.bytes_done > 0
    return sink, backup


def plain(made: Sample, oid: int | None) -> bytes:
    return b"".join(member.encode() for member in made.archives[oid]) + END_OF_ARCHIVE


def unpacked(data: bytes) -> bytes:
    """Any number of frames, as zstd does it."""
    with zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True) as reader:
        return reader.read()


def names(archive: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return tar.getnames()


@pytest.mark.parametrize("room", [700, LARGEST_ROOM], ids=["small", "large"])
@pytest.mark.parametrize("compressed", [True, False], ids=["zstd", "plain"])
def test_archives_and_manifest_are_those_that_are_stored(*, compressed: bool, room: int) -> None:
    made = replace(with_map(), compressed=compressed)
    sink, backup = serve(made, room=room)
    assert sink.archives == {f"{OID}.tar": plain(made, OID), "base.tar": plain(made, None)}
    assert sink.manifest == backup.read(layout.MANIFEST)
    assert sink.is_complete
    assert sink.stop is not None
    assert sink.stop.lsn == made.stop
    assert sink.state is not None
    assert sink.state.bytes_done == sum(map(len, sink.archives.values()))


def test_stored_frames_go_out_byte_for_byte() -> None:
    sink, backup = serve(with_map(), as_stored=True)
    stored = {
        archive.record.name: backup.storage.read(archive.object_name) for archive in backup.archives
    }
    assert sink.archives == stored


@pytest.mark.parametrize("as_stored", [False, True], ids=["plain", "as-stored"])
def test_a_client_that_wants_links_gets_them_instead_of_the_map(*, as_stored: bool) -> None:
    made = with_map()
    command = replace(WANTED, tablespace_map=False)
    sink, _ = serve(made, command, as_stored=as_stored)
    base = unpacked(sink.archives["base.tar.zst"]) if as_stored else sink.archives["base.tar"]
    with tarfile.open(fileobj=io.BytesIO(base)) as tar:
        *_, link = tar.getmembers()
    assert (link.name.rstrip("/"), link.type) == (f"pg_tblspc/{OID}", tarfile.SYMTYPE)
    assert link.linkname == "/srv/space"
    expected = [member.name for member in made.archives[None] if member is not MAP]
    assert [name.rstrip("/") for name in names(base)] == [*expected, f"pg_tblspc/{OID}"]
    assert sink.manifest is not None
    files = Manifest.parse(sink.manifest).files
    assert "tablespace_map" not in files
    assert len(files) == len(made.archives[OID]) - 2 + sum(
        member.type == "0" for member in made.archives[None] if member is not MAP
    )


@pytest.mark.parametrize("as_stored", [False, True], ids=["plain", "as-stored"])
def test_wal_comes_at_the_end_of_the_main_archive(*, as_stored: bool) -> None:
    made = with_map()
    made.histories["00000001.history"] = b"never there, but small\n"
    sink, _ = serve(made, replace(WANTED, wal=True), as_stored=as_stored)
    base = unpacked(sink.archives["base.tar.zst"]) if as_stored else sink.archives["base.tar"]
    assert base.startswith(plain(made, None).removesuffix(END_OF_ARCHIVE))
    assert base.endswith(END_OF_ARCHIVE)
    with tarfile.open(fileobj=io.BytesIO(base)) as tar:
        for segment, data in made.segments.items():
            file = tar.extractfile(f"pg_wal/{segment.name}")
            assert file is not None
            assert file.read() == data
            assert tar.getmember(f"pg_wal/archive_status/{segment.name}.done").size == 0
        file = tar.extractfile("pg_wal/00000001.history")
        assert file is not None
        assert file.read() == made.histories["00000001.history"]


def test_a_tail_is_served_as_a_whole_segment() -> None:
    made = with_map()
    (last, data), *_ = reversed(made.segments.items())
    made.tail = (f"{last.name}.partial", data[:5000])
    del made.segments[last]
    sink, _ = serve(made, replace(WANTED, wal=True))
    with tarfile.open(fileobj=io.BytesIO(sink.archives["base.tar"])) as tar:
        file = tar.extractfile(f"pg_wal/{last.name}")
        assert file is not None
        assert file.read() == data[:5000].ljust(MIB, b"\0")


def test_wal_that_is_gone_is_found_before_anything_is_sent() -> None:
    made = with_map()
    storage = MemoryStorage()
    cluster = made.put(storage)
    cluster.archive.delete(next(iter(made.segments)).name)
    backup = StoredBackup(storage, cluster.catalog.get(LABEL))
    sink = CheckedSink()
    command = replace(WANTED, wal=True)
    with pytest.raises(WalGap, match="is not in the archive"):
        StoredBackupSource(backup, cluster.archive, command, as_stored=False).run(sink)
    assert sink.calls == []


def test_sizes_are_told_to_clients_that_ask_for_progress() -> None:
    for wanted in (True, False):
        sink, backup = serve(with_map(), replace(WANTED, progress=wanted))
        assert sink.state is not None
        sizes = [each.record.size for each in backup.archives]
        assert [each.size for each in sink.state.tablespaces] == (sizes if wanted else [None] * 2)


def test_a_client_that_wants_no_manifest_gets_none() -> None:
    sink, _ = serve(sample(), replace(WANTED, manifest_checksums=None))
    assert sink.manifest is None


@pytest.mark.parametrize("as_stored", [False, True], ids=["plain", "as-stored"])
def test_an_index_that_lies_leaves_nothing_out(*, as_stored: bool) -> None:
    made = with_map()
    storage = MemoryStorage()
    cluster = made.put(storage)
    backup = StoredBackup(storage, cluster.catalog.get(LABEL))
    members = made.archives[None]
    made.archives[None] = [MAP, members[0], *members[2:]]
    other = MemoryStorage()
    lying = made.put(other).catalog.get(LABEL)
    index = layout.backup_folder(SYSTEM, LABEL) + "base.index"
    rewrite(storage, index, other.read(index))
    record = replace(backup.record, objects=lying.objects)
    found = StoredBackup(storage, record)
    command = replace(WANTED, tablespace_map=False)
    with pytest.raises(CorruptData):
        StoredBackupSource(found, cluster.archive, command, as_stored=as_stored).run(CheckedSink())


def test_the_checksum_of_a_changed_manifest_is_that_of_its_lines() -> None:
    sink, _ = serve(with_map(), replace(WANTED, tablespace_map=False))
    assert sink.manifest is not None
    *lines, last = sink.manifest.splitlines(keepends=True)
    assert hashlib.sha256(b"".join(lines)).hexdigest() in last.decode()
