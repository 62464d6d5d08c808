"""archive_command: what goes in, what is refused, and that nothing is ever replaced."""

import os
import struct
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import zstandard

from pgbackup.archiving import marker
from pgbackup.archiving.push import PushedFile, Pusher
from pgbackup.errors import Conflict
from pgbackup.pg.crc32c import crc32c
from pgbackup.repo.repository import Repository
from pgbackup.storage.durable import FileSystem
from pgbackup.storage.local import LocalStorage
from tests.archiving.serverdir import (
    MIB,
    OTHER_SYSTEM,
    ServerDirectory,
    segment,
    segment_data,
)
from tests.cli.program import command as program_command
from tests.cli.program import environment

FIRST = segment(1)
BACKUP_HISTORY = f"{FIRST.name}.00000028.backup"


def stored(server: ServerDirectory, name: str) -> bytes:
    """Content of an archived file."""
    compressed = server.archive / f"{name}.zst"
    if compressed.exists():
        return zstandard.ZstdDecompressor().decompress(compressed.read_bytes())
    return (server.archive / name).read_bytes()


@pytest.mark.parametrize(
    ("options", "suffix"),
    [((), ".zst"), (("-Z", "zstd:5"), ".zst"), (("-Z", "none"), "")],
    ids=["default", "level", "plain"],
)
def test_a_segment_is_stored(
    server: ServerDirectory, options: tuple[str, ...], suffix: str
) -> None:
    data = server.make(FIRST)
    assert server.push(FIRST.name, *options) == 0
    assert [path.name for path in server.archive.iterdir()] == [FIRST.name + suffix]
    assert stored(server, FIRST.name) == data


@pytest.mark.parametrize(
    ("name", "data"),
    [
        pytest.param("00000002.history", b"1\t0/3000000\tno reason\n", id="history"),
        pytest.param(BACKUP_HISTORY, b"START WAL LOCATION: 0/100028\n", id="backup history"),
    ],
)
def test_a_small_file_is_stored_plain_under_the_servers_identifier(
    server: ServerDirectory, name: str, data: bytes
) -> None:
    server.write(name, data)
    assert server.push(name) == 0
    assert (server.archive / name).read_bytes() == data


