"""The life of one test server: configured, started, stopped, killed, and gone at the end.

It listens on a Unix socket in a private directory, trusts whoever gets there, and never syncs.
What is said to a running server is in tests/cluster.py.
"""

import os
import shlex
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

from tests import processes
from tests.account import Account, ClusterError
from tests.binaries import MissingProgram, client_bin, server_bin

Setting = str | int | bool
Settings = Mapping[str, Setting]
StopMode = Literal["smart", "fast", "immediate"]

SOCKET_PORT = 5432
MAX_SOCKET_DIRECTORY = 107 - len("/.s.PGSQL.65535.lock")


class Postmaster:
    """One server process and its data directory.

    settings: for the command line of the server, so that they beat every file.
    own_run_directory: the run directory lies outside the cluster's and goes when it is closed.
    """

    def __init__(
        self,
        pgdata: Path,
        major: int,
        run_directory: Path,
        account: Account,
        *,
        tcp: bool = False,
        settings: Settings | None = None,
        own_run_directory: bool = False,
    ) -> None:
        self.pgdata = pgdata
        self.major = major
        self.run_directory = run_directory
        self.account = account
        self.tcp = tcp
        self.port = free_port() if tcp else SOCKET_PORT
        self.settings = dict(settings or {})
        self._own_run_directory = own_run_directory
        self._clients: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def close(self) -> None:
        """End the server and its clients at once, whatever state they are in."""
        for client in self._clients:
            client.kill()
            client.wait()
            if client.stdout is not None:
                client.stdout.close()
        try:
            self.stop("immediate")
        except ClusterError:
            self.kill9()
        processes.remove_shared_memory(self.pgdata)
        if self._own_run_directory:
            shutil.rmtree(self.run_directory, ignore_errors=True)

    @property
    def pid(self) -> int | None:
        """Process number of the running postmaster, or None."""
        return processes.postmaster(self.pgdata)

    @property
    def running(self) -> bool:
        return self.pid is not None

    def start(self, timeout: int = 60) -> None:
        """Start the server and wait until it takes connections.

        timeout: seconds.
        Raises:
            ClusterError: it ended, or was not ready in time; with the tail of its log.
        """
        settings: Settings = {
            "unix_socket_directories": str(self.run_directory),
            "listen_addresses": "127.0.0.1" if self.tcp else "",
            "port": self.port,
            "fsync": False,
            "dynamic_shared_memory_type": "mmap",
            "logging_collector": False,
            **self.settings,
        }
        words = " ".join(
            f"-c {shlex.quote(f'{name}={setting_text(value)}')}" for name, value in settings.items()
        )
        self._pg_ctl("start", "-l", self.log_file, "-o", words, timeout=timeout)

    def stop(self, mode: StopMode = "fast", timeout: int = 60) -> None:
        """Stop the server and wait for its end; a stopped one stays stopped.

        timeout: seconds.
        """
        if self.running:
            self._pg_ctl("stop", "-m", mode, timeout=timeout)

    def restart(self, mode: StopMode = "fast") -> None:
        """Stop and start."""
        self.stop(mode)
        self.start()

    def kill9(self) -> None:
        """Kill all processes of the server at once, as a crash of the machine would."""
        pid = self.pid
        if pid is not None:
            processes.kill_tree(pid)
            processes.forget_dead_server(self.pgdata, self.run_directory)

    def promote(self) -> None:
        """Promote a standby and wait until it is a primary."""
        self._pg_ctl("promote")

    def reload(self) -> None:
        """Let the server read its configuration again."""
        self._pg_ctl("reload")

    def configure(self, settings: Settings) -> None:
        """Add settings to postgresql.conf; restart or reload makes them count."""
        with open(self.pgdata / "postgresql.conf", "a") as file:
            for name, value in settings.items():
                quoted = setting_text(value).replace("'", "''")
                file.write(f"{name} = '{quoted}'\n")

    def _pg_ctl(self, action: str, *arguments: str | Path, timeout: int = 60) -> None:
        wait = () if action == "reload" else ("-w", "-t", str(timeout))
        try:
            self.account.run(
                self.bin("pg_ctl"), "-D", self.pgdata, "-s", *wait, *arguments, action,
                timeout=timeout + 30,
            )  # fmt: skip
        except ClusterError as error:
            raise ClusterError(f"{error}\n{self.log_tail()}") from error

    @property
    def log_file(self) -> Path:
        return self.run_directory / "server.log"

    @property
    def log(self) -> str:
        """The server's log since the cluster was made or opened."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def log_tail(self, lines: int = 40) -> str:
        """Last lines of the log."""
        return "\n".join(self.log.splitlines()[-lines:])

    def bin(self, name: str) -> Path:
        """Path of a program of this server's own major."""
        try:
            return server_bin(name, self.major)
        except MissingProgram:
            return client_bin(name, self.major)


def make_run_directory(wanted: Path | None, account: Account) -> tuple[Path, bool]:
    """Private directory for socket and log, and whether it is a temporary one.

    wanted: taken; it becomes a link to the temporary one if its path is too long for a socket.
    """
    if wanted is not None and len(os.fsencode(wanted.absolute())) <= MAX_SOCKET_DIRECTORY:
        return account.make_directory(wanted.absolute()), False
    directory = Path(tempfile.mkdtemp(prefix="pgb-run-"))
    account.give(directory)
    if wanted is not None:
        wanted.symlink_to(directory)
    return directory, True


def setting_text(value: Setting) -> str:
    """A setting as PostgreSQL writes it, unquoted."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)


def free_port() -> int:
    """A port of the loopback address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
