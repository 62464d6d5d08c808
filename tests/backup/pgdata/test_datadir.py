"""What is taken for a data directory, and where its tablespaces are."""

from pathlib import Path

import pytest

from pgbackup.backup.pgdata.datadir import DataDirectory
from pgbackup.errors import CorruptData, NotFound, PgbackupError, Refused
from pgbackup.stream.sink import Tablespace
from tests.backup.pgdata.pgdata import VERSION_DIRECTORIES, make_pgdata, walk

BASE = Tablespace(None, "", None)


@pytest.mark.parametrize("major", VERSION_DIRECTORIES)
def test_a_data_directory_says_what_it_is(tmp_path: Path, major: int) -> None:
    pgdata = make_pgdata(tmp_path / "data", major)
    pgdata.chmod(0o750)
    data = DataDirectory.open(f"{pgdata}/../data/")
    assert (data.path, data.major, data.mode) == (str(pgdata), major, 0o750)
    assert data.directory_mode == 0o750
    assert data.version_directory == VERSION_DIRECTORIES[major]
    control = data.read_control()
    assert control.values == data.control
    assert control.content == (pgdata / "global/pg_control").read_bytes()


def test_a_missing_directory_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r'could not open data directory ".*/none": there is no'):
        DataDirectory.open(str(tmp_path / "none"))


def test_another_directory_is_refused_with_a_way_to_find_the_right_one(tmp_path: Path) -> None:
    with pytest.raises(Refused, match='it is no data directory, "PG_VERSION" is not there') as info:
        DataDirectory.open(str(tmp_path))
    assert "SHOW data_directory" in str(info.value.hint)
    (tmp_path / "PG_VERSION").write_text("15\n")  # as in each directory of a database
    with pytest.raises(Refused, match='"global/pg_control" is not there'):
        DataDirectory.open(str(tmp_path))
    (tmp_path / "PG_VERSION").write_text("no number\n")
    with pytest.raises(Refused, match='"PG_VERSION" is not PostgreSQL\'s'):
        DataDirectory.open(str(tmp_path))


def test_a_file_is_no_data_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Refused, match="no data directory"):
        DataDirectory.open(str(tmp_path / "file"))


@pytest.mark.parametrize("major", [12, 19])
def test_an_unsupported_version_is_refused(tmp_path: Path, major: int) -> None:
    pgdata = make_pgdata(tmp_path / "data", 15, {"PG_VERSION": b"%d\n" % major})
    with pytest.raises(Refused, match=f"it is of PostgreSQL {major}; supported are 13 to 18"):
        DataDirectory.open(str(pgdata))


def test_a_control_file_that_stays_torn_is_damaged(tmp_path: Path) -> None:
    pgdata = make_pgdata(tmp_path / "data", 15)
    content = bytearray((pgdata / "global/pg_control").read_bytes())
    content[40] ^= 1
    (pgdata / "global/pg_control").write_bytes(content)
    with pytest.raises(CorruptData, match="checksum does not match"):
        DataDirectory.open(str(pgdata))


def test_links_in_pg_tblspc_are_tablespaces_if_they_are_called_by_an_oid(tmp_path: Path) -> None:
    pgdata = make_pgdata(tmp_path / "data", 15)
    for name in ("16384", "0", "016385", "4294967296", "foo", "99999999999"):
        (pgdata / "pg_tblspc" / name).symlink_to(f"/somewhere/{name}")
    (pgdata / "pg_tblspc" / "16386").touch()
    assert DataDirectory.open(str(pgdata)).tablespaces() == (
        Tablespace(16384, "/somewhere/16384", None),
        BASE,
    )


def test_a_link_to_a_relative_place_tells_the_absolute_one(tmp_path: Path) -> None:
    pgdata = make_pgdata(tmp_path / "data", 15)
    (tmp_path / "alias").symlink_to(pgdata)
    (pgdata / "pg_tblspc" / "16384").symlink_to("../../space")
    place = str(tmp_path.resolve() / "space")
    for path in (pgdata, tmp_path / "alias"):
        (tablespace, _) = DataDirectory.open(str(path)).tablespaces()
        assert tablespace.location == place
    assert walk(pgdata, has_map=False)["base.tar"]["pg_tblspc/16384"].header.linkname == place


@pytest.mark.parametrize("major", [15, 16])
def test_directories_in_pg_tblspc_are_tablespaces_since_16(tmp_path: Path, major: int) -> None:
    pgdata = make_pgdata(tmp_path / "data", major)
    (pgdata / "pg_tblspc" / "16384").mkdir()
    in_place = (Tablespace(16384, "pg_tblspc/16384", None),) if major >= 16 else ()
    assert DataDirectory.open(str(pgdata)).tablespaces() == (*in_place, BASE)


def test_what_lies_in_the_data_directory_is_told_by_whatever_way(tmp_path: Path) -> None:
    data = DataDirectory.open(str(make_pgdata(tmp_path / "data", 15)))
    (tmp_path / "alias").symlink_to(tmp_path / "data")
    inside = ("data", "data/", "data/repo/new", "alias/repo", "else/../data/repo")
    assert all(data.contains(str(tmp_path / name)) for name in inside)
    assert not any(data.contains(str(tmp_path / name)) for name in ("", "data2", "data/../repo"))


def test_a_data_directory_without_pg_tblspc_cannot_be_read(tmp_path: Path) -> None:
    pgdata = make_pgdata(tmp_path / "data", 15)
    (pgdata / "pg_tblspc").rmdir()
    data = DataDirectory.open(str(pgdata))
    with pytest.raises(PgbackupError, match=r'could not read directory ".*/pg_tblspc": no such'):
        data.tablespaces()
