"""The same server at rest, by pg_basebackup -Ft and by backup --pgdata: the same archives.

What may differ is what time and position are in, and how tablespaces are told: pg_basebackup asks
for a tablespace_map, a repository has the symbolic links and the record.
"""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pgbackup.pg.control import ControlFile
from pgbackup.pg.label import BackupLabel
from pgbackup.pg.tar import BLOCK_SIZE, END_OF_ARCHIVE, SYMLINK, TarHeader, padding
from tests.cli.program import run
from tests.cluster import Cluster, nearest_client
from tests.fix_cluster import ClusterFactory

pytestmark = pytest.mark.interop

NEW_CONTENT = {"backup_label", "global/pg_control"}
NEW_TIME = NEW_CONTENT | {"pg_logical", "pg_logical/replorigin_checkpoint", "pg_replslot"}
"""What each backup or its checkpoint writes anew."""

ODD_NAMES = (b"log/line\nbreak", b"log/caf\xe9", b"log/\xc3\xbcml\xc3\xa4ut", b'log/quo"te\\')
LABEL = "the same label"

LEFT_OUT = (
    "backup_label", "tablespace_map", "backup_manifest", "postgresql.auto.conf.tmp",
    "current_logfiles.tmp", "global/pg_internal.init.123", "base/pgsql_tmp/pgsql_tmp9.9",
    "pg_dynshmem/x", "pg_notify/x", "pg_serial/x", "pg_snapshots/x", "pg_stat_tmp/x",
    "pg_subtrans/x", "base/1/t999_999", "base/1/t9999_999.1", "base/1/t999_9999_vm",
    "base/1/t99999_99999_vm.1", "base/1/4242", "base/1/4242.1", "base/1/4242_fsm",
)  # fmt: skip
KEPT = ("backup_label.old", "base/1/4242_init", "pg_stat/x", "pg_xact/x", "x.conf")


def members(archive: bytes) -> dict[str, tuple[TarHeader, bytes, bytes]]:
    """Header, raw header and content by name, in the order of the archive."""
    found, at = {}, 0
    while (header := TarHeader.parse(archive[at : at + BLOCK_SIZE])) is not None:
        begin = at + BLOCK_SIZE
        found[header.name] = header, archive[at:begin], archive[begin : begin + header.size]
        at = begin + header.size + padding(header.size)
    assert archive[at:] == END_OF_ARCHIVE
    return found


def files(manifest: Path) -> dict[str, dict[str, Any]]:
    document = json.loads(manifest.read_bytes())
    return {each.get("Path") or each["Encoded-Path"]: each for each in document["Files"]}


def make_interesting(cluster: Cluster, apart: Path) -> None:
    """Tablespaces everywhere, links, what is left out, unlogged relations, names of any bytes."""
    wal = apart / "wal"
    (cluster.pgdata / "pg_wal").rename(wal)
    (cluster.pgdata / "pg_wal").symlink_to(wal)
    (cluster.pgdata / "log").mkdir()
    for name in ODD_NAMES:
        Path(os.fsdecode(os.fsencode(cluster.pgdata) + b"/" + name)).write_bytes(b"line\n")
    (cluster.pgdata / "pg_replslot").rename(apart / "slots")
    (cluster.pgdata / "pg_replslot").symlink_to(apart / "slots")
    places = {"apart": str(apart / "space"), "inside": str(cluster.pgdata / "inside")}
    for place in places.values():
        Path(place).mkdir()
    cluster.account.give(cluster.pgdata)
    cluster.account.give(apart)
    cluster.start()
    if cluster.major >= 16:
        places["in_place"] = ""
    for name, place in places.items():
        cluster.sql(f"CREATE TABLESPACE {name} LOCATION '{place}'")
        cluster.sql(
            f"CREATE TABLE {name} TABLESPACE {name} AS SELECT generate_series(1, 9999) AS n"
        )
        cluster.sql(f"CREATE UNLOGGED TABLE u_{name} TABLESPACE {name} AS SELECT 1 AS n")
    cluster.sql("CREATE TABLE t (n int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 9999)")
    for name in (*LEFT_OUT, *KEPT):
        (cluster.pgdata / name).parent.mkdir(exist_ok=True)
        (cluster.pgdata / name).write_bytes(b"stale")
    cluster.account.give(cluster.pgdata)
    cluster.sql("VACUUM")
    cluster.sql("CHECKPOINT")


