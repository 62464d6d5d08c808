"""Which members a data directory gives, compared with what the server itself would send."""

import os
import shutil
from pathlib import Path

import pytest

from pgbackup.backup.pgdata.datadir import DataDirectory
from pgbackup.backup.pgdata.entries import Entry, Walk
from pgbackup.pg.exclude import EMPTY_DIRECTORIES
from pgbackup.pg.tar import DIRECTORY, FILE, SYMLINK
from pgbackup.stream.sink import Tablespace
from tests.backup.pgdata.pgdata import VERSION_DIRECTORIES, make_pgdata, walk
from tests.cluster import nearest_client
from tests.fix_cluster import ClusterFactory
from tests.stream.tars import headers

MAJORS = tuple(VERSION_DIRECTORIES)

ODD_FILES = (
    "pg_internal.init.99", "backup_label", "backup_label.old", "tablespace_map", ".DS_Store",
    "postgresql.auto.conf.tmp", "current_logfiles.tmp", "global/pg_internal.init.123",
    "base/pgsql_tmp1", "base/1/t999_999", "base/1/t9999_999.1", "base/1/t999_9999_vm",
    "base/1/t99999_99999_vm.1", "base/1/4242", "base/1/4242_init", "base/1/4242_fsm",
    "base/1/4242.1", "base/1/4343", "global/4343", "global/4343_init", "global/t1_1",
    "pg_replslot/some", "pg_notify/0000", "pg_stat/stray", "base/pg_serial/below",
)  # fmt: skip


def members(archive: dict[str, Entry]) -> dict[str, str]:
    return {name: entry.header.type for name, entry in archive.items()}


@pytest.mark.parametrize("major", MAJORS)
def test_what_is_left_out_depends_on_the_version(tmp_path: Path, major: int) -> None:
    pgdata = make_pgdata(tmp_path / "data", major, dict.fromkeys(ODD_FILES, b"x"))
    found = members(walk(pgdata)["base.tar"])
    expected = {
        **dict.fromkeys(("base", "base/1", "base/pg_serial", "global", "pg_tblspc"), DIRECTORY),
        **dict.fromkeys(("pg_notify", "pg_replslot", "pg_stat", "pg_wal"), DIRECTORY),
        **dict.fromkeys(("backup_label.old", "PG_VERSION", "pg_stat/stray", "global/t1_1"), FILE),
        **dict.fromkeys(("base/1/4242_init", "base/1/4343", "global/4343_init"), FILE),
        "./pg_wal/archive_status": DIRECTORY,
    }
    if major >= 17:
        expected["./pg_wal/summaries"] = DIRECTORY
    else:
        expected["global/4343"] = FILE
    if major < 15:
        expected[".DS_Store"] = FILE
    assert found == expected


def test_unlogged_relations_can_be_kept(tmp_path: Path) -> None:
    names = {"base/1/4242", "base/1/4242_init", "base/1/4242_fsm", "global/4343"}
    pgdata = make_pgdata(tmp_path / "data", 18, dict.fromkeys((*names, "base/1/t1_2"), b"x"))
    data = DataDirectory.open(str(pgdata))
    walk = Walk(data, (), has_map=False, with_unlogged=True)
    found = {entry.header.name for entry in walk.entries(Tablespace(None, "", None))}
    assert names < found
    assert "base/1/t1_2" not in found


def test_parents_come_before_their_children(tmp_path: Path) -> None:
    files = {f"base/{database}/{number}": b"" for database in range(5) for number in range(9)}
    names = list(walk(make_pgdata(tmp_path / "data", 18, files))["base.tar"])
    for name in names:
        parent = name.removeprefix("./").rpartition("/")[0]
        assert not parent or names.index(parent) < names.index(name)


def test_relation_files_have_pages_and_others_have_none(tmp_path: Path) -> None:
    with_pages = (
        "base/1/16384",
        "base/1/16384.2",
        "base/1/16384_vm",
        "base/1/7_init",
        "global/1262",
    )
    without = ("base/1/PG_VERSION", "base/1/pg_filenode.map", "pg_xact/0000", "16384", "base/16384")
    pgdata = make_pgdata(tmp_path / "data", 15, dict.fromkeys((*with_pages, *without), b""))
    found = walk(pgdata)["base.tar"]
    assert all(found[name].pages is not None for name in with_pages)
    assert all(found[name].pages is None for name in without)
    assert found["base/1/16384.2"].pages == (16384, "main", 2)


