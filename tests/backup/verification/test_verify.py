"""verify finds every kind of damage, and nothing in a good backup."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from crc32c import crc32c

from pgbackup.backup.stored import StoredBackup
from pgbackup.backup.verification.verify import VerifyReport, verify_backup
from pgbackup.errors import CorruptData
from pgbackup.pg.lsn import Lsn, Timeline
from pgbackup.repo import layout
from pgbackup.repo.record import ChecksumFailures, HistoryRecord, TablespaceRecord, WalRange
from pgbackup.repo.repository import ClusterRepository
from pgbackup.storage.local import LocalStorage
from pgbackup.storage.memory import MemoryStorage
from pgbackup.stream.progress import SilentMeter
from tests.backup.sample import (
    LABEL,
    OID,
    SYSTEM,
    Member,
    Sample,
    control_file,
    edit_record,
    rewrite,
    sample,
    symlink,
)
from tests.backup.wal import sample_wal

FOLDER = layout.backup_folder(SYSTEM, LABEL)
HISTORY = b"1\t0/1000000\tno recovery target specified\n"
HISTORY_CRC32C = f"{crc32c(HISTORY):08x}"


def good() -> Sample:
    made = sample(tablespace=f"/srv/space{OID}")
    made.histories["00000002.history"] = HISTORY
    return made


def verify(cluster: ClusterRepository, **options: bool) -> VerifyReport:
    record = cluster.catalog.get(LABEL)
    return verify_backup(cluster, record, jobs=2, meter=SilentMeter(), **options)


@pytest.fixture
def cluster() -> ClusterRepository:
    return good().put(MemoryStorage())


def flip(cluster: ClusterRepository, name: str, position: int, bit: int = 0) -> None:
    data = bytearray(cluster.storage.read(name))
    data[position] ^= 1 << bit
    rewrite(cluster.storage, name, bytes(data))


@pytest.mark.parametrize("level", [None, 1], ids=["plain-wal", "zstd-wal"])
@pytest.mark.parametrize("compressed", [True, False], ids=["zstd", "plain"])
@pytest.mark.parametrize("algorithm", ["CRC32C", "SHA224", "SHA256", "SHA384", "SHA512", "NONE"])
def test_a_good_backup_has_no_problem(algorithm: str, compressed: bool, level: int | None) -> None:
    made = good()
    made.algorithm, made.compressed, made.level = algorithm, compressed, level
    report = verify(made.put(MemoryStorage()))
    assert report.problems == ()
    assert (report.files, report.wal_files) == (11, 2)


def test_a_good_backup_with_an_unfinished_segment_has_no_problem() -> None:
    made = good()
    last = list(made.segments)[-1]
    made.tail = (f"{last.name}.partial", made.segments.pop(last)[: made.stop - last.start])
    assert verify(made.put(MemoryStorage())).problems == ()


def test_the_link_of_a_tablespace_that_came_during_the_backup_is_no_problem() -> None:
    made = good()
    made.archives[None].insert(-1, symlink("pg_tblspc/777", "/srv/newer"))
    assert verify(made.put(MemoryStorage())).problems == ()


def every_object() -> list[str]:
    found = [each.name for each in good().put(MemoryStorage()).storage.list(f"{SYSTEM}/")]
    return [name.removeprefix(f"{SYSTEM}/") for name in found if not name.endswith("cluster.json")]


@pytest.mark.slow
@pytest.mark.parametrize("name", every_object())
def test_a_flipped_bit_in_any_object_is_found(name: str) -> None:
    cluster = good().put(MemoryStorage())
    located = f"{SYSTEM}/{name}"
    original = cluster.storage.read(located)
    positions = range(0, len(original), max(1, len(original) // 60))
    for position in [*positions, len(original) - 1]:
        flip(cluster, located, position, position % 8)
        try:
            problems = verify(cluster).problems
        except CorruptData:
            assert name.endswith(layout.RECORD)
        else:
            assert problems, f"byte {position}"
        rewrite(cluster.storage, located, original)
    assert verify(cluster).problems == ()


@pytest.mark.parametrize("number", [0, 1])
def test_a_flipped_bit_in_plain_wal_is_found(number: int) -> None:
    made = good()
    made.level = None
    cluster = made.put(MemoryStorage())
    name = cluster.archive.find(list(made.segments)[number].name)
    assert name is not None
    original = cluster.storage.read(name)
    for position in range(number, len(original), len(original) // 150):
        flip(cluster, name, position, position % 8)
        report = verify(cluster)
        assert report.problems, f"byte {position}"
        rewrite(cluster.storage, name, original)


@pytest.mark.parametrize("name", ["base.tar.zst", f"{OID}.tar.zst"])
@pytest.mark.parametrize("is_record_edited", [False, True], ids=["", "record-edited"])
def test_truncation_at_every_frame_and_inside_the_last_is_found(
    cluster: ClusterRepository, name: str, is_record_edited: bool
) -> None:
    record = cluster.catalog.get(LABEL)
    data = cluster.storage.read(FOLDER + name)
    archive = next(
        each for each in StoredBackup(cluster.storage, record).archives if each.record.name == name
    )
    ends = [frame.stored_offset for frame in archive.frames]
    for end in [*ends, ends[-1] + 3, len(data) - 9, len(data) - 1]:
        rewrite(cluster.storage, FOLDER + name, data[:end])
        if is_record_edited:
            changed = tuple(
                replace(each, stored_size=end, crc32c=f"{crc32c(data[:end]):08x}")
                if each.name == name
                else each
                for each in record.archives
            )
            edit_record(cluster.storage, archives=changed)
        assert any(name in problem for problem in verify(cluster).problems)


@pytest.mark.parametrize("name", [n for n in every_object() if "backups/" in n])
def test_a_missing_object_is_found(cluster: ClusterRepository, name: str) -> None:
    if name.endswith(layout.RECORD):
        return
    cluster.storage.delete(f"{SYSTEM}/{name}")
    problems = verify(cluster).problems
    assert any(name in problem and "no such object" in problem for problem in problems)


@pytest.mark.parametrize("name", ["extra", "16401.tar.zst", "sub/folder", "backup.json.old"])
def test_an_extra_object_is_found(cluster: ClusterRepository, name: str) -> None:
    cluster.storage.create(FOLDER + name, b"")
    assert verify(cluster).problems == (
        f'could not account for object "memory:/{FOLDER}{name}": the record does not know it',
    )


@pytest.mark.parametrize("number", [0, 1])
def test_a_missing_segment_is_found(cluster: ClusterRepository, number: int) -> None:
    name = list(good().segments)[number].name
    cluster.archive.delete(name)
    assert any(name in problem for problem in verify(cluster).problems)


def test_a_missing_history_file_is_found(cluster: ClusterRepository) -> None:
    cluster.archive.delete("00000002.history")
    assert any("00000002.history" in problem for problem in verify(cluster).problems)


def test_an_edited_record_is_found(cluster: ClusterRepository) -> None:
    name = layout.record_object(SYSTEM, LABEL)
    text = cluster.storage.read(name).replace(b'"comment": "a ', b'"comment": "b ')
    rewrite(cluster.storage, name, text)
    with pytest.raises(CorruptData, match="checksum does not match"):
        verify(cluster)


@pytest.mark.parametrize(
    "change",
    [
        {"start_lsn": Lsn(0x200000)},
        {"stop_lsn": Lsn(0x300000)},
        {"stop_lsn": Lsn(0x900000)},
        {"timeline": Timeline(2)},
        {"stop_timeline": Timeline(2)},
        {"wal_segment_size": 2 << 20, "wal": ()},
        {"wal": ()},
        {"wal": (WalRange(1, "000000010000000000000002", "000000010000000000000002"),)},
        {"wal": (WalRange(1, "000000010000000000000002", "000000010000000000000004"),)},
        {"histories": (HistoryRecord("00000003.history", 42, "00c0ffee"),)},
        {"histories": (HistoryRecord("00000002.history", len(HISTORY) - 1, HISTORY_CRC32C),)},
        {"histories": (HistoryRecord("00000002.history", len(HISTORY), "00c0ffee"),)},
        {"server_version": 180000},
        {"size": 1},
        {"stored_size": 1},
        {"compression": "none"},
        {"checksum_algorithm": "SHA256"},
        {"tablespaces": ()},
        {"tablespaces": (TablespaceRecord(OID, "/elsewhere", f"{OID}.tar.zst"),)},
        {"tablespaces": (TablespaceRecord(OID, f"/srv/space{OID}", "base.tar.zst"),)},
        {"tablespaces": (TablespaceRecord(OID, f"/srv/space{OID}", f"{OID}.tar"),)},
        {"objects": ()},
        {"tail": "000000010000000000000004.partial"},
        {"has_label": False},
    ],
    ids=lambda change: "-".join(f"{name}" for name in change),
)
def test_a_record_edited_with_care_is_found(
    cluster: ClusterRepository, change: dict[str, object]
) -> None:
    edit_record(cluster.storage, **change)
    assert verify(cluster).problems


def test_archives_that_were_swapped_are_found(cluster: ClusterRepository) -> None:
    names = ("base.tar.zst", f"{OID}.tar.zst")
    contents = [cluster.storage.read(FOLDER + name) for name in names]
    for name, content in zip(names, contents[::-1], strict=True):
        rewrite(cluster.storage, FOLDER + name, content)
    assert len(verify(cluster).problems) >= 2


def edit_manifest(cluster: ClusterRepository, old: bytes, new: bytes) -> None:
    text = cluster.storage.read(FOLDER + layout.MANIFEST)
    assert old in text
    rewrite(cluster.storage, FOLDER + layout.MANIFEST, text.replace(old, new))


def test_an_edited_manifest_is_found(cluster: ClusterRepository) -> None:
    edit_manifest(cluster, b"2619", b"2618")
    problems = verify(cluster).problems
    assert any("backup_manifest" in problem for problem in problems)


def test_a_manifest_edited_with_care_is_found() -> None:
    made = good()
    text = made.manifest()
    made.archives[None].append(Member("base/1/new", b"new"))
    edited = made.manifest()
    assert text != edited
    del made.archives[None][-1]
    made.manifest = lambda: edited  # type: ignore[method-assign]
    problems = verify(made.put(MemoryStorage())).problems
    assert problems == ('could not find file "base/1/new" of the manifest: no archive has it',)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m.archives[None].pop(7), 'file "base/1/empty" of the manifest'),
        (
            lambda m: m.archives[None].append(Member("base/1/x", b"", in_manifest=False)),
            "not in the manifest",
        ),
        (
            lambda m: m.archives[None].__setitem__(8, Member("base/1/2619", b"gape" * 5000)),
            'file "base/1/2619": its checksum',
        ),
        (
            lambda m: m.archives[None].__setitem__(8, Member("base/1/2619", b"page" * 5000 + b"+")),
            "it has 20001 bytes, in the manifest 20000",
        ),
        (
            lambda m: m.archives[None].__setitem__(8, Member("base/1/2619", b"")),
            "it has 0 bytes, in the manifest 20000",
        ),
        (
            lambda m: m.archives[None].__setitem__(10, symlink(f"pg_tblspc/{OID}", "/elsewhere")),
            "leads to",
        ),
        (lambda m: m.archives[OID].pop(), "of the manifest: no archive has it"),
    ],
    ids=["missing", "extra", "other-content", "longer", "emptied", "other-link", "in-a-tablespace"],
)
def test_members_that_differ_from_the_manifest_are_found(
    change: Callable[[Sample], object], reason: str
) -> None:
    made = good()
    text = made.manifest()
    change(made)
    made.manifest = lambda: text  # type: ignore[method-assign]
    problems = verify(made.put(MemoryStorage())).problems
    assert len(problems) == 1
    assert reason in problems[0]


def test_a_changed_label_file_is_found() -> None:
    made = good()
    label = made.archives[None][0]
    changed = label.content.replace(b"START WAL LOCATION: 0/2", b"START WAL LOCATION: 0/3")
    made.archives[None][0] = replace(label, content=changed)
    assert any("backup_label" in problem for problem in verify(made.put(MemoryStorage())).problems)


def test_only_the_backup_of_a_stopped_server_needs_no_label() -> None:
    made = good()
    del made.archives[None][0]
    control = made.archives[None][-1]
    made.archives[None][-1] = replace(control, content=control_file(redo=made.start))
    problems = verify(made.put(MemoryStorage())).problems
    assert 'could not use the manifest: it has no file "backup_label"' in problems
    made.changes["has_label"] = False
    assert verify(made.put(MemoryStorage())).problems == ()


def test_without_a_label_the_control_file_must_name_the_start() -> None:
    made = good()
    del made.archives[None][0]
    made.changes["has_label"] = False
    problems = verify(made.put(MemoryStorage())).problems
    assert [problem for problem in problems if "its redo position is" in problem]


def test_all_problems_are_told_and_with_fail_fast_only_the_first(
    cluster: ClusterRepository,
) -> None:
    cluster.storage.create(FOLDER + "extra", b"")
    cluster.archive.delete(next(iter(good().segments)).name)
    record = cluster.catalog.get(LABEL)
    frames = StoredBackup(cluster.storage, record).archives[1].frames
    for frame in (frames[1], frames[6]):
        flip(cluster, FOLDER + "base.tar.zst", frame.stored_offset + frame.stored_size - 1)
    report = verify(cluster)
    text = "\n".join(report.problems)
    for part in ("extra", 'file "base/1/1259"', "could not decode archive", "WAL file"):
        assert part in text
    assert text.count("could not decode archive") == 2
    assert len(verify(cluster, fail_fast=True).problems) == 1


def test_lost_files_are_named_and_those_behind_the_damage_still_checked() -> None:
    made = good()
    text = made.manifest()
    last = made.archives[None][-5]
    made.archives[None][-5] = replace(last, content=last.content[:-1] + b"!")
    made.manifest = lambda: text  # type: ignore[method-assign]
    cluster = made.put(MemoryStorage())
    archive = StoredBackup(cluster.storage, cluster.catalog.get(LABEL)).archives[1]
    frame = archive.frames[1]
    flip(cluster, FOLDER + "base.tar.zst", frame.stored_offset + frame.stored_size - 1)
    problems = verify(cluster).problems
    assert any(f'file "{last.name}": its checksum' in problem for problem in problems)
    assert 'could not read file "base/1/1259": a part of it is damaged' in problems


def test_without_its_index_an_archive_is_checked_all_the_same(cluster: ClusterRepository) -> None:
    cluster.storage.delete(FOLDER + "base.index")
    assert all("base.index" in problem for problem in verify(cluster).problems)


def test_wal_of_another_system_is_found() -> None:
    made = good()
    made.segments = sample_wal(SYSTEM + 1)[0]
    problems = verify(made.put(MemoryStorage())).problems
    assert any(f"is of system {SYSTEM + 1}" in problem for problem in problems)


def test_wal_that_does_not_join_is_found() -> None:
    made = good()
    second = list(made.segments)[1]
    made.segments[second] = sample_wal(SYSTEM, seed=2)[0][second]
    problems = verify(made.put(MemoryStorage())).problems
    assert any(second.name in problem for problem in problems)


def test_a_local_repository_is_verified_too(tmp_path: Path) -> None:
    assert verify(good().put(LocalStorage(tmp_path / "repo"))).problems == ()


def test_reported_page_failures_are_no_damage_of_the_backup() -> None:
    made = good()
    made.changes["checksum_failures"] = ChecksumFailures(True, ("page verification failed",))
    assert verify(made.put(MemoryStorage())).problems == ()


def test_a_history_that_does_not_lead_through_the_backup_is_found() -> None:
    made = good()
    made.changes |= {"stop_timeline": Timeline(2)}
    made.histories["00000002.history"] = b"1\t0/100\tno recovery target specified\n"
    problems = verify(made.put(MemoryStorage())).problems
    assert any("00000002.history" in problem for problem in problems)
