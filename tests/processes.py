"""The processes of a test server, read from /proc: found, killed, and waited for."""

import os
import select
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

NO_SUCH_PROCESS = 2**22 + 1
"""Above PID_MAX_LIMIT of 64-bit Linux."""

WAIT_FOR_DEATH = 30.0
"""Seconds that a killed process may take to be gone."""


def postmaster(pgdata: Path) -> int | None:
    """Process number of the live server of a data directory, or None.

    The number in postmaster.pid counts only if that process works in the directory: after a crash
    the file stays, and the number may by now be another's.
    """
    try:
        pid = int((pgdata / "postmaster.pid").read_text().split("\n", 1)[0])
        home = Path(f"/proc/{pid}/cwd").readlink()
    except (OSError, ValueError):
        return None
    return pid if home == pgdata.resolve() else None


def kill_tree(pid: int) -> None:
    """Kill a process and everything below it, and wait until all are gone."""
    send(pid, signal.SIGSTOP)
    family = [pid, *descendants(pid)]
    watched = [watch for member in family if (watch := open_pidfd(member)) is not None]
    try:
        for member in family:
            send(member, signal.SIGKILL)
        for watch in watched:
            wait_for_death(watch)
    finally:
        for watch in watched:
            os.close(watch)


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process that may have ended."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def open_pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def wait_for_death(watch: int) -> None:
    """Wait for the process behind a pidfd: it becomes readable at the end."""
    poll = select.poll()
    poll.register(watch, select.POLLIN)
    if not poll.poll(WAIT_FOR_DEATH * 1000):
        raise TimeoutError(f"a killed process is still there after {WAIT_FOR_DEATH} s")


def forget_dead_server(pgdata: Path, run_directory: Path) -> None:
    """Let the lock files of a killed server name a process that cannot exist.

    A killed server stays a zombie until process 1 waits for it: seconds later, in a container
    often never. Until then the next server takes it for alive. After a crash of the machine,
    which the kill stands for, there would be no such process either.
    """
    if postmaster(pgdata) is not None:
        return
    for path in (pgdata / "postmaster.pid", *run_directory.glob(".s.PGSQL.*.lock")):
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join([f"{NO_SUCH_PROCESS}\n", *lines[1:]]))


def descendants(pid: int) -> list[int]:
    """All processes below one, parents first."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(entry.read_text().rsplit(")", 1)[1].split()[1])
        except (OSError, IndexError):
            continue
        children.setdefault(parent, []).append(int(entry.parent.name))
    found, level = [], [pid]
    while level:
        level = [child for parent in level for child in children.get(parent, [])]
        found += level
    return found


def remove_shared_memory(pgdata: Path) -> None:
    """Remove the System V segment that a killed server left; postmaster.pid names it."""
    if postmaster(pgdata) is not None:
        return
    try:
        lines = (pgdata / "postmaster.pid").read_text().splitlines()
    except OSError:
        return
    if len(lines) > 6 and len(lines[6].split()) == 2:
        subprocess.run(["ipcrm", "-m", lines[6].split()[1]], stderr=subprocess.DEVNULL, check=False)