def test_a_member_has_the_files_attributes(tmp_path: Path) -> None:
    pgdata = make_pgdata(tmp_path / "data", 15, {"base/1/16384": bytes(8192)})
    file = pgdata / "base/1/16384"
    file.chmod(0o640)
    os.utime(file, (1_700_000_000.9, 1_700_000_000.9))
    entry = walk(pgdata)["base.tar"]["base/1/16384"]
    status = file.stat()
    assert entry.path == os.fsencode(file)
    assert entry.header == (
        "base/1/16384", 8192, 0o640, status.st_uid, status.st_gid, 1_700_000_000, FILE, "",
    )  # fmt: skip


@pytest.mark.parametrize("mode", [0o700, 0o750])
def test_links_to_directories_of_the_server_become_directories(tmp_path: Path, mode: int) -> None:
    pgdata = make_pgdata(tmp_path / "data", 17)
    pgdata.chmod(mode)
    (pgdata / "pg_wal").rmdir()
    for name in ("pg_wal", *EMPTY_DIRECTORIES):
        outside = tmp_path / "outside" / name
        outside.mkdir(parents=True)
        (outside / "content").touch()
        (pgdata / name).symlink_to(outside)
    found = walk(pgdata)["base.tar"]
    names = {"pg_wal", "./pg_wal/archive_status", "./pg_wal/summaries", *EMPTY_DIRECTORIES}
    assert names < set(found)
    assert {(found[name].header.type, found[name].header.mode) for name in names} == {
        (DIRECTORY, mode)
    }
    assert not [name for name in found if name.endswith("content")]


def test_other_links_and_special_files_are_told(tmp_path: Path) -> None:
    pgdata = make_pgdata(tmp_path / "data", 15)
    (pgdata / "postgresql.conf").symlink_to("/etc/postgresql.conf")
    (pgdata / "log").symlink_to(tmp_path)
    os.mkfifo(pgdata / "fifo")
    data = DataDirectory.open(str(pgdata))
    steps = Walk(data, data.tablespaces(), has_map=False)
    names = {entry.header.name for entry in steps.entries(data.tablespaces()[-1])}
    assert not names & {"postgresql.conf", "log", "fifo"}
    assert sorted(steps.warnings) == [
        f'WARNING: skipping special file "./{name}"' for name in ("fifo", "log", "postgresql.conf")
    ]


@pytest.mark.parametrize("major", MAJORS)
def test_a_tablespace_has_the_directory_of_its_version(tmp_path: Path, major: int) -> None:
    pgdata, place = make_pgdata(tmp_path / "data", major), tmp_path / "place"
    version = VERSION_DIRECTORIES[major]
    files = ("5/16384", "5/16384.1", "5/16390", "5/16390_init", "5/t1_2", "pgsql_tmp/pgsql_tmp7.0")
    for name in (*(f"{version}/{file}" for file in files), "PG_12_201909212/5/16384"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).touch()
    (pgdata / "pg_tblspc/16400").symlink_to(place)
    found = walk(pgdata)
    assert members(found["16400.tar"]) == {
        version: DIRECTORY,
        f"{version}/5": DIRECTORY,
        f"{version}/5/16384": FILE,
        f"{version}/5/16384.1": FILE,
        f"{version}/5/16390_init": FILE,
    }
    assert found["16400.tar"][f"{version}/5/16384.1"].pages == (16384, "main", 1)
    assert "pg_tblspc/16400" not in found["base.tar"]
    link = walk(pgdata, has_map=False)["base.tar"]["pg_tblspc/16400"].header
    assert (link.type, link.linkname, link.size) == (SYMLINK, str(place), 0)


def test_a_tablespace_that_has_gone_is_an_empty_archive(tmp_path: Path) -> None:
    pgdata = make_pgdata(tmp_path / "data", 15)
    (pgdata / "pg_tblspc/16400").symlink_to(tmp_path / "gone")
    assert walk(pgdata)["16400.tar"] == {}


def test_a_tablespace_inside_the_data_directory_is_stored_once(tmp_path: Path) -> None:
    """Even if its link names the place by another way than the data directory."""
    version = VERSION_DIRECTORIES[15]
    pgdata = make_pgdata(tmp_path / "data", 15, {f"inner/{version}/5/16384": b""})
    (tmp_path / "alias").symlink_to(pgdata)
    (pgdata / "pg_tblspc/16400").symlink_to(tmp_path / "alias" / "inner")
    found = walk(pgdata)
    assert f"{version}/5/16384" in found["16400.tar"]
    assert [name for name in found["base.tar"] if name.startswith("inner")] == ["inner"]


