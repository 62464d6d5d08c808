"""restore_command: 0 means delivered whole, 1 proven absent, and 255 that nobody knows."""

import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
import zstandard

from pgbackup.archiving.command import ABSENT, DELIVERED, UNKNOWN
from pgbackup.repo.archive import WalArchive
from tests.archiving.serverdir import (
    MIB,
    OTHER_SYSTEM,
    SYSTEM,
    ServerDirectory,
    segment,
    segment_data,
)
from tests.cli.program import ROOT, environment
from tests.cli.program import command as program_command
from tests.strace import failing, killed_at
from tests.waiting import PATIENCE

FIRST = segment(1)
SECOND = segment(2)
HISTORY = "00000002.history"


@pytest.fixture
def archive(server: ServerDirectory) -> bytes:
    """Have the first segment in the archive; its content."""
    data = server.make(FIRST)
    assert server.push(FIRST.name, "--spool", "") == 0
    return data


def test_a_segment_is_delivered_whole(server: ServerDirectory, archive: bytes) -> None:
    assert server.get(FIRST.name) == DELIVERED
    assert server.restored.read_bytes() == archive
    assert not server.leftovers()


def test_a_plain_segment_is_delivered(server: ServerDirectory) -> None:
    data = server.make(FIRST)
    assert server.push(FIRST.name, "-Z", "none") == 0
    assert server.get(FIRST.name) == DELIVERED
    assert server.restored.read_bytes() == data


def test_a_history_file_is_delivered(server: ServerDirectory) -> None:
    server.write(HISTORY, b"1\t0/3000000\tno reason\n")
    assert server.push(HISTORY) == 0
    assert server.get(HISTORY, target="pg_wal/RECOVERYHISTORY") == DELIVERED
    restored = (server.wal / "RECOVERYHISTORY").read_bytes()
    assert restored == b"1\t0/3000000\tno reason\n"


