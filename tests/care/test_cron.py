"""Cron as a timer starts it: again and again, overlapping, killed, without server or space."""

import os
import shutil
import signal
import subprocess
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pgbackup.repo.record import decode_record, encode_record
from tests.care.test_status import receive
from tests.cli import program
from tests.cli.program import Answer, Running
from tests.cluster import Cluster
from tests.fix_cluster import ClusterFactory
from tests.waiting import wait_for

UNITS = program.ROOT / "scripts" / "systemd"


@pytest.fixture(scope="module")
def server(module_cluster_factory: ClusterFactory) -> Cluster:
    return module_cluster_factory(17)


def cron(directory: Path, server: Cluster, *words: object) -> Answer:
    return program.run(directory, "cron", "-d", server.conninfo(), "-c", "fast", *words)


def steps(answer: Answer) -> dict[str, Any]:
    return {step["step"]: step for step in answer.document["steps"]}


def texts(answer: Answer) -> list[str]:
    return [step["text"] for step in answer.document["steps"]]


def load(server: Cluster) -> None:
    server.sql("SELECT pg_logical_emit_message(false, 'x', repeat('x', 1500000))")


def backups(directory: Path, *words: object) -> list[str]:
    listed = program.succeed(directory, "list", "--json", *words).document["backups"]
    return [each["label"] for each in listed]


def grow_old(directory: Path) -> None:
    """Let every backup have begun two days earlier."""
    for path in directory.glob("pgbackup-repo/*/backups/*/backup.json"):
        record = decode_record(path.read_bytes(), path.name)
        path.write_bytes(
            encode_record(replace(record, start_time=record.start_time - timedelta(days=2)))
        )


def test_a_run_does_what_is_due_and_the_next_one_nothing(server: Cluster, tmp_path: Path) -> None:
    first = cron(tmp_path, server, "--full-every", "1d", "--json")
    (label,) = backups(tmp_path)
    assert (first.status, texts(first)[:3]) == (
        0, ["caught up", f"{label} taken", f"{label} good"],
    )  # fmt: skip
    load(server)
    second = cron(tmp_path, server, "--full-every", "1d", "--json")
    assert (second.status, texts(second)[:3]) == (0, ["caught up", "not due", "nothing new"])
    assert "segments good" in steps(second)["wal verify"]["text"]
    grow_old(tmp_path)
    third = cron(tmp_path, server, "--full-every", "1d", "--json")
    assert len(backups(tmp_path)) == 2
    assert third.status == 0
    assert program.run(tmp_path, "wal", "gaps").status == 0
    assert list(tmp_path.glob("*/*/walindex/*"))


def test_a_summary_is_one_line_and_nothing_when_quiet(server: Cluster, tmp_path: Path) -> None:
    answer = cron(tmp_path, server, "--full-every", "1d")
    assert answer.out == b""
    assert len(answer.lines) == 1
    assert "backup: " in answer.err
    quiet = cron(tmp_path, server, "--full-every", "1d", "-q")
    assert (quiet.status, quiet.out, quiet.err) == (0, b"", "")


def test_a_run_beside_another_ends_at_once_with_success(server: Cluster, tmp_path: Path) -> None:
    slow = program.begin(
        tmp_path, "cron", "-d", server.conninfo(), "-c", "fast", "--full-every", "1d",
        "-r", "4M", "-Z", "none",
    )  # fmt: skip
    wait_for(lambda: list(tmp_path.glob("*/*/backups/*/.base.tar.tmp-*")))
    slow.send(signal.SIGSTOP)
    beside = cron(tmp_path, server, "--full-every", "1d")
    slow.send(signal.SIGCONT)
    assert beside.status == 0
    assert f"process {slow.process.pid}" in beside.err
    assert slow.wait().status == 0
    assert len(backups(tmp_path)) == 1


def test_a_killed_run_is_made_up_for_by_the_next(server: Cluster, tmp_path: Path) -> None:
    words = ("-d", server.conninfo(), "-c", "fast", "--full-every", "1d")
    killed = program.begin(tmp_path, "cron", *words, "-r", "1M", "-Z", "none")
    wait_for(lambda: list(tmp_path.glob("*/*/backups/*/.base.tar.tmp-*")))
    killed.process.kill()
    killed.process.wait()
    answer = cron(tmp_path, server, "--full-every", "1d")
    assert answer.status == 0
    assert len(backups(tmp_path)) == 1
    hidden = [path.name for path in tmp_path.glob("pgbackup-repo/**/.*")]
    assert hidden == [".receive-wal.positions"]


def test_a_running_receiver_is_left_to_its_work(server: Cluster, tmp_path: Path) -> None:
    started: list[Running] = []
    running = receive(tmp_path, server, started)
    try:
        answer = cron(tmp_path, server, "--full-every", "1d", "--json")
    finally:
        running.send(signal.SIGTERM)
        running.wait()
    assert answer.status == 0
    assert steps(answer)["receive"]["text"] == "a receiver is running"


def test_without_the_server_the_rest_is_done(
    cluster_factory: ClusterFactory, tmp_path: Path
) -> None:
    server = cluster_factory(15)
    program.succeed(tmp_path, "backup", "-d", server.conninfo(), "-c", "fast")
    server.stop("fast")
    grow_old(tmp_path)
    answer = cron(tmp_path, server, "--full-every", "1d", "--json")
    assert answer.status == 3
    assert steps(answer)["receive"]["exit_code"] == 3
    assert steps(answer)["backup"]["exit_code"] == 3
    assert steps(answer)["verify"]["text"].endswith(" good")


