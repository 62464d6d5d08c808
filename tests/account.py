"""Who the test servers run as: PostgreSQL refuses to run as root.

An ordinary user runs them himself. Root runs them as an unprivileged account, which must then own
the data directories and be able to reach them. Or, on request, root runs them under his own files
in a user namespace that calls him by another number: see Account.for_servers.
"""

import os
import pwd
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ACCOUNTS = ("postgres", "nobody")
MEMORY = Path("/dev/shm")
MEMORY_NEEDED = 4 << 30
"""Free bytes above which test clusters lie in memory."""
CALLER_NAMESPACE = ("unshare", "--user", "--map-user=1000", "--map-group=1000", "--")


class ClusterError(Exception):
    """A test server did not do what it was told; the text holds the tail of its log."""


@dataclass(frozen=True, slots=True)
class Account:
    """Who runs the programs of a server. uid and gid None: the caller."""

    uid: int | None = None
    gid: int | None = None
    prefix: tuple[str, ...] = ()

    @classmethod
    def for_servers(cls, as_caller: bool = False) -> "Account":
        """Account for a new server.

        as_caller: when root, use a user namespace instead of another account. What the server
        runs (archive_command, restore_command) can then use the caller's Python and files.
        """
        if os.geteuid() != 0:
            return cls()
        if as_caller:
            return cls(prefix=CALLER_NAMESPACE)
        for name in ACCOUNTS:
            try:
                entry = pwd.getpwnam(name)
            except KeyError:
                continue
            return cls(entry.pw_uid, entry.pw_gid)
        raise ClusterError(f"no account to run a server as: none of {', '.join(ACCOUNTS)} exists")

    def run(
        self, *command: str | Path, timeout: float = 120, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a program as this account, without the caller's PG* variables.

        timeout: seconds.
        Raises:
            ClusterError: it failed, or did not end in time.
        """
        words = [*self.prefix, *(str(word) for word in command)]
        try:
            done = subprocess.run(
                words, user=self.uid, group=self.gid,
                extra_groups=None if self.uid is None else [],
                cwd="/", env=program_environment(), stdin=subprocess.DEVNULL,
                capture_output=True, text=True, check=False, timeout=timeout,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise ClusterError(f"'{' '.join(words)}' did not end in {timeout} s") from error
        if check and done.returncode != 0:
            output = (done.stdout + done.stderr).strip()
            raise ClusterError(f"'{' '.join(words)}' failed ({done.returncode}): {output}")
        return done

    def give(self, path: Path) -> None:
        """Make the account owner of a file or tree, tablespaces included, and let it get there."""
        if self.uid is None or self.gid is None:
            return
        for member in walk_with_tablespaces(path):
            os.chown(member, self.uid, self.gid, follow_symlinks=False)
        self._open_way(path.resolve())

    def make_directory(self, path: Path) -> Path:
        """Make a private directory of the account's own, such as the place of a tablespace."""
        path.mkdir(mode=0o700, parents=True)
        self.give(path)
        return path

    def _open_way(self, path: Path) -> None:
        """Let the account pass through the directories above, below the temporary directory."""
        temporary = {Path(tempfile.gettempdir()).resolve(), MEMORY, cluster_space()}
        for directory in path.parents:
            status = directory.stat()
            if status.st_uid == self.uid or status.st_mode & stat.S_IXOTH:
                continue
            if not temporary & set(directory.parents):
                raise ClusterError(
                    f"{directory} is closed to the account that servers run as when root "
                    f"starts them: choose a directory under {tempfile.gettempdir()}"
                )
            directory.chmod(stat.S_IMODE(status.st_mode) | stat.S_IXOTH)


def cluster_space() -> Path:
    """Directory for test clusters: $PGBACKUP_TEST_SPACE, else memory if there is plenty, else /tmp.

    In memory the thousand files of a new cluster cost a tenth of the time.
    """
    chosen = os.environ.get("PGBACKUP_TEST_SPACE")
    if chosen:
        return Path(chosen).resolve()
    if os.access(MEMORY, os.W_OK):
        space = os.statvfs(MEMORY)
        if space.f_bavail * space.f_frsize >= MEMORY_NEEDED:
            return MEMORY
    return Path(tempfile.gettempdir()).resolve()


def program_environment() -> Mapping[str, str]:
    """The environment without PG* variables, which would lead programs to other servers."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return kept | {name: value for name, value in os.environ.items() if "PGBACKUP" in name}


def walk_with_tablespaces(path: Path) -> Iterator[Path]:
    """Yield a path, what is below it, and what its pg_tblspc links lead to."""
    yield path
    if path.is_symlink() or not path.is_dir():
        return
    for directory, directories, files in os.walk(path):
        for name in directories + files:
            member = Path(directory, name)
            yield member
            if member.is_symlink() and member.parent.name == "pg_tblspc" and member.is_dir():
                yield from walk_with_tablespaces(member.resolve())
