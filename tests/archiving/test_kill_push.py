"""wal-push killed before each system call that matters: acknowledged is stored, the rest can be
pushed again, and what has its name is whole."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import zstandard

from tests.archiving.serverdir import ServerDirectory, segment
from tests.cli.program import command, environment
from tests.strace import failing, killed_at, tracing

pytestmark = pytest.mark.slow

FIRST = segment(1)
CALLS = ("openat", "write", "fsync", "linkat", "unlinkat", "mkdirat", "close", "fchmod", "flock")


def push(server: ServerDirectory, *before: str) -> int:
    words = server.words("wal-push", "--spool", "", f"pg_wal/{FIRST.name}")
    line = [*before, *command(*words)]
    return subprocess.run(line, env=environment(), capture_output=True, check=False).returncode


def calls_of_the_work(server: ServerDirectory, call: str, log: Path) -> range:
    """Which calls of one name come from the first on the server's or the repository's files on.

    Those before it are Python's own. The run is one that also makes the repository.
    """
    assert push(server, *tracing(call, log)) == 0
    lines = [re.sub(r"AT_FDCWD<.*?>", "", line) for line in log.read_text().splitlines()]
    names = (f"{server.path}/", str(server.repo), "pg_wal")  # Python lists the directory itself
    ours = [number for number, line in enumerate(lines, 1) if any(name in line for name in names)]
    return range(min(ours, default=1), len(lines) + 1)


@pytest.mark.parametrize("call", CALLS)
def test_killed_before_any_call_a_push_leaves_nothing_half_done(
    server: ServerDirectory, tmp_path: Path, call: str
) -> None:
    data = server.make(FIRST)
    numbers = calls_of_the_work(server, call, tmp_path / "log")
    stored = server.archive / f"{FIRST.name}.zst"
    killed = 0
    for number in numbers:
        shutil.rmtree(server.repo)
        status = push(server, *killed_at(call, number))
        killed += status != 0
        if status == 0 or stored.exists():
            assert zstandard.ZstdDecompressor().decompress(stored.read_bytes()) == data
        assert push(server) == 0
        assert zstandard.ZstdDecompressor().decompress(stored.read_bytes()) == data
    assert killed or not numbers


@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
@pytest.mark.parametrize("call", ["write", "fsync", "linkat", "close", "mkdirat", "fchmod"])
def test_a_call_that_fails_fails_the_push_or_changes_nothing(
    server: ServerDirectory, tmp_path: Path, call: str, error: str
) -> None:
    data = server.make(FIRST)
    stored = server.archive / f"{FIRST.name}.zst"
    for number in calls_of_the_work(server, call, tmp_path / "log"):
        shutil.rmtree(server.repo)
        status = push(server, *failing(call, f"{error}:when={number}"))
        assert 0 <= status <= 125
        if call == "fsync":
            assert status != 0
        if status == 0:
            assert zstandard.ZstdDecompressor().decompress(stored.read_bytes()) == data
        assert push(server) == 0
    assert (server.wal / FIRST.name).read_bytes() == data