def test_at_rest_both_make_the_same_archives(
    cluster_factory: ClusterFactory, major: int, tmp_path: Path
) -> None:
    settings = {"allow_in_place_tablespaces": True, "autovacuum": False}
    cluster = cluster_factory(
        major, start=False, settings=settings, allow_group_access=major % 2 == 0
    )
    make_interesting(cluster, cluster.account.make_directory(cluster.pgdata.parent / "apart"))
    stock = cluster.account.make_directory(tmp_path / "stock") / "backup"
    cluster.account.run(
        nearest_client("pg_basebackup", major), "-d", cluster.conninfo(), "-D", stock, "-Ft",
        "-X", "none", "-c", "fast", "-l", LABEL, "--no-sync",
    )  # fmt: skip
    words = ("--pgdata", str(cluster.pgdata), "-d", cluster.conninfo(), "-c", "fast", "-l", LABEL)
    said = run(tmp_path, "backup", *words, "-Z", "none", "-B", str(tmp_path / "repo"))
    assert said.status == 0, said.err
    (ours,) = (tmp_path / "repo").glob("*/backups/*")
    names = {path.name for path in stock.glob("*.tar")}
    assert names == {path.name for path in ours.glob("*.tar")}
    assert len(names) == (4 if major >= 16 else 3)
    for name in names:
        compare((stock / name).read_bytes(), (ours / name).read_bytes())
    found = members((ours / "base.tar").read_bytes())
    assert set(KEPT) < set(found)
    assert set(LEFT_OUT) & set(found) == {"backup_label"}
    compare_manifests(files(stock / "backup_manifest"), files(ours / "backup_manifest"))


def compare(theirs: bytes, ours: bytes) -> None:
    """Headers are compared byte by byte wherever the time can be the same."""
    stock, own = members(theirs), members(ours)
    only_stock, only_own = set(stock) - set(own), set(own) - set(stock)
    assert only_stock <= {"tablespace_map"}
    in_place = {name for name in only_own if own[name][0].type != SYMLINK}
    assert all(name.startswith("pg_tblspc/") for name in only_own)
    assert len(in_place) <= 1
    assert [name for name in stock if name in own] == [name for name in own if name in stock]
    for name in set(stock) & set(own):
        their_header, their_block, their_content = stock[name]
        header, block, content = own[name]
        if name in NEW_TIME:
            assert header._replace(mtime=0) == their_header._replace(mtime=0)
        else:
            assert block == their_block
        assert name in NEW_CONTENT or content == their_content
    if "backup_label" in own:
        assert next(iter(own)) == "backup_label"
        assert list(own)[-1] == "global/pg_control"
        compare_new(stock, own)


def compare_new(
    stock: dict[str, tuple[TarHeader, bytes, bytes]], own: dict[str, tuple[TarHeader, bytes, bytes]]
) -> None:
    """What can be compared of the files that each backup has for itself."""
    their_label = BackupLabel.parse(stock["backup_label"][2])
    label = BackupLabel.parse(own["backup_label"][2])
    same = {"start": label.start, "checkpoint": label.checkpoint, "start_time": label.start_time}
    assert replace(their_label, **same, segment_name=label.segment_name) == label  # type: ignore[arg-type]
    assert label.start.lsn > their_label.start.lsn
    their_control = ControlFile.parse(stock["global/pg_control"][2])
    control = ControlFile.parse(own["global/pg_control"][2])
    assert control.checkpoint == label.checkpoint
    changed = ("time", "checkpoint", "redo", "checkpoint_time")
    equal = {name: getattr(control, name) for name in changed}
    assert their_control._replace(**equal) == control


def compare_manifests(stock: dict[str, dict[str, Any]], own: dict[str, dict[str, Any]]) -> None:
    assert set(stock) - set(own) == {"tablespace_map"}
    assert set(own) <= set(stock)
    assert [name for name in stock if name in own] == list(own)
    for name, entry in own.items():
        if name not in NEW_TIME:
            assert entry == stock[name]
