"""What backup, list and show say of a backup: for people, and for programs."""

import json
import re
import shlex
from datetime import datetime
from pathlib import Path

import pytest

from tests.cli.program import run, succeed
from tests.cluster import Cluster
from tests.fix_cluster import ClusterFactory

FIELDS = {
    "label": str,
    "kind": str,
    "comment": str,
    "system_identifier": str,
    "server_version": str,
    "server_version_num": int,
    "timeline": int,
    "start_lsn": str,
    "start_time": str,
    "stop_timeline": int,
    "stop_lsn": str,
    "stop_time": str,
    "duration_seconds": float,
    "size": int,
    "stored_size": int,
    "compression": str,
    "checksum_algorithm": str,
    "wal_segment_size": int,
    "wal": list,
    "tablespaces": list,
    "page_checksum_failures": bool,
    "warnings": list,
    "pin": type(None),
}


@pytest.fixture(scope="module")
def server(module_cluster_factory: ClusterFactory) -> Cluster:
    cluster = module_cluster_factory(18)
    place = cluster.account.make_directory(cluster.pgdata.parent / "space")
    cluster.sql(f"CREATE TABLESPACE apart LOCATION '{place}'")
    cluster.sql("CREATE TABLE far TABLESPACE apart AS SELECT generate_series(1, 9) AS n")
    return cluster