@pytest.mark.parametrize("has_map", [True, False])
@pytest.mark.parametrize("major", MAJORS)
def test_a_tablespace_in_place_is_stored_once(tmp_path: Path, major: int, has_map: bool) -> None:
    name = f"{VERSION_DIRECTORIES[major]}/5/16384"
    pgdata = make_pgdata(tmp_path / "data", major, {f"pg_tblspc/16400/{name}": b""})
    found = walk(pgdata, has_map=has_map)
    stored = [each for archive in found.values() for each in archive if each.endswith("/16384")]
    if major >= 16:
        assert stored == [name]
        assert ("pg_tblspc/16400" in found["base.tar"]) is not has_map
    else:
        assert stored == [f"pg_tblspc/16400/{name}"]


def test_names_may_hold_any_bytes(tmp_path: Path) -> None:
    names = ("log/line\nbreak", "log/caf\udce9", 'log/tab\tquote"', "log/\u00fcml\u00e4ut")
    pgdata = make_pgdata(tmp_path / "data", 15, dict.fromkeys(names, b"x"))
    found = walk(pgdata)["base.tar"]
    assert set(names) < set(found)
    assert found["log/caf\udce9"].path.endswith(b"/log/caf\xe9")


def test_what_vanishes_during_the_walk_is_passed_over(tmp_path: Path) -> None:
    files = {f"base/{database}/{number}": b"" for database in (5, 6, 7) for number in range(20)}
    pgdata = make_pgdata(tmp_path / "data", 15, files)
    data = DataDirectory.open(str(pgdata))
    names = []
    for entry in Walk(data, (), has_map=True).entries(data.tablespaces()[-1]):
        names.append(entry.header.name)
        parent, _, name = entry.header.name.rpartition("/")
        if parent == "base" and name in ("5", "6"):
            shutil.rmtree(entry.path)  # as DROP DATABASE does
        if parent == "base/7" and names.count("base/7") == 1:
            for file in (pgdata / "base/7").iterdir():
                file.unlink()
            names.append("base/7")
    assert {"base/5", "base/6"} < set(names)
    assert not [name for name in names if name.startswith(("base/5/", "base/6/"))]
    assert len([name for name in names if name.startswith("base/7/")]) == 1


@pytest.mark.interop
def test_a_server_at_rest_sends_the_same_members_in_the_same_order(
    cluster_factory: ClusterFactory, major: int, tmp_path: Path
) -> None:
    cluster = cluster_factory(major, settings={"allow_in_place_tablespaces": True})
    cluster.account.make_directory(tmp_path / "place")
    cluster.account.make_directory(cluster.pgdata / "inner")
    places = {"apart": str(tmp_path / "place"), "inside": str(cluster.pgdata / "inner")}
    if major >= 16:
        places["in_place"] = ""
    for name, place in places.items():
        cluster.sql(f"CREATE TABLESPACE {name} LOCATION '{place}'")
        for kind in ("", "UNLOGGED"):
            cluster.sql(f"CREATE {kind} TABLE {name}{kind} TABLESPACE {name} AS SELECT 1 AS i")
    for name in ODD_FILES:
        file = cluster.pgdata / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(bytes(8192))
    (cluster.pgdata / "strange").symlink_to("/nowhere")
    cluster.account.give(cluster.pgdata)
    cluster.sql("CHECKPOINT")
    target = cluster.account.make_directory(tmp_path / "target") / "backup"
    cluster.account.run(
        nearest_client("pg_basebackup", major), "-d", cluster.conninfo(), "-D", target, "-Ft",
        "-X", "none", "-c", "fast", "--no-sync",
    )  # fmt: skip
    added = ("backup_label", "tablespace_map", "global/pg_control")
    ours = walk(cluster.pgdata)
    assert len(ours) == len(places) + 1
    for archive, entries in ours.items():
        theirs = [h for h in headers((target / archive).read_bytes()) if h.name not in added]
        without_time = [entry.header._replace(mtime=0) for entry in entries.values()]
        assert without_time == [header._replace(mtime=0) for header in theirs]
