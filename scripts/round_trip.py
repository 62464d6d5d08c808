"""Back up a throwaway server, verify, restore, start the copy and compare: what quickstart shows.

Started by scripts/quickstart in the project's virtual environment. Prints every pgbackup command
with its output. However it ends, both servers are gone and so is its directory, except for the
repository after --keep. Ends with 1 if a command failed or any row differs.
"""

import argparse
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.account import program_environment
from tests.binaries import INSTALL_SCRIPT, MAJORS, find_server, server_version
from tests.cluster import Cluster, ClusterError, MissingProgram

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
TABLESPACE = "archive"
TABLES = """
CREATE TABLE accounts (id bigint PRIMARY KEY, owner text NOT NULL, balance numeric NOT NULL);
CREATE TABLE documents (id int PRIMARY KEY, body text NOT NULL);
CREATE TABLE history (id bigint PRIMARY KEY, account bigint, at timestamptz, note text)
    TABLESPACE archive;
INSERT INTO accounts SELECT n, 'owner ' || n, (n * 7919) % 100000 FROM generate_series(1, 200000) n;
INSERT INTO documents SELECT n, (SELECT string_agg(md5(random()::text), '')
    FROM generate_series(1, 400 + n % 2)) FROM generate_series(1, 500) n;
INSERT INTO history SELECT n, n % 200000, now(), md5(n::text) FROM generate_series(1, 100000) n;
UPDATE accounts SET balance = balance + 1 WHERE id % 10 = 0;
"""
LIST_TABLES = """
SELECT relname, coalesce(spcname, 'pg_default') FROM pg_class
LEFT JOIN pg_tablespace ON pg_tablespace.oid = reltablespace
WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' ORDER BY relname
"""
CHECKSUM = """SELECT count(*), md5(string_agg(md5(t::text), '' ORDER BY ctid)) FROM "{}" AS t"""
NEXT = """\
Next, with a server of your own (a role with the REPLICATION attribute; add -h, -p, -U as for psql):

    . {activate}
    pgbackup backup -c fast
    pgbackup list
    pgbackup verify
    pgbackup restore -D ./restored

The repository of these commands is ./pgbackup-repo; -B or PGBACKUP_REPO names another.
"""

Contents = dict[str, tuple[str, int, str]]
"""Name of a table -> tablespace, number of rows, checksum of all rows."""


class Failed(Exception):
    """One sentence for the person at the terminal."""


class Stopped(BaseException):
    """A signal asked us to end."""

    def __init__(self, number: int) -> None:
        self.number = number


def main() -> int:
    parser = argparse.ArgumentParser(prog="quickstart", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="keep the repository")
    arguments = parser.parse_args()
    for number in SIGNALS:
        signal.signal(number, stop)
    try:
        with scratch_directory(arguments.keep) as scratch:
            show(scratch)
    except (Failed, ClusterError, MissingProgram, OSError) as error:
        print(f"quickstart: {error}", file=sys.stderr)
        return 1
    except Stopped as stopped:
        print("quickstart: interrupted; nothing is left running", file=sys.stderr)
        return 128 + stopped.number
    print(NEXT.format(activate=readable(Path(sys.executable).with_name("activate"))))
    return 0


def stop(number: int, _frame: FrameType | None) -> None:
    """End in order at the first signal; more of them must not disturb that."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise Stopped(number)


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Let no signal into the block, nor into programs it starts: a server would be half made."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def scratch_directory(keep: bool) -> Iterator[Path]:
    """A temporary directory that goes, but for the repository if that is to be kept."""
    scratch = Path(tempfile.mkdtemp(prefix="pgbackup-quickstart-"))
    try:
        yield scratch
    finally:
        with signals_blocked():
            for entry in scratch.iterdir():
                if not (keep and entry.name == "repo"):
                    shutil.rmtree(entry)
            if keep and (scratch / "repo").exists():
                print(f"The repository is kept: {scratch / 'repo'}", flush=True)
            else:
                scratch.rmdir()


def show(scratch: Path) -> None:
    """Take the whole tour."""
    major = choose_major()
    began = time.monotonic()
    say(f"Start a throwaway server, PostgreSQL {server_version(major)}, and fill it")
    with server(lambda: Cluster.create(scratch / "original", major, wal_segsize_mb=16)) as original:
        tablespace = original.account.make_directory(scratch / "tablespace")
        original.sql(f"CREATE TABLESPACE {TABLESPACE} LOCATION '{tablespace}'")
        original.sql(TABLES)
        expected = contents(original)
        rows = sum(rows for _, rows, _ in expected.values())
        print(f"{len(expected)} tables, {rows} rows, one table in a tablespace", flush=True)
        back_up(original, scratch / "repo")
        restored = restore(scratch, tablespace)
        say("Start the restored server beside the original, and compare")
        with server(lambda: Cluster.open_existing(restored, major)) as copy:
            compare(expected, contents(original), contents(copy))
            check_tablespace(copy, scratch / "restored-tablespace")
    say(f"Done in {time.monotonic() - began:.0f} s: the restored data equal the original's")


def choose_major() -> int:
    """Newest major on this machine, else install what Debian has, else the newest there is."""
    installed = [major for major in MAJORS if find_server(major)]
    if installed:
        return installed[-1]
    major = debian_major() or MAJORS[-1]
    say(f"Install PostgreSQL {major}")
    subprocess.run([sys.executable, INSTALL_SCRIPT, str(major)], check=False)
    if find_server(major) is None:
        raise Failed("there is no PostgreSQL here: type 'sudo apt-get install postgresql'")
    return major


def debian_major() -> int | None:
    """Major of Debian's postgresql package, where we may install it."""
    if os.geteuid() != 0 or shutil.which("apt-cache") is None:
        return None
    if not any(Path("/var/lib/apt/lists").glob("*_Packages*")):
        subprocess.run(["apt-get", "-q", "update"], stdout=subprocess.DEVNULL, check=False)
    answer = subprocess.run(
        ["apt-cache", "policy", "postgresql"], capture_output=True, text=True, check=False
    )
    found = re.search(r"Candidate: (\d+)", answer.stdout)
    return int(found[1]) if found and int(found[1]) in MAJORS else None


