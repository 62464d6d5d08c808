"""Segments fetched ahead: taken when they are proven, and otherwise as if they were not there."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from pgbackup.archiving import fetched
from pgbackup.archiving import get as get_module
from pgbackup.archiving.command import ABSENT, DELIVERED, UNKNOWN
from pgbackup.archiving.fetched import AHEAD
from pgbackup.archiving.prefetch import Prefetch
from pgbackup.storage.durable import FileSystem
from tests.archiving.serverdir import (
    SYSTEM,
    ServerDirectory,
    segment,
    segment_data,
)
from tests.cli.program import run
from tests.waiting import wait_for

FIRST = segment(1)
SECOND = segment(2)


@pytest.fixture
def archive(server: ServerDirectory) -> dict[str, bytes]:
    """Have four segments in the archive; their contents."""
    contents = {segment(number).name: server.make(segment(number)) for number in range(1, 5)}
    for name in contents:
        assert server.push(name, "--spool", "") == 0
    return contents


def fetch(server: ServerDirectory, number: int = 1) -> None:
    """What the background process does, in this one."""
    assert not server.spool.exists() or server.spool.is_dir()
    server.spool.mkdir(mode=0o700, exist_ok=True)
    Prefetch(str(server.spool), str(server.repo)).fetch(segment(number).name)


def spooled(server: ServerDirectory) -> list[str]:
    """Names of the segments in the spool."""
    return sorted(path.name[:24] for path in server.spool.glob("fetched/*"))


def take(server: ServerDirectory, which: str) -> int:
    return server.get(which, "--prefetch")


def watch_archive(server: ServerDirectory, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of segments that are read from the archive from now on."""
    read: list[str] = []
    original = get_module.segment_content

    def observed(source: object, which: object) -> object:
        read.append(str(which))
        return original(source, which)  # type: ignore[arg-type]

    monkeypatch.setattr(get_module, "segment_content", observed)
    monkeypatch.setattr(fetched, "fetch_ahead", lambda spool, name, repo: None)
    return read


@pytest.mark.usefixtures("archive")
def test_the_following_segments_are_fetched_as_far_as_there_are_any(
    server: ServerDirectory,
) -> None:
    fetch(server)
    assert spooled(server) == [segment(number).name for number in (2, 3, 4)]