@pytest.mark.parametrize("name", [SECOND.name, HISTORY])
@pytest.mark.usefixtures("archive")
def test_what_is_not_there_is_absent_and_nothing_is_said(
    server: ServerDirectory, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    assert server.get(name) == ABSENT
    assert not server.restored.exists()
    assert capfd.readouterr().err == ""


CAUSES = [
    "no repository",
    "not a repository",
    "another repository's format",
    "damaged identity",
    "no WAL folder",
    "another cluster only",
    "another segment size",
    "truncated object",
    "empty object",
    "damaged object",
    "junk behind the object",
    "another segment's content",
    "another cluster's content",
    "truncated plain object",
    "object is a directory",
    "unknown scheme",
    "no target directory",
    "damaged control file",
]


def break_it(server: ServerDirectory, cause: str) -> None:
    stored = server.archive / f"{FIRST.name}.zst"
    data = stored.read_bytes()

    def replace(content: bytes) -> None:
        stored.write_bytes(content)

    def compressed(content: bytes) -> bytes:
        return zstandard.ZstdCompressor(1, write_checksum=True).compress(content)

    match cause:
        case "no repository":
            server.repo.rename(server.repo.with_name("elsewhere"))
        case "not a repository":
            (server.repo / "pgbackup.json").unlink()
        case "another repository's format":
            (server.repo / "pgbackup.json").write_text('{"format": 99, "repository_id": "x"}')
        case "damaged identity":
            (server.repo / "pgbackup.json").write_text("{")
        case "no WAL folder":
            shutil.rmtree(server.archive)
        case "another cluster only":
            server.system.rename(server.repo / str(OTHER_SYSTEM))
        case "another segment size":
            record = server.system / "cluster.json"
            record.write_text(record.read_text().replace("1048576", "2097152"))
        case "truncated object":
            replace(data[:-5])
        case "empty object":
            replace(b"")
        case "damaged object":
            replace(data[: len(data) // 2] + b"\xff\x00" + data[len(data) // 2 + 2 :])
        case "junk behind the object":
            replace(data + b"junk")
        case "another segment's content":
            replace(compressed(segment_data(SECOND)))
        case "another cluster's content":
            replace(compressed(segment_data(FIRST, system=OTHER_SYSTEM)))
        case "truncated plain object":
            (server.archive / FIRST.name).write_bytes(segment_data(FIRST)[: MIB // 2])
        case "object is a directory":
            stored.unlink()
            stored.symlink_to("/nowhere")
            server.archive.rename(server.system / "moved")
            (server.system / "wal").symlink_to(server.system / "moved")
        case "unknown scheme":
            server.repo = Path("nfs4:")
        case "no target directory":
            (server.path / "pg_wal").rename(server.path / "moved")
        case "damaged control file":
            (server.path / "global" / "pg_control").write_bytes(bytes(8192))
        case _:
            raise AssertionError(cause)


@pytest.mark.parametrize("cause", CAUSES)
@pytest.mark.usefixtures("archive")
def test_whatever_keeps_us_from_knowing_stops_recovery(
    server: ServerDirectory, capfd: pytest.CaptureFixture[str], cause: str
) -> None:
    break_it(server, cause)
    assert server.get(FIRST.name) == UNKNOWN
    assert "could not" in capfd.readouterr().err
    assert not server.restored.exists()


@pytest.mark.parametrize(
    "cause", ["no repository", "no WAL folder", "another cluster only", "another segment size"]
)
@pytest.mark.usefixtures("archive")
def test_a_history_file_is_absent_only_where_that_can_be_known(
    server: ServerDirectory, cause: str
) -> None:
    """Recovery would take the timeline that it is on for the newest."""
    break_it(server, cause)
    assert server.get(HISTORY) == UNKNOWN


@pytest.mark.usefixtures("archive")
def test_a_server_of_another_segment_size_gets_nothing(
    server: ServerDirectory, capfd: pytest.CaptureFixture[str]
) -> None:
    """Where names mean other places, a missing one means nothing."""
    record = server.system / "cluster.json"
    record.write_text(record.read_text().replace("1048576", "2097152"))
    assert server.get(SECOND.name) == UNKNOWN
    assert "2097152 bytes, those of this server 1048576" in capfd.readouterr().err


@pytest.mark.usefixtures("archive")
def test_a_repository_that_took_the_place_of_another_proves_nothing(
    server: ServerDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a file system is mounted over it between two looks."""
    identity = server.repo / "pgbackup.json"
    find = WalArchive.find

    def replaced(self: WalArchive, name: str) -> str | None:
        found = find(self, name)
        text = identity.read_text()
        at = text.index("repository_id") + 17
        identity.write_text(text[:at] + "0" * 32 + text[at + 32 :])
        return found

    monkeypatch.setattr(WalArchive, "find", replaced)
    assert server.get(SECOND.name) == UNKNOWN


@pytest.mark.parametrize("cause", CAUSES)
@pytest.mark.usefixtures("archive")
def test_in_standby_mode_the_server_is_told_to_ask_again(
    server: ServerDirectory, capfd: pytest.CaptureFixture[str], cause: str
) -> None:
    (server.path / "standby.signal").touch()
    break_it(server, cause)
    assert server.get(FIRST.name) == ABSENT
    assert "could not" in capfd.readouterr().err
    assert not server.restored.exists()


@pytest.mark.parametrize("position", [0, 1, 100, 4096, 0.25, 0.5, 0.9, -9, -5, -4, -1])
def test_an_object_cut_anywhere_is_not_delivered(
    server: ServerDirectory, archive: bytes, position: float
) -> None:
    stored = server.archive / f"{FIRST.name}.zst"
    data = stored.read_bytes()
    cut = int(position * len(data)) if isinstance(position, float) else position
    stored.write_bytes(data[:cut])
    assert server.get(FIRST.name) == UNKNOWN
    assert not server.restored.exists()
    assert not server.leftovers()


@pytest.mark.parametrize(
    "name",
    [
        "../pg_wal/000000010000000000000001",
        "/etc/passwd",
        "000000010000000000000001/..",
        "000000010000000000000001\n",
        "..",
        ".",
        "",
        "pgbackup.json",
        "000000010000000000000001.zst",
        "00000001000000000000000١",  # noqa: RUF001 - a digit of another script
    ],
)
@pytest.mark.usefixtures("archive")
def test_a_name_that_postgres_does_not_ask_for_is_refused(
    server: ServerDirectory, name: str
) -> None:
    assert server.get(name) == UNKNOWN
    assert not server.restored.exists()


@pytest.mark.parametrize(
    "words",
    [[], ["one"], ["one", "two", "three"], ["--nonsense", "a", "b"], ["--timeout", "x", "a", "b"]],
    ids=["none", "one", "three", "option", "value"],
)
def test_a_command_line_that_makes_no_sense_stops_recovery(
    server: ServerDirectory, words: list[str]
) -> None:
    assert run(server, *words).returncode == UNKNOWN


def test_there_is_no_default_repository(server: ServerDirectory) -> None:
    done = subprocess.run(
        program_command("wal-get", FIRST.name, "pg_wal/RECOVERYXLOG"),
        env=environment(), capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == UNKNOWN
    assert b"no repository is named" in done.stderr


def run(
    server: ServerDirectory, *words: object, before: Sequence[str] = ()
) -> subprocess.CompletedProcess[bytes]:
    line = program_command("wal-get", "-B", server.repo, "--no-prefetch", *words)
    return subprocess.run([*before, *line], env=environment(), capture_output=True, check=False)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("write", "ENOSPC:when=1"),
        ("write", "ENOSPC:when=2+"),
        ("write", "EIO:when=1"),
        ("rename", "EIO"),
        ("rename", "EXDEV"),
        ("fchmod", "EPERM"),
    ],
)
@pytest.mark.usefixtures("archive")
def test_a_failing_system_call_stops_recovery(
    server: ServerDirectory, call: str, error: str
) -> None:
    before = failing(call, error)
    done = run(server, "--timeout", "0", FIRST.name, "pg_wal/RECOVERYXLOG", before=before)
    assert done.returncode == UNKNOWN, done.stderr
    assert not server.restored.exists()


@pytest.mark.parametrize("error", ["EACCES", "EIO", "EMFILE", "ESTALE"])
@pytest.mark.usefixtures("archive")
def test_a_repository_that_cannot_be_read_stops_recovery(
    server: ServerDirectory, error: str
) -> None:
    before = failing("openat", error, server.repo, server.archive)
    done = run(server, "--timeout", "0", SECOND.name, "pg_wal/RECOVERYXLOG", before=before)
    assert done.returncode == UNKNOWN, done.stderr


@pytest.mark.usefixtures("archive")
def test_a_program_that_breaks_down_stops_recovery(server: ServerDirectory) -> None:
    """Python ends with 1 after an exception of its own: that would be absence."""
    line = program_command("wal-get", "-B", server.repo, FIRST.name, "pg_wal/RECOVERYXLOG")
    (server.path / "zstandard.py").write_text("raise RuntimeError('broken installation')")
    extra = environment()
    extra["PYTHONPATH"] = f"{server.path}:{extra['PYTHONPATH']}"
    done = subprocess.run(line, env=extra, capture_output=True, check=False)
    assert b"broken installation" in done.stderr
    assert done.returncode == UNKNOWN


@pytest.mark.parametrize("module", ["archiving/command.py", "archiving/get.py", "pg/__init__.py"])
@pytest.mark.usefixtures("archive")
def test_an_installation_that_is_broken_stops_recovery(
    server: ServerDirectory, tmp_path: Path, module: str
) -> None:
    copy = tmp_path / "installed" / "pgbackup"
    shutil.copytree(ROOT / "pgbackup", copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / module).write_text("half of a mod")
    extra = environment() | {"PYTHONPATH": str(copy.parent)}
    line = program_command("wal-get", "-B", server.repo, SECOND.name, "pg_wal/RECOVERYXLOG")
    done = subprocess.run(line, env=extra, capture_output=True, check=False)
    assert b"SyntaxError" in done.stderr
    assert done.returncode == UNKNOWN


@pytest.mark.usefixtures("archive")
def test_what_comes_back_within_the_budget_is_delivered(
    server: ServerDirectory, archive: bytes
) -> None:
    away = server.repo.with_name("away")
    server.repo.rename(away)
    line = program_command("wal-get", "-B", server.repo, "--timeout", "600")
    line += [FIRST.name, "pg_wal/RECOVERYXLOG"]
    running = subprocess.Popen(line, env=environment(), stderr=subprocess.PIPE)
    with pytest.raises(subprocess.TimeoutExpired):
        running.wait(1)
    away.rename(server.repo)
    assert running.wait(PATIENCE) == DELIVERED
    assert server.restored.read_bytes() == archive
    running.communicate()


@pytest.mark.usefixtures("archive")
def test_it_gives_up_when_the_budget_is_spent(server: ServerDirectory) -> None:
    server.repo.rename(server.repo.with_name("away"))
    assert server.get(FIRST.name, "--timeout", "0.5") == UNKNOWN


@pytest.mark.usefixtures("archive")
def test_sigterm_ends_it_at_once_and_by_the_signal(server: ServerDirectory) -> None:
    server.repo.rename(server.repo.with_name("away"))
    line = program_command("wal-get", "-B", server.repo, "--timeout", "3600")
    running = subprocess.Popen([*line, FIRST.name, "pg_wal/RECOVERYXLOG"], env=environment())
    with pytest.raises(subprocess.TimeoutExpired):
        running.wait(1)
    running.terminate()
    assert running.wait(PATIENCE) == -signal.SIGTERM


@pytest.mark.parametrize("call", ["write", "rename"])
def test_killed_at_any_moment_it_leaves_no_target_and_the_next_call_cleans_up(
    server: ServerDirectory, archive: bytes, call: str
) -> None:
    before = killed_at(call, 1)
    done = run(server, FIRST.name, "pg_wal/RECOVERYXLOG", before=before)
    assert done.returncode != 0
    assert not server.restored.exists()
    assert server.leftovers()
    assert server.get(FIRST.name) == DELIVERED
    assert server.restored.read_bytes() == archive
    assert not server.leftovers()


def receive(server: ServerDirectory, data: bytes, timeline: int = 1, number: int = 2) -> None:
    """What the receiver has of an unfinished segment."""
    (server.archive / f"{segment(number, timeline).name}.partial").write_bytes(data)


UNFINISHED = segment_data(SECOND, used=MIB // 2)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(UNFINISHED, id="of full size"),
        pytest.param(UNFINISHED[: MIB // 2], id="of the bytes that came"),
    ],
)
@pytest.mark.usefixtures("archive")
def test_an_unfinished_segment_is_delivered_on_demand(server: ServerDirectory, data: bytes) -> None:
    receive(server, data)
    assert server.get(SECOND.name) == ABSENT
    assert server.get(SECOND.name, "--partial") == DELIVERED
    assert server.restored.read_bytes() == UNFINISHED


@pytest.mark.usefixtures("archive")
def test_a_full_segment_goes_before_an_unfinished_one(server: ServerDirectory) -> None:
    receive(server, UNFINISHED)
    data = server.make(SECOND)
    assert server.push(SECOND.name) == 0
    assert server.get(SECOND.name, "--partial") == DELIVERED
    assert server.restored.read_bytes() == data


@pytest.mark.parametrize(
    ("switch", "status"),
    [("0/280000", ABSENT), ("0/100000", ABSENT), ("0/300000", DELIVERED), ("0/900000", DELIVERED)],
    ids=["within", "before", "at the end", "later"],
)
@pytest.mark.usefixtures("archive")
def test_an_unfinished_segment_gives_way_to_a_newer_timeline(
    server: ServerDirectory, switch: str, status: int
) -> None:
    receive(server, UNFINISHED)
    (server.archive / HISTORY).write_text(f"1\t{switch}\tno reason\n")
    assert server.get(SECOND.name, "--partial") == status


@pytest.mark.usefixtures("archive")
def test_a_timeline_that_parted_elsewhere_is_not_in_its_place(server: ServerDirectory) -> None:
    receive(server, segment_data(segment(2, 2), used=MIB // 2), timeline=2)
    (server.archive / HISTORY).write_text("1\t0/150000\tno reason\n")
    (server.archive / "00000003.history").write_text("1\t0/140000\tno reason\n")
    (server.archive / segment(2, 3).name).write_bytes(segment_data(segment(2, 3)))
    assert server.get(segment(2, 2).name, "--partial") == DELIVERED


@pytest.mark.usefixtures("archive")
def test_of_a_timeline_without_history_nobody_knows_where_it_parted(
    server: ServerDirectory,
) -> None:
    receive(server, UNFINISHED)
    (server.archive / segment(2, 2).name).write_bytes(segment_data(segment(2, 2)))
    assert server.get(SECOND.name, "--partial") == ABSENT


@pytest.mark.parametrize(
    ("data", "status"),
    [
        pytest.param(b"", ABSENT, id="empty"),
        pytest.param(bytes(MIB), ABSENT, id="nothing received yet"),
        pytest.param(UNFINISHED + b"\0", UNKNOWN, id="too long"),
        pytest.param(segment_data(FIRST, used=MIB // 2), UNKNOWN, id="another segment"),
        pytest.param(
            segment_data(SECOND, system=OTHER_SYSTEM, used=MIB // 2), UNKNOWN, id="another cluster"
        ),
        pytest.param(UNFINISHED[: MIB // 2 + 9] + b"x" + bytes(9), UNKNOWN, id="damaged"),
    ],
)
@pytest.mark.usefixtures("archive")
def test_an_unfinished_segment_is_checked(
    server: ServerDirectory, data: bytes, status: int
) -> None:
    receive(server, data)
    assert server.get(SECOND.name, "--partial") == status
    assert not server.restored.exists()


def test_without_a_data_directory_the_only_cluster_is_meant(
    server: ServerDirectory, archive: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert server.get(FIRST.name, target="segment") == DELIVERED
    assert (tmp_path / "segment").read_bytes() == archive
    assert os.listdir(server.repo / str(SYSTEM) / "wal") == [f"{FIRST.name}.zst"]  # noqa: PTH208