@pytest.fixture(scope="module")
def stored(server: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a repository of two backups."""
    directory = tmp_path_factory.mktemp("stored")
    for comment in ("the first", 'it\'s the "second"'):
        succeed(directory, "backup", "-d", server.conninfo(), "-c", "fast", "-l", comment)
    return directory


def test_the_document_of_a_backup_has_every_field(server: Cluster, tmp_path: Path) -> None:
    answer = succeed(tmp_path, "backup", "-d", server.conninfo(), "-c", "fast", "--json")
    document = answer.document["backup"]
    assert {name: type(value) for name, value in document.items()} == FIELDS
    assert answer.err == ""
    assert document["kind"] == "full"
    assert (document["server_version_num"] // 10000, document["timeline"]) == (18, 1)
    assert (
        document["system_identifier"]
        == server.sql("SELECT system_identifier::text FROM pg_control_system()")[0][0]
    )
    for moment in ("start_time", "stop_time"):
        assert datetime.fromisoformat(document[moment]).utcoffset() is not None
        assert document[moment].endswith("Z")
    for position in ("start_lsn", "stop_lsn"):
        assert re.fullmatch(r"[0-9A-F]+/[0-9A-F]+", document[position])
    (space,) = document["tablespaces"]
    assert space.keys() == {"oid", "location", "archive"}
    folder = tmp_path / "pgbackup-repo" / document["system_identifier"] / "backups"
    archives = list((folder / document["label"]).glob("*.tar.zst"))
    assert {path.name for path in archives} == {"base.tar.zst", space["archive"]}
    assert document["stored_size"] == sum(path.stat().st_size for path in archives)
    assert document["size"] > document["stored_size"]
    (wal,) = document["wal"]
    assert wal.keys() == {"timeline", "first", "last"}
    assert (folder.parent / "wal" / (wal["last"] + ".zst")).exists()


def test_list_and_show_say_the_same_to_programs(stored: Path) -> None:
    listed = succeed(stored, "list", "--json").document["backups"]
    assert [each["comment"] for each in listed] == ["the first", 'it\'s the "second"']
    assert [each["label"] for each in listed] == sorted(each["label"] for each in listed)
    for words, expected in (
        ((), listed[1]),
        (("latest",), listed[1]),
        (("oldest",), listed[0]),
        ((listed[0]["label"],), listed[0]),
    ):
        assert succeed(stored, "show", *words, "--json").document == {"backup": expected}


def test_list_is_a_table_for_people(stored: Path) -> None:
    labels = [each["label"] for each in succeed(stored, "list", "--json").document["backups"]]
    heading, *rows = succeed(stored, "list").out.decode().splitlines()
    assert heading.split()[:2] == ["LABEL", "KIND"]
    assert [row.split()[0] for row in rows] == labels
    assert all(row.split()[-2:] == ["ok", "-"] for row in rows)


def test_show_tells_people_all(stored: Path) -> None:
    text = succeed(stored, "show").out.decode()
    document = succeed(stored, "show", "--json").document["backup"]
    for name in ("label", "comment", "system_identifier", "server_version", "start_lsn"):
        assert document[name] in text
    assert document["tablespaces"][0]["location"] in text


def test_a_backup_tells_people_what_to_type_next(server: Cluster, tmp_path: Path) -> None:
    answer = succeed(tmp_path, "backup", "-d", server.conninfo(), "-c", "fast", "-B", "my repo")
    assert answer.out == b""
    assert "finished" in answer.err
    (command,) = re.findall("type: pgbackup (.+)", answer.err)
    words = shlex.split(command)
    assert words[:3] == ["verify", "-B", "my repo"]
    succeed(tmp_path, *words)


def test_the_repository_can_be_named_by_the_environment(stored: Path, tmp_path: Path) -> None:
    answer = succeed(tmp_path, "list", "--json", PGBACKUP_REPO=str(stored / "pgbackup-repo"))
    assert len(answer.document["backups"]) == 2


def test_an_empty_repository_lists_nothing(tmp_path: Path) -> None:
    repository = tmp_path / "pgbackup-repo"
    repository.mkdir()
    identity = {"format": 1, "repository_id": "0" * 32, "created": "2026-01-01T00:00:00Z"}
    (repository / "pgbackup.json").write_text(json.dumps(identity))
    assert succeed(tmp_path, "list", "--json").document == {"backups": [], "damaged": []}
    answer = succeed(tmp_path, "list")
    assert answer.out == b""
    assert "pgbackup backup" in answer.err
    assert run(tmp_path, "show").status == 5


@pytest.mark.parametrize("damage", ["", "{}"], ids=["empty", "no-fields"])
def test_a_damaged_record_is_shown_beside_the_others(
    server: Cluster, tmp_path: Path, damage: str
) -> None:
    words = ("backup", "-d", server.conninfo(), "-c", "fast", "--json")
    good = succeed(tmp_path, *words).document["backup"]["label"]
    bad = succeed(tmp_path, *words).document["backup"]["label"]
    (record,) = tmp_path.glob(f"pgbackup-repo/*/backups/{bad}/backup.json")
    record.write_text(damage)
    answer = run(tmp_path, "list", "--json")
    assert answer.status == 10
    assert [each["label"] for each in answer.document["backups"]] == [good]
    (told,) = answer.document["damaged"]
    assert told.keys() == {"label", "system_identifier", "reason"}
    assert told["label"] == bad
    (warning,) = answer.lines
    assert warning.startswith(f"pgbackup: warning: backup {bad}: could not read")
    latest = run(tmp_path, "show")
    assert latest.status == 7, "the latest is not silently another one"
    assert str(record) in latest.error()[0]
    assert run(tmp_path, "restore", "-D", "new").status == 7
    assert not (tmp_path / "new").exists()


def test_a_pin_is_shown_until_it_is_taken_back(stored: Path) -> None:
    label = succeed(stored, "show", "oldest", "--json").document["backup"]["label"]
    answer = succeed(stored, "pin", "oldest", "--reason", "the audit", "--json").document
    assert (answer["label"], answer["is_changed"]) == (label, True)
    assert answer["pin"]["reason"] == "the audit"
    assert not succeed(stored, "pin", label, "--json").document["is_changed"]
    assert succeed(stored, "list").out.decode().splitlines()[1].endswith("the audit")
    assert "the audit" in succeed(stored, "show", label).out.decode()
    shown = succeed(stored, "show", label, "--json").document["backup"]["pin"]
    assert shown == answer["pin"]
    succeed(stored, "verify", label)
    assert "is not pinned any more" in succeed(stored, "unpin", label).err
    assert "was not pinned" in succeed(stored, "unpin", label).err
    assert succeed(stored, "show", label, "--json").document["backup"]["pin"] is None
    assert run(stored, "pin", "20200101T000000F").status == 5
    assert run(stored, "pin", "nonsense").status == 2
