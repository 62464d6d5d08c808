"""Damaged pages that the server finds: the backup is kept, and everyone is told."""

from pathlib import Path

import pytest

from tests.cli.program import run, succeed
from tests.cluster import Cluster
from tests.fix_cluster import ClusterFactory

PAGE = 8192


@pytest.fixture
def damaged_file(cluster_factory: ClusterFactory, major: int) -> tuple[Cluster, str]:
    """A running server with a page that does not match its checksum, and the file that has it."""
    server = cluster_factory(major)
    server.sql("CREATE TABLE t AS SELECT generate_series(1, 10000) AS n; CHECKPOINT")
    ((name,),) = server.sql("SELECT pg_relation_filepath('t')")
    server.stop()
    with open(server.pgdata / name, "r+b") as file:
        file.seek(2 * PAGE + 4000)
        file.write(b"damage")
    server.start()
    return server, name


@pytest.mark.parametrize("major", [13, 18], ids=lambda major: f"pg{major}")
def test_damaged_pages_are_reported_and_kept_in_the_record(
    damaged_file: tuple[Cluster, str], tmp_path: Path
) -> None:
    server, name = damaged_file
    words = ("backup", "-d", server.conninfo(), "-c", "fast")
    answer = run(tmp_path, *words)
    assert answer.status == 10, answer.err
    warnings = [line for line in answer.lines if line.startswith("pgbackup: warning: ")]
    assert any(name in line for line in warnings)
    assert "Traceback" not in answer.err

    listed = run(tmp_path, "list")
    assert listed.status == 0
    assert listed.out.decode().splitlines()[1].split()[-2:] == ["DAMAGED", "-"]
    (document,) = succeed(tmp_path, "list", "--json").document["backups"]
    assert document["page_checksum_failures"] is True
    assert any(name in text for text in document["warnings"])
    shown = succeed(tmp_path, "show").out.decode()
    assert "DAMAGED" in shown
    assert name in shown

    answer = run(tmp_path, *words, "--json")
    assert (answer.status, answer.document["backup"]["page_checksum_failures"]) == (10, True)

    label = document["label"]
    answer = run(tmp_path, "verify", label, "--pages")
    assert answer.status == 7
    told = next(text for text in document["warnings"] if "block" in text)
    sentence = told.removeprefix("WARNING:").strip().replace('"./', '"')
    assert answer.out.decode() == f"{label}: {sentence}\n"
    assert f"backup {label}: 1 PROBLEMS; " in answer.err
    (report,) = run(tmp_path, "verify", label, "--pages", "--json").document["verified"]
    assert report["problems"] == [sentence]
    assert report["pages"]["checked"] > 1000
    (found,) = report["pages"]["files"]
    assert (found["path"], found["failed"], found["first"][0]["block"]) == (name, 1, 2)
    assert succeed(tmp_path, "verify", "--json").document["verified"][0]["pages"] is None

    quiet = succeed(tmp_path, *words, "--no-verify-checksums", "-q")
    assert quiet.err == ""
    document = succeed(tmp_path, "show", "--json").document["backup"]
    assert (document["page_checksum_failures"], document["warnings"]) == (False, [])


@pytest.mark.parametrize("major", [16], ids=["pg16"])
def test_damaged_pages_are_reported_of_a_backup_on_standard_output(
    damaged_file: tuple[Cluster, str], tmp_path: Path
) -> None:
    server, name = damaged_file
    answer = run(tmp_path, "backup", "-d", server.conninfo(), "-c", "fast", "-D", "-")
    assert answer.status == 10
    assert name in answer.err
    assert answer.out.endswith(bytes(1024))
