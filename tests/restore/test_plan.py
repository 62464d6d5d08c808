"""Where everything goes, decided before anything is touched."""

from pathlib import Path

import pytest

from pgbackup.errors import CorruptData, PgbackupError, Refused, UsageError
from pgbackup.repo.catalog import TablespaceRecord
from pgbackup.restore.plan import parse_mapping, plan_restore
from pgbackup.restore.settings import Recovery
from tests.repo.samples import MIB, record

SPACES = (
    TablespaceRecord(1, "/srv/one", "1.tar.zst"),
    TablespaceRecord(2, "/srv/t=wo/", "2.tar.zst"),
    TablespaceRecord(3, "pg_tblspc/3", "3.tar.zst"),
)


@pytest.mark.parametrize(
    ("text", "old", "new"),
    [
        ("/a=/b", "/a", "/b"),
        (r"/a\=1=/b\=2", "/a=1", "/b=2"),
        ("/a//c/=/b/./d/", "/a/c", "/b/d"),
        ("//a=/b", "/a", "/b"),
        ("/a\\b=/c", "/a\\b", "/c"),
    ],
)
def test_a_mapping_has_two_absolute_directories(text: str, old: str, new: str) -> None:
    assert parse_mapping(text) == (old, new)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("/a", "not of the form"),
        ("", "not of the form"),
        ("=/b", "not of the form"),
        ("/a=", "not of the form"),
        ("/a=/b=/c", 'more than one "=" sign'),
        ("a=/b", "old directory is not an absolute path"),
        ("/a=b", "new directory is not an absolute path"),
        (r"/a\=/b", "not of the form"),
    ],
)
def test_other_mappings_are_refused(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        parse_mapping(text)


def test_tablespaces_go_where_they_were_or_where_they_are_mapped() -> None:
    plan = plan_restore(record(tablespaces=SPACES), "/data", [r"/srv/t\=wo=/new/two"])
    assert [each.directory for each in plan.tablespaces] == ["/srv/one", "/new/two", None]


def test_a_relative_directory_is_taken_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert plan_restore(record(tablespaces=()), "a/../data/").directory == str(tmp_path / "data")


@pytest.mark.parametrize(
    ("directory", "mappings", "kind", "reason"),
    [
        ("/data", ["/srv/other=/x"], UsageError, "the backup has none there"),
        ("/data", ["/srv/one=/x", "/srv/one/=/y"], UsageError, "mapped already"),
        ("/srv/one", [], Refused, "lies in"),
        ("/srv", [], Refused, "lies in"),
        ("/srv/one/data", [], Refused, "lies in"),
        ("/data", ["/srv/one=/data/x"], Refused, "lies in"),
        ("/data", ["/srv/one=/srv/t\\=wo/x"], Refused, "lies in"),
        ("/", [], Refused, "lies in"),
        ("", [], UsageError, "the name is empty"),
    ],
)
def test_impossible_wishes_are_refused(
    directory: str, mappings: list[str], kind: type[PgbackupError], reason: str
) -> None:
    with pytest.raises(kind, match=reason):
        plan_restore(record(tablespaces=SPACES), directory, mappings)


def test_wishes_for_recovery_that_exclude_each_other_are_refused() -> None:
    with pytest.raises(UsageError, match="more than one line"):
        plan_restore(record(tablespaces=()), "/data", recovery=Recovery(restore_command="a\nb"))


def test_a_tablespace_at_a_relative_place_is_damage() -> None:
    spaces = (TablespaceRecord(4, "../../etc", "4.tar.zst"),)
    with pytest.raises(CorruptData, match="is not absolute"):
        plan_restore(record(tablespaces=spaces), "/data")


def test_the_size_counts_wal_and_an_unfinished_segment() -> None:
    plan = plan_restore(
        record(tablespaces=(), size=1000, tail="0000000A0000000000000023.partial"), "/data"
    )
    assert plan.wal_files[-1] == "0000000A0000000000000023"
    assert len(plan.wal_files) == 4
    assert plan.size == 1000 + 4 * MIB


@pytest.mark.parametrize(("mode", "expected"), [(0o700, 0o700), (0o750, 0o750), (0o777, 0o750)])
def test_the_group_may_read_only_if_it_could_before(mode: int, expected: int) -> None:
    assert plan_restore(record(tablespaces=(), data_directory_mode=mode), "/data").mode == expected
