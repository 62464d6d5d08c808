"""Which names a base backup leaves out, and how relation files are called."""

import pytest

from pgbackup.pg.exclude import (
    RelationFile,
    is_database_directory,
    is_excluded,
    is_temporary_relation,
    version_directory,
    wal_subdirectories,
)


@pytest.mark.parametrize(
    "name",
    [
        "postgresql.auto.conf.tmp",
        "current_logfiles.tmp",
        "backup_label",
        "tablespace_map",
        "backup_manifest",
        "postmaster.pid",
        "postmaster.opts",
        "pgsql_tmp",
        "pgsql_tmp1234.0",
        "pg_internal.init",
        "pg_internal.init.4711",
    ],
)
def test_what_means_nothing_elsewhere_is_excluded(name: str) -> None:
    assert is_excluded(name, 13)
    assert is_excluded(name, 18)


@pytest.mark.parametrize(
    "name",
    ["backup_label.old", "tablespace_map.old", "postgresql.conf", "xpgsql_tmp", "16384"],
)
def test_names_that_only_look_like_it_are_kept(name: str) -> None:
    assert not is_excluded(name, 13)
    assert not is_excluded(name, 18)


def test_the_finder_leaves_files_that_servers_pass_over_since_15() -> None:
    assert [is_excluded(".DS_Store", major) for major in (13, 14, 15, 18)] == [
        False, False, True, True,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "number", "fork", "segment"),
    [
        ("1", 1, "main", 0),
        ("16384", 16384, "main", 0),
        ("16384.1", 16384, "main", 1),
        ("16384.131072", 16384, "main", 131072),
        ("16384_fsm", 16384, "fsm", 0),
        ("16384_vm.2", 16384, "vm", 2),
        ("16384_init", 16384, "init", 0),
        ("4294967295", 2**32 - 1, "main", 0),
    ],
)
def test_a_relation_file_says_number_fork_and_segment(
    name: str, number: int, fork: str, segment: int
) -> None:
    assert RelationFile.parse(name) == (number, fork, segment)


@pytest.mark.parametrize(
    "name",
    [
        "", "0", "016384", "16384.", "16384.0", "16384.01", "16384_main", "16384_vm_fsm",
        "16384.1_vm", "16384 ", "16384\n", "4294967296", "99999999999", "16384.4294967296", "-1",
        "PG_VERSION", "pg_filenode.map", "t1_16384", "16384_", "1\u0663",
    ],
)  # fmt: skip
def test_other_names_are_of_no_relation(name: str) -> None:
    assert RelationFile.parse(name) is None


def test_an_init_fork_tells_of_an_unlogged_relation_and_stays() -> None:
    for name in ("7", "7.1", "7_vm", "7_init", "7_init.1"):
        relation = RelationFile.parse(name)
        assert relation is not None
        assert relation.init_name == (None if "init" in name else "7_init")


@pytest.mark.parametrize(
    ("name", "is_temporary"),
    [
        ("t999_999", True),
        ("t9999_999.1", True),
        ("t999_9999_vm", True),
        ("t99999_99999_vm.1", True),
        ("t0_0", True),
        ("t999", False),
        ("t_999", False),
        ("t999_", False),
        ("t999_999_main", False),
        ("t999_999.", False),
        ("t999_999\n", False),
        ("x999_999", False),
        ("999_999", False),
    ],
)
def test_temporary_relations_are_told_by_their_name(name: str, is_temporary: bool) -> None:
    assert is_temporary_relation(name) is is_temporary


@pytest.mark.parametrize(
    ("path", "is_database"),
    [
        ("base/1", True),
        ("base/16384", True),
        ("PG_15_202209061/5", True),
        ("pg_tblspc/16384/PG_15_202209061/5", True),
        ("base", False),
        ("base/1/2", False),
        ("base/pgsql_tmp", False),
        ("global", False),
        ("pg_tblspc/16384", False),
        ("PG_14_202107181/5", False),
        ("pg_xact/0000", False),
        ("1", False),
    ],
)
def test_relations_are_in_database_directories(path: str, is_database: bool) -> None:
    assert is_database_directory(path, version_directory(15, 202209061)) is is_database


def test_pg_wal_has_summaries_since_17() -> None:
    assert wal_subdirectories(16) == ("archive_status",)
    assert wal_subdirectories(17) == ("archive_status", "summaries")
