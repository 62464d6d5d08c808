"""verify --pages finds damaged pages of a stored backup, and only those."""

import pytest
from crc32c import crc32c

from pgbackup.backup.verification.pages import FilePages
from pgbackup.backup.verification.verify import VerifyReport, verify_backup
from pgbackup.pg.lsn import Lsn
from pgbackup.pg.page import NO_LIMIT, BadPage
from pgbackup.storage.memory import MemoryStorage
from pgbackup.stream.progress import SilentMeter
from tests.backup.sample import (
    LABEL,
    OID,
    Member,
    Sample,
    control_file,
    directory,
    sample,
)
from tests.pg.pages import PAGE_SIZE, checksum, damaged, good_page

SEGMENT = 131072  # blocks
NO_RELATIONS = ("pg_filenode.map", "016384", "16384.0", "16384_x", "16384_vm.old", "t3_16384")


def verify(made: Sample, *, pages: bool = True) -> VerifyReport:
    cluster = made.put(MemoryStorage())
    return verify_backup(
        cluster, cluster.catalog.get(LABEL), jobs=2, meter=SilentMeter(), pages=pages
    )


def pages(*blocks: int, damage: tuple[int, ...] = (), lsn: int = 1) -> bytes:
    return b"".join(
        damaged(good_page(block, lsn)) if block in damage else good_page(block, lsn)
        for block in blocks
    )


def with_files(*files: Member, control: bytes | None = None) -> Sample:
    """A backup whose only relations are these."""
    made = sample(tablespace=f"/srv/space{OID}")
    relations = {"base/1/1259", "base/1/2619", "base/1/empty", "global/1262"}
    base = [member for member in made.archives[None] if member.name not in relations]
    if control is not None:
        base[-1] = Member("global/pg_control", control)
    made.archives[None] = [*base[:-1], *files, base[-1]]
    made.archives[OID] = made.archives[OID][:2]
    return made


def expected_sentence(path: str, block: int) -> str:
    good = good_page(block)
    return (
        f'checksum verification failed in file "{path}", block {block}: calculated'
        f" {checksum(damaged(good), block):X} but expected {checksum(good, block):X}"
    )


@pytest.mark.parametrize("compressed", [True, False], ids=["zstd", "plain"])
def test_good_pages_pass_and_are_counted(compressed: bool) -> None:
    made = with_files(
        Member("base/1/1259", pages(0, 1, 2)),
        Member("base/1/1259_fsm", pages(0)),
        Member("base/1/16384.2", pages(2 * SEGMENT, 2 * SEGMENT + 1)),
        Member("base/1/16385_init", bytes(PAGE_SIZE)),
        Member("global/1262_vm", pages(0)),
    )
    made.archives[OID].append(Member("PG_15_202209061/5/16401", pages(*range(5))))
    made.compressed = compressed
    report = verify(made)
    assert report.problems == ()
    assert report.pages is not None
    assert (report.pages.has_checksums, report.pages.checked, report.pages.failed) == (True, 13, 0)


@pytest.mark.parametrize("compressed", [True, False], ids=["zstd", "plain"])
def test_damaged_pages_are_named_by_file_and_block(compressed: bool) -> None:
    made = with_files(
        Member("base/1/1259", pages(0, 1, 2, damage=(1,))),
        Member("base/1/1259.1", pages(SEGMENT, SEGMENT + 1, damage=(SEGMENT + 1,))),
    )
    space = "PG_15_202209061/5/16401"
    made.archives[OID].append(Member(space, pages(0, damage=(0,))))
    made.compressed = compressed
    report = verify(made)
    assert sorted(report.problems) == [
        expected_sentence("base/1/1259", 1),
        expected_sentence("base/1/1259.1", SEGMENT + 1),
        expected_sentence(f"pg_tblspc/{OID}/{space}", 0),
    ]
    assert report.pages is not None
    assert [(each.path, each.count) for each in report.pages.files] == [
        ("base/1/1259", 1),
        ("base/1/1259.1", 1),
        (f"pg_tblspc/{OID}/{space}", 1),
    ]
    assert report.pages.files[0].first == (
        BadPage(1, checksum(damaged(good_page(1)), 1), checksum(good_page(1), 1)),
    )