def test_the_first_run_tells_of_the_server_that_it_cannot_reach(tmp_path: Path) -> None:
    answer = program.run(tmp_path, "cron", "-h", tmp_path, "-p", "1", "--full-every", "1d")
    assert answer.status == 3
    assert answer.error()[0].startswith("could not connect to the server")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_backup_is_told_in_every_run_and_nothing_is_expired(
    server: Cluster, tmp_path: Path
) -> None:
    for _ in range(2):
        program.succeed(tmp_path, "backup", "-d", server.conninfo(), "-c", "fast", "-Z", "none")
    taken = backups(tmp_path)
    (stored,) = tmp_path.glob(f"*/*/backups/{taken[-1]}/base.tar")
    with open(stored, "r+b") as file:
        file.seek(stored.stat().st_size // 2)
        file.write(b"damage")
    for _ in range(2):
        answer = program.run(tmp_path, "cron", "--no-server", "--keep-full", "1", "--json")
        assert answer.status == 7
        assert f"{taken[-1]} damaged" in steps(answer)["verify"]["text"]
        assert steps(answer)["expire"]["is_skipped"]
        assert backups(tmp_path) == taken


def test_what_the_policy_does_not_keep_goes_and_nothing_else(
    server: Cluster, tmp_path: Path
) -> None:
    taken: list[str] = []
    for _ in range(5):
        grow_old(tmp_path)
        load(server)
        answer = cron(tmp_path, server, "--full-every", "1d", "--keep-full", "2", "--json")
        assert answer.status == 0, answer.out
        listed = backups(tmp_path)
        taken.append(listed[-1])
        assert listed == taken[-2:]
    assert len(set(taken)) == 5
    expect_exactly(tmp_path / "pgbackup-repo", taken[-2:])


def expect_exactly(repo: Path, labels: list[str]) -> None:
    """These backups are there and good, with all WAL from the first of them on, and no other."""
    listed = program.succeed(repo.parent, "list", "--json", "-B", repo).document["backups"]
    assert [each["label"] for each in listed] == labels
    archived = sorted(path.name[:24] for path in repo.glob("*/wal/0*"))
    assert archived[0] == listed[0]["wal"][0]["first"]
    for verb in (("wal", "gaps"), ("wal", "verify", "--all"), ("verify", "--all")):
        program.succeed(repo.parent, *verb, "-B", repo)


def test_what_was_verified_is_read_again_when_nobody_remembers(
    server: Cluster, tmp_path: Path
) -> None:
    cron(tmp_path, server, "--full-every", "1d")
    (memory,) = tmp_path.glob("*/*/backups-verified.json")
    for spoil in (memory.unlink, lambda: memory.write_text("{")):
        spoil()
        answer = program.succeed(tmp_path, "cron", "--no-server", "--json")
        assert steps(answer)["verify"]["text"].endswith(" good")
    answer = program.succeed(tmp_path, "cron", "--no-server", "--json")
    assert steps(answer)["verify"]["text"] == "nothing new"


@pytest.mark.parametrize(
    "words",
    [("--full-every", "never"), ("--full-every", "0d"), ("--no-server", "--full-every", "1d")],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, words: tuple[str, ...]) -> None:
    answer = program.run(tmp_path, "cron", *words)
    assert answer.status == 2
    answer.error()


def test_what_the_units_start_works_side_by_side(server: Cluster, tmp_path: Path) -> None:
    settings = {
        "PGHOST": str(server.run_directory), "PGPORT": str(server.port), "PGUSER": "postgres",
    }  # fmt: skip
    receiver = program.begin(tmp_path, *started_by("pgbackup-receive-wal@.service"), **settings)
    try:
        wait_for(lambda: list(tmp_path.glob("*/*/wal/*.partial")))
        words = started_by("pgbackup-cron@.service")
        answer = program.succeed(tmp_path, *words, "-c", "fast", "--json", **settings)
    finally:
        receiver.send(signal.SIGTERM)
        end = receiver.wait()
    assert end.status == 0, end.err
    assert steps(answer)["receive"]["text"] == "a receiver is running"
    assert backups(tmp_path)


def started_by(unit: str) -> list[str]:
    """The words of a unit's command, behind the program."""
    (line,) = [
        line for line in (UNITS / unit).read_text().splitlines() if line.startswith("ExecStart=")
    ]
    name, *words = line.removeprefix("ExecStart=").split()
    assert name == "/usr/local/bin/pgbackup"
    return words


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd")
@pytest.mark.parametrize("name", sorted(path.name for path in UNITS.iterdir()))
def test_the_units_are_what_systemd_wants(tmp_path: Path, name: str) -> None:
    for path in UNITS.iterdir():
        text = path.read_text().replace("/usr/local/bin/pgbackup", "/bin/true")
        (tmp_path / path.name.replace("@", "@main")).write_text(text.replace("User=pgbackup", ""))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", tmp_path / name.replace("@", "@main")],
        capture_output=True, text=True, check=False,
        env=os.environ | {"SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
    )  # fmt: skip
    complaints = [line for line in done.stderr.splitlines() if "pgbackup" in line]
    assert (done.returncode, complaints) == (0, []), done.stderr