def test_a_partial_segment_of_the_old_timeline_is_stored_beside_the_full_one(
    server: ServerDirectory,
) -> None:
    data = server.make(FIRST)
    server.write(f"{FIRST.name}.partial", data[: MIB // 2] + bytes(MIB // 2))
    assert server.push(FIRST.name) == server.push(f"{FIRST.name}.partial") == 0
    assert stored(server, FIRST.name) == data
    assert stored(server, f"{FIRST.name}.partial")[: MIB // 2] == data[: MIB // 2]


def test_an_unfinished_segment_that_a_receiver_has_otherwise_is_kept_aside(
    server: ServerDirectory,
) -> None:
    """Or a server that was promoted would archive nothing more."""
    data = server.make(FIRST)
    name = f"{FIRST.name}.partial"
    received = data[: MIB // 2] + bytes(MIB // 2)
    assert server.push(FIRST.name) == 0
    (server.archive / name).write_bytes(received)
    for _ in range(2):
        server.write(name, data)
        assert server.push(name) == 0
    assert (server.archive / name).read_bytes() == received
    assert (server.system / "conflict" / name).read_bytes() == data

    server.write(name, data[:-1] + b"!")
    assert 1 <= server.push(name) <= 125, "nobody has this one"
    assert (server.system / "conflict" / name).read_bytes() == data


def test_outside_a_data_directory_a_history_file_goes_where_its_neighbours_go(
    server: ServerDirectory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server.make(FIRST)
    server.write("00000002.history", b"1\t0/3000000\tno reason\n")
    monkeypatch.chdir(tmp_path)
    path = server.wal / "00000002.history"
    words = server.words("wal-push", path)
    assert run(words, tmp_path).returncode == 0
    assert (server.archive / "00000002.history").exists()


def test_outside_a_data_directory_a_history_file_alone_is_refused(tmp_path: Path) -> None:
    (tmp_path / "00000002.history").write_text("1\t0/3000000\tno reason\n")
    done = run(["wal-push", "-B", tmp_path / "repo", "00000002.history"], tmp_path)
    assert 1 <= done.returncode <= 125
    assert b"nothing tells which cluster it is of" in done.stderr
    assert not (tmp_path / "repo" / "cluster.json").exists()


def run(words: list[object], directory: Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        program_command(*words), cwd=directory, env=environment(), capture_output=True, check=False
    )


def test_the_same_content_again_is_success_after_a_fresh_sync(
    server: ServerDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = server.make(FIRST)
    assert server.push(FIRST.name) == 0
    synced = []
    fsync = FileSystem.fsync

    def observed(self: FileSystem, fd: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{fd}").readlink()))
        fsync(self, fd)

    monkeypatch.setattr(FileSystem, "fsync", observed)
    assert server.push(FIRST.name) == 0
    assert synced[:2] == [str(server.archive / f"{FIRST.name}.zst"), str(server.archive)]
    assert stored(server, FIRST.name) == data


@pytest.mark.parametrize("options", [(), ("-Z", "none")], ids=["compressed", "plain"])
def test_other_content_is_an_error_and_kept_aside(
    server: ServerDirectory, capfd: pytest.CaptureFixture[str], options: tuple[str, ...]
) -> None:
    first = server.make(FIRST)
    assert server.push(FIRST.name) == 0
    second = server.make(FIRST, seed=1)
    assert 1 <= server.push(FIRST.name, *options) <= 125
    assert "with other content" in capfd.readouterr().err
    assert stored(server, FIRST.name) == first
    assert (server.system / "conflict" / FIRST.name).read_bytes() == second
    assert 1 <= server.push(FIRST.name) <= 125


def test_a_difference_in_the_last_byte_is_found(server: ServerDirectory) -> None:
    data = server.make(FIRST)
    assert server.push(FIRST.name) == 0
    server.write(FIRST.name, data[:-1] + bytes([data[-1] ^ 1]))
    assert 1 <= server.push(FIRST.name) <= 125


def test_a_temporary_file_left_over_is_in_nobodys_way(server: ServerDirectory) -> None:
    data = server.make(FIRST)
    server.archive.mkdir(parents=True)
    (server.repo / "pgbackup.json").write_text('{"format": 1, "repository_id": "r"}')
    left = server.archive / f".{FIRST.name}.zst.tmp-host-1-abcdef"
    left.write_bytes(b"half")
    assert server.push(FIRST.name) == 0
    assert stored(server, FIRST.name) == data


@pytest.mark.parametrize("damage", ["gone", "not a directory", "read-only", "not a repository"])
def test_a_repository_that_cannot_be_written_to_is_an_error(
    server: ServerDirectory, damage: str
) -> None:
    server.make(FIRST)
    if damage == "gone":
        server.repo = Path("/proc/nothing/here")
    elif damage == "read-only":
        server.repo = Path("/sys/kernel")
    elif damage == "not a directory":
        server.repo.write_text("")
    else:
        server.repo.mkdir()
        (server.repo / "precious").write_text("")
    assert 1 <= server.push(FIRST.name) <= 125


@pytest.mark.parametrize(
    "name",
    [
        "nonsense",
        "xlogtemp.17",
        "000000010000000000000001.zst",
        "00000001000000000000000g",
        "archive_status",
        "",
    ],
)
def test_a_name_that_postgres_does_not_write_is_refused(server: ServerDirectory, name: str) -> None:
    if name and name != "archive_status":
        server.write(name, segment_data(FIRST), ready=False)
    assert 1 <= server.push(name) <= 125
    assert not server.repo.exists()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(segment_data(FIRST)[:-1], "its header says", id="a byte short"),
        pytest.param(segment_data(FIRST) + b"\0", "its header says", id="a byte long"),
        pytest.param(b"", "too few", id="empty"),
        pytest.param(bytes(MIB), "zeros", id="zeros"),
        pytest.param(segment_data(segment(2)), "begins at", id="another segment"),
        pytest.param(segment_data(segment(1, 2)), "timeline", id="a later timeline"),
        pytest.param(segment_data(FIRST, system=OTHER_SYSTEM), "system", id="another cluster"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_refused(
    server: ServerDirectory, capfd: pytest.CaptureFixture[str], data: bytes, reason: str
) -> None:
    server.write(FIRST.name, data)
    assert 1 <= server.push(FIRST.name) <= 125
    said = capfd.readouterr().err
    assert reason in said
    assert FIRST.name in said
    assert not list(server.repo.rglob("*.zst"))


def test_another_segment_size_than_the_archives_is_refused(server: ServerDirectory) -> None:
    server.make(FIRST)
    assert server.push(FIRST.name) == 0
    larger = segment(2, size=2 * MIB)
    server.write(larger.name, segment_data(larger))
    assert 1 <= server.push(larger.name) <= 125


@pytest.mark.parametrize("size", [1, 2, 16])
def test_segments_of_any_size_are_stored(server: ServerDirectory, size: int) -> None:
    control = bytearray((server.path / "global" / "pg_control").read_bytes())
    struct.pack_into("<I", control, 228, size * MIB)
    struct.pack_into("<I", control, 288, crc32c(control[:288]))
    (server.path / "global" / "pg_control").write_bytes(control)
    which = segment(3, size=size * MIB)
    data = server.make(which)
    assert server.push(which.name) == 0
    assert stored(server, which.name) == data


def test_a_link_or_a_directory_in_place_of_a_segment_is_refused(server: ServerDirectory) -> None:
    (server.wal / FIRST.name).symlink_to("/etc/passwd")
    assert 1 <= server.push(FIRST.name) <= 125
    (server.wal / segment(2).name).mkdir()
    assert 1 <= server.push(segment(2).name) <= 125


def test_a_missing_file_is_an_error(server: ServerDirectory) -> None:
    assert 1 <= server.push(FIRST.name) <= 125


def test_one_call_pushes_what_else_waits(server: ServerDirectory) -> None:
    contents = {number: server.make(segment(number)) for number in range(1, 10)}
    server.write("00000002.history", b"1\t0/3000000\tno reason\n")
    assert server.push(FIRST.name) == 0
    for number, data in contents.items():
        assert stored(server, segment(number).name) == data
    assert (server.archive / "00000002.history").exists()


def settle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let files count as unchanged for long enough, as those of a backlog are."""
    monkeypatch.setattr(marker, "_SETTLED", -1)


def test_a_file_that_was_pushed_ahead_is_not_read_again(
    server: ServerDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(monkeypatch)
    names = [segment(number).name for number in range(1, 5)]
    for number in range(1, 5):
        server.make(segment(number))
    assert server.push(names[0]) == 0
    assert sorted(path.name for path in server.spool.iterdir()) == [
        f"pushed.{name}" for name in names[1:]
    ]
    monkeypatch.setattr(os, "pread", None)
    assert server.push(names[1]) == 0
    assert not (server.spool / f"pushed.{names[1]}").exists()


@pytest.mark.parametrize("change", ["content", "archive", "repository", "note", "open spool"])
def test_a_note_that_no_longer_holds_is_not_believed(
    server: ServerDirectory, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    settle(monkeypatch)
    second = segment(2)
    server.make(FIRST)
    data = server.make(second)
    assert server.push(FIRST.name) == 0
    note = server.spool / f"pushed.{second.name}"
    assert note.exists()
    if change == "content":
        kept = (server.wal / second.name).stat()
        with open(server.wal / second.name, "r+b") as file:
            file.seek(MIB - 1)
            file.write(bytes([data[-1] ^ 1]))
        os.utime(server.wal / second.name, ns=(kept.st_atime_ns, kept.st_mtime_ns))
        assert 1 <= server.push(second.name) <= 125
        return
    if change == "archive":
        (server.archive / f"{second.name}.zst").unlink()
    elif change == "repository":
        server.repo = server.repo.with_name("other")
        server.archive = server.repo / server.system.name / "wal"
    elif change == "note":
        note.write_bytes(note.read_bytes()[:20])
    else:
        server.spool.chmod(0o777)
        (server.archive / f"{second.name}.zst").unlink()
    assert server.push(second.name) == 0
    assert stored(server, second.name) == data


def test_a_file_that_changed_just_now_gets_no_note(server: ServerDirectory) -> None:
    server.make(FIRST)
    server.make(segment(2))
    assert server.push(FIRST.name) == 0
    assert stored(server, segment(2).name)
    assert not (server.spool / f"pushed.{segment(2).name}").exists()


def test_another_file_that_cannot_be_pushed_does_not_fail_the_call(
    server: ServerDirectory,
) -> None:
    server.make(FIRST)
    server.write(segment(2).name, bytes(MIB))
    data = server.make(segment(3))
    assert server.push(FIRST.name) == 0
    assert stored(server, segment(3).name) == data
    assert 1 <= server.push(segment(2).name) <= 125


def test_without_a_spool_only_the_file_that_was_asked_for_is_pushed(
    server: ServerDirectory,
) -> None:
    server.make(FIRST)
    server.make(segment(2))
    assert server.push(FIRST.name, "--spool", "") == 0
    assert len(list(server.archive.iterdir())) == 1


def test_a_spool_of_others_is_not_used(server: ServerDirectory) -> None:
    server.spool.symlink_to(server.path)
    server.make(FIRST)
    server.make(segment(2))
    assert server.push(FIRST.name) == 0
    assert not list(server.path.glob("pushed.*"))


def test_of_two_that_push_one_name_at_once_both_succeed_or_one_conflicts(
    server: ServerDirectory,
) -> None:
    """Fifty names, each pushed twice at the same moment: half of them with other content."""
    other = server.path / "other" / "pg_wal"
    other.mkdir(parents=True)
    for number in range(1, 51):
        which = segment(number)
        server.write(which.name, segment_data(which), ready=False)
        (other / which.name).write_bytes(segment_data(which, seed=number % 2))
    repository = Repository.open(LocalStorage(server.repo), create=True)
    barrier = threading.Barrier(2)

    def push_all(folder: Path, level: int | None) -> list[bool]:
        pusher = Pusher(repository, None, level)
        won = []
        for number in range(1, 51):
            file = PushedFile(str(folder / segment(number).name))
            barrier.wait()
            try:
                pusher.push(file)
                won.append(True)
            except Conflict:
                won.append(False)
            finally:
                file.close()
        return won

    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(push_all, server.wal, 1)
        two = pool.submit(push_all, other, 1)
        results = list(zip(one.result(), two.result(), strict=True))
    for number, (first, second) in enumerate(results, 1):
        which = segment(number)
        if number % 2 == 0:
            assert (first, second) == (True, True)
        else:
            assert first != second
            winner = server.wal if first else other
            assert stored(server, which.name) == (winner / which.name).read_bytes()
    assert not server.leftovers()


@pytest.mark.parametrize(("age", "stays"), [(7200, False), (60, True)], ids=["old", "in use"])
def test_what_a_recovery_fetched_ahead_is_removed_once_it_is_over(
    server: ServerDirectory, age: int, stays: bool
) -> None:
    server.spool.mkdir(mode=0o700)
    folder = server.spool / "1-repository"
    folder.mkdir()
    (folder / f"{FIRST.name}.00000000").touch()
    then = time.time() - age
    os.utime(folder, (then, then))
    server.make(FIRST)
    assert server.push(FIRST.name) == 0
    assert folder.exists() is stays