def test_of_many_damaged_pages_in_a_file_five_are_told_and_all_are_counted() -> None:
    blocks = tuple(range(9))
    report = verify(with_files(Member("base/1/1259", pages(*blocks, damage=blocks))))
    assert report.problems == (
        *(expected_sentence("base/1/1259", block) for block in range(5)),
        'further checksum verification failures in file "base/1/1259" will not be reported',
        'file "base/1/1259" has a total of 9 checksum verification failures',
    )
    assert report.pages is not None
    assert (report.pages.failed, len(report.pages.files[0].first)) == (9, 5)


def test_pages_written_since_the_start_and_new_ones_are_passed_over() -> None:
    made = with_files()
    start = int(made.start)
    content = (
        pages(0, damage=(0,), lsn=start)
        + bytes(PAGE_SIZE)
        + pages(2, damage=(2,), lsn=start + 8)
        + pages(3, damage=(3,), lsn=start - 8)
    )
    made.archives[None].insert(-1, Member("base/1/1259", content))
    assert [each.split(": ")[0] for each in verify(made).problems] == [
        'checksum verification failed in file "base/1/1259", block 3'
    ]


def test_only_files_of_relations_have_pages() -> None:
    content = pages(0, damage=(0,))
    made = with_files(
        *(Member(f"base/1/{name}", content) for name in NO_RELATIONS),
        Member("base/1259", content),
        directory("base/pgsql_tmp"),
        Member("base/pgsql_tmp/1259", content),
        directory("pg_xact"),
        Member("pg_xact/1", content),
    )
    report = verify(made)
    assert report.problems == ()
    assert report.pages is not None
    assert report.pages.checked == 0


def test_the_rest_of_a_file_behind_its_last_whole_page_is_no_page() -> None:
    report = verify(with_files(Member("base/1/1259", pages(0) + pages(1, damage=(1,))[:6000])))
    assert report.problems == ()


def test_without_data_checksums_no_page_is_checked() -> None:
    control = change_control(252, 0)
    report = verify(with_files(Member("base/1/1259", pages(0, damage=(0,))), control=control))
    assert report.problems == ()
    assert report.pages is not None
    assert (report.pages.has_checksums, report.pages.checked) == (False, 0)


def test_pages_of_another_size_are_a_problem() -> None:
    report = verify(with_files(control=change_control(216, 16384)))
    assert report.pages is None
    assert report.problems[0] == (
        f'could not check pages of backup "{LABEL}": they have 16384 bytes, and only 8192 are'
        " supported"
    )


def test_an_unreadable_control_file_is_a_problem() -> None:
    report = verify(with_files(control=b"x" * 8192))
    assert report.pages is None
    assert "pg_control" in report.problems[0]


def test_pages_are_not_looked_at_unless_asked() -> None:
    made = with_files(Member("base/1/1259", pages(0, damage=(0,))))
    report = verify(made, pages=False)
    assert (report.problems, report.pages) == ((), None)


@pytest.mark.parametrize("size", [1, 7, 512, 8191, 8192, 8193, 20000, 10**6])
def test_pages_may_come_in_pieces_of_any_size(size: int) -> None:
    content = memoryview(pages(*range(10, 16), damage=(10, 13, 15)))
    found = FilePages("base/1/1259", 10, Lsn(NO_LIMIT))
    for start in range(0, len(content), size):
        found.update(content[start : start + size])
    assert [each.block for each in found.bad] == [10, 13, 15]
    assert (found.count, found.bad_count) == (6, 3)


def change_control(offset: int, value: int) -> bytes:
    """pg_control with another number in it and the right checksum."""
    data = bytearray(control_file()[:288])
    data[offset : offset + 4] = value.to_bytes(4, "little")
    return bytes(data + crc32c(bytes(data)).to_bytes(4, "little")).ljust(8192, b"\0")