def test_a_segment_fetched_ahead_is_delivered_once(
    server: ServerDirectory, archive: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = watch_archive(server, monkeypatch)
    fetch(server)
    read.clear()
    assert take(server, SECOND.name) == DELIVERED
    assert read == []
    assert server.restored.read_bytes() == archive[SECOND.name]
    assert SECOND.name not in spooled(server)
    server.restored.unlink()
    assert take(server, SECOND.name) == DELIVERED
    assert read == [SECOND.name]
    assert server.restored.read_bytes() == archive[SECOND.name]


@pytest.mark.parametrize(
    "damage", ["cut", "changed", "another name", "empty", "a link", "open to others"]
)
def test_what_is_not_proven_is_fetched_again(
    server: ServerDirectory,
    archive: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    damage: str,
) -> None:
    fetch(server)
    read = watch_archive(server, monkeypatch)
    (path,) = server.spool.glob(f"fetched/{SECOND.name}.*")
    data = path.read_bytes()
    if damage == "cut":
        path.write_bytes(data[:-1])
    elif damage == "changed":
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif damage == "another name":
        (third,) = server.spool.glob(f"fetched/{segment(3).name}.*")
        third.rename(path.with_suffix(third.suffix))
        path.unlink(missing_ok=True)
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "a link":
        path.rename(server.path / "elsewhere")
        path.symlink_to(server.path / "elsewhere")
    else:
        server.spool.chmod(0o755)
    assert take(server, SECOND.name) == DELIVERED
    assert read == [SECOND.name]
    assert server.restored.read_bytes() == archive[SECOND.name]


def test_the_spool_of_another_cluster_or_repository_is_not_used(
    server: ServerDirectory, archive: dict[str, bytes]
) -> None:
    """The same names, the same spool directory, other content."""
    fetch(server)
    server.repo = server.repo.with_name("other")
    server.archive = server.repo / str(SYSTEM) / "wal"
    for number in range(1, 5):
        server.make(segment(number), seed=1)
        assert server.push(segment(number).name, "--spool", "") == 0
    assert take(server, SECOND.name) == DELIVERED
    assert server.restored.read_bytes() == segment_data(SECOND, 1) != archive[SECOND.name]


@pytest.mark.usefixtures("archive")
def test_what_was_absent_is_found_as_soon_as_it_is_there(server: ServerDirectory) -> None:
    fetch(server)
    assert take(server, segment(5).name) == ABSENT
    data = server.make(segment(5))
    assert server.push(segment(5).name, "--spool", "") == 0
    assert take(server, segment(5).name) == DELIVERED
    assert server.restored.read_bytes() == data


@pytest.mark.usefixtures("archive")
def test_a_damaged_segment_further_on_changes_no_answer(server: ServerDirectory) -> None:
    (server.archive / f"{segment(3).name}.zst").write_bytes(b"damaged")
    answer = run(
        server.path, *server.words("wal-get", "--timeout", "0", FIRST.name, "pg_wal/RECOVERYXLOG")
    )
    assert (answer.status, answer.err) == (DELIVERED, "")
    wait_for(lambda: spooled(server)[:1] == [SECOND.name])
    assert take(server, SECOND.name) == DELIVERED
    assert take(server, segment(3).name) == UNKNOWN


@pytest.mark.parametrize("obstacle", ["a file", "a link", "open to others"])
def test_without_a_safe_spool_segments_are_delivered_all_the_same(
    server: ServerDirectory, archive: dict[str, bytes], obstacle: str
) -> None:
    if obstacle == "a file":
        server.spool.write_text("")
    elif obstacle == "a link":
        server.spool.symlink_to(server.path)
    else:
        server.spool.mkdir(mode=0o777)
        server.spool.chmod(0o777)
    assert take(server, FIRST.name) == DELIVERED
    assert server.restored.read_bytes() == archive[FIRST.name]
    assert not list(server.path.glob(f"{SYSTEM}-*"))


def test_the_background_process_fetches_and_ends(
    server: ServerDirectory, archive: dict[str, bytes]
) -> None:
    words = server.words("wal-get", "--timeout", "0", FIRST.name, "pg_wal/RECOVERYXLOG")
    assert run(server.path, *words).status == DELIVERED
    wait_for(lambda: spooled(server) == [segment(number).name for number in (2, 3, 4)])
    wait_for(lambda: not holders(server.spool))
    for number in (2, 3, 4):
        assert take(server, segment(number).name) == DELIVERED
        assert server.restored.read_bytes() == archive[segment(number).name]


def holders(spool: Path) -> list[int]:
    """Processes other than this one that have a file of the spool open."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            links = [str(link.readlink()) for link in (process / "fd").iterdir()]
        except OSError:
            continue
        if any(link.startswith(str(spool)) for link in links) and process.name != str(os.getpid()):
            found.append(int(process.name))
    return found


@pytest.mark.usefixtures("archive")
@pytest.mark.parametrize("changed", ["pg_control", "repository"])
def test_what_was_fetched_for_another_place_is_not_delivered(
    server: ServerDirectory,
    archive: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    changed: str,
) -> None:
    """Of the light way alone, which reads neither of the two files whole."""
    fetch(server)
    if changed == "repository":
        identity = server.repo / "pgbackup.json"
        os.utime(identity, (1, 1))
    else:
        control = server.path / "global" / "pg_control"
        control.write_bytes(bytes(8) + control.read_bytes()[8:])
    target = str(server.restored)
    assert not fetched.take(str(server.spool), SECOND.name, target, str(server.repo))
    assert not server.restored.exists()


def test_a_spool_on_another_file_system_serves_too(
    server: ServerDirectory, archive: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch(server)
    read = watch_archive(server, monkeypatch)

    def refuse(self: object, existing: str, new: str, **_: object) -> None:
        if "fetched" in existing:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        Path(existing).rename(new)

    monkeypatch.setattr(FileSystem, "rename", refuse)
    assert take(server, SECOND.name) == DELIVERED
    assert read == []
    assert server.restored.read_bytes() == archive[SECOND.name]
    assert SECOND.name not in spooled(server)


def test_no_more_than_the_limit_lies_in_the_spool(server: ServerDirectory) -> None:
    for number in range(1, AHEAD + 5):
        server.make(segment(number))
        assert server.push(segment(number).name, "--spool", "") == 0
    fetch(server)
    assert len(spooled(server)) == AHEAD
    fetch(server, 4)
    assert spooled(server) == [segment(number).name for number in range(5, AHEAD + 5)]


@pytest.mark.usefixtures("archive")
def test_only_one_process_fetches(server: ServerDirectory) -> None:
    server.spool.mkdir(mode=0o700)
    with open(server.spool / "fetched.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert take(server, FIRST.name) == DELIVERED
        assert holders(server.spool) == []
    assert take(server, FIRST.name) == DELIVERED
    wait_for(lambda: len(spooled(server)) == 3)