@contextmanager
def server(make: Callable[[], Cluster]) -> Iterator[Cluster]:
    """A started server for the length of the block."""
    with ExitStack() as stack:
        with signals_blocked():
            cluster = make()
            stack.callback(close, cluster)
            cluster.start()
        yield cluster


def close(cluster: Cluster) -> None:
    with signals_blocked():
        cluster.close()


def back_up(original: Cluster, repo: Path) -> None:
    say("Back it up, look at the backup, and read all of it again")
    pgbackup(
        "backup", "-h", original.run_directory, "-p", original.port, "-U", "postgres",
        "-B", repo, "-c", "fast",
    )  # fmt: skip
    pgbackup("list", "-B", repo)
    pgbackup("verify", "-B", repo)


def restore(scratch: Path, tablespace: Path) -> Path:
    """Restore to a second directory, and tell where that is."""
    say("Restore it, with its tablespace in another place")
    directory = scratch / "restored"
    moved = f"{tablespace}={scratch / 'restored-tablespace'}"
    pgbackup("restore", "latest", "-B", scratch / "repo", "-D", directory, "-T", moved)
    return directory


def pgbackup(*arguments: str | Path | int) -> None:
    """Print a pgbackup command and run it."""
    installed = Path(sys.executable).with_name("pgbackup")
    program = [readable(installed)] if installed.exists() else [sys.executable, "-m", "pgbackup"]
    words = [*program, *(str(word) for word in arguments)]
    print("$", shlex.join(words), flush=True)
    done = subprocess.run(words, env=program_environment(), stdin=subprocess.DEVNULL, check=False)
    if done.returncode != 0:
        raise Failed(f"pgbackup {arguments[0]} ended with {done.returncode}")


def contents(cluster: Cluster) -> Contents:
    """Checksum of every row of every table."""
    found = {}
    for table, tablespace in cluster.sql(LIST_TABLES):
        ((rows, checksum),) = cluster.sql(CHECKSUM.format(table))
        found[table] = (tablespace, rows, checksum)
    return found


def compare(before: Contents, after: Contents, restored: Contents) -> None:
    """Print what was compared. Raises: Failed."""
    print(f"{'TABLE':12}{'ROWS':>8}  {'ORIGINAL':34}RESTORED")
    nothing = ("", 0, "no such table")
    for table in sorted(before | restored):
        _, rows, checksum = before.get(table, nothing)
        print(f"{table:12}{rows:8}  {checksum:34}{restored.get(table, nothing)[2]}", flush=True)
    if after != before:
        raise Failed("the original changed meanwhile, though nobody wrote to it")
    if restored != before:
        raise Failed("THE RESTORED DATA DIFFER from the original: see above")


def check_tablespace(copy: Cluster, expected: Path) -> None:
    """Prove that the copy uses its own tablespace. Raises: Failed."""
    ((location,),) = copy.sql(
        f"SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = '{TABLESPACE}'"
    )
    if location != str(expected):
        raise Failed(f"the restored tablespace lies in {location} instead of {expected}")


def say(text: str) -> None:
    print(f"\n== {text}", flush=True)


def readable(path: Path) -> str:
    """A path as a person in the current directory would type it."""
    path = path.absolute()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


if __name__ == "__main__":
    sys.exit(main())
