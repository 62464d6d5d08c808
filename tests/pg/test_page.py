"""The page check, portable and compiled, against a plain one and against pages of real servers."""

import random
import re
import shutil
import sysconfig
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from pgbackup.pg import page, pagechecksum
from pgbackup.pg.lsn import Lsn
from pgbackup.pg.page import NO_LIMIT, BadPage, bad_pages, still_bad
from tests.fix_cluster import ClusterFactory
from tests.pg.pages import LAST_LSN, PAGE_SIZE, checksum, damaged, good_page, header

Check = Callable[[memoryview, int, int], list[tuple[int, int, int]]]

CHECKS: dict[str, Check] = {"portable": pagechecksum.failing_pages}
if find_spec("pgbackup.pg._pagekernel"):
    from pgbackup.pg import _pagekernel

    CHECKS["compiled"] = _pagekernel.failing_pages

RELATION_FILE = re.compile(r"[0-9]+(_fsm|_vm|_init)?")


@pytest.fixture(params=CHECKS)
def check(request: pytest.FixtureRequest) -> Check:
    """Each implementation that is there."""
    return CHECKS[request.param]


def view(*pages: bytes) -> memoryview:
    return memoryview(b"".join(pages))


def test_the_compiled_check_is_used_where_it_can_be_built() -> None:
    has_headers = Path(sysconfig.get_path("include"), "Python.h").exists()
    can_be_built = has_headers and shutil.which("cc") is not None
    assert (page.KERNEL == "compiled") == ("compiled" in CHECKS)
    assert "compiled" in CHECKS or not can_be_built, "type: scripts/make-venv dev"


@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 130])
def test_good_pages_pass(check: Check, count: int) -> None:
    first = 131072 * 2 - 1
    pages = view(*[good_page(first + number) for number in range(count)])
    assert check(pages, first, LAST_LSN) == []


def test_random_bytes_get_the_checksums_of_the_plain_calculation(check: Check) -> None:
    pages = random.Random(6).randbytes(70 * PAGE_SIZE)
    expected = []
    for number in range(70):
        each = pages[number * PAGE_SIZE :][:PAGE_SIZE]
        expected.append(
            (number, checksum(each, 1000 + number), int.from_bytes(each[8:10], "little"))
        )
    assert check(memoryview(pages), 1000, LAST_LSN) == expected


def test_extreme_words_and_block_numbers_make_no_difference(check: Check) -> None:
    for filler in (b"\xff", b"\0", b"\x80"):
        for block in (0, 1, 2**32 - 1, 2**49 + 3):
            each = header(1, 1) + filler * (PAGE_SIZE - 24)
            assert check(view(each), block, LAST_LSN) == [(0, checksum(each, block % 2**32), 0)]


def test_a_changed_bit_is_found_wherever_it_is(check: Check) -> None:
    good = good_page(3)
    for position in (0, 4, 8, 9, 10, 14, 127, 128, 4096, PAGE_SIZE - 1):
        bad = damaged(good, position)
        found = check(view(good_page(2), bad, good_page(4)), 2, LAST_LSN)
        assert found == [(1, checksum(bad, 3), int.from_bytes(bad[8:10], "little"))]


def test_the_place_of_a_page_counts(check: Check) -> None:
    assert [each[0] for each in check(view(good_page(7), good_page(8)), 8, LAST_LSN)] == [0, 1]


def test_new_pages_are_passed_over(check: Check) -> None:
    rubbish = header(1, upper=0) + b"x" * (PAGE_SIZE - 24)
    pages = view(bytes(PAGE_SIZE), rubbish, damaged(good_page(2)))
    assert [each[0] for each in check(pages, 0, LAST_LSN)] == [2]


def test_pages_written_since_the_start_are_passed_over(check: Check) -> None:
    start = 0x12_80000028
    lsns = (start - 1, start, start + 1, 0x13_00000000, 0x11_FFFFFFFF, 0x12_00000000)
    pages = view(*[damaged(good_page(number, lsn)) for number, lsn in enumerate(lsns)])
    assert [each[0] for each in check(pages, 0, start)] == [0, 4, 5]


def test_memory_at_odd_addresses_can_be_checked(check: Check) -> None:
    pages = memoryview(bytearray(b"x" + good_page(0) + damaged(good_page(1))))[1:]
    assert [each[0] for each in check(pages, 0, LAST_LSN)] == [1]


def test_all_implementations_agree_on_mixed_pages() -> None:
    source = random.Random(7)
    kinds: list[Callable[[int], bytes]] = [
        lambda block: good_page(block, source.randrange(1, 200)),
        lambda block: damaged(good_page(block, source.randrange(1, 200)), source.randrange(8192)),
        lambda block: good_page(block)[:4096] + good_page(block, seed=1)[4096:],
        lambda block: bytes(PAGE_SIZE),
        lambda block: source.randbytes(PAGE_SIZE),
    ]
    for _ in range(20):
        first = source.randrange(2**20)
        pages = [source.choice(kinds)(first + number) for number in range(source.randrange(1, 80))]
        start = source.choice([0, 100, LAST_LSN])
        found = {repr(each(view(*pages), first, start)) for each in CHECKS.values()}
        assert len(found) == 1


def test_a_bad_page_is_named_by_its_block() -> None:
    bad = damaged(good_page(131073))
    found = bad_pages(view(good_page(131072), bad), 131072, NO_LIMIT)
    assert found == [BadPage(131073, checksum(bad, 131073), checksum(good_page(131073), 131073))]


def test_part_of_a_page_is_no_page() -> None:
    with pytest.raises(ValueError, match="8193 bytes are not whole pages"):
        bad_pages(memoryview(bytes(8193)), 0, NO_LIMIT)


def test_a_torn_page_is_judged_by_its_second_read() -> None:
    start = Lsn(100)
    old, new = good_page(5, lsn=50), good_page(5, lsn=150, seed=1)
    torn = old[:4096] + new[4096:]
    found = bad_pages(view(torn), 5, start)
    assert [each.block for each in found] == [5]
    for again, expected in ((new, []), (old, []), (torn, found)):
        assert still_bad(found, lambda block, again=again: view(again), start) == expected


def test_nothing_is_judged_behind_the_new_end_of_a_file() -> None:
    pages = [damaged(good_page(block)) for block in range(3)]
    found = bad_pages(view(*pages), 0, NO_LIMIT)
    asked = []

    def read_again(block: int) -> memoryview | None:
        asked.append(block)
        return view(pages[block]) if block < 1 else None

    assert [each.block for each in still_bad(found, read_again, NO_LIMIT)] == [0]
    assert asked == [0, 1]


def test_pages_of_real_servers_pass_and_damaged_ones_do_not(
    cluster_factory: ClusterFactory, major: int
) -> None:
    cluster = cluster_factory(major)
    cluster.sql(
        "CREATE TABLE pages AS SELECT n, repeat('x', n % 500) FROM generate_series(1, 9999) n"
    )
    cluster.sql("CREATE INDEX ON pages (n)")
    cluster.sql("VACUUM pages")
    cluster.stop()
    count = 0
    for file in cluster.pgdata.glob("base/*/*"):
        if RELATION_FILE.fullmatch(file.name):
            pages = file.read_bytes()
            for check in CHECKS.values():
                assert check(memoryview(pages), 0, LAST_LSN) == []
            count += len(pages) // PAGE_SIZE
            if pages:
                assert [each.block for each in bad_pages(view(damaged(pages)), 0, NO_LIMIT)] == [0]
    assert count > 1000
