"""wal-push killed before each system call that matters: acknowledged is stored, the rest can be
pushed again, and what has its name is whole."""

import shutil
import subprocess
from pathlib import Path

import pytest
import zstandard

from tests.archiving.serverdir import ServerDirectory, segment
from tests.cli.program import command, environment

pytestmark = pytest.mark.slow

FIRST = segment(1)
CALLS = ("openat", "write", "fsync", "linkat", "unlinkat", "mkdirat", "close", "fchmod", "flock")
MOST = 80
"""Calls of one name in a run, at most; most of them are Python's own, before the work begins."""


def push(server: ServerDirectory, *before: str) -> int:
    words = server.words("wal-push", "--spool", "", f"pg_wal/{FIRST.name}")
    line = [*before, *command(*words)]
    return subprocess.run(line, env=environment(), capture_output=True, check=False).returncode


def count_calls(server: ServerDirectory, call: str, log: Path) -> int:
    """How many of a system call the run makes that also makes the repository."""
    assert push(server, "strace", "-f", "-qq", "-o", str(log), "-e", f"trace={call}") == 0
    return len(log.read_text().splitlines())


@pytest.mark.parametrize("call", CALLS)
def test_killed_before_any_call_a_push_leaves_nothing_half_done(
    server: ServerDirectory, tmp_path: Path, call: str
) -> None:
    data = server.make(FIRST)
    total = count_calls(server, call, tmp_path / "log")
    stored = server.archive / f"{FIRST.name}.zst"
    killed = 0
    for number in range(max(1, total - MOST), total + 1):
        shutil.rmtree(server.repo)
        inject = f"inject={call}:signal=KILL:when={number}"
        status = push(
            server, "strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", inject
        )
        killed += status != 0
        if status == 0 or stored.exists():
            assert zstandard.ZstdDecompressor().decompress(stored.read_bytes()) == data
        assert push(server) == 0
        assert zstandard.ZstdDecompressor().decompress(stored.read_bytes()) == data
    assert total == 0 or killed


@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
@pytest.mark.parametrize("call", ["write", "fsync", "linkat", "close", "mkdirat", "fchmod"])
def test_a_call_that_fails_fails_the_push_or_changes_nothing(
    server: ServerDirectory, tmp_path: Path, call: str, error: str
) -> None:
    data = server.make(FIRST)
    total = count_calls(server, call, tmp_path / "log")
    stored = server.archive / f"{FIRST.name}.zst"
    for number in range(max(1, total - 12), total + 1):
        shutil.rmtree(server.repo)
        inject = f"inject={call}:error={error}:when={number}"
        status = push(
            server, "strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", inject
        )
        assert 0 <= status <= 125
        if call == "fsync":
            assert status != 0
        if status == 0:
            assert zstandard.ZstdDecompressor().decompress(stored.read_bytes()) == data
        assert push(server) == 0
    assert (server.wal / FIRST.name).read_bytes() == data
